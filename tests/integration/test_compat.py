"""Services already in the field, down to the bytes on the wire."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from qrng_grpc.chunk import BlockLabel
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, changing_client_file, digest_of
from qrng_grpc.compat.qr_entropy_pb2 import EntropyRequest, EntropyResponse
from qrng_grpc.compat.quantum_rng_pb2 import RandomRequest, RandomResponse
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.gateway import running_gateway
from tests.integration.fronts import Front, open_front, refused

pytestmark = pytest.mark.usefixtures("engine")

QR_ENTROPY = "/qr_entropy.EntropyService/GetEntropy"
QUANTUM_RNG = "/qrng.QuantumRNG/GetRandomBytes"


@pytest.mark.parametrize("method", [QR_ENTROPY, QUANTUM_RNG])
@pytest.mark.parametrize(
    ("request_hex", "size"), [("0801", 1), ("0880a001", 20480), ("088068", 13312), ("0801088001", 128)]
)
async def test_the_bytes_that_clients_in_the_field_send_are_understood(
    front: Front, method: str, request_hex: str, size: int
) -> None:
    """Field 1 as a varint is the size, and of several the last counts, in both services."""
    data = os.urandom(size)
    await front.gateway.push(data)
    serialised = await front.channel.unary_unary(method)(bytes.fromhex(request_hex), metadata=front.key)
    reply = (EntropyResponse if method == QR_ENTROPY else RandomResponse).FromString(serialised)
    assert reply.data == data


@pytest.mark.parametrize("method", [QR_ENTROPY, QUANTUM_RNG])
@pytest.mark.parametrize("request_hex", ["", "0800", "08ffffffffffffffffff01", "08818040"])
async def test_sizes_out_of_range_on_the_wire_are_refused(front: Front, method: str, request_hex: str) -> None:
    """The empty message (0 bytes), a ten-byte negative varint and one byte too many are bad arguments."""
    await front.gateway.push(os.urandom(2 << 20))
    call = front.channel.unary_unary(method)(bytes.fromhex(request_hex), metadata=front.key)
    refusal = await refused(call)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.field == ("bytes_needed" if method == QR_ENTROPY else "num_bytes")


async def test_qr_entropy_echoes_the_commitment_nonce(front: Front) -> None:
    """sequence_id comes back verbatim, any int64; the time is nanoseconds, the device is named."""
    await front.gateway.push(os.urandom(100))
    for nonce in (0, 1, -1, -(2**63), 2**63 - 1):
        request = EntropyRequest(bytes_needed=4, sequence_id=nonce)
        reply = await front.qr_entropy.GetEntropy(request, metadata=front.key)
        assert reply.sequence_id == nonce
        assert reply.device_id == "test-device"
        assert 0 <= front.gateway.clock.now_ns() - reply.generation_timestamp_ns < 60e9


async def test_quantum_rng_tells_microseconds(front: Front) -> None:
    """The time of the capture is in microseconds there."""
    await front.gateway.push(os.urandom(100), capture_start_ns=front.gateway.clock.now_ns())
    reply = await front.quantum_rng.GetRandomBytes(RandomRequest(num_bytes=4), metadata=front.key)
    assert 0 <= front.gateway.clock.now_ns() // 1000 - reply.timestamp < 60e6
    assert reply.device_id == "test-device"


@pytest.mark.parametrize("service", ["qr_entropy", "quantum_rng"])
async def test_what_the_bytes_are_travels_beside_the_reply(front: Front, service: str) -> None:
    """The trailers of a unary call carry the labels its reply has no room for."""
    await front.gateway.push(os.urandom(100))
    call: Any = (
        front.qr_entropy.GetEntropy(EntropyRequest(bytes_needed=4), metadata=front.key)
        if service == "qr_entropy"
        else front.quantum_rng.GetRandomBytes(RandomRequest(num_bytes=4), metadata=front.key)
    )
    await call
    labels = dict(await call.trailing_metadata())
    assert labels["qrng-source-class"] == "operating_system"
    assert labels["qrng-processing"] == "none"
    assert labels["qrng-custody"] == "local"
    assert labels["qrng-health-verdict"] == "untested"
    assert labels["qrng-collector-id"] == front.gateway.collector_id
    assert int(labels["qrng-capture-start-ns"]) <= int(labels["qrng-capture-end-ns"])


async def test_a_qr_entropy_stream_answers_in_order_and_promises_the_least_class(front: Front) -> None:
    """One call kept open answers each request in turn; its headers say that nothing weaker will come."""
    data = os.urandom(60)
    await front.gateway.push(data)
    requests = [EntropyRequest(bytes_needed=n, sequence_id=n) for n in (10, 20, 30)]
    call = front.qr_entropy.StreamEntropy(iter(requests), metadata=front.key)
    replies = [reply async for reply in call]
    assert [(len(r.data), r.sequence_id) for r in replies] == [(10, 10), (20, 20), (30, 30)]
    assert b"".join(r.data for r in replies) == data
    assert dict(await call.initial_metadata())["qrng-least-class"] == "operating_system"


async def test_a_qr_entropy_stream_keeps_its_promise_when_the_record_is_loosened(tmp_path: Path) -> None:
    """What its headers promised stands for the life of a stream, whatever the client's record says by then."""
    file, keys = tmp_path / "clients.yaml", (KeyDigest(digest_of("key-of-strict")),)
    with changing_client_file(file) as listed:
        listed.append(ClientRecord(Client("strict", least_class=SourceClass.QUANTUM), keys))
    async with (
        running_gateway(api_keys_file=file, best_class="quantum", least_class="operating_system") as gateway,
        open_front(gateway) as front,
    ):
        await gateway.push(os.urandom(8), label=BlockLabel(("better",), SourceClass.QUANTUM))
        call = front.qr_entropy.StreamEntropy(metadata=(("api-key", "key-of-strict"),))
        await call.write(EntropyRequest(bytes_needed=4))
        assert (await call.read()).device_id == "better"
        assert dict(await call.initial_metadata())["qrng-least-class"] == "quantum"
        with changing_client_file(file) as listed:
            listed[:] = [ClientRecord(Client("strict"), keys)]
        gateway.gateway.reload()
        await gateway.push(os.urandom(8), label=BlockLabel(("weaker",), SourceClass.OPERATING_SYSTEM))
        await call.write(EntropyRequest(bytes_needed=4))
        assert (await call.read()).device_id == "better"
        call.cancel()


async def test_the_stream_mode_of_clients_in_the_field_works(front: Front) -> None:
    """Open the bidirectional method, write one request, read one reply, cancel: again and again."""
    await front.gateway.push(os.urandom(100))
    for nonce in range(5):
        call = front.qr_entropy.StreamEntropy(metadata=front.key)
        await call.write(EntropyRequest(bytes_needed=8, sequence_id=nonce))
        reply = await call.read()
        assert (len(reply.data), reply.sequence_id) == (8, nonce)
        call.cancel()


async def test_compat_services_need_a_key_and_tell_a_short_pool(front: Front) -> None:
    """The statuses by which clients tell quota from connectivity are those of the main service."""
    for call in (
        front.qr_entropy.GetEntropy(EntropyRequest(bytes_needed=1)),
        front.qr_entropy.StreamEntropy(iter([EntropyRequest(bytes_needed=1)])),
        front.quantum_rng.GetRandomBytes(RandomRequest(num_bytes=1)),
    ):
        assert (await refused(call)).code is grpc.StatusCode.UNAUTHENTICATED
    for call in (
        front.qr_entropy.GetEntropy(EntropyRequest(bytes_needed=1), metadata=front.key),
        front.qr_entropy.StreamEntropy(iter([EntropyRequest(bytes_needed=1)]), metadata=front.key),
        front.quantum_rng.GetRandomBytes(RandomRequest(num_bytes=1), metadata=front.key),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "POOL_SHORT")


async def test_the_gateways_least_class_binds_the_compat_services() -> None:
    """Clients that cannot state a class get none weaker than the gateway's."""
    async with running_gateway(best_class="quantum", max_wait=0) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(100), label=BlockLabel(("os",), SourceClass.OPERATING_SYSTEM))
        call = front.qr_entropy.GetEntropy(EntropyRequest(bytes_needed=1), metadata=front.key)
        assert (await refused(call)).reason == "POOL_SHORT"
