"""The queue between sources and gateway: bounded, and exact about every byte.

Idea: a block waits *unbound* until it is about to be sent to a pool. Then it is *bound*: it gets the
next sequence of that pool, and since from now on it may have been delivered, it waits for that pool
alone, under that identity, until the gateway has disposed of it. Whatever leaves the queue another way
was either never sent (overflow, expired, dropped at shutdown) or is *in doubt*.

With a spool the queue begins with what an earlier run left there (*recovered*), tells the spool of every
step before it counts, and leaves what remains at shutdown to the next run (*spooled*).

After every operation captured + recovered = disposed of + queued + expired + overflow + in doubt +
dropped at shutdown + spooled, in bytes. All of it is plain computation: no event loop, no clock, and no disk but
the spool's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from qrng_collector.spool import BLOCK_OVERHEAD_BYTES, Kept, Spool
from qrng_grpc.chunk import Block, Chunk, Identity

CHUNK_OVERHEAD_BYTES = 1024
"""More than the identity, labels and signature of any chunk take on the wire."""
_BYTES_A_BLOCK = 256
_LEAST_BLOCKS = 1024
_BIND_AHEAD = 64
"""Blocks bound at once with a spool, so that they share one write to disk."""

Fate = Literal["expired", "overflow", "dropped_at_shutdown"]


@dataclass(slots=True)
class Counters:
    """Bytes since start, by what became of them."""

    captured: int = 0
    """Cut into blocks and offered to the queue."""
    recovered: int = 0
    """Found in the spool, where an earlier run had left them."""
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
    spooled: int = 0
    """Left over at the end, and in the spool for the next run, sent or not."""

    @property
    def came(self) -> int:
        """Bytes that ever were in this queue, or were offered to it."""
        return self.captured + self.recovered

    @property
    def gone(self) -> int:
        """Bytes that came and are not queued."""
        lost = self.expired + self.overflow + self.in_doubt + self.dropped_at_shutdown
        return self.disposed + lost + self.spooled


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

    With a `spool`, `epoch` is the spool's, and what an earlier run left there is queued already; what has
    no room is overflow or in doubt, oldest first, if `drop_oldest`. Methods that change what is queued
    then raise StateError when the disk refuses; that ends the queue.
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
        spool: Spool | None = None,
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
        self._spool = spool
        if spool is not None:
            self._recover(spool)

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
        if self._drop_oldest and self._could_fit(size):
            while not self._fits(size):
                self._lose_oldest()
        if not self._fits(size):
            self.counters.captured += size
            self.counters.overflow += size
            return
        if self._spool is not None:
            self._spool.keep(self._places + 1, block, now_ns)
        self.counters.captured += size
        self._places += 1
        self._hold(_Held(block, now_ns, self._places), self._unbound)

    def call_started(self, pool_id: str) -> None:
        """Begin a push call; `next_chunk` then walks through what it is to carry. One call a pool at a time."""
        if self._outboxes[pool_id].in_call:
            raise ValueError("a call to this pool is running")

    def next_chunk(self, pool_id: str, *, within: int, bind: bool = True) -> Chunk | None:
        """Return the running call's next chunk: what is bound already first, in its order, under its identity.

        A new block is bound only if `bind`. None when there is no more, or the next would take more than
        `within` bytes on the wire. A returned chunk counts as perhaps delivered; with a spool so may up to
        63 behind it, if it is not the call's first.
        """
        outbox = self._outboxes[pool_id]
        again = outbox.in_call < len(outbox.bound)
        if not again and not (bind and self._unbound):
            return None
        held = outbox.bound[outbox.in_call] if again else self._unbound[0]
        if wire_size(held.block) > within:
            return None
        if not again:
            self._bind(pool_id, outbox, within)
        chunk = outbox.bound[outbox.in_call].chunk
        outbox.in_call += 1
        self._pinned_bytes += len(held.block)
        self._pinned_blocks += 1
        return chunk

    def take_sequence(self, pool_id: str) -> Identity | None:
        """Take the next sequence of a pool for a heartbeat, to be sent behind all that the running call carries.

        None while something is bound that this call does not carry: overtaken, it would be a duplicate to the gateway.
        """
        outbox = self._outboxes[pool_id]
        if outbox.in_call < len(outbox.bound):
            return None
        if self._spool is not None:
            self._spool.take_sequence(pool_id, outbox.last_sequence + 1)
        outbox.last_sequence += 1
        return Identity(self._collector_id, pool_id, self._epoch, outbox.last_sequence)

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
            held = self._remove(outbox.bound, 0)
            self.counters.disposed += len(held.block)
            self._forget(held)

    def expire(self, now_ns: int) -> None:
        """Destroy what has reached the age limit and is in no running call."""
        for line, index in self._lines():
            while len(line) > index and now_ns - line[index].arrived_ns >= self._ttl_ns:
                self._lose(line, index, "expired")

    def drop_all(self) -> None:
        """Destroy everything that is in no running call, at shutdown. With a spool it stays there, for the next run."""
        for line, index in self._lines():
            while len(line) > index:
                if self._spool is None:
                    self._lose(line, index, "dropped_at_shutdown")
                else:
                    self.counters.spooled += len(self._remove(line, index).block)

    def _recover(self, spool: Spool) -> None:
        """Take in what the spool holds, with the identities it has."""
        self._places = spool.last_number
        for pool_id, sequence in spool.sequences.items():
            self._outboxes.setdefault(pool_id, _Outbox()).last_sequence = sequence
        for kept in spool.take_recovered():
            self.counters.recovered += len(kept.block)
            self._hold(self._held(kept), self._unbound if kept.pool_id is None else self._outboxes[kept.pool_id].bound)
        for outbox in self._outboxes.values():
            outbox.bound = deque(sorted(outbox.bound, key=_sequence))
        while self._drop_oldest and self._blocks and not self._fits(0, blocks=0):
            self._lose_oldest()

    def _held(self, kept: Kept) -> _Held:
        held = _Held(kept.block, kept.arrived_ns, kept.number)
        if kept.pool_id is not None:
            identity = Identity(self._collector_id, kept.pool_id, self._epoch, kept.sequence)
            held.chunk = Chunk.bind(kept.block, identity)
        return held

    def _bind(self, pool_id: str, outbox: _Outbox, within: int) -> None:
        """Bind the first block, and what is going to be sent behind it if that saves writes to disk."""
        count = self._count_within(within) if self._spool is not None and outbox.in_call else 1
        sequences = {self._unbound[index].place: outbox.last_sequence + 1 + index for index in range(count)}
        if self._spool is not None:
            self._spool.assign(pool_id, sequences)
        for sequence in sequences.values():
            held = self._unbound.popleft()
            identity = Identity(self._collector_id, pool_id, self._epoch, sequence)
            held.chunk = Chunk.bind(held.block, identity)
            outbox.bound.append(held)
            outbox.last_sequence = sequence

    def _count_within(self, within: int) -> int:
        """Return how many of the first blocks fit into `within` bytes on the wire, at most `_BIND_AHEAD`."""
        count = 0
        for held in islice(self._unbound, _BIND_AHEAD):
            within -= wire_size(held.block)
            if within < 0:
                break
            count += 1
        return count

    def _hold(self, held: _Held, line: deque[_Held]) -> None:
        line.append(held)
        self._bytes += len(held.block)
        self._blocks += 1

    def _fits(self, size: int, blocks: int = 1) -> bool:
        """Whether there is room for so many bytes and blocks more."""
        return self._room_for(self._bytes + self._reserved_bytes + size, self._blocks + self._reserved_blocks + blocks)

    def _could_fit(self, size: int) -> bool:
        """Whether there would be room beside the running calls alone."""
        return self._room_for(self._pinned_bytes + size, self._pinned_blocks + 1)

    def _room_for(self, size: int, blocks: int) -> bool:
        on_disk = self._spool is None or size + blocks * BLOCK_OVERHEAD_BYTES <= self._spool.capacity
        return size <= self._capacity and blocks <= self._max_blocks and on_disk

    def _lines(self) -> Iterator[tuple[deque[_Held], int]]:
        """Each line of blocks, and where what no running call carries begins in it."""
        yield self._unbound, 0
        for outbox in self._outboxes.values():
            yield outbox.bound, outbox.in_call

    def _droppable(self) -> Iterator[tuple[deque[_Held], int]]:
        return ((line, index) for line, index in self._lines() if len(line) > index)

    def _lose_oldest(self) -> None:
        line, index = min(self._droppable(), key=lambda place: place[0][place[1]].place)
        self._lose(line, index, "overflow")

    def _lose(self, line: deque[_Held], index: int, unsent_fate: Fate) -> None:
        held = self._remove(line, index)
        fate = unsent_fate if held.chunk is None else "in_doubt"
        setattr(self.counters, fate, getattr(self.counters, fate) + len(held.block))
        self._forget(held)

    def _forget(self, held: _Held) -> None:
        if self._spool is not None:
            self._spool.forget(held.place)

    def _remove(self, line: deque[_Held], index: int) -> _Held:
        held = line[index]
        del line[index]
        self._bytes -= len(held.block)
        self._blocks -= 1
        return held


def wire_size(block: Block) -> int:
    """Return the bytes a block may take on the wire, signature included."""
    return len(block) + CHUNK_OVERHEAD_BYTES


def _sequence(held: _Held) -> int:
    return 0 if held.chunk is None else held.chunk.identity.sequence
