"""From a failed call to one of our errors.

Idea: a server of ours says in its trailers what happened, and the client raises the class the server
raised. From anybody else only the status code is taken. The text is ours in both cases: what a peer
writes ends in no message of ours. (grpc itself may write it to standard error, unless GRPC_VERBOSITY is
NONE before it is imported, as the `qrng` command sees to.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import grpc

from qrng_grpc.channel import Endpoint
from qrng_grpc.error_details import error_from_trailers
from qrng_grpc.errors import (
    ENDING,
    AuthenticationError,
    ForbiddenError,
    InvalidRequestError,
    LimitError,
    QrngError,
    ServerUnreachableError,
    UnsupportedError,
)
from qrng_grpc.exchange import Symptom, symptom_in
from qrng_grpc.v1 import entropy_pb2

_Code = grpc.StatusCode
_MINUTE_S = 60
_HOUR_S = 3600

ERRORS_BY_CODE: dict[_Code, tuple[type[QrngError], str]] = {
    _Code.INVALID_ARGUMENT: (InvalidRequestError, "the server refused a size or another field of the request"),
    _Code.OUT_OF_RANGE: (InvalidRequestError, "the server refused a size or another field of the request"),
    _Code.UNAUTHENTICATED: (AuthenticationError, "the server did not accept the API key or certificate"),
    _Code.PERMISSION_DENIED: (ForbiddenError, "the API key or certificate is good, but not for this call"),
    _Code.RESOURCE_EXHAUSTED: (LimitError, "over a rate, a quota or a bound of the server"),
    _Code.UNIMPLEMENTED: (UnsupportedError, "the server does not support this call or one of its fields"),
    _Code.UNAVAILABLE: (ServerUnreachableError, "the server could not be reached"),
    _Code.DEADLINE_EXCEEDED: (ServerUnreachableError, "the server did not answer in time"),
}
"""The error that stands for each status code, and what it says; QrngError for others."""
_FIELD_BY_CODE = {
    _Code.INVALID_ARGUMENT: "the server refused the field {} of the request, out of range or nothing it can serve",
    _Code.UNIMPLEMENTED: "the server does not support what the request has in its field {}",
}
TEXT_BY_REASON = {
    "POOL_SHORT": "the pool did not hold enough bytes in time",
    "SOURCE_UNAVAILABLE": "the server's source does not deliver now",
    "DRAINING": ENDING,
    "WEAKER_SOURCE": "the gateway has only sources weaker than the least class asked for",
}
_AT_FAULT = {
    Symptom.UNRESOLVED: "see QR_GRPC_SERVER_ADDRESS (--address)",
    Symptom.UNROUTED: "see QR_GRPC_SERVER_ADDRESS (--address), and whether this machine is in the server's network",
}
"""What makes an address one that no server could answer at, whatever is said of TLS."""
_REQUESTS = (entropy_pb2.GetEntropyRequest, entropy_pb2.SubscribeEntropyRequest, entropy_pb2.StreamEntropyRequest)
_FIELDS = {field.name for request in _REQUESTS for field in request.DESCRIPTOR.fields}


def error_of_call(
    code: grpc.StatusCode,
    trailers: Iterable[tuple[str, str | bytes]] | None,
    endpoint: Endpoint | None = None,
    details: str | None = None,
) -> QrngError:
    """Return the error that stands for a call that ended with `code`, to `endpoint` where that is known.

    `details` is looked through for a symptom, never kept.
    """
    cls, text = ERRORS_BY_CODE.get(code, (QrngError, "the call failed"))
    told = error_from_trailers(trailers or (), "")
    if told is None:
        return cls(f"{text} ({code.name}){_where(code, endpoint, symptom_in(details))}")
    text = TEXT_BY_REASON.get(told.reason, text)
    field = told.field if told.field in _FIELDS else None
    if field:
        text = _FIELD_BY_CODE[code].format(field) if code in _FIELD_BY_CODE else f"{text}: {field}"
    return type(told)(f"{text} ({code.name}){_when(told.retry_after_s)}", retry_after_s=told.retry_after_s, field=field)


def _where(code: grpc.StatusCode, endpoint: Endpoint | None, symptom: Symptom | None) -> str:
    """Say where no answer came from, and what else than a server that is down could be the reason."""
    if endpoint is None or code not in (_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED):
        return ""
    if code is _Code.DEADLINE_EXCEEDED:
        return f": {endpoint.address}"
    if symptom in _AT_FAULT:
        return f": {endpoint.address}; {symptom.value}; {_AT_FAULT[symptom]}"
    if endpoint.encrypted:
        hint = "tried with TLS: the server may have none, or a certificate of another authority or for another host"
    else:
        hint = "tried without TLS: a server with TLS needs tls or ca_file (--tls, --ca-file)"
    return f": {endpoint.address}; is it running? It was {hint}"


def _when(retry_after_s: float | None) -> str:
    """Say when to come back, rounded up, since sooner would be in vain."""
    return "" if retry_after_s is None else f"; try again in {_in_words(retry_after_s)}"


def _in_words(seconds: float) -> str:
    if seconds <= 2 * _MINUTE_S:
        return f"{math.ceil(seconds * 10) / 10:.1f} s"
    if seconds <= 2 * _HOUR_S:
        return f"{math.ceil(seconds / _MINUTE_S)} minutes"
    return f"{math.ceil(seconds / _HOUR_S * 10) / 10:.1f} hours"
