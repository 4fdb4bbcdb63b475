"""Bytes that leave a chunk by another way than a claim are overwritten where they lay."""

from __future__ import annotations

import ctypes

import pytest

from qrng_gateway.pool.lane import Origin, Stored
from qrng_gateway.pool.reservoir import Reservoir
from qrng_grpc.chunk import Block
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.errors import PoolShortError
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import block

TTL_S = 3600
CHUNK = 65_536
PORTION = 655
"""What a reservoir sets aside of the first chunk it sees."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def reservoir(clock: ManualClock) -> Reservoir:
    return Reservoir(1 << 20, ttl_s=TTL_S, clock=clock)


def stored(one: Block, key_id: str = "key-1") -> Stored:
    return Stored(one, Origin(one.label, "lab", "device", key_id))


def set_aside(reservoir: Reservoir, one: Block, key_id: str = "key-1") -> bytearray:
    """Let the reservoir take its share of `one`; return the buffer in which that lies."""
    known = {id(portion) for lane in reservoir._lanes.values() for portion in lane}
    assert reservoir.skim(stored(one, key_id))
    (buffer,) = [p._buffer for lane in reservoir._lanes.values() for p in lane if id(p) not in known]
    assert any(buffer)
    return buffer


def address_of(buffer: bytearray) -> int:
    """Return where a buffer lies. It may be made shorter afterwards, since nothing keeps hold of it."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def test_what_is_cut_off_is_overwritten_where_it_lay(clock: ManualClock) -> None:
    """The end moves to a chunk of its own, and the memory behind the shortened buffer holds nothing of it."""
    one = block(1000, clock)
    chunk = stored(one)
    address = address_of(chunk._buffer)
    end = chunk.cut_end(100)
    assert bytes(end.front(100)) == one.data[-100:]
    assert bytes(chunk.front(1000)) == one.data[:-100]
    assert address_of(chunk._buffer) == address  # so little is cut off that the buffer stays where it is
    assert ctypes.string_at(address + 900, 100) == bytes(100)


def test_what_is_replaced_is_overwritten(clock: ManualClock) -> None:
    """A chunk that holds what was made of its bytes holds the bytes themselves no more."""
    one = block(1000, clock)
    chunk = stored(one)
    before = chunk._buffer
    chunk.replace(b"made of it", chunk.origin)
    assert before == bytes(1000)
    assert bytes(chunk.front(1000)) == b"made of it"


def test_what_grows_too_old_in_the_reservoir_is_overwritten(reservoir: Reservoir, clock: ManualClock) -> None:
    """To the nanosecond: what is as old as it may be stays, what is older is destroyed, whatever its class."""
    good = set_aside(reservoir, block(CHUNK, clock))
    weak = set_aside(reservoir, block(CHUNK, clock, source_class=SourceClass.SIMULATED))
    young = set_aside(reservoir, block(CHUNK, clock, age_s=-1))
    clock.advance(TTL_S)
    reservoir.expire()
    assert reservoir.counters.expired == 0
    assert all(map(any, (good, weak, young)))
    clock.advance(1 / NS_PER_S)
    reservoir.expire()
    assert not any(good)
    assert not any(weak)
    assert any(young)
    assert reservoir.counters.expired == len(good) + len(weak)
    assert reservoir.level == len(young)
    reservoir.expire()  # once more changes nothing
    assert reservoir.counters.expired == len(good) + len(weak)


def test_what_is_too_old_is_not_sampled(reservoir: Reservoir, clock: ManualClock) -> None:
    """A test that asks just too late gets nothing of it, and it is destroyed."""
    old = set_aside(reservoir, block(CHUNK, clock))
    clock.advance(TTL_S + 1 / NS_PER_S)
    with pytest.raises(PoolShortError):
        reservoir.take(8)
    assert not any(old)


def test_what_a_revoked_key_vouched_for_is_overwritten(reservoir: Reservoir, clock: ManualClock) -> None:
    """And what others vouched for is not."""
    revoked, kept = (
        set_aside(reservoir, block(CHUNK, clock), "key-1"),
        set_aside(reservoir, block(CHUNK, clock), "key-2"),
    )
    reservoir.purge("key-1")
    assert not any(revoked)
    assert any(kept)


def test_what_better_bytes_displace_is_overwritten(clock: ManualClock) -> None:
    """A full reservoir destroys weaker bytes before it takes better ones."""
    reservoir = Reservoir(PORTION, ttl_s=TTL_S, clock=clock)
    weak = set_aside(reservoir, block(CHUNK, clock, source_class=SourceClass.SIMULATED))
    good = set_aside(reservoir, block(CHUNK, clock))
    assert not any(weak)
    assert any(good)
    assert reservoir.counters.displaced == len(weak)


def test_the_end_overwrites_all(reservoir: Reservoir, clock: ManualClock) -> None:
    """Whatever is left when the gateway ends is destroyed and counted."""
    buffers = [set_aside(reservoir, block(CHUNK, clock)) for _ in range(3)]
    level = reservoir.level
    reservoir.wipe()
    assert not any(map(any, buffers))
    assert (reservoir.level, reservoir.counters.dropped) == (0, level)
