"""What went wrong with a server, in words that name the setting to look at, and whether asking again can help.

Idea: a failure is one of a few kinds: a status code, a reply that is not believed, a symptom of the connection. Each
has one text of ours and one *course*. FINAL: nothing will change by asking again. ELSEWHERE: not at this server.
AGAIN: here or elsewhere, after a while; a refusal for a limit only after the time the server named itself.

The text of a peer is in none of this.
"""

from __future__ import annotations

from enum import Enum

import grpc

from qrng_client.entropy import BadReplyError
from qrng_client.failures import ERRORS_BY_CODE, TEXT_BY_REASON
from qrng_grpc.errors import (
    AuthenticationError,
    ConfigError,
    DrainingError,
    ForbiddenError,
    InvalidRequestError,
    QrngError,
    SourceError,
    UnsupportedError,
    WeakerSourceError,
)
from qrng_grpc.exchange import GrpcStatusError, Mode, Symptom
from qrng_grpc.generic_codec import MalformedReplyError, WrongEchoError

_Code = grpc.StatusCode
_CODES = {code.name: code for code in grpc.StatusCode}

MISTAKES = (InvalidRequestError, AuthenticationError, ForbiddenError, UnsupportedError, ConfigError)
"""Errors that a fall-back would only hide: the caller or the settings are wrong, and stay so."""

_AGAIN = frozenset(
    code.name
    for code in (
        _Code.UNAVAILABLE,
        _Code.DEADLINE_EXCEEDED,
        _Code.INTERNAL,
        _Code.UNKNOWN,
        _Code.ABORTED,
        _Code.CANCELLED,
    )
)
_HINTED = frozenset((_Code.RESOURCE_EXHAUSTED.name,))
"""Asked again only where the server names a time."""
_LOOK_AT = {
    _Code.INVALID_ARGUMENT: "QR_GRPC_MAX_REQUEST_BYTES may be more than it gives at once, or it reads the number of"
    " bytes elsewhere than in QR_GRPC_COUNT_FIELD",
    _Code.UNAUTHENTICATED: "QR_GRPC_API_KEY, sent as QR_GRPC_API_KEY_HEADER, or QR_GRPC_CERT_FILE",
    _Code.DEADLINE_EXCEEDED: "QR_GRPC_TIMEOUT_MS is how long it may take; where nothing ever answers, see"
    " QR_GRPC_SERVER_ADDRESS",
}
_SYMPTOMS = {
    Symptom.UNRESOLVED: "see QR_GRPC_SERVER_ADDRESS",
    Symptom.UNROUTED: "see QR_GRPC_SERVER_ADDRESS, and whether this machine is in the network of the server",
    Symptom.REFUSED: "see QR_GRPC_SERVER_ADDRESS, and whether the server is up",
    Symptom.NO_GRPC: "QR_GRPC_SERVER_ADDRESS may be that of a web page, or of something else",
    Symptom.TLS: "the server may have none (QR_GRPC_TLS), or a certificate for another host or of an authority that is"
    " not in QR_GRPC_CA_FILE",
    Symptom.BROKEN_OFF: "a server with TLS needs QR_GRPC_TLS or QR_GRPC_CA_FILE",
}


class Course(Enum):
    """What may be done about a failure."""

    FINAL = "final"
    ELSEWHERE = "elsewhere"
    AGAIN = "again"


def course_of(failure: QrngError) -> Course:
    """Return what may be done about `failure` of one exchange."""
    if isinstance(failure, MalformedReplyError | WeakerSourceError):
        return Course.ELSEWHERE
    if not isinstance(failure, GrpcStatusError) or failure.forbids_retry:
        return Course.FINAL
    if failure.status in _HINTED and failure.retry_after_s is not None:
        return Course.AGAIN
    return Course.AGAIN if failure.status in _AGAIN else Course.FINAL


def server_is_down(failure: QrngError) -> bool:
    """Say whether `failure` counts against the server, rather than being its considered answer."""
    if isinstance(failure, GrpcStatusError):
        told_something = failure.told is not None and not isinstance(failure.told, DrainingError)
        return failure.status in _AGAIN and not told_something
    return isinstance(failure, MalformedReplyError)


def explained(failure: QrngError, address: str, mode: Mode) -> QrngError:
    """Return `failure` of an exchange with the server at `address` as what its caller is to see."""
    if isinstance(failure, GrpcStatusError):
        return _explained_status(failure, address, mode)
    if isinstance(failure, MalformedReplyError):
        field = "QR_GRPC_REPLY_ECHO_FIELD" if isinstance(failure, WrongEchoError) else "QR_GRPC_DATA_FIELD"
        return BadReplyError(f"{address}: {failure.message}; {field} and {_path_setting(mode)} say what is read")
    if isinstance(failure, SourceError):
        return SourceError(f"{address}: {failure.message}", retry_after_s=failure.retry_after_s)
    return failure


def _explained_status(failure: GrpcStatusError, address: str, mode: Mode) -> QrngError:
    code, told = _CODES[failure.status], failure.told
    cls, text = ERRORS_BY_CODE.get(code, (QrngError, "the call failed"))
    look_at = _LOOK_AT.get(code)
    if code is _Code.UNIMPLEMENTED:
        look_at = f"{_path_setting(mode)} names no method of its, or QR_GRPC_MODE one it lacks"
    if failure.symptom is not None and told is None:
        text, look_at = failure.symptom.value, _SYMPTOMS[failure.symptom]
    if told is not None:
        cls, text = type(told), TEXT_BY_REASON.get(told.reason, text)
    retry_after_s = failure.retry_after_s if told is None or told.retry_after_s is None else told.retry_after_s
    hint = f"; {look_at}" if look_at else ""
    return cls(f"{address}: {text} ({code.name}){hint}", retry_after_s=retry_after_s)


def _path_setting(mode: Mode) -> str:
    return "QR_GRPC_METHOD_PATH" if mode == "unary" else "QR_GRPC_STREAM_METHOD_PATH"
