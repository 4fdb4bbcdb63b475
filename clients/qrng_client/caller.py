"""Exchanges with one server, for threads.

Idea: what `qrng_grpc.sources.grpc` does for an event loop, over grpc's blocking channel: the same requests, the same
strict reading of replies, the same three modes. Any number of threads may ask at once.

A call that is kept open is used for one exchange at a time, and dropped, with whatever may still arrive on it, after
a time-out and after a reply that was refused. So a late reply is never taken for the next one. Which reply belongs to
which request is known in one of two ways:

    by its number   replies that repeat a number of their request are read by whoever asked: anything that nobody asked
                    for is found out by its number. This is the quick one.
    by its order    of other servers one reader, a thread that is always a reply ahead, hands each reply to whoever
                    waits for it; a reply that nobody waits for spoils the call.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import grpc
from pydantic import SecretStr

from qrng_client.access import ClientClosedError
from qrng_client.forking import GATE
from qrng_grpc.channel import Endpoint
from qrng_grpc.errors import SourceError
from qrng_grpc.exchange import (
    NO_REPLY,
    GrpcMethod,
    GrpcStatusError,
    exchange_credentials,
    exchange_metadata,
    exchange_options,
    failure_of_call,
)
from qrng_grpc.generic_codec import MalformedReplyError, Reply, RequestWriter, decode_reply

_END_S = 1.0
"""For so long a call that was dropped is waited for."""
_IDLE_S = 60.0
"""How often a watch looks at the time when no exchange runs."""


def open_caller(endpoint: Endpoint, method: GrpcMethod, api_key: SecretStr | None = None) -> Caller:
    """Return what makes exchanges with the server at `endpoint`. It opens its channel with the first one.

    Raises ValueError, without the value in its text, for an address, file or key that cannot be used.
    """
    modes = {"unary": _UnaryCaller, "server_streaming": _OneShotCaller, "bidi_streaming": _KeptCaller}
    return modes[method.mode](endpoint, method, api_key)


class Caller:
    """Exchanges with one server."""

    def __init__(self, endpoint: Endpoint, method: GrpcMethod, api_key: SecretStr | None) -> None:
        self._endpoint = endpoint
        self._method = method
        self._shape = method.shape
        self._write = RequestWriter(method.shape).write
        self._metadata = exchange_metadata(method, api_key)
        self._credentials = exchange_credentials(endpoint)
        self._echoes = itertools.count(1) if method.shape.echoes else itertools.repeat(None)
        self._opening = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._call: Any = None
        self._closed = False

    @property
    def opened(self) -> bool:
        """Whether it has a channel, or had one."""
        return self._channel is not None

    def ask(self, size: int, timeout_s: float) -> Reply:
        """Return one reply with `size` bytes, 1 to the method's `max_request_bytes`.

        `timeout_s` bounds all of it: connecting, waiting for one's turn, the reply. Raises GrpcStatusError,
        MalformedReplyError, and ClientClosedError once closed.
        """
        echo = next(self._echoes)
        request = self._write(size, echo)
        with GATE:
            try:
                payload = self._answer(request, timeout_s)
                if payload is None:
                    raise MalformedReplyError(NO_REPLY)
                return decode_reply(self._shape, payload, size=size, echo=echo)
            except grpc.RpcError as error:
                failure = _failure(error)
            except _ClosedChannelError:
                failure = GrpcStatusError(grpc.StatusCode.CANCELLED.name)
        # Raised out here, the error does not carry the other one, whose text may be the server's.
        self._check_open()
        raise failure

    def be_still(self) -> None:
        """Have no thread inside grpc. No exchange runs or begins."""

    def close(self) -> None:
        """Close the channel; running exchanges end with ClientClosedError."""
        self._closed = True
        with self._opening:
            self._forget()
            if self._channel is not None:
                self._channel.close()

    def _answer(self, request: bytes, timeout_s: float) -> bytes | None:
        """Return what answers `request`; None when the call ended well and without a reply."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Drop what is kept open besides the channel."""

    def _new_call(self, request: Any, timeout_s: float | None) -> Any:
        """Begin a call."""
        begin = self._call or self._opened()
        try:
            return begin(request, timeout=timeout_s, metadata=self._metadata)
        except ValueError as error:  # which is what grpc makes of a closed channel
            raise _ClosedChannelError from error

    def _opened(self) -> Any:
        """Return what begins calls, on a channel that is opened for it once."""
        with self._opening:
            self._check_open()
            if self._channel is None:
                self._channel = _open_channel(self._endpoint.address, self._credentials, self._method)
                self._call = self._calls_on(self._channel, self._method.path)
            return self._call

    def _calls_on(self, channel: grpc.Channel, path: str) -> Any:
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError("the client is closed")


class _ClosedChannelError(Exception):
    """A call was to begin on a channel that is closed."""


class _UnaryCaller(Caller):
    """A call per exchange."""

    def _calls_on(self, channel: grpc.Channel, path: str) -> Any:
        return channel.unary_unary(path, None, None)

    def _answer(self, request: bytes, timeout_s: float) -> bytes | None:
        reply: bytes | None = self._new_call(request, timeout_s)
        return reply


class _OneShotCaller(Caller):
    """The stream method, opened for one exchange and then cancelled."""

    def _calls_on(self, channel: grpc.Channel, path: str) -> Any:
        return channel.unary_stream(path, None, None)

    def _answer(self, request: bytes, timeout_s: float) -> bytes | None:
        call = self._new_call(request, timeout_s)
        try:
            reply: bytes | None = next(call, None)
            return reply
        finally:
            call.cancel()


class _KeptCaller(Caller):
    """One call of the stream method, kept open, for one exchange after the other."""

    def __init__(self, endpoint: Endpoint, method: GrpcMethod, api_key: SecretStr | None) -> None:
        super().__init__(endpoint, method, api_key)
        self._stream = _NumberedStream if method.shape.echoes else _OrderedStream
        self._kept: _KeptStream | None = None
        self._turn = threading.Lock()

    def ask(self, size: int, timeout_s: float) -> Reply:
        """Return one reply with `size` bytes, as every caller; exchanges take turns."""
        if not self._turn.acquire(blocking=False):
            timeout_s = self._await_turn(timeout_s)
        try:
            return Caller.ask(self, size, timeout_s)
        except BaseException:
            # Whatever it was, a reply may still be under way, and would be taken for the next one's.
            self._forget()
            raise
        finally:
            self._turn.release()

    def _await_turn(self, timeout_s: float) -> float:
        """Take the turn when it comes; return how much is left of the time."""
        end_s = time.monotonic() + timeout_s
        if not self._turn.acquire(timeout=timeout_s):
            raise GrpcStatusError(grpc.StatusCode.DEADLINE_EXCEEDED.name)
        return max(0.0, end_s - time.monotonic())

    def be_still(self) -> None:
        """Drop the call that is kept open, if any, and wait for its end."""
        kept = self._kept
        self._forget()
        if kept is not None:
            kept.await_end()

    def _calls_on(self, channel: grpc.Channel, path: str) -> Any:
        return channel.stream_stream(path, None, None)

    def _answer(self, request: bytes, timeout_s: float) -> bytes | None:
        """Make an exchange on the kept call, or on a new one where that has ended or brought what nobody asked for.

        The kept call may be ending just now. Where it ends well and without a reply, the server was done with it
        before, and the request goes out once more.
        """
        kept = self._kept
        if kept is not None and kept.good:
            message = kept.exchange(request, timeout_s)
            if message is not None:
                return message
        self._forget()
        kept = self._kept = self._stream(lambda requests: self._new_call(requests, None))
        self._check_open()  # A `close` of just now has not seen it.
        return kept.exchange(request, timeout_s)

    def _forget(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.drop()


_Begin = Callable[[Iterator[bytes]], Any]
"""Begins a call that sends what the iterator yields."""


class _KeptStream:
    """A bidirectional call, for one exchange at a time."""

    def __init__(self, begin: _Begin) -> None:
        self.good = True
        """Whether the call goes on, as far as is known, and has brought nothing that was not asked for."""
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._call = begin(iter(self._requests.get, None))

    def exchange(self, request: bytes, timeout_s: float) -> bytes | None:
        """Return the reply to `request`; None when the call ended well instead. Raises SourceError."""
        raise NotImplementedError

    def drop(self) -> None:
        """End the call. Whatever arrives on it from now on is nobody's."""
        self.good = False
        self._call.cancel()
        self._requests.put(None)

    def await_end(self) -> None:
        """Wait until no thread of ours is inside a call that was dropped, which takes a moment."""


class _NumberedStream(_KeptStream):
    """A call whose replies repeat their requests' numbers. Whoever asks reads; a thread looks at the time."""

    def __init__(self, begin: _Begin) -> None:
        super().__init__(begin)
        self._watch = _Watch(self._call.cancel)
        if not self._call.add_callback(self._ended):
            self._ended()

    def exchange(self, request: bytes, timeout_s: float) -> bytes | None:
        """Ask, and read."""
        watch = self._watch
        watch.begin(timeout_s)
        self._requests.put(request)
        try:
            reply: bytes | None = next(self._call, None)
        except grpc.RpcError as error:
            late = watch.expired
            failure = GrpcStatusError(grpc.StatusCode.DEADLINE_EXCEEDED.name) if late else _failure(error)
        else:
            watch.end_s = math.inf
            return reply
        raise failure

    def _ended(self) -> None:
        self.good = False

    def drop(self) -> None:
        """End the call, and the watch."""
        super().drop()
        self._watch.end()


class _OrderedStream(_KeptStream):
    """A call whose replies are told apart by their order. One thread reads them, always a reply ahead."""

    def __init__(self, begin: _Begin) -> None:
        super().__init__(begin)
        self._asked = False
        self._replies: SimpleQueue[bytes | SourceError | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="qrng-stream-reader", daemon=True)
        self._reader.start()

    def exchange(self, request: bytes, timeout_s: float) -> bytes | None:
        """Ask, and wait for the reader."""
        self._asked = True
        self._requests.put(request)
        try:
            reply = self._replies.get(timeout=timeout_s)
        except Empty:
            reply = GrpcStatusError(grpc.StatusCode.DEADLINE_EXCEEDED.name)
        if isinstance(reply, SourceError):
            raise reply
        return reply

    def await_end(self) -> None:
        """Wait for the reader."""
        self._reader.join(_END_S)

    def _read(self) -> None:
        end: SourceError | None = None
        try:
            for message in self._call:
                if not self._asked:
                    break
                self._asked = False
                self._replies.put(message)
        except grpc.RpcError as error:
            end = _failure(error)
        self.drop()
        self._replies.put(end)


class _Watch:
    """Cancels a call when an exchange on it takes too long.

    It does not wake up for each exchange: while there are some it looks at the time twice within the time-out, and
    when there is none it sleeps, until one begins that would end before it looks again.
    """

    def __init__(self, cancel: Callable[[], object]) -> None:
        self.expired = False
        self._cancel = cancel
        self.end_s = math.inf
        """When the exchange that runs is late; infinity when none runs."""
        self._looks_s = math.inf
        self._timeout_s = 0.0
        self._over = False
        self._wake = threading.Event()
        threading.Thread(target=self._look, name="qrng-stream-watch", daemon=True).start()

    def begin(self, timeout_s: float) -> None:
        """Let an exchange begin that may take so long."""
        self._timeout_s = timeout_s
        self.end_s = end_s = time.monotonic() + timeout_s
        if end_s < self._looks_s:
            self._wake.set()

    def end(self) -> None:
        """Watch no longer."""
        self._over = True
        self._wake.set()

    def _look(self) -> None:
        while not self._over:
            timeout_s, self._timeout_s = self._timeout_s, 0.0
            now_s = time.monotonic()
            # Set before the end is read: whoever begins after that, and ends sooner, wakes us.
            self._looks_s = now_s + (timeout_s / 2 or _IDLE_S)
            if self.end_s <= now_s:
                self.expired = True
                self._cancel()
                return
            self._looks_s = min(self.end_s, self._looks_s)
            self._wake.wait(max(0.0, self._looks_s - now_s))
            self._wake.clear()


def _failure(error: grpc.RpcError) -> SourceError:
    call: Any = error  # which is what grpc's calls for threads raise
    return failure_of_call(call.code(), call.trailing_metadata(), call.details())


def _open_channel(address: str, credentials: grpc.ChannelCredentials | None, method: GrpcMethod) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, options=exchange_options(method))
    return grpc.secure_channel(address, credentials, options=exchange_options(method))
