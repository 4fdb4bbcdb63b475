"""Faulty streams are sound first, wrong in the way they say, and the same on every run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing.faults import (
    ByteStream,
    biased_bits,
    cached_body,
    favoured_byte,
    repeating,
    stuck_bit,
    stuck_byte,
)

FAULTS: list[Callable[[int], ByteStream]] = [
    lambda after: stuck_byte(7, seed=3, after=after),
    lambda after: favoured_byte(7, 0.5, seed=3, after=after),
    lambda after: stuck_bit(2, seed=3, after=after),
    lambda after: biased_bits(0.75, seed=3, after=after),
    lambda after: repeating(100, seed=3, after=after),
    lambda after: cached_body(seed=3, after=after),
]


@pytest.mark.parametrize("make", FAULTS)
def test_sound_first(make: Callable[[int], ByteStream]) -> None:
    """The first `after` bytes are those of the seed, however they are taken; the fault follows at once."""
    stream, sound = make(1000), SeededStream(3).take(1000)
    taken = stream.take(0) + stream.take(999) + stream.take(201) + stream.take(300)
    assert taken[:1000] == sound
    assert len(taken) == 1500
    assert taken[1000:] != SeededStream(3).take(1500)[1000:]
    assert make(1000).take(1200) == taken[:1200]


def test_stuck_byte() -> None:
    """One value for ever."""
    assert stuck_byte(0x41).take(5) == b"AAAAA"


@pytest.mark.parametrize("value", [0, 1])
def test_stuck_bit(value: int) -> None:
    """One bit keeps its value; the others go on."""
    taken, sound = stuck_bit(5, value).take(4096), SeededStream(0).take(4096)
    assert {byte >> 5 & 1 for byte in taken} == {value}
    assert all(byte | 32 == other | 32 for byte, other in zip(taken, sound, strict=True))


def test_biased_bits() -> None:
    """A quarter of the bits is set where a quarter was asked for, in every position."""
    taken = biased_bits(0.25).take(65_536)
    for bit in range(8):
        assert sum(byte >> bit & 1 for byte in taken) == pytest.approx(16_384, abs=6 * 111)


def test_favoured_byte() -> None:
    """A value comes as often as asked for, and once in 256 of the rest."""
    assert favoured_byte(9, 0.25).take(65_536).count(9) == pytest.approx(16_384 + 192, abs=6 * 112)


def test_repeating() -> None:
    """The piece comes again and again, across reads of any size."""
    stream = repeating(100)
    taken = b"".join(stream.take(size) for size in (1, 98, 1, 250, 50))
    assert taken == SeededStream(0).take(100) * 4


def test_cached_body() -> None:
    """Each reply begins like the one before, shorter or longer."""
    stream = cached_body()
    first, second, third = stream.take(10), stream.take(5), stream.take(20)
    assert second == first[:5]
    assert third[:10] == first
