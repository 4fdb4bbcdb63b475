"""How well numbers fit a distribution: the probability that fair ones fit worse.

Idea: a test of a distribution has a recorded seed, so its p-value is the same in every run. It passes above one in ten
thousand: with some hundred tests, a change that only draws other numbers makes one fail once in a hundred times.
That they could fail is shown by a biased source, whose p-values are below one in a million.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping

from qrng_gateway.quality.chi_square import upper_tail

FITS = 1e-4
MISFITS = 1e-6


def of_counts(values: Iterable[Hashable], weights: Mapping[Hashable, float]) -> float:
    """Return the p-value of Pearson's chi-square test; `weights` say how often each value should come.

    0 when there is a value that has no weight. Raises AssertionError where counts of fewer than 5 are expected.
    """
    counts = Counter(values)
    total = sum(weights.values())
    expected = {value: counts.total() * weight / total for value, weight in weights.items()}
    assert min(expected.values()) >= 5, "too few values to tell (Cochran's rule)"
    if counts.keys() - expected.keys():
        return 0.0
    statistic = sum((counts[value] - mean) ** 2 / mean for value, mean in expected.items())
    return upper_tail(statistic, len(expected) - 1)


def of_numbers(numbers: Iterable[float], cdf: Callable[[float], float]) -> float:
    """Return the p-value of the test of Kolmogorov and Smirnov against the distribution function `cdf`.

    The limit for many numbers, with the correction of Stephens ("Use of the Kolmogorov-Smirnov, Cramer-Von Mises and
    Related Statistics Without Extensive Tables", Journal of the Royal Statistical Society B 32 (1970), 115-122).
    """
    ordered = sorted(numbers)
    n = len(ordered)
    probabilities = [cdf(number) for number in ordered]
    distance = max(max((i + 1) / n - p, p - i / n) for i, p in enumerate(probabilities))
    scaled = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    if scaled < 0.2:
        return 1.0
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)))


def normal(z: float) -> float:
    """Return the probability that a standard normal number is at most `z`."""
    return math.erfc(-z / math.sqrt(2)) / 2
