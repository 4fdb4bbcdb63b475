"""Quarantine: when a source that failed its tests may be read from again.

Idea: a small state machine without timers; ask it. The source is kept out for a while, comes back after it passed a
start-up test, and the third time in a day it waits for a person: a source that fails and recovers all day
long is not one that recovers.

    STARTING ──passed──▶ TRUSTED ──failed──▶ QUARANTINED ──passed──▶ TRUSTED
        └──failed─────────────────────────────▶   │  ▲
                                   the third time ▼  │ release(), by an operator
                                                HELD ┘

A start-up test that fails within a quarantine prolongs it and is not another one.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock

DAY_S = 86_400.0


class QuarantineState(Enum):
    """What may be done with a source."""

    STARTING = "starting"
    """Never tested: start-up test first."""
    TRUSTED = "trusted"
    """Passed its start-up test: its blocks may be used as long as they pass."""
    QUARANTINED = "quarantined"
    """Failed: nothing but start-up tests, after a pause."""
    HELD = "held"
    """Failed too often: not read from until an operator releases it."""


class Quarantine:
    """The state of one source.

    A quarantine lasts `pause_s` seconds at least (60); `limit` quarantines (3) within `window_s` seconds (a day)
    hold the source. Time is the clock's monotonic one. Raises ValueError for a limit below 1 or a time below 0.
    """

    def __init__(
        self, *, pause_s: float = 60.0, limit: int = 3, window_s: float = DAY_S, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if limit < 1 or pause_s < 0 or window_s < 0:
            raise ValueError("a limit is at least 1, times are not negative")
        self._pause_ns = round(pause_s * NS_PER_S)
        self._window_ns = round(window_s * NS_PER_S)
        self._limit = limit
        self._clock = clock
        self._state = QuarantineState.STARTING
        self._began_ns: deque[int] = deque(maxlen=limit)
        self._test_from_ns = clock.monotonic_ns()
        self.total = 0
        """Quarantines since the program started."""

    @property
    def state(self) -> QuarantineState:
        """What may be done with the source now."""
        return self._state

    @property
    def trusted(self) -> bool:
        """Whether blocks may be used, each after its own tests."""
        return self._state is QuarantineState.TRUSTED

    @property
    def test_in_s(self) -> float | None:
        """Seconds until a start-up test may run, 0 when it may now; None when none is due: trusted, or held."""
        if self._state in {QuarantineState.TRUSTED, QuarantineState.HELD}:
            return None
        return max(0.0, (self._test_from_ns - self._clock.monotonic_ns()) / NS_PER_S)

    def failed(self) -> QuarantineState:
        """Take note that a block or a start-up test failed. Returns the state that follows."""
        now_ns = self._clock.monotonic_ns()
        self._test_from_ns = now_ns + self._pause_ns
        if self._state in {QuarantineState.STARTING, QuarantineState.TRUSTED}:
            self._began_ns.append(now_ns)
            self.total += 1
            self._state = QuarantineState.HELD if self._too_often(now_ns) else QuarantineState.QUARANTINED
        return self._state

    def passed(self) -> None:
        """Take note that a start-up test passed: the source is trusted. Raises RuntimeError when none was due."""
        if self.test_in_s != 0.0:
            raise RuntimeError("no start-up test was due")
        self._state = QuarantineState.TRUSTED

    def release(self) -> bool:
        """Let a held source be tested again, its past forgotten. Returns whether it was held."""
        if self._state is not QuarantineState.HELD:
            return False
        self._began_ns.clear()
        self._test_from_ns = self._clock.monotonic_ns()
        self._state = QuarantineState.QUARANTINED
        return True

    def _too_often(self, now_ns: int) -> bool:
        return len(self._began_ns) == self._limit and now_ns - self._began_ns[0] < self._window_ns
