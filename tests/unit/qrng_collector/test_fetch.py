from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qrng_collector.config import CollectorConfig, RetryPolicy
from qrng_collector.fetch import Fetcher
from qrng_collector.queue import ChunkQueue
from qrng_collector.sources import plain_readers
from qrng_grpc.chunk import Block
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.testing import LedgerSource, ManualClock, ScriptedSource
from qrng_grpc.testing.sources import SIMULATED
from tests.waiting import until

SIZE = 16
QUICK = RetryPolicy(initial_s=0.001, maximum_s=0.001)


def config(**settings: object) -> CollectorConfig:
    values: dict[str, object] = {
        "hmac_secret_key": "0123456789abcdef0123456789abcdef",
        "hmac_key_id": "k1",
        "collector_id": "lab",
        "pool_id": "pool",
        "best_class": SourceClass.OPERATING_SYSTEM,
        "push_url": "127.0.0.1:50052",
        "state_dir": Path("unused"),
        "fetch_chunk_size": SIZE,
        "fetch_interval": 0.001,
        "retry_policy": QUICK,
        **settings,
    }
    return CollectorConfig(**values)


def queue(capacity: int = 1024, *, drop_oldest: bool = True) -> ChunkQueue:
    return ChunkQueue("lab", ("pool",), epoch=1, capacity=capacity, ttl_ns=1 << 40, drop_oldest=drop_oldest)


@asynccontextmanager
async def fetching(
    source: EntropySource, into: ChunkQueue, settings: CollectorConfig, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[asyncio.Task[None]]:
    (reader,) = plain_readers([source], settings, clock)
    task: asyncio.Task[None] = asyncio.create_task(Fetcher(reader, into, settings, clock).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def blocks(waiting: ChunkQueue) -> list[Block]:
    waiting.call_started("pool")
    chunks = iter(lambda: waiting.next_chunk("pool", within=8 << 20), None)
    return [chunk.block for chunk in chunks if chunk is not None]


async def test_one_fetch_is_one_block_with_its_capture_times() -> None:
    """Capture starts when the source is asked and ends when it has answered."""
    clock, asked, into = ManualClock(now_ns=5_000_000_000), asyncio.Event(), queue()
    source = ScriptedSource([asked, bytes(range(SIZE))])
    async with fetching(source, into, config(), clock):
        await asyncio.sleep(0)
        clock.advance(2)
        asked.set()
        await source.over.wait()
    assert blocks(into) == [Block(bytes(range(SIZE)), 5_000_000_000, 7_000_000_000, SIMULATED)]


async def test_a_capture_never_ends_before_it_starts() -> None:
    """A wall clock that is set back during a read does not break the chunk's contract."""
    clock, asked, into = ManualClock(now_ns=5_000_000_000), asyncio.Event(), queue()
    source = ScriptedSource([asked, bytes(SIZE)])
    async with fetching(source, into, config(), clock):
        await asyncio.sleep(0)
        clock.step_wall(-3)
        asked.set()
        await source.over.wait()
    (block,) = blocks(into)
    assert (block.capture_start_ns, block.capture_end_ns) == (5_000_000_000, 5_000_000_000)


async def test_a_failing_source_is_asked_again_and_logged_once() -> None:
    """The first failure and the recovery are told, what lies between is not."""
    into = queue()
    source = ScriptedSource([SourceError("unplugged"), SourceError("unplugged"), bytes(SIZE), bytes(SIZE)])
    with capture_logs() as logs:
        async with fetching(source, into, config()):
            await source.over.wait()
    assert [(entry["event"], entry.get("reason"), entry.get("failures")) for entry in logs] == [
        ("fetch_failed", "unplugged", None),
        ("fetch_recovered", None, 2),
    ]
    assert into.counters.captured == 2 * SIZE


async def test_a_source_that_names_a_time_is_not_asked_before() -> None:
    """The wait after a failure is the longer of back-off and retry_after_s."""
    into, source = queue(), ScriptedSource([SourceError("busy", retry_after_s=3600.0), bytes(SIZE)])
    async with fetching(source, into, config()):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await source.over.wait()
    assert into.counters.captured == 0


class WrongLength(LedgerSource):
    """Delivers one byte less than it is asked for, every other time."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.enough = asyncio.Event()

    async def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads == 5:
            self.enough.set()
        return await super().read(size - self.reads % 2)


async def test_a_short_read_is_a_failed_fetch() -> None:
    """Bytes of the wrong number never become a block."""
    into, source = queue(), WrongLength()
    with capture_logs() as logs:
        async with fetching(source, into, config()):
            await source.enough.wait()
    assert {len(block) for block in blocks(into)} == {SIZE}
    assert logs[0]["reason"] == "the source delivered 15 bytes where 16 were asked for"


async def test_a_source_that_hangs_is_given_up() -> None:
    """A read ends at fetch_timeout, and the next one is made."""
    into, never = queue(), asyncio.Event()
    source = ScriptedSource([never, bytes(SIZE)])
    with capture_logs() as logs:
        async with fetching(source, into, config(fetch_timeout=0.01)):
            await source.over.wait()
    assert logs[0]["reason"] == "the source did not answer in time"
    assert into.counters.captured == SIZE


async def test_a_fault_nobody_foresaw_is_a_failed_fetch() -> None:
    """A bug in a source costs a fetch, is told by its kind, and does not end the loop."""
    source, into = ScriptedSource([ZeroDivisionError("TEXT"), bytes(SIZE)]), queue()
    with capture_logs() as logs:
        async with fetching(source, into, config()):
            await source.over.wait()
    assert [entry["event"] for entry in logs] == ["fetch_failed", "fetch_recovered"]
    assert "ZeroDivisionError" in logs[0]["reason"]
    assert "TEXT" not in repr(logs)
    assert into.counters.captured == SIZE


async def test_the_pace_does_not_depend_on_the_queue() -> None:
    """With drop_oldest a full queue is fetched into as before; what makes room is overflow."""
    into = queue(capacity=2 * SIZE)
    source = ScriptedSource([bytes([n]) * SIZE for n in range(5)])
    async with fetching(source, into, config()):
        await source.over.wait()
    assert [block.data[0] for block in blocks(into)] == [3, 4]
    assert into.counters.overflow == 3 * SIZE


async def test_pause_leaves_bytes_in_the_source() -> None:
    """With pause a full queue is not fetched into, and nothing is overflow; a failed fetch gives its room back."""
    into = queue(capacity=2 * SIZE, drop_oldest=False)
    source = ScriptedSource([bytes(SIZE), SourceError("busy"), bytes(SIZE), bytes(SIZE)])
    async with fetching(source, into, config(overflow="pause")):
        await until(lambda: into.queued == 2 * SIZE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await source.over.wait()
        assert into.queued == into.counters.captured == 2 * SIZE
        assert len(blocks(into)) == 2
        into.call_ended("pool", 2)
        await source.over.wait()
    assert (into.counters.captured, into.counters.overflow) == (3 * SIZE, 0)
