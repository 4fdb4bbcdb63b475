"""How often a good source may look bad: the cutoffs of the tests of NIST SP 800-90B, section 4.4.

Idea: the operator assesses a source, H bits of entropy in every byte, and says how rare a false alarm
shall be, alpha. Both cutoffs follow, in exact integer arithmetic: at alpha 2**-40 the tail of a
binomial is far below what `1 - alpha` in a float can tell from 1.

    repetition count       C = 1 + ceil(-log2(alpha) / H)
    adaptive proportion    C = 1 + critbinom(W, 2**-H, 1 - alpha)

critbinom(n, p, q) is the smallest k with P(X <= k) >= q, where X counts the successes in n trials of
probability p; so P(X > k) <= alpha. The formula of the standard counts W trials although the first sample
of a window equals itself with certainty, so the rate that holds is above alpha, five times at H = 8 and
alpha 2**-40: `adaptive_proportion_rate` gives it.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

WINDOW_SAMPLES = 512
"""W of the adaptive proportion test on bytes."""
MAX_ENTROPY = 8.0
"""The most a byte can hold, in bits."""
DEFAULT_ALPHA = 2.0**-40


def check_parameters(assessed_entropy: float, alpha: float) -> None:
    """Raise ValueError unless 0 < H <= 8 (bits per byte) and 0 < alpha < 1."""
    if not 0 < assessed_entropy <= MAX_ENTROPY:
        raise ValueError("the assessed entropy is above 0 and at most 8 bits per byte")
    if not 0 < alpha < 1:
        raise ValueError("alpha lies between 0 and 1")


def repetition_count_cutoff(assessed_entropy: float, alpha: float = DEFAULT_ALPHA) -> int:
    """Return how many equal bytes in a row are an alarm: at least 2. Raises ValueError for H or alpha out of range."""
    check_parameters(assessed_entropy, alpha)
    return 1 + math.ceil(Fraction(-math.log2(alpha)) / Fraction(assessed_entropy))


@functools.lru_cache(maxsize=256)
def adaptive_proportion_cutoff(assessed_entropy: float, alpha: float = DEFAULT_ALPHA) -> int:
    """Return how many times a window's first byte, itself included, may not occur in it: 2 to `WINDOW_SAMPLES`.

    Never more than the window holds: a test that cannot fail is none. (Below H = -log2(alpha) / 512 the
    formula would ask for that; there false alarms are more frequent than alpha.) Takes up to a tenth of a
    second, once for the same arguments. Raises ValueError for H or alpha out of range.
    """
    check_parameters(assessed_entropy, alpha)
    return min(1 + critbinom(WINDOW_SAMPLES, Fraction(2.0**-assessed_entropy), Fraction(alpha)), WINDOW_SAMPLES)


def critbinom(trials: int, probability: Fraction, alpha: Fraction) -> int:
    """Return the smallest k with P(more than k successes in `trials`) <= `alpha`."""
    tail, allowed = 0, alpha * probability.denominator**trials
    for successes in range(trials, 0, -1):
        tail += binomial(trials, successes, probability)
        if tail > allowed:
            return successes
    return 0


def binomial(trials: int, successes: int, probability: Fraction) -> int:
    """Return the probability of exactly `successes`, times the denominator of `probability` to the power `trials`."""
    hit, miss = probability.numerator, probability.denominator - probability.numerator
    return math.comb(trials, successes) * int(hit**successes) * int(miss ** (trials - successes))


def repetition_count_rate(cutoff: int, assessed_entropy: float = MAX_ENTROPY) -> float:
    """Return the alarms per sample that independent, uniform symbols of H bits raise, one a run."""
    repeats = math.pow(2.0, -assessed_entropy)
    return (1 - repeats) * math.pow(repeats, cutoff - 1)


def adaptive_proportion_rate(cutoff: int, assessed_entropy: float = MAX_ENTROPY) -> float:
    """Return the share of windows in which independent, uniform symbols of H bits raise an alarm."""
    repeats, others = Fraction(2.0**-assessed_entropy), WINDOW_SAMPLES - 1
    tail = sum(binomial(others, equal, repeats) for equal in range(cutoff - 1, WINDOW_SAMPLES))
    return float(Fraction(tail, repeats.denominator**others))
