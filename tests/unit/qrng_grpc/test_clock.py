"""The clocks, real and manual."""

from __future__ import annotations

import time

import pytest

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.testing import ManualClock


def test_system_clock_is_the_machines() -> None:
    """The system clock lies between two looks at the machine's."""
    before = time.time_ns(), time.monotonic_ns()
    now = SYSTEM_CLOCK.now_ns(), SYSTEM_CLOCK.monotonic_ns()
    after = time.time_ns(), time.monotonic_ns()
    assert before[0] <= now[0] <= after[0]
    assert before[1] <= now[1] <= after[1]


def test_advance_moves_both_clocks() -> None:
    """Time that passes shows on the wall and on the monotonic clock alike."""
    clock: Clock = (manual := ManualClock(now_ns=5 * NS_PER_S))
    manual.advance(1.5)
    assert (clock.now_ns(), clock.monotonic_ns()) == (6_500_000_000, 1_500_000_000)


def test_stepping_the_wall_passes_no_time() -> None:
    """A wall clock set back leaves the monotonic clock where it was."""
    clock = ManualClock(now_ns=5 * NS_PER_S)
    clock.step_wall(-3)
    assert (clock.now_ns(), clock.monotonic_ns()) == (2 * NS_PER_S, 0)


def test_time_does_not_go_back() -> None:
    """Advancing by less than nothing is refused."""
    with pytest.raises(ValueError, match="step_wall"):
        ManualClock().advance(-1)
