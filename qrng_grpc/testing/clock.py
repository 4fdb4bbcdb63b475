"""Time that moves when a test says so."""

from __future__ import annotations

from qrng_grpc.clock import NS_PER_S


class ManualClock:
    """A `qrng_grpc.clock.Clock` that stands still in between.

        clock = ManualClock()
        clock.advance(3600)     # an hour passes
        clock.step_wall(-3)     # somebody sets the clock of the machine back by three seconds

    It starts at `now_ns` (nanoseconds of Unix time; 2025-01-01 by default) and monotonic 0.
    """

    def __init__(self, now_ns: int = 1_735_689_600 * NS_PER_S) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = 0

    def now_ns(self) -> int:
        """Nanoseconds of Unix time."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Nanoseconds since the clock was made, `step_wall` not counted."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks. Raises ValueError for less than nothing: time does not go back."""
        if seconds < 0:
            raise ValueError("time does not go back; step_wall sets the wall clock")
        self._now_ns += round(seconds * NS_PER_S)
        self._monotonic_ns += round(seconds * NS_PER_S)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back by a negative number, while no time passes."""
        self._now_ns += round(seconds * NS_PER_S)
