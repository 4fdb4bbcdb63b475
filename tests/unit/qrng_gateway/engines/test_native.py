"""The native engine by itself, with servicers that do next to nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from qrng_gateway.engines.native import Event, NativeServer, _Call
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, GetEntropyResponse
from qrng_grpc.v1.entropy_pb2_grpc import EntropyServiceStub
from tests.waiting import until

GetEntropy = Callable[[GetEntropyRequest, Any], Awaitable[GetEntropyResponse]]


@asynccontextmanager
async def calling(server: NativeServer, get_entropy: GetEntropy) -> AsyncIterator[Any]:
    """Have `server` serve one method. Yields a stub."""
    handler = grpc.unary_unary_rpc_method_handler(
        get_entropy, GetEntropyRequest.FromString, GetEntropyResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("qrng.v1.EntropyService", {"GetEntropy": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield EntropyServiceStub(channel)
    await server.stop(0)


def native_server() -> NativeServer:
    return NativeServer(grpc.aio.server(), max_message_bytes=1 << 20, max_streams=1000, max_calls=1000)


async def test_nothing_of_a_call_is_kept_once_it_is_over() -> None:
    """The tasks that wait for the next calls hold none of those before, whose metadata have keys in them."""

    async def get_entropy(_request: GetEntropyRequest, _context: Any) -> GetEntropyResponse:
        await asyncio.sleep(0)
        return GetEntropyResponse(data=b"x")

    async with calling(native_server(), get_entropy) as stub:
        await asyncio.gather(*[stub.GetEntropy(GetEntropyRequest(), metadata=(("api-key", "key"),)) for _ in range(30)])
        await until(lambda: not any(isinstance(thing, _Call) for thing in gc.get_objects()))


async def test_the_end_reaches_calls_that_no_task_has_yet() -> None:
    """Calls that came in one batch, as after a pause of the loop, are over, too, and no task is left."""
    batch, held = 20, list[Event]()
    server = native_server()
    begin, ends = server._begin, asyncio.Event()

    def gather(events: list[Event]) -> None:
        held.extend(events)
        if len(held) == batch:
            begin(held)

    async def get_entropy(_request: GetEntropyRequest, _context: Any) -> GetEntropyResponse:
        ends.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    server._begin = gather  # type: ignore[method-assign]
    async with calling(server, get_entropy) as stub:
        calls = [stub.GetEntropy(GetEntropyRequest()) for _ in range(batch)]
        await ends.wait()
        await server.stop(0)
        endings = await asyncio.gather(*calls, return_exceptions=True)
        assert {error.code() for error in endings} == {grpc.StatusCode.UNAVAILABLE}
        assert not server._servers
