"""The intake, with a pool behind it: what is set aside, what conditioning uses up, and that it all adds up."""

from __future__ import annotations

import hashlib

import pytest

from qrng_gateway.pool.claims import ClaimSpec
from qrng_gateway.pool.conditioning import Conditioner, Sha256, XorOs
from qrng_gateway.pool.intake import Intake
from qrng_gateway.pool.pool import Pool
from qrng_gateway.pool.reservoir import Reservoir
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import BEST_FIRST, Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import CAPACITY, balanced, block, put

ANY = ClaimSpec(SourceClass.SIMULATED)


class Setting:
    """A pool with an intake; without a reservoir unless it is asked for."""

    def __init__(self, conditioner: Conditioner | None = None, reservoir_size: int = 0) -> None:
        self.clock = ManualClock()
        self.reservoir = Reservoir(reservoir_size, ttl_s=3600, clock=self.clock)
        self.pool = Pool(
            CAPACITY,
            ttl_s=3600,
            overflow="drop_oldest",
            best_class=BEST_FIRST[0],
            intake=Intake(self.reservoir, conditioner),
            clock=self.clock,
        )


async def test_what_is_set_aside_is_never_served() -> None:
    """The end of a chunk goes to the reservoir, and clients get the rest: one byte in a hundred less."""
    setting = Setting(reservoir_size=1 << 20)
    one = block(50_000, setting.clock)
    put(setting.pool, one)
    assert setting.pool.counters.set_aside == setting.reservoir.level == 500
    claimed = await setting.pool.claim(49_500, ANY, "c", 0)
    assert claimed.data == one.data[:-500]
    assert bytes(setting.reservoir.take(500).data) == one.data[-500:]
    assert balanced(setting.pool)


@pytest.mark.parametrize("processing", [Processing.NONE, Processing.MIXED])
async def test_conditioned_bytes_are_hashes_and_say_so(processing: Processing) -> None:
    """With sha256, clients get hashes under a label of their own, and what that used up is counted."""
    setting = Setting(Sha256(8))
    one = block(100, setting.clock, processing=processing)
    put(setting.pool, one)
    claimed = await setting.pool.claim(64, ANY, "c", 0)
    assert claimed.data == hashlib.sha256(one.data[:50]).digest() + hashlib.sha256(one.data[50:]).digest()
    assert claimed.label.processing.mixed == processing.mixed
    assert claimed.label.processing in (Processing.SHA256, Processing.MIXED_SHA256)
    assert setting.pool.counters.conditioned == 36
    assert balanced(setting.pool)


def test_a_chunk_too_small_to_condition_is_used_up() -> None:
    """Bytes that hold too little for one output are counted as used up, and not served as something less."""
    setting = Setting(Sha256(8))
    put(setting.pool, block(39, setting.clock))
    assert setting.pool.level == 0
    assert setting.pool.counters.conditioned == 39
    assert balanced(setting.pool)


async def test_xor_keeps_every_byte_and_says_so() -> None:
    """With xor-os as many bytes are served as came, none of them as it came, under a label of their own."""
    setting = Setting(XorOs())
    one = block(64, setting.clock)
    put(setting.pool, one)
    claimed = await setting.pool.claim(64, ANY, "c", 0)
    assert claimed.label.processing is Processing.XOR_OS
    assert claimed.label.source_class is SourceClass.QUANTUM
    assert claimed.data != one.data
    assert balanced(setting.pool)


async def test_raw_bytes_cannot_be_had_where_all_are_processed() -> None:
    """Who asks for a processing that this gateway does not have is told at once."""
    setting = Setting(XorOs())
    put(setting.pool, block(64, setting.clock))
    with pytest.raises(InvalidRequestError) as caught:
        await setting.pool.claim(1, ClaimSpec(SourceClass.SIMULATED, Processing.NONE), "c", 30)
    assert caught.value.field == "processing"


def test_revoked_bytes_leave_the_reservoir_too() -> None:
    """What a withdrawn key vouched for is purged wherever it lies."""
    setting = Setting(reservoir_size=1 << 20)
    setting.pool.store(block(50_000, setting.clock), "lab", "key-1")
    setting.pool.purge("key-1")
    assert setting.reservoir.level == 0
    assert balanced(setting.pool)
