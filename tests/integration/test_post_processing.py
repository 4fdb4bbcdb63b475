"""What a gateway does to bytes itself is told wherever they go; real gateways, every front."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qrng_client import AsyncEntropyClient, Processing
from qrng_gateway.pool.conditioning import Sha256
from qrng_grpc.chunk import BlockLabel
from qrng_grpc.compat.qr_entropy_pb2 import EntropyRequest
from qrng_grpc.compat.quantum_rng_pb2 import RandomRequest
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, StreamEntropyRequest, SubscribeEntropyRequest
from qrng_grpc.wire import PROCESSINGS
from tests.integration.fronts import Front, open_front
from tests.integration.test_signing_keys import gateway_with, hmac_record, put

SHA256: dict[str, Any] = {"post_processing": "sha256", "entropy_per_byte": 8}
XOR_OS: dict[str, Any] = {"post_processing": "xor-os"}
PART_BYTES = 40
"""What one output of 32 bytes takes in at 8 bits a byte."""
CHUNKS = 3


@dataclass(frozen=True)
class Told:
    """What the fronts said of the bytes each of them handed out."""

    said: dict[str, str]
    data: bytes


async def told_by_all(front: Front, http: aiohttp.ClientSession, size: int) -> Told:
    """Read `size` bytes at every front, one after the other."""
    key, data, said = front.key, b"", {}

    def named(reply: Any) -> str:
        processing = PROCESSINGS.from_proto(reply.processing)
        assert processing is not None
        return processing.value

    unary = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=size), metadata=key)
    subscription = SubscribeEntropyRequest(bytes_per_message=size, total_bytes=size)
    (subscribed,) = [reply async for reply in front.entropy.SubscribeEntropy(subscription, metadata=key)]
    requests = iter([StreamEntropyRequest(bytes_needed=size)])
    (streamed,) = [reply async for reply in front.entropy.StreamEntropy(requests, metadata=key)]
    for name, reply in (("unary", unary), ("subscribed", subscribed), ("streamed", streamed)):
        said[name], data = named(reply), data + reply.data
    for name, call in (
        ("qr_entropy", front.qr_entropy.GetEntropy(EntropyRequest(bytes_needed=size), metadata=key)),
        ("qrng", front.quantum_rng.GetRandomBytes(RandomRequest(num_bytes=size), metadata=key)),
    ):
        data += (await call).data
        said[name] = dict(await call.trailing_metadata())["qrng-processing"]
    url, headers = f"{front.gateway.rest_url}/api/random?bytes={size}&encoding=raw", dict([("api-key", key[0][1])])
    async with http.get(url, headers=headers) as response:
        data += await response.read()
        said["rest"] = response.headers["X-QRNG-Processing"]
    return Told(said, data)


@asynccontextmanager
async def processing_front(**settings: Any) -> AsyncIterator[Front]:
    async with running_gateway(max_wait=0, **settings) as gateway, open_front(gateway) as opened:
        yield opened


@pytest.mark.parametrize(
    ("settings", "collected", "served"),
    [
        ({}, Processing.NONE, "none"),
        ({}, Processing.MIXED, "mixed"),
        (SHA256, Processing.NONE, "sha256"),
        (SHA256, Processing.MIXED, "mixed_sha256"),
        (XOR_OS, Processing.NONE, "xor_os"),
        (XOR_OS, Processing.MIXED, "mixed_xor_os"),
    ],
)
async def test_every_front_says_what_was_done(
    http: aiohttp.ClientSession, settings: dict[str, Any], collected: Processing, served: str
) -> None:
    """Over gRPC, in the trailers of older services and in the header of REST, for bytes of one chunk or of several."""
    label = BlockLabel(("device",), SourceClass.OPERATING_SYSTEM, collected)
    async with processing_front(**settings) as front:
        for _ in range(20 * CHUNKS):
            await front.gateway.push(os.urandom(10 * PART_BYTES), label=label)
        for size in (100, 1000):
            told = await told_by_all(front, http, size)
            assert told.said == dict.fromkeys(told.said, served)
            assert len(told.data) == 6 * size


async def test_a_client_may_demand_a_processing() -> None:
    """Bytes of the processing that a gateway does are there for who asks for it, and others never will be."""
    async with (
        processing_front(**SHA256) as front,
        AsyncEntropyClient(front.gateway.client_address, api_key=front.gateway.api_key) as client,
    ):
        await front.gateway.push(os.urandom(10 * PART_BYTES))
        entropy = await client.get(32, processing=Processing.SHA256)
        assert entropy.processing is Processing.SHA256
        with pytest.raises(InvalidRequestError) as refused:
            await client.get(32, processing=Processing.NONE)
        (lane,) = (await client.status()).lanes
    assert refused.value.field == "processing"
    assert lane.processing is Processing.SHA256


async def test_conditioning_is_sha256_of_every_byte() -> None:
    """What is served is the hash of the parts of a chunk in their order, and nothing else of it is."""
    data = os.urandom(10 * PART_BYTES + 7)
    async with (
        processing_front(**SHA256) as front,
        AsyncEntropyClient(front.gateway.client_address, api_key=front.gateway.api_key) as client,
    ):
        await front.gateway.push(data)
        entropy = await client.get(320, provenance=True)
        accounting = (await client.status()).accounting
    ends = [len(data) * index // 10 for index in range(11)]
    parts = [data[start:end] for start, end in pairwise(ends)]
    assert entropy.data == b"".join(hashlib.sha256(part).digest() for part in parts) == Sha256(8)(data)
    assert [(one.offset, one.size) for one in entropy.provenance] == [(0, 320)]
    assert (accounting.stored_bytes, accounting.served_bytes) == (len(data), 320)
    assert accounting.conditioned_bytes == len(data) - 320


async def test_xor_with_the_operating_system_uses_up_nothing() -> None:
    """As many bytes are served as came, and none of their words is one that came."""
    data = os.urandom(4096)
    async with (
        processing_front(**XOR_OS) as front,
        AsyncEntropyClient(front.gateway.client_address, api_key=front.gateway.api_key) as client,
    ):
        await front.gateway.push(data)
        served = (await client.get(4096)).data
        accounting = (await client.status()).accounting
    words = {data[start : start + 8] for start in range(0, 4096, 8)}
    assert words.isdisjoint(served[start : start + 8] for start in range(0, 4096, 8))
    assert (accounting.stored_bytes, accounting.served_bytes, accounting.conditioned_bytes) == (4096, 4096, 0)


async def test_a_chunk_too_small_to_condition_is_used_up_whole() -> None:
    """It is stored and conditioned in the books; a claim does not find it."""
    async with (
        processing_front(**SHA256) as front,
        AsyncEntropyClient(front.gateway.client_address, api_key=front.gateway.api_key) as client,
    ):
        assert await front.gateway.push(os.urandom(PART_BYTES - 1)) == 1
        accounting = (await client.status()).accounting
    assert (accounting.stored_bytes, accounting.conditioned_bytes) == (PART_BYTES - 1, PART_BYTES - 1)
    assert accounting.pooled_bytes == 0


async def test_what_a_withdrawn_key_vouched_for_is_in_the_books_once(tmp_path: Path) -> None:
    """What is left of it is purged, less what was set aside and used up before; the reservoir keeps none of it."""
    file = tmp_path / "keys.yaml"
    put(file, hmac_record("old"))
    async with gateway_with(file, quality_reservoir_size=1 << 20, **SHA256) as gateway:
        assert await gateway.push(os.urandom(100_000)) == 1
        put(file, hmac_record("old", revoked=True), hmac_record("new"))
        gateway.gateway.reload()
        books = gateway.gateway.accounting()
    assert (books.stored, books.set_aside, books.served, books.pooled) == (100_000, 1000, 0, 0)
    assert books.conditioned == 99_000 - 99_000 // PART_BYTES * 32
    assert books.purged == books.stored - books.set_aside - books.conditioned
