"""The queue between sources and gateway: bounded, and exact about every byte.

Idea: a block waits *unbound* until it is about to be sent to a pool. Then it is *bound*: it gets the
next sequence of that pool, and since from now on it may have been delivered, it waits for that pool
alone, under that identity, until the gateway has disposed of it. Whatever leaves the queue another way
was either never sent (overflow, expired, dropped at shutdown) or is *in doubt*.

After every operation captured = disposed of + queued + expired + overflow + in doubt + dropped at
shutdown, in bytes. All of it is plain computation: no event loop, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from qrng_grpc.chunk import Block, Chunk, Identity

CHUNK_OVERHEAD_BYTES = 1024
"""More than the identity, labels and signature of any chunk take on the wire."""
_BYTES_A_BLOCK = 256
_LEAST_BLOCKS = 1024

Fate = Literal["expired", "overflow", "dropped_at_shutdown"]


@dataclass(slots=True)
class Counters:
    """Bytes since start, by what became of them."""

    captured: int = 0
    """Cut into blocks and offered to the queue."""
    disposed: int = 0
    """Stored by the gateway, known to it already, or finally refused by it."""
    expired: int = 0
    """Reached the age limit, never sent."""
    overflow: int = 0
    """Found no room, or made room, never sent."""
    in_doubt: int = 0
    """Gone after they may have been delivered."""
    dropped_at_shutdown: int = 0
    """Left over at the end, never sent."""

    @property
    def gone(self) -> int:
        """Bytes that were captured and are not queued."""
        return self.disposed + self.expired + self.overflow + self.in_doubt + self.dropped_at_shutdown


@dataclass(slots=True)
class _Held:
    block: Block
    arrived_ns: int
    place: int
    """Order of arrival."""
    chunk: Chunk | None = None
    """None until it is bound."""


@dataclass(slots=True)
class _Outbox:
    """What is bound to one pool, oldest first. The first `in_call` are in the running call."""

    bound: deque[_Held] = field(default_factory=deque)
    in_call: int = 0
    last_sequence: int = 0


class ChunkQueue:
    """Blocks that wait for a gateway: at most `capacity` bytes, none older than `ttl_ns`.

    Many tiny blocks are bounded by their number too (one for each 256 bytes of capacity, at least
    1024), so that what we keep about them cannot outgrow the bytes. `drop_oldest` says whether a new
    block may displace older ones. `now_ns` is monotonic throughout.
    """

    def __init__(
        self,
        collector_id: str,
        pool_ids: Iterable[str],
        *,
        epoch: int,
        capacity: int,
        ttl_ns: int,
        drop_oldest: bool = True,
    ) -> None:
        self.counters = Counters()
        self._collector_id = collector_id
        self._epoch = epoch
        self._capacity = capacity
        self._max_blocks = max(capacity // _BYTES_A_BLOCK, _LEAST_BLOCKS)
        self._ttl_ns = ttl_ns
        self._drop_oldest = drop_oldest
        self._unbound: deque[_Held] = deque()
        self._outboxes = {pool_id: _Outbox() for pool_id in pool_ids}
        self._places = 0
        self._bytes = self._blocks = 0
        self._pinned_bytes = self._pinned_blocks = 0
        self._reserved_bytes = self._reserved_blocks = 0

    @property
    def queued(self) -> int:
        """Bytes in the queue, bound or not."""
        return self._bytes

    def has_work(self, pool_id: str) -> bool:
        """Say whether anything could be sent to this pool."""
        return bool(self._unbound or self._outboxes[pool_id].bound)

    def reserve(self, size: int) -> bool:
        """Keep room for a block of `size` bytes that is about to be fetched. False when there is none."""
        if not self._fits(size):
            return False
        self._reserved_bytes += size
        self._reserved_blocks += 1
        return True

    def release(self, size: int) -> None:
        """Give room back that `reserve` kept: before the block is offered, or because there is none."""
        self._reserved_bytes -= size
        self._reserved_blocks -= 1

    def offer(self, block: Block, now_ns: int) -> None:
        """Take a block in, displacing the oldest where that helps and is allowed. Without room it is overflow."""
        size = len(block)
        self.counters.captured += size
        if self._drop_oldest and self._could_fit(size):
            while not self._fits(size):
                line, index = min(self._droppable(), key=lambda place: place[0][place[1]].place)
                self._lose(line, index, "overflow")
        if not self._fits(size):
            self.counters.overflow += size
            return
        self._places += 1
        self._unbound.append(_Held(block, now_ns, self._places))
        self._bytes += size
        self._blocks += 1

    def call_started(self, pool_id: str) -> None:
        """Begin a push call; `next_chunk` then walks through what it is to carry. One call a pool at a time."""
        if self._outboxes[pool_id].in_call:
            raise ValueError("a call to this pool is running")

    def next_chunk(self, pool_id: str, *, within: int, bind: bool = True) -> Chunk | None:
        """Return the running call's next chunk: what is bound already first, in its order, under its identity.

        A new block is bound only if `bind`. None when there is no more, or the next would take more than
        `within` bytes on the wire. A returned chunk counts as perhaps delivered.
        """
        outbox = self._outboxes[pool_id]
        again = outbox.in_call < len(outbox.bound)
        if not again and not (bind and self._unbound):
            return None
        held = outbox.bound[outbox.in_call] if again else self._unbound[0]
        if wire_size(held.block) > within:
            return None
        chunk = held.chunk or self._bind_first(pool_id, outbox)
        outbox.in_call += 1
        self._pinned_bytes += len(held.block)
        self._pinned_blocks += 1
        return chunk

    def call_ended(self, pool_id: str, disposed: int) -> None:
        """End the running call: its first `disposed` chunks are the gateway's, the others stay bound."""
        outbox = self._outboxes[pool_id]
        if not 0 <= disposed <= outbox.in_call:
            raise ValueError("more chunks disposed of than the call carried")
        for index in range(outbox.in_call):
            self._pinned_bytes -= len(outbox.bound[index].block)
        self._pinned_blocks -= outbox.in_call
        outbox.in_call = 0
        for _ in range(disposed):
            self.counters.disposed += len(self._remove(outbox.bound, 0).block)

    def expire(self, now_ns: int) -> None:
        """Destroy what has reached the age limit and is in no running call."""
        for line, index in self._lines():
            while len(line) > index and now_ns - line[index].arrived_ns >= self._ttl_ns:
                self._lose(line, index, "expired")

    def drop_all(self) -> None:
        """Destroy everything that is in no running call, at shutdown."""
        for line, index in self._lines():
            while len(line) > index:
                self._lose(line, index, "dropped_at_shutdown")

    def _bind_first(self, pool_id: str, outbox: _Outbox) -> Chunk:
        held = self._unbound.popleft()
        outbox.last_sequence += 1
        identity = Identity(self._collector_id, pool_id, self._epoch, outbox.last_sequence)
        held.chunk = Chunk.bind(held.block, identity)
        outbox.bound.append(held)
        return held.chunk

    def _fits(self, size: int) -> bool:
        bytes_fit = self._bytes + self._reserved_bytes + size <= self._capacity
        return bytes_fit and self._blocks + self._reserved_blocks < self._max_blocks

    def _could_fit(self, size: int) -> bool:
        """Whether there would be room beside the running calls alone."""
        return self._pinned_bytes + size <= self._capacity and self._pinned_blocks < self._max_blocks

    def _lines(self) -> Iterator[tuple[deque[_Held], int]]:
        """Each line of blocks, and where what no running call carries begins in it."""
        yield self._unbound, 0
        for outbox in self._outboxes.values():
            yield outbox.bound, outbox.in_call

    def _droppable(self) -> Iterator[tuple[deque[_Held], int]]:
        return ((line, index) for line, index in self._lines() if len(line) > index)

    def _lose(self, line: deque[_Held], index: int, unsent_fate: Fate) -> None:
        held = self._remove(line, index)
        fate = unsent_fate if held.chunk is None else "in_doubt"
        setattr(self.counters, fate, getattr(self.counters, fate) + len(held.block))

    def _remove(self, line: deque[_Held], index: int) -> _Held:
        held = line[index]
        del line[index]
        self._bytes -= len(held.block)
        self._blocks -= 1
        return held


def wire_size(block: Block) -> int:
    """Return the bytes a block may take on the wire, signature included."""
    return len(block) + CHUNK_OVERHEAD_BYTES
