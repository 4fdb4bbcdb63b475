"""Pearson's chi-square test of byte counts, and the tail of its distribution.

Idea: in fair bytes each of the 256 values comes equally often. The sum of (count - expected)**2 / expected over
the values then follows the chi-square distribution with 255 degrees of freedom, and the p-value is how
often fair bytes do worse. For a whole number of degrees that tail is a finite sum of positive terms
(Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4.4 and 26.4.5), so nothing has to converge:

    odd:   Q = erfc(sqrt(x)) + exp(-x) * sum of x**(k + 1/2) / Gamma(k + 3/2) for k from 0 to (degrees - 3) / 2
    even:  Q = exp(-x) * sum of x**k / k! for k from 0 to degrees / 2 - 1        with x = chi-square / 2
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEGREES_OF_FREEDOM = 255
LEAST_BYTES = 5 * 256
"""Below five expected counts of a value the distribution is not chi-square's (Cochran's rule)."""

_STEP_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """A statistic with 255 degrees of freedom, and the probability that fair bytes give it or more."""

    statistic: float
    p_value: float


def of_byte_counts(data: bytes | bytearray) -> ChiSquare | None:
    """Test how often each value of a byte occurs in `data`; None below 1280 bytes, which are too few to tell."""
    if len(data) < LEAST_BYTES:
        return None
    expected = len(data) / 256
    statistic = float(np.sum((byte_counts(data) - expected) ** 2) / expected)
    return ChiSquare(statistic, upper_tail(statistic, DEGREES_OF_FREEDOM))


def byte_counts(data: bytes | bytearray) -> NDArray[np.int64]:
    """Return how often each of the 256 values occurs in `data`."""
    counts = np.zeros(256, np.int64)
    values = np.frombuffer(data, np.uint8)
    for start in range(0, len(values), _STEP_BYTES):
        counts += np.bincount(values[start : start + _STEP_BYTES], minlength=256)
    return counts


def upper_tail(statistic: float, degrees: int) -> float:
    """Return the probability that chi-square with `degrees` degrees of freedom is `statistic` or more.

    Raises ValueError for a negative statistic or fewer than 1 degree.
    """
    if statistic < 0 or degrees < 1:
        raise ValueError("expected a statistic of 0 or more and at least one degree of freedom")
    x = statistic / 2
    if x == 0:
        return 1.0
    half = degrees % 2 / 2
    terms = (math.exp((k + half) * math.log(x) - x - math.lgamma(k + half + 1)) for k in range(degrees // 2))
    return min(1.0, math.fsum([math.erfc(math.sqrt(x)) if half else 0.0, *terms]))
