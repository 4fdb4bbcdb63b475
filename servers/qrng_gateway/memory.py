"""How this process gets its memory.

Idea: glibc gives threads heaps of their own, eight for each core, and what is freed in one is of no use
to another. The gateway's large messages pass through grpc's threads, so a few heaps keep its memory
near what the pool really holds (measured in tests/slow/test_memory.py). mallopt(3), M_ARENA_MAX.

A heap also gives memory back to the kernel as soon as 128 KiB of it are free, which is between any two large
messages, and the next one faults in fresh, zeroed pages: eight for a chunk of 64 KiB, a twentieth of what the chunk
costs (bench/ingest.py). So a heap keeps a few messages' worth, as glibc itself comes to do after the first
message of 1 MiB. M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_HEAPS = 2
_LARGEST_FROM_HEAP = 2 << 20
"""Above the largest message, which holds 1 MiB of data."""
_KEPT = 2 * _LARGEST_FROM_HEAP
"""What may lie free at the end of a heap; glibc's own proportion."""


def keep_heaps_few() -> bool:
    """Bound the heaps of this process, before it starts threads. False where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = ((_M_ARENA_MAX, _HEAPS), (_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP), (_M_TRIM_THRESHOLD, _KEPT))
    return all(mallopt(option, value) == 1 for option, value in options)


def keep_pauses_short() -> None:
    """Have the garbage collector leave alone what is there now: for when everything has started.

    Otherwise each full collection goes through every module and class that was ever imported, and stops all calls
    for 40 to 80 milliseconds (bench/fairness.py); what a running gateway makes is a small part of that.
    """
    gc.collect()
    gc.freeze()
