"""The one domain call: what may be asked for, under which conditions, for how long."""

import asyncio

import pytest

from qrng_gateway.dispenser import DEADLINE_MARGIN_S, Demand, Dispenser
from qrng_gateway.pool.claims import Claimed
from qrng_gateway.pool.lane import ChunkRange
from qrng_gateway.pool.pool import Pool
from qrng_grpc.chunk import MAX_PROVENANCE_BYTES
from qrng_grpc.client_keys import Client
from qrng_grpc.errors import (
    DrainingError,
    InvalidRequestError,
    PoolShortError,
    WeakerSourceError,
)
from qrng_grpc.labels import Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import block, make_pool, put

OS = SourceClass.OPERATING_SYSTEM
ANYBODY = Client("client-1")


class Setting:
    """A pool under a clock that stands still, and a dispenser before it."""

    def __init__(self, least_class: SourceClass = OS, max_wait_s: float = 0) -> None:
        self.clock = ManualClock()
        self.pool = make_pool(self.clock)
        self.dispenser = dispenser(self.pool, least_class, max_wait_s, self.clock)

    async def dispense(self, demand: Demand, time_left_s: float | None = None, client: Client = ANYBODY) -> Claimed:
        return await self.dispenser.dispense(demand, client, time_left_s)


def dispenser(pool: Pool, least_class: SourceClass, max_wait_s: float, clock: ManualClock) -> Dispenser:
    return Dispenser(
        pool, least_class=least_class, max_wait_s=max_wait_s, max_fresh_wait_s=30, clock_tolerance_s=5, clock=clock
    )


@pytest.mark.parametrize("size", [-(2**31), -1, 0, 1001, 2**31 - 1])
def test_a_size_out_of_range_is_refused_by_its_name(size: int) -> None:
    """A size below 1 or above the limit names the field that held it."""
    with pytest.raises(InvalidRequestError) as caught:
        Demand(size, "num_bytes").check(1000)
    assert caught.value.field == "num_bytes"


@pytest.mark.parametrize("size", [1, 1000])
async def test_a_size_at_the_ends_of_its_range_is_served_exactly(size: int) -> None:
    """Both ends of the range are inside it."""
    setting = Setting()
    put(setting.pool, block(4096, setting.clock))
    assert len((await setting.dispense(Demand(size))).data) == size


def test_a_negative_age_is_refused_by_its_name() -> None:
    """An age below zero is a mistake of the request."""
    with pytest.raises(InvalidRequestError) as caught:
        Demand(1, max_age_ms=-1).check(1000)
    assert caught.value.field == "max_age_ms"


async def test_a_clients_record_binds_it() -> None:
    """The least class of a client's record holds whatever the client asks for."""
    setting = Setting()
    put(setting.pool, block(64, setting.clock, source_class=OS))
    strict = Client("strict", least_class=SourceClass.HARDWARE)
    with pytest.raises(PoolShortError):
        await setting.dispense(Demand(16, least_class=OS), client=strict)
    assert setting.dispenser.least_class_for(strict) is SourceClass.HARDWARE
    assert setting.dispenser.least_class_for(ANYBODY) is OS


async def test_fresh_bytes_were_captured_after_they_were_asked_for() -> None:
    """A claim for fresh bytes leaves what is there, and what a clock within its tolerance cannot tell from it."""
    setting = Setting(max_wait_s=0)
    put(setting.pool, block(64, setting.clock))
    claim = asyncio.create_task(setting.dispense(Demand(16, fresh=True)))
    await asyncio.sleep(0)
    setting.clock.advance(5)
    put(setting.pool, block(64, setting.clock))
    await asyncio.sleep(0)
    assert not claim.done()
    setting.clock.advance(0.001)
    fresh = block(64, setting.clock)
    put(setting.pool, fresh)
    assert (await claim).data == fresh.data[:16]


async def test_where_bytes_came_from_is_told_to_who_asks() -> None:
    """Ranges name chunk and place, in the order of the bytes; others are told nothing."""
    setting = Setting()
    one, two = block(20, setting.clock), block(20, setting.clock)
    for sequence, chunk in enumerate((one, two), start=1):
        admitted = setting.pool.admit(chunk, "lab", epoch=7, sequence=sequence)
        assert admitted is not None
        setting.pool.store_all((admitted,))
    assert (await setting.dispense(Demand(5))).ranges == ()
    claimed = await setting.dispense(Demand(20, include_provenance=True))
    assert claimed.ranges == (ChunkRange("lab", 7, 1, 5, 15), ChunkRange("lab", 7, 2, 0, 5))
    assert claimed.data == one.data[5:] + two.data[:5]


@pytest.mark.parametrize("stated", [None, SourceClass.SIMULATED, SourceClass.HARDWARE])
async def test_the_gateways_least_class_binds_whoever_asks_for_less(stated: SourceClass | None) -> None:
    """Asking for a weaker class than the gateway's, or for none, does not get weaker bytes."""
    setting = Setting(least_class=SourceClass.HARDWARE)
    put(setting.pool, block(64, setting.clock, source_class=OS))
    with pytest.raises(PoolShortError):
        await setting.dispense(Demand(16, least_class=stated))


async def test_a_stricter_request_binds_the_gateway() -> None:
    """A client that asks for better than the gateway's least gets nothing less."""
    setting = Setting()
    put(setting.pool, block(64, setting.clock, source_class=OS))
    with pytest.raises(PoolShortError):
        await setting.dispense(Demand(16, least_class=SourceClass.QUANTUM))
    put(setting.pool, block(64, setting.clock, source_class=SourceClass.QUANTUM))
    served = await setting.dispense(Demand(16, least_class=SourceClass.QUANTUM))
    assert served.label.source_class is SourceClass.QUANTUM


async def test_age_and_processing_reach_the_pool() -> None:
    """Bytes older than asked for, or processed otherwise, are not taken."""
    setting = Setting()
    put(setting.pool, block(64, setting.clock, age_s=2))
    with pytest.raises(PoolShortError):
        await setting.dispense(Demand(16, max_age_ms=1999))
    with pytest.raises(PoolShortError):
        await setting.dispense(Demand(16, processing=Processing.MIXED))
    assert len((await setting.dispense(Demand(16, max_age_ms=2000, processing=Processing.NONE))).data) == 16


async def test_lanes_are_spanned_only_when_asked() -> None:
    """A reply of two lanes is given only to who asked for it, under the weaker label."""
    setting = Setting()
    put(setting.pool, block(10, setting.clock, source_class=OS), block(10, setting.clock))
    with pytest.raises(PoolShortError):
        await setting.dispense(Demand(20))
    assert (await setting.dispense(Demand(20, span_lanes=True))).label.source_class is OS


async def test_a_claim_waits_until_bytes_arrive() -> None:
    """A short pool makes a claim wait, and the bytes that arrive are its own."""
    setting = Setting(max_wait_s=30)
    claim = asyncio.create_task(setting.dispense(Demand(16)))
    await asyncio.sleep(0)
    assert setting.pool.waiting == 1
    put(setting.pool, block(16, setting.clock))
    assert len((await claim).data) == 16


@pytest.mark.parametrize("time_left_s", [DEADLINE_MARGIN_S, 0.0, -1.0])
async def test_a_deadline_within_the_margin_leaves_no_time_to_wait(time_left_s: float) -> None:
    """A claim whose deadline is near is answered at once."""
    with pytest.raises(PoolShortError) as caught:
        await Setting(max_wait_s=30).dispense(Demand(16), time_left_s)
    assert caught.value.retry_after_s


async def test_the_deadline_bounds_the_wait() -> None:
    """A claim is refused before its client's deadline, so that the client learns why."""
    with pytest.raises(PoolShortError):
        await Setting(max_wait_s=30).dispense(Demand(16), DEADLINE_MARGIN_S + 0.01)


async def test_what_the_pool_refuses_passes_through() -> None:
    """A dispenser adds no errors of its own to those of the pool."""
    setting = Setting()
    setting.pool.drain()
    with pytest.raises(DrainingError):
        await setting.dispense(Demand(1))


async def test_a_class_beyond_the_gateways_best_is_hopeless() -> None:
    """Waiting for a class that no key here may claim is useless, and said at once."""
    pool = Pool(1 << 20, ttl_s=60, overflow="drop_oldest", best_class=OS)
    hopeless = Demand(1, least_class=SourceClass.QUANTUM)
    with pytest.raises(WeakerSourceError):
        await dispenser(pool, OS, 30, ManualClock()).dispense(hopeless, ANYBODY, None)


def test_more_than_a_day_holds_is_refused_by_its_name() -> None:
    """A size beyond the whole quota of a day names the field; the quota itself passes."""
    Demand(1000).check(10_000, 1000)
    with pytest.raises(InvalidRequestError) as caught:
        Demand(1001, "num_bytes").check(10_000, 1000)
    assert caught.value.field == "num_bytes"


def test_more_than_can_tell_where_it_came_from_is_refused_by_its_name() -> None:
    """Provenance bounds the size; without it the same size passes."""
    most = MAX_PROVENANCE_BYTES
    Demand(most, include_provenance=True).check(1 << 20)
    Demand(most + 1).check(1 << 20)
    with pytest.raises(InvalidRequestError) as caught:
        Demand(most + 1, include_provenance=True).check(1 << 20)
    assert caught.value.field == "bytes_needed"
