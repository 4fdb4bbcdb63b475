from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from qrng_collector.queue import ChunkQueue
from qrng_collector.spool import BLOCK_OVERHEAD_BYTES, Spool
from qrng_grpc.chunk import Block, Chunk, Identity
from qrng_grpc.clock import NS_PER_S
from tests.unit.qrng_collector.disk import START_NS, Disk
from tests.unit.qrng_collector.test_queue import (
    ALL,
    CAPACITY,
    LABEL,
    POOL,
    TTL_NS,
    AgainstAModel,
    Entry,
    balanced,
    block,
    send,
)

SPOOL_BYTES = 16 << 10
"""Little, so that segments end and are cleaned up all the time."""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def spooled_queue(
    spool: Spool,
    capacity: int = 100,
    *,
    ttl_ns: int = 1_000,
    drop_oldest: bool = True,
    pools: tuple[str, ...] = (POOL,),
) -> ChunkQueue:
    return ChunkQueue(
        "lab", pools, epoch=spool.epoch, capacity=capacity, ttl_ns=ttl_ns, drop_oldest=drop_oldest, spool=spool
    )


def test_a_restart_goes_on_where_the_last_run_ended(disk: Disk) -> None:
    """What was sent comes first and under its identity, the rest behind it; sequences go on; the books balance."""
    with disk.opened() as spool:
        waiting = spooled_queue(spool)
        for mark in range(1, 6):
            waiting.offer(block(10, mark), 0)
        first = send(waiting, 1)
        waiting.call_ended(POOL, 1)
        first = send(waiting, 1)
        waiting.call_ended(POOL, 0)
        waiting.drop_all()
        assert (waiting.counters.spooled, waiting.counters.disposed, waiting.queued) == (40, 10, 0)
        assert balanced(waiting)
    with disk.opened() as spool:
        waiting = spooled_queue(spool)
        assert (waiting.counters.recovered, waiting.counters.captured, waiting.queued) == (40, 0, 40)
        again = send(waiting)
        assert again[0] == first[0]
        assert [chunk.identity.sequence for chunk in again] == [2, 3, 4, 5]
        assert [chunk.block for chunk in again] == [block(10, mark) for mark in (2, 3, 4, 5)]
        waiting.call_ended(POOL, 4)
        assert waiting.counters.disposed == waiting.counters.came == 40


def test_what_is_bound_ahead_fits_the_call(disk: Disk) -> None:
    """The call's first chunk is bound alone; behind it, only what the call has room for, at most 64 at once."""
    with disk.opened() as spool:
        waiting = spooled_queue(spool, 1 << 20)
        for mark in range(200):
            waiting.offer(block(10, mark), 0)
        waiting.call_started(POOL)
        assert waiting.next_chunk(POOL, within=ALL) is not None
        assert spool.sequences[POOL] == 1
        assert waiting.next_chunk(POOL, within=5 * 1034) is not None
        assert spool.sequences[POOL] == 6
        for _ in range(4):
            assert waiting.next_chunk(POOL, within=0) is None
            assert waiting.next_chunk(POOL, within=1034) is not None
        assert waiting.next_chunk(POOL, within=ALL) is not None
        assert spool.sequences[POOL] == 70


def test_a_smaller_queue_drops_the_oldest_of_what_comes_back(disk: Disk) -> None:
    """Sent or not, as ever; without dropping all of it waits."""
    with disk.opened() as spool:
        waiting = spooled_queue(spool)
        for mark in range(1, 6):
            waiting.offer(block(10, mark), 0)
        send(waiting, 1)
    kept = disk.copy(disk.directory / "kept")
    with disk.opened() as spool:
        waiting = spooled_queue(spool, 30)
        assert (waiting.counters.in_doubt, waiting.counters.overflow, waiting.queued) == (10, 10, 30)
        assert balanced(waiting)
    with kept.opened() as spool:
        waiting = spooled_queue(spool, 30, drop_oldest=False)
        assert waiting.queued == 50
        assert not waiting.reserve(1)


def test_what_comes_back_expires(disk: Disk) -> None:
    """The age limit runs on while the program does not."""
    with disk.opened() as spool:
        spool.keep(1, Block(b"old.", START_NS - 2 * NS_PER_S, START_NS, LABEL), 0)
        spool.keep(2, Block(b"new.", START_NS, START_NS, LABEL), 0)
    disk.clock.advance(3)
    with disk.opened() as spool:
        waiting = spooled_queue(spool, ttl_ns=4 * NS_PER_S)
        waiting.expire(disk.clock.monotonic_ns())
        assert (waiting.counters.expired, waiting.queued) == (4, 4)
    with disk.opened() as spool:
        assert spooled_queue(spool).counters.recovered == 4


def test_a_pool_that_is_no_more_keeps_what_may_be_at_its_gateway(disk: Disk) -> None:
    """It is not sent elsewhere; with its pool back it goes on, without it becomes in doubt at the age limit."""
    with disk.opened() as spool:
        waiting = spooled_queue(spool)
        waiting.offer(block(10, 1), 0)
        waiting.offer(block(10, 2), 0)
        send(waiting, 1)
    with disk.opened() as spool:
        waiting = spooled_queue(spool, pools=("other",))
        assert [chunk.block for chunk in send(waiting, pool="other")] == [block(10, 2)]
    disk.clock.advance(1)
    with disk.opened() as spool:
        waiting = spooled_queue(spool)
        waiting.expire(disk.clock.monotonic_ns())
        assert (waiting.counters.in_doubt, waiting.queued) == (20, 0)


def mark_of(block: Block) -> int:
    """Blocks of the machine below carry their number in their times."""
    return block.capture_end_ns - block.capture_start_ns


class WithASpool(AgainstAModel):
    """The same model, and a disk that crashes: as kill -9 does, or with what was not durable torn away, at any byte."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.crashes = 0
        self.disk = Disk(self.directory / "0")
        self.run = ExitStack()
        self.known: dict[int, Entry] = {}
        self.identities: dict[int, Identity] = {}
        super().__init__()
        self.epoch = self.spool.epoch

    def teardown(self) -> None:
        self.run.close()
        shutil.rmtree(self.directory)

    def new_queue(self) -> ChunkQueue:
        self.spool = self.run.enter_context(self.disk.opened(size=SPOOL_BYTES, largest_block=CAPACITY))
        return spooled_queue(self.spool, CAPACITY, ttl_ns=TTL_NS)

    def new_block(self, size: int) -> Block:
        self.pass_time()
        captured_ns = self.disk.clock.now_ns()
        return Block(bytes(size), captured_ns, captured_ns + self.marks, LABEL)

    def pass_time(self) -> None:
        self.disk.clock.advance((self.now - self.disk.clock.monotonic_ns()) / NS_PER_S)

    def room_for(self, size: int, blocks: int) -> bool:
        return super().room_for(size, blocks) and size + blocks * BLOCK_OVERHEAD_BYTES <= SPOOL_BYTES // 2

    def bind(self, entry: Entry) -> None:
        ahead = 64 if any(entry.in_call for entry in self.model) else 1
        for unbound in [entry for entry in self.model if entry.sequence is None][:ahead]:
            super().bind(unbound)

    def sent(self, chunk: Chunk) -> None:
        """Whatever crashed in between, a block has one identity, and an identity one block."""
        mark = mark_of(chunk.block)
        assert self.identities.setdefault(mark, chunk.identity) == chunk.identity
        assert len(set(self.identities.values())) == len(self.identities)
        assert chunk.identity.epoch == self.epoch

    @rule()
    def crash(self) -> None:
        """Kill -9: what was written is there."""
        self.restart(self.crashed())
        self.fates["recovered"] = self.level

    @rule(data=st.data())
    def lose_power(self, data: st.DataObject) -> None:
        """What was written since the last synchronisation may be gone from any byte on, and no assignment with it."""
        writer = self.spool._current
        crashed = self.crashed(cut_to=data.draw(st.integers(writer.durable_size, writer.size)))
        with crashed.copy(self.new_directory()).opened(size=SPOOL_BYTES, largest_block=CAPACITY) as spool:
            kept = spool.take_recovered()
        left = [self.known[mark_of(one.block)] for one in kept]
        assert [one.sequence or None for one in kept] == [entry.sequence for entry in left]
        assert all(entry in left for entry in self.model if entry.sequence is not None)
        self.model = sorted((e for e in left if e.sequence is not None), key=lambda entry: entry.sequence or 0)
        self.model += [entry for entry in left if entry.sequence is None]
        recovered = self.level
        self.restart(crashed)
        self.fates["recovered"] = recovered
        while self.model and not self.room_for(self.level, len(self.model)):
            self.lose_oldest()

    @precondition(lambda self: not self.calling)
    @rule()
    def drop_all(self) -> None:
        """A polite end leaves all to the next run."""
        self.queue.drop_all()
        assert (self.queue.queued, self.queue.counters.spooled) == (0, self.level)
        assert balanced(self.queue)
        self.restart(self.disk)
        self.fates["recovered"] = self.level

    @invariant()
    def the_spool_is_bounded(self) -> None:
        self.known |= {entry.mark: entry for entry in self.model}
        assert self.spool.size == sum(path.stat().st_size for path in self.disk.segments) <= SPOOL_BYTES

    def crashed(self, cut_to: int | None = None) -> Disk:
        return self.disk.copy(self.new_directory(), cut_to=cut_to)

    def new_directory(self) -> Path:
        self.crashes += 1
        return self.directory / str(self.crashes)

    def restart(self, disk: Disk) -> None:
        self.pass_time()
        self.run.close()
        self.disk = disk
        self.queue = self.new_queue()
        self.calling = False
        self.fates = dict.fromkeys(self.fates, 0)
        for entry in self.known.values():
            entry.in_call = False


TestWithASpool = WithASpool.TestCase
TestWithASpool.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
