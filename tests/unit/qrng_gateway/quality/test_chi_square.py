"""Chi-square: published critical values, closed forms, and the statistic by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_gateway.quality.chi_square import LEAST_BYTES, byte_counts, of_byte_counts, upper_tail

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4: upper critical values.
CRITICAL = [
    (1, 0.05, 3.841),
    (1, 0.001, 10.828),
    (2, 0.05, 5.991),
    (3, 0.10, 6.251),
    (5, 0.01, 15.086),
    (10, 0.05, 18.307),
    (30, 0.025, 46.979),
    (99, 0.01, 134.642),
    (100, 0.05, 124.342),
    (100, 0.99, 70.065),
]


@pytest.mark.parametrize(("degrees", "probability", "critical"), CRITICAL)
def test_critical_values(degrees: int, probability: float, critical: float) -> None:
    """The tail from a tabulated critical value on, three decimals, is the probability of its column."""
    assert upper_tail(critical + 0.0005, degrees) <= probability <= upper_tail(critical - 0.0005, degrees)


@settings(deadline=None)
@given(st.floats(0, 1000))
def test_closed_forms(statistic: float) -> None:
    """One degree is two tails of a normal deviate, two degrees are an exponential."""
    assert upper_tail(statistic, 1) == pytest.approx(math.erfc(math.sqrt(statistic / 2)), abs=1e-300)
    assert upper_tail(statistic, 2) == pytest.approx(math.exp(-statistic / 2), abs=1e-300)


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 900))
def test_the_tail_falls_at_the_rate_of_the_density(degrees: int, statistic: float) -> None:
    """Between two statistics the tail loses the integral of the density, by Simpson's rule."""

    def density(at: float) -> float:
        half = degrees / 2
        return math.exp((half - 1) * math.log(at / 2) - at / 2 - math.lgamma(half)) / 2

    width = statistic * 1e-3
    integral = width / 6 * (density(statistic) + 4 * density(statistic + width / 2) + density(statistic + width))
    lost = upper_tail(statistic, degrees) - upper_tail(statistic + width, degrees)
    assert lost == pytest.approx(integral, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("statistic", "degrees", "probability"), [(0, 255, 1.0), (1e9, 255, 0.0), (1e-9, 255, 1.0)])
def test_the_ends(statistic: float, degrees: int, probability: float) -> None:
    """The tail runs from one to nothing."""
    assert upper_tail(statistic, degrees) == pytest.approx(probability)


@pytest.mark.parametrize(("statistic", "degrees"), [(-1.0, 5), (1.0, 0)])
def test_senseless_arguments(statistic: float, degrees: int) -> None:
    """A negative statistic and no degree of freedom have no tail."""
    with pytest.raises(ValueError, match="expected"):
        upper_tail(statistic, degrees)


def test_statistic_by_hand() -> None:
    """Even counts give 0 and certainty. One value 256 times for another's nothing, at 128 each, gives 256."""
    even = bytes(range(256)) * 128
    tested = of_byte_counts(even)
    assert tested is not None
    assert (tested.statistic, tested.p_value) == (0, 1)
    tilted = of_byte_counts(even.replace(b"\x07", b"\x08"))
    assert tilted is not None
    assert tilted.statistic == 2 * 128**2 / 128
    assert tilted.p_value == pytest.approx(0.470, abs=0.001)


def test_all_equal_bytes() -> None:
    """Of n equal bytes the statistic is 255 n, and chance never does that."""
    tested = of_byte_counts(bytes(2560))
    assert tested is not None
    assert tested.statistic == 255 * 2560
    assert tested.p_value == 0


def test_too_few_bytes_say_nothing() -> None:
    """Below five expected of each value there is no verdict."""
    assert of_byte_counts(bytes(LEAST_BYTES - 1)) is None
    assert of_byte_counts(bytes(LEAST_BYTES)) is not None


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_537, 200_000])
def test_counts(size: int) -> None:
    """Every byte is counted once, across the steps too."""
    data = random.Random(size).randbytes(size)
    assert byte_counts(data).tolist() == [data.count(value) for value in range(256)]


def test_p_values_of_fair_bytes_are_uniform() -> None:
    """Of 400 samples of fixed fair bytes, p-values fall into tenths as evenly as chance makes them."""
    generator = random.Random(255)
    tested = [of_byte_counts(generator.randbytes(20_000)) for _ in range(400)]
    tenths = [0] * 10
    for one in tested:
        assert one is not None
        tenths[min(9, int(10 * one.p_value))] += 1
    assert sum((count - 40) ** 2 / 40 for count in tenths) < 27.88  # 0.1 % of fair runs
