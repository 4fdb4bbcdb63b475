"""False alarms on 10**9 bytes of the operating system's randomness: as many as predicted, none at the default alpha."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import pytest

from qrng_grpc.health_tests import Failure, Monitor
from qrng_grpc.health_tests.adaptive_proportion import AdaptiveProportion
from qrng_grpc.health_tests.cutoffs import (
    MAX_ENTROPY,
    WINDOW_SAMPLES,
    adaptive_proportion_cutoff,
    adaptive_proportion_rate,
    repetition_count_cutoff,
    repetition_count_rate,
)
from qrng_grpc.health_tests.repetition_count import RepetitionCount

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SAMPLES = 1_000_000_000
BLOCK_BYTES = 65_536
BLOCKS = -(-SAMPLES // BLOCK_BYTES)
FREQUENT = 2.0**-20
RARE_RATE = 1e-12
"""Alarms a sample of all tests together at the default alpha."""
TAIL = 1e-6
"""The probability with which a sound source falls below the interval, and with which above."""


def poisson_interval(mean: float) -> tuple[int, int]:
    """Return the counts outside of which, on either side, a Poisson variable falls with probability `TAIL` at most."""
    below, count = math.exp(-mean), 0
    while below <= TAIL:
        count += 1
        below += math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
    low = count
    while 1 - below > TAIL:
        count += 1
        below += math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
    return low, count


class Alarms:
    """Counts the alarms of a test, which is made anew after each."""

    def __init__(self, make: Callable[[], RepetitionCount | AdaptiveProportion]) -> None:
        self._make = make
        self._test = make()
        self.count = 0

    def check(self, block: bytes) -> Failure | None:
        """Test a block and count its alarm."""
        failure = self._test.check(block)
        if failure is not None:
            self.count += 1
            self._test = self._make()
        return failure


def test_a_billion_samples() -> None:
    """At alpha 2**-40 no test raises an alarm but for chance; at 2**-20 the standard's two raise as many as predicted.

    How many may come is said by Poisson intervals. At 2**-40 an alarm is due every 10**12 samples, so that one is
    allowed, and two are not. A sound source fails this about four times in a million runs.
    """
    repetitions = repetition_count_cutoff(MAX_ENTROPY, FREQUENT)
    proportions = adaptive_proportion_cutoff(MAX_ENTROPY, FREQUENT)
    predicted = {
        "repetition count": BLOCKS * BLOCK_BYTES * repetition_count_rate(repetitions),
        "adaptive proportion": BLOCKS * BLOCK_BYTES / WINDOW_SAMPLES * adaptive_proportion_rate(proportions),
    }
    alarms = {
        "repetition count": Alarms(lambda: RepetitionCount(repetitions)),
        "adaptive proportion": Alarms(lambda: AdaptiveProportion(proportions)),
    }
    monitor, rare = Monitor(MAX_ENTROPY), 0
    assert monitor.start_up(os.urandom(BLOCK_BYTES)).passed
    for _ in range(BLOCKS):
        block = os.urandom(BLOCK_BYTES)
        verdict = monitor.check(block)
        if not verdict.passed:
            print(verdict)
            rare += 1
            assert monitor.start_up(os.urandom(BLOCK_BYTES)).passed
        for test in alarms.values():
            test.check(block)
    print(f"{BLOCKS * BLOCK_BYTES} samples: {rare} alarms at alpha 2**-40")
    assert rare <= poisson_interval(SAMPLES * RARE_RATE)[1]
    for name, mean in predicted.items():
        low, high = poisson_interval(mean)
        print(f"{name} at alpha 2**-20: {alarms[name].count} alarms, predicted {mean:.2f}, allowed {low} to {high}")
        assert low <= alarms[name].count <= high
