"""Any gRPC server that hands out random bytes, by settings alone.

Idea: a `GrpcMethod` says how a server is spoken to, an `Endpoint` where it is, and the codec of
`qrng_grpc.generic_codec` what a reply must be; no server has code of its own here. A `GrpcCaller` makes
one exchange, a number out and exactly as many bytes in; a `GrpcSource` is such a caller with a label,
which splits what is more than the server gives at once.

    unary               a call per exchange
    server_streaming    the bidirectional method, opened for one exchange and then cancelled, as clients in the field do
    bidi_streaming      one call, kept open, for one exchange after the other

On a call that is kept open replies belong to requests by their order only. So it is used for one
exchange at a time, by one reader that is always a reply ahead: a reply nobody asked for, a call that
ended, shows before the next request is written. And it is kept only while every exchange on it was
good: after a time-out, a cancelled read or a reply that was refused it is dropped, and with it whatever
may still arrive. A shape with an echo adds to this that each reply names its request.

Of a server's refusal we take the status code's name and, where it names one, the time to stay away.
Its texts and other metadata are neither kept nor raised, not as the cause of an error either.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import grpc
import grpc.aio
from pydantic import SecretStr

from qrng_grpc.channel import Endpoint, channel_credentials
from qrng_grpc.error_details import PUSHBACK_KEY
from qrng_grpc.errors import ConfigError, SourceError
from qrng_grpc.generic_codec import (
    MAX_COUNT,
    REPLY_OVERHEAD_BYTES,
    MalformedReplyError,
    MessageShape,
    decode_reply,
    encode_request,
)
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device

Mode = Literal["unary", "server_streaming", "bidi_streaming"]
_Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes | None]"
_OneShot: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"
_Bidirectional: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, bytes]"

MAX_REQUEST_BYTES = 16 << 20
"""The most a source may be set to ask for at once: 16 MiB."""
MAX_RETRY_AFTER_S = 3600.0
"""A server cannot send us away for longer than an hour."""

_MAX_METADATA_BYTES = 8192
_PATH = re.compile(r"/[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"(?!grpc-)(?!.*-bin\Z)[a-z0-9_.-]{1,64}")
_KEY = re.compile(r"[!-~](?:[ -~]{0,1022}[!-~])?")
_PUSHING_BACK = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
_CHANNEL_OPTIONS = (
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
    # Nobody but the settings decides where calls go, how often they are tried and with what key.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A connection that died silently is found out within a call.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class GrpcStatusError(SourceError):
    """The call ended without a reply. `status` is the name of its gRPC status code."""

    def __init__(self, status: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"the call to the source ended with status {status}", retry_after_s=retry_after_s)
        self.status = status


@dataclass(frozen=True, slots=True)
class GrpcMethod:
    """How a server is spoken to.

    `path` is /PACKAGE.SERVICE/METHOD: of a unary method in mode `unary`, of a bidirectional one in the
    others. `max_request_bytes`, 1 to 16 MiB, is the most to ask for at once. `api_key_header` names the
    metadata in which a key travels: lower case, without `grpc-` before and `-bin` behind.

    Raises ValueError, naming the setting at fault.
    """

    path: str
    mode: Mode = "unary"
    shape: MessageShape = field(default_factory=MessageShape)
    max_request_bytes: int = 1 << 20
    api_key_header: str = "api-key"

    def __post_init__(self) -> None:
        if _PATH.fullmatch(self.path) is None:
            raise ValueError("path: expected /PACKAGE.SERVICE/METHOD")
        if self.mode not in ("unary", "server_streaming", "bidi_streaming"):
            raise ValueError("mode: expected unary, server_streaming or bidi_streaming")
        if not 1 <= self.max_request_bytes <= min(MAX_REQUEST_BYTES, MAX_COUNT):
            raise ValueError(f"max_request_bytes: expected 1 to {MAX_REQUEST_BYTES}")
        if _HEADER.fullmatch(self.api_key_header) is None:
            raise ValueError("api_key_header: expected a name of metadata for text")


class GrpcCaller:
    """Exchanges with one server. It opens its channel with the first one and closes it in `close`.

    `api_key` travels in the metadata of every call and nowhere else. Raises ValueError, without the
    value in its text, for an address, CA file or key that cannot be used.
    """

    def __init__(self, endpoint: Endpoint, method: GrpcMethod, *, api_key: SecretStr | None = None) -> None:
        self._endpoint = endpoint
        self._method = method
        self._metadata = _metadata(method.api_key_header, api_key)
        self._credentials = _credentials(endpoint)
        self._echoes = itertools.count(1)
        self._channel: grpc.aio.Channel | None = None
        self._kept: _Stream | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def exchange(self, size: int, *, timeout_s: float, echo: int | None = None) -> bytes:
        """Return `size` bytes, 1 to `max_request_bytes`, of one reply.

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
            failure = _status_error(error)
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

    async def _answer(self, request: bytes, size: int, echo: int | None, timeout_s: float) -> bytes:
        match self._method.mode:
            case "unary":
                return self._data(await self._unary(request, timeout_s), size, echo)
            case "server_streaming":
                return self._data(await self._one_shot(request, timeout_s), size, echo)
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

    async def _over_kept_stream(self, request: bytes, size: int, echo: int | None, timeout_s: float) -> bytes:
        async with self._turn:
            try:
                data = self._data(await self._kept_exchange(request, timeout_s), size, echo)
            except BaseException:
                # Whatever it was, a reply may still be under way, and would be taken for the next one's.
                self._forget()
                raise
            if self._kept is not None:
                self._kept.read_ahead()
            return data

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
            self._channel = _open_channel(self._endpoint.address, self._credentials, self._method.max_request_bytes)
        return self._channel

    def _data(self, payload: bytes | None, size: int, echo: int | None) -> bytes:
        if payload is None:
            raise MalformedReplyError("the call ended well, but without a reply")
        return decode_reply(self._method.shape, payload, size=size, echo=echo).data


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


async def _read(call: Any) -> bytes | GrpcStatusError | None:
    """Read. An error is returned, not raised: nobody may be there to take it, and then asyncio would print it."""
    try:
        message = await call.read()
    except grpc.aio.AioRpcError as error:
        return _status_error(error)
    return message if isinstance(message, bytes) else None


def _message(read: bytes | GrpcStatusError | None) -> bytes | None:
    if isinstance(read, GrpcStatusError):
        raise read
    return read


def _being_cancelled() -> bool:
    """Say whether somebody cancels this task; if not, a CancelledError is only that of a call that was ended."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _status_error(error: grpc.aio.AioRpcError) -> GrpcStatusError:
    status = error.code().name
    retry_after_s = None
    if status in _PUSHING_BACK:
        retry_after_s = pushback_s(error.trailing_metadata() or ())
    return GrpcStatusError(status, retry_after_s=retry_after_s)


def pushback_s(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return the seconds that `grpc-retry-pushback-ms` names (gRFC A6), 0 to 3600.

    None when it names none, or says with a negative number that nobody should try again.
    """
    value = next((value for key, value in metadata if key == PUSHBACK_KEY), "")
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isdecimal()):
        return None
    return min(float(text) / 1000, MAX_RETRY_AFTER_S)


def _open_channel(
    address: str, credentials: grpc.ChannelCredentials | None, max_request_bytes: int
) -> grpc.aio.Channel:
    most = max_request_bytes + REPLY_OVERHEAD_BYTES
    options = (*_CHANNEL_OPTIONS, ("grpc.max_receive_message_length", most))
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    try:
        return channel_credentials(endpoint)
    except ConfigError as error:
        mistake = error.mistakes[0]
    raise ValueError(mistake)


def _metadata(header: str, api_key: SecretStr | None) -> tuple[tuple[str, str], ...]:
    if api_key is None:
        return ()
    if _KEY.fullmatch(api_key.get_secret_value()) is None:
        raise ValueError("api_key: expected 1 to 1024 printable ASCII characters, no space at either end")
    return ((header, api_key.get_secret_value()),)
