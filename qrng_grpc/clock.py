"""Time as an argument, so that tests need not wait for it.

Idea: the wall clock says when bytes were captured, the monotonic clock how long we have run. A
process starts at one wall time; should the wall clock be stepped later, "wall minus uptime" moves
with it, and comparisons with capture times stay meaningful.
"""

from __future__ import annotations

import time
from typing import Protocol

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Where the time comes from."""

    def now_ns(self) -> int:
        """Nanoseconds of Unix time."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clocks."""

    now_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


SYSTEM_CLOCK = SystemClock()
