"""Reservations, alone: credits over lanes."""

from __future__ import annotations

from qrng_gateway.pool.lane import Lane, Origin, Stored
from qrng_gateway.pool.reservations import Reservations
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import block


def lane_with(size: int) -> Lane:
    lane = Lane()
    one = block(size, ManualClock())
    lane.insert(Stored(one, Origin(one.label, "c", "d")))
    return lane


def test_credits_grow_by_at_most_half_of_what_arrives():
    """Reserving much leaves at least half of the inflow to everybody."""
    reservations = Reservations()
    lane = lane_with(1000)
    reservations.replace({"a": (600, (lane,)), "b": (300, (lane,))})
    reservations.refill(300)
    assert reservations.held_from("nobody") == {lane: 150}
    reservations.refill(10_000)
    assert reservations.held_from("nobody") == {lane: 900}


def test_what_is_held_never_exceeds_what_is_there():
    """A credit that the pool can no longer back holds nobody up by more than the bytes there are."""
    reservations = Reservations()
    lane = lane_with(100)
    reservations.replace({"a": (1000, (lane,))})
    reservations.refill(10_000)
    assert reservations.held_from("b") == {lane: 100}
    assert not reservations.covers("a", 101)
    assert reservations.covers("a", 100)


def test_a_client_does_not_hold_bytes_from_itself():
    """Its own reservation is no obstacle to a client."""
    reservations = Reservations()
    lane = lane_with(100)
    reservations.replace({"a": (50, (lane,))})
    reservations.refill(100)
    assert reservations.held_from("a") == {}


def test_credit_is_used_only_where_free_bytes_do_not_suffice():
    """After a claim a credit is what is still backed: untouched in plenty, less by the shortfall in want."""
    reservations = Reservations()
    lane = lane_with(100)
    reservations.replace({"a": (50, (lane,))})
    reservations.refill(100)
    lane.take(40, 0)
    reservations.settle("a")
    assert reservations.covers("a", 50)
    lane.take(30, 0)
    reservations.settle("a")
    assert reservations.held_from("b") == {lane: 30}


def test_the_weakest_lane_backs_first():
    """Bytes are held where their client's claims would take them: better lanes only for the rest."""
    reservations = Reservations()
    weak, strong = lane_with(30), lane_with(100)
    reservations.replace({"a": (50, (weak, strong))})
    reservations.refill(100)
    assert reservations.held_from("b") == {weak: 30, strong: 20}


def test_a_change_of_settings_keeps_credits():
    """Reloaded reservations keep what was set aside, up to their new size; those that are gone hold nothing."""
    reservations = Reservations()
    lane = lane_with(100)
    reservations.replace({"a": (50, (lane,)), "b": (20, (lane,))})
    reservations.refill(1000)
    reservations.replace({"a": (30, (lane,))})
    assert reservations.held_from("c") == {lane: 30}
    reservations.replace({})
    assert not reservations
