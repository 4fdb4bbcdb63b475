"""How this process gets its memory.

Idea: glibc gives threads heaps of their own, eight for each core, and what is freed in one is of no use
to another. The gateway's large messages pass through grpc's threads, so a few heaps keep its memory
near what the pool really holds (measured in tests/slow/test_memory.py). mallopt(3), M_ARENA_MAX.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
_HEAPS = 2


def keep_heaps_few() -> bool:
    """Bound the heaps of this process, before it starts threads. False where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, _HEAPS) == 1
