"""The tests of SP 800-90B as the standard writes them, sample by sample, and slow others to compare with."""

from __future__ import annotations

import math
from itertools import pairwise


def repetition_count(samples: bytes, cutoff: int) -> int | None:
    """Section 4.4.1: return the sample that raises the first alarm."""
    count = 1
    for index, (before, sample) in enumerate(pairwise(samples), start=1):
        count = count + 1 if sample == before else 1
        if count >= cutoff:
            return index
    return None


def adaptive_proportion(samples: bytes, cutoff: int, window: int = 512) -> int | None:
    """Section 4.4.2: return the sample that raises the first alarm."""
    for start in range(0, len(samples), window):
        count = 1
        for index in range(start + 1, min(start + window, len(samples))):
            count += samples[index] == samples[start]
            if count >= cutoff:
                return index
    return None


def worst_z(window: bytes) -> float:
    """Return the greatest |z| of the eight bit positions of a window."""
    counts = [sum(byte >> bit & 1 for byte in window) for bit in range(8)]
    return max(abs(2 * count - len(window)) for count in counts) / math.sqrt(len(window))


def period(samples: bytes, size: int, longest: int = 1 << 20) -> tuple[int, int] | None:
    """Return the first repetition of an anchor: its distance, and the sample that completes it."""
    for start in range(0, len(samples), longest + size):
        index = samples.find(samples[start : start + size], start + 1, start + longest + size)
        if index >= 0:
            return index - start, index + size - 1
    return None
