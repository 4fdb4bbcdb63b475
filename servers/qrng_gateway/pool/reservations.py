"""Reservations: bytes of the pool that are kept for one client.

Idea: a reservation is a number, its *credit*: so many bytes of the pool nobody else may take. No byte belongs to it;
it is backed by whatever lies in the lanes its client accepts, the weakest first, as its claims would take
them. Credits grow only with arrivals, together by at most half of what arrives, so that reserving much cannot starve
those who reserve nothing. A client uses free bytes first: after each of its claims its credit is what is still backed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qrng_gateway.pool.lane import Lane

_SHARE = 2
"""One byte in so many that arrive may refill credits."""


@dataclass(eq=False, slots=True)
class _Reservation:
    most: int
    lanes: tuple[Lane, ...]
    credit: int = 0


class Reservations:
    """The credits of the clients that have a reservation."""

    def __init__(self) -> None:
        self._of: dict[str, _Reservation] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def replace(self, wanted: Mapping[str, tuple[int, tuple[Lane, ...]]]) -> None:
        """Keep for each client so many bytes of these lanes, weakest first. Credits that are still wanted stay."""
        before = self._of
        self._of = {name: _Reservation(most, lanes) for name, (most, lanes) in wanted.items() if most > 0}
        for name, reservation in self._of.items():
            if name in before:
                reservation.credit = min(before[name].credit, reservation.most)

    def refill(self, arrived: int) -> None:
        """Let credits grow by their part of `arrived` bytes, each in proportion to what it lacks."""
        lacking = {name: r.most - r.credit for name, r in self._of.items() if r.most > r.credit}
        total = sum(lacking.values())
        if not total:
            return
        budget = min(total, arrived // _SHARE)
        for name, lack in lacking.items():
            self._of[name].credit += lack * budget // total

    def held_from(self, client_id: str) -> dict[Lane, int]:
        """Return how many bytes of each lane `client_id` must leave to others."""
        held: dict[Lane, int] = {}
        for name, reservation in self._of.items():
            if name == client_id:
                continue
            credit = reservation.credit
            for lane in reservation.lanes:
                backing = min(credit, lane.level - held.get(lane, 0))
                if backing > 0:
                    held[lane] = held.get(lane, 0) + backing
                    credit -= backing
        return held

    def covers(self, client_id: str, n: int) -> bool:
        """Say whether the credit of `client_id` is backed, and enough for `n` bytes."""
        reservation = self._of.get(client_id)
        if reservation is None or reservation.credit < n:
            return False
        return _backing(reservation, self.held_from(client_id)) >= n

    def settle(self, client_id: str) -> None:
        """After a claim of `client_id`: its credit is what is still backed."""
        reservation = self._of.get(client_id)
        if reservation is not None and reservation.credit:
            reservation.credit = min(reservation.credit, _backing(reservation, self.held_from(client_id)))


def _backing(reservation: _Reservation, held: Mapping[Lane, int]) -> int:
    return sum(max(0, lane.level - held.get(lane, 0)) for lane in reservation.lanes)
