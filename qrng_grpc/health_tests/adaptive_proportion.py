"""Adaptive proportion (SP 800-90B, 4.4.2): a source that came to favour one value.

Idea: windows of 512 bytes follow each other without overlap. The first byte of a window counts itself, B = 1, and
every later one that equals it; B >= C is an alarm, at once. Windows that lie within a block are counted
together: one comparison, the ones in eight mask bytes at a time, one sum. Of a window that a block cuts, the count so
far is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qrng_grpc.health_tests.cutoffs import WINDOW_SAMPLES
from qrng_grpc.health_tests.verdict import Failure, HealthTest


class AdaptiveProportion:
    """An alarm when a window's first byte occurs `cutoff` times in it, 2 to 512. ValueError beyond."""

    def __init__(self, cutoff: int) -> None:
        if not 2 <= cutoff <= WINDOW_SAMPLES:
            raise ValueError("the cutoff lies in 2 to 512: below it every window fails, above it none")
        self._cutoff = cutoff
        self._first = b""
        self._count = 0
        self._seen = 0

    def check(self, block: bytes) -> Failure | None:
        """Take the next bytes of the stream. Returns the first alarm they raise; then the test is spent."""
        head = min(len(block), -self._seen % WINDOW_SAMPLES)
        tail = len(block) - (len(block) - head) % WINDOW_SAMPLES
        last = self._go_on(block, 0, head)
        if last is None and head < tail:
            last = last_of_windows(block, head, tail, self._cutoff)
        if last is None and tail < len(block):
            self._first, self._count = block[tail : tail + 1], 0
            last = self._go_on(block, tail, len(block))
        before, self._seen = self._seen, self._seen + len(block)
        return (
            None if last is None else Failure(HealthTest.ADAPTIVE_PROPORTION, self._cutoff, self._cutoff, before + last)
        )

    def _go_on(self, block: bytes, start: int, end: int) -> int | None:
        """Count in a part of the open window. Return the index that reaches the cutoff, if one does."""
        missing = self._cutoff - self._count
        self._count += block.count(self._first, start, end) if start < end else 0
        return None if self._count < self._cutoff else nth(block, self._first, missing, start)


def last_of_windows(block: bytes, start: int, end: int, cutoff: int) -> int | None:
    """Return the index in `block` at which the first of the windows from `start` to `end` reaches `cutoff`."""
    counts = count_firsts(np.frombuffer(block, np.uint8, end - start, start).reshape(-1, WINDOW_SAMPLES))
    if np.maximum.reduce(counts) < cutoff:
        return None
    window = start + int(np.argmax(counts >= cutoff)) * WINDOW_SAMPLES
    return nth(block, block[window : window + 1], cutoff, window)


def count_firsts(windows: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return for each row, a window of 512 bytes, how often its first byte occurs in it."""
    equal: NDArray[np.bool_] = windows == windows[:, :1]
    counts: NDArray[np.uint16] = np.add.reduce(np.bitwise_count(equal.view(np.uint64)), axis=1, dtype=np.uint16)
    return counts


def nth(data: bytes, byte: bytes, n: int, start: int) -> int:
    """Return the index of the `n`-th `byte`, from 1, at or after `start`."""
    index = start - 1
    for _ in range(n):
        index = data.index(byte, index + 1)
    return index
