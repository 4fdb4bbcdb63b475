"""The error tree, and its passage through gRPC trailers."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from qrng_grpc.error_details import PUSHBACK_KEY, STATUS_KEY, error_from_trailers, status_code, trailers
from qrng_grpc.errors import ERROR_DOMAIN, ERRORS_BY_REASON, ConfigError, HeldError, QrngError, SourceError, StateError
from qrng_grpc.v1 import errors_pb2

STAY_HOME = {"UNREACHABLE", "SOURCE_FAILED", "STATE_UNUSABLE", "CONFIG_INVALID"}
"""Reasons of errors that one program meets by itself; no server sends them."""
ON_THE_WIRE = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
TRAVELLERS = [cls for reason, cls in ERRORS_BY_REASON.items() if reason not in STAY_HOME]


def status_with(*details: Any) -> tuple[tuple[str, bytes], ...]:
    status = Status(code=13, message="theirs")
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return ((STATUS_KEY, status.SerializeToString()),)


def test_reasons_and_classes_agree() -> None:
    """Every reason of errors.proto has its class, and every class a reason there unless it never travels."""
    assert set(ERRORS_BY_REASON) - STAY_HOME == ON_THE_WIRE
    assert not STAY_HOME & ON_THE_WIRE
    assert set(ERRORS_BY_REASON) >= STAY_HOME


def test_reason_stands_for_one_class() -> None:
    """Reasons are not shared, except that the mere branch HeldError goes by INTERNAL as its root does."""
    assert ERRORS_BY_REASON["INTERNAL"] is QrngError
    assert all(cls.reason == reason for reason, cls in ERRORS_BY_REASON.items())
    branches = [cls for cls in QrngError.__subclasses__() if "reason" not in vars(cls)]
    assert branches == [HeldError]


@pytest.mark.parametrize("cls", ERRORS_BY_REASON.values())
def test_statuses_exist(cls: type[QrngError]) -> None:
    """Each class names a gRPC status that exists and an HTTP status of an error."""
    assert grpc.StatusCode[cls.grpc_status] is not grpc.StatusCode.OK
    assert 400 <= cls.http_status <= 599


@pytest.mark.parametrize("cls", TRAVELLERS)
@pytest.mark.parametrize("retry_after_s", [None, 0.0, 0.25, 7.0, 3600.5])
@pytest.mark.parametrize("field", [None, "bytes_needed"])
def test_round_trip(cls: type[QrngError], retry_after_s: float | None, field: str | None) -> None:
    """A client reads off the trailers the class, the field and the time that the server meant."""
    error = cls("what went wrong", retry_after_s=retry_after_s, field=field)
    read = error_from_trailers(trailers(error), "what went wrong")
    assert type(read) is cls
    assert (str(read), read.retry_after_s, read.field) == ("what went wrong", retry_after_s, field)


def test_pushback_is_whole_milliseconds_rounded_up() -> None:
    """The trailer of gRFC A6 is there with a retry hint only, and never early."""
    keys = dict(trailers(QrngError("x", retry_after_s=0.0001)))
    assert keys[PUSHBACK_KEY] == "1"
    assert PUSHBACK_KEY not in dict(trailers(QrngError("x")))


def test_status_in_the_trailers_is_complete() -> None:
    """A client that knows google.rpc only finds code, message, reason and domain."""
    error = TRAVELLERS[1]("said")
    raw = dict(trailers(error))[STATUS_KEY]
    assert isinstance(raw, bytes)
    status, info = Status.FromString(raw), ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (status_code(error).value[0], "said")
    assert (info.reason, info.domain) == (error.reason, ERROR_DOMAIN)


@pytest.mark.parametrize(
    "error", [StateError("/var/lib/x is damaged"), SourceError("10.0.0.1 refused"), ConfigError(["hmac: short"])]
)
def test_what_stays_home_is_not_told(error: QrngError) -> None:
    """An error of the server's own affairs goes out as INTERNAL, without its text."""
    raw = dict(trailers(error))[STATUS_KEY]
    assert isinstance(raw, bytes)
    assert error.message.encode() not in raw
    assert type(error_from_trailers(trailers(error), "")) is QrngError


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("other", "x"),),
        ((STATUS_KEY, "text"),),
        ((STATUS_KEY, b"\xff\xff"),),
        ((STATUS_KEY, b""),),
        status_with(),
        status_with(ErrorInfo(reason="POOL_SHORT", domain="example.com")),
        status_with(ErrorInfo(reason="NEVER_HEARD_OF", domain=ERROR_DOMAIN)),
        *(status_with(ErrorInfo(reason=reason, domain=ERROR_DOMAIN)) for reason in sorted(STAY_HOME)),
    ],
)
def test_foreign_trailers_are_no_error_of_ours(metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    """Trailers of another server, damaged ones, and reasons that never travel are not read as ours."""
    assert error_from_trailers(metadata, "text") is None


def test_damaged_detail_is_no_error_of_ours() -> None:
    """A detail that announces a type and does not hold it makes the status unreadable."""
    status = Status(details=[Packed(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")])
    assert error_from_trailers(((STATUS_KEY, status.SerializeToString()),), "text") is None


def test_negative_delay_is_no_delay() -> None:
    """A server that says to come back in the past has said nothing."""
    info = ErrorInfo(reason="POOL_SHORT", domain=ERROR_DOMAIN)
    read = error_from_trailers(status_with(info, RetryInfo(retry_delay=Duration(seconds=-5))), "text")
    assert read is not None
    assert read.retry_after_s is None


def test_config_error_lists_every_mistake() -> None:
    """The text of a ConfigError has one line for each mistake."""
    error = ConfigError(["port: required", "key: too short"])
    assert error.mistakes == ("port: required", "key: too short")
    assert str(error).splitlines()[1:] == ["  - port: required", "  - key: too short"]
