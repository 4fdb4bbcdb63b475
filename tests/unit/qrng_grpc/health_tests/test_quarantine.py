"""Quarantine: out at once, back after a start-up test, and after three times a day only with an operator."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qrng_grpc.health_tests import Quarantine, QuarantineState
from qrng_grpc.testing.clock import ManualClock

DAY_S = 86_400


def trusted(clock: ManualClock) -> Quarantine:
    quarantine = Quarantine(clock=clock)
    quarantine.passed()
    return quarantine


def fail_and_recover(quarantine: Quarantine, clock: ManualClock) -> None:
    assert quarantine.failed() is QuarantineState.QUARANTINED
    clock.advance(60)
    quarantine.passed()


def test_a_source_starts_untrusted() -> None:
    """Until a start-up test passed, nothing of a source may be used; the test may run at once."""
    quarantine = Quarantine(clock=ManualClock())
    assert (quarantine.state, quarantine.trusted, quarantine.test_in_s) == (QuarantineState.STARTING, False, 0)
    quarantine.passed()
    assert (quarantine.trusted, quarantine.test_in_s) == (True, None)


def test_back_after_a_pause() -> None:
    """A failed source is tested again after the pause, and not before; each failed test prolongs the quarantine."""
    clock = ManualClock()
    quarantine = trusted(clock)
    quarantine.failed()
    assert (quarantine.trusted, quarantine.test_in_s) == (False, 60)
    clock.advance(59)
    with pytest.raises(RuntimeError, match="due"):
        quarantine.passed()
    clock.advance(1)
    assert quarantine.failed() is QuarantineState.QUARANTINED
    assert (quarantine.test_in_s, quarantine.total) == (60, 1)
    clock.advance(61)
    quarantine.passed()
    assert quarantine.trusted


def test_three_in_a_day_wait_for_the_operator() -> None:
    """The third quarantine within a day holds the source, for weeks if need be, until it is released."""
    clock = ManualClock()
    quarantine = trusted(clock)
    fail_and_recover(quarantine, clock)
    fail_and_recover(quarantine, clock)
    assert quarantine.failed() is QuarantineState.HELD
    clock.advance(30 * DAY_S)
    assert (quarantine.state, quarantine.test_in_s) == (QuarantineState.HELD, None)
    with pytest.raises(RuntimeError, match="due"):
        quarantine.passed()
    assert quarantine.release()
    assert (quarantine.state, quarantine.test_in_s) == (QuarantineState.QUARANTINED, 0)
    quarantine.passed()
    fail_and_recover(quarantine, clock)
    assert quarantine.trusted


def test_old_quarantines_are_forgotten() -> None:
    """Three quarantines that do not lie within one day do not hold the source."""
    clock = ManualClock()
    quarantine = trusted(clock)
    for _ in range(10):
        fail_and_recover(quarantine, clock)
        clock.advance(DAY_S / 2)
    assert quarantine.trusted


def test_only_a_held_source_is_released() -> None:
    """Releasing does not let a source out of an ordinary quarantine."""
    clock = ManualClock()
    quarantine = trusted(clock)
    quarantine.failed()
    assert not quarantine.release()
    assert quarantine.test_in_s == 60


def test_setting_the_clock_changes_nothing() -> None:
    """Pauses are measured on the monotonic clock."""
    clock = ManualClock()
    quarantine = trusted(clock)
    quarantine.failed()
    clock.step_wall(DAY_S)
    assert quarantine.test_in_s == 60


@pytest.mark.parametrize("settings", [{"limit": 0}, {"pause_s": -1}, {"window_s": -1}])
def test_settings(settings: dict[str, float]) -> None:
    """A limit is at least 1 and times are not negative."""
    with pytest.raises(ValueError, match="at least 1"):
        Quarantine(**settings, clock=ManualClock())  # type: ignore[arg-type]


class QuarantineMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, a source that failed is untrusted until a start-up test passes."""

    @initialize()
    def start(self) -> None:
        self.clock = ManualClock()
        self.quarantine = Quarantine(clock=self.clock)
        self.may_trust = False

    @rule(seconds=st.sampled_from([1, 30, 60, 3600, DAY_S]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def fail(self) -> None:
        self.quarantine.failed()
        self.may_trust = False

    @precondition(lambda self: self.quarantine.test_in_s == 0)
    @rule()
    def succeed(self) -> None:
        self.quarantine.passed()
        self.may_trust = True

    @rule()
    def release(self) -> None:
        self.quarantine.release()

    @invariant()
    def trust_is_earned(self) -> None:
        assert self.quarantine.trusted == self.may_trust

    def teardown(self) -> None:
        """Nothing latches for ever: with an operator and time, a good source comes back."""
        self.quarantine.release()
        self.clock.advance(60)
        if not self.quarantine.trusted:
            self.quarantine.passed()


TestQuarantineMachine = QuarantineMachine.TestCase
