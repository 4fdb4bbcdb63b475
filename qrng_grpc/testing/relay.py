"""A relay between a collector and a gateway that records what passes, and misbehaves like an attacker or a bad wire.

Idea: it speaks PushChunks on both sides and passes messages, counts and status codes on as they are, until
it is told to misbehave. What it recorded is what an eavesdropper would have.

    async with relaying(address, gateway.push_address) as relay:
        ...                             # a collector pushes to relay.address
        relay.stop_after(5)             # hold the next call in its middle, and all others, until go_on()
        relay.cut_after(3)              # break the next call that is long enough, after three messages
        relay.lose_replies(2)           # two calls arrive in full, and their collector never learns
        relay.damage_after(1)           # flip a bit of the second message of the next call that has one
        relay.duplicate = True          # from now on every message is passed on twice
        relay.delay_s = 0.05            # from now on every message takes 50 ms longer
        await relay.replay(relay.calls[0])      # and what was recorded is sent once more
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from qrng_grpc.serving import Grace, new_server, serving_grpc
from qrng_grpc.v1.push_pb2 import PushChunksResponse
from qrng_grpc.wire import MAX_SIGNED_CHUNK_BYTES

PUSH_METHOD = "/qrng.v1.PushService/PushChunks"

_SERVICE, _, _METHOD = PUSH_METHOD.removeprefix("/").partition("/")
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(eq=False)
class RecordedCall:
    """One push call: the requests passed on, and how the gateway ended it (None while it runs, or when it was cut).

    A message that was damaged on its way is recorded as it came.
    """

    requests: list[bytes] = field(default_factory=list, repr=False)
    status: str | None = None
    disposed: int | None = None
    over: bool = False
    """Whether it ended, in whatever way, so that nothing more is passed on."""


class Relay:
    """Passes push calls on to `upstream`. Collectors reach it at `address`."""

    def __init__(self, address: str, upstream: grpc.aio.Channel) -> None:
        self.address = address
        self.calls: list[RecordedCall] = []
        self.stopped = asyncio.Event()
        """Set once a call was stopped in its middle."""
        self.duplicate = False
        """Whether every message is passed on twice. The count that goes back is then half, rounded down."""
        self.delay_s = 0.0
        """Seconds by which every message is late."""
        self.cuts = 0
        """Calls broken, by `cut_after` and `lose_replies`."""
        self.messages = 0
        """Messages passed on so far, each counted once."""
        self.damaged = 0
        """Messages damaged so far."""
        self._push: Any = upstream.stream_unary(PUSH_METHOD)
        self._stop_after: int | None = None
        self._cut_after: int | None = None
        self._damage_after: int | None = None
        self._losing = 0
        self._going = asyncio.Event()
        self._going.set()

    @property
    def statuses(self) -> set[str]:
        """How calls ended so far."""
        return {call.status for call in self.calls if call.status is not None}

    def stop_after(self, messages: int) -> None:
        """Stop the next call that is long enough after `messages` messages, and every later one at its beginning."""
        self._stop_after = messages

    def go_on(self) -> None:
        """Pass everything on again."""
        self._stop_after = None
        self._going.set()

    def cut_after(self, messages: int) -> None:
        """Break the next call that is long enough, on both sides, after `messages` messages. Once."""
        self._cut_after = messages

    def damage_after(self, messages: int) -> None:
        """Flip one bit of what follows the first `messages` messages of the next call that is long enough. Once."""
        self._damage_after = messages

    def lose_replies(self, calls: int) -> None:
        """Pass the next `calls` calls on in full, and break them before their replies arrive."""
        self._losing = calls

    async def replay(self, call: RecordedCall) -> RecordedCall:
        """Send what was recorded once more, straight to the gateway. Returns the new call, which is not in `calls`."""
        status, disposed = await self._ending(_each_of(call.requests))
        return RecordedCall(list(call.requests), status.name, disposed)

    async def pass_on(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Handle one call. Cancelled by the collector's end, it cancels the call to the gateway."""
        await self._going.wait()
        call, cut, copies = RecordedCall(), asyncio.Event(), 2 if self.duplicate else 1
        self.calls.append(call)
        ending = asyncio.ensure_future(self._ending(self._passing(requests, call, cut, copies)))
        breaking = asyncio.ensure_future(cut.wait())
        try:
            await asyncio.wait((ending, breaking), return_when=asyncio.FIRST_COMPLETED)
            broken = breaking.done() or self._loses_reply(ending)
        finally:
            await _cancelled(ending, breaking)
            call.over = True
        if broken:
            self.cuts += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        status, count = ending.result()
        call.status = status.name
        if count is None:
            await context.abort(status)
        call.disposed = count // copies
        return PushChunksResponse(disposed_count=call.disposed).SerializeToString()

    async def _ending(self, requests: AsyncIterator[bytes]) -> tuple[grpc.StatusCode, int | None]:
        """Make the call to the gateway. Returns its status and, if that is OK, its count. Cancelled, it breaks it."""
        call = self._push()
        writing = asyncio.ensure_future(_write(call, requests))
        try:
            return grpc.StatusCode.OK, disposed_count(await call)
        except grpc.aio.AioRpcError as error:
            return error.code(), None
        finally:
            await _cancelled(writing)

    def _loses_reply(self, ending: asyncio.Future[tuple[grpc.StatusCode, int | None]]) -> bool:
        if not self._losing or ending.result()[1] is None:
            return False
        self._losing -= 1
        return True

    async def _passing(
        self, requests: AsyncIterator[bytes], call: RecordedCall, cut: asyncio.Event, copies: int
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            if len(call.requests) == self._cut_after:
                self._cut_after = None
                cut.set()
                await asyncio.Event().wait()  # until the call is cancelled
            if len(call.requests) == self._stop_after:
                self._going.clear()
                self.stopped.set()
            await self._going.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            passed = self._damaged(request) if len(call.requests) == self._damage_after else request
            call.requests.append(request)
            self.messages += 1
            for _ in range(copies):
                yield passed

    def _damaged(self, request: bytes) -> bytes:
        self._damage_after = None
        self.damaged += 1
        return flipped(request, len(request) * 4)


@asynccontextmanager
async def relaying(address: str, gateway_address: str) -> AsyncIterator[Relay]:
    """Relay from `address` (HOST:PORT) to the gateway's push listener while the block runs; both in plaintext.

    Raises ConfigError when it cannot listen there.
    """
    server = new_server(max_message_bytes=MAX_SIGNED_CHUNK_BYTES + 4096, max_streams=16, max_calls=16)
    async with grpc.aio.insecure_channel(gateway_address, options=_OPTIONS) as upstream:
        relay = Relay(address, upstream)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(relay.pass_on)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        async with serving_grpc(server, address, Grace(0)) as bound:
            relay.address = bound
            yield relay


def disposed_count(reply: bytes) -> int:
    """Return the one number of a serialised PushChunksResponse."""
    return PushChunksResponse.FromString(reply).disposed_count


def flipped(message: bytes, bit: int) -> bytes:
    """Return `message` with one bit, counted from its beginning, turned over."""
    spoilt = bytearray(message)
    spoilt[bit // 8] ^= 1 << bit % 8
    return bytes(spoilt)


async def _write(call: Any, requests: AsyncIterator[bytes]) -> None:
    """Write beside the wait for the reply, which may come before the last message. How a call ends, itself tells."""
    with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
        async for request in requests:
            await call.write(request)
        await call.done_writing()


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what has not ended, and wait until it has. A task that failed keeps its exception."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _each_of(requests: list[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request
