"""An exchange with any entropy server: a number out, exactly as many bytes in.

Idea: what is true of an exchange whether a thread or an event loop makes it stands here once: how a server is spoken to
(`GrpcMethod`), what the channel to it may do, what travels beside a request, and what is taken of a call that failed.

    unary               a call per exchange
    server_streaming    the bidirectional method, opened for one exchange and then cancelled, as clients in the field do
    bidi_streaming      one call, kept open, for one exchange after the other

Of a refusal we take the status code's name, the time to stay away where it names one, the reason where the server is
one of ours, and which of a few known *symptoms* it shows: an address that does not resolve, one that no route leads
to, a port on which no gRPC is spoken. Its texts and other metadata are neither kept nor raised, not as the cause of an
error either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import grpc
from pydantic import SecretStr

from qrng_grpc.channel import Endpoint, channel_credentials
from qrng_grpc.error_details import PUSHBACK_KEY, error_from_trailers
from qrng_grpc.errors import ConfigError, QrngError, SourceError
from qrng_grpc.generic_codec import (
    MAX_COUNT,
    REPLY_OVERHEAD_BYTES,
    MalformedReplyError,
    MessageShape,
    Reply,
    decode_reply,
)

Mode = Literal["unary", "server_streaming", "bidi_streaming"]
Metadata = tuple[tuple[str, str], ...]

MAX_REQUEST_BYTES = 16 << 20
"""The most that can be asked for at once: 16 MiB."""
NO_REPLY = "the call ended well, but without a reply"
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


class Symptom(Enum):
    """What else is known of a call that failed, and helps to find out why."""

    UNRESOLVED = "the address does not resolve"
    UNROUTED = "no route leads from this machine to that address"
    REFUSED = "nothing listens there"
    NO_GRPC = "what answers there does not speak gRPC"
    TLS = "the TLS handshake failed"
    BROKEN_OFF = "the connection was closed"


_SYMPTOMS = (
    ("rrors resolving", Symptom.UNRESOLVED),
    ("DNS resolution failed", Symptom.UNRESOLVED),
    ("Tls handshake failed", Symptom.TLS),
    ("Failed parsing HTTP/2", Symptom.NO_GRPC),
    ("http1.x server", Symptom.NO_GRPC),
    ("http2 header with status", Symptom.NO_GRPC),
    ("Network is unreachable", Symptom.UNROUTED),
    ("No route to host", Symptom.UNROUTED),
    ("Host is down", Symptom.UNROUTED),
    ("Address family not supported", Symptom.UNROUTED),
    ("Connection refused", Symptom.REFUSED),
    ("connect failed", Symptom.REFUSED),
    ("Socket closed", Symptom.BROKEN_OFF),
)
"""Words of gRPC's own, and of the system's, in the order in which they count: "connect failed" stands before others of
these. A peer can write them too, and gains nothing by it."""
_TOO_LARGE = "Received message larger than max"


class GrpcStatusError(SourceError):
    """The call ended without a reply."""

    def __init__(
        self,
        status: str,
        *,
        retry_after_s: float | None = None,
        symptom: Symptom | None = None,
        told: QrngError | None = None,
        forbids_retry: bool = False,
    ) -> None:
        super().__init__(f"the call to the source ended with status {status}", retry_after_s=retry_after_s)
        self.status = status
        """The name of its gRPC status code."""
        self.symptom = symptom
        self.told = told
        """The error that a server of this project raised, without its text."""
        self.forbids_retry = forbids_retry
        """Whether the server said that nobody should try again."""


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
        checked_header(self.api_key_header)


def exchange_options(method: GrpcMethod) -> tuple[tuple[str, int], ...]:
    """Return the gRPC channel arguments for exchanges by `method`: no message is larger than it can have asked for."""
    return (*_CHANNEL_OPTIONS, ("grpc.max_receive_message_length", method.max_request_bytes + REPLY_OVERHEAD_BYTES))


def exchange_credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    """Return what protects a channel to `endpoint`; None for plaintext. Raises ValueError for what cannot be used."""
    try:
        return channel_credentials(endpoint)
    except ConfigError as error:
        mistake = error.mistakes[0]
    raise ValueError(mistake)


def exchange_metadata(method: GrpcMethod, api_key: SecretStr | None) -> Metadata:
    """Return what every call carries beside its request. Raises ValueError for a key that cannot travel."""
    return () if api_key is None else ((method.api_key_header, checked_key(api_key)),)


def checked_header(header: str) -> str:
    """Return the name of the metadata in which a key travels. Raises ValueError when it cannot be one."""
    if _HEADER.fullmatch(header) is None:
        raise ValueError("api_key_header: expected a name of metadata for text, in lower case")
    return header


def checked_key(api_key: SecretStr) -> str:
    """Return the key. Raises ValueError, without it, when it cannot travel: gRPC would quote it in its own error."""
    key = api_key.get_secret_value()
    if _KEY.fullmatch(key) is None:
        raise ValueError("api_key: expected 1 to 1024 printable ASCII characters, no space at either end")
    return key


def read_message(method: GrpcMethod, payload: bytes | None, *, size: int, echo: int | None) -> Reply:
    """Return what `payload` says, exactly `size` bytes. Raises MalformedReplyError; None is a call without a reply."""
    if payload is None:
        raise MalformedReplyError(NO_REPLY)
    return decode_reply(method.shape, payload, size=size, echo=echo)


def failure_of_call(
    code: grpc.StatusCode, trailers: Iterable[tuple[str, str | bytes]] | None, details: str | None
) -> SourceError:
    """Return the error that stands for a call that ended with `code`. `details` is looked through, never kept."""
    status, words = code.name, details or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in words:
        return MalformedReplyError("the reply is larger than any that this request calls for")
    beside = tuple(trailers or ())
    hint_s = pushback_s(beside)
    return GrpcStatusError(
        status,
        retry_after_s=hint_s if status in _PUSHING_BACK else None,
        symptom=symptom_in(words),
        told=error_from_trailers(beside, status),
        forbids_retry=hint_s is None and any(key == PUSHBACK_KEY for key, _ in beside),
    )


def symptom_in(details: str | None) -> Symptom | None:
    """Return the symptom that the text of a call's end tells of, if any. The text is looked through, never kept."""
    return next((symptom for known, symptom in _SYMPTOMS if known in (details or "")), None)


def pushback_s(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return the seconds that `grpc-retry-pushback-ms` names (gRFC A6), 0 to 3600.

    None when it is not there; and when it says, with a negative number or anything else that is no time, that nobody
    should try again.
    """
    value = next((value for key, value in metadata if key == PUSHBACK_KEY), "")
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isdecimal()):
        return None
    return min(float(text) / 1000, MAX_RETRY_AFTER_S)
