"""The engine `native`: HTTP/2 in Rust, by pygrpc-native, outside Python's lock.

Idea: in grpc.aio a short call costs mostly hops between threads. Here a Rust thread gathers whole requests; a Python
thread takes them in batches and hands each batch to the event loop. There one task serves call after call, each with a
context that has what servicers of ours ask of one; when a call has to wait, the task stays with it, and another
serves the rest. Tasks with nothing to do wait for the next batch to wake them. Replies go back without another hop.

The package's own `aio` server is not used but the layer below it, whose interface it promises to keep: that server has
no bound for calls, and each stream whose client does not read holds a thread of the loop's executor, which here also
writes the marks and the audit log.

Methods with a stream of requests are carried by a grpcio server on a Unix socket in a directory of our own, to
which Rust passes them on. Who calls them cannot be seen there: `_FromHere` says what is known, that they reached
a listener which only this machine can reach.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from errno import EAGAIN
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from pygrpc_native import EVENT_CANCEL, STREAM_CLOSED, STREAM_FULL, STREAM_SENT, NativeGrpcFront

from qrng_gateway.engines.waker import Waker
from qrng_grpc.error_details import STATUS_KEY, status_code, trailers
from qrng_grpc.errors import ENDING, DrainingError, LimitError, QrngError
from qrng_grpc.logs import get_log
from qrng_grpc.serving import (
    MAX_METADATA_BYTES,
    MAX_STREAMS_A_CONNECTION,
    NO_ACK_MS,
    QUIET_MS,
)

Metadata = Sequence[tuple[str, str | bytes]]
Event = tuple[int, int, int, Any, Any, Any]

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

THIS_MACHINE = "ipv4:127.0.0.1"
"""Who reaches a Unix socket, in the words of grpc's `context.peer()`."""
_BATCH = 64
_RUST_THREADS = 1
"""Two cost more for each call and, beside Python's one, carry no more of them."""
_LOOKS = 4
"""How often a message looks for room, with whatever else there is to do in between, before it waits."""
_KEPT_TASKS = 16
"""Tasks that wait for calls at most. There are more while more calls wait for bytes."""
MAX_WAITING_THREADS = 16
"""Streams whose next message waits in a thread until there is room."""
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.0005, 0.02
"""How long it waits between looks where there is no thread for it: at first, and at most."""

log = get_log()


@dataclass(frozen=True, slots=True)
class _Method:
    """A method with one request: how it is served, and how its messages are read and written."""

    behaviour: Callable[[Any, Any], Awaitable[Any]]
    streams: bool
    """Whether it has a stream of replies."""
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]

    @classmethod
    def of(cls, handler: Handler, *, streams: bool) -> _Method:
        """Return the method that `handler` serves."""
        read, write = handler.request_deserializer or bytes, handler.response_serializer or bytes
        return cls(_behaviour(handler), streams, read, write)


class _Waiting:
    """Where messages wait until their stream has room.

    The front wakes whoever waits in a thread, and there are a few threads for that. Streams whose clients do not read
    may hold them all; then the others look for room now and then.
    """

    def __init__(self, front: NativeGrpcFront) -> None:
        self._front = front
        self._threads = ThreadPoolExecutor(MAX_WAITING_THREADS, "native-engine-write")
        self._held = 0

    async def send(self, call_id: int, text: bytes) -> bool:
        """Send a message of a stream once there is room. False when the client has left."""
        if self._held < MAX_WAITING_THREADS:
            loop = asyncio.get_running_loop()
            self._held += 1
            return await loop.run_in_executor(self._threads, self._send, call_id, text, loop)
        wait_s = _FIRST_LOOK_S
        while (sent := self._front.stream_try_send(call_id, text)) == STREAM_FULL:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_LOOK_S)
        return sent != STREAM_CLOSED

    def close(self) -> None:
        """End the threads; to be called once the front is closed, which wakes them."""
        self._threads.shutdown()

    def _send(self, call_id: int, text: bytes, loop: asyncio.AbstractEventLoop) -> bool:
        try:
            return self._front.stream_send(call_id, text)
        finally:
            loop.call_soon_threadsafe(self._free)

    def _free(self) -> None:
        self._held -= 1


class _Call:
    """A call, and its context: what servicers of the gateway ask of a `grpc.aio.ServicerContext`."""

    __slots__ = (
        "_details",
        "_front",
        "_left",
        "_method",
        "_payload",
        "_status",
        "_trailing",
        "_until_s",
        "_waiting",
        "call_id",
        "task",
    )

    def __init__(
        self, front: NativeGrpcFront, waiting: _Waiting, call_id: int, method: _Method, payload: bytes, details: Any
    ) -> None:
        self._front = front
        self._waiting = waiting
        self.call_id = call_id
        self._method = method
        self._payload = payload
        self._details = details
        self.task: asyncio.Task[None] | None = None
        """Who serves it, once somebody does."""
        left_s = details[2]
        self._until_s: float | None = None if left_s is None else monotonic() + left_s
        self._left = False
        self._trailing: Metadata = ()
        self._status: tuple[int, str] | None = None

    def peer(self) -> str:
        """Return who calls."""
        peer: str = self._details[1]
        return _on_this_machine(peer) if peer.startswith("unix") else peer

    def invocation_metadata(self) -> Metadata:
        """Return what came with the request."""
        metadata: Metadata = self._details[0]
        return metadata

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Return nothing: there is no TLS here."""
        return {}

    def time_remaining(self) -> float | None:
        """Return how many seconds are left until the client's deadline; None without one."""
        return None if self._until_s is None else max(0.0, self._until_s - monotonic())

    def cancelled(self) -> bool:
        """Say whether the client has left, or its deadline has passed."""
        return self._left

    def set_trailing_metadata(self, trailing: Metadata) -> None:
        """Set what the trailers say when the call ends well."""
        self._trailing = trailing

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Send the headers of a stream. Raises CancelledError when the client has left."""
        if not self._front.stream_send_initial_metadata(self.call_id, list(metadata)):
            self._gone()

    async def write(self, message: Any) -> None:
        """Send a message of a stream, once there is room. Raises CancelledError when the client has left."""
        text = self._method.write(message)
        for _ in range(_LOOKS):
            sent = self._front.stream_try_send(self.call_id, text)
            if sent != STREAM_FULL:
                break
            await asyncio.sleep(0)
        else:
            sent = STREAM_SENT if await self._waiting.send(self.call_id, text) else STREAM_CLOSED
        if sent == STREAM_CLOSED:
            self._gone()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with a status other than OK. Raises AbortError, which its handler lets through."""
        self._status = (code.value[0], details)
        self._trailing = trailing_metadata or self._trailing
        raise grpc.aio.AbortError

    def leave(self) -> None:
        """Note that the client has left, and cancel the handler."""
        self._left = True
        if self.task is not None:
            self.task.cancel()

    async def serve(self) -> None:
        """Have the method answer, and send what became of it."""
        method = self._method
        if self._left:
            return
        try:
            reply = await method.behaviour(method.read(self._payload), self)
            if method.streams:
                self._front.stream_end(self.call_id, list(self._trailing))
            else:
                self._front.respond(self.call_id, method.write(reply), None, list(self._trailing) or None)
        except grpc.aio.AbortError:
            self._fail(*(self._status or (grpc.StatusCode.UNKNOWN.value[0], "")))
        except asyncio.CancelledError:
            if not self._left:  # the server has ended: nobody else cancels a handler through
                _refuse(self._front, self.call_id, _draining())
            raise
        except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
            log.error("call_failed", fault=type(fault).__name__)
            self._trailing = ()
            self._fail(grpc.StatusCode.INTERNAL.value[0], "an internal fault; the server's log has the rest")

    def _fail(self, code: int, details: str) -> None:
        self._front.fail(self.call_id, code, details, _sendable(self._trailing))

    def _gone(self) -> NoReturn:
        self._left = True
        raise asyncio.CancelledError


class NativeServer(grpc.aio.Server):
    """A server of one plaintext listener. `fallback` carries methods with streams of requests, and is its own.

    Requests above `max_message_bytes` are refused, but only once they have come whole; calls beyond `max_calls` at
    once, and `max_streams`, MAX_STREAMS_A_CONNECTION at most, bound those of one connection.
    """

    def __init__(self, fallback: grpc.aio.Server, *, max_message_bytes: int, max_streams: int, max_calls: int) -> None:
        self._fallback = fallback
        self._max_message_bytes = max_message_bytes
        self._max_streams = min(max_streams, MAX_STREAMS_A_CONNECTION)
        self._max_calls = max_calls
        self._methods: dict[str, _Method] = {}
        self._table: list[_Method] = []
        self._calls: dict[int, _Call] = {}
        self._begun: deque[_Call] = deque()
        self._servers: set[asyncio.Task[None]] = set()
        self._idle: list[Waker] = []
        """Tasks that wait for calls: what wakes each."""
        self._stopping = False
        self._ended = asyncio.Event()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of services, each with what its `ServiceRpcHandler` has for it."""
        for handlers in generic_rpc_handlers:
            assert isinstance(handlers, grpc.ServiceRpcHandler), "generated code registers services"  # noqa: S101
            self._add(handlers)

    def add_insecure_port(self, address: str) -> int:
        """Bind to HOST:PORT, or unix:PATH. Raises RuntimeError when that cannot be."""
        if _is_served(address):
            raise RuntimeError(f"somebody serves at {address}")
        try:
            self._front = NativeGrpcFront(
                address,
                [],
                io_threads=_RUST_THREADS,
                call_details=True,
                delay_stream_headers=True,
                keepalive_time_ms=QUIET_MS,
                keepalive_timeout_ms=NO_ACK_MS,
                max_concurrent_streams=self._max_streams,
                max_metadata_size=MAX_METADATA_BYTES,
                metrics=True,
            )
        except OSError as error:
            raise RuntimeError(f"cannot bind to {address}") from error
        self._waiting = _Waiting(self._front)
        return self._front.bound_port

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Raise NotImplementedError."""
        raise NotImplementedError("this engine has no TLS")

    async def start(self) -> None:
        """Serve."""
        self._directory = tempfile.TemporaryDirectory(prefix="qrng-engine-")
        private = str(Path(self._directory.name) / "socket")
        self._fallback.add_insecure_port(f"unix:{private}")
        await self._fallback.start()
        self._front.set_fallback(private)
        self._front.add_methods([(path, method.streams) for path, method in self._methods.items()])
        self._table = list(self._methods.values())
        self._loop = asyncio.get_running_loop()
        self._front.start()
        self._hand_over = Thread(target=self._hand_over_batches, name="native-engine", daemon=True)
        self._hand_over.start()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, let those that run finish for `grace` seconds, end them, and close all connections."""
        self._stopping = True
        until_s = monotonic() + (grace or 0)
        others = asyncio.ensure_future(self._fallback.stop(grace))
        while self._idle:  # who is idle ends at once, the others after the calls that they serve
            self._loop.call_soon(self._idle.pop().wake)
        while self._servers and (left_s := until_s - monotonic()) > 0:
            await asyncio.wait(self._servers, timeout=left_s)
        while self._begun:  # behind calls that wait still
            _refuse(self._front, self._begun.popleft().call_id, _draining())
        for task in (tasks := set(self._servers)):
            task.cancel()
        await asyncio.gather(*tasks, others, return_exceptions=True)
        await self._hand_out(until_s)
        await asyncio.to_thread(self._close)
        self._ended.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped, `timeout` seconds at most. Returns whether that was too short."""
        try:
            await asyncio.wait_for(self._ended.wait(), timeout)
        except TimeoutError:
            return True
        return False

    def _add(self, handlers: grpc.ServiceRpcHandler) -> None:
        service = descriptor_pool.Default().FindServiceByName(handlers.service_name())
        passed_on = {}
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            handler = handlers.service(_Path(path))
            if handler is None:
                continue
            if method.client_streaming:
                passed_on[method.name] = _named(handler)
            else:
                self._methods[path] = _Method.of(handler, streams=method.server_streaming)
        self._fallback.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, passed_on),))

    async def _hand_out(self, until_s: float) -> None:
        """Return once what calls were answered is on its way to clients that read, but at `until_s` at the latest.

        A call is over for us before its last message and its status are: they wait for room, and the front, when it is
        closed, gives them 0.1 s. Calls whose request has not come are among the front's open ones, and waited for too.
        """
        wait_s = _FIRST_LOOK_S
        while _has_open_calls(self._front) and monotonic() < until_s:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_LOOK_S)

    def _close(self) -> None:
        self._front.close()
        self._hand_over.join()
        self._waiting.close()
        self._directory.cleanup()

    def _hand_over_batches(self) -> None:
        """Take what comes, and have the event loop look at it. In a thread of its own, until the front is closed."""
        front, begin = self._front, self._loop.call_soon_threadsafe
        while (events := front.recv_batch_details(_BATCH)) is not None:
            begin(self._begin, events)
            del events  # keys of clients are in them, and the next may be long in coming

    def _begin(self, events: list[Event]) -> None:
        front, calls, begun = self._front, self._calls, self._begun
        for kind, call_id, number, payload, _, details in events:
            if kind == EVENT_CANCEL:
                if call_id in calls:
                    calls.pop(call_id).leave()
                continue
            refusal = self._refusal(payload)
            if refusal is not None:
                _refuse(front, call_id, refusal)
                continue
            call = calls[call_id] = _Call(front, self._waiting, call_id, self._table[number], payload, details)
            begun.append(call)
        self._go_on()

    def _go_on(self) -> None:
        """Have a task serve what was begun; should a call make it wait, the rest is another's."""
        while self._begun and self._idle:
            self._idle.pop().wake()
        if self._begun:
            self._servers.add(server := self._loop.create_task(self._serve()))
            server.add_done_callback(self._servers.discard)
            self._loop.call_soon(self._go_on)

    async def _serve(self) -> None:
        """Serve what was begun and what will be, until a call is cancelled or the server ends."""
        waker = Waker(self._loop)
        while True:
            await self._serve_begun()
            if self._stopping or len(self._idle) >= _KEPT_TASKS:
                return
            self._idle.append(waker)
            await waker

    async def _serve_begun(self) -> None:
        """Serve what was begun. Within `_serve` the last call, and the key in it, would be kept while that waits."""
        task, begun, calls = asyncio.current_task(), self._begun, self._calls
        while begun:
            call = begun.popleft()
            call.task = task
            try:
                await call.serve()
            finally:
                calls.pop(call.call_id, None)

    def _refusal(self, payload: bytes) -> QrngError | None:
        """Return why a call with this request is not even begun; None when it is."""
        if len(payload) > self._max_message_bytes:
            return LimitError(f"the request has more than {self._max_message_bytes} bytes")
        if self._stopping:
            return _draining()
        if len(self._calls) >= self._max_calls:
            return LimitError("too many calls are open", retry_after_s=1)
        return None


@dataclass(frozen=True, slots=True)
class _Path(grpc.HandlerCallDetails):
    """What a handler of a service wants to know before it says who serves a method."""

    method: str
    invocation_metadata: tuple[()] = ()


class _FromHere:
    """The context of a call that was passed on, but for who calls."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def peer(self) -> str:
        """Return what is known: somebody on this machine."""
        return f"{THIS_MACHINE}:0"


def _named(handler: Handler) -> Handler:
    """Return a `handler` whose contexts tell from where a call came that was passed on."""
    behaviour = _behaviour(handler)
    make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler

    async def named(requests: Any, context: Any) -> Any:
        return await behaviour(requests, _FromHere(context))

    return make(named, handler.request_deserializer, handler.response_serializer)


def _behaviour(handler: Handler) -> Callable[[Any, Any], Awaitable[Any]]:
    """Return what serves the calls of `handler`: a coroutine function, as all servicers here have."""
    behaviour: Callable[[Any, Any], Awaitable[Any]] = next(
        filter(None, (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream))
    )
    return getattr(behaviour, "whole", behaviour)


def _is_served(address: str) -> bool:
    """Say whether somebody listens at a Unix socket: the front would put its own in the place of any."""
    family, _, path = address.partition(":")
    if family != "unix":
        return False
    with socket.socket(socket.AF_UNIX) as visitor, suppress(OSError):  # a path may be too long for a socket
        visitor.setblocking(False)
        return visitor.connect_ex(path) in (0, EAGAIN)
    return False


def _on_this_machine(peer: str) -> str:
    """Return an address with the number of the connection, for a `peer` at a Unix socket."""
    return f"{THIS_MACHINE}:{peer.partition(':')[2]}"


def _has_open_calls(front: NativeGrpcFront) -> bool:
    """Say whether the status of any call is still to be sent."""
    counts = front.metrics()
    assert counts is not None, "the front was told to count"  # noqa: S101
    return any(
        method["started"] > sum(ended["count"] for ended in method["status"].values())
        for method in counts["methods"].values()
    )


def _refuse(front: NativeGrpcFront, call_id: int, error: QrngError) -> None:
    front.fail(call_id, status_code(error).value[0], error.message, _sendable(trailers(error)))


def _sendable(trailing: Metadata) -> list[tuple[str, str | bytes]]:
    """Return what of `trailing` the front sends: no names of gRPC's own, but for the details of a status."""
    return [entry for entry in trailing if entry[0] == STATUS_KEY or not entry[0].startswith("grpc-")]


def _draining() -> DrainingError:
    return DrainingError(ENDING)
