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

from qrng_grpc.error_details import error_from_trailers
from qrng_grpc.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidRequestError,
    LimitError,
    QrngError,
    ServerUnreachableError,
    UnsupportedError,
)
from qrng_grpc.v1 import entropy_pb2

_Code = grpc.StatusCode

_BY_CODE: dict[_Code, tuple[type[QrngError], str]] = {
    _Code.INVALID_ARGUMENT: (InvalidRequestError, "the server refused a size or another field of the request"),
    _Code.OUT_OF_RANGE: (InvalidRequestError, "the server refused a size or another field of the request"),
    _Code.UNAUTHENTICATED: (AuthenticationError, "the server did not accept the API key or certificate"),
    _Code.PERMISSION_DENIED: (ForbiddenError, "the API key or certificate is good, but not for this call"),
    _Code.RESOURCE_EXHAUSTED: (LimitError, "over a rate, a quota or a bound of the server"),
    _Code.UNIMPLEMENTED: (UnsupportedError, "the server does not support this call or one of its fields"),
    _Code.UNAVAILABLE: (ServerUnreachableError, "the server could not be reached"),
    _Code.DEADLINE_EXCEEDED: (ServerUnreachableError, "the server did not answer in time"),
}
_BY_REASON = {
    "POOL_SHORT": "the pool did not hold enough bytes in time",
    "DRAINING": "the server is ending; reconnect",
    "WEAKER_SOURCE": "the gateway has only sources weaker than the least class asked for",
}
_REQUESTS = (entropy_pb2.GetEntropyRequest, entropy_pb2.SubscribeEntropyRequest, entropy_pb2.StreamEntropyRequest)
_FIELDS = {field.name for request in _REQUESTS for field in request.DESCRIPTOR.fields}


def error_of_call(code: grpc.StatusCode, trailers: Iterable[tuple[str, str | bytes]] | None) -> QrngError:
    """Return the error that stands for a call that ended with `code`."""
    cls, text = _BY_CODE.get(code, (QrngError, "the call failed"))
    told = error_from_trailers(trailers or (), "")
    if told is None:
        return cls(f"{text} ({code.name})")
    text = _BY_REASON.get(told.reason, text)
    field = told.field if told.field in _FIELDS else None
    at = f": {field}" if field else ""
    return type(told)(
        f"{text}{at} ({code.name}){_when(told.retry_after_s)}", retry_after_s=told.retry_after_s, field=field
    )


def _when(retry_after_s: float | None) -> str:
    """Say when to come back, rounded up, since sooner would be in vain."""
    return "" if retry_after_s is None else f"; try again in {math.ceil(retry_after_s * 10) / 10:.1f} s"
