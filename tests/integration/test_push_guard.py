"""What the push listener does with damage, repetition and a flood of bad signatures, over real connections."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc.aio

from qrng_gateway.admission.guard import BURST
from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1.chunk_pb2 import SignedChunk
from qrng_grpc.v1.push_pb2 import PushChunksRequest
from qrng_grpc.v1.push_pb2_grpc import PushServiceStub
from qrng_grpc.wire import encode_chunk
from tests.integration.fronts import refused


@asynccontextmanager
async def strangers_stub(gateway: RunningGateway) -> AsyncIterator[PushServiceStub]:
    """Open a connection of its own to the push listener."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(gateway.push_address, options=options) as channel:
        yield PushServiceStub(channel)


def chunk_of(gateway: RunningGateway, sequence: int, data: bytes) -> Chunk:
    now_ns = gateway.clock.now_ns()
    label = BlockLabel(("dev",), gateway.config.best_class)
    identity = Identity(gateway.collector_id, gateway.pool_id, gateway.epoch, sequence)
    return Chunk.bind(Block(data, now_ns, now_ns, label), identity)


def forged(gateway: RunningGateway, key_id: str | None = None) -> PushChunksRequest:
    """Return a chunk under the gateway's key id, or another, with a signature of nobody's."""
    serialised = encode_chunk(chunk_of(gateway, 1000, os.urandom(100)))
    name = key_id or gateway.key_record.key_id
    return PushChunksRequest(signed_chunk=SignedChunk(chunk=serialised, key_id=name, signature=os.urandom(32)))


async def test_a_flood_of_bad_signatures_is_limited_and_a_known_collector_is_not() -> None:
    """Past its limit an address is told to come later; a connection that was verified before goes on."""
    clock = ManualClock()
    async with running_gateway(clock=clock) as gateway, strangers_stub(gateway) as flood:
        clock.advance(1)
        assert await gateway.push(os.urandom(100)) == 1
        codes = [(await refused(flood.PushChunks(iter([forged(gateway)])))).code for _ in range(BURST + 4)]
        assert codes[:BURST] == [grpc.StatusCode.UNAUTHENTICATED] * BURST
        assert codes[BURST:] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4
        assert await gateway.push(os.urandom(100)) == 1


async def test_a_flood_of_unknown_keys_holds_nobody() -> None:
    """A key id that is unknown costs no hash, and takes nothing from a good collector at the same address."""
    async with running_gateway() as gateway, strangers_stub(gateway) as flood:
        requests = [flood.PushChunks(iter([forged(gateway, "nobodys-key")])) for _ in range(2 * BURST)]
        assert {(await refused(request)).code for request in requests} == {grpc.StatusCode.UNAUTHENTICATED}
        assert await gateway.push(os.urandom(100)) == 1


async def test_spoilt_chunks_are_disposed_of_and_never_served() -> None:
    """A chunk that was never filled, and old data under a new identity, are counted and do not enter."""
    async with running_gateway() as gateway:
        first = chunk_of(gateway, 1, os.urandom(4096))
        again = replace(first, identity=replace(first.identity, sequence=2))
        hollow = chunk_of(gateway, 3, bytes(4096))
        assert await gateway.push_signed([gateway.signed(chunk) for chunk in (first, again, hollow)]) == 3
        accounting = gateway.gateway.accounting()
        assert accounting.refused == {"repeated": 4096, "corrupt": 4096}
        assert (accounting.stored, accounting.pooled) == (4096, 4096)
        assert any("repeated data" in warning for warning in gateway.gateway.observer.status().warnings)
