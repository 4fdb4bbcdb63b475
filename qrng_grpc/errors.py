"""What can go wrong, and how it is told.

Idea: one tree. Each class knows its gRPC status, its HTTP status and its machine-readable reason
(`ErrorReason` in errors.proto); `error_details.py` turns them into `google.rpc.Status`, the REST
facade into JSON, and the client back into the same classes.

    QrngError
    ├── InvalidRequestError     a size or field out of range
    ├── UnsupportedError        a field this server does not support yet
    ├── AuthenticationError     no key, or a wrong one
    ├── ForbiddenError          a good key, but not for this method
    ├── LimitError              over a rate, a quota or a bound
    ├── PoolShortError          not enough bytes in time
    ├── SourceUnavailableError  the source behind a server does not deliver now
    ├── WeakerSourceError       only weaker sources than the client accepts
    ├── DrainingError           the server ends
    ├── HeldError               a chunk must wait at its collector
    │   ├── UnverifiedChunkError  unknown key, bad signature
    │   ├── ForeignChunkError     collector, pool or class not the key's
    │   ├── FutureChunkError      captured ahead of our clock
    │   ├── EpochBelowMarkError   the collector's epoch went back
    │   ├── PoolFullError         full under back-pressure
    │   ├── MarkNotWrittenError   the mark could not be made durable
    │   └── SupersededError       a newer call of the same collector took over
    ├── ServerUnreachableError  a client could not reach its server in time
    ├── SourceError             a source did not deliver what was asked of it
    ├── StateError              state on disk is locked, unsafe or corrupt
    │   └── StateHeldError        it is another process's now
    └── ConfigError             settings that cannot be used; lists every mistake

No message holds entropy, a key or the text of another party.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

ERROR_DOMAIN = "qrng"


class QrngError(Exception):
    """Anything this project raises on purpose."""

    grpc_status: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, retry_after_s: float | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        """When a repetition may help, in seconds; None when it is not known to."""
        self.field = field
        """The request field at fault, where there is one."""


class InvalidRequestError(QrngError):
    """A size or another field of the request is out of its range or malformed."""

    grpc_status = "INVALID_ARGUMENT"
    http_status = 400
    reason = "INVALID_ARGUMENT"


class UnsupportedError(QrngError):
    """The request uses a field this server does not support yet."""

    grpc_status = "UNIMPLEMENTED"
    http_status = 501
    reason = "UNSUPPORTED"


class AuthenticationError(QrngError):
    """The key is missing or wrong; which of the two is not told."""

    grpc_status = "UNAUTHENTICATED"
    http_status = 401
    reason = "INVALID_KEY"


class ForbiddenError(QrngError):
    """The key is good, but its client may not call this method."""

    grpc_status = "PERMISSION_DENIED"
    http_status = 403
    reason = "FORBIDDEN"


class LimitError(QrngError):
    """Over a rate, a quota or a bound."""

    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 429
    reason = "LIMIT_EXCEEDED"


class PoolShortError(QrngError):
    """The pool did not hold enough bytes within the time the claim could wait."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    reason = "POOL_SHORT"


class SourceUnavailableError(QrngError):
    """The source behind a server without a pool does not deliver now, or failed its tests."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    reason = "SOURCE_UNAVAILABLE"


class WeakerSourceError(QrngError):
    """Only sources weaker than the least class asked for."""

    grpc_status = "FAILED_PRECONDITION"
    http_status = 503
    reason = "WEAKER_SOURCE"


ENDING = "the server is ending; reconnect"
"""What callers hear when a server ends, from the server and from our clients."""


class DrainingError(QrngError):
    """The server ends; reconnect."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    reason = "DRAINING"


class HeldError(QrngError):
    """A chunk that must wait at its collector."""


class UnverifiedChunkError(HeldError):
    """Unknown, expired or revoked key, or a bad signature."""

    grpc_status = "UNAUTHENTICATED"
    http_status = 401
    reason = "UNVERIFIED_CHUNK"


class ForeignChunkError(HeldError):
    """Collector, pool or class is not the key's."""

    grpc_status = "PERMISSION_DENIED"
    http_status = 403
    reason = "FOREIGN_CHUNK"


class FutureChunkError(HeldError):
    """Captured ahead of the gateway's clock beyond its tolerance."""

    grpc_status = "FAILED_PRECONDITION"
    http_status = 503
    reason = "CHUNK_FROM_FUTURE"


class EpochBelowMarkError(HeldError):
    """The chunk's epoch is below the mark's. Remedy: stop the gateway, delete that mark."""

    grpc_status = "FAILED_PRECONDITION"
    http_status = 503
    reason = "EPOCH_BELOW_MARK"


class PoolFullError(HeldError):
    """The pool is full and set to press back."""

    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 503
    reason = "POOL_FULL"


class MarkNotWrittenError(HeldError):
    """The mark could not be made durable, so nothing of the group was stored."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    reason = "MARK_NOT_WRITTEN"


class SupersededError(HeldError):
    """A newer call of the same collector took over."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    reason = "CALL_SUPERSEDED"


class ServerUnreachableError(QrngError):
    """A client could not reach its server, or had no answer in time."""

    grpc_status = "UNAVAILABLE"
    http_status = 503
    reason = "UNREACHABLE"


class SourceError(QrngError):
    """A source did not deliver what was asked of it."""

    reason = "SOURCE_FAILED"


class StateError(QrngError):
    """State on disk is locked by another process, unsafe or corrupt."""

    reason = "STATE_UNUSABLE"


class StateHeldError(StateError):
    """State on disk belongs to another process for now."""


class ConfigError(QrngError):
    """Settings that cannot be used.

    `mistakes` lists all of them, each naming its setting and never its value.
    """

    reason = "CONFIG_INVALID"

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(["the configuration cannot be used:", *(f"  - {m}" for m in self.mistakes)]))


def _tree(cls: type[QrngError]) -> list[type[QrngError]]:
    return [cls, *(member for child in cls.__subclasses__() for member in _tree(child))]


ERRORS_BY_REASON = {cls.reason: cls for cls in reversed(_tree(QrngError))}
"""The class that stands for each reason, for clients that read one off the wire."""
