"""Parameters of REST, and the settings of REST, whatever is written there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_gateway.fronts.rest.parameters import Parameters
from qrng_grpc.errors import ConfigError, InvalidRequestError
from qrng_grpc.values import INT64_MAX, INT64_MIN
from tests.unit.qrng_gateway.test_config import mistakes_of, read

KNOWN = ("count", "encoding", "least_class", "max_age_ms", "fresh")
VALUES = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "false", "quantum", "hex", "0", "-0", "+1", "1_0", "\u0665", "\uff11", "1\n", ""]),
)


def refusal_of(given_: list[tuple[str, str]]) -> InvalidRequestError | None:
    """Read everything; return how it was refused, None when it was not."""
    try:
        asked = Parameters(given_, KNOWN)
        assert -5 <= asked.integer("count", -5, 1000, 7) <= 1000
        assert asked.choice("encoding", ("hex", "raw"), "hex") in ("hex", "raw")
        demand = asked.demand(1, "count")
        assert 0 <= demand.max_age_ms <= INT64_MAX
        assert isinstance(demand.fresh, bool)
    except InvalidRequestError as error:
        return error
    return None


@given(st.lists(st.tuples(st.one_of(st.sampled_from(KNOWN), st.text(max_size=10)), VALUES), max_size=6))
def test_any_query_is_read_within_bounds_or_refused(pairs: list[tuple[str, str]]) -> None:
    """Whatever stands in a query, values are in range; a refusal names a known parameter or none, in words of ours."""
    error = refusal_of(pairs)
    names = [name for name, _ in pairs if name != "api_key"]
    if error is None:
        assert set(names) <= set(KNOWN)
        assert len(set(names)) == len(names)
    else:
        assert error.field in {None, *KNOWN}
        assert error.message.startswith(("expected", "given more than once", "there is a parameter beyond"))


@given(st.integers())
def test_an_integer_is_taken_exactly_where_it_is_in_range(number: int) -> None:
    """Every signed 64-bit integer can be given, and none beyond."""
    asked = Parameters([("count", str(number))], ("count",))
    if INT64_MIN <= number <= INT64_MAX:
        assert asked.integer("count", INT64_MIN, INT64_MAX) == number
    else:
        with pytest.raises(InvalidRequestError):
            asked.integer("count", INT64_MIN, INT64_MAX)


@pytest.mark.parametrize(
    "text", ["01", "+1", "-0", "1.0", "1e3", "0x1", " 1", "1 ", "1\n", "\u0665", "\uff11", "1_0", "", "-", "NaN"]
)
def test_an_integer_has_one_form(text: str) -> None:
    """What could be read in two ways is not read at all."""
    with pytest.raises(InvalidRequestError):
        Parameters([("count", text)], ("count",)).integer("count", 0, 1000)


def test_the_key_is_no_parameter_of_an_endpoint() -> None:
    """A key in the address is the desk's business, however often it is there."""
    asked = Parameters([("api_key", "a"), ("count", "5"), ("api_key", "b")], ("count",))
    assert asked.integer("count", 0, 9) == 5


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("https://lab.example", ("https://lab.example",)),
        ("https://lab.example:8443, http://localhost:3000,http://[::1]:80", None),
    ],
)
def test_origins_are_listed_as_browsers_send_them(text: str, origins: tuple[str, ...] | None) -> None:
    """Scheme, host and perhaps a port, separated by commas in the environment."""
    expected = tuple(part.strip() for part in text.split(",")) if origins is None else origins
    assert read(cors_allowed_origins=text).cors_allowed_origins == expected


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "https://*",
        "https://*.example",
        "null",
        "lab.example",
        "https://lab.example/",
        "HTTPS://lab.example",
        "https://lab.example:",
        "https://lab.example:0",
        "ftp://lab.example",
        "https://user@lab.example",
    ],
)
def test_nothing_but_an_origin_is_taken(text: str) -> None:
    """No wildcard, no path, no other spelling: a browser would never send it, or everybody's would."""
    assert "cors_allowed_origins" in mistakes_of(cors_allowed_origins=text)


def test_all_origins_are_looked_at() -> None:
    """One bad among good ones is refused."""
    with pytest.raises(ConfigError):
        read(cors_allowed_origins="https://lab.example,*")
