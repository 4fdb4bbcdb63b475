"""Waiting longer the more often something failed.

Idea: the first failure waits `initial_s`, each further one `multiplier` times as long, never more than
`maximum_s`, and each wait is shortened by chance, so that many collectors do not return in step.
"""

from __future__ import annotations

import random

from qrng_collector.config import RetryPolicy

_CHANCE = random.SystemRandom()


class Backoff:
    """How long to wait, by the number of failures in a row."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.failures = 0
        """Failures since the last success."""

    def failed(self, at_least_s: float = 0.0) -> float:
        """Count a failure. Return the seconds to wait, not fewer than `at_least_s`."""
        self.failures += 1
        return max(at_least_s, self._policy.delay_s(self.failures, _CHANCE.random()))

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
