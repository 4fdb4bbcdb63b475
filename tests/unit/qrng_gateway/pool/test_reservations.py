"""Reservations, alone: which chunks' ends are kept, for whom, and how much."""

from __future__ import annotations

import pytest

from qrng_gateway.pool.lane import Origin, Stored
from qrng_gateway.pool.reservations import MAX_RESERVATIONS, Reservations
from qrng_grpc.labels import Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import block

QUANTUM, OS = SourceClass.QUANTUM, SourceClass.OPERATING_SYSTEM
ROOM = 1 << 20


def chunk(size: int, source_class: SourceClass = QUANTUM) -> Stored:
    one = block(size, ManualClock(), source_class=source_class)
    return Stored(one, Origin(one.label, "c", "d"))


def level_of(reservations: Reservations, client: str) -> int:
    keys = [(source_class, Processing.NONE) for source_class in (OS, QUANTUM)]
    return sum(lane.level for lane in reservations.lanes_of(client, keys))


def test_at_most_half_of_what_arrives_is_kept():
    """The others get half of each chunk at least, and all of it once nobody lacks anything."""
    reservations = Reservations(ROOM)
    reservations.replace({"a": (600, QUANTUM), "b": (300, QUANTUM)})
    for size, left in ((300, 150), (300, 150), (3000, 2400), (300, 300)):
        one = chunk(size)
        reservations.keep_some(one)
        assert len(one) == left
    assert (level_of(reservations, "a"), level_of(reservations, "b")) == (600, 300)


def test_at_most_half_of_the_pool_is_kept():
    """Reservations larger than the pool leave half of it to everybody."""
    reservations = Reservations(1000)
    reservations.replace({"a": (10**9, QUANTUM), "b": (10**9, QUANTUM)})
    for _ in range(100):
        reservations.keep_some(chunk(100))
    assert reservations.level == 500


@pytest.mark.parametrize("size", [2, 16, 256])
def test_small_chunks_fill_many_reservations(size: int):
    """However small the chunks and however many the clients, each gets its bytes in the end."""
    reservations = Reservations(ROOM)
    names = [f"client-{i}" for i in range(MAX_RESERVATIONS)]
    reservations.replace(dict.fromkeys(names, (64, QUANTUM)))
    for _ in range(MAX_RESERVATIONS * 130):
        reservations.keep_some(chunk(size))
    assert {level_of(reservations, name) for name in names} == {64}


def test_a_huge_reservation_does_not_stop_a_small_one():
    """Clients take turns, so one that never has enough keeps nobody else short."""
    reservations = Reservations(ROOM)
    reservations.replace({"huge": (1 << 50, QUANTUM), "small": (40, QUANTUM)})
    for _ in range(4):
        reservations.keep_some(chunk(40))
    assert level_of(reservations, "small") == 40


def test_bytes_too_weak_are_not_kept():
    """Nothing is kept for a client that would not be served it."""
    reservations = Reservations(ROOM)
    reservations.replace({"a": (100, QUANTUM)})
    weak = chunk(100, OS)
    assert reservations.keep_some(weak) == []
    assert len(weak) == 100


def test_what_is_kept_for_nobody_any_more_comes_back():
    """A reservation that ends or shrinks gives its bytes back to all; one that stays or grows keeps them."""
    reservations = Reservations(ROOM)
    reservations.replace({"gone": (100, QUANTUM), "stays": (100, QUANTUM), "shrinks": (100, QUANTUM)})
    for _ in range(10):
        reservations.keep_some(chunk(100))
    freed = reservations.replace({"stays": (200, QUANTUM), "shrinks": (50, QUANTUM)})
    assert sum(len(one) for _, one in freed) == 200
    assert level_of(reservations, "stays") == 100
    assert level_of(reservations, "shrinks") == 0


def test_there_are_so_many_reservations_at_most():
    """Beyond the 64th client nobody has bytes kept, so that an arriving chunk costs the same."""
    reservations = Reservations(ROOM)
    reservations.replace({f"client-{i}": (1, QUANTUM) for i in range(MAX_RESERVATIONS + 1)})
    for _ in range(MAX_RESERVATIONS):
        reservations.keep_some(chunk(100))
    assert reservations.level == MAX_RESERVATIONS
    assert level_of(reservations, f"client-{MAX_RESERVATIONS}") == 0
