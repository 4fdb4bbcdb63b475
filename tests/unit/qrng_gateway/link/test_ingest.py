"""Ingest: every outcome of the table in docs/architecture.md, and what a crash or a failing disk leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qrng_gateway.admission.guard import BURST, REFILL_S
from qrng_gateway.link.ingest import Ingest, PushCall
from qrng_gateway.pool.pool import Overflow, Pool
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, Chunk, Heartbeat, Identity, SourceState
from qrng_grpc.errors import (
    DrainingError,
    EpochBelowMarkError,
    ForeignChunkError,
    FutureChunkError,
    LimitError,
    MarkNotWrittenError,
    PoolFullError,
    StateError,
    SupersededError,
    UnverifiedChunkError,
)
from qrng_grpc.keys import KeyRecord, KeyRing
from qrng_grpc.labels import Condition, SourceClass
from qrng_grpc.state import NumbersFile
from qrng_grpc.testing.clock import ManualClock
from qrng_grpc.v1 import chunk_pb2
from qrng_grpc.wire import encode_chunk, encode_heartbeat
from tests.unit.qrng_gateway.blocks import ANY, CAPACITY, balanced, block, make_pool

KEY = KeyRecord("key-1", b"k" * 32, "lab", frozenset({"pool", "other-pool"}), SourceClass.HARDWARE)
TOLERANCE_S = 5.0
TTL_S = 3600.0


class Bench:
    """A gateway's ingest on a directory, a clock and a pool; a collector that signs what it is told to."""

    def __init__(self, directory: Path, *, overflow: Overflow = "drop_oldest") -> None:
        self.clock = ManualClock()
        self.directory = directory
        self.overflow: Overflow = overflow
        self.epoch = self.clock.now_ns()
        self.pool: Pool
        self.ingest: Ingest

    @asynccontextmanager
    async def gateway(self, *keys: KeyRecord) -> AsyncIterator[Ingest]:
        """Run a gateway; the clock has passed its tolerance, so that captures from now on count as news."""
        self.pool = make_pool(self.clock, overflow=self.overflow)
        self.ingest = Ingest(
            KeyRing(keys or [KEY]),
            self.pool,
            "pool",
            self.directory,
            clock_tolerance_s=TOLERANCE_S,
            ttl_s=TTL_S,
            clock=self.clock,
        )
        self.clock.advance(TOLERANCE_S + 1)
        async with self.ingest.running():
            yield self.ingest

    def chunk(self, sequence: int, *, epoch: int = 0, size: int = 100, age_s: float = 0, **identity: str) -> Chunk:
        """Return a chunk captured `age_s` seconds ago."""
        captured = block(size, self.clock, source_class=SourceClass.HARDWARE, age_s=age_s)
        names = {"collector_id": "lab", "pool_id": "pool"} | identity
        return Chunk.bind(captured, Identity(epoch=epoch or self.epoch, sequence=sequence, **names))


async def push(call: PushCall, *chunks: Chunk, key: KeyRecord = KEY) -> int:
    """Offer chunks, signed by `key`, and settle."""
    for chunk in chunks:
        await offer(call, chunk, key=key)
    return await call.settle()


async def offer(call: PushCall, chunk: Chunk, *, key: KeyRecord = KEY) -> None:
    serialised = encode_chunk(chunk)
    await call.offer(serialised, key.key_id, key.sign(serialised))


async def test_a_good_chunk_is_stored_and_its_mark_is_durable(tmp_path):
    """What is counted as disposed of has its mark on disk."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        chunk = bench.chunk(1)
        assert await push(ingest.open_call(), chunk, bench.chunk(2)) == 2
        assert (NumbersFile(tmp_path / "lab@pool.mark", 3).read() or ())[:2] == (bench.epoch, 2)
        claimed = await bench.pool.claim(100, ANY, "c", 0)
        assert claimed.data == chunk.block.data
        assert claimed.label.collector_id == "lab"


@pytest.mark.parametrize("restart", [False, True], ids=["same run", "after a restart"])
async def test_a_duplicate_is_disposed_of_and_stored_once(tmp_path, restart):
    """A chunk that arrives again, in another call or after a restart, is counted and not stored again."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        chunks = [bench.chunk(n) for n in (1, 2)]
        await push(ingest.open_call(), *chunks)
        if not restart:
            assert await push(ingest.open_call(), *chunks) == 2
            assert bench.pool.counters.stored == 200
            assert ingest.duplicates == 2
    if restart:
        async with bench.gateway() as ingest:
            assert await push(ingest.open_call(), *chunks) == 2
            assert bench.pool.counters.stored == 0
            assert ingest.duplicates == 2


async def test_a_recording_does_not_enter_a_gateway_that_lost_its_state(tmp_path):
    """Without a mark, what was captured before the gateway started is refused, and makes no mark."""
    bench = Bench(tmp_path)
    recording = [bench.chunk(n) for n in (1, 2)]
    async with bench.gateway() as ingest:
        assert await push(ingest.open_call(), *recording) == 2
        assert ingest.refused == {"before_start": 200}
        assert not list(tmp_path.glob("*.mark"))
        assert await push(ingest.open_call(), bench.chunk(3)) == 1
        assert bench.pool.level == 100


@pytest.mark.parametrize("restart", [False, True], ids=["same run", "after a restart"])
async def test_a_recording_of_a_higher_epoch_does_not_enter_beside_a_new_mark(tmp_path, restart):
    """A mark made after an earlier one was lost keeps out what was captured before it, whatever its epoch.

    So the mark of a collector whose epochs went back may be deleted.
    """
    bench = Bench(tmp_path)
    recording = [bench.chunk(n, epoch=bench.epoch + 1000) for n in (1, 2)]
    async with bench.gateway() as ingest:
        assert await push(ingest.open_call(), bench.chunk(1)) == 1
        if not restart:
            assert await push(ingest.open_call(), *recording) == 2
            assert await push(ingest.open_call(), bench.chunk(2)) == 1
            assert (bench.pool.counters.stored, ingest.refused) == (200, {"before_start": 200})
    if restart:
        async with bench.gateway() as ingest:
            assert await push(ingest.open_call(), *recording) == 2
            assert await push(ingest.open_call(), bench.chunk(2)) == 1
            assert (bench.pool.counters.stored, ingest.refused) == (100, {"before_start": 200})


async def test_the_start_of_the_gateway_moves_with_a_stepped_clock(tmp_path):
    """After the wall clock was stepped back, what is captured is still told from what was recorded."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        bench.clock.step_wall(-1000)
        shifted = bench.chunk(1, age_s=TOLERANCE_S + 2)
        assert await push(ingest.open_call(), shifted) == 1
        assert ingest.refused == {"before_start": 100}
        assert await push(ingest.open_call(), bench.chunk(1)) == 1
        assert bench.pool.level == 100


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda key: replace(key, key_id="key-2"), UnverifiedChunkError),
        (lambda key: replace(key, secret=b"x" * 32), UnverifiedChunkError),
    ],
    ids=["unknown key id", "bad signature"],
)
async def test_an_unverified_chunk_is_held(tmp_path, spoil, error):
    """Unknown keys and bad signatures hold a chunk and leave no trace in pool or mark."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        with pytest.raises(error):
            await offer(ingest.open_call(), bench.chunk(1), key=spoil(KEY))
        assert bench.pool.level == 0
        assert ingest.collectors() == []


@pytest.mark.parametrize("change", [{"not_before_ns": 2**62}, {"not_after_ns": 1}, {"revoked": True}])
async def test_a_key_out_of_its_time_holds_its_chunks(tmp_path, change):
    """A key that is not valid yet, not any more, or revoked verifies nothing."""
    bench = Bench(tmp_path)
    async with bench.gateway(replace(KEY, **change)) as ingest:
        with pytest.raises(UnverifiedChunkError):
            await offer(ingest.open_call(), bench.chunk(1))


async def test_a_chunk_its_key_may_not_sign_is_held(tmp_path):
    """Collector, pool and class must be the key's."""
    bench = Bench(tmp_path)
    better = bench.chunk(1)
    label = replace(better.block.label, source_class=SourceClass.QUANTUM)
    better = Chunk(better.identity, replace(better.block, label=label), better.crc32)
    async with bench.gateway() as ingest:
        for foreign in (bench.chunk(1, collector_id="other"), bench.chunk(1, pool_id="third"), better):
            with pytest.raises(ForeignChunkError):
                await offer(ingest.open_call(), foreign)
        assert bench.pool.level == 0


async def test_a_chunk_for_another_pool_of_the_same_key_is_held(tmp_path):
    """A chunk recorded on its way to another gateway that shares the key does not enter this one."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        with pytest.raises(ForeignChunkError):
            await offer(ingest.open_call(), bench.chunk(1, pool_id="other-pool"))


async def test_a_call_carries_one_collectors_chunks(tmp_path):
    """A splice of two collectors' chunks is held where it changes."""
    other = KeyRecord("key-2", b"o" * 32, "lab-2", frozenset({"pool"}), SourceClass.HARDWARE)
    bench = Bench(tmp_path)
    async with bench.gateway(KEY, other) as ingest:
        call = ingest.open_call()
        await offer(call, bench.chunk(1))
        with pytest.raises(ForeignChunkError):
            await offer(call, bench.chunk(1, collector_id="lab-2"), key=other)
        assert await call.settle() == 1


async def test_a_chunk_from_the_future_is_held_until_its_time(tmp_path):
    """Ahead by the tolerance is taken, ahead by more waits until the clock has come near."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        assert await push(ingest.open_call(), bench.chunk(1, age_s=-TOLERANCE_S)) == 1
        early = bench.chunk(2, age_s=-TOLERANCE_S - 3)
        with pytest.raises(FutureChunkError):
            await offer(ingest.open_call(), early)
        bench.clock.advance(3)
        assert await push(ingest.open_call(), early) == 1


async def test_an_epoch_below_the_mark_is_held(tmp_path):
    """A collector that lost its epoch file backwards is told, and its chunks wait."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        await push(ingest.open_call(), bench.chunk(1))
        with pytest.raises(EpochBelowMarkError):
            await offer(ingest.open_call(), bench.chunk(9, epoch=bench.epoch - 1))
        assert await push(ingest.open_call(), bench.chunk(1, epoch=bench.epoch + 1)) == 1


async def test_a_finally_refused_chunk_advances_the_mark(tmp_path):
    """Too old, too large or damaged: counted by reason, disposed of, and a duplicate ever after."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        bench.clock.advance(TTL_S + 2)
        damaged = bench.chunk(3)
        refused = [
            bench.chunk(1, age_s=TTL_S + 1),
            bench.chunk(2, size=MAX_CHUNK_BYTES + 1),
            replace(damaged, crc32=damaged.crc32 ^ 1),
        ]
        assert await push(ingest.open_call(), bench.chunk(1, epoch=bench.epoch - 1)) == 1
        assert await push(ingest.open_call(), *refused) == 3
        assert ingest.refused == {"too_old": 100, "too_large": MAX_CHUNK_BYTES + 1, "bad_crc": 100}
        assert await push(ingest.open_call(), *refused) == 3
        assert ingest.duplicates == 3
        assert bench.pool.counters.stored == 100


async def test_a_malformed_chunk_is_refused_for_good(tmp_path):
    """Signed bytes that are no chunk are disposed of, since sending them again would not help."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        call = ingest.open_call()
        for garbage in (b"\xff", b"", encode_chunk(bench.chunk(1))[:-20]):
            await call.offer(garbage, KEY.key_id, KEY.sign(garbage))
        assert await call.settle() == 3
        assert set(ingest.refused) == {"malformed"}
        assert not list(tmp_path.glob("*.mark"))


async def beat(call: PushCall, heartbeat: Heartbeat) -> int:
    """Send a heartbeat, signed, and settle."""
    serialised = encode_heartbeat(heartbeat)
    await call.offer(serialised, KEY.key_id, KEY.sign(serialised))
    return await call.settle()


async def test_a_heartbeat_is_heard_and_stores_nothing(tmp_path):
    """A heartbeat shows how its collector does, and takes a sequence, so that it is heard once."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        state = SourceState("dev", SourceClass.HARDWARE, Condition.QUARANTINED, 7)
        heartbeat = Heartbeat(
            Identity("lab", "pool", bench.epoch, 1), bench.clock.now_ns(), (state,), queued=1, overflow=2
        )
        assert await beat(ingest.open_call(), heartbeat) == 1
        heard_ns = bench.clock.monotonic_ns()
        bench.clock.advance(10)
        assert await beat(ingest.open_call(), heartbeat) == 1
        (view,) = ingest.collectors()
        assert (ingest.heartbeats, ingest.duplicates, bench.pool.level) == (1, 1, 0)
        assert (view.heartbeat, view.heartbeat_monotonic_ns) == (heartbeat, heard_ns)
        assert view.last_heard_monotonic_ns == heard_ns, "a replay keeps nobody alive"


@pytest.mark.parametrize("spoil", [{"device_id": "no id!"}, {"source_class": 99}, {"condition": 0}])
async def test_a_malformed_heartbeat_is_refused_and_not_shown(tmp_path, spoil):
    """A heartbeat of sources that cannot be leaves what was known before."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        good = Heartbeat(Identity("lab", "pool", bench.epoch, 1), bench.clock.now_ns())
        await beat(ingest.open_call(), good)
        message = chunk_pb2.Chunk.FromString(
            encode_heartbeat(replace(good, identity=Identity("lab", "pool", bench.epoch, 2)))
        )
        message.heartbeat.sources.add(**{"device_id": "dev", "source_class": 1, "condition": 1, **spoil})
        serialised = message.SerializeToString()
        call = ingest.open_call()
        await call.offer(serialised, KEY.key_id, KEY.sign(serialised))
        assert await call.settle() == 1
        assert ingest.refused == {"malformed": len(serialised)}
        assert [view.heartbeat for view in ingest.collectors()] == [good]


async def test_a_corrupt_chunk_is_refused_for_good(tmp_path):
    """A chunk that was never filled is disposed of and counted, and its mark advances."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        hollow = Block(bytes(4096), bench.clock.now_ns(), bench.clock.now_ns(), bench.chunk(1).block.label)
        chunk = Chunk.bind(hollow, Identity("lab", "pool", bench.epoch, 1))
        assert await push(ingest.open_call(), chunk) == 1
        assert await push(ingest.open_call(), chunk) == 1
        assert (ingest.refused, ingest.duplicates) == ({"corrupt": 4096}, 1)
        assert bench.pool.counters.stored == 0


async def test_data_that_came_before_is_refused_under_another_identity(tmp_path):
    """Whatever made a collector send old bytes as new ones, they are stored once; and its mark advances."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        first = bench.chunk(1)
        again = [replace(first, identity=replace(first.identity, sequence=n)) for n in (2, 3)]
        assert await push(ingest.open_call(), first, *again, bench.chunk(4)) == 4
        assert ingest.refused == {"repeated": 200}
        assert bench.pool.counters.stored == 200
        assert await push(ingest.open_call(), *again) == 2
        assert ingest.duplicates == 2


async def test_what_was_held_or_lost_its_group_is_not_repeated(tmp_path):
    """A chunk whose mark could not be written is sent again under its own identity, and stored."""
    state = tmp_path / "state"
    state.mkdir()
    bench = Bench(state)
    async with bench.gateway() as ingest:
        state.rename(tmp_path / "gone")
        chunk = bench.chunk(1)
        with pytest.raises(MarkNotWrittenError):
            await push(ingest.open_call(), chunk)
        (tmp_path / "gone").rename(state)
        assert await push(ingest.open_call(), chunk) == 1
        assert (ingest.refused, bench.pool.counters.stored) == ({}, 100)


async def test_a_flood_of_bad_signatures_is_not_hashed_and_harms_nobody_else(tmp_path):
    """Past its limit an address is refused whatever it brings; others are not, nor a collector known beside it."""
    bench = Bench(tmp_path)
    liar = replace(KEY, secret=b"x" * 32)
    async with bench.gateway() as ingest:
        assert await push(ingest.open_call("ipv4:192.0.2.1:7"), bench.chunk(1)) == 1
        for _ in range(BURST):
            with pytest.raises(UnverifiedChunkError):
                await offer(ingest.open_call("ipv4:192.0.2.1:8"), bench.chunk(2), key=liar)
        for key in (liar, KEY):
            with pytest.raises(LimitError):
                await offer(ingest.open_call("ipv4:192.0.2.1:9"), bench.chunk(2), key=key)
        assert await push(ingest.open_call("ipv4:192.0.2.1:7"), bench.chunk(2)) == 1
        assert await push(ingest.open_call("ipv4:192.0.2.2:7"), bench.chunk(3)) == 1
        bench.clock.advance(REFILL_S)
        assert await push(ingest.open_call("ipv4:192.0.2.1:9"), bench.chunk(4)) == 1


async def test_unknown_key_ids_do_not_count(tmp_path):
    """What costs no hash is not limited, so that nobody can hold a collector with it."""
    bench = Bench(tmp_path)
    stranger = replace(KEY, key_id="key-2")
    async with bench.gateway() as ingest:
        for _ in range(2 * BURST):
            with pytest.raises(UnverifiedChunkError):
                await offer(ingest.open_call(), bench.chunk(1), key=stranger)
        assert await push(ingest.open_call(), bench.chunk(1)) == 1


async def test_back_pressure_holds_and_the_mark_stays(tmp_path):
    """Under backpressure a chunk without room waits at its collector and is stored when there is room."""
    bench = Bench(tmp_path, overflow="backpressure")
    async with bench.gateway() as ingest:
        await push(ingest.open_call(), bench.chunk(1, size=CAPACITY))
        late = bench.chunk(2)
        with pytest.raises(PoolFullError):
            await offer(ingest.open_call(), late)
        await bench.pool.claim(200, ANY, "c", 0)
        assert await push(ingest.open_call(), late) == 1


async def test_a_call_may_carry_more_than_the_pool_holds(tmp_path):
    """Under drop_oldest, chunks of one call displace each other, oldest first, and all are accounted for."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        chunks = [bench.chunk(n, size=CAPACITY // 2) for n in range(1, 6)]
        assert await push(ingest.open_call(), *chunks) == 5
        assert bench.pool.counters.overflow == 3 * (CAPACITY // 2)
        assert (await bench.pool.claim(CAPACITY // 2, ANY, "c", 0)).data == chunks[3].block.data
        assert balanced(bench.pool)


async def test_a_chunk_displaced_by_better_bytes_counts_as_overflow(tmp_path):
    """Weak chunks that find a pool full of better ones are disposed of and counted."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        await push(ingest.open_call(), bench.chunk(1, size=CAPACITY))
        weak = block(64, bench.clock, source_class=SourceClass.SIMULATED)
        assert await push(ingest.open_call(), Chunk.bind(weak, Identity("lab", "pool", bench.epoch, 2))) == 1
        assert bench.pool.counters.overflow == 64
        assert balanced(bench.pool)


async def test_an_older_call_stops_once_a_newer_one_brought_news(tmp_path):
    """Of two calls of one collector, the newer that brings something new owns the mark."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        older, newer = ingest.open_call(), ingest.open_call()
        await push(older, bench.chunk(1))
        await push(newer, bench.chunk(1))
        await push(older, bench.chunk(2))
        await push(newer, bench.chunk(3))
        with pytest.raises(SupersededError):
            await offer(older, bench.chunk(4))


async def test_a_mark_that_is_written_but_not_durable_stores_nothing(tmp_path):
    """/dev/null takes every write and refuses to synchronise, as a disk may: nothing is stored until one keeps it."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        assert await push(ingest.open_call(), bench.chunk(1)) == 1
        mark = tmp_path / "lab@pool.mark"
        mark.rename(tmp_path / "kept")
        mark.symlink_to("/dev/null")
        with pytest.raises(MarkNotWrittenError):
            await push(ingest.open_call(), bench.chunk(2))
        assert bench.pool.counters.stored == 100
        (tmp_path / "kept").replace(mark)
        assert await push(ingest.open_call(), bench.chunk(2)) == 1
        assert bench.pool.counters.stored == 200


async def test_a_failed_write_stores_nothing_and_counts_nothing(tmp_path):
    """If the mark cannot be written the call fails, the mark returns, and sending again succeeds."""
    state = tmp_path / "state"
    state.mkdir()
    bench = Bench(state)
    async with bench.gateway() as ingest:
        state.rename(tmp_path / "gone")
        call = ingest.open_call()
        chunks = [bench.chunk(1), bench.chunk(2)]
        with pytest.raises(MarkNotWrittenError):
            await push(call, *chunks)
        with pytest.raises(MarkNotWrittenError):
            await offer(call, bench.chunk(3))
        assert bench.pool.level == 0
        (tmp_path / "gone").rename(state)
        assert await push(ingest.open_call(), *chunks) == 2
        assert bench.pool.level == 200
        assert bench.pool.admit(block(CAPACITY - 200, bench.clock), "lab") is not None


async def test_a_cancelled_call_takes_effect_all_the_same(tmp_path):
    """What was accepted before its call broke off is stored, once."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        chunk = bench.chunk(1)
        call = ingest.open_call()
        await offer(call, chunk)
        settling = asyncio.create_task(call.settle())
        await asyncio.sleep(0)
        settling.cancel()
        assert await push(ingest.open_call(), chunk) == 1
        assert bench.pool.counters.stored == 100
        assert ingest.duplicates == 1


async def test_leaving_finishes_writes_under_way(tmp_path):
    """A gateway that stops stores what it accepted before."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        await offer(ingest.open_call(), bench.chunk(7))
    assert bench.pool.level == 100
    assert (NumbersFile(tmp_path / "lab@pool.mark", 3).read() or ())[:2] == (bench.epoch, 7)


async def test_a_draining_gateway_holds_news_and_knows_duplicates(tmp_path):
    """Draining holds what is new; what was stored before is still disposed of."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        chunk = bench.chunk(1)
        await push(ingest.open_call(), chunk)
        ingest.drain()
        assert await push(ingest.open_call(), chunk) == 1
        with pytest.raises(DrainingError):
            await offer(ingest.open_call(), bench.chunk(2))


async def test_a_damaged_mark_refuses_to_start(tmp_path):
    """A gateway does not guess what it took before."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        await push(ingest.open_call(), bench.chunk(1))
    mark = tmp_path / "lab@pool.mark"
    mark.write_bytes(mark.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(StateError):
        async with bench.gateway():
            pass


async def test_status_shows_who_was_heard(tmp_path):
    """A collector appears with its mark and the time it was last heard."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        assert ingest.collectors() == []
        await push(ingest.open_call(), bench.chunk(4))
        (view,) = ingest.collectors()
        assert (view.collector_id, view.epoch, view.sequence) == ("lab", bench.epoch, 4)
        assert view.last_heard_monotonic_ns == bench.clock.monotonic_ns()
