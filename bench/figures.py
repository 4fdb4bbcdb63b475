"""Figures of paired runs: a median, and an interval that says how well it is known.

Idea: the interval is made of order statistics. Whatever the distribution, the true median lies between the k-th
smallest and the k-th largest of n independent values, unless fewer than k of them fell on one side of it; how probable
that is, a binomial distribution tells, and k is the largest for which it happens in at most 5 of 100 cases. Nothing is
resampled, and nothing is taken for normal.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

CONFIDENCE = 0.95
LEAST_PAIRS = 10
"""For a verdict."""
LEAST_FOR_INTERVAL = 6


@dataclass(frozen=True)
class Figure:
    """A median, between which bounds it lies in 95 of 100 cases, and half of the values."""

    median: float
    low: float
    high: float
    lower_quarter: float
    upper_quarter: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Return the figure of at least six values; of fewer, no interval of that confidence can be told."""
        ranked = sorted(values)
        if len(ranked) < LEAST_FOR_INTERVAL:
            raise ValueError("fewer than six values have no interval of 95 %")
        k, quarter = _rank(len(ranked)), len(ranked) // 4
        return cls(statistics.median(ranked), ranked[k], ranked[-1 - k], ranked[quarter], ranked[-1 - quarter])

    def __format__(self, spec: str) -> str:
        """Return the median and the interval, each written as `spec` says."""
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def rounded(self) -> tuple[float, float, float]:
        """Return the median and the interval to five digits."""
        median, low, high = (float(f"{value:.5g}") for value in (self.median, self.low, self.high))
        return median, low, high

    @property
    def spread(self) -> float:
        """Return how far half of the values lie apart, as a share of the median."""
        return (self.upper_quarter - self.lower_quarter) / self.median if self.median else 0.0

    def verdict(self, target: float) -> str:
        """Say whether the median is at most `target`, where the interval tells."""
        if self.high <= target:
            return "met"
        return "missed" if self.low > target else "open"


def _rank(n: int) -> int:
    """Return the largest k, from 0, for which the k-th smallest and k-th largest of `n` values enclose the median."""
    outside, k = 0.0, 0
    while True:
        outside += 2 * comb(n, k) / 2**n
        if outside > 1 - CONFIDENCE:
            return k - 1
        k += 1
