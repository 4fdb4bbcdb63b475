"""The pool when bytes are short: nobody is starved, by floods, by reservations or by those who wait for other bytes."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from qrng_gateway.pool.claims import ClaimSpec
from qrng_gateway.pool.conditioning import Sha256
from qrng_gateway.pool.intake import Intake
from qrng_gateway.pool.pool import Pool
from qrng_gateway.pool.reservoir import Reservoir
from qrng_grpc.errors import LimitError, PoolShortError
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import ANY, CAPACITY, balanced, block, make_pool, put

QUANTUM, OS = SourceClass.QUANTUM, SourceClass.OPERATING_SYSTEM
LONG = 3600.0


async def takes(pool: Pool, n: int, client: str, spec: ClaimSpec = ANY) -> int:
    """Have `client` take `n` bytes again and again, until there are none for it. Returns how many it got."""
    total = 0
    while True:
        try:
            total += len((await pool.claim(n, spec, client, 0)).data)
        except PoolShortError:
            return total


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def ended(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("overflow", ["drop_oldest", "backpressure"])
@pytest.mark.parametrize("reserved", [100_000, CAPACITY, 100 * CAPACITY])
async def test_a_client_that_never_comes_leaves_half_to_others(overflow, reserved):
    """However much is reserved for somebody idle, others get half of what arrives, also where chunks are held."""
    clock = ManualClock()
    pool = make_pool(clock, overflow=overflow)
    pool.keep_for({"idle": (reserved, SourceClass.SIMULATED)})
    arrived = served = 0
    for _ in range(120):
        clock.advance(100)
        arrived += 32_768 if pool.store(block(32_768, clock), "lab") else 0
        served += await takes(pool, 4096, "other")
    assert arrived == 120 * 32_768
    assert served >= 0.45 * arrived
    assert balanced(pool)


async def test_reservations_do_not_hold_bytes_from_each_other():
    """Of what is there, each of two clients gets what is kept for it, when the rest has grown too old."""
    clock = ManualClock()
    pool = make_pool(clock)
    pool.keep_for({"a": (4096, QUANTUM), "b": (4096, QUANTUM)})
    put(pool, *(block(1024, clock) for _ in range(20)))
    clock.advance(3601)
    put(pool, *(block(1024, clock) for _ in range(4)))
    assert pool.level == 4096
    assert await takes(pool, 64, "a") > 0
    assert await takes(pool, 64, "b") > 0


async def test_only_bytes_that_could_be_served_are_kept():
    """Bytes that conditioning uses up, or of a weaker class, let no reservation grow at others' cost."""
    clock = ManualClock()
    conditioning = Intake(Reservoir(0, ttl_s=3600, clock=clock), Sha256(1))
    pool = Pool(CAPACITY, ttl_s=3600, overflow="drop_oldest", best_class=QUANTUM, intake=conditioning, clock=clock)
    pool.keep_for({"r": (CAPACITY, QUANTUM)})
    stored = served = 0
    for _ in range(50):
        put(pool, block(32_000, clock), block(64_000, clock, source_class=OS))
        stored += 3200
        served += await takes(pool, 32, "other", ClaimSpec(QUANTUM))
    assert served >= 0.45 * stored
    assert balanced(pool)


async def test_reserved_bytes_are_bytes_like_any():
    """They grow too old, are purged, told apart by chunk, wiped and counted."""
    clock = ManualClock()
    pool = make_pool(clock)
    pool.keep_for({"r": (100, QUANTUM)})
    one = block(200, clock)
    pool.store(one, "lab", "key-1", 5, 6)
    claimed = await pool.claim(60, ClaimSpec(QUANTUM, provenance=True), "r", 0)
    assert claimed.data == one.data[:60]
    kept = await pool.claim(80, ClaimSpec(QUANTUM, provenance=True), "r", 0)
    assert kept.data == one.data[100:180]
    assert [(part.sequence, part.offset, part.size) for part in kept.ranges] == [(6, 100, 80)]
    assert pool.reserved == 20
    assert pool.purge("key-1") == 60
    pool.store(block(200, clock), "lab")
    clock.advance(3601)
    pool.expire()
    assert pool.level == 0
    pool.store(block(200, clock), "lab")
    pool.wipe()
    assert pool.level == 0
    assert balanced(pool)


async def test_a_client_with_a_large_claim_in_line_is_served_in_order():
    """Small claims of a client that waits do not use up what its first one waits for."""
    clock = ManualClock()
    pool = make_pool(clock)
    pool.keep_for({"r": (1024, QUANTUM)})
    large = asyncio.create_task(pool.claim(16_384, ANY, "r", LONG))
    await settled()
    small = [asyncio.create_task(pool.claim(512, ANY, "r", LONG)) for _ in range(50)]
    for _ in range(17):
        put(pool, block(1024, clock))
        await settled()
    assert large.done()
    await ended(*small)


async def test_a_flood_of_fresh_claims_starves_no_newcomer():
    """Those who wait for bytes to come do not put behind them who comes later, though others are served meanwhile."""
    clock = ManualClock()
    pool = make_pool(clock, max_waiting=1000)
    put(pool, block(CAPACITY // 2, clock))
    fresh = ClaimSpec(QUANTUM, captured_after_ns=clock.now_ns())
    flood = [asyncio.create_task(pool.claim(1024, fresh, "greedy", LONG)) for _ in range(300)]
    await settled()
    for _ in range(200):
        await pool.claim(1024, ANY, "bulk", 5)
    modest = asyncio.create_task(pool.claim(1024, fresh, "modest", LONG))
    await settled()
    clock.advance(1)
    put(pool, block(1024, clock), block(1024, clock))
    await settled()
    assert modest.done()
    await ended(*flood)


async def test_who_is_served_from_its_reserve_starves_no_newcomer():
    """A client that is served out of turn, time and again, puts nobody who comes behind those who waited before."""
    clock = ManualClock()
    pool = make_pool(clock, max_waiting=2000)
    pool.keep_for({"r": (1024, QUANTUM)})
    waiting = [asyncio.create_task(pool.claim(1024, ANY, who, LONG)) for who in ["greedy", "r"] * 200]
    await settled()
    for _ in range(100):
        put(pool, block(2048, clock))
        await settled()
    modest = asyncio.create_task(pool.claim(1024, ANY, "modest", LONG))
    for _ in range(4):
        put(pool, block(2048, clock))
        await settled()
    assert modest.done()
    await ended(*waiting)


async def test_two_floods_leave_a_place_in_line():
    """A client that comes to a full line gets the last place of whoever holds the most, who is told."""
    pool = make_pool(ManualClock(), max_waiting=10)
    floods = [asyncio.create_task(pool.claim(64, ANY, f"greedy-{i % 2}", LONG)) for i in range(10)]
    await settled()
    modest = asyncio.create_task(pool.claim(64, ANY, "modest", LONG))
    await settled()
    assert pool.waiting == 10
    (told,) = [task for task in floods if task.done()]
    assert isinstance(told.exception(), LimitError)
    with pytest.raises(LimitError):
        await pool.claim(64, ANY, "greedy-0", LONG)
    await ended(modest, *floods)


class CountedClock(ManualClock):
    """Counts how often it is looked at, which the pool does at least once per claim it tries."""

    looks = 0

    def now_ns(self) -> int:
        self.looks += 1
        return super().now_ns()


@pytest.mark.parametrize("who", ["fresh", "quantum"])
async def test_who_waits_for_other_bytes_costs_nobody_anything(who):
    """A long line of claims for bytes to come, or of a class that has run dry, is not tried again and again."""
    clock = CountedClock()
    pool = make_pool(clock, max_waiting=1000)
    put(pool, block(CAPACITY // 2, clock, source_class=OS))
    spec = ClaimSpec(OS, captured_after_ns=clock.now_ns()) if who == "fresh" else ClaimSpec(QUANTUM)
    line = [asyncio.create_task(pool.claim(64, spec, f"client-{i % 7}", LONG)) for i in range(500)]
    await settled()
    clock.looks = 0
    for _ in range(10):
        await pool.claim(64, ClaimSpec(OS), "other", 0)
    put(pool, block(64, clock, source_class=SourceClass.SIMULATED))
    for task in line[:100]:
        task.cancel()
    await settled()
    assert clock.looks < 100
    await ended(*line)


async def test_those_behind_one_that_leaves_are_served():
    """When claims leave the line, the bytes that they waited for go to the next."""
    clock = ManualClock()
    pool = make_pool(clock, max_waiting=100)
    leaving = [asyncio.create_task(pool.claim(1000, ANY, "big", LONG)) for _ in range(5)]
    await settled()
    small = [asyncio.create_task(pool.claim(10, ANY, "big", LONG)) for _ in range(5)]
    await settled()
    put(pool, block(50, clock))
    await settled()
    assert not any(task.done() for task in small)
    await ended(*leaving)
    await settled()
    assert all(task.done() for task in small)


async def test_turns_hold_over_many_rounds():
    """Three clients that wait all the time, one of double weight, get bytes as two to one to one."""
    clock = ManualClock()
    pool = make_pool(clock, max_waiting=100)
    got: Counter[str] = Counter()

    async def ask(client: str, size: int, weight: int) -> None:
        while True:
            got[client] += len((await pool.claim(size, ANY, client, LONG, weight=weight)).data)

    asking = [asyncio.create_task(ask(*who)) for who in (("a", 100, 2), ("b", 400, 1), ("c", 10, 1))]
    for _ in range(400):
        put(pool, block(100, clock))
        await settled()
    await ended(*asking)
    total = sum(got.values())
    assert got["a"] / total == pytest.approx(0.5, abs=0.03)
    assert got["b"] / total == pytest.approx(0.25, abs=0.03)


def test_the_forecast_counts_what_came_out_of_conditioning():
    """A pool that gets emptier is forecast to be empty, however many raw bytes come in."""
    clock = ManualClock()
    conditioning = Intake(Reservoir(0, ttl_s=3600, clock=clock), Sha256(1))
    pool = Pool(CAPACITY, ttl_s=3600, overflow="drop_oldest", best_class=QUANTUM, intake=conditioning, clock=clock)
    for _ in range(30):
        put(pool, block(32_000, clock))
        clock.advance(1)
        pool.look_ahead()
    assert pool.forecast.inflow == pytest.approx(3200, rel=0.15)
