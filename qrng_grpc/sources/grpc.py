"""Any gRPC server that hands out random bytes, by settings alone.

Idea: a `GrpcMethod` says how a server is spoken to, an `Endpoint` where it is, and the codec of
`qrng_grpc.generic_codec` what a reply must be; no server has code of its own here. A `GrpcCaller` makes
one exchange (see `qrng_grpc.exchange`), a number out and exactly as many bytes in; a `GrpcSource` is such a
caller with a label, which splits what is more than the server gives at once.

On a call that is kept open replies belong to requests by their order only. So it is used for one
exchange at a time, by one reader that is always a reply ahead: a reply nobody asked for, a call that
ended, shows before the next request is written. And it is kept only while every exchange on it was
good: after a time-out, a cancelled read or a reply that was refused it is dropped, and with it whatever
may still arrive. A shape with an echo adds to this that each reply names its request.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeAlias

import grpc
import grpc.aio
from pydantic import SecretStr

from qrng_grpc.channel import Endpoint
from qrng_grpc.errors import SourceError
from qrng_grpc.exchange import (
    GrpcMethod,
    GrpcStatusError,
    Mode,
    exchange_credentials,
    exchange_metadata,
    exchange_options,
    failure_of_call,
    pushback_s,
    read_message,
)
from qrng_grpc.generic_codec import Reply, encode_request
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device

__all__ = ["GrpcCaller", "GrpcMethod", "GrpcSource", "GrpcStatusError", "Mode", "pushback_s"]

_Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes | None]"
_OneShot: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"
_Bidirectional: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, bytes]"


class GrpcCaller:
    """Exchanges with one server. It opens its channel with the first one and closes it in `close`.

    `api_key` travels in the metadata of every call and nowhere else. Raises ValueError, without the
    value in its text, for an address, CA file or key that cannot be used.
    """

    def __init__(self, endpoint: Endpoint, method: GrpcMethod, *, api_key: SecretStr | None = None) -> None:
        self._endpoint = endpoint
        self._method = method
        self._metadata = exchange_metadata(method, api_key)
        self._credentials = exchange_credentials(endpoint)
        self._echoes = itertools.count(1)
        self._channel: grpc.aio.Channel | None = None
        self._kept: _Stream | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def exchange(self, size: int, *, timeout_s: float, echo: int | None = None) -> bytes:
        """Return `size` bytes of one reply. As `ask`, without the rest of what the reply says."""
        return (await self.ask(size, timeout_s=timeout_s, echo=echo)).data

    async def ask(self, size: int, *, timeout_s: float, echo: int | None = None) -> Reply:
        """Return one reply with `size` bytes, 1 to `max_request_bytes`.

        `timeout_s` bounds all of it: connecting, waiting for one's turn, the reply. `echo` is the
        number a reply must repeat, where the shape has one; of itself it counts from 1.

        Raises GrpcStatusError, with `retry_after_s` (0 to 3600) where the server named a time,
        MalformedReplyError, and SourceError once closed; ValueError for a size or echo out of its range.
        Cancelled, it drops its call, and the bytes with it.
        """
        if not 1 <= size <= self._method.max_request_bytes:
            raise ValueError("size: out of range")
        if echo is None and self._method.shape.echoes:
            echo = next(self._echoes)
        request = encode_request(self._method.shape, size, echo=echo)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(request, size, echo, timeout_s)
        except TimeoutError:
            failure: SourceError = GrpcStatusError(grpc.StatusCode.DEADLINE_EXCEEDED.name)
        except grpc.aio.AioRpcError as error:
            failure = _failure(error)
        except asyncio.CancelledError:
            if not self._closed or _being_cancelled():
                raise
            failure = SourceError("the source is closed")
        # Raised out here, the error does not carry the other one, whose text may be the server's.
        raise failure

    async def close(self) -> None:
        """Close the channel; running exchanges end with SourceError."""
        self._closed = True
        self._forget()
        if self._channel is not None:
            await self._channel.close()

    async def _answer(self, request: bytes, size: int, echo: int | None, timeout_s: float) -> Reply:
        match self._method.mode:
            case "unary":
                return read_message(self._method, await self._unary(request, timeout_s), size=size, echo=echo)
            case "server_streaming":
                return read_message(self._method, await self._one_shot(request, timeout_s), size=size, echo=echo)
            case "bidi_streaming":
                return await self._over_kept_stream(request, size, echo, timeout_s)

    async def _unary(self, request: bytes, timeout_s: float) -> bytes | None:
        method: _Unary = self._opened().unary_unary(self._method.path, None, None)
        return await method(request, timeout=timeout_s, metadata=self._metadata)

    async def _one_shot(self, request: bytes, timeout_s: float) -> bytes | None:
        """Return the first reply to the only request of a call, and end the call."""
        method: _OneShot = self._opened().unary_stream(self._method.path, None, None)
        call = method(request, timeout=timeout_s, metadata=self._metadata)
        try:
            return _message(await _read(call))
        finally:
            call.cancel()

    async def _over_kept_stream(self, request: bytes, size: int, echo: int | None, timeout_s: float) -> Reply:
        async with self._turn:
            try:
                payload = await self._kept_exchange(request, timeout_s)
                reply = read_message(self._method, payload, size=size, echo=echo)
            except BaseException:
                # Whatever it was, a reply may still be under way, and would be taken for the next one's.
                self._forget()
                raise
            if self._kept is not None:
                self._kept.read_ahead()
            return reply

    async def _kept_exchange(self, request: bytes, timeout_s: float) -> bytes | None:
        """Make an exchange on the kept call, or on a new one where that has ended or brought what nobody asked for.

        The kept call may be ending just now. Where the request can no longer be written, or the call ends
        well and without a reply, the server was done with it before, and the request goes out once more.
        """
        if self._kept is not None and self._kept.ready and await self._kept.write(request):
            message = await self._kept.reply()
            if message is not None:
                return message
        self._forget()
        self._kept = self._new_stream()
        if await self._kept.write(request):
            return await self._kept.reply()
        # It ended even before. Why, grpc tells reliably only a call that brings its request along.
        self._forget()
        return await self._one_shot(request, timeout_s)

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept.drop()
            self._kept = None

    def _new_stream(self) -> _Stream:
        method: _Bidirectional = self._opened().stream_stream(self._method.path, None, None)
        return _Stream(method(metadata=self._metadata))

    def _opened(self) -> grpc.aio.Channel:
        if self._closed:
            raise SourceError("the source is closed")
        if self._channel is None:
            self._channel = _open_channel(self._endpoint.address, self._credentials, self._method)
        return self._channel


class GrpcSource:
    """Bytes of a gRPC server.

    Its class, device id and custody are yours to state. `timeout_s` bounds a whole read. Nothing is
    opened before the first read. Raises ValueError, without the value in its text, for arguments that
    cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        method: GrpcMethod,
        *,
        source_class: SourceClass,
        device_id: str,
        custody: Custody = Custody.LOCAL,
        api_key: SecretStr | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self.label = one_device(device_id, source_class, custody)
        self._caller = GrpcCaller(endpoint, method, api_key=api_key)
        self._most = method.max_request_bytes
        self._timeout_s = timeout_s

    async def read(self, size: int) -> bytes:
        """Return `size` bytes of the server, fetched one request after the other where it takes several.

        Raises SourceError, as `GrpcCaller.exchange`; what earlier requests brought is lost then.
        Cancelled, it drops its call.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._timeout_s
        parts = []
        for at in range(0, size, self._most):
            part = min(self._most, size - at)
            parts.append(await self._caller.exchange(part, timeout_s=max(0.0, end_s - loop.time())))
        return b"".join(parts)

    async def close(self) -> None:
        """Close the connection; running reads end with SourceError."""
        await self._caller.close()


class _Stream:
    """A bidirectional call and its reader."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.read_ahead()

    @property
    def ready(self) -> bool:
        """Whether the call goes on and has brought nothing that was not asked for."""
        return not self._next.done()

    def read_ahead(self) -> None:
        """Begin to read the next reply."""
        self._next = asyncio.ensure_future(_read(self._call))

    async def write(self, request: bytes) -> bool:
        """Write `request`; say whether the call still took it."""
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return False
        return True

    async def reply(self) -> bytes | None:
        """Return the next reply; None when the call ended well. Raises GrpcStatusError."""
        return _message(await self._next)

    def drop(self) -> None:
        """End the call. Whatever arrives on it from now on is nobody's."""
        self._call.cancel()
        self._next.cancel()


async def _read(call: Any) -> bytes | SourceError | None:
    """Read. An error is returned, not raised: nobody may be there to take it, and then asyncio would print it."""
    try:
        message = await call.read()
    except grpc.aio.AioRpcError as error:
        return _failure(error)
    return message if isinstance(message, bytes) else None


def _message(read: bytes | SourceError | None) -> bytes | None:
    if isinstance(read, SourceError):
        raise read
    return read


def _being_cancelled() -> bool:
    """Say whether somebody cancels this task; if not, a CancelledError is only that of a call that was ended."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure(error: grpc.aio.AioRpcError) -> SourceError:
    return failure_of_call(error.code(), error.trailing_metadata(), error.details())


def _open_channel(address: str, credentials: grpc.ChannelCredentials | None, method: GrpcMethod) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=exchange_options(method))
    return grpc.aio.secure_channel(address, credentials, options=exchange_options(method))
