"""The reservoir: at most one byte in a hundred, of one kind, young, accounted for, and destroyed after use."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qrng_gateway.pool.lane import Origin, Stored
from qrng_gateway.pool.reservoir import Reservoir
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.errors import PoolShortError, UnsupportedError
from qrng_grpc.labels import Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import block

TTL_S = 3600
CHUNK = 65_536


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def reservoir(clock: ManualClock) -> Reservoir:
    return make(clock)


def make(clock: ManualClock, capacity: int = 1 << 20) -> Reservoir:
    return Reservoir(capacity, ttl_s=TTL_S, clock=clock)


def skim(reservoir: Reservoir, *blocks: Block, key_id: str = "key-1") -> list[int]:
    """Show `blocks` to the reservoir as the pool does."""
    origins = [Origin(one.label, "lab", ",".join(one.label.device_ids), key_id) for one in blocks]
    return [reservoir.skim(Stored(one, origin)) for one, origin in zip(blocks, origins, strict=True)]


def balanced(reservoir: Reservoir) -> bool:
    c = reservoir.counters
    return c.set_aside == reservoir.level + c.sampled + c.displaced + c.expired + c.purged + c.dropped


# What is set aside


def test_the_ends_of_blocks_are_set_aside(reservoir: Reservoir, clock: ManualClock) -> None:
    """One byte in a hundred: the last ones of each block, in order, and no others."""
    blocks = [block(CHUNK, clock) for _ in range(5)]
    portions = skim(reservoir, *blocks)
    assert portions == [655, 655, 656, 655, 655]
    sample = reservoir.take(CHUNK)
    assert bytes(sample.data) == b"".join(b.data[-n:] for b, n in zip(blocks, portions, strict=True))


@pytest.mark.parametrize("size", [2, 16, 255, 256, 1000, CHUNK, MAX_CHUNK_BYTES])
def test_one_in_a_hundred_whatever_the_size(size: int, clock: ManualClock) -> None:
    """Chunks of any size from two bytes on give the same share in the end, less than a grain of 256 bytes aside."""
    reservoir = make(clock)
    blocks = [block(size, clock)] * min(60_000, 50_000_000 // size)
    whole = len(blocks) * size // 100
    assert whole - 256 <= sum(skim(reservoir, *blocks)) <= whole


def test_a_block_is_never_set_aside_whole(clock: ManualClock) -> None:
    """Something is always left to store, even of chunks of one byte."""
    reservoir = make(clock)
    assert not any(skim(reservoir, *[block(1, clock)] * 30_000))
    assert skim(reservoir, block(2, clock)) == [1]


def test_a_full_reservoir_takes_nothing_and_makes_up_for_nothing(clock: ManualClock) -> None:
    """After long fullness and one test, chunks give their hundredth and a grain, and not what was missed."""
    reservoir = make(clock, 1000)
    skim(reservoir, *[block(CHUNK, clock)] * 200)
    assert reservoir.level == 1000
    reservoir.take(1000).destroy()
    assert skim(reservoir, block(10_000, clock)) == [256 + 100]


def test_portions_are_bounded_in_number(clock: ManualClock) -> None:
    """A flood of tiny chunks, each of which gives a byte, ends where memory for their book-keeping would."""
    reservoir = make(clock, 256 * 10)
    portions = skim(reservoir, *[block(2, clock)] * 15_000)
    assert sum(map(bool, portions)) == 10
    assert reservoir.level == 10


def test_better_bytes_displace_weaker_ones(clock: ManualClock) -> None:
    """A full reservoir gives the places of weaker bytes to better ones, as many as they need, and never the reverse."""
    reservoir = make(clock, 2000)
    weak = block(CHUNK, clock, source_class=SourceClass.SIMULATED)
    mixed = block(CHUNK, clock, processing=Processing.MIXED)
    good = block(CHUNK, clock)
    assert skim(reservoir, *[weak] * 5) == [655, 655, 656, 34, 0]
    assert skim(reservoir, mixed) == [655 + 256]
    assert (reservoir.level, reservoir.counters.displaced) == (911 + 656 + 34, 655 + 655)
    assert sum(skim(reservoir, *[good] * 10)) == 2000
    assert skim(reservoir, weak, mixed) == [0, 0]
    label = reservoir.take(4000).label
    assert (label.source_class, label.processing) == (SourceClass.QUANTUM, Processing.NONE)
    assert reservoir.level == 0
    assert balanced(reservoir)


def test_a_block_too_small_to_share_displaces_nothing(clock: ManualClock) -> None:
    """A chunk of one byte, which stays whole, takes no one's place."""
    reservoir = make(clock, 2000)
    skim(reservoir, *[block(CHUNK, clock, source_class=SourceClass.SIMULATED)] * 5)
    assert skim(reservoir, block(1, clock)) == [0]
    assert (reservoir.level, reservoir.counters.displaced) == (2000, 0)


def test_switched_off(clock: ManualClock) -> None:
    """A reservoir of no bytes sets none aside, and says that it never will."""
    reservoir = make(clock, 0)
    assert skim(reservoir, *(block(CHUNK, clock) for _ in range(10))) == [0] * 10
    with pytest.raises(UnsupportedError):
        reservoir.take(8)


# Samples


def test_a_sample_is_of_one_kind(reservoir: Reservoir, clock: ManualClock) -> None:
    """Classes and processings are never mixed: the best class comes first, unmixed before mixed."""
    kinds = [
        (SourceClass.QUANTUM, Processing.NONE),
        (SourceClass.QUANTUM, Processing.MIXED),
        (SourceClass.SIMULATED, Processing.NONE),
    ]
    for source_class, processing in reversed(kinds):
        skim(reservoir, block(CHUNK, clock, source_class=source_class, processing=processing))
    labels = [reservoir.take(CHUNK).label for _ in kinds]
    assert [(label.source_class, label.processing) for label in labels] == kinds


def test_a_class_can_be_asked_for(reservoir: Reservoir, clock: ManualClock) -> None:
    """A sample of one class is never of another, better ones included."""
    skim(reservoir, block(CHUNK, clock), block(CHUNK, clock, source_class=SourceClass.SIMULATED))
    assert reservoir.take(8, SourceClass.SIMULATED).label.source_class is SourceClass.SIMULATED
    with pytest.raises(PoolShortError):
        reservoir.take(8, SourceClass.HARDWARE)


def test_a_sample_says_what_it_is(reservoir: Reservoir, clock: ManualClock) -> None:
    """The label has the first capture start, the last capture end, and each device once."""
    for device, start_s, end_s in (("b", 5, 6), ("a", 2, 9), ("b", 3, 4)):
        times = (clock.now_ns() - start_s * NS_PER_S, clock.now_ns() + end_s * NS_PER_S)
        skim(reservoir, Block(bytes(CHUNK), *times, BlockLabel((device,), SourceClass.QUANTUM)))
    label = reservoir.take(CHUNK).label
    assert label.device_ids == ("b", "a")
    assert label.capture_start_ns == clock.now_ns() - 5 * NS_PER_S
    assert label.capture_end_ns == clock.now_ns() + 9 * NS_PER_S


def test_the_oldest_bytes_go_first_and_none_twice(reservoir: Reservoir, clock: ManualClock) -> None:
    """Samples follow each other in the order of capture, and across portions."""
    late, early = block(CHUNK, clock), block(CHUNK, clock, age_s=60)
    skim(reservoir, late, early)
    assert reservoir.take(100).data == early.data[-655:][:100]
    assert reservoir.take(CHUNK).data == early.data[-555:] + late.data[-655:]
    assert reservoir.level == 0
    assert reservoir.counters.sampled == 2 * 655


def test_a_sample_is_destroyed_after_use(reservoir: Reservoir, clock: ManualClock) -> None:
    """Leaving a sample's context overwrites it, on an error too; its portions were overwritten when it was taken."""
    skim(reservoir, block(CHUNK, clock))
    (portion,) = reservoir._lanes[SourceClass.QUANTUM, Processing.NONE]
    buffer = portion._buffer
    with pytest.raises(KeyError), reservoir.take(CHUNK) as sample:
        assert any(sample.data)
        raise KeyError
    assert len(sample) == 655
    assert not any(sample.data)
    assert not any(buffer)


def test_nothing_shows_bytes(reservoir: Reservoir, clock: ManualClock) -> None:
    """A sample can be printed without giving a byte away."""
    skim(reservoir, block(CHUNK, clock))
    shown = repr(reservoir.take(16))
    assert "data" not in shown
    assert "QUANTUM" in shown


def test_too_little_is_not_taken(reservoir: Reservoir, clock: ManualClock) -> None:
    """A test that needs more than there is of any kind takes nothing, and learns when to ask again."""
    with pytest.raises(PoolShortError) as caught:
        reservoir.take(8)
    assert caught.value.retry_after_s
    skim(reservoir, block(CHUNK, clock))
    with pytest.raises(PoolShortError):
        reservoir.take(2000, least=656)
    assert len(reservoir.take(2000, least=655)) == 655


@pytest.mark.parametrize(("n", "least"), [(0, 0), (0, 1), (-1, 1), (5, 6), (5, 0)])
def test_senseless_samples(n: int, least: int, reservoir: Reservoir) -> None:
    """A sample of no bytes, or of more than it may have, is a mistake of the caller."""
    with pytest.raises(ValueError, match="at least a byte"):
        reservoir.take(n, least=least)


# Ends


def test_age(reservoir: Reservoir, clock: ManualClock) -> None:
    """Bytes past the age limit are destroyed and counted, and make room, in whatever order they came."""
    skim(reservoir, block(CHUNK, clock), block(CHUNK, clock, age_s=TTL_S - 10))
    clock.advance(11)
    reservoir.expire()
    assert (reservoir.level, reservoir.counters.expired) == (655, 655)
    clock.advance(TTL_S)
    with pytest.raises(PoolShortError):
        reservoir.take(8)
    assert reservoir.counters.expired == 2 * 655
    assert balanced(reservoir)


def test_old_bytes_make_room(clock: ManualClock) -> None:
    """A reservoir full of what grew too old takes new bytes at once."""
    reservoir = make(clock, 1000)
    skim(reservoir, *(block(CHUNK, clock) for _ in range(3)))
    clock.advance(TTL_S + 1)
    assert skim(reservoir, block(CHUNK, clock)) == [655 + 256]
    assert reservoir.counters.expired == 1000


def test_a_revoked_key(reservoir: Reservoir, clock: ManualClock) -> None:
    """What a key vouched for is destroyed with it, and nothing else."""
    skim(reservoir, block(CHUNK, clock), key_id="key-1")
    skim(reservoir, block(CHUNK, clock), key_id="key-2")
    reservoir.purge("key-1")
    assert (reservoir.level, reservoir.counters.purged) == (655, 655)
    assert balanced(reservoir)


def test_wiping(reservoir: Reservoir, clock: ManualClock) -> None:
    """At the end everything is overwritten and counted."""
    skim(reservoir, block(CHUNK, clock), block(CHUNK, clock, source_class=SourceClass.SIMULATED))
    reservoir.wipe()
    assert (reservoir.level, reservoir.counters.dropped) == (0, 2 * 655)
    assert balanced(reservoir)


# Whatever happens


class ReservoirModel(RuleBasedStateMachine):
    """Blocks arrive, time passes, samples are taken, keys are revoked: bounds and accounting hold."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.reservoir = make(self.clock, 3000)
        self.arrived = 0

    @rule(
        size=st.one_of(st.integers(1, 40), st.integers(1, 200_000)),
        source_class=st.sampled_from(SourceClass),
        age_s=st.integers(0, TTL_S),
        key_id=st.sampled_from(["key-1", "key-2"]),
        times=st.integers(1, 30),
    )
    def arrive(self, size: int, source_class: SourceClass, age_s: int, key_id: str, times: int) -> None:
        captured_ns = self.clock.now_ns() - age_s * NS_PER_S
        one = Block(bytes(size), captured_ns, captured_ns, BlockLabel(("dev",), source_class))
        for portion in skim(self.reservoir, *[one] * times, key_id=key_id):
            assert 0 <= portion < size
        self.arrived += times * size

    @rule(n=st.integers(1, 4000))
    @precondition(lambda self: self.reservoir.level)
    def sample(self, n: int) -> None:
        level, sampled = self.reservoir.level, self.reservoir.counters.sampled
        try:
            with self.reservoir.take(n) as sample:
                assert 0 < len(sample) <= n
                assert self.reservoir.counters.sampled - sampled == len(sample)
        except PoolShortError:
            assert self.reservoir.counters.expired >= level

    @rule(seconds=st.integers(0, TTL_S))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.reservoir.expire()

    @rule(key_id=st.sampled_from(["key-1", "key-2"]))
    def revoke(self, key_id: str) -> None:
        self.reservoir.purge(key_id)

    @invariant()
    def at_most_one_in_a_hundred(self) -> None:
        assert 100 * self.reservoir.counters.set_aside <= self.arrived

    @invariant()
    def bounded_and_accounted_for(self) -> None:
        assert 0 <= self.reservoir.level <= self.reservoir.capacity
        assert balanced(self.reservoir)


TestWhateverHappens = ReservoirModel.TestCase
TestWhateverHappens.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
