"""The pool: verified bytes waiting to be claimed, each by one client.

Idea: `claim` is the only way bytes leave, all or nothing. There is one lane per class and processing,
so weaker bytes never dilute better ones; a claim takes from the weakest lane that satisfies it, so
better bytes are left for those who need them. Whoever cannot be served at once stands in one line, where
clients take turns; a claim passes others only where nobody ahead could use the bytes, or where they are
reserved for its client.

Everything is bounded: bytes, chunks (each counts as at least 1 KiB, so that a flood of tiny chunks
cannot fill memory with book-keeping), waiters and waiting time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

from qrng_gateway.pool.claims import Claimed, ClaimSpec, Pack, as_they_are, label_of, label_of_one, label_of_two
from qrng_gateway.pool.forecast import Forecast
from qrng_gateway.pool.intake import Intake
from qrng_gateway.pool.lane import FOREVER_NS, Lane, Origin, Stored
from qrng_gateway.pool.line import Line, Place
from qrng_gateway.pool.reservations import Key, Reservations
from qrng_gateway.pool.reservoir import Reservoir
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import ENDING, DrainingError, InvalidRequestError, LimitError, PoolShortError, WeakerSourceError
from qrng_grpc.labels import (
    BEST_FIRST,
    Processing,
    SourceClass,
)

Overflow = Literal["drop_oldest", "backpressure"]
_Kind = tuple[SourceClass, Processing | None, bool]
"""What waiting claims have in common: the class and processing they want, and whether the bytes are still to come."""

_LEAST_CHARGE = 1024
_SHARED_ORIGINS = 1024


@dataclass(slots=True)
class PoolCounters:
    """Where bytes went since start. stored = served + pooled + the others below."""

    stored: int = 0
    served: int = 0
    claims: int = 0
    expired: int = 0
    overflow: int = 0
    purged: int = 0
    set_aside: int = 0
    conditioned: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class LaneLevel:
    """One lane as status shows it."""

    source_class: SourceClass
    processing: Processing
    level: int
    oldest_capture_start_ns: int


@dataclass(eq=False, slots=True)
class _Waiting:
    """A claim in line. Its future holds what it was granted, or why not."""

    spec: ClaimSpec
    pack: Pack
    granted: asyncio.Future[Claimed]


class Pool:
    """Bytes in memory, for one process.

    `capacity` in bytes, at least 1 MiB; `ttl_s`, the age limit in seconds; `best_class`, the best any
    key may claim, beyond which waiting is useless; `max_waiting`, claims in line; `intake`, what
    becomes of chunks before they are stored: nothing, without one.
    """

    def __init__(
        self,
        capacity: int,
        *,
        ttl_s: float,
        overflow: Overflow,
        best_class: SourceClass,
        max_waiting: int = 1024,
        intake: Intake | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if capacity < MAX_CHUNK_BYTES:
            raise ValueError("a pool holds at least the largest chunk")
        self.capacity = capacity
        self.counters = PoolCounters()
        self._max_chunks = capacity // _LEAST_CHARGE
        self._ttl_ns = int(ttl_s * NS_PER_S)
        self._overflow = overflow
        self.best_class = best_class
        """The best class any key may claim now."""
        self.forecast = Forecast(clock)
        self._clock = clock
        self._draining = False
        self._reserved_bytes = self._reserved_chunks = 0
        self._line: Line[_Kind, _Waiting] = Line(max_waiting)
        self._fresh_from_ns = FOREVER_NS
        """No claim in line for fresh bytes wants any that were captured up to then."""
        self._reservations = Reservations(capacity)
        self._serving_soon = False
        self.entered = dict.fromkeys(BEST_FIRST, 0)
        """Bytes of each class that have come to where claims find them, or are kept for a client."""
        self._intake = intake or Intake(Reservoir(0, ttl_s=ttl_s, clock=clock))
        # Weakest first, which is the order claims try them in.
        self._lanes = {key: Lane() for key in product(reversed(BEST_FIRST), self._intake.processings)}
        self._acceptable_keys = lru_cache(maxsize=None)(self._find_acceptable_keys)
        self._acceptable = lru_cache(maxsize=None)(self._find_acceptable)
        self._overlap = lru_cache(maxsize=None)(self._find_overlap)
        self._displaceable = lru_cache(maxsize=None)(self._find_displaceable)

    @property
    def level(self) -> int:
        """Bytes in the pool, expired ones included until they are met."""
        return sum(lane.level for lane in self._lanes.values()) + self._reservations.level

    @property
    def reserved(self) -> int:
        """Bytes that are kept for single clients."""
        return self._reservations.level

    def claimable(self, least_class: SourceClass) -> int:
        """Return how many bytes of `least_class` or better anybody may claim."""
        return sum(lane.level for lane in self._acceptable(least_class, None))

    @property
    def waiting(self) -> int:
        """Claims in line."""
        return len(self._line)

    def lanes(self) -> list[LaneLevel]:
        """Return the lanes that hold bytes for anybody, weakest first."""
        return [
            LaneLevel(*key, lane.level, oldest)
            for key, lane in self._lanes.items()
            if (oldest := lane.oldest_capture_start_ns) is not None
        ]

    # Bytes in

    def admit(
        self, block: Block, collector_id: str, key_id: str = "", epoch: int = 0, sequence: int = 0
    ) -> Stored | None:
        """Set room aside for `block`, which the key `key_id` vouches for, and copy it; None when there is no room.

        It displaces weaker classes first, oldest first, and then, under `drop_oldest`, the oldest of
        its own class; never a better one, and nothing at all when that would not suffice. What comes
        back waits to be stored, or to be abandoned.
        """
        n = len(block)
        lanes = self._all_lanes()
        self._expire(lanes)
        displaced = self._displace(block.label.source_class, *self._excess(n, lanes))
        if displaced is None:
            return None
        self._reserved_bytes += n
        self._reserved_chunks += 1
        overwritten = displaced.pop() if displaced else None
        for chunk in displaced:
            chunk.wipe()
        return Stored(block, _shared_origin(block.label, collector_id, key_id, epoch), sequence, overwritten)

    def _displace(self, newcomer: SourceClass, bytes_over: int, chunks_over: int) -> list[Stored] | None:
        """Take out so many bytes and chunks, or more, in favour of `newcomer`; None, and nothing, where it may not."""
        displaced: list[Stored] = []
        if bytes_over <= 0 and chunks_over <= 0:
            return displaced
        displaceable = self._displaceable(newcomer)
        if self._reservations:
            displaceable += self._displaceable_reserves(newcomer)
        level, chunks = _contents(displaceable)
        if bytes_over > level or chunks_over > chunks:
            return None
        for lane in displaceable:
            while lane.level and (bytes_over > 0 or chunks_over > 0):
                oldest = lane.pop_oldest()
                n = len(oldest)
                displaced.append(oldest)
                bytes_over -= n
                chunks_over -= 1
                self.counters.overflow += n
        return displaced

    def store(self, block: Block, collector_id: str, key_id: str = "", epoch: int = 0, sequence: int = 0) -> bool:
        """Admit `block` and store it at once. False when there is no room."""
        admitted = self.admit(block, collector_id, key_id, epoch, sequence)
        if admitted is None:
            return False
        self.store_all((admitted,))
        return True

    def store_all(self, admitted: Iterable[Stored]) -> None:
        """Put each of `admitted` into the room set aside for it; serve whoever waits for them."""
        for_clients: list[str] = []
        counters, keeping = self.counters, bool(self._reservations)
        for chunk in admitted:
            counters.stored += self._release(chunk)
            counters.set_aside += self._intake.set_aside(chunk)
            counters.conditioned += self._intake.condition(chunk)
            n = len(chunk)
            if n:
                label = chunk.origin.label
                self.entered[label.source_class] += n
                if keeping:
                    for_clients += self._reservations.keep_some(chunk)
                self._lanes[label.source_class, label.processing].insert(chunk)
        self._serve_arrivals(for_clients)

    def purge(self, key_id: str) -> int:
        """Destroy what the key `key_id` vouched for, since nobody does any more. Returns the bytes."""
        purged = sum(lane.purge(key_id) for lane in self._all_lanes())
        self._intake.reservoir.purge(key_id)
        self.counters.purged += purged
        return purged

    def refuse_purged(self, admitted: Stored) -> None:
        """Abandon `admitted`, and count it as stored and at once purged."""
        self.counters.stored += len(admitted)
        self.counters.purged += len(admitted)
        self.abandon(admitted)

    def abandon(self, admitted: Stored) -> None:
        """Give back the room that was set aside, and destroy `admitted`."""
        self._release(admitted)
        admitted.wipe()

    def _release(self, admitted: Stored) -> int:
        """Give back the room that was set aside for `admitted`. Returns its bytes."""
        n = len(admitted)
        self._reserved_bytes -= n
        self._reserved_chunks -= 1
        return n

    def refuse_overflow(self, block: Block) -> None:
        """Count `block` as stored and at once displaced by what is better."""
        self.counters.stored += len(block)
        self.counters.overflow += len(block)

    @property
    def presses_back(self) -> bool:
        """Whether a full pool holds chunks at their collector rather than destroy some."""
        return self._overflow == "backpressure"

    # Bytes out

    def keep_for(self, reservations: Mapping[str, tuple[int, SourceClass]]) -> None:
        """Keep for each client so many bytes of a class or better that nobody else may claim."""
        for key, chunk in self._reservations.replace(reservations):
            self._lanes[key].insert(chunk)
        self._serve_arrivals(())

    async def claim(
        self, n: int, spec: ClaimSpec, client: str, patience_s: float, *, weight: int = 1, pack: Pack = as_they_are
    ) -> Claimed:
        """Take `n` bytes for `client`, irrevocably, waiting in line at most `patience_s` seconds.

        In line, clients take turns by bytes over `weight`. Raises WeakerSourceError or InvalidRequestError
        at once when no waiting could help, PoolShortError when the bytes did not come in time, LimitError
        when there is no place in line, DrainingError when the gateway ends. Cancelled, it leaves the line
        and takes nothing.
        """
        claimed = self.claim_now(n, spec, client, pack)
        if claimed is not None:
            return claimed
        kind = (spec.least_class, spec.processing, spec.captured_after_ns is not None)
        return await self._wait(Place(client, weight, n, kind, _Waiting(spec, pack, _future())), patience_s)

    def claim_now(self, n: int, spec: ClaimSpec, client: str, pack: Pack = as_they_are) -> Claimed | None:
        """Take `n` bytes for `client`, irrevocably, if it need not wait for them; else None.

        Raises WeakerSourceError or InvalidRequestError when no waiting could help, DrainingError when the gateway ends.
        """
        if self._draining:
            raise DrainingError(ENDING)
        if not self.best_class.at_least(spec.least_class):
            raise WeakerSourceError("every source of this gateway is weaker than the least class asked for")
        if n > self.capacity:
            raise InvalidRequestError("more bytes than the pool can hold", field="bytes_needed")
        lanes = self._acceptable(spec.least_class, spec.processing)
        if not lanes:
            raise InvalidRequestError("this gateway has no bytes of that processing", field="processing")
        uncontested = not self._line.kinds
        if uncontested and spec[2:] == _PLAIN:
            claimed = self._from_oldest(n, lanes, pack)
            if claimed is not None:
                return claimed
        if uncontested or not self._contested(spec):
            claimed = self._attempt(n, spec, pack, lanes, _NO_PROMISES)
            if claimed is not None:
                return claimed
        if self._reservations and self._line.first_of(client) is None:
            return self._from_reserve(n, spec, pack, client)
        return None

    async def _wait(self, place: Place[_Kind, _Waiting], patience_s: float) -> Claimed:
        if patience_s <= 0 and self._line.full:
            raise self._short(place)
        self._make_room(place)
        granted = place.claim.granted
        self._line.join(place)
        try:
            self._serve_in_turn(place)
            if not granted.done() and patience_s <= 0:
                raise self._short(place)
            bell = asyncio.get_running_loop().call_later(patience_s, self._give_up, place)
            try:
                return await granted
            finally:
                bell.cancel()
        finally:
            if granted.done() and not granted.cancelled():
                granted.exception()  # looked at, so that asyncio does not report it as lost
            if place in self._line:
                self._line.leave(place)
                if self._any_for(place.claim.spec):
                    self._serve_soon()

    def _make_room(self, place: Place[_Kind, _Waiting]) -> None:
        """See that there is a place in line. Raises LimitError when nobody has one to give up."""
        if not self._line.full:
            return
        spare = self._line.spare(place.client_id)
        if spare is None:
            raise self._crowded(place)
        self._line.leave(spare)
        _refuse(spare.claim, self._crowded(spare))

    def _crowded(self, place: Place[_Kind, _Waiting]) -> LimitError:
        return LimitError("too many claims are waiting", retry_after_s=self._hint_s(place))

    def _give_up(self, place: Place[_Kind, _Waiting]) -> None:
        _refuse(place.claim, self._short(place))

    def _short(self, place: Place[_Kind, _Waiting]) -> PoolShortError:
        return PoolShortError("the pool did not hold enough bytes in time", retry_after_s=self._hint_s(place))

    def _hint_s(self, place: Place[_Kind, _Waiting]) -> float:
        """Return when as many bytes as are waited for will have come besides those that are there."""
        least_class, processing, fresh = place.kind
        wanted = self._line.size + (0 if place in self._line else place.size)
        there = 0 if fresh else sum(lane.level for lane in self._acceptable(least_class, processing))
        return round(self.forecast.seconds_until(max(place.size, wanted - there)), 1)

    def _contested(self, spec: ClaimSpec) -> bool:
        """Say whether anybody in line waits for bytes that `spec` could take now."""
        lanes = self._acceptable(spec.least_class, spec.processing)
        newest_ns = max(lane.newest_capture_start_ns for lane in lanes)
        return any(
            self._overlap(spec.least_class, spec.processing, least_class, processing)
            for least_class, processing, fresh in self._line.kinds
            if not fresh or newest_ns > self._fresh_from_ns
        )

    def _serve_arrivals(self, for_clients: Iterable[str]) -> None:
        """Grant what can be granted now that bytes have come, of which some are kept for these clients."""
        if not self._line:
            return
        for client in for_clients:
            self._serve_from_reserve(client)
        fresh = [p.claim.spec.captured_after_ns for p in self._line.places() if p.kind[2]]
        self._fresh_from_ns = min((ns for ns in fresh if ns is not None), default=FOREVER_NS)
        self._serve_line()

    def _serve_from_reserve(self, client: str) -> None:
        """Grant, in their order, claims of `client` that what is kept for it suffices for, whoever is ahead of it."""
        while (place := self._line.first_of(client)) is not None and not place.claim.granted.done():
            claimed = self._from_reserve(place.size, place.claim.spec, place.claim.pack, client)
            if claimed is None:
                return
            self._grant(place, claimed)

    def _serve_line(self) -> None:
        """Grant whatever can be granted, in turn; nobody gets bytes that someone ahead is waiting for."""
        promised: dict[Lane, int] = {}
        for place in self._line:
            if not _any_left(self._lanes.values(), promised):
                return
            waiting = place.claim
            if waiting.granted.done() or not self._any_for(waiting.spec):
                continue
            claimed = self._attempt(place.size, waiting.spec, waiting.pack, self._acceptable(*place.kind[:2]), promised)
            if claimed is None:
                self._promise(waiting.spec, promised)
            else:
                self._grant(place, claimed)

    def _serve_in_turn(self, newcomer: Place[_Kind, _Waiting]) -> None:
        """Grant one that has just joined what nobody ahead of it waits for. The others are where they were."""
        spec, lanes = newcomer.claim.spec, self._acceptable(*newcomer.kind[:2])
        if spec.captured_after_ns is not None:
            self._fresh_from_ns = min(self._fresh_from_ns, spec.captured_after_ns)
        promised: dict[Lane, int] = {}
        for place in self._line:
            if not _any_left(lanes, promised):
                return
            if place is newcomer:
                claimed = self._attempt(place.size, spec, place.claim.pack, lanes, promised)
                if claimed is not None:
                    self._grant(place, claimed)
                return
            if not place.claim.granted.done() and self._any_for(place.claim.spec):
                self._promise(place.claim.spec, promised)

    def _serve_soon(self) -> None:
        """Serve the line once those who leave it now have left."""
        if not self._serving_soon:
            self._serving_soon = True
            asyncio.get_running_loop().call_soon(self._serve_now)

    def _serve_now(self) -> None:
        self._serving_soon = False
        self._serve_line()

    def _grant(self, place: Place[_Kind, _Waiting], claimed: Claimed) -> None:
        self._line.serve(place)
        place.claim.granted.set_result(claimed)

    def _any_for(self, spec: ClaimSpec) -> bool:
        """Say whether there are bytes at all that `spec` could take."""
        from_ns = self._from_ns(spec)
        return any(
            lane.newest_capture_start_ns >= from_ns for lane in self._acceptable(spec.least_class, spec.processing)
        )

    def _promise(self, spec: ClaimSpec, promised: dict[Lane, int]) -> None:
        from_ns = self._from_ns(spec)
        for lane in self._acceptable(spec.least_class, spec.processing):
            promised[lane] = min(from_ns, promised.get(lane, FOREVER_NS))

    def _from_oldest(self, n: int, lanes: Iterable[Lane], pack: Pack) -> Claimed | None:
        """Take `n` bytes, whatever their age, out of one chunk or two; or nothing where that is not all there is to it.

        What `_attempt` does too, in few steps.
        """
        for lane in lanes:
            if lane.level >= n:
                expired_ns = self._clock.now_ns() - self._ttl_ns
                found = lane.front(n, expired_ns)
                if found is None:
                    return self._from_oldest_two(n, lane, expired_ns, pack)
                chunk, view = found
                label = chunk.label or label_of_one(chunk)
                data = pack((view,), label, n)
                lane.remove_front(chunk, view)
                self.counters.served += n
                self.counters.claims += 1
                return Claimed(data, label)
        return None

    def _from_oldest_two(self, n: int, lane: Lane, expired_ns: int, pack: Pack) -> Claimed | None:
        two = lane.oldest_two(n, expired_ns)
        if two is None:
            return None
        oldest, following = two
        label = label_of_two(oldest, following)
        all_of_it = oldest.front(n)
        front = following.front(n - len(all_of_it))
        data = pack((all_of_it, front), label, n)
        lane.remove_across(oldest, all_of_it, following, front)
        self.counters.served += n
        self.counters.claims += 1
        return Claimed(data, label)

    def _from_reserve(self, n: int, spec: ClaimSpec, pack: Pack, client: str) -> Claimed | None:
        """Take `n` bytes now of those that are kept for `client`, or nothing."""
        lanes = self._reservations.lanes_of(client, self._acceptable_keys(spec.least_class, spec.processing))
        return self._attempt(n, spec, pack, lanes, _NO_PROMISES)

    def _attempt(
        self, n: int, spec: ClaimSpec, pack: Pack, lanes: Iterable[Lane], promised: Mapping[Lane, int]
    ) -> Claimed | None:
        """Take `n` bytes of `lanes` now, or nothing. `promised` bounds each lane from above."""
        from_ns = self._from_ns(spec)
        expired_ns = self._clock.now_ns() - self._ttl_ns
        total = 0
        shares = []
        for lane in lanes:
            if not lane.level:
                continue
            self.counters.expired += lane.expire(expired_ns)
            share = lane.available(n - total, from_ns, promised.get(lane, FOREVER_NS))
            if share == n:
                return self._take([(lane, n)], from_ns, spec, pack)
            if spec.span_lanes and share:
                shares.append((lane, share))
                total += share
                if total == n:
                    return self._take(shares, from_ns, spec, pack)
        return None

    def _take(self, shares: list[tuple[Lane, int]], from_ns: int, spec: ClaimSpec, pack: Pack) -> Claimed:
        found = [lane.pieces(share, from_ns) for lane, share in shares]
        used, views, _, n = found[0]
        if len(found) > 1:
            used, views = [chunk for one in found for chunk in one.used], [view for one in found for view in one.views]
            n = sum(share for _, share in shares)
        label = label_of(used)
        ranges = tuple(map(Stored.range, used, map(len, views))) if spec.provenance else ()
        data = pack(views, label, n)
        for (lane, _), pieces in zip(shares, found, strict=True):
            lane.remove(pieces)
        self.counters.served += n
        self.counters.claims += 1
        return Claimed(data, label, ranges)

    def _from_ns(self, spec: ClaimSpec) -> int:
        """Return the earliest capture start that `spec` accepts."""
        from_ns = 0 if spec.captured_after_ns is None else spec.captured_after_ns + 1
        if spec.max_age_s is None:
            return from_ns
        return max(from_ns, self._clock.now_ns() - int(spec.max_age_s * NS_PER_S))

    # Time passes

    def look_ahead(self) -> None:
        """Take note of how fast bytes come and go; about once a second."""
        self.forecast.look(sum(self.entered.values()), self.counters.served)

    def expire(self) -> None:
        """Destroy what has passed the age limit."""
        self._expire(self._all_lanes())

    def _expire(self, lanes: Iterable[Lane]) -> None:
        before_ns = self._clock.now_ns() - self._ttl_ns
        for lane in lanes:
            if lane.level:
                self.counters.expired += lane.expire(before_ns)

    # Ends

    def drain(self) -> None:
        """Refuse every claim from now on, those in line included."""
        self._draining = True
        for place in self._line.places():
            _refuse(place.claim, DrainingError(ENDING))

    def wipe(self) -> None:
        """Overwrite everything that is left, and count it as dropped."""
        for lane in self._all_lanes():
            self.counters.dropped += lane.wipe()
        self._intake.reservoir.wipe()

    # Arithmetic

    def _excess(self, n: int, lanes: Iterable[Lane]) -> tuple[int, int]:
        """Return by how many bytes and chunks the pool of `lanes` would be over, with `n` bytes more in one chunk."""
        level, chunks = _contents(lanes)
        return (
            level + self._reserved_bytes + n - self.capacity,
            chunks + self._reserved_chunks + 1 - self._max_chunks,
        )

    def _find_displaceable(self, newcomer: SourceClass) -> tuple[Lane, ...]:
        return tuple(
            lane for (source_class, _), lane in self._lanes.items() if self._may_displace(newcomer, source_class)
        )

    def _may_displace(self, newcomer: SourceClass, source_class: SourceClass) -> bool:
        if source_class is newcomer:
            return self._overflow == "drop_oldest"
        return newcomer.at_least(source_class)

    def _displaceable_reserves(self, newcomer: SourceClass) -> tuple[Lane, ...]:
        """Return the lanes of single clients that a newcomer may displace, after all others."""
        return tuple(lane for (kept, _), lane in self._reservations.lanes() if self._may_displace(newcomer, kept))

    def _all_lanes(self) -> Iterable[Lane]:
        if not self._reservations:
            return self._lanes.values()
        return [*self._lanes.values(), *(lane for _, lane in self._reservations.lanes())]

    def _find_acceptable(self, least_class: SourceClass, processing: Processing | None) -> tuple[Lane, ...]:
        return tuple(self._lanes[key] for key in self._acceptable_keys(least_class, processing))

    def _find_acceptable_keys(self, least_class: SourceClass, processing: Processing | None) -> tuple[Key, ...]:
        return tuple(key for key in self._lanes if key[0].at_least(least_class) and processing in (None, key[1]))

    def _find_overlap(
        self, one: SourceClass, its: Processing | None, other: SourceClass, others: Processing | None
    ) -> bool:
        return not set(self._acceptable(one, its)).isdisjoint(self._acceptable(other, others))


_NO_PROMISES: Mapping[Lane, int] = {}
_PLAIN = ClaimSpec(SourceClass.SIMULATED)[2:]
"""What a claim demands that takes bytes of any age, out of one lane, and does not ask for more."""


def _future() -> asyncio.Future[Claimed]:
    return asyncio.get_running_loop().create_future()


def _contents(lanes: Iterable[Lane]) -> tuple[int, int]:
    """Return how many bytes and chunks `lanes` hold. Most are empty, most of the time."""
    level = chunks = 0
    for lane in lanes:
        if lane.level:
            level += lane.level
            chunks += len(lane)
    return level, chunks


def _any_left(lanes: Iterable[Lane], promised: dict[Lane, int]) -> bool:
    """Say whether any of `lanes` holds bytes that are not promised."""
    for lane in lanes:
        oldest_ns = lane.oldest_capture_start_ns
        if oldest_ns is not None and oldest_ns < promised.get(lane, FOREVER_NS):
            return True
    return False


def _refuse(waiting: _Waiting, error: Exception) -> None:
    if not waiting.granted.done():
        waiting.granted.set_exception(error)


@lru_cache(maxsize=_SHARED_ORIGINS)
def _shared_origin(label: BlockLabel, collector_id: str, key_id: str, epoch: int) -> Origin:
    """Return one object for equal origins, so that a thousand chunks cost one label."""
    return Origin(label, collector_id, ",".join(label.device_ids), key_id, epoch)
