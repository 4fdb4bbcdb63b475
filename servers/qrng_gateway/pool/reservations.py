"""Reservations: bytes of the pool that are kept for one client.

Idea: what is reserved lies in lanes of its client's own, which nobody else's claim looks at. So no arithmetic has to
hold others back, and age limits, purges and a full pool treat such bytes like any.

Of a chunk that arrives at most half is kept, for clients that lack bytes and accept its class, who take turns; in
all at most half of the pool is. So reserving much, and never coming for it, costs the others half of what arrives
until it is there, and no more than half of the room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from qrng_gateway.pool.lane import Lane, Stored
from qrng_grpc.labels import Processing, SourceClass

MAX_RESERVATIONS = 64
"""Clients that bytes are kept for at most; every chunk that arrives asks some of them."""
_SHARE = 2
"""One byte in so many that arrive, and one in so many of the pool, may be kept."""
_ASKED = 8
"""Clients that are asked whether they lack bytes when a chunk arrives."""

Key = tuple[SourceClass, Processing]


@dataclass(eq=False, slots=True)
class Reservation:
    """At most `most` bytes for one client, of `least_class` or better."""

    client_id: str
    most: int
    least_class: SourceClass
    lanes: dict[Key, Lane] = field(default_factory=dict)

    @property
    def level(self) -> int:
        """Bytes that are kept."""
        return sum(lane.level for lane in self.lanes.values())


class Reservations:
    """What is kept, in a pool of `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._room = capacity // _SHARE
        self._of: dict[str, Reservation] = {}
        self._turns: deque[Reservation] = deque()

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def level(self) -> int:
        """Bytes that are kept for anybody."""
        return sum(reservation.level for reservation in self._turns)

    def lanes(self) -> Iterator[tuple[Key, Lane]]:
        """Yield every lane that bytes are kept in."""
        for reservation in self._turns:
            yield from reservation.lanes.items()

    def lanes_of(self, client_id: str, keys: Collection[Key]) -> tuple[Lane, ...]:
        """Return the lanes of one client, in the order of `keys`."""
        reservation = self._of.get(client_id)
        if reservation is None:
            return ()
        return tuple(reservation.lanes[key] for key in keys if key in reservation.lanes)

    def replace(self, wanted: Mapping[str, tuple[int, SourceClass]]) -> list[tuple[Key, Stored]]:
        """Keep for each client so many bytes of a class or better, for the first 64 of them.

        Returns the chunks that are kept for nobody any more.
        """
        before = self._of
        chosen = list(wanted.items())[:MAX_RESERVATIONS]
        self._of = {name: Reservation(name, most, least) for name, (most, least) in chosen if most > 0}
        self._turns = deque(self._of.values())
        freed = []
        for name, old in before.items():
            new = self._of.get(name)
            for key, lane in old.lanes.items():
                if new is not None and new.most >= old.most and key[0].at_least(new.least_class):
                    new.lanes[key] = lane
                else:
                    freed += [(key, chunk) for chunk in lane]
        return freed

    def keep_some(self, chunk: Stored) -> list[str]:
        """Cut what is to be kept off the end of a chunk that arrives. Returns the clients it is for."""
        key = chunk.origin.label.source_class, chunk.origin.label.processing
        budget = min(len(chunk) // _SHARE, self._room - self.level)
        kept = []
        for _ in range(min(_ASKED, len(self._turns))):
            if budget <= 0:
                break
            reservation = self._turns[0]
            self._turns.rotate(-1)
            portion = min(budget, reservation.most - reservation.level)
            if portion > 0 and key[0].at_least(reservation.least_class):
                reservation.lanes.setdefault(key, Lane()).insert(chunk.cut_end(portion))
                budget -= portion
                kept.append(reservation.client_id)
        return kept
