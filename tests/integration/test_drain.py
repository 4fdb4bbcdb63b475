"""Polite endings: what becomes of every kind of call when the gateway ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import aiohttp
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.compat.qr_entropy_pb2 import EntropyRequest
from qrng_grpc.config import host_and_port
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, StreamEntropyRequest, SubscribeEntropyRequest
from qrng_grpc.v1.push_pb2_grpc import PushServiceStub
from tests.integration.fronts import Front, Refusal, refusal_of, refused
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("engine")


class Stay:
    """A gateway that a test ends while its clients are still there."""

    def __init__(self, **settings: Any) -> None:
        self._entered = running_gateway(**settings)

    async def __aenter__(self) -> Stay:
        self.gateway: RunningGateway = await self._entered.__aenter__()
        self.channel = grpc.aio.insecure_channel(
            self.gateway.client_address, options=(("grpc.use_local_subchannel_pool", 1),)
        )
        self.front = Front(self.gateway, self.channel)
        return self

    async def end(self) -> None:
        await self._entered.__aexit__(None, None, None)

    async def __aexit__(self, *_exc: object) -> None:
        await self.channel.close()


def block(stay: Stay, size: int) -> Block:
    now_ns = stay.gateway.clock.now_ns()
    return Block(os.urandom(size), now_ns, now_ns, BlockLabel(("dev",), SourceClass.OPERATING_SYSTEM))


def is_reconnect(refusal: Refusal) -> bool:
    return (refusal.code, refusal.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "DRAINING",
    ) and "reconnect" in refusal.message


async def test_idle_streams_of_every_kind_end_at_once_with_reconnect() -> None:
    """Open streams do not use up the time that running calls get to finish: an hour here."""
    async with Stay(drain_timeout=300) as stay:
        front = stay.front
        await stay.gateway.push(os.urandom(32))
        bidi = front.entropy.StreamEntropy(metadata=front.key)
        await bidi.write(StreamEntropyRequest(bytes_needed=16))
        await bidi.read()
        compat = front.qr_entropy.StreamEntropy(metadata=front.key)
        await compat.write(EntropyRequest(bytes_needed=16))
        await compat.read()
        reflection = reflection_pb2_grpc.ServerReflectionStub(stay.channel).ServerReflectionInfo()  # type: ignore[no-untyped-call]
        await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await reflection.read()
        await stay.end()
        for call in (bidi, compat, reflection):
            assert is_reconnect(await refused(call))


class Reader:
    """A client that reads a stream to its end, with `pause_s` after each message."""

    def __init__(self, call: Any, pause_s: float = 0) -> None:
        self.received = 0
        self.refusal = asyncio.create_task(self._read(call, pause_s))

    async def _read(self, call: Any, pause_s: float) -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while (reply := await call.read()) is not grpc.aio.EOF:
                self.received += len(reply.data)
                await asyncio.sleep(pause_s)
        return refusal_of(caught.value)


async def test_a_flowing_subscription_ends_with_reconnect_and_loses_nothing_it_was_given() -> None:
    """What was read before the end is the client's, and every byte is accounted for."""
    async with Stay(drain_timeout=300, buffer_size=8 << 20) as stay:
        await stay.gateway.push(os.urandom(8 << 20))
        request = SubscribeEntropyRequest(bytes_per_message=1024)
        reader = Reader(stay.front.entropy.SubscribeEntropy(request, metadata=stay.front.key))
        await until(lambda: reader.received > 100_000)
        await stay.end()
        assert is_reconnect(await reader.refusal)
        accounting = stay.gateway.gateway.accounting()
        assert reader.received <= accounting.served
        assert accounting.stored == accounting.served + accounting.dropped_at_shutdown == 8 << 20
        assert accounting.pooled == 0


async def test_a_slow_reader_is_told_to_reconnect_once_it_has_read_all_it_was_given() -> None:
    """The end of a call waits behind its messages for as long as running calls may take."""
    async with Stay(drain_timeout=300, buffer_size=8 << 20) as stay:
        await stay.gateway.push(os.urandom(8 << 20))
        request = SubscribeEntropyRequest(bytes_per_message=1024)
        reader = Reader(stay.front.entropy.SubscribeEntropy(request, metadata=stay.front.key), pause_s=0.002)
        await until(lambda: reader.received > 10_000)
        await stay.end()
        assert is_reconnect(await reader.refusal)
        # No more than the message that waited for room when the end came is counted as served and not sent.
        assert stay.gateway.gateway.accounting().served - reader.received in (0, 1024)


async def test_a_subscription_that_waits_for_bytes_ends_with_reconnect() -> None:
    """A claim in line leaves it when the gateway ends, in every kind of call."""
    async with Stay(drain_timeout=300, max_wait=60) as stay:
        front = stay.front
        calls = [
            front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=front.key),
            front.entropy.SubscribeEntropy(SubscribeEntropyRequest(bytes_per_message=16), metadata=front.key),
            front.entropy.StreamEntropy(iter([StreamEntropyRequest(bytes_needed=16)]), metadata=front.key),
        ]
        await until(lambda: stay.gateway.gateway.pool.waiting == len(calls))
        await stay.end()
        for call in calls:
            assert is_reconnect(await refused(call))


async def test_a_stream_that_ends_while_its_first_message_is_being_written_is_told() -> None:
    """Whatever the moment, a client hears why its stream has ended."""
    async with Stay(drain_timeout=300, max_wait=60) as stay:
        calls: list[Any] = []
        for stub in (stay.front.entropy, stay.front.qr_entropy):
            request = StreamEntropyRequest if stub is stay.front.entropy else EntropyRequest
            calls.append(stub.StreamEntropy(iter([request(bytes_needed=16)]), metadata=stay.front.key))
        calls.append(
            stay.front.entropy.SubscribeEntropy(SubscribeEntropyRequest(bytes_per_message=16), metadata=stay.front.key)
        )
        await until(lambda: stay.gateway.gateway.pool.waiting == len(calls))
        stay.gateway.gateway.pool.store(block(stay, 16 * len(calls)), stay.gateway.collector_id)
        assert not stay.gateway.gateway.pool.waiting
        await asyncio.sleep(0)  # the claims are granted; now their handlers begin to write
        async with asyncio.timeout(20):
            await stay.end()
            for call in calls:
                assert is_reconnect(await refused(call))


async def test_a_stalled_subscriber_holds_the_end_up_no_longer_than_the_time_to_finish() -> None:
    """A client that does not read cannot keep the gateway from ending."""
    async with Stay(drain_timeout=0.2, buffer_size=32 << 20) as stay:
        await stay.gateway.push(os.urandom(32 << 20))
        request = SubscribeEntropyRequest(bytes_per_message=1 << 20)
        call = stay.front.entropy.SubscribeEntropy(request, metadata=stay.front.key)
        await call.read()
        await stay.end()
        accounting = stay.gateway.gateway.accounting()
        assert accounting.stored == accounting.served + accounting.dropped_at_shutdown == 32 << 20


async def test_a_rest_request_that_waits_is_told() -> None:
    """A waiting REST request gets 503 and the reason instead of a broken connection."""
    async with Stay(drain_timeout=300, max_wait=60) as stay, aiohttp.ClientSession() as http:

        async def ask() -> tuple[int, Any]:
            url = f"{stay.gateway.rest_url}/api/random?bytes=5&api_key={stay.gateway.api_key}"
            async with http.get(url) as response:
                return response.status, await response.json()

        asking = asyncio.create_task(ask())
        await until(lambda: stay.gateway.gateway.pool.waiting == 1)
        await stay.end()
        status, body = await asking
        assert (status, body["error"]["reason"]) == (503, "DRAINING")


async def standstill(count: Callable[[], int]) -> None:
    """Return once `count` no longer changes."""
    before = -1
    while (now := count()) != before:
        before = now
        await asyncio.sleep(0.2)


async def test_a_rest_client_that_does_not_read_holds_the_end_up_no_longer_than_the_time_to_finish() -> None:
    """A full connection cannot keep the gateway from ending, and not for twice the time either."""
    drain_timeout = 3.0
    async with Stay(drain_timeout=drain_timeout, max_wait=0) as stay:
        await stay.gateway.push(os.urandom(8 << 20))
        _reader, writer = await asyncio.open_connection(*host_and_port(stay.gateway.gateway.rest_address), limit=1024)
        request = (
            f"GET /api/random?bytes=65536 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {stay.gateway.api_key}\r\n\r\n"
        )
        writer.write(request.encode() * 128)
        pool = stay.gateway.gateway.pool
        await until(lambda: pool.counters.claims > 0)
        await standstill(lambda: pool.counters.claims)
        assert stay.gateway.gateway.pool.level > 0
        async with asyncio.timeout(1.8 * drain_timeout):
            await stay.end()
        writer.close()


async def test_a_push_call_that_waits_ends_with_its_count() -> None:
    """The collector learns what was disposed of, and keeps the rest."""
    async with Stay(drain_timeout=300) as stay:
        identity = Identity(stay.gateway.collector_id, stay.gateway.pool_id, stay.gateway.clock.now_ns(), 1)
        async with grpc.aio.insecure_channel(stay.gateway.push_address) as channel:
            call: Any = PushServiceStub(channel).PushChunks()
            await call.write(stay.gateway.signed(Chunk.bind(block(stay, 100), identity)))
            await until(lambda: stay.gateway.gateway.pool.level == 100)
            await stay.end()
            assert (await call).disposed_count == 1
        assert stay.gateway.gateway.accounting().dropped_at_shutdown == 100


async def test_an_open_stream_refused_at_its_beginning_once_draining(front: Front) -> None:
    """A stream that arrives while the gateway ends is sent elsewhere, and so is a claim."""
    front.gateway.gateway.pool.drain()
    await front.gateway.push(os.urandom(100))
    for call in (
        front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=front.key),
        front.entropy.StreamEntropy(iter([StreamEntropyRequest(bytes_needed=16)]), metadata=front.key),
    ):
        assert is_reconnect(await refused(call))
