"""Timing jitter of the processor: how long the same small piece of work takes, again and again.

Idea: caches, interrupts and clocks of a processor keep no common beat, so that the last digits of how long something
takes are hard to foretell. The method is that of the jitter entropy collector (S. Müller, "CPU Time Jitter Based
Non-Physical True Random Number Generator", 2014), of which this is a small relative in Python:

    sample     nanoseconds between two looks at the clock, with a hash and accesses to 256 KiB of memory in between
    stuck      a sample of 0, one that equals the last, or differs from it by as much as that one did, is not counted
    block      32 bytes = SHA-256("qrng.jitter" || 960 counted samples, 8 bytes each, big-endian)

A block thus holds as much entropy as was asked for, 256 + 64 bits, if every sample brings a third of a bit.
Nobody has shown that of your processor: in a virtual machine, or beside a program that watches, it may be
less. So the class is OPERATING_SYSTEM and cannot be stated better, the entropy assessed by default is one bit
a byte, and nothing uses this source unless settings name it. It makes some kilobytes a second, and keeps a
core busy meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
from collections.abc import Callable, Sequence

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device

DEVICE_ID = "cpu-jitter"
BLOCK_BYTES = 32
SAMPLES_A_BLOCK = 960
MOST_TRIES = 8 * SAMPLES_A_BLOCK
"""With more than seven in eight samples stuck the clock is too coarse to be a source."""

_DOMAIN = b"qrng.jitter"
_MEMORY_BYTES = 1 << 18
_STRIDE = 4093
"""A prime near the size of a page, so that accesses wander."""


class JitterSource:
    """Bytes made of timing. One thread works while a read runs."""

    def __init__(self) -> None:
        self.label = one_device(DEVICE_ID, SourceClass.OPERATING_SYSTEM, Custody.LOCAL)
        self._timer = WorkTimer()
        self._turn = asyncio.Lock()
        self._closed = False

    async def read(self, size: int) -> bytes:
        """Return `size` bytes; what a last block has beyond them is dropped.

        Raises SourceError when the clock is too coarse, and once closed. Concurrent reads take turns. Cancelled,
        it ends after the block it works on.
        """
        blocks = []
        async with self._turn:
            for _ in range(-(-size // BLOCK_BYTES)):
                if self._closed:
                    raise SourceError("the source is closed")
                blocks.append(await asyncio.to_thread(collect_block, self._timer.sample))
        return b"".join(blocks)[:size]

    async def close(self) -> None:
        """Refuse later reads; a running one ends with SourceError."""
        self._closed = True


class WorkTimer:
    """Times a piece of work."""

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now_ns = now_ns
        self._memory = bytearray(_MEMORY_BYTES)
        self._place = 0
        self._last_ns = now_ns()

    def sample(self) -> int:
        """Work, and return the nanoseconds since the last time."""
        digest = hashlib.sha256(self._last_ns.to_bytes(8, "big")).digest()
        for byte in digest[:8]:
            self._place = (self._place + _STRIDE + byte) % _MEMORY_BYTES
            self._memory[self._place] ^= byte
        before, self._last_ns = self._last_ns, self._now_ns()
        return self._last_ns - before


def collect_block(sample: Callable[[], int]) -> bytes:
    """Return 32 bytes of counted samples. Raises SourceError when too many are stuck."""
    counted: list[int] = []
    last = difference = 0
    for _ in range(MOST_TRIES):
        now = sample()
        now_difference = now - last
        if now and now_difference and now_difference != difference:
            counted.append(now)
            if len(counted) == SAMPLES_A_BLOCK:
                return condition(counted)
        last, difference = now, now_difference
    raise SourceError("the clock is too coarse for timing jitter")


def condition(samples: Sequence[int]) -> bytes:
    """Return 32 bytes made of all `samples`, 0 to 2**64 - 1."""
    return hashlib.sha256(_DOMAIN + struct.pack(f">{len(samples)}Q", *samples)).digest()
