"""Bytes read before they are needed: fewer calls, for older bytes.

Idea: a call to a server takes as long for 4096 bytes as for 7. A *buffer* asks for many at once and hands them out
piece by piece. What that costs is said here and not hidden: a byte may wait in the buffer, within a bound, before it
is used; it lies in this process's memory meanwhile; and what is left at the end was asked for in vain.

What must not happen is that a byte is handed out twice:

- **threads** take turns under one lock;
- **a forked child** starts with an empty buffer and a free lock, before `fork` returns in it: parent and child share
  no byte, and no lock stays taken by a thread that the child does not have;
- **an interrupted read**, by Ctrl-C say, loses bytes: a piece leaves the buffer before it is copied out or overwritten.

Bytes are overwritten here as they leave. Copies that Python or grpc made on the way are beyond reach. So is a copy of
the whole process, as snapshots of virtual machines make it: where those are used, do not read ahead.
"""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections.abc import Callable

from qrng_client.byte_source import ByteSource, checked_source, read_exactly
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock

MAX_BUFFER_BYTES = 1 << 20
"""The most a buffer holds: 1 MiB, one message of a server."""
BUFFER_AGE_S = 60.0
"""How long a byte may wait, where nobody says."""


class Rest:
    """Bytes of which each leaves once, and is overwritten here as it leaves. `data` is kept, not copied."""

    __slots__ = ("_view",)

    def __init__(self, data: bytearray) -> None:
        self._view = memoryview(data)

    def __len__(self) -> int:
        return len(self._view)

    def take(self, n: int) -> bytes:
        """Return the first `n` bytes, or all when there are not so many."""
        piece, self._view = self._view[:n], self._view[n:]
        taken = bytes(piece)
        piece[:] = bytes(len(piece))
        return taken

    def followed_by(self, data: bytes) -> Rest:
        """Return these bytes and `data`, and have none any more."""
        together = bytearray(self._view)
        together += data
        self.wipe()
        return Rest(together)

    def wipe(self) -> None:
        """Overwrite and forget all."""
        left, self._view = self._view, self._view[:0]
        left[:] = bytes(len(left))


class ReadAhead:
    """A source that reads `source` in steps of `buffer_bytes`, 1 byte to 1 MiB, for many small reads.

        source = ReadAhead(client, 4096)

    Bytes that were asked for more than `buffer_age_s` seconds ago are dropped unused. Reads of more than `buffer_bytes`
    pass by the buffer. A read that fails changes nothing in it. Raises ValueError for bounds that cannot be.
    """

    def __init__(
        self, source: ByteSource, buffer_bytes: int, *, buffer_age_s: float = BUFFER_AGE_S, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if not 1 <= buffer_bytes <= MAX_BUFFER_BYTES:
            raise ValueError(f"buffer_bytes must be 1 to {MAX_BUFFER_BYTES:,}")
        if not 0 < buffer_age_s <= 1e9:
            raise ValueError("buffer_age_s must be above 0, and at most 1e9 seconds")
        self._source = checked_source(source)
        self._buffer_bytes = operator.index(buffer_bytes)
        self._age_ns = int(buffer_age_s * NS_PER_S)
        self._clock = clock
        self._lock = threading.Lock()
        self._rest = Rest(bytearray())
        self._asked_ns = 0
        _buffers.add(self)

    def read(self, n: int, /) -> bytes:
        """Return exactly `n` bytes. Raises what the source raises, and as `read_exactly`."""
        if not 1 <= n <= self._buffer_bytes:
            return read_exactly(self._source, n)
        with self._lock:
            if self._clock.monotonic_ns() - self._asked_ns > self._age_ns:
                self._rest.wipe()
            if n > len(self._rest):
                self._fill()
            return self._rest.take(n)

    def discard(self) -> None:
        """Overwrite and forget what was read ahead."""
        with self._lock:
            self._rest.wipe()

    def _fill(self) -> None:
        """Fill up. What was left is used up by the read that follows, so the new bytes' age is that of all."""
        asked_ns = self._clock.monotonic_ns()
        fresh = read_exactly(self._source, self._buffer_bytes - len(self._rest))
        self._rest = self._rest.followed_by(fresh)
        self._asked_ns = asked_ns

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._rest.wipe()


_buffers: weakref.WeakSet[ReadAhead] = weakref.WeakSet()


def _start_child() -> None:
    for buffer in _buffers:
        buffer._start_anew()


_at_fork: Callable[..., None] | None = getattr(os, "register_at_fork", None)
if _at_fork is not None:
    _at_fork(after_in_child=_start_child)
