"""Values: every one as likely as any other, and made of no more bytes than it takes."""

from __future__ import annotations

import itertools
import math
import random
import uuid
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.values import (
    FLOAT_BYTES,
    INT64_MAX,
    INT64_MIN,
    UUID_BYTES,
    Integers,
    digits,
    floats,
    uuids,
    width,
)

INT64 = st.integers(INT64_MIN, INT64_MAX)
SMALL_DRAWS = [
    (length, base, count)
    for length, bases in ((1, range(1, 257)), (2, (10, 101, 257)))
    for base in bases
    for count in range(1, 9)
    if base**count <= 256**length
]


def drawn(integers: Integers, generator: random.Random) -> list[int]:
    """The integers that a caller gets who feeds as many bytes as are asked for."""
    while integers.bytes_needed:
        integers.feed(generator.randbytes(integers.bytes_needed))
    return integers.values


def chi_square(observed: Counter[int], cells: int) -> float:
    expected = observed.total() / cells
    return sum((observed[cell] - expected) ** 2 for cell in range(cells)) / expected


# Integers: exactness


@pytest.mark.parametrize("length", [1, 2])
def test_no_combination_of_digits_is_preferred(length: int) -> None:
    """Of all the strings of 1 and of 2 bytes, exactly as many yield each combination of digits as any other."""
    for _, base, count in (draw for draw in SMALL_DRAWS if draw[0] == length):
        numbers = (digits(number.to_bytes(length, "big"), base, count) for number in range(256**length))
        yielded = Counter(tuple(drawn) for drawn in numbers if drawn is not None)
        assert set(yielded) == set(itertools.product(range(base), repeat=count))
        assert set(yielded.values()) == {256**length // base**count}


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-3, 0), (7, 70_000), (INT64_MIN, INT64_MAX)])
def test_a_power_of_two_rejects_nothing(low: int, high: int) -> None:
    """Ranges whose size is a power of two are done in one round, whatever the bytes; others may not be."""
    size = high - low + 1
    for byte in (b"\x00", b"\xff"):
        integers = Integers(3, low, high)
        integers.feed(byte * integers.bytes_needed)
        assert (len(integers.values) == 3) is (byte == b"\x00" or size & (size - 1) == 0)


@settings(deadline=None)
@given(st.integers(1, 1 << 64), st.integers(1, 64))
def test_rejection_is_rare_and_the_width_no_larger_than_that_takes(base: int, count: int) -> None:
    """Fewer than one draw in 2**32 is rejected, and one byte less would be too few."""
    bits, space = 8 * width(base, count), base**count
    rejected = Fraction(2**bits % space, 2**bits)
    assert space <= 2**bits
    assert rejected < Fraction(1, 2**32)
    fewer_bits = bits - 8
    assert bits == 0 or space > 2**fewer_bits or (rejected and space > 2 ** (fewer_bits - 32))


# Integers: vectors


def test_bytes_are_their_own_integers() -> None:
    """From 0 to 255 the integers are the bytes; over all of int64, eight big-endian bytes, 0 the least."""
    integers = Integers(4, 0, 255)
    integers.feed(b"\x00\x01\x80\xff")
    assert integers.values == [0, 1, 128, 255]
    wide = Integers(3, INT64_MIN, INT64_MAX)
    wide.feed(bytes(8) + b"\x80" + bytes(7) + b"\xff" * 8)
    assert wide.values == [INT64_MIN, 0, INT64_MAX]


def test_bits_are_taken_from_the_left() -> None:
    """Eight coins are the bits of one byte, the most significant first."""
    coins = Integers(8, 0, 1)
    coins.feed(b"\xa6")
    assert coins.values == [1, 0, 1, 0, 0, 1, 1, 0]


def test_dice_by_hand() -> None:
    """Ten throws take 26 bits and 32 spare ones, 8 bytes; the digits of 123456 to the base 6 are 2351320."""
    dice = Integers(10, 1, 6)
    assert dice.bytes_needed == 8
    dice.feed((123456).to_bytes(8, "big"))
    assert dice.values == [1, 1, 1, 3, 4, 6, 2, 4, 3, 1]


def test_the_last_number_accepted_and_the_first_rejected() -> None:
    """From 0 to 2, five bytes: 2**40 is 1 more than a multiple of 3, so that all but one number are accepted."""
    integers = Integers(1, 0, 2)
    integers.feed(b"\xff" * 5)
    assert integers.values == []
    assert integers.bytes_needed == 5
    integers.feed(b"\xff" * 4 + b"\xfe")
    assert integers.values == [2]
    assert integers.bytes_needed == 0


# Integers: rounds


def test_only_what_was_rejected_is_drawn_again() -> None:
    """A rejected group costs its own bytes once more, and no other group's."""
    integers = Integers(1000, 0, 100)
    first = integers.bytes_needed
    shared = width(101, 146)
    integers.feed(b"\xff" * shared + bytes(first - shared))
    assert integers.values == [0] * 854
    assert integers.bytes_needed == shared
    integers.feed(bytes(shared))
    assert integers.values == [0] * 1000
    assert integers.bytes_needed == 0


@settings(deadline=None)
@given(st.integers(0, 1200), INT64, INT64, st.randoms(use_true_random=False))
def test_every_count_in_every_range(count: int, one: int, other: int, generator: random.Random) -> None:
    """As many integers as asked for come out, all in range, from at most a sixth more bytes than they hold, and 5."""
    low, high = sorted((one, other))
    integers = Integers(count, low, high)
    assert integers.bytes_needed <= 7 / 6 * count * math.log2(high - low + 1) / 8 + 5
    values = drawn(integers, generator)
    assert len(values) == count
    assert all(low <= value <= high for value in values)


@settings(deadline=None)
@given(st.integers(1, 300), INT64, INT64, st.binary(max_size=64))
def test_extreme_bytes(count: int, one: int, other: int, pattern: bytes) -> None:
    """Whatever the bytes are, nothing outside the range comes out, and never more than was asked for."""
    low, high = sorted((one, other))
    integers = Integers(count, low, high)
    for fill in (b"\xff", pattern or b"\xff", b"\x00"):
        needed = integers.bytes_needed
        integers.feed((fill * (needed // len(fill) + 1))[:needed])
    assert integers.bytes_needed == 0
    assert len(integers.values) == count
    assert all(low <= value <= high for value in integers.values)


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0, 100), (5, 7, 7), (2, INT64_MIN, INT64_MIN)])
def test_what_is_certain_takes_no_bytes(count: int, low: int, high: int) -> None:
    """No integers, or integers of one possible value, are complete from the start."""
    integers = Integers(count, low, high)
    assert integers.bytes_needed == 0
    assert integers.values == [low] * count


@pytest.mark.parametrize(
    ("low", "high", "field"),
    [(INT64_MIN - 1, 0, "min"), (0, INT64_MAX + 1, "max"), (1, 0, "min"), (INT64_MAX, INT64_MIN, "min")],
)
def test_impossible_ranges_are_refused(low: int, high: int, field: str) -> None:
    """A bound beyond int64, or min above max, is the request's fault and says which field."""
    with pytest.raises(InvalidRequestError) as caught:
        Integers(1, low, high)
    assert caught.value.field == field


def test_a_wrong_number_of_bytes_changes_nothing() -> None:
    """Too few or too many bytes, and a negative count, are mistakes of the caller."""
    integers = Integers(10, 1, 6)
    for size in (0, 7, 9):
        with pytest.raises(ValueError, match="as many bytes"):
            integers.feed(bytes(size))
    assert integers.bytes_needed == 8
    with pytest.raises(ValueError, match="not negative"):
        Integers(-1, 1, 6)


@pytest.mark.parametrize("size", [2, 3, 6, 10, 101, 256, 1000])
def test_integers_look_uniform(size: int) -> None:
    """Of 200,000 integers of fixed bytes, the counts of each are as even as chance makes them, at four sigma."""
    values = drawn(Integers(200_000, 0, size - 1), random.Random(size))
    degrees = size - 1
    assert abs(chi_square(Counter(values), size) - degrees) < 4 * math.sqrt(2 * degrees)


def test_neighbours_look_independent() -> None:
    """Of 200,000 throws of fixed bytes, pairs of neighbours, which share a number, are as even as chance makes them."""
    values = drawn(Integers(200_000, 0, 5), random.Random(2))
    pairs = Counter(6 * first + second for first, second in zip(values[::2], values[1::2], strict=True))
    assert abs(chi_square(pairs, 36) - 35) < 4 * math.sqrt(2 * 35)


# Floats


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("00000000000000", 0.0),
        ("00000000000007", 0.0),
        ("00000000000008", 2.0**-53),
        ("40000000000000", 0.25),
        ("80000000000000", 0.5),
        ("c0000000000000", 0.75),
        ("ffffffffffffff", 1 - 2.0**-53),
    ],
)
def test_floats_by_hand(data: str, value: float) -> None:
    """Fifty-three bits, big-endian, times 2**-53: from 0 up to the last multiple below 1."""
    assert floats(bytes.fromhex(data)) == [value]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**56 - 1), max_size=20))
def test_floats_are_exact(numbers: list[int]) -> None:
    """Each float is exactly its 53 bits over 2**53, so in [0, 1) and on an even grid."""
    data = b"".join(number.to_bytes(FLOAT_BYTES, "big") for number in numbers)
    assert [Fraction(value) for value in floats(data)] == [Fraction(number >> 3, 2**53) for number in numbers]


def test_floats_look_uniform() -> None:
    """Of 100,000 floats of fixed bytes, the hundredths are as even as chance makes them, at four sigma."""
    values = floats(random.Random(4).randbytes(100_000 * FLOAT_BYTES))
    counts = Counter(int(100 * value) for value in values)
    assert abs(chi_square(counts, 100) - 99) < 4 * math.sqrt(2 * 99)


# UUIDs


@pytest.mark.parametrize("version", "0123456789abcdef")
@pytest.mark.parametrize("variant", "159d")
def test_the_uuid_of_the_rfc(version: str, variant: str) -> None:
    """RFC 9562, appendix A.3: its random bits make its UUID, whatever stood where version and variant go."""
    (value,) = uuids(bytes.fromhex(f"919108f752d1{version}320{variant}bacf847db4148a8"))
    assert str(value) == "919108f7-52d1-4320-9bac-f847db4148a8"


@settings(deadline=None)
@given(st.binary(max_size=20 * UUID_BYTES).map(lambda data: data[: len(data) // UUID_BYTES * UUID_BYTES]))
def test_uuids_keep_122_bits(data: bytes) -> None:
    """Version is 4 and the variant RFC 9562's; every other bit is the one that came."""
    kept = (1 << 128) - 1 ^ (0xF << 76) ^ (0b11 << 62)
    values = uuids(data)
    assert len(values) == len(data) // UUID_BYTES
    for value, start in zip(values, range(0, len(data), UUID_BYTES), strict=True):
        assert (value.version, value.variant) == (4, uuid.RFC_4122)
        assert value.int & kept == int.from_bytes(data[start : start + UUID_BYTES], "big") & kept


# Both


@pytest.mark.parametrize(("make", "size"), [(floats, FLOAT_BYTES), (uuids, UUID_BYTES)])
def test_incomplete_values_are_refused(make, size: int) -> None:
    """Bytes that do not come out even are a mistake of the caller, and never padded."""
    assert make(b"") == []
    for wrong in (1, size - 1, size + 1, 3 * size - 1):
        with pytest.raises(ValueError, match="takes"):
            make(bytes(wrong))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind) -> None:
    """Bytes may come in any buffer, so that nobody has to copy them first."""
    data = bytes(range(112))
    assert floats(kind(data)) == floats(data)
    assert uuids(kind(data)) == uuids(data)
    integers = Integers(112, 0, 255)
    integers.feed(kind(data))
    assert integers.values == list(data)
