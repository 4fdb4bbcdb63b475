from __future__ import annotations

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from qrng_client.failures import error_of_call
from qrng_grpc.channel import Endpoint
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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(120, "120.0 s"), (121, "3 minutes"), (7200, "120 minutes"), (7201, "2.1 hours"), (81_360, "22.6 hours")],
)
def test_long_waits_are_told_in_words(seconds: float, words: str) -> None:
    """Nobody reads 81360 s; rounded up, since sooner would be in vain."""
    told = LimitError("x", retry_after_s=seconds)
    error = error_of_call(status_code(told), trailers(told))
    assert str(error).endswith(f"; try again in {words}")
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    ("endpoint", "hint"),
    [
        (Endpoint("localhost:7"), "localhost:7; is it running? It was tried without TLS: "),
        (Endpoint("localhost:7", tls=True), "localhost:7; is it running? It was tried with TLS: "),
    ],
)
def test_unreachable_says_where(endpoint: Endpoint, hint: str) -> None:
    """Who reaches nobody is told the address, and that the ends may disagree about TLS, in our words alone."""
    assert hint in str(error_of_call(grpc.StatusCode.UNAVAILABLE, (("x", "evil"),), endpoint))
    slow = str(error_of_call(grpc.StatusCode.DEADLINE_EXCEEDED, None, endpoint))
    assert slow == "the server did not answer in time (DEADLINE_EXCEEDED): localhost:7"
    assert "localhost" not in str(error_of_call(grpc.StatusCode.INTERNAL, None, endpoint))


def test_field_at_fault_is_told_in_a_sentence() -> None:
    """Which field the server refused is part of the sentence."""
    told = InvalidRequestError("x", field="processing")
    assert "refused the field processing of the request" in str(error_of_call(status_code(told), trailers(told)))
