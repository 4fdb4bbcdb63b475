"""A lane: the pool's bytes of one class and processing, in the order they were captured.

Idea: every chunk lies in a buffer of its own and is read from its front, so nothing is ever sliced
off a growing buffer and no small rest keeps a large packet alive. Taking bytes copies them once, into
the reply, and overwrites them in the lane. The order by capture start makes every question about age
("what has expired", "what is young enough") a binary search, whichever collector was late.
"""

from __future__ import annotations

from bisect import bisect_left, insort_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel
from qrng_grpc.labels import Processing

if TYPE_CHECKING:
    from qrng_gateway.pool.claims import ReplyLabel

FOREVER_NS = 2**63 - 1

_ZEROS = memoryview(bytes(MAX_CHUNK_BYTES))
_CAPTURE_START = attrgetter("capture_start_ns")
_COMPACT_FROM = 64
_COMPACT_SHARE = 16
"""Used-up chunks stay below one in so many; moving the others up is a matter of microseconds."""
_LEAST_WASTE = 4096
"""Used-up bytes before a rest that are worth moving it for; below, the moves fragment more than they free."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where bytes come from: what their source says of them, and who vouched for it."""

    label: BlockLabel
    collector_id: str
    device_id: str
    """The label's device ids, joined by commas."""
    key_id: str = ""
    """The key that vouched for it."""
    epoch: int = 0
    """The run of the collector that captured it."""

    def with_processing(self, processing: Processing) -> Origin:
        """Return the origin of what `processing` made of such bytes."""
        return replace(self, label=replace(self.label, processing=processing))


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """Bytes of one chunk, `offset` counted from the beginning of what was stored of it."""

    collector_id: str
    epoch: int
    sequence: int
    offset: int
    size: int


class Stored:
    """One chunk in a lane. Its bytes are read from the front, and overwritten."""

    __slots__ = ("_buffer", "_gone", "_offset", "capture_end_ns", "capture_start_ns", "label", "origin", "sequence")

    def __init__(self, block: Block, origin: Origin, sequence: int = 0, overwritten: Stored | None = None) -> None:
        """Copy `block`, over a chunk that is `overwritten` for it where there is one."""
        self._buffer = bytearray(block.data) if overwritten is None else overwritten.overwrite(block.data)
        self._offset = 0
        self._gone = 0
        """Bytes that were read from earlier buffers."""
        self.sequence = sequence
        self.capture_start_ns = block.capture_start_ns
        self.capture_end_ns = block.capture_end_ns
        self.origin = origin
        self.label: ReplyLabel | None = None
        """What its bytes are, once somebody asked: kept for `label_of`, since most chunks answer many claims."""

    def __len__(self) -> int:
        return len(self._buffer) - self._offset

    def front(self, n: int) -> memoryview:
        """Return a view of the first `n` bytes, at most all of them. To be copied, then passed to `wipe_front`."""
        return memoryview(self._buffer)[self._offset : self._offset + n]

    def range(self, size: int) -> ChunkRange:
        """Say where the first `size` bytes lie."""
        origin = self.origin
        return ChunkRange(origin.collector_id, origin.epoch, self.sequence, self._gone + self._offset, size)

    def cut_end(self, n: int) -> Stored:
        """Take the last `n` bytes off, fewer than all, into a chunk of their own."""
        view = memoryview(self._buffer)[-n:]
        block = Block(bytes(view), self.capture_start_ns, self.capture_end_ns, self.origin.label)
        end = Stored(block, self.origin, self.sequence)
        end._gone = self._gone + len(self._buffer) - n
        view[:] = _ZEROS[:n]
        view.release()
        del self._buffer[-n:]
        return end

    def replace(self, data: bytes, origin: Origin) -> None:
        """Hold `data`, of `origin`, instead of what it held."""
        self.wipe()
        self._buffer, self.origin, self.label = bytearray(data), origin, None

    def wipe_front(self, view: memoryview) -> bool:
        """Overwrite a view that `front` returned, and move past it. Returns whether anything is left."""
        n = len(view)
        view[:] = _ZEROS[:n]
        view.release()
        self._offset += n
        if self._offset < len(self._buffer):
            return True
        self._gone += self._offset
        self._buffer, self._offset = bytearray(), 0
        return False

    def tighten(self) -> None:
        """Give what is left a buffer of its own size, where most of the present one is used up: it may stay long."""
        if self._offset >= _LEAST_WASTE and self._offset >= len(self._buffer) // 2:
            self._move_out()

    def wipe(self) -> None:
        """Overwrite all that is left."""
        left = memoryview(self._buffer)[self._offset :]
        left[:] = _ZEROS[: len(left)]
        self._buffer, self._offset = bytearray(), 0

    def overwrite(self, data: bytes | memoryview) -> bytearray:
        """Give the buffer away, with `data` in place of what it held; where it has another size, wipe it instead."""
        buffer, short_by = self._buffer, len(data) - len(self._buffer)
        if short_by and buffer.__alloc__() != len(data) + 1:
            self.wipe()
            return bytearray(data)
        if short_by:  # it was made for as much, and its end cut off since: it grows where it is
            buffer += _ZEROS[:short_by]
        memoryview(buffer)[:] = data
        self._buffer, self._offset = bytearray(), 0
        return buffer

    def _move_out(self) -> None:
        rest = memoryview(self._buffer)[self._offset :]
        self._gone += self._offset
        self._buffer, self._offset = bytearray(rest), 0
        rest[:] = _ZEROS[: len(rest)]


class Pieces(NamedTuple):
    """Bytes of a lane: the chunks they lie in, views of them there, the index of the first chunk, how many they are."""

    used: list[Stored]
    views: list[memoryview]
    first: int
    size: int


class Lane:
    """Chunks of one class and processing, oldest capture first. `level` is their bytes."""

    __slots__ = ("_chunks", "_head", "level")

    def __init__(self) -> None:
        self.level = 0
        # Chunks before _head are used up: empty shells, removed in bulk so that taking stays cheap.
        self._chunks: list[Stored] = []
        self._head = 0

    def __len__(self) -> int:
        return len(self._chunks) - self._head

    def __iter__(self) -> Iterator[Stored]:
        return iter(self._chunks[self._head :])

    @property
    def oldest_capture_start_ns(self) -> int | None:
        """Capture start of the oldest chunk, None when the lane is empty."""
        return self._chunks[self._head].capture_start_ns if len(self) else None

    @property
    def newest_capture_start_ns(self) -> int:
        """Capture start of the newest chunk, -1 when the lane is empty."""
        return self._chunks[-1].capture_start_ns if len(self) else -1

    def insert(self, chunk: Stored) -> None:
        """Put `chunk` at its place in time."""
        if not self.level or self._chunks[-1].capture_start_ns <= chunk.capture_start_ns:
            self._chunks.append(chunk)
        else:
            oldest = self._chunks[self._head]
            insort_right(self._chunks, chunk, lo=self._head, key=_CAPTURE_START)
            if oldest is not self._chunks[self._head]:
                oldest.tighten()
        self.level += len(chunk)

    def available(self, n: int, from_ns: int, before_ns: int) -> int:
        """Return how many bytes were captured in [from_ns, before_ns), counting no further than `n`."""
        if from_ns <= 0 and before_ns == FOREVER_NS:
            return min(n, self.level)
        total = 0
        for index in range(self._index(from_ns), len(self._chunks)):
            chunk = self._chunks[index]
            if total >= n or chunk.capture_start_ns >= before_ns:
                break
            total += len(chunk)
        return min(n, total)

    def take(self, n: int, from_ns: int) -> tuple[list[Stored], bytes]:
        """Take the `n` oldest bytes captured at `from_ns` or later. Returns the chunks they lay in, and the bytes."""
        pieces = self.pieces(n, from_ns)
        data = b"".join(pieces.views)
        self.remove(pieces)
        return pieces.used, data

    def pieces(self, n: int, from_ns: int) -> Pieces:
        """Find the `n` oldest bytes captured at `from_ns` or later; the caller has made sure that they are there.

        To be copied, then passed to `remove` before anything else happens to the lane.
        """
        first = last = self._index(from_ns)
        used, views = [], []
        left = n
        while left:
            chunk = self._chunks[last]
            view = chunk.front(left)
            used.append(chunk)
            views.append(view)
            left -= len(view)
            last += 1
        return Pieces(used, views, first, n)

    def remove(self, pieces: Pieces) -> None:
        """Overwrite what `pieces` found, and move past it."""
        used, views, first, n = pieces
        for chunk, view in zip(used, views, strict=True):
            chunk.wipe_front(view)
        self.level -= n
        last = first + len(used)
        self._remove(first, last - 1 if len(chunk) else last)
        if first > self._head:  # what is left of the oldest chunk goes next, and is not worth moving
            chunk.tighten()

    def front(self, n: int, before_ns: int) -> tuple[Stored, memoryview] | None:
        """Return the oldest chunk and its first `n` bytes, if it has as many and was not captured before `before_ns`.

        The lane is not empty. What nearly every claim for few bytes takes from, in few steps: see `remove_front`.
        """
        oldest = self._chunks[self._head]
        view = oldest.front(n)
        return (oldest, view) if len(view) == n and oldest.capture_start_ns >= before_ns else None

    def remove_front(self, oldest: Stored, view: memoryview) -> None:
        """Overwrite what `front` returned, and move past it."""
        self.level -= len(view)
        if not oldest.wipe_front(view):
            self._remove(self._head, self._head + 1)

    def oldest_two(self, n: int, before_ns: int) -> tuple[Stored, Stored] | None:
        """Return the two oldest chunks, if `n` bytes of one origin are all of one and some, or all, of the other.

        None as well when they were captured before `before_ns`. What claims as large as chunks take from: see
        `remove_across`.
        """
        two = self._chunks[self._head : self._head + 2]
        if len(two) < 2:
            return None
        oldest, following = two
        fits = 0 < n - len(oldest) <= len(following)
        if fits and oldest.origin is following.origin and oldest.capture_start_ns >= before_ns:
            return oldest, following
        return None

    def remove_across(self, oldest: Stored, all_of_it: memoryview, following: Stored, front: memoryview) -> None:
        """Overwrite the views of what `oldest_two` returned, and move past them."""
        self.level -= len(all_of_it) + len(front)
        oldest.wipe_front(all_of_it)
        following.wipe_front(front)
        self._remove(self._head, self._head + (1 if following else 2))

    def expire(self, before_ns: int) -> int:
        """Destroy chunks captured before `before_ns`. Returns their bytes."""
        if not self.level or self._chunks[self._head].capture_start_ns >= before_ns:
            return 0
        return self._destroy(self._index(before_ns))

    def drop_oldest(self) -> int:
        """Destroy the oldest chunk. Returns its bytes, 0 when there is none."""
        if not self.level:
            return 0
        oldest = self.pop_oldest()
        dropped = len(oldest)
        oldest.wipe()
        return dropped

    def pop_oldest(self) -> Stored:
        """Take the oldest chunk out as it is; the caller has made sure that there is one, and destroys it."""
        oldest = self._chunks[self._head]
        self.level -= len(oldest)
        self._remove(self._head, self._head + 1)
        return oldest

    def purge(self, key_id: str) -> int:
        """Destroy what the key `key_id` vouched for. Returns the bytes."""
        purged, kept = 0, []
        for chunk in self:
            if chunk.origin.key_id == key_id:
                purged += len(chunk)
                chunk.wipe()
            else:
                kept.append(chunk)
        self._chunks, self._head = kept, 0
        self.level -= purged
        return purged

    def wipe(self) -> int:
        """Destroy everything. Returns the bytes."""
        return self._destroy(len(self._chunks))

    def _index(self, from_ns: int) -> int:
        return self._head if from_ns <= 0 else bisect_left(self._chunks, from_ns, lo=self._head, key=_CAPTURE_START)

    def _destroy(self, end: int) -> int:
        destroyed = 0
        for chunk in self._chunks[self._head : end]:
            destroyed += len(chunk)
            chunk.wipe()
        self.level -= destroyed
        self._remove(self._head, end)
        return destroyed

    def _remove(self, first: int, end: int) -> None:
        if first > self._head:
            del self._chunks[first:end]
            return
        self._head = end
        if self._head >= _COMPACT_FROM and self._head * _COMPACT_SHARE >= len(self._chunks):
            del self._chunks[: self._head]
            self._head = 0
