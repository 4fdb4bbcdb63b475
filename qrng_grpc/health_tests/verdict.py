"""What a test says of bytes: that they passed, or which test failed, where and how badly.

A verdict holds counts and positions, never bytes: it may be logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class HealthTest(Enum):
    """The tests, in the order in which they are named when several fail at the same sample."""

    REPETITION_COUNT = "repetition_count"
    ADAPTIVE_PROPORTION = "adaptive_proportion"
    BIT_COUNTS = "bit_counts"
    PERIOD = "period"
    FINGERPRINT = "fingerprint"


@dataclass(frozen=True, slots=True)
class Failure:
    """Which test failed, and how.

    `statistic` and `cutoff` are what the test compares: equal bytes in a row; occurrences of a window's
    first byte; |z| of the worst bit position; for `PERIOD` the distance of the repetition in bytes and
    the longest distance watched; for `FINGERPRINT` the distance in blocks and the most blocks
    remembered. `at` is the sample that decided it, counted from 0 at the last start-up test.
    """

    test: HealthTest
    statistic: float
    cutoff: float
    at: int

    def __str__(self) -> str:
        return f"{self.test.value}: {self.statistic:g} (cutoff {self.cutoff:g}) at sample {self.at}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one block."""

    failure: Failure | None = None

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return self.failure is None

    def __str__(self) -> str:
        return "passed" if self.failure is None else str(self.failure)


PASSED = Verdict()


def earliest(*failures: Failure | None) -> Failure | None:
    """Return the failure decided first, the first named of several; None when there is none."""
    found = [failure for failure in failures if failure is not None]
    return min(found, key=lambda failure: failure.at) if found else None
