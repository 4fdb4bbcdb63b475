from __future__ import annotations

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from qrng_client.failures import error_of_call
from qrng_grpc.error_details import STATUS_KEY, status_code, trailers
from qrng_grpc.errors import (
    AuthenticationError,
    DrainingError,
    ForbiddenError,
    InvalidRequestError,
    LimitError,
    PoolShortError,
    QrngError,
    ServerUnreachableError,
    UnsupportedError,
    WeakerSourceError,
)


@pytest.mark.parametrize(
    "cls",
    [
        InvalidRequestError,
        UnsupportedError,
        AuthenticationError,
        ForbiddenError,
        LimitError,
        PoolShortError,
        WeakerSourceError,
        DrainingError,
    ],
)
def test_told_error(cls: type[QrngError]) -> None:
    """What a server of ours raises, its client raises, with the hint but without the server's text."""
    told = cls("text of the server", retry_after_s=1.5, field="bytes_needed")
    error = error_of_call(status_code(told), trailers(told))
    assert type(error) is cls
    assert "text of the server" not in str(error)
    assert error.retry_after_s == 1.5
    assert str(error).endswith("; try again in 1.5 s")
    assert error.field == "bytes_needed"
    assert status_code(told).name in str(error)


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, ServerUnreachableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ServerUnreachableError),
        (grpc.StatusCode.UNAUTHENTICATED, AuthenticationError),
        (grpc.StatusCode.PERMISSION_DENIED, ForbiddenError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, LimitError),
        (grpc.StatusCode.UNIMPLEMENTED, UnsupportedError),
        (grpc.StatusCode.INTERNAL, QrngError),
        (grpc.StatusCode.DATA_LOSS, QrngError),
    ],
)
def test_strangers_error(code: grpc.StatusCode, cls: type[QrngError]) -> None:
    """Of another server's error only the status code counts."""
    error = error_of_call(code, ((STATUS_KEY, b"\xff not a status"), ("x", "evil\x1b[2J")))
    assert type(error) is cls
    assert code.name in str(error)
    assert "evil" not in str(error)
    assert type(error_of_call(code, None)) is cls


@pytest.mark.parametrize("reason", ["CONFIG_INVALID", "STATE_UNUSABLE", "NO_SUCH_REASON", ""])
def test_reason_that_never_travels(reason: str) -> None:
    """A reason that no server sends is nobody's word: the status code decides."""
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason=reason, domain="qrng"))
    status = Status(code=14, details=[detail])
    error = error_of_call(grpc.StatusCode.UNAVAILABLE, ((STATUS_KEY, status.SerializeToString()),))
    assert type(error) is ServerUnreachableError


def test_foreign_field() -> None:
    """A field that no request has is not repeated."""
    told = InvalidRequestError("", field="evil\x1b[2J")
    error = error_of_call(status_code(told), trailers(told))
    assert error.field is None
    assert "evil" not in str(error)


def test_not_sooner() -> None:
    """The text never tells to come back sooner than the hint."""
    told = LimitError("", retry_after_s=0.01)
    assert str(error_of_call(status_code(told), trailers(told))).endswith("; try again in 0.1 s")
