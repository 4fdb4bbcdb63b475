"""The skew: how far a collector's clock seems to be behind the gateway's.

Idea: the time from a chunk's capture end, by the collector's clock, to its arrival, by ours, is the skew plus the
chunk's way: cutting, waiting, travelling. The way is never negative, so the least of many such times is the best
estimate of the skew from above; the least of the last one to two minutes follows clocks that drift or are set.
(The filter of NTP does the same with round trips, RFC 5905 section 10; one way is all that we have.)
"""

from __future__ import annotations

from qrng_grpc.clock import NS_PER_S

WINDOW_NS = 60 * NS_PER_S


class Skew:
    """The least lag of late, in nanoseconds; negative where the collector's clock is ahead by more than the way."""

    __slots__ = ("_before_ns", "_least_ns", "_window")

    def __init__(self) -> None:
        self._window = 0
        self._least_ns: int | None = None
        self._before_ns: int | None = None

    def note(self, capture_end_ns: int, now_ns: int) -> None:
        """Take note of a chunk that arrived now."""
        lag_ns, window = now_ns - capture_end_ns, now_ns // WINDOW_NS
        if window != self._window:
            self._before_ns = self._least_ns if window == self._window + 1 else None
            self._window, self._least_ns = window, lag_ns
        elif self._least_ns is None or lag_ns < self._least_ns:
            self._least_ns = lag_ns

    @property
    def seconds(self) -> float | None:
        """The estimate in seconds, None before any chunk."""
        known = [lag_ns for lag_ns in (self._least_ns, self._before_ns) if lag_ns is not None]
        return min(known) / NS_PER_S if known else None
