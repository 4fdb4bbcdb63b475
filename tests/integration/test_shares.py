"""What one client leaves to the others, and what no client can ever have."""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp
import grpc.aio
import pytest

from qrng_grpc.chunk import MAX_PROVENANCE_BYTES
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, Limits, changing_client_file, digest_of
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, StreamEntropyRequest, SubscribeEntropyRequest
from tests.integration.fronts import open_front, refused

KEY, OTHER = "key-of-the-sampler", "key-of-somebody-else"


def write(file: Path, client: Client) -> None:
    with changing_client_file(file) as records:
        records[:] = [ClientRecord(client, (KeyDigest(digest_of(KEY)),))]


async def test_one_client_leaves_streams_for_others() -> None:
    """Without a number in its record a client holds half of the streams there are, and no more."""
    async with running_gateway(api_keys=(KEY, OTHER), max_streams=8) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(64))

        async def opened(key: str) -> grpc.aio.StreamStreamCall:
            call = front.entropy.StreamEntropy(metadata=(("api-key", key),))
            await call.write(StreamEntropyRequest(bytes_needed=1))
            return call

        calls = [await opened(KEY) for _ in range(4)]
        for call in calls:
            assert len((await call.read()).data) == 1
        refusal = await refused(front.entropy.StreamEntropy(iter(()), metadata=(("api-key", KEY),)))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        calls.append(await opened(OTHER))
        assert len((await calls[-1].read()).data) == 1
        for call in calls:
            call.cancel()


async def test_more_than_the_quota_of_a_day_is_a_mistake_and_not_a_wait(tmp_path: Path) -> None:
    """What can never be had is refused as such, on every front, naming the field; nobody is told to come back."""
    file = tmp_path / "clients.yaml"
    write(file, Client("small", limits=Limits(bytes_per_day=1000)))
    key = (("api-key", KEY),)
    async with running_gateway(api_keys_file=file) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(4096))
        subscription = SubscribeEntropyRequest(bytes_per_message=1001)
        for call, field in (
            (front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=1001), metadata=key), "bytes_needed"),
            (front.entropy.SubscribeEntropy(subscription, metadata=key), "bytes_per_message"),
        ):
            refusal = await refused(call)
            assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
            assert refusal.retry_s is None
        async with (
            aiohttp.ClientSession(headers={"api-key": KEY}) as http,
            http.get(f"{gateway.rest_url}/api/random?bytes=1001") as response,
        ):
            assert response.status == 400
            assert (await response.json())["error"]["field"] == "bytes"
            assert "Retry-After" not in response.headers
        whole = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=1000), metadata=key)
        assert len(whole.data) == 1000


async def test_a_reply_with_provenance_is_bounded() -> None:
    """However small its chunks were, a reply that tells of each stays below the 4 MiB of an untold client."""
    async with running_gateway(buffer_size=1 << 21) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(1 << 20))
        for _ in range(200):
            await gateway.push(os.urandom(8))
        too_much = GetEntropyRequest(bytes_needed=MAX_PROVENANCE_BYTES + 1, include_provenance=True)
        refusal = await refused(front.entropy.GetEntropy(too_much, metadata=front.key))
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "bytes_needed")
        assert gateway.gateway.accounting().served == 0
        most = GetEntropyRequest(bytes_needed=MAX_PROVENANCE_BYTES, include_provenance=True)
        reply = await front.entropy.GetEntropy(most, metadata=front.key)
        assert sum(one.size_bytes for one in reply.provenance) == MAX_PROVENANCE_BYTES


@pytest.mark.parametrize(
    ("client", "words"),
    [
        (Client("small", reserved_bytes=1 << 40), "1099511627776 bytes are reserved"),
        (Client("strict", least_class=SourceClass.QUANTUM), "client strict can never be served"),
    ],
)
async def test_what_a_record_promises_in_vain_is_among_the_warnings(tmp_path: Path, client: Client, words: str) -> None:
    """More than can be kept, or better than any key may claim, is told in status from the change of the file on."""
    file = tmp_path / "clients.yaml"
    write(file, Client(client.client_id))
    async with running_gateway(api_keys_file=file) as gateway:
        assert not any(words in warning for warning in gateway.gateway.observer.status().warnings)
        write(file, client)
        gateway.gateway.reload()
        assert any(words in warning for warning in gateway.gateway.observer.status().warnings)
