"""Times in files are exact, have their zone, and come back as they were written."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from qrng_grpc.moments import Moment, moment_ns, rfc_3339


class Form(BaseModel):
    at: Moment = None


@given(st.integers(0, 253_402_300_799 * 10**9))
def test_what_is_written_is_read_back(unix_ns: int) -> None:
    """Every nanosecond of the calendar survives being written."""
    assert moment_ns(rfc_3339(unix_ns)) == unix_ns


@pytest.mark.parametrize(
    ("text", "unix_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t01:00:00.5+01:00", 500_000_000),
        ("1970-01-01 00:00:00.000000001z", 1),
    ],
)
def test_forms_of_rfc_3339(text: str, unix_ns: int) -> None:
    """Zones, fractions and either case are read."""
    assert moment_ns(text) == unix_ns


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2027-01-01", "2027-01-01T00:00:00", "2027-13-01T00:00:00Z", "٢٠٢٧-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """A date, a time without its zone, and nonsense are no moments."""
    with pytest.raises(ValueError):
        moment_ns(text)


def test_a_model_reads_what_yaml_made_of_it() -> None:
    """YAML turns some times into objects; with a zone they count, without one they are refused, as numbers are."""
    moment = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
    assert Form(at=moment).at == Form(at="2027-01-01T00:00:00Z").at == moment_ns("2027-01-01T00:00:00Z")  # type: ignore[arg-type]
    assert Form(at=None).at is None
    for value in (moment.replace(tzinfo=None), datetime.date(2027, 1, 1), 1_800_000_000, "1969-12-31T23:59:59Z"):
        with pytest.raises(ValidationError):
            Form(at=value)  # type: ignore[arg-type]


def test_what_lies_beyond_the_calendar_is_its_end() -> None:
    """A time too far away to have a name is written as the last that has one."""
    assert rfc_3339(1 << 80) == "9999-12-31T23:59:59Z"
