"""What every gRPC handler of the gateway does around its translation.

Idea: no interceptors, which cost more than a whole unary call of ours; instead a few small things
that a handler names itself:

- `telling_errors`: errors of our tree end the call with their status and details; anything else is
  INTERNAL, with nothing of it told outside.
- `served_at_the_desk`: the same for calls that need a key, which pass the desk first.
- `register`: a request that is no protobuf arrives as `MALFORMED`, so that it can be refused as the
  bad argument it is (grpcio would call it INTERNAL).
- `Streams`: open streams are known, bounded, and ended at once when the gateway drains.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from qrng_gateway.access import Access
from qrng_gateway.desk import Call, Desk
from qrng_grpc.error_details import status_code, trailers
from qrng_grpc.errors import DrainingError, InvalidRequestError, LimitError, QrngError
from qrng_grpc.logs import get_log

Context = grpc.aio.ServicerContext[Any, Any]
Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Reply = TypeVar("Reply")
Handler = Callable[[Servicer, Request, Context], Awaitable[Reply]]


class AtTheDesk(Protocol):
    """A servicer whose calls pass a desk."""

    @property
    def desk(self) -> Desk:
        """The desk."""

    @property
    def access(self) -> Access:
        """Who may come in."""


Served = TypeVar("Served", bound=AtTheDesk)
AdmittedHandler = Callable[[Served, Request, Context, Call], Awaitable[Reply]]

STREAM_RETRY_HINT_S = 1.0

log = get_log()


class _Malformed:
    def __repr__(self) -> str:
        return "MALFORMED"


MALFORMED: Final = _Malformed()
"""What a handler finds in place of a request that could not be read."""


def check_readable(request: object) -> None:
    """Refuse MALFORMED. Raises InvalidRequestError."""
    if request is MALFORMED:
        raise InvalidRequestError("the request is not a protobuf message of this method")


def telling_errors(method: Handler[Servicer, Request, Reply]) -> Handler[Servicer, Request, Reply]:
    """Make `method` end its call with the status and details of what it raises."""

    @functools.wraps(method)
    async def handler(servicer: Servicer, request: Request, context: Context) -> Reply:
        try:
            return await method(servicer, request, context)
        except QrngError as error:
            failure = error
        except grpc.aio.BaseError:  # grpcio's own: the transport broke, or the server stopped; it ends the call itself
            raise
        except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
            log.error("call_failed", method=method.__qualname__, fault=type(fault).__name__)
            failure = QrngError("an internal fault; the server's log has the rest")
        return await refuse(context, failure)

    return handler


def served_at_the_desk(
    service: str,
) -> Callable[[AdmittedHandler[Served, Request, Reply]], Handler[Served, Request, Reply]]:
    """Make a method of `service` one that is called with the `Call` of an admitted client, and told of when it ends."""

    def decorate(method: AdmittedHandler[Served, Request, Reply]) -> Handler[Served, Request, Reply]:
        name = f"{service}/{method.__name__}"

        @functools.wraps(method)
        async def handler(servicer: Served, request: Request, context: Context) -> Reply:
            call = servicer.desk.open(name, context.peer())
            try:
                call.admit(partial(servicer.access.client_calling, context), forwarded_for(servicer.desk, context))
                reply = await method(servicer, request, context, call)
            except QrngError as error:
                failure = error
            except asyncio.CancelledError:
                call.close("CANCELLED")
                raise
            except grpc.aio.BaseError:
                call.close("UNAVAILABLE")
                raise
            except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
                log.error("call_failed", method=name, fault=type(fault).__name__)
                failure = QrngError("an internal fault; the server's log has the rest")
            else:
                call.close("OK")
                return reply
            call.close(failure.grpc_status)
            return await refuse(context, failure, call.allowances())

        return handler

    return decorate


def forwarded_for(desk: Desk, context: Context) -> str | None:
    """Return whom a proxy says it speaks for; None where no proxy is trusted."""
    if not desk.trusted_proxies:
        return None
    return ",".join(str(value) for name, value in context.invocation_metadata() or () if name == "x-forwarded-for")


async def refuse(context: Context, error: QrngError, besides: tuple[tuple[str, str], ...] = ()) -> NoReturn:
    """End the call with the status and details of `error`, and what else its trailers should say."""
    await context.abort(status_code(error), error.message, trailing_metadata=(*trailers(error), *besides))


class Streams:
    """The open streams of a server, `limit` at most, each held by the task that serves it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._tasks)

    @asynccontextmanager
    async def held(self, context: Context, call: Call | None = None) -> AsyncIterator[None]:
        """Count the current task as a stream, of the client of `call`, until it leaves the block.

        Raises LimitError when too many are open, of all or of that client, DrainingError when the server ends: then also from
        whatever the block is waiting for. A client that leaves cancels as ever.
        """
        if self._draining:
            raise _draining()
        if len(self._tasks) >= self._limit:
            raise LimitError("too many streams are open", retry_after_s=STREAM_RETRY_HINT_S)
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"  # noqa: S101
        self._tasks.add(task)
        try:
            with nullcontext() if call is None else call.streaming():
                yield
        except asyncio.CancelledError:
            if not self._draining or context.cancelled():
                raise
            task.uncancel()
            raise _draining() from None
        finally:
            self._tasks.discard(task)

    def drain(self) -> None:
        """End every stream now, and every later one at its beginning."""
        self._draining = True
        for task in self._tasks:
            task.cancel()


def register(add_to_server: Callable[[Any, Any], None], servicer: object, server: grpc.aio.Server) -> None:
    """Register `servicer` by its generated `add_..._to_server`, with unreadable requests as MALFORMED."""
    add_to_server(servicer, _Registrar(server))


class _Registrar:
    """Stands in for a server while generated code registers, and passes the handlers on with readers of ours."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Wait for the handlers by name, which follow."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Register `handlers` at the server both ways, as generated code does."""
        ours = {name: _reading_tolerantly(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, ours),))
        self._server.add_registered_method_handlers(service, ours)


def _reading_tolerantly(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    parse: Callable[[bytes], Any] = handler.request_deserializer or bytes
    make, behaviour = _KINDS[handler.request_streaming, handler.response_streaming]

    def read(serialised: bytes) -> Any:
        try:
            return parse(serialised)
        except DecodeError:
            return MALFORMED

    return make(getattr(handler, behaviour), request_deserializer=read, response_serializer=handler.response_serializer)


# By whether requests and responses stream: how such a handler is made, and where it keeps its behaviour.
_KINDS: dict[tuple[bool, bool], tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], str]] = {
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}


def _draining() -> DrainingError:
    return DrainingError("the gateway is ending; reconnect")
