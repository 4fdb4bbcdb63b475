"""Cutoffs: the table of the standard's formulas, and what critbinom means."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_grpc.health_tests.cutoffs import (
    WINDOW_SAMPLES,
    adaptive_proportion_cutoff,
    adaptive_proportion_rate,
    binomial,
    critbinom,
    repetition_count_cutoff,
    repetition_count_rate,
)

ALPHAS = (2.0**-20, 2.0**-30, 2.0**-40)
TABLE = [
    (8, (4, 5, 6), (13, 16, 19)),
    (7.9, (4, 5, 7), (13, 17, 20)),
    (7, (4, 6, 7), (18, 22, 26)),
    (6, (5, 6, 8), (25, 31, 35)),
    (4, (6, 9, 11), (62, 71, 78)),
    (2, (11, 16, 21), (177, 190, 201)),
    (1, (21, 31, 41), (311, 325, 336)),
]


@pytest.mark.parametrize(("entropy", "repetitions", "proportions"), TABLE)
def test_table(entropy: float, repetitions: tuple[int, ...], proportions: tuple[int, ...]) -> None:
    """The cutoffs of SP 800-90B, section 4.4, at H from 8 to 1 and alpha 2**-20, 2**-30, 2**-40."""
    assert tuple(repetition_count_cutoff(entropy, alpha) for alpha in ALPHAS) == repetitions
    assert tuple(adaptive_proportion_cutoff(entropy, alpha) for alpha in ALPHAS) == proportions


@given(st.integers(1, 40), st.fractions(0, 1, max_denominator=64), st.integers(1, 40))
def test_critbinom(trials: int, probability: Fraction, bits: int) -> None:
    """critbinom is the smallest k that is exceeded with at most probability alpha."""
    alpha = Fraction(1, 2**bits)
    k = critbinom(trials, probability, alpha)
    terms = [binomial(trials, successes, probability) for successes in range(trials + 1)]
    whole = probability.denominator**trials
    assert sum(terms) == whole
    assert sum(terms[k + 1 :]) <= alpha * whole
    assert k == 0 or sum(terms[k:]) > alpha * whole


@given(st.floats(0.01, 8), st.integers(1, 60))
def test_repetition_cutoff_is_the_smallest(entropy: float, bits: int) -> None:
    """C - 1 repetitions of a symbol of H bits are no likelier than alpha, C - 2 are."""
    cutoff = repetition_count_cutoff(entropy, 2.0**-bits)
    assert (cutoff - 1) * Fraction(entropy) >= bits
    assert (cutoff - 2) * Fraction(entropy) < bits


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-6, 8))
def test_every_proportion_test_can_fail(entropy: float) -> None:
    """However little entropy is assessed, a window of one value only is an alarm."""
    assert 2 <= adaptive_proportion_cutoff(entropy) <= WINDOW_SAMPLES


@pytest.mark.parametrize("entropy", [0, -1, 8.1, math.inf, math.nan])
def test_entropy_out_of_range(entropy: float) -> None:
    """A byte holds more than no entropy and at most 8 bits."""
    with pytest.raises(ValueError, match="8 bits"):
        repetition_count_cutoff(entropy)
    with pytest.raises(ValueError, match="8 bits"):
        adaptive_proportion_cutoff(entropy)


@pytest.mark.parametrize("alpha", [0, 1, -0.5, 2, math.nan])
def test_alpha_out_of_range(alpha: float) -> None:
    """Alarms are neither impossible nor certain."""
    with pytest.raises(ValueError, match="alpha"):
        repetition_count_cutoff(8, alpha)


def test_false_alarms_in_time() -> None:
    """At 1 MB/s and H = 8, repetition count raises a false alarm every 17 s at 2**-20 and in 13 days at 2**-40."""
    seconds = [1e-6 / repetition_count_rate(repetition_count_cutoff(8, alpha)) for alpha in (2.0**-20, 2.0**-40)]
    assert seconds[0] == pytest.approx(17, abs=0.5)
    assert seconds[1] / 86_400 == pytest.approx(13, abs=0.5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_rate_of_windows(alpha: float) -> None:
    """The first byte counts itself, which the formula overlooks: windows fail up to eight times as often as
    alpha says."""
    assert alpha / 8 < adaptive_proportion_rate(adaptive_proportion_cutoff(8, alpha)) < alpha * 8
