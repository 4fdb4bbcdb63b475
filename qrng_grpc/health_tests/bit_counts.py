"""Counts per bit position: a stuck or biased bit, which the tests of whole bytes do not see.

Idea: in 64 KiB of a fair source every one of the eight positions is set 32768 times, give or take 128; a
|z| above 7.5 happens to a good source once in 10**13 positions. A window is counted once it is complete; windows
follow each other without overlap.

The counting adds whole words in lanes wide enough for the sum: shifted by 0 to 3 and masked, a word holds
sixteen lanes of 4 bits with one bit in each, and eight of these are added; halves of the lanes then become
lanes of 8 bits, and sixteen of those are added; the rest is few. All of it happens in 96 KiB of its own, near the
processor: fresh or larger memory costs more than the arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qrng_grpc.health_tests.verdict import Failure, HealthTest

WINDOW_BYTES = 1 << 16
MAX_Z = 7.5
"""Standard deviations from half that are no alarm yet."""

_WINDOW_WORDS = WINDOW_BYTES // 8
_UNIT_BYTES = 1024
"""What the sums divide evenly: 8 * 16 words."""
_FIRST_FOUR = tuple(np.array(shift, np.uint64) for shift in range(4))
_CACHE_LINE_BYTES = 64
_LOWER_UPPER = np.array([[[0]], [[4]]], np.uint64)
_NIBBLE_LANES = np.array(0x1111_1111_1111_1111, np.uint64)
_BYTE_LANES = np.array(0x0F0F_0F0F_0F0F_0F0F, np.uint64)


class BitCounts:
    """An alarm when in a window of 64 KiB a bit position has |z| > 7.5."""

    def __init__(self) -> None:
        self._adder = BitAdder()
        self._counts = np.zeros(8, np.int64)
        self._seen = 0

    def check(self, block: bytes) -> Failure | None:
        """Take the next bytes of the stream. Returns the first alarm they raise; then the test is spent."""
        start = 0
        while start < len(block):
            end = min(len(block), start + WINDOW_BYTES - self._seen % WINDOW_BYTES)
            self._counts += self._adder.count(block, start, end)
            self._seen += end - start
            start = end
            if self._seen % WINDOW_BYTES == 0:
                worst = self._close_window()
                if worst > MAX_Z:
                    return Failure(HealthTest.BIT_COUNTS, worst, MAX_Z, self._seen - 1)
        return None

    def _close_window(self) -> float:
        excess = max(abs(2 * count - WINDOW_BYTES) for count in self._counts.tolist())
        self._counts[:] = 0
        return float(excess / math.sqrt(WINDOW_BYTES))


class BitAdder:
    """Counts how often each of the eight bits of a byte is set."""

    def __init__(self) -> None:
        masked = _aligned_words(_WINDOW_WORDS)
        sums = _aligned_words(_WINDOW_WORDS // 2)
        self._adders = [_WordAdder(masked[:size], sums[: size // 2]) for size in range(0, _WINDOW_WORDS + 1, 128)]

    def count(self, block: bytes, start: int, end: int) -> NDArray[np.int64]:
        """Return the counts in `block[start:end]`, at most 64 KiB, the least significant bit first."""
        units, rest = divmod(end - start, _UNIT_BYTES)
        counts = self._adders[units].count(np.frombuffer(block, np.uint64, units * 128, start))
        if rest:
            counts += self._adders[1].count(np.frombuffer(block[end - rest : end].ljust(_UNIT_BYTES, b"\0"), np.uint64))
        return counts


def _aligned_words(count: int) -> NDArray[np.uint64]:
    """Return `count` words that begin with a line of the processor's cache, so that no vector is stored across two."""
    memory = np.zeros(8 * count + _CACHE_LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE_BYTES
    return memory[start : start + 8 * count].view(np.uint64)


class _WordAdder:
    """Counts in as many words as `masked` has, 128 * k, with the views on that memory made once."""

    def __init__(self, masked: NDArray[np.uint64], sums: NDArray[np.uint64]) -> None:
        self._masked = masked
        self._eight = masked.reshape(8, masked.size // 8)
        self._sums = sums.reshape(4, sums.size // 4)
        self._steps = tuple(zip(_FIRST_FOUR, self._sums, strict=True))
        self._halves = masked.reshape(2, *self._sums.shape)
        self._sixteen = masked.reshape(8, 16, masked.size // 128)

    def count(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        for shift, sums in self._steps:
            np.right_shift(words, shift, self._masked)
            np.bitwise_and(self._masked, _NIBBLE_LANES, self._masked)
            np.add.reduce(self._eight, axis=0, out=sums)
        np.right_shift(self._sums, _LOWER_UPPER, self._halves)
        np.bitwise_and(self._masked, _BYTE_LANES, self._masked)
        columns = np.add.reduce(self._sixteen, 1).view(np.uint8)
        counts: NDArray[np.int64] = np.add.reduce(columns, 1, np.int64)
        return counts
