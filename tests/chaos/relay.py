"""A relay between a collector and a gateway that records, and can stop in the middle of a call.

Idea: it speaks PushChunks on both sides and passes messages, counts and status codes on as they are.
What it recorded is what an eavesdropper would have, and can be played again; where it stops is where a
test kills somebody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from qrng_grpc.serving import Grace, new_server, serving_grpc
from qrng_grpc.wire import MAX_SIGNED_CHUNK_BYTES
from tests.programs import PUSH_METHOD, disposed_count

_SERVICE, _, _METHOD = PUSH_METHOD.removeprefix("/").partition("/")
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(eq=False)
class RecordedCall:
    """One push call: the requests passed on, and how the gateway ended it (None while it runs)."""

    requests: list[bytes] = field(default_factory=list, repr=False)
    status: str | None = None
    disposed: int | None = None


class Relay:
    """Passes push calls on to `upstream`. Collectors reach it at `address`."""

    def __init__(self, address: str, upstream: grpc.aio.Channel) -> None:
        self.address = address
        self.calls: list[RecordedCall] = []
        self.stopped = asyncio.Event()
        """Set once a call was stopped in its middle."""
        self._push: Any = upstream.stream_unary(PUSH_METHOD)
        self._stop_after: int | None = None
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

    async def pass_on(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Handle one call. Cancelled by the collector's end, it cancels the call to the gateway."""
        call = RecordedCall()
        await self._going.wait()
        self.calls.append(call)
        try:
            reply = await self._push(self._passing(requests, call))
        except grpc.aio.AioRpcError as error:
            call.status = error.code().name
            await context.abort(error.code())
        call.status, call.disposed = "OK", disposed_count(reply)
        return bytes(reply)

    async def _passing(self, requests: AsyncIterator[bytes], call: RecordedCall) -> AsyncIterator[bytes]:
        async for request in requests:
            if len(call.requests) == self._stop_after:
                self._going.clear()
                self.stopped.set()
            await self._going.wait()
            call.requests.append(request)
            yield request


@asynccontextmanager
async def relaying(address: str, gateway_address: str) -> AsyncIterator[Relay]:
    """Relay from `address` to the gateway's push listener while the block runs."""
    server = new_server(max_message_bytes=MAX_SIGNED_CHUNK_BYTES + 4096, max_streams=16, max_calls=16)
    async with grpc.aio.insecure_channel(gateway_address, options=_OPTIONS) as upstream:
        relay = Relay(address, upstream)
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(relay.pass_on)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        async with serving_grpc(server, address, Grace(0)):
            yield relay
