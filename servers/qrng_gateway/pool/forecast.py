"""The forecast: how fast bytes come and go, and so how long they last.

Idea: two averages that forget by half every ten seconds, moved on once a second from counters that the pool
keeps anyway. In the first seconds they are averages of the time there was, not of one before in which nothing
could come. They answer when a client should come back, and how long the pool lasts if all goes on as it does.
It is a forecast: nothing is refused because of it.
"""

from __future__ import annotations

import math

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock

HALF_LIFE_S = 10.0
LEAST_S = 1.0
"""A rate is never one of less time, in which a single chunk would make a flood."""
SOONEST_S = 0.1
LATEST_S = 60.0
"""The bounds of a hint, in seconds."""
UNKNOWN_S = 1.0
"""The hint while nothing arrives: nobody knows, so ask again soon, but not at once."""


class Forecast:
    """Bytes per second in and out, as of the last `look`."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._started_ns = self._looked_ns = clock.monotonic_ns()
        self._stored = self._served = 0
        self._in = self._out = 0.0
        self._weight = _remembered(LEAST_S)

    @property
    def inflow(self) -> float:
        """Bytes a second that came lately."""
        return self._in / self._weight

    @property
    def outflow(self) -> float:
        """Bytes a second that went lately."""
        return self._out / self._weight

    def look(self, stored: int, served: int) -> None:
        """Take note of what has come and gone since start, in bytes. Does nothing twice at one time."""
        now_ns = self._clock.monotonic_ns()
        elapsed_s = (now_ns - self._looked_ns) / NS_PER_S
        if elapsed_s <= 0:
            return
        new = _remembered(elapsed_s)
        self._in += new * ((stored - self._stored) / elapsed_s - self._in)
        self._out += new * ((served - self._served) / elapsed_s - self._out)
        self._weight = _remembered(max(LEAST_S, (now_ns - self._started_ns) / NS_PER_S))
        self._looked_ns, self._stored, self._served = now_ns, stored, served

    def seconds_left(self, level: int) -> float | None:
        """Return after how many seconds `level` bytes will be gone; None when they are not getting fewer."""
        loss = self.outflow - self.inflow
        return level / loss if loss > 0 else None

    def seconds_until(self, missing: int) -> float:
        """Return in how many seconds `missing` more bytes will have come, from 0.1 to 60."""
        if self.inflow <= 0:
            return UNKNOWN_S
        return min(LATEST_S, max(SOONEST_S, missing / self.inflow))


def _remembered(seconds: float) -> float:
    """Return how much of an average the last `seconds` are: all but what is left of those before."""
    return 1 - math.exp2(-seconds / HALF_LIFE_S)
