from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client import Allowance
from qrng_client.allowance import BYTES_LEFT_TODAY, REQUESTS_LEFT, read_allowance


def test_what_is_told() -> None:
    """Requests and bytes left are read off the trailers; where nothing is told, nothing is known."""
    assert read_allowance(((REQUESTS_LEFT, "99"), ("other", b"x"))) == Allowance(99, None)
    assert read_allowance(((REQUESTS_LEFT, "0"), (BYTES_LEFT_TODAY, "1000"))) == Allowance(0, 1000)
    assert read_allowance(()) is read_allowance(None) is None


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e9", " 1", "9" * 20, "\u0663", "many\x1b[2J", b"1"], ids=repr)
def test_what_is_no_number(text: str | bytes) -> None:
    """Anything but a plain number is as good as not told."""
    assert read_allowance(((REQUESTS_LEFT, text), (BYTES_LEFT_TODAY, text))) is None


@given(st.lists(st.tuples(st.sampled_from([REQUESTS_LEFT, BYTES_LEFT_TODAY, "x"]), st.text() | st.binary())))
def test_whatever_a_server_says(trailers: list[tuple[str, str | bytes]]) -> None:
    """No trailers break the client."""
    read_allowance(trailers)
