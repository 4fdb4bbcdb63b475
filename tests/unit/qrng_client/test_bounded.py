"""Numbers below bounds: each as likely as any other, all by one read."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client.bounded import numbers_below, split
from qrng_grpc.errors import SourceError
from qrng_grpc.values import width
from tests.unit.qrng_client.byte_sources import Scripted, Seeded

BOUNDS = st.lists(st.one_of(st.integers(1, 300), st.integers(1, 1 << 80), st.just(1 << 1500)), max_size=40)


@pytest.mark.parametrize("bounds", [[6], [5, 4, 3, 2, 1], [1, 1], [2, 7, 2], [8, 8], []])
def test_every_combination_once(bounds: list[int]) -> None:
    """The numbers below the product of the bounds yield each combination of digits exactly once."""
    combinations = Counter(tuple(split(number, bounds)) for number in range(math.prod(bounds)))
    assert combinations == Counter(itertools.product(*map(range, bounds)))


@given(BOUNDS)
def test_each_below_its_own(bounds: list[int]) -> None:
    """There is a number for each bound, in order, in its range; and all come of one read."""
    source = Seeded()
    numbers = numbers_below(bounds, source.read)
    assert len(numbers) == len(bounds)
    assert all(0 <= number < bound for number, bound in zip(numbers, bounds, strict=True))
    assert len(source.reads) == 1


def test_little_is_spent() -> None:
    """A deck of 52 cards, 225.6 bits, takes 33 bytes; a coin one, a byte one, a die five."""
    for bounds, size in ((range(52, 1, -1), 33), ([2], 1), ([256], 1), ([6], 5), ([1] * 9, 0)):
        source = Seeded()
        numbers_below(bounds, source.read)
        assert source.reads == [size]


def test_a_rejected_group_is_drawn_again() -> None:
    """A number beyond the last whole multiple is not used: only its group is read again."""
    size = width(6, 1)
    assert numbers_below([6], Scripted([b"\xff" * size, bytes(size)]).read) == [0]
    wide = [1 << 1500, 6]
    assert numbers_below(wide, Scripted([bytes(1500 // 8 + 1) + b"\xff" * size, bytes(size)]).read) == [0, 0]


def test_a_source_that_is_always_rejected() -> None:
    """A source that is stuck at bytes that are rejected ends with an error, not never."""
    with pytest.raises(SourceError, match="not random"):
        numbers_below([6], lambda n: b"\xff" * n)
