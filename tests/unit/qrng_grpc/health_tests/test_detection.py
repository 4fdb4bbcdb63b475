"""Faults are detected within the number of samples that docs/output-monitoring.md states."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from qrng_grpc.health_tests import START_UP_SAMPLES, Failure, HealthTest, Monitor
from qrng_grpc.testing.faults import (
    ByteStream,
    biased_bits,
    cached_body,
    favoured_byte,
    repeating,
    stuck_bit,
    stuck_byte,
)

MIB = 1 << 20
WINDOWS = 2 * 65_536
BLOCK_BYTES = 65_536
Make = Callable[[int, int], ByteStream]

FAULTS: list[tuple[str, Make, set[HealthTest], int]] = [
    ("stuck byte", lambda s, a: stuck_byte(0x5A, seed=s, after=a), {HealthTest.REPETITION_COUNT}, 6),
    ("stuck bit 0", lambda s, a: stuck_bit(0, seed=s, after=a), {HealthTest.BIT_COUNTS}, WINDOWS),
    ("stuck bit 7", lambda s, a: stuck_bit(7, 0, seed=s, after=a), {HealthTest.BIT_COUNTS}, WINDOWS),
    ("bias 53 %", lambda s, a: biased_bits(136 / 256, seed=s, after=a), {HealthTest.BIT_COUNTS}, WINDOWS),
    ("bias 47 %", lambda s, a: biased_bits(120 / 256, seed=s, after=a), {HealthTest.BIT_COUNTS}, WINDOWS),
    (
        "a value at 10 %",
        lambda s, a: favoured_byte(0x5A, 26 / 256, seed=s, after=a),
        {HealthTest.ADAPTIVE_PROPORTION, HealthTest.BIT_COUNTS, HealthTest.REPETITION_COUNT},
        WINDOWS,
    ),
    *(
        (
            f"period {period}",
            lambda s, a, period=period: repeating(period, seed=s, after=a),
            {HealthTest.PERIOD, HealthTest.BIT_COUNTS, HealthTest.FINGERPRINT},
            MIB + period + 32,
        )
        for period in (1000, 65_536, 300_000, MIB)
    ),
]


def detected(stream: ByteStream) -> Failure:
    """Test a stream block by block and return the failure, its sample counted in the stream."""
    monitor = Monitor(8)
    assert monitor.start_up(stream.take(START_UP_SAMPLES)).passed
    for _ in itertools.count():
        verdict = monitor.check(stream.take(BLOCK_BYTES))
        if verdict.failure is not None:
            return verdict.failure
    raise AssertionError


@pytest.mark.parametrize(("seed", "after"), [(1, 1024), (2, 66_000), (3, 1_100_007)])
@pytest.mark.parametrize(("make", "tests", "within"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
def test_detection(make: Make, tests: set[HealthTest], within: int, after: int, seed: int) -> None:
    """A fault that sets in anywhere is an alarm of the right test within the stated samples, and not before it."""
    failure = detected(make(seed, after))
    assert failure.test in tests
    assert 0 <= failure.at - after < within


def test_cached_body() -> None:
    """A reply that was given before is known by its first 16 bytes."""
    stream, monitor = cached_body(after=START_UP_SAMPLES), Monitor(8)
    assert monitor.start_up(stream.take(START_UP_SAMPLES)).passed
    assert monitor.check(stream.take(BLOCK_BYTES)).passed
    failure = monitor.check(stream.take(BLOCK_BYTES)).failure
    assert failure is not None
    assert (failure.test, failure.statistic) == (HealthTest.FINGERPRINT, 1)
    assert failure.at == START_UP_SAMPLES + BLOCK_BYTES + 15


def test_a_long_recording_on_the_grid_of_fetches() -> None:
    """A recording longer than 1 MiB is known when it begins again with a block."""
    stream, monitor = repeating(40 * BLOCK_BYTES), Monitor(8)
    assert monitor.start_up(stream.take(BLOCK_BYTES)).passed
    assert all(monitor.check(stream.take(BLOCK_BYTES)).passed for _ in range(39))
    failure = monitor.check(stream.take(BLOCK_BYTES)).failure
    assert failure is not None
    assert (failure.test, failure.statistic) == (HealthTest.FINGERPRINT, 40)
