"""What all calls have in common: who may make them, how many there may be, and how they end.

Idea: every method is a function from requests to replies, an async iterator in both directions, so that a unary call is
one that reads once and yields once. Around it `Calls` lets the caller in, bounds how many calls of a kind are open,
tells errors of our tree by their status and details, and ends what would go on for ever when the server does. A
reply is asked of the function only once the transport has taken the one before.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from qrng_grpc.client_keys import digest_of, presented_keys
from qrng_grpc.error_details import status_code, trailers
from qrng_grpc.errors import ENDING, AuthenticationError, InvalidRequestError, QrngError
from qrng_grpc.logs import get_log
from qrng_grpc.open_calls import OpenCalls

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)

PATIENCE_S = 10.0
"""How long a call may be open before its first message comes."""


class Keys:
    """The keys that open the server; without any it is open to all who reach it."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [digest_of(key) for key in keys]

    def check(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        """Let in a call with exactly one key, which is one of ours. Raises AuthenticationError."""
        if not self._digests:
            return
        presented = presented_keys(metadata)
        digest = digest_of(presented[0]) if len(presented) == 1 else b""
        # All of them are compared, in a time that does not depend on how near any was.
        if not sum([hmac.compare_digest(digest, ours) for ours in self._digests]):
            raise AuthenticationError("a valid API key is required")


class Room(OpenCalls):
    """Room for `limit` calls of a kind at once."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, crowded="too many calls of this kind are open", ending=ENDING)


class Requests(Generic[Request]):
    """The messages of a call, as they are asked for."""

    def __init__(self, context: Context, parse: Callable[[bytes], Request]) -> None:
        self._context = context
        self._parse = parse

    async def first(self) -> Request:
        """Return the first message. Raises InvalidRequestError when none comes in time, or none that can be read."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                serialised = await self._context.read()
        except TimeoutError:
            raise InvalidRequestError("no message came in time") from None
        if serialised is grpc.aio.EOF:
            raise InvalidRequestError("the call has no message")
        return self._read(serialised)

    async def each(self) -> AsyncIterator[Request]:
        """Yield all messages, the first in time, until the client has said its last. Raises as `first`."""
        yield await self.first()
        while (serialised := await self._context.read()) is not grpc.aio.EOF:
            yield self._read(serialised)

    def _read(self, serialised: Any) -> Request:
        try:
            return self._parse(serialised)
        except DecodeError:
            raise InvalidRequestError("the request is not a protobuf message of this method") from None


@dataclass(frozen=True, slots=True)
class Method(Generic[Request]):
    """How one method of a service is served."""

    parse: Callable[[bytes], Request]
    answer: Callable[[Requests[Request], Context], AsyncIterator[Message]]
    room: Room
    needs_key: bool = True
    headers: tuple[tuple[str, str], ...] | None = None
    """What a stream is told before its replies. None where there is one reply: its room is never drained."""


class Calls:
    """Serves methods to those who have one of `keys`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._log = get_log()

    def register(self, server: grpc.aio.Server, service: str, methods: Mapping[str, Method[Any]]) -> None:
        """Serve `methods`, by name, as `service`."""
        handlers = {name: self._handler(f"{service}/{name}", method) for name, method in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        server.add_registered_method_handlers(service, handlers)

    def _handler(self, name: str, method: Method[Request]) -> grpc.RpcMethodHandler[Any, Any]:
        async def handler(_requests: object, context: Context) -> None:
            try:
                await self._answer(method, context)
            except QrngError as error:
                failure = error
            except grpc.aio.BaseError:  # grpcio's own: the transport broke, or the server stopped
                raise
            except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
                self._log.error("call_failed", method=name, fault=type(fault).__name__)
                failure = QrngError("an internal fault; the server's log has the rest")
            else:
                return
            await context.abort(status_code(failure), failure.message, trailing_metadata=trailers(failure))

        # A call with one request or one reply looks the same on the wire.
        return grpc.stream_stream_rpc_method_handler(handler, None, _serialised)

    async def _answer(self, method: Method[Request], context: Context) -> None:
        if method.needs_key:
            self._keys.check(context.invocation_metadata())
        if method.headers is None:
            with method.room.taken(context):
                await _reply(method, context)
        else:
            async with method.room.taken_with_headers(context, method.headers):
                await _reply(method, context)


async def _reply(method: Method[Request], context: Context) -> None:
    async for reply in method.answer(Requests(context, method.parse), context):
        await context.write(reply)


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()
