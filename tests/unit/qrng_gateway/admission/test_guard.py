"""The guard: bad signatures from one address are limited, and nobody else is."""

from __future__ import annotations

import pytest

from qrng_gateway.admission.guard import BURST, MAX_BUCKETS, REFILL_S, Guard
from qrng_grpc.errors import LimitError
from qrng_grpc.testing.clock import ManualClock

FLOOD = "ipv4:192.0.2.1:1000"


def flooded(clock: ManualClock, peer: str = FLOOD, max_buckets: int = MAX_BUCKETS) -> Guard:
    """Return a guard that has seen all the bad signatures it allows `peer`."""
    guard = Guard(clock, max_buckets=max_buckets)
    for _ in range(BURST):
        guard.check(peer)
        guard.blame(peer)
    return guard


def test_a_flood_is_refused_from_any_port() -> None:
    """Once an address has brought as many bad signatures as it may, another connection does not help it."""
    guard = flooded(ManualClock())
    for peer in (FLOOD, "ipv4:192.0.2.1:1001", "ipv6:%5B::ffff:192.0.2.1%5D:7"):
        with pytest.raises(LimitError):
            guard.check(peer)


def test_a_refusal_says_what_there_was_too_much_of() -> None:
    """The same guard serves wrong keys, in words of their own, and says when to come back."""
    guard = Guard(ManualClock(), mistakes="failed authentications")
    for _ in range(BURST):
        guard.check(FLOOD)
        guard.blame(FLOOD)
    with pytest.raises(LimitError, match="too many failed authentications came from this address") as caught:
        guard.check(FLOOD)
    assert caught.value.retry_after_s == REFILL_S


def test_other_addresses_are_not_affected() -> None:
    """What one address does costs no other a thing."""
    guard = flooded(ManualClock())
    guard.check("ipv4:192.0.2.2:1000")


def test_an_address_recovers() -> None:
    """One bad signature comes back a second, and all of them in time."""
    clock = ManualClock()
    guard = flooded(clock)
    clock.advance(REFILL_S)
    guard.check(FLOOD)
    guard.blame(FLOOD)
    with pytest.raises(LimitError):
        guard.check(FLOOD)
    clock.advance(BURST * REFILL_S)
    for _ in range(BURST):
        guard.check(FLOOD)
        guard.blame(FLOOD)


def test_a_connection_that_showed_a_good_signature_stands_apart_from_its_address() -> None:
    """A collector beside a flood is not held once it was verified, and is limited like anybody if it turns bad."""
    guard = flooded(ManualClock())
    collector = "ipv4:192.0.2.1:2000"
    guard.trust(collector)
    for _ in range(BURST):
        guard.check(collector)
        guard.blame(collector)
    with pytest.raises(LimitError):
        guard.check(collector)


def test_what_is_remembered_is_bounded() -> None:
    """A flood from many addresses costs no more memory than was set, and the oldest are forgotten."""
    guard = flooded(ManualClock(), max_buckets=8)
    for n in range(100):
        guard.blame(f"ipv4:198.51.100.{n}:1")
        guard.trust(f"ipv4:203.0.113.{n}:1")
    assert len(guard) == 16
    guard.check(FLOOD)
