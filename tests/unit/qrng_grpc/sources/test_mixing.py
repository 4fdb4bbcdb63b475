"""Mixing: what comes out, what may be said of it, and what happens when a source is missing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qrng_grpc.chunk import BlockLabel
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.mixing import (
    HKDF_BLOCK_BITS_IN,
    ConstantLabel,
    LabelledSource,
    Leg,
    LegSource,
    MixedSource,
    MixingStrategy,
    concat,
    hkdf,
    hkdf_input_bytes,
    xor,
)
from qrng_grpc.testing.clock import ManualClock
from qrng_grpc.testing.sources import LedgerSource, ScriptedSource

QUANTUM, HARDWARE, OS, SIMULATED = (
    SourceClass.QUANTUM,
    SourceClass.HARDWARE,
    SourceClass.OPERATING_SYSTEM,
    SourceClass.SIMULATED,
)
LOCAL, REMOTE = Custody.LOCAL, Custody.REMOTE

labels = st.builds(
    BlockLabel,
    st.just(("unnamed",)),
    st.sampled_from(SourceClass),
    st.sampled_from(Processing),
    st.sampled_from(Custody),
    st.sampled_from(HealthVerdict),
)
assessments = st.floats(0.01, 8)


def legs_of(*datas: bytes) -> st.SearchStrategy[list[Leg]]:
    """Legs of these bytes, each a device of its own, with any labels and assessments."""

    def named(drawn: Sequence[tuple[BlockLabel, float]]) -> list[Leg]:
        return [
            Leg(data, dataclasses.replace(label, device_ids=(f"device-{number}",)), bits)
            for number, (data, (label, bits)) in enumerate(zip(datas, drawn, strict=True))
        ]

    return st.lists(st.tuples(labels, assessments), min_size=len(datas), max_size=len(datas)).map(named)


def distinct(count: int, size: int) -> list[bytes]:
    return [bytes((byte + 7 * number) % 256 for byte in range(size)) for number in range(count)]


any_legs = st.tuples(st.integers(1, 4), st.integers(16, 300)).flatmap(lambda drawn: legs_of(*distinct(*drawn)))


def leg(
    name: str, source_class: SourceClass, custody: Custody = LOCAL, *, bits: float = 8, data: bytes | None = None
) -> Leg:
    data = bytes((byte * 3 + len(name) * ord(name[-1])) % 256 for byte in range(40)) if data is None else data
    return Leg(data, BlockLabel((name,), source_class, custody=custody), bits)


def mixes(legs: list[Leg]) -> list[BlockLabel]:
    """Return what xor and hkdf make of these legs' labels."""
    return [xor(legs).label, hkdf(legs, 32).label]


@given(any_legs)
def test_concat_books(legs: list[Leg]) -> None:
    """concat keeps every byte in order, claims what went in, and is no better than its worst leg."""
    mixed = concat(legs)
    assert mixed.data == b"".join(leg.data for leg in legs)
    assert mixed.claimed_bits == mixed.consumed_bits == sum(leg.bits for leg in legs)
    assert mixed.used_up_bytes == 0
    assert all(leg.label.source_class.at_least(mixed.label.source_class) for leg in legs)
    assert (mixed.label.custody is REMOTE) == any(leg.label.custody is REMOTE for leg in legs)
    assert (mixed.label.processing is Processing.MIXED) == any(leg.label.processing is Processing.MIXED for leg in legs)


@given(any_legs, assessments)
def test_xor_books(legs: list[Leg], claim: float) -> None:
    """xor claims no more than its best leg alone brought, or puts nothing out."""
    if all(leg.bits_per_byte < claim for leg in legs):
        with pytest.raises(SourceError, match="alone"):
            xor(legs, claim)
        return
    mixed = xor(legs, claim)
    assert mixed.claimed_bits <= max(leg.bits for leg in legs) <= mixed.consumed_bits
    assert mixed.used_up_bytes + len(mixed.data) == sum(len(leg.data) for leg in legs)


@given(any_legs, st.integers(1, 200))
def test_hkdf_books(legs: list[Leg], size: int) -> None:
    """hkdf claims full entropy, and only if one leg alone brought 64 bits more for every 32 bytes."""
    blocks = -(-size // 32)
    if all(len(leg.data) // blocks * leg.bits_per_byte < HKDF_BLOCK_BITS_IN for leg in legs):
        with pytest.raises(SourceError, match="alone"):
            hkdf(legs, size)
        return
    mixed = hkdf(legs, size)
    assert len(mixed.data) == size
    assert mixed.claimed_bits == 8 * size <= max(leg.bits for leg in legs) - 64 * blocks
    assert mixed.consumed_bits == sum(leg.bits for leg in legs)
    assert mixed.used_up_bytes + size == sum(len(leg.data) for leg in legs)


@given(any_legs, st.data())
def test_no_class_from_nowhere(legs: list[Leg], data: st.DataObject) -> None:
    """No mix is of a better class than its best leg; SIMULATED absorbs; PASSED takes all legs."""
    make = data.draw(st.sampled_from([concat, xor, lambda legs: hkdf(legs, 32)]))
    try:
        label = make(legs).label
    except SourceError:
        assume(False)
    classes = [leg.label.source_class for leg in legs]
    assert any(source_class.at_least(label.source_class) for source_class in classes)
    if SIMULATED in classes:
        assert label.source_class is SIMULATED
    if all(leg.label.custody is REMOTE for leg in legs):
        assert label.custody is REMOTE
    passed = all(leg.label.health_verdict is HealthVerdict.PASSED for leg in legs)
    assert (label.health_verdict is HealthVerdict.PASSED) == passed
    assert label.device_ids == tuple(leg.label.device_ids[0] for leg in legs)


@given(st.integers(1, 5000), assessments)
def test_hkdf_input_is_enough_and_no_more(size: int, bits: float) -> None:
    """A leg that brings what is asked of it carries; one byte less a block would not."""
    needed = hkdf_input_bytes(size, bits)
    blocks = -(-size // 32)
    assert needed % blocks == 0
    assert needed // blocks * bits >= HKDF_BLOCK_BITS_IN > (needed // blocks - 1) * bits


def test_no_squeezing() -> None:
    """8 KiB do not come out of 32 bytes, nor out of 10239; 10240 full bytes it takes."""
    with pytest.raises(SourceError, match="entropy"):
        hkdf([leg("a", QUANTUM, data=bytes(range(32)))], 8192)
    stream = bytes(range(256)) * 40
    with pytest.raises(SourceError, match="entropy"):
        hkdf([leg("a", QUANTUM, data=stream[:-1])], 8192)
    assert len(hkdf([leg("a", QUANTUM, data=stream)], 8192).data) == 8192


@given(st.data(), st.integers(1, 64), st.integers(2, 4))
def test_xor_undoes_itself(data: st.DataObject, size: int, count: int) -> None:
    """xor of all legs and all but one gives that one back."""
    legs = [
        Leg(data.draw(st.binary(min_size=size, max_size=size)), BlockLabel((f"device-{number}",), QUANTUM), 8)
        for number in range(count)
    ]
    assume(len({leg.data for leg in legs}) == count)
    all_of_them = xor(legs)
    rest = xor(legs[1:])
    assume(all_of_them.data[:16] != rest.data[:16])
    back = xor([Leg(all_of_them.data, BlockLabel(("x",), QUANTUM), 8), Leg(rest.data, BlockLabel(("y",), QUANTUM), 8)])
    assert back.data == legs[0].data


def test_xor_of_unequal_lengths() -> None:
    """xor never pads."""
    with pytest.raises(ValueError, match="one length"):
        xor([leg("a", QUANTUM, data=bytes(16)), leg("b", QUANTUM, data=bytes(range(15)))])
    with pytest.raises(ValueError, match="one length"):
        xor([])


def test_hkdf_of_nothing() -> None:
    """hkdf makes nothing of nothing, and refuses to make nothing."""
    with pytest.raises(ValueError, match="at least one"):
        hkdf([], 32)
    with pytest.raises(ValueError, match="at least one"):
        hkdf([leg("a", QUANTUM)], 0)


def test_class_is_the_carriers() -> None:
    """The strongest leg gives its class only if it brings the entropy by itself."""
    system = leg("b", OS)
    assert [label.source_class for label in mixes([leg("a", QUANTUM), system])] == [QUANTUM, QUANTUM]
    assert [label.source_class for label in mixes([leg("a", QUANTUM, bits=2), system])] == [OS, OS]
    assert [label.processing for label in mixes([leg("a", QUANTUM), system])] == [Processing.MIXED] * 2


def test_local_leg_keeps_it_local() -> None:
    """A mix is LOCAL if a LOCAL leg carries it: who knows the others then knows nothing of it."""
    remote = leg("a", QUANTUM, REMOTE)
    assert [label.custody for label in mixes([remote, leg("b", OS, LOCAL)])] == [LOCAL, LOCAL]
    assert [label.custody for label in mixes([remote, leg("b", OS, LOCAL, bits=2)])] == [REMOTE, REMOTE]
    assert [label.custody for label in mixes([remote, leg("b", HARDWARE, REMOTE)])] == [REMOTE, REMOTE]


def test_simulated_leg_keeps_nothing() -> None:
    """Bytes that anybody can compute do not make a mix LOCAL."""
    assert [label.custody for label in mixes([leg("a", QUANTUM, REMOTE), leg("b", SIMULATED)])] == [REMOTE, REMOTE]
    assert [label.custody for label in mixes([leg("a", SIMULATED), leg("b", SIMULATED)])] == [LOCAL, LOCAL]


def test_one_device_twice_carries_nothing() -> None:
    """Two legs of one device, or with the same bytes, are one source, whose xor may be zero."""
    same_device = [leg("a", QUANTUM), leg("a", QUANTUM, data=bytes(range(40)))]
    same_bytes = [leg("a", QUANTUM, data=bytes(range(40))), leg("b", QUANTUM, data=bytes(range(40)))]
    for legs in (same_device, same_bytes):
        with pytest.raises(SourceError, match="alone"):
            xor(legs)
        with pytest.raises(SourceError, match="alone"):
            hkdf(legs, 32)
        assert xor([*legs, leg("c", OS)]).label.source_class is OS


def test_xor_of_one_leg_is_not_mixed() -> None:
    """A single leg comes out as it is and is labelled so; hkdf has conditioned it."""
    only = leg("a", QUANTUM)
    assert xor([only]).data == only.data
    assert xor([only]).label == only.label
    assert hkdf([only], 32).label.processing is Processing.MIXED


@pytest.mark.parametrize("bits", [0, -1, 8.1, float("nan")])
def test_no_such_assessment(bits: float) -> None:
    """A byte holds more than nothing and at most 8 bits."""
    with pytest.raises(ValueError, match="8 bits"):
        leg("a", QUANTUM, bits=bits)
    with pytest.raises(ValueError, match="8 bits"):
        hkdf_input_bytes(32, bits)


def test_no_bytes_in_repr() -> None:
    """Neither a leg nor a mix shows its bytes."""
    mixed = hkdf([leg("a", QUANTUM, data=b"secret" * 8)], 32)
    assert "secret" not in repr(leg("a", QUANTUM, data=b"secret" * 8))
    assert repr(mixed.data) not in repr(mixed)


# --- MixedSource ---


def ledger(name: str, source_class: SourceClass, seed: int) -> LedgerSource:
    return LedgerSource(seed, label=BlockLabel((name,), source_class))


def constant(source: EntropySource, bits: float = 8, timeout_s: float = 30) -> LegSource:
    return LegSource(ConstantLabel(source), bits, timeout_s)


class Hanging:
    """A source that never answers and says when it is asked and when it is let go."""

    def __init__(self, name: str, source_class: SourceClass = QUANTUM) -> None:
        self.label = BlockLabel((name,), source_class)
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()

    async def read(self, _size: int) -> bytes:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.let_go.set()
        raise AssertionError

    async def close(self) -> None:
        self.let_go.set()


@pytest.mark.parametrize(("strategy", "taken"), [("concat", 1000), ("xor", 2000), ("hkdf", 32 * 40 + 32 * 46)])
async def test_reads_both_and_keeps_books(strategy: MixingStrategy, taken: int) -> None:
    """Every byte taken from the sources is delivered or used up by conditioning."""
    first, second = ledger("q", QUANTUM, 1), ledger("s", OS, 2)
    mix = MixedSource(strategy, [constant(first), constant(second, bits=7)])
    expected = mix.label
    data, label = await mix.read_labelled(1000)
    assert len(data) == 1000
    assert label == mix.label == expected
    assert label.source_class is (OS if strategy == "concat" else QUANTUM)
    assert label.device_ids == ("q", "s")
    assert first.delivered_bytes + second.delivered_bytes == mix.counters.taken_bytes == taken
    assert mix.counters.delivered_bytes == 1000
    assert mix.counters.used_up_bytes == taken - 1000
    assert mix.counters.discarded_bytes == 0
    await mix.close()


async def test_concat_deals_out_evenly() -> None:
    """concat is the shares of its sources, in order; a source without a share is not asked."""
    first, second = ledger("q", QUANTUM, 1), ledger("s", OS, 2)
    mix = MixedSource("concat", [constant(first), constant(second)])
    assert await mix.read(5) == first.delivered[:3] + second.delivered[:2]
    assert await mix.read(1) == first.delivered[3:]
    assert mix.label == first.label


async def test_stop_on_a_missing_leg() -> None:
    """Set to stop, a read without one of the legs fails, names it, and asks nobody until it has rested."""
    clock = ManualClock()
    good = ledger("s", OS, 2)
    bad = ScriptedSource(
        [SourceError("unplugged", retry_after_s=9.0), bytes(range(64))], label=BlockLabel(("q",), QUANTUM)
    )
    mix = MixedSource("xor", [constant(bad), constant(good)], clock=clock)
    with pytest.raises(SourceError, match="missing: q") as failure:
        await mix.read(64)
    assert failure.value.retry_after_s == 9.0
    assert mix.missing == {"q": "unplugged"}
    clock.advance(4)
    with pytest.raises(SourceError, match="missing: q") as failure:
        await mix.read(64)
    assert failure.value.retry_after_s == 5.0
    assert good.delivered_bytes == mix.counters.discarded_bytes == 64
    clock.advance(5)
    assert len(await mix.read(64)) == 64
    assert mix.missing == {}


@pytest.mark.parametrize("strategy", ["concat", "xor", "hkdf"])
async def test_degrade_on_a_missing_leg(strategy: MixingStrategy) -> None:
    """Set to degrade, the others go on under their own, weaker label, until the leg is back."""
    clock = ManualClock()
    size = {"concat": 32, "xor": 64, "hkdf": 80}[strategy]
    bad = ScriptedSource([SourceError("unplugged"), bytes(range(size))], label=BlockLabel(("q",), QUANTUM))
    mix = MixedSource(strategy, [constant(bad), constant(ledger("s", OS, 2))], on_missing_leg="degrade", clock=clock)
    assert mix.label.device_ids == ("q", "s")
    data, label = await mix.read_labelled(64)
    assert len(data) == 64
    assert (label.source_class, label.device_ids) == (OS, ("s",))
    assert (await mix.read_labelled(64))[1] == label
    clock.advance(1)
    data, label = await mix.read_labelled(64)
    assert len(data) == 64
    assert label.device_ids == ("q", "s")
    assert mix.counters.discarded_bytes == 0


async def test_degrade_stops_when_nobody_carries() -> None:
    """Degrading does not go below the claim: without a leg that carries there is no output."""
    bad = ScriptedSource([SourceError("unplugged")], label=BlockLabel(("q",), QUANTUM))
    weak = constant(ledger("s", OS, 2), bits=1)
    mix = MixedSource("xor", [constant(bad), weak], on_missing_leg="degrade", clock=ManualClock())
    with pytest.raises(SourceError, match="alone"):
        await mix.read(64)
    assert mix.counters.discarded_bytes == 64


async def test_all_missing() -> None:
    """With no leg left the read fails and says when the first may be back; rests grow."""
    clock = ManualClock()
    legs = [
        constant(ScriptedSource([SourceError("out")] * 3, label=BlockLabel((name,), QUANTUM))) for name in ("a", "b")
    ]
    mix = MixedSource("concat", legs, on_missing_leg="degrade", clock=clock)
    for rest_s in (1.0, 2.0, 4.0):
        with pytest.raises(SourceError, match="missing: a, b") as failure:
            await mix.read(64)
        assert failure.value.retry_after_s == rest_s
        clock.advance(rest_s)


@pytest.mark.parametrize("strategy", ["concat", "xor", "hkdf"])
async def test_dead_leg_does_not_hang_the_others(strategy: MixingStrategy) -> None:
    """A source that never answers costs its own patience once, is let go, and then rests."""
    dead = Hanging("dead")
    legs = [LegSource(ConstantLabel(dead), 8, timeout_s=0.01), constant(ledger("s", OS, 2))]
    mix = MixedSource(strategy, legs, on_missing_leg="degrade", clock=ManualClock())
    assert len(await mix.read(64)) == 64
    assert dead.let_go.is_set()
    assert mix.missing == {"dead": "the source did not answer in time"}
    dead.asked.clear()
    assert len(await mix.read(64)) == 64
    assert not dead.asked.is_set()


async def test_short_leg_is_missing() -> None:
    """A leg with fewer bytes than asked for is missing, and what it brought is counted."""

    class Short(LedgerSource):
        async def read(self, size: int) -> bytes:
            return await super().read(size - 1)

    mix = MixedSource("xor", [constant(Short(1, label=BlockLabel(("q",), QUANTUM))), constant(ledger("s", OS, 2))])
    with pytest.raises(SourceError, match="missing: q"):
        await mix.read(64)
    assert mix.counters.taken_bytes == mix.counters.discarded_bytes == 63 + 64


async def test_cancelled() -> None:
    """A cancelled read cancels its legs' reads and stays usable; what had come is discarded."""
    slow, good = Hanging("slow"), ledger("s", OS, 2)
    mix = MixedSource("xor", [constant(good), LegSource(ConstantLabel(slow), 8)])
    read = asyncio.create_task(mix.read(64))
    await slow.asked.wait()
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert slow.let_go.is_set()
    assert mix.counters.discarded_bytes == good.delivered_bytes == 64
    assert mix.missing == {}


async def test_close() -> None:
    """Closing closes every source, even behind one that fails to, and later reads are refused."""

    class Stubborn(Hanging):
        async def close(self) -> None:
            raise OSError

    last = ledger("s", OS, 2)
    mix = MixedSource("xor", [constant(last), LegSource(ConstantLabel(Stubborn("q")), 8)])
    with pytest.raises(OSError):
        await mix.close()
    with pytest.raises(SourceError, match="closed"):
        await last.read(1)
    with pytest.raises(SourceError, match="closed"):
        await mix.read(1)


def test_mix_as_a_leg() -> None:
    """A mix is a labelled source itself."""
    inner: LabelledSource = MixedSource("xor", [constant(ledger("a", QUANTUM, 1)), constant(ledger("b", OS, 2))])
    outer = MixedSource("hkdf", [LegSource(inner, 7), constant(ledger("c", HARDWARE, 3))])
    assert outer.label.device_ids == ("a", "b", "c")


def test_mixes_that_cannot_be() -> None:
    """One source, one device twice, nine devices, no carrier, no patience: refused at once."""
    quantum, system = constant(ledger("q", QUANTUM, 1)), constant(ledger("s", OS, 2))
    with pytest.raises(ValueError, match="at least two"):
        MixedSource("xor", [quantum])
    with pytest.raises(ValueError, match="strategy"):
        MixedSource("none", [quantum, system])
    with pytest.raises(ValueError, match="share a device"):
        MixedSource("hkdf", [quantum, constant(ledger("q", OS, 2))])
    with pytest.raises(ValueError, match="at most 8"):
        MixedSource("concat", [constant(ledger(f"q{number}", QUANTUM, number)) for number in range(9)])
    with pytest.raises(ValueError, match="xor_bits_per_byte"):
        MixedSource("xor", [constant(ledger("q", QUANTUM, 1), bits=6), constant(ledger("s", OS, 2), bits=6)])
    with pytest.raises(ValueError, match="8 bits"):
        MixedSource("xor", [quantum, system], xor_bits_per_byte=9)
    with pytest.raises(ValueError, match="seconds"):
        constant(ledger("q", QUANTUM, 1), timeout_s=0)
