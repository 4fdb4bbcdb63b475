"""The line: claims that wait for bytes, and whose turn it is.

Idea: byte-weighted fair queueing across clients, in order within one. Every client that waits has a *turn*,
the virtual time at which its first claim would be finished if clients took turns byte by byte, each as fast
as its weight says: where its last one left it, or virtual now where it has only come, + bytes / weight. Virtual
now is where the client is that has had least of all who wait. The smallest turn goes first. So a client that
floods the line only waits behind itself, a small claim does not wait for a large one of somebody else, and a
large one is reached in the end, since nobody can be put before it without virtual time coming closer to it.
(As in S. J. Golestani, "A self-clocked fair queueing scheme for broadband applications", INFOCOM 1994, but with now
from those who wait and not from who was served: here some are served out of turn, since others cannot use the bytes.)

A claim that leaves the line unserved costs its client nothing. Claims are bounded in number; where there is no place
left, whoever holds the most gives one up to a client that holds fewer.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Place(Generic[K, T]):
    """One claim's place in line: `size` bytes for a client of `weight`. Claims of one `kind` want the same bytes."""

    client_id: str
    weight: int
    size: int
    kind: K
    claim: T


@dataclass(eq=False, slots=True)
class _Queue(Generic[K, T]):
    """The places of one client, oldest first. `turn` is where its last served claim left it."""

    order: int
    turn: float
    places: dict[Place[K, T], None] = field(default_factory=dict)


class Line(Generic[K, T]):
    """Places in line, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._now = 0.0
        self._length = 0
        self._order = count()
        self.kinds: Counter[K] = Counter()
        """How many places of each kind there are; kinds without one are left out."""
        # Clients that wait, and those whose last turn is still ahead of now: when they come back, it counts.
        self._queues: dict[str, _Queue[K, T]] = {}

    def __len__(self) -> int:
        return self._length

    @property
    def size(self) -> int:
        """Bytes that are waited for."""
        return sum(place.size for queue in self._queues.values() for place in queue.places)

    @property
    def full(self) -> bool:
        """Whether there is no place left."""
        return self._length >= self._most

    def spare(self, client_id: str) -> Place[K, T] | None:
        """Return the place that another client has to give up to this one, None when none holds two more than it."""
        most = max(self._queues.values(), key=lambda queue: len(queue.places), default=None)
        own = self._queues.get(client_id)
        held = 0 if own is None else len(own.places)
        if most is None or len(most.places) < held + 2:
            return None
        return next(reversed(most.places))

    def first_of(self, client_id: str) -> Place[K, T] | None:
        """Return the oldest place of a client, None when it does not wait."""
        queue = self._queues.get(client_id)
        return None if queue is None else next(iter(queue.places), None)

    def join(self, place: Place[K, T]) -> None:
        """Put `place` behind its client's others."""
        queue = self._queues.get(place.client_id)
        if queue is None:
            queue = self._queues[place.client_id] = _Queue(next(self._order), self._now)
        if not queue.places:  # and never while it waits, or a large claim would be put off for ever
            self._look_at_the_clock()
            queue.turn = max(queue.turn, self._now)
        queue.places[place] = None
        self.kinds[place.kind] += 1
        self._length += 1

    def __contains__(self, place: Place[K, T]) -> bool:
        queue = self._queues.get(place.client_id)
        return queue is not None and place in queue.places

    def leave(self, place: Place[K, T]) -> None:
        """Take `place` out, unserved. Does nothing when it is not there."""
        if place in self:
            self._remove(place)
            self._forget_the_past()

    def serve(self, place: Place[K, T]) -> None:
        """Take `place` out, served: its client's next turn comes later for it."""
        queue = self._queues[place.client_id]
        queue.turn = _turn(queue.turn, place)
        self._remove(place)
        self._forget_the_past()

    def __iter__(self) -> Iterator[Place[K, T]]:
        """Yield the places, whose turn is next first. Places may be served or leave meanwhile."""
        turns = []
        for queue in self._queues.values():
            places = list(queue.places)
            if places:
                turns.append((_turn(queue.turn, places[0]), queue.order, 0, places))
        heapq.heapify(turns)
        while turns:
            turn, order, index, places = turns[0]
            yield places[index]
            if index + 1 < len(places):
                heapq.heapreplace(turns, (_turn(turn, places[index + 1]), order, index + 1, places))
            else:
                heapq.heappop(turns)

    def places(self) -> list[Place[K, T]]:
        """Return the places in no particular order."""
        return [place for queue in self._queues.values() for place in queue.places]

    def _remove(self, place: Place[K, T]) -> None:
        del self._queues[place.client_id].places[place]
        self._length -= 1
        self.kinds[place.kind] -= 1
        if not self.kinds[place.kind]:
            del self.kinds[place.kind]

    def _look_at_the_clock(self) -> None:
        turns = [queue.turn for queue in self._queues.values() if queue.places]
        if turns:
            self._now = max(self._now, min(turns))

    def _forget_the_past(self) -> None:
        """Drop clients that neither wait nor have had more than their share; with nobody in line, everybody."""
        if not self._length:
            self._queues.clear()
            self._now = 0.0
        elif len(self._queues) > 2 * self._length:
            self._look_at_the_clock()
            ahead = {name: q for name, q in self._queues.items() if q.places or q.turn > self._now}
            self._queues = ahead


def _turn(since: float, place: Place[K, T]) -> float:
    return since + place.size / place.weight
