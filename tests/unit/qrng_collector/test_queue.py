from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from itertools import takewhile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qrng_collector.queue import CHUNK_OVERHEAD_BYTES, ChunkQueue, Counters
from qrng_grpc.chunk import Block, BlockLabel, Chunk
from qrng_grpc.labels import SourceClass

LABEL = BlockLabel(("simulated",), SourceClass.SIMULATED)
EPOCH = 1_000
POOL = "pool"
ALL = 8 << 20


def block(size: int, mark: int = 0) -> Block:
    return Block(mark.to_bytes(4, "big").rjust(size, b"\0")[-size:], 1, 2, LABEL)


def queue(
    capacity: int = 100, *, ttl_ns: int = 1_000, drop_oldest: bool = True, pools: tuple[str, ...] = (POOL,)
) -> ChunkQueue:
    return ChunkQueue("lab", pools, epoch=EPOCH, capacity=capacity, ttl_ns=ttl_ns, drop_oldest=drop_oldest)


def send(waiting: ChunkQueue, count: int = 1_000, pool: str = POOL) -> list[Chunk]:
    """Start a call and take up to `count` chunks into it."""
    waiting.call_started(pool)
    taken = (waiting.next_chunk(pool, within=ALL) for _ in range(count))
    return [chunk for chunk in taken if chunk is not None]


def balanced(waiting: ChunkQueue) -> bool:
    return waiting.counters.came == waiting.counters.gone + waiting.queued


def test_a_chunk_gets_its_identity_when_it_is_first_sent() -> None:
    """Sequences run from 1, in order of arrival, under the epoch of the run."""
    waiting = queue()
    waiting.offer(block(10, 1), 0)
    waiting.offer(block(10, 2), 0)
    chunks = send(waiting)
    assert [(c.identity.collector_id, c.identity.pool_id, c.identity.epoch) for c in chunks] == [
        ("lab", POOL, EPOCH)
    ] * 2
    assert [c.identity.sequence for c in chunks] == [1, 2]
    assert all(c.intact for c in chunks)


def test_chunks_not_disposed_of_are_sent_again_unchanged_and_first() -> None:
    """The same order, the same identity, the same bytes; new blocks come behind them."""
    waiting = queue()
    for mark in (1, 2, 3):
        waiting.offer(block(10, mark), 0)
    first = send(waiting)
    waiting.call_ended(POOL, 1)
    waiting.offer(block(10, 4), 0)
    again = send(waiting)
    assert again[:2] == first[1:]
    assert again[2].identity.sequence == 4
    assert waiting.counters.disposed == 10


def test_without_leave_to_bind_a_call_carries_only_what_is_bound() -> None:
    """A pool that fails gets no new block."""
    waiting = queue()
    waiting.offer(block(10), 0)
    sent = send(waiting)
    waiting.call_ended(POOL, 0)
    waiting.offer(block(10), 0)
    waiting.call_started(POOL)
    assert waiting.next_chunk(POOL, within=ALL, bind=False) == sent[0]
    assert waiting.next_chunk(POOL, within=ALL, bind=False) is None


def test_a_chunk_that_takes_more_than_is_left_of_the_call_is_not_bound() -> None:
    """What was never to be written in a call is not perhaps delivered."""
    waiting = queue()
    waiting.offer(block(10), 0)
    waiting.call_started(POOL)
    assert waiting.next_chunk(POOL, within=CHUNK_OVERHEAD_BYTES + 9) is None
    waiting.call_ended(POOL, 0)
    waiting.drop_all()
    assert (waiting.counters.in_doubt, waiting.counters.dropped_at_shutdown) == (0, 10)


def test_a_full_queue_drops_its_oldest_block() -> None:
    """Never-sent bytes that make room are overflow."""
    waiting = queue(capacity=30)
    for mark in range(1, 5):
        waiting.offer(block(10, mark), 0)
    assert waiting.counters.overflow == 10
    assert [c.block for c in send(waiting)] == [block(10, mark) for mark in (2, 3, 4)]


def test_a_full_queue_drops_what_may_have_been_sent_as_in_doubt() -> None:
    """It is the oldest, and it may be at the gateway."""
    waiting = queue(capacity=30)
    for mark in range(1, 4):
        waiting.offer(block(10, mark), 0)
    send(waiting, 2)
    waiting.call_ended(POOL, 0)
    waiting.offer(block(20, 4), 0)
    assert (waiting.counters.in_doubt, waiting.counters.overflow) == (20, 0)


def test_chunks_of_the_running_call_are_never_dropped() -> None:
    """Neither for room, nor for age, nor at shutdown; a newcomer without room is overflow."""
    waiting = queue(capacity=30)
    for mark in range(1, 4):
        waiting.offer(block(10, mark), 0)
    send(waiting)
    waiting.offer(block(10, 4), 0)
    waiting.expire(10_000)
    waiting.drop_all()
    assert (waiting.queued, waiting.counters.overflow) == (30, 10)
    waiting.call_ended(POOL, 3)
    assert (waiting.queued, waiting.counters.disposed) == (0, 30)


def test_nothing_is_dropped_for_a_block_that_has_no_room_even_so() -> None:
    """Dropping helps nobody beside a running call that fills the queue."""
    waiting = queue(capacity=30)
    for mark in range(1, 4):
        waiting.offer(block(10, mark), 0)
    send(waiting, 2)
    waiting.offer(block(20, 4), 0)
    assert (waiting.queued, waiting.counters.overflow) == (30, 20)


def test_without_dropping_a_block_without_room_is_overflow() -> None:
    """What waits is left alone."""
    waiting = queue(capacity=15, drop_oldest=False)
    waiting.offer(block(10, 1), 0)
    waiting.offer(block(10, 2), 0)
    assert (waiting.queued, waiting.counters.overflow) == (10, 10)


def test_room_can_be_kept_for_a_fetch() -> None:
    """Two fetches cannot be promised the same room."""
    waiting = queue(capacity=30, drop_oldest=False)
    assert waiting.reserve(20)
    assert not waiting.reserve(20)
    waiting.release(20)
    waiting.offer(block(20), 0)
    assert not waiting.reserve(20)
    assert waiting.reserve(10)


def test_age_ends_what_waits() -> None:
    """At the age limit never-sent bytes expire, perhaps-delivered ones are in doubt, younger ones stay."""
    waiting = queue(ttl_ns=100)
    waiting.offer(block(10, 1), 0)
    send(waiting)
    waiting.call_ended(POOL, 0)
    waiting.offer(block(20, 2), 10)
    waiting.offer(block(30, 3), 50)
    waiting.expire(99)
    assert waiting.queued == 60
    waiting.expire(110)
    assert (waiting.counters.in_doubt, waiting.counters.expired, waiting.queued) == (10, 20, 30)


def test_what_is_left_at_shutdown_is_counted() -> None:
    """Never sent: dropped at shutdown. Perhaps delivered: in doubt."""
    waiting = queue()
    waiting.offer(block(10, 1), 0)
    waiting.offer(block(20, 2), 0)
    send(waiting, 1)
    waiting.call_ended(POOL, 0)
    waiting.drop_all()
    assert (waiting.counters.in_doubt, waiting.counters.dropped_at_shutdown, waiting.queued) == (10, 20, 0)


def test_tiny_blocks_are_bounded_by_their_number() -> None:
    """A flood of one-byte blocks cannot make the queue outgrow its capacity in memory."""
    waiting = queue(capacity=1 << 20)
    for _ in range(10_000):
        waiting.offer(block(1), 0)
    assert (waiting.queued, waiting.counters.overflow) == (4096, 10_000 - 4096)
    assert balanced(waiting)


def test_bound_chunks_stay_with_their_pool() -> None:
    """A chunk that may have been sent to one pool is never sent to another; sequences run per pool."""
    waiting = queue(pools=("east", "west"))
    waiting.offer(block(10, 1), 0)
    waiting.offer(block(10, 2), 0)
    (east,) = send(waiting, 1, "east")
    (west,) = send(waiting, 5, "west")
    assert (east.identity.sequence, west.identity.sequence) == (1, 1)
    assert (east.block, west.block) == (block(10, 1), block(10, 2))
    waiting.call_ended("east", 0)
    waiting.call_ended("west", 1)
    assert waiting.has_work("east")
    assert not waiting.has_work("west")


@pytest.mark.parametrize(
    "misuse",
    [
        lambda waiting: waiting.call_ended(POOL, 2),
        lambda waiting: waiting.call_ended(POOL, -1),
        lambda waiting: waiting.call_started(POOL),
    ],
)
def test_a_misused_call_is_refused(misuse: Callable[[ChunkQueue], None]) -> None:
    """One call a pool at a time, and no more disposed of than it carried."""
    waiting = queue()
    waiting.offer(block(10), 0)
    send(waiting)
    with pytest.raises(ValueError, match="call"):
        misuse(waiting)
    assert balanced(waiting)


CAPACITY = 60
TTL_NS = 50


@dataclass
class Entry:
    """A block in the model."""

    mark: int
    block: Block
    arrived: int
    sequence: int | None = None
    in_call: bool = False

    @property
    def size(self) -> int:
        return len(self.block)


class AgainstAModel(RuleBasedStateMachine):
    """The queue beside a plain list of entries, oldest first; with one pool the bound ones come first."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.new_queue()
        self.model: list[Entry] = []
        self.fates = dict.fromkeys((field.name for field in fields(Counters)), 0)
        self.now = self.marks = self.sequences = 0
        self.calling = False

    def new_queue(self) -> ChunkQueue:
        return queue(CAPACITY, ttl_ns=TTL_NS)

    def new_block(self, size: int) -> Block:
        return block(size, self.marks)

    def room_for(self, size: int, blocks: int) -> bool:
        return size <= CAPACITY

    def bind(self, entry: Entry) -> None:
        self.sequences += 1
        entry.sequence = self.sequences

    def lose(self, entry: Entry, fate: str) -> None:
        self.model.remove(entry)
        self.fates[fate if entry.sequence is None else "in_doubt"] += entry.size

    def lose_oldest(self) -> None:
        self.lose(min(self.free, key=lambda entry: entry.mark), "overflow")

    @property
    def free(self) -> list[Entry]:
        return [entry for entry in self.model if not entry.in_call]

    @property
    def level(self) -> int:
        return sum(entry.size for entry in self.model)

    @rule(size=st.integers(1, 70), passed=st.integers(0, 20))
    def offer(self, size: int, passed: int) -> None:
        self.now += passed
        self.marks += 1
        offered = self.new_block(size)
        self.queue.offer(offered, self.now)
        self.fates["captured"] += size
        pinned = [entry.size for entry in self.model if entry.in_call]
        if not self.room_for(sum(pinned) + size, len(pinned) + 1):
            self.fates["overflow"] += size
            return
        while not self.room_for(self.level + size, len(self.model) + 1):
            self.lose_oldest()
        self.model.append(Entry(self.marks, offered, self.now))

    @precondition(lambda self: not self.calling)
    @rule(count=st.integers(0, 6), bind=st.booleans())
    def start_call(self, count: int, bind: bool) -> None:
        self.calling = True
        self.queue.call_started(POOL)
        for _ in range(count):
            chunk = self.queue.next_chunk(POOL, within=ALL, bind=bind)
            entry = next((entry for entry in self.free if bind or entry.sequence is not None), None)
            if entry is None:
                assert chunk is None
                return
            if entry.sequence is None:
                self.bind(entry)
            entry.in_call = True
            assert chunk is not None
            assert (chunk.identity.sequence, chunk.block) == (entry.sequence, entry.block)
            self.sent(chunk)

    def sent(self, chunk: Chunk) -> None:
        assert chunk.identity.epoch == EPOCH

    @rule()
    def take_sequence(self) -> None:
        identity = self.queue.take_sequence(POOL)
        if any(entry.sequence is not None for entry in self.free):
            assert identity is None
            return
        self.sequences += 1
        assert identity is not None
        assert identity.sequence == self.sequences

    @precondition(lambda self: self.calling)
    @rule(data=st.data())
    def end_call(self, data: st.DataObject) -> None:
        carried = [entry for entry in self.model if entry.in_call]
        disposed = data.draw(st.integers(0, len(carried)))
        self.queue.call_ended(POOL, disposed)
        self.calling = False
        for entry in carried:
            entry.in_call = False
        for entry in carried[:disposed]:
            self.model.remove(entry)
            self.fates["disposed"] += entry.size

    @rule(passed=st.integers(0, 60))
    def expire(self, passed: int) -> None:
        self.now += passed
        self.queue.expire(self.now)
        for line in ([e for e in self.free if e.sequence is not None], [e for e in self.free if e.sequence is None]):
            for entry in takewhile(lambda entry: self.now - entry.arrived >= TTL_NS, line):
                self.lose(entry, "expired")

    @rule()
    def drop_all(self) -> None:
        self.queue.drop_all()
        for entry in self.free:
            self.lose(entry, "dropped_at_shutdown")

    @invariant()
    def every_byte_is_accounted_for(self) -> None:
        assert asdict(self.queue.counters) == self.fates
        assert self.queue.queued == self.level <= CAPACITY
        assert balanced(self.queue)
        assert self.queue.has_work(POOL) == bool(self.model)


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
