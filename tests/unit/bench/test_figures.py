"""Figures of paired runs say how well they are known."""

from __future__ import annotations

import random
import statistics

import pytest
from figures import Figure


def test_median_and_bounds_of_ten() -> None:
    """Of ten values the interval reaches from the second smallest to the second largest: the sign test's, at 95 %."""
    figure = Figure.of(range(10, 0, -1))
    assert (figure.median, figure.low, figure.high) == (5.5, 2, 9)


def test_bounds_of_forty_one() -> None:
    """Of 41 values the 14th from either end bounds the interval, as tables of the sign test have it."""
    figure = Figure.of(range(1, 42))
    assert (figure.median, figure.low, figure.high) == (21, 14, 28)


def test_six_are_the_fewest() -> None:
    """Six values have an interval, from the first to the last; five have none, and that is refused."""
    assert Figure.of([1, 2, 3, 4, 5, 6]).low == 1
    with pytest.raises(ValueError, match="six"):
        Figure.of([1, 2, 3, 4, 5])


def test_interval_holds_the_median_as_often_as_it_says() -> None:
    """Of skewed samples whose median is known, at least 95 in 100 intervals hold it."""
    rng = random.Random(5)
    true_median = statistics.NormalDist().inv_cdf(0.5)
    figures = [Figure.of(rng.lognormvariate(0, 1) for _ in range(21)) for _ in range(1000)]
    held = sum(figure.low <= pow(2.718281828, true_median) <= figure.high for figure in figures)
    assert held >= 950


@pytest.mark.parametrize(
    ("target", "verdict"), [(10, "met"), (9, "met"), (8.9, "open"), (5, "open"), (2, "open"), (1.9, "missed")]
)
def test_verdict_only_where_the_interval_tells(target: float, verdict: str) -> None:
    """A target within the interval is open: neither met nor missed."""
    assert Figure.of(range(1, 11)).verdict(target) == verdict


def test_written_with_its_interval() -> None:
    """A figure never goes into a table without its interval."""
    assert f"{Figure.of(range(1, 11)):.1f}" == "5.5 [2.0, 9.0]"


def test_spread_is_a_share_of_the_median() -> None:
    """Equal values have no spread; half of the values of 1 to 10 lie five apart, of 5.5."""
    assert Figure.of([3] * 10).spread == 0
    assert Figure.of(range(1, 11)).spread == pytest.approx(5 / 5.5)
