"""Calls that are opened and then say nothing."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest

from qrng_gateway.app import Bounds
from qrng_gateway.fronts.calls import MAX_UNREAD, Unread, read_in_time, register
from qrng_gateway.link.push_service import PushServicer
from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.serving import Grace, new_server, serving_grpc
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1 import push_pb2, push_pb2_grpc
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest
from tests.integration.fronts import open_front, refused
from tests.waiting import until

SILENT = "no message came in time"
GET_ENTROPY = "/qrng.v1.EntropyService/GetEntropy"
PUSH = "/qrng.v1.PushService/PushChunks"


class Impatient(push_pb2_grpc.PushServiceServicer):
    """Waits long for the first message of a call, and `patience_s` for each other."""

    def __init__(self) -> None:
        self.patience_s = 3600.0

    async def PushChunks(self, _requests: object, context: Any) -> push_pb2.PushChunksResponse:
        count = 0
        try:
            while await read_in_time(context, self.patience_s if count else 3600) is not grpc.aio.EOF:
                count += 1
        except InvalidRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{error.message} after {count}")
        return push_pb2.PushChunksResponse(disposed_count=count)


async def test_a_message_is_awaited_for_its_time_only() -> None:
    """A call whose next message does not come in time ends; one that half-closes in time is answered."""
    server, impatient = new_server(max_message_bytes=1000, max_streams=10, max_calls=10), Impatient()
    register(push_pb2_grpc.add_PushServiceServicer_to_server, impatient, server)
    async with serving_grpc(server, "127.0.0.1:0", Grace(1)) as address, grpc.aio.insecure_channel(address) as channel:
        stub: Any = push_pb2_grpc.PushServiceStub(channel)
        assert (await stub.PushChunks(iter([push_pb2.PushChunksRequest()]))).disposed_count == 1
        impatient.patience_s = 0.05
        quiet = stub.PushChunks()
        await quiet.write(push_pb2.PushChunksRequest())
        assert await words_of(quiet) == f"{SILENT} after 1"


async def test_silent_calls_have_few_places_and_take_none_of_others() -> None:
    """Of calls that are only opened the oldest ends when one too many waits; those that say something are answered."""
    async with running_gateway(max_wait=0) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(64))
        for address, path, request in (
            (gateway.client_address, GET_ENTROPY, GetEntropyRequest(bytes_needed=8)),
            (gateway.push_address, PUSH, None),
        ):
            async with grpc.aio.insecure_channel(address) as channel:
                silent = [asyncio.create_task(opened(channel, path, front.key)) for _ in range(MAX_UNREAD + 1)]
                done, _ = await asyncio.wait(silent, return_when=asyncio.FIRST_COMPLETED)
                assert {call.result() for call in done} == {SILENT}
                if request is not None:
                    assert len((await front.entropy.GetEntropy(request, metadata=front.key)).data) == 8
                assert await gateway.push(os.urandom(64)) == 1
                for call in silent:
                    call.cancel()
                await asyncio.gather(*silent, return_exceptions=True)


async def test_silent_calls_end_with_the_gateway() -> None:
    """Calls that never said anything are told to reconnect when the gateway ends, at once."""
    async with AsyncExitStack() as channels:
        async with running_gateway(drain_timeout=50) as gateway:
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(gateway.push_address))
            call: Any = channel.stream_unary(PUSH)()
            await call.wait_for_connection()
            await gateway.push(os.urandom(8))
        assert "reconnect" in await words_of(call)


async def test_a_unary_call_without_a_request_is_told_so() -> None:
    """A client that half-closes without a message gets INVALID_ARGUMENT."""
    async with running_gateway() as gateway, open_front(gateway) as front:
        call: Any = front.channel.stream_unary(GET_ENTROPY)(iter(()), metadata=front.key)
        assert (await refused(call)).code is grpc.StatusCode.INVALID_ARGUMENT


async def opened(channel: grpc.aio.Channel, path: str, metadata: Any) -> str:
    """Open a call, say nothing, and return what it is told in the end."""
    return await words_of(channel.stream_unary(path)(metadata=metadata))


async def words_of(call: Any) -> str:
    """Return what a call that fails is told."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.details() or ""
    raise AssertionError("the call was answered")


class Once(push_pb2_grpc.PushServiceServicer):
    """Waits for the first message of a call among others that wait."""

    def __init__(self, unread: Unread) -> None:
        self.unread = unread

    async def PushChunks(self, _requests: object, context: Any) -> push_pb2.PushChunksResponse:
        try:
            await self.unread.read(context)
        except InvalidRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        return push_pb2.PushChunksResponse(disposed_count=1)


@pytest.mark.parametrize("patience_s", [0, 3600])
async def test_looking_ends_who_has_waited_too_long(patience_s: float) -> None:
    """A look ends calls whose time is over, and no others; nothing is kept of either once it has ended."""
    unread = Unread(patience_s=patience_s)
    server = new_server(max_message_bytes=1000, max_streams=10, max_calls=10)
    register(push_pb2_grpc.add_PushServiceServicer_to_server, Once(unread), server)
    async with serving_grpc(server, "127.0.0.1:0", Grace(1)) as address, grpc.aio.insecure_channel(address) as channel:
        stub: Any = push_pb2_grpc.PushServiceStub(channel)
        call = stub.PushChunks()
        await call.wait_for_connection()
        assert (await stub.PushChunks(iter([push_pb2.PushChunksRequest()]))).disposed_count == 1
        assert len(unread) == 1
        unread.look()
        if patience_s:
            assert len(unread) == 1
            await call.write(push_pb2.PushChunksRequest())
            assert (await call).disposed_count == 1
        else:
            assert await words_of(call) == SILENT
        assert len(unread) == 0


def signed(gateway: RunningGateway, sequence: int) -> push_pb2.PushChunksRequest:
    now_ns = gateway.clock.now_ns()
    block = Block(os.urandom(100), now_ns, now_ns, BlockLabel(("dev",), gateway.key_record.best_class))
    identity = Identity(gateway.collector_id, gateway.pool_id, gateway.epoch, sequence)
    return gateway.signed(Chunk.bind(block, identity))


@pytest.mark.parametrize("patience_s", [0, 3600])
async def test_a_collector_that_falls_silent_is_not_awaited_for_ever(
    monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    """A push that is quiet for too long ends with the count of what came, and leaves its place; no other does."""
    monkeypatch.setattr("qrng_gateway.app.PATIENCE_S", patience_s)
    server = new_server(max_message_bytes=1000, max_streams=10, max_calls=10)
    async with running_gateway() as gateway:
        bounds = Bounds.of(gateway.config)
        servicer = PushServicer(gateway.gateway.ingest, bounds.pushes, bounds.unread_pushes, bounds.quiet_pushes)
        register(push_pb2_grpc.add_PushServiceServicer_to_server, servicer, server)
        async with (
            serving_grpc(server, "127.0.0.1:0", Grace(1)) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            call: Any = push_pb2_grpc.PushServiceStub(channel).PushChunks()
            await call.write(signed(gateway, 1))
            await until(lambda: len(bounds.quiet_pushes) == 1)
            bounds.look()
            if patience_s:
                await call.write(signed(gateway, 2))
                await call.done_writing()
            async with asyncio.timeout(20):
                assert (await call).disposed_count == (2 if patience_s else 1)
        assert (len(bounds.quiet_pushes), len(bounds.pushes)) == (0, 0)
