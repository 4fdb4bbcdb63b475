"""The tests of the stream agree with the standard's text, however the stream is cut into blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qrng_grpc.health_tests import Failure, HealthTest, StreamTests
from qrng_grpc.health_tests.adaptive_proportion import AdaptiveProportion
from qrng_grpc.health_tests.bit_counts import MAX_Z, WINDOW_BYTES, BitAdder, BitCounts
from qrng_grpc.health_tests.period import LONGEST_PERIOD, Period, anchor_bytes
from qrng_grpc.health_tests.repetition_count import RepetitionCount
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing.faults import biased_bits, favoured_byte, repeating, stuck_bit, stuck_byte
from tests.unit.qrng_grpc.health_tests import oracles


class StreamTest(Protocol):
    def check(self, block: bytes) -> Failure | None: ...


def first_alarm(test: StreamTest, blocks: Iterator[bytes]) -> Failure | None:
    """Feed blocks until one fails."""
    return next((failure for block in blocks if (failure := test.check(block)) is not None), None)


def cut(samples: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut `samples` at `cuts`, in any order, some of them outside or equal."""
    edges = [0, *sorted(min(edge, len(samples)) for edge in cuts), len(samples)]
    return (samples[start:end] for start, end in itertools.pairwise(edges))


CUTS = st.lists(st.integers(0, 3000), max_size=12)
FEW_VALUES = st.integers(1, 4).flatmap(
    lambda values: st.builds(
        lambda seed, size: bytes(byte % values for byte in SeededStream(seed).take(size)),
        st.integers(0, 2**32),
        st.integers(0, 2500),
    )
)
RUNS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), max_size=60).map(
    lambda runs: b"".join(bytes((value,)) * length for value, length in runs)
)


@given(RUNS, st.integers(2, 20), st.lists(st.integers(0, 400), max_size=30))
@example(b"aaaa", 4, [1, 2, 3])
@example(b"baaa", 4, [])
def test_repetition_count(samples: bytes, cutoff: int, cuts: list[int]) -> None:
    """Repetition count alarms at the sample where the standard's loop does."""
    alarm = first_alarm(RepetitionCount(cutoff), cut(samples, cuts))
    assert (alarm and alarm.at) == oracles.repetition_count(samples, cutoff)


@given(FEW_VALUES, st.integers(2, 512), CUTS)
@example(b"a" * 512, 512, [])
@example(b"a" * 511 + b"b" + b"a" * 511, 512, [])
@example(b"b" + b"a" * 512 + b"b", 512, [100])
def test_adaptive_proportion(samples: bytes, cutoff: int, cuts: list[int]) -> None:
    """Adaptive proportion alarms at the sample where the standard's loop does: the first one counts itself."""
    alarm = first_alarm(AdaptiveProportion(cutoff), cut(samples, cuts))
    assert (alarm and alarm.at) == oracles.adaptive_proportion(samples, cutoff)


@given(st.binary(max_size=3000), st.integers(0, 100), st.integers(0, 100))
def test_bits_are_counted(block: bytes, start: int, cut_off: int) -> None:
    """The adder counts each bit position of any part of a block."""
    part = block[start : max(start, len(block) - cut_off)]
    counts = BitAdder().count(block, min(start, len(block)), min(start, len(block)) + len(part))
    assert counts.tolist() == [sum(byte >> bit & 1 for byte in part) for bit in range(8)]


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x80, 0x55, 0xFF])
def test_full_lanes_do_not_overflow(byte: int) -> None:
    """A window of one value has every count it can have, up to 65536."""
    counts = BitAdder().count(bytes((byte,)) * WINDOW_BYTES, 0, WINDOW_BYTES)
    assert counts.tolist() == [WINDOW_BYTES * (byte >> bit & 1) for bit in range(8)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.5, 0.48, 0.53]), st.lists(st.integers(0, 140_000), max_size=6))
def test_bit_counts(seed: int, ones: float, cuts: list[int]) -> None:
    """Bit counts alarm at the end of the first window in which a position has |z| above 7.5."""
    samples = biased_bits(ones, seed=seed).take(140_000)
    alarm = first_alarm(BitCounts(), cut(samples, cuts))
    scores = [oracles.worst_z(samples[start : start + WINDOW_BYTES]) for start in (0, WINDOW_BYTES)]
    window = next((index for index, z in enumerate(scores) if z > MAX_Z), None)
    if window is None:
        assert alarm is None
    else:
        assert alarm == Failure(HealthTest.BIT_COUNTS, scores[window], MAX_Z, (window + 1) * WINDOW_BYTES - 1)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, LONGEST_PERIOD + 100),
    st.integers(0, 300_000),
    st.sampled_from([16, 17, 64]),
    st.lists(st.integers(0, 3_000_000), max_size=8),
)
@example(LONGEST_PERIOD, 1, 16, [])
@example(LONGEST_PERIOD + 1, 0, 16, [])
@example(1, 0, 16, [5, 16, 17, 18])
@example(20, 5, 16, list(range(0, 100, 3)))
def test_period(length: int, after: int, size: int, cuts: list[int]) -> None:
    """An anchor's first repetition within 1 MiB is an alarm; at 1 MiB and one byte there is none."""
    samples = repeating(length, after=after).take(2_600_000)
    alarm = first_alarm(Period(size), cut(samples, cuts))
    assert (alarm and (alarm.statistic, alarm.at)) == oracles.period(samples, size)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["stuck byte", "favoured byte", "stuck bit", "biased bits", "period", "none"]),
    st.integers(0, 100_000),
    st.lists(st.integers(0, 200_000), max_size=20),
    st.sampled_from([8.0, 7.9, 6.0, 1.0]),
)
def test_cutting_changes_nothing(fault: str, after: int, cuts: list[int], entropy: float) -> None:
    """However a stream is cut into blocks, the first alarm is the same: test, statistic and sample."""
    stream = {
        "stuck byte": lambda: stuck_byte(9, after=after),
        "favoured byte": lambda: favoured_byte(9, 0.2, after=after),
        "stuck bit": lambda: stuck_bit(2, after=after),
        "biased bits": lambda: biased_bits(0.6, after=after),
        "period": lambda: repeating(5000),
        "none": lambda: SeededStream(after),
    }[fault]()
    samples = stream.take(200_000)
    whole = StreamTests(entropy).check(samples)
    assert first_alarm(StreamTests(entropy), cut(samples, cuts)) == whole
    assert (whole is None) == (fault == "none")


@pytest.mark.parametrize(("entropy", "size"), [(8, 16), (7.9, 17), (4, 32), (1, 128)])
def test_anchors_hold_128_bits(entropy: float, size: int) -> None:
    """A source that is assessed lower repeats short pieces by chance, so its anchors are longer."""
    assert anchor_bytes(entropy) == size


def test_raw_noise_may_have_unfair_bits() -> None:
    """Counts per bit position are left out for a source whose bits are not meant to be fair."""
    samples = stuck_bit(0).take(200_000)
    assert StreamTests(7).check(samples) is not None
    assert StreamTests(7, fair_bits=False).check(samples) is None


def test_tests_that_could_not_fail_are_refused() -> None:
    """No test can be made with a cutoff that everything or nothing reaches."""
    for make in (
        lambda: RepetitionCount(1),
        lambda: AdaptiveProportion(1),
        lambda: AdaptiveProportion(513),
        lambda: Period(15),
    ):
        with pytest.raises(ValueError, match=r"repeats|cutoff|anchor"):
            make()
