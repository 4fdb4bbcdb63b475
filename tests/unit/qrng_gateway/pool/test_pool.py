"""The pool: every byte once, in order, under its own label, within its bounds."""

import asyncio
import tracemalloc

import pytest

from qrng_gateway.pool.claims import ClaimSpec
from qrng_gateway.pool.lane import Origin, Stored
from qrng_grpc.chunk import Block, BlockLabel
from qrng_grpc.errors import DrainingError, InvalidRequestError, LimitError, PoolShortError, WeakerSourceError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import ANY, CAPACITY, balanced, block, make_pool, put

QUANTUM = ClaimSpec(least_class=SourceClass.QUANTUM)
NOW = 0.0
LONG = 3600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_bytes_leave_in_order_and_once(clock):
    """Consecutive claims return consecutive bytes, across chunk borders."""
    pool = make_pool(clock)
    blocks = [block(size, clock) for size in (10, 100, 3)]
    put(pool, *blocks)
    taken = [(await pool.claim(n, ANY, "c", NOW)).data for n in (1, 9, 50, 53)]
    assert b"".join(taken) == b"".join(b.data for b in blocks)
    assert pool.level == 0
    assert balanced(pool)


async def test_served_bytes_are_overwritten(clock):
    """What was claimed is zero in the pool's buffer, what was not claimed is untouched."""
    pool = make_pool(clock)
    one = block(64, clock)
    put(pool, one)
    (stored,) = next(iter(pool._lanes[SourceClass.QUANTUM, Processing.NONE] for _ in "x"))
    buffer = stored._buffer
    await pool.claim(20, ANY, "c", NOW)
    assert bytes(buffer) == bytes(20) + one.data[20:]


@pytest.mark.parametrize("size", [100, 101, 150, 200])
async def test_bytes_of_two_chunks_are_overwritten_in_both(clock, size):
    """Where a claim ends in the next chunk, at its border or within it, all it took is zero, and all else is left."""
    pool = make_pool(clock)
    blocks = [block(100, clock), block(100, clock)]
    put(pool, *blocks)
    buffers = [stored._buffer for stored in pool._lanes[SourceClass.QUANTUM, Processing.NONE]]
    whole = b"".join(one.data for one in blocks)
    claimed = await pool.claim(size, ANY, "c", NOW)
    assert claimed.data == whole[:size]
    assert b"".join(buffers) == bytes(size) + whole[size:]
    assert (pool.level, pool.counters.served, pool.counters.claims) == (200 - size, size, 1)
    assert balanced(pool)


async def test_small_rests_keep_no_large_chunks_alive(clock):
    """A client that takes all but a byte of each youngest chunk leaves single bytes behind, not the chunks."""
    pool = make_pool(clock)
    youngest = ClaimSpec(least_class=SourceClass.QUANTUM, max_age_s=0.5)
    tracemalloc.start()
    try:
        for _ in range(32):
            clock.advance(1)
            put(pool, block(64 * 1024, clock))
            await pool.claim(64 * 1024 - 1, youngest, "c", NOW)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pool.level == 32
    assert held < 256 * 1024


async def test_bytes_that_move_to_a_smaller_buffer_leave_nothing_behind(clock):
    """A chunk's rest is copied out of a buffer that is mostly used up; the old buffer is overwritten."""
    pool = make_pool(clock)
    one = block(64, clock)
    put(pool, one)
    (stored,) = pool._lanes[SourceClass.QUANTUM, Processing.NONE]
    buffer = stored._buffer
    taken = [(await pool.claim(n, ANY, "c", NOW)).data for n in (40, 1, 23)]
    assert b"".join(taken) == one.data
    assert bytes(buffer) == bytes(64)
    assert balanced(pool)


@pytest.mark.parametrize("end", ["expire", "overflow", "purge", "wipe"])
async def test_destroyed_bytes_are_overwritten(clock, end):
    """Bytes that expire, overflow, lose the key that vouched for them or outlive the gateway are overwritten too."""
    pool = make_pool(clock)
    put(pool, block(64, clock))
    (stored,) = pool._lanes[SourceClass.QUANTUM, Processing.NONE]
    buffer = stored._buffer
    if end == "expire":
        clock.advance(LONG + 1)
        pool.expire()
    elif end == "overflow":
        put(pool, block(CAPACITY, clock))
    elif end == "purge":
        assert pool.purge(stored.origin.key_id) == 64
    else:
        pool.wipe()
    assert bytes(buffer) == bytes(64)
    assert balanced(pool)


async def test_a_claim_is_all_or_nothing(clock):
    """A claim the pool cannot meet takes nothing."""
    pool = make_pool(clock)
    put(pool, block(31, clock))
    with pytest.raises(PoolShortError) as caught:
        await pool.claim(32, ANY, "c", NOW)
    assert caught.value.retry_after_s is not None
    assert pool.level == 31


async def test_the_weakest_acceptable_lane_is_taken_first(clock):
    """Better bytes are left for those who need them."""
    pool = make_pool(clock)
    put(pool, block(8, clock), block(8, clock, source_class=SourceClass.OPERATING_SYSTEM))
    assert (await pool.claim(8, ANY, "c", NOW)).label.source_class is SourceClass.OPERATING_SYSTEM
    assert (await pool.claim(8, ANY, "c", NOW)).label.source_class is SourceClass.QUANTUM


async def test_bytes_below_the_least_class_are_never_served(clock):
    """A claim for QUANTUM does not see weaker bytes."""
    pool = make_pool(clock)
    put(pool, block(64, clock, source_class=SourceClass.HARDWARE))
    with pytest.raises(PoolShortError):
        await pool.claim(1, QUANTUM, "c", NOW)


async def test_a_claim_does_not_mix_lanes_unless_asked(clock):
    """Spanning lanes must be asked for, and the reply is then labelled with the weakest."""
    pool = make_pool(clock)
    put(pool, block(8, clock), block(8, clock, source_class=SourceClass.HARDWARE, processing=Processing.MIXED))
    with pytest.raises(PoolShortError):
        await pool.claim(16, ANY, "c", NOW)
    claimed = await pool.claim(16, ClaimSpec(SourceClass.SIMULATED, span_lanes=True), "c", NOW)
    assert len(claimed.data) == 16
    assert claimed.label.source_class is SourceClass.HARDWARE
    assert claimed.label.processing is Processing.MIXED


async def test_processing_can_be_demanded(clock):
    """A claim for unmixed bytes leaves mixed ones alone."""
    pool = make_pool(clock)
    put(pool, block(8, clock, processing=Processing.MIXED), block(8, clock))
    claimed = await pool.claim(8, ClaimSpec(SourceClass.SIMULATED, processing=Processing.NONE), "c", NOW)
    assert claimed.label.processing is Processing.NONE


async def test_a_label_is_the_weakest_of_its_bytes(clock):
    """Custody, verdict, names and times cover every byte of a reply."""
    pool = make_pool(clock)
    early, late = clock.now_ns(), clock.now_ns() + 9
    passed = BlockLabel(("a",), SourceClass.QUANTUM, health_verdict=HealthVerdict.PASSED)
    remote = BlockLabel(("b",), SourceClass.QUANTUM, custody=Custody.REMOTE)
    put(pool, Block(b"\x01" * 8, late, late + 5, remote), Block(b"\x02" * 8, early, early + 2, passed))
    label = (await pool.claim(16, ANY, "c", NOW)).label
    assert (label.device_id, label.custody) == ("a,b", Custody.REMOTE)
    assert label.health_verdict is HealthVerdict.UNTESTED
    assert (label.capture_start_ns, label.capture_end_ns, label.generation_ns) == (early, late + 5, early + 2)


async def test_a_label_reaches_over_the_capture_of_two_chunks(clock):
    """Its times are those of the bytes themselves: not of a chunk that gave none, nor of the last alone."""
    pool = make_pool(clock)
    label = BlockLabel(("dev",), SourceClass.QUANTUM)
    spans = [(10, 40), (20, 30), (30, 60)]
    now_ns = clock.now_ns()
    put(pool, *(Block(bytes(100), now_ns + start, now_ns + end, label) for start, end in spans))
    seen = [(await pool.claim(n, ANY, "c", NOW)).label for n in (100, 20, 100, 80)]
    assert [(one.generation_ns, one.capture_start_ns, one.capture_end_ns) for one in seen] == [
        (now_ns + generated, now_ns + start, now_ns + end)
        for generated, start, end in [(40, 10, 40), (30, 20, 30), (30, 20, 60), (60, 30, 60)]
    ]


async def test_two_chunks_of_different_collectors_name_both(clock):
    """Bytes of one lane that two collectors captured are labelled with either's name."""
    pool = make_pool(clock)
    assert pool.store(block(100, clock), "lab-a")
    assert pool.store(block(100, clock), "lab-b")
    assert (await pool.claim(150, ANY, "c", NOW)).label.collector_id == "lab-a,lab-b"


async def test_a_label_names_sixteen_devices_at_most(clock):
    """A reply from very many devices says that there are more, and stays small."""
    pool = make_pool(clock)
    for number in range(20):
        label = BlockLabel((f"d{number:02}",), SourceClass.QUANTUM)
        put(pool, Block(b"\x05", clock.now_ns(), clock.now_ns(), label))
    names = (await pool.claim(20, ANY, "c", NOW)).label.device_id.split(",")
    assert names == [f"d{number:02}" for number in range(16)] + ["..."]


async def test_maximum_age_is_counted_from_capture_start(clock):
    """A claim with a maximum age gets the oldest bytes that are young enough, and leaves the others."""
    pool = make_pool(clock)
    old, young = block(8, clock, age_s=10), block(8, clock, age_s=4)
    put(pool, young, old)
    claimed = await pool.claim(8, ClaimSpec(SourceClass.SIMULATED, max_age_s=5), "c", NOW)
    assert claimed.data == young.data
    assert (await pool.claim(8, ANY, "c", NOW)).data == old.data


async def test_bytes_can_be_demanded_from_after_a_moment(clock):
    """`captured_after_ns` excludes the moment itself."""
    pool = make_pool(clock)
    moment = clock.now_ns()
    put(pool, block(8, clock))
    clock.advance(1)
    later = block(8, clock)
    put(pool, later)
    spec = ClaimSpec(SourceClass.SIMULATED, captured_after_ns=moment)
    assert (await pool.claim(8, spec, "c", NOW)).data == later.data


async def test_bytes_past_the_age_limit_are_never_served(clock):
    """The age limit holds at the moment of reading, with no help from a background task."""
    pool = make_pool(clock)
    put(pool, block(8, clock))
    clock.advance(LONG + 0.001)
    with pytest.raises(PoolShortError):
        await pool.claim(1, ANY, "c", NOW)
    assert pool.counters.expired == 8
    assert balanced(pool)


async def test_a_chunk_past_the_age_limit_gives_nothing_to_a_claim_that_reaches_into_the_next(clock):
    """It is destroyed, and the claim begins with what is young enough; where that is too little, nothing is taken."""
    pool = make_pool(clock)
    young = block(100, clock, age_s=-1)
    put(pool, block(100, clock), young)
    clock.advance(3600.5)
    with pytest.raises(PoolShortError):
        await pool.claim(150, ANY, "c", NOW)
    assert (pool.level, pool.counters.expired) == (100, 100)
    assert (await pool.claim(100, ANY, "c", NOW)).data == young.data


async def test_a_full_pool_drops_its_oldest(clock):
    """Under drop_oldest the newest bytes are kept."""
    pool = make_pool(clock)
    half = CAPACITY // 2
    blocks = [block(half, clock) for _ in range(3)]
    put(pool, *blocks)
    assert pool.counters.overflow == half
    assert (await pool.claim(half, ANY, "c", NOW)).data == blocks[1].data
    assert balanced(pool)


async def test_a_newcomer_displaces_weaker_bytes_before_its_own(clock):
    """Weaker lanes make room first, in either overflow mode."""
    for overflow in ("drop_oldest", "backpressure"):
        pool = make_pool(clock, overflow=overflow)
        half = CAPACITY // 2
        put(pool, block(half, clock), block(half, clock, source_class=SourceClass.SIMULATED))
        put(pool, block(half, clock))
        assert [lane.source_class for lane in pool.lanes()] == [SourceClass.QUANTUM]
        assert balanced(pool)


async def test_a_newcomer_never_displaces_better_bytes(clock):
    """A weaker chunk finds no room in a pool full of better ones, and destroys nothing on the way."""
    pool = make_pool(clock)
    put(pool, block(CAPACITY - 8, clock), block(8, clock, source_class=SourceClass.SIMULATED))
    assert not pool.store(block(1024, clock, source_class=SourceClass.HARDWARE), "lab")
    assert pool.level == CAPACITY


async def test_back_pressure_destroys_nothing_of_the_same_class(clock):
    """Under backpressure a full pool has no room."""
    pool = make_pool(clock, overflow="backpressure")
    put(pool, block(CAPACITY, clock))
    assert not pool.store(block(1, clock), "lab")
    assert pool.counters.overflow == 0


@pytest.mark.parametrize("size", [CAPACITY, CAPACITY - 1])
async def test_what_is_displaced_is_overwritten(clock, size):
    """Nothing is left of a displaced chunk, whether its buffer is used again or has another size."""
    old, new = block(CAPACITY, clock), block(size, clock)
    displaced = Stored(old, Origin(old.label, "lab", "dev"))
    buffer = displaced.front(CAPACITY)
    newcomer = Stored(new, displaced.origin, overwritten=displaced)
    assert bytes(buffer) == (new.data if size == CAPACITY else bytes(CAPACITY))
    assert bytes(newcomer.front(size)) == new.data
    assert not len(displaced)


def test_a_buffer_whose_end_was_cut_off_is_used_again(clock):
    """A newcomer as large as a chunk was before some of it was set aside takes over all of its buffer."""
    old, new = block(4096, clock), block(4096, clock)
    displaced = Stored(old, Origin(old.label, "lab", "dev"))
    displaced.cut_end(40)
    newcomer = Stored(new, displaced.origin, overwritten=displaced)
    assert newcomer.front(CAPACITY) == new.data
    assert not len(displaced)


async def test_reserved_room_is_nobody_elses(clock):
    """Room set aside for a chunk on its way counts as taken until it is released."""
    pool = make_pool(clock)
    first = pool.admit(block(CAPACITY, clock), "lab")
    assert first is not None
    assert not pool.store(block(1, clock), "lab")
    pool.abandon(first)
    assert pool.store(block(1, clock), "lab")


async def test_tiny_chunks_cannot_fill_memory_with_bookkeeping(clock):
    """A pool of 1 MiB holds at most 1024 chunks, however small."""
    pool = make_pool(clock)
    put(pool, *(block(1, clock) for _ in range(1500)))
    assert pool.level == 1024
    assert pool.counters.overflow == 1500 - 1024
    assert balanced(pool)


async def test_a_waiting_claim_is_met_when_bytes_arrive(clock):
    """A claim waits for the pool to fill, also from several chunks."""
    pool = make_pool(clock)
    waiting = asyncio.create_task(pool.claim(16, ANY, "c", LONG))
    await settled()
    one, two = block(10, clock), block(10, clock)
    put(pool, one)
    await settled()
    assert not waiting.done()
    put(pool, two)
    assert (await waiting).data == (one.data + two.data)[:16]
    assert pool.waiting == 0


async def test_claims_of_one_client_are_met_in_order(clock):
    """No claim passes one of the same client that waits for the same bytes, small as the newcomer may be."""
    pool = make_pool(clock)
    big = asyncio.create_task(pool.claim(100, ANY, "c", LONG))
    await settled()
    small = asyncio.create_task(pool.claim(1, ANY, "c", LONG))
    await settled()
    put(pool, block(50, clock))
    await settled()
    assert not big.done()
    assert not small.done()
    put(pool, block(51, clock))
    await settled()
    assert big.done()
    assert small.done()
    assert pool.level == 0


class CountedClock(ManualClock):
    """Counts how often it is looked at, which the pool does at least once per claim it tries."""

    looks = 0

    def now_ns(self) -> int:
        self.looks += 1
        return super().now_ns()


@pytest.mark.parametrize("max_age_s", [None, 60])
async def test_a_long_line_costs_an_arriving_chunk_nothing(max_age_s):
    """Once those ahead need all bytes there are, nobody further back is tried, nor a newcomer compared with them."""
    clock = CountedClock()
    pool = make_pool(clock, max_waiting=501)
    spec = ClaimSpec(SourceClass.QUANTUM, max_age_s=max_age_s)
    line = [asyncio.create_task(pool.claim(1000, spec, f"c{i % 2}", LONG)) for i in range(500)]
    await settled()
    assert pool.waiting == 500
    clock.looks = 0
    put(pool, block(10, clock))
    with pytest.raises(PoolShortError):
        await pool.claim(1000, spec, "newcomer", NOW)
    assert clock.looks < 20
    pool.drain()
    await asyncio.gather(*line, return_exceptions=True)


async def test_a_newcomer_passes_those_who_wait_for_other_bytes(clock):
    """Claims wait only behind claims that could use the same bytes: by class, and by age."""
    pool = make_pool(clock)
    quantum = asyncio.create_task(pool.claim(8, QUANTUM, "q", LONG))
    young = asyncio.create_task(pool.claim(8, ClaimSpec(SourceClass.HARDWARE, max_age_s=1), "y", LONG))
    await settled()
    put(pool, block(8, clock, source_class=SourceClass.HARDWARE, age_s=2))
    claimed = await pool.claim(8, ClaimSpec(SourceClass.HARDWARE), "h", NOW)
    assert claimed.label.source_class is SourceClass.HARDWARE
    for task in (quantum, young):
        assert not task.done()
        task.cancel()
    await asyncio.gather(quantum, young, return_exceptions=True)


async def test_a_cancelled_claim_takes_nothing_and_blocks_nobody(clock):
    """A client that leaves the line before it is served leaves the bytes to those behind it."""
    pool = make_pool(clock)
    leaver = asyncio.create_task(pool.claim(100, ANY, "leaver", LONG))
    await settled()
    patient = asyncio.create_task(pool.claim(8, ANY, "patient", LONG))
    await settled()
    put(pool, block(99, clock))
    leaver.cancel()
    assert len((await patient).data) == 8
    assert pool.level == 91
    assert pool.waiting == 0


async def test_a_claim_cancelled_in_the_same_moment_takes_nothing(clock):
    """Bytes that arrive after the cancellation, though before the task ran, are not granted."""
    pool = make_pool(clock)
    leaver = asyncio.create_task(pool.claim(8, ANY, "leaver", LONG))
    await settled()
    leaver.cancel()
    put(pool, block(8, clock))
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert pool.level == 8


async def test_patience_ends(clock):
    """A claim in line is refused when its patience ends, and those behind it are served."""
    pool = make_pool(clock)
    put(pool, block(8, clock))
    impatient = asyncio.create_task(pool.claim(9, ANY, "impatient", 0.01))
    await settled()
    patient = asyncio.create_task(pool.claim(8, ANY, "patient", LONG))
    with pytest.raises(PoolShortError):
        await impatient
    assert len((await patient).data) == 8


async def test_what_can_never_be_met_fails_at_once(clock):
    """No claim waits for what cannot come: a class nobody may claim, or more than the pool holds."""
    pool = make_pool(clock)
    pool.best_class = SourceClass.HARDWARE
    with pytest.raises(WeakerSourceError):
        await pool.claim(1, QUANTUM, "c", LONG)
    with pytest.raises(InvalidRequestError):
        await pool.claim(CAPACITY + 1, ANY, "c", LONG)


async def test_the_line_is_bounded(clock):
    """One claim too many is refused at once, with a hint when to come back."""
    pool = make_pool(clock, max_waiting=2)
    waiting = [asyncio.create_task(pool.claim(1, ANY, "c", LONG)) for _ in range(2)]
    await settled()
    with pytest.raises(LimitError) as caught:
        await pool.claim(1, ANY, "c", LONG)
    assert caught.value.retry_after_s is not None
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_clients_take_turns_by_bytes(clock):
    """Who floods the line waits behind itself: another client's claim comes before the flood's second."""
    pool = make_pool(clock, max_waiting=100)
    flood = [asyncio.create_task(pool.claim(100, ANY, "greedy", LONG)) for _ in range(10)]
    await settled()
    modest = asyncio.create_task(pool.claim(100, ANY, "modest", LONG))
    await settled()
    put(pool, block(200, clock))
    await settled()
    assert modest.done()
    assert [task.done() for task in flood] == [True] + [False] * 9
    pool.drain()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_reserved_bytes_are_for_their_client_alone(clock):
    """Others are refused what is kept for a client, which gets it at once, even past a line."""
    pool = make_pool(clock)
    pool.keep_for({"vip": (100, SourceClass.SIMULATED)})
    put(pool, block(200, clock))
    assert len((await pool.claim(100, ANY, "other", NOW)).data) == 100
    with pytest.raises(PoolShortError):
        await pool.claim(1, ANY, "other", NOW)
    line = asyncio.create_task(pool.claim(50, ANY, "other", LONG))
    await settled()
    assert len((await pool.claim(100, ANY, "vip", NOW)).data) == 100
    put(pool, block(100, clock))
    assert len((await line).data) == 50
    with pytest.raises(PoolShortError):
        await pool.claim(51, ANY, "vip", NOW)


async def test_a_waiting_client_gets_its_reserved_bytes_past_those_ahead(clock):
    """What has been set aside for a client meets its claim in line, though others are ahead of it."""
    pool = make_pool(clock)
    pool.keep_for({"vip": (100, SourceClass.SIMULATED)})
    ahead = asyncio.create_task(pool.claim(1000, ANY, "other", LONG))
    await settled()
    vip = asyncio.create_task(pool.claim(100, ANY, "vip", LONG))
    await settled()
    put(pool, block(200, clock))
    assert len((await vip).data) == 100
    assert not ahead.done()
    pool.drain()
    await asyncio.gather(ahead, return_exceptions=True)


async def test_a_hint_says_when_the_bytes_will_have_come(clock):
    """A claim that is refused for want of bytes learns in how many seconds the inflow brings as many."""
    pool = make_pool(clock)
    for _ in range(60):
        put(pool, block(100, clock))
        clock.advance(1)
        pool.look_ahead()
        await pool.claim(100, ANY, "c", NOW)
    with pytest.raises(PoolShortError) as caught:
        await pool.claim(1000, ANY, "c", NOW)
    assert caught.value.retry_after_s == pytest.approx(10, rel=0.1)


async def test_drain_refuses_those_in_line_and_all_that_follow(clock):
    """When the gateway ends, nobody is left waiting and nobody is served."""
    pool = make_pool(clock)
    waiting = asyncio.create_task(pool.claim(8, ANY, "c", LONG))
    await settled()
    pool.drain()
    with pytest.raises(DrainingError):
        await waiting
    put(pool, block(8, clock))
    with pytest.raises(DrainingError):
        await pool.claim(1, ANY, "c", LONG)
    pool.wipe()
    assert pool.counters.dropped == 8
    assert balanced(pool)


def test_a_pool_smaller_than_a_chunk_is_refused(clock):
    """A pool that could not hold the largest chunk would hold it up for ever."""
    from qrng_gateway.pool.pool import Pool

    with pytest.raises(ValueError, match="largest chunk"):
        Pool(CAPACITY - 1, ttl_s=1, overflow="drop_oldest", best_class=SourceClass.QUANTUM)


async def test_no_entropy_in_repr(clock):
    """Neither blocks nor claimed bytes show their bytes."""
    pool = make_pool(clock)
    one = Block(b"SECRETSECRET", clock.now_ns(), clock.now_ns(), BlockLabel(("d",), SourceClass.QUANTUM))
    put(pool, one)
    claimed = await pool.claim(12, ANY, "c", NOW)
    assert "SECRET" not in repr(one) + repr(claimed)
