"""Errors on the wire: `google.rpc.Status` in the trailers, as Google's AIP-193 has it.

Idea: the status code tells a generic client what kind of failure it met, one `ErrorInfo` tells a
program exactly which, and `RetryInfo` with the trailer `grpc-retry-pushback-ms` (gRFC A6) when to
come back. Only reasons of errors.proto travel: an error of a server's own affairs (its state, its
sources, its settings) goes out as INTERNAL without its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from qrng_grpc.errors import ERROR_DOMAIN, ERRORS_BY_REASON, QrngError
from qrng_grpc.v1 import errors_pb2

STATUS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

Metadata = tuple[tuple[str, str | bytes], ...]


_PUBLISHED = {name for name, _ in errors_pb2.ErrorReason.items()}
_TRAVELLING = {reason: cls for reason, cls in ERRORS_BY_REASON.items() if f"ERROR_REASON_{reason}" in _PUBLISHED}


def status_code(error: QrngError) -> grpc.StatusCode:
    """Return the gRPC status code of `error`."""
    return grpc.StatusCode[error.grpc_status]


def trailers(error: QrngError) -> Metadata:
    """Return the trailing metadata that explains `error`: a `google.rpc.Status`, perhaps a push-back."""
    if error.reason not in _TRAVELLING:
        error = QrngError("internal error")
    status = Status(code=status_code(error).value[0], message=error.message)
    _attach(status, ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN))
    if error.field is not None:
        violation = BadRequest.FieldViolation(field=error.field, description=error.message)
        _attach(status, BadRequest(field_violations=[violation]))
    if error.retry_after_s is None:
        return ((STATUS_KEY, status.SerializeToString()),)
    retry_ms = ceil(error.retry_after_s * 1000)
    _attach(status, RetryInfo(retry_delay=Duration(seconds=retry_ms // 1000, nanos=retry_ms % 1000 * 1_000_000)))
    return ((STATUS_KEY, status.SerializeToString()), (PUSHBACK_KEY, str(retry_ms)))


def error_from_trailers(metadata: Iterable[tuple[str, str | bytes]], message: str) -> QrngError | None:
    """Return the error that a server of this project described in its trailers.

    None when they hold no readable `google.rpc.Status` of our domain: another server, or a proxy.
    """
    raw = next((value for key, value in metadata if key == STATUS_KEY), None)
    if not isinstance(raw, bytes):
        return None
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    try:
        for detail in Status.FromString(raw).details:
            for wanted in (info, bad_request, retry):
                detail.Unpack(wanted)
    except DecodeError:
        return None
    cls = _TRAVELLING.get(info.reason)
    if info.domain != ERROR_DOMAIN or cls is None:
        return None
    field = bad_request.field_violations[0].field if bad_request.field_violations else None
    return cls(message, retry_after_s=_delay_s(retry), field=field)


def _delay_s(retry: RetryInfo) -> float | None:
    """Return the delay in seconds; None when there is none, or one into the past."""
    delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return delay_s if retry.HasField("retry_delay") and delay_s >= 0 else None


def _attach(status: Status, detail: ErrorInfo | BadRequest | RetryInfo) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)
