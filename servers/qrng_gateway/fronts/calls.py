"""What every gRPC handler of the gateway does around its translation.

Idea: no interceptors, which cost more than a whole unary call of ours; instead a few small things
that a handler names itself:

- `telling_errors`: errors of our tree end the call with their status and details; anything else is
  INTERNAL, with nothing of it told outside.
- `served_at_the_desk`: the same for calls that need a key, which pass the desk first.
- `register`: a request that is no protobuf arrives as `MALFORMED`, so that it can be refused as the
  bad argument it is (grpcio would call it INTERNAL), and one that does not arrive at all is not awaited for ever.
- `Streams`: open streams are known, bounded, and ended at once when the gateway drains.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from qrng_gateway.desk import Call, Desk
from qrng_grpc.error_details import status_code, trailers
from qrng_grpc.errors import ENDING, DrainingError, InvalidRequestError, QrngError
from qrng_grpc.logs import get_log
from qrng_grpc.open_calls import OpenCalls

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


Served = TypeVar("Served", bound=AtTheDesk)
AdmittedHandler = Callable[[Served, Request, Context, Call], Awaitable[Reply]]

REQUEST_PATIENCE_S = 10.0
"""How long a call may be open before its first message comes."""
MAX_UNREAD = 256
"""Calls at a listener that may be open before it comes."""

log = get_log()


class _Malformed:
    def __repr__(self) -> str:
        return "MALFORMED"


MALFORMED: Final = _Malformed()
"""What a handler finds in place of a request that could not be read."""


class Codec(NamedTuple):
    """How a method reads requests and writes replies, where that is not by the generated messages.

    What `read` finds wrong with a request, it returns in place of it, to be raised by `check_readable` in its time.
    Without `write` the replies are bytes as they travel.
    """

    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes] | None


def check_readable(request: object) -> None:
    """Refuse what stands in place of a request that is none. Raises InvalidRequestError."""
    if request is MALFORMED:
        raise InvalidRequestError("the request is not a protobuf message of this method")
    if isinstance(request, QrngError):
        raise request


def tell_allowances(context: Context, call: Call) -> None:
    """Say in the trailers what is left to the client, once that is little enough to matter."""
    allowances = call.scarce_allowances()
    if allowances:
        context.set_trailing_metadata(allowances)


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
            failure = _unforeseen(method.__qualname__, fault)
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
            desk = servicer.desk
            call = Call(desk, name, context.peer())
            try:
                forwarded = forwarded_for(context) if desk.trusted_proxies else None
                call.admit(partial(desk.access.client_calling, context), forwarded)
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
                failure = _unforeseen(name, fault)
            else:
                call.close("OK")
                return reply
            call.close(failure.grpc_status)
            return await refuse(context, failure, call.allowances())

        return handler

    return decorate


def _unforeseen(method: str, fault: Exception) -> QrngError:
    log.error("call_failed", method=method, fault=type(fault).__name__)
    return QrngError("an internal fault; the server's log has the rest")


def forwarded_for(context: Context) -> str:
    """Return whom a proxy says it speaks for."""
    return ",".join(str(value) for name, value in context.invocation_metadata() or () if name == "x-forwarded-for")


async def refuse(context: Context, error: QrngError, besides: tuple[tuple[str, str], ...] = ()) -> NoReturn:
    """End the call with the status and details of `error`, and what else its trailers should say."""
    await context.abort(status_code(error), error.message, trailing_metadata=(*trailers(error), *besides))


class Streams(OpenCalls):
    """The open streams of a server, `limit` at most, each held by the task that serves it."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, crowded="too many streams are open", ending=ENDING)

    @asynccontextmanager
    async def held(
        self, context: Context, call: Call | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> AsyncIterator[None]:
        """Send `headers`, and count the current task as a stream, of the client of `call`, until it leaves the block.

        Raises as `taken`, and LimitError also when that client has too many.
        """
        if call is not None:
            call.check_stream()  # before the headers, see `taken_with_headers`
        async with self.taken_with_headers(context, headers):
            with nullcontext() if call is None else call.streaming():
                yield


class Unread:
    """Calls that wait for a message, `limit` at most: one more ends the one that has waited longest.

    It is the first of a call, but for pushes that fell quiet. Someone honest sends that with the call, and so never
    waits; who only opens calls ends none but those of his kind.
    `look` ends those that have waited `patience_s`: a timer for each would cost more than all the rest.
    """

    def __init__(self, limit: int = MAX_UNREAD, patience_s: float = REQUEST_PATIENCE_S) -> None:
        self._limit = limit
        self._patience_s = patience_s
        self._calls: dict[asyncio.Task[Any], float] = {}  # since when, oldest first
        self._draining = False

    def __len__(self) -> int:
        return len(self._calls)

    async def read(self, context: Context) -> Any:
        """Return the next message, grpc.aio.EOF without one. Raises what `refusal` returns."""
        task = self.expect()
        try:
            return await context.read()
        except asyncio.CancelledError:
            refusal = self.refusal(task, context)
            if refusal is None:
                raise
            raise refusal from None
        finally:
            self.forget(task)

    def expect(self) -> asyncio.Task[Any]:
        """Count the current task, which it returns, as a call that waits, until it is forgotten."""
        if len(self._calls) >= self._limit:
            self._give_up(next(iter(self._calls)))
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"  # noqa: S101
        self._calls[task] = monotonic()
        return task

    def refusal(self, task: asyncio.Task[Any], context: Context) -> QrngError | None:
        """Return why `task` was cancelled, and take that back, if it was done here; else None.

        InvalidRequestError when no message came in time, or not before `limit` others waited; DrainingError when the
        server ends before.
        """
        if task in self._calls or context.cancelled():
            return None
        silent = _silent(task)
        return _draining() if self._draining else silent

    def forget(self, task: asyncio.Task[Any]) -> None:
        """Count `task` no longer."""
        self._calls.pop(task, None)

    def look(self) -> None:
        """End the calls that have waited too long. To be called now and then."""
        too_long_s = monotonic() - self._patience_s
        for task in [task for task, since_s in self._calls.items() if since_s <= too_long_s]:
            self._give_up(task)

    def drain(self) -> None:
        """End every call that waits."""
        self._draining = True
        for task in tuple(self._calls):
            self._give_up(task)

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        del self._calls[task]
        task.cancel()


async def read_in_time(context: Context, patience_s: float) -> Any:
    """Return the next message of the client, grpc.aio.EOF after its last.

    Raises InvalidRequestError when none comes within `patience_s` seconds.
    """
    task = asyncio.current_task()
    assert task is not None, "a handler runs in a task"  # noqa: S101
    loop = asyncio.get_running_loop()
    rings_s = loop.time() + patience_s
    bell = loop.call_at(rings_s, task.cancel)
    try:
        return await context.read()
    except asyncio.CancelledError:
        if loop.time() < rings_s or context.cancelled():
            raise
        raise _silent(task) from None
    finally:
        bell.cancel()


def _silent(task: asyncio.Task[Any]) -> InvalidRequestError:
    """Return why `task` was cancelled by ourselves, and take the cancellation back."""
    task.uncancel()
    return InvalidRequestError("no message came in time")


def register(
    add_to_server: Callable[[Any, Any], None],
    servicer: object,
    server: grpc.aio.Server,
    unread: Unread | None = None,
) -> None:
    """Register `servicer` by its generated `add_..._to_server`, with unreadable requests as MALFORMED.

    Its attribute `codecs`, where it has one, has the codecs of methods with one of their own, by name. Its calls that
    wait for their one request are among `unread`, which several services of a server may share.
    """
    codecs = getattr(servicer, "codecs", {})
    add_to_server(servicer, _Registrar(server, unread or Unread(), codecs))


class _Registrar:
    """Stands in for a server while generated code registers, and passes the handlers on with readers of ours."""

    def __init__(self, server: grpc.aio.Server, unread: Unread, codecs: Mapping[str, Codec]) -> None:
        self._server = server
        self._unread = unread
        self._codecs = codecs

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Wait for the handlers by name, which follow."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Register `handlers` at the server, by what generated code calls the generic way.

        The other way, by method, has grpcio wait for the next call of each method apart, and with every call that
        comes begin to wait anew for all of them.
        """
        ours = {name: self._ours(name, handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, ours),))

    def _ours(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        codec = self._codecs.get(name)
        if codec is None:
            codec = Codec(handler.request_deserializer or bytes, handler.response_serializer)
        make, behaviour = _KINDS[handler.request_streaming, handler.response_streaming]
        method = getattr(handler, behaviour)
        return make(
            method if handler.request_streaming else _with_its_request(method, self._unread),
            request_deserializer=_reading_tolerantly(codec.read),
            response_serializer=codec.write,
        )


def _reading_tolerantly(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(serialised: bytes) -> Any:
        try:
            return parse(serialised)
        except DecodeError:
            return MALFORMED

    return read


def _with_its_request(
    method: Callable[[Any, Context], Awaitable[Any]], unread: Unread
) -> Callable[[Any, Context], Awaitable[Any]]:
    """Read the one request of a call ourselves: grpcio would wait for it as long as the client likes."""

    async def handler(_requests: object, context: Context) -> Any:
        task = unread.expect()  # as `Unread.read` does, but for one coroutine
        try:
            request = await context.read()
        except asyncio.CancelledError:
            refusal = unread.refusal(task, context)
            if refusal is None:
                raise
            return await refuse(context, refusal)
        finally:
            unread.forget(task)
        return await method(MALFORMED if request is grpc.aio.EOF else request, context)

    handler.whole = method  # type: ignore[attr-defined]  # for an engine that begins no call before its request is there
    return handler


# By whether requests and responses stream: how we register such a handler, and where it keeps its behaviour.
_KINDS: dict[tuple[bool, bool], tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], str]] = {
    (False, False): (grpc.stream_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.stream_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}


def _draining() -> DrainingError:
    return DrainingError(ENDING)
