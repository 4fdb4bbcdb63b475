"""The reservoir: bytes set aside for tests, which nobody claims.

Idea: a test must not take bytes from clients, and a tested byte must not be served. So the end of some chunks never
enters the pool: of all that arrives at most one byte in a hundred, counted exactly, while the reservoir has
room. What was not set aside while it was full is not made up for later, or the first chunks after a test
would go to the reservoir whole.

Bytes stay apart by class and processing, in the pool's own lanes, so that a sample is of one kind and its label
exact. Better kinds displace weaker ones, which would else fill it while the better are used up. They grow too old
as the pool's do. A sample is overwritten after its test, and every byte is accounted for:

    set aside = level + sampled + displaced + expired + purged + dropped
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from types import TracebackType
from typing import Final

from qrng_gateway.pool.lane import Lane, Stored
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import PoolShortError, UnsupportedError
from qrng_grpc.labels import BEST_FIRST, Processing, SourceClass

ONE_IN: Final = 100
"""Of so many bytes that arrive, at most one is set aside."""
RETRY_HINT_S = 10.0

_GRAIN_BYTES = 256
"""Bytes are set aside by so many or more, as far as chunks are larger: each portion costs some book-keeping."""
_GRAIN_CREDIT = _GRAIN_BYTES * ONE_IN
_MAX_DEVICES = 16


@dataclass(slots=True)
class ReservoirCounters:
    """Where bytes went since start."""

    set_aside: int = 0
    sampled: int = 0
    displaced: int = 0
    expired: int = 0
    purged: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class SampleLabel:
    """What the bytes of a sample are. Capture times, nanoseconds of Unix time: the first start and the last end."""

    source_class: SourceClass
    processing: Processing
    device_ids: tuple[str, ...]
    """Where they came from: at most 16, of each chunk all of its devices joined by commas."""
    capture_start_ns: int
    capture_end_ns: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes for one test. Used as a context, it is overwritten at the end; whoever needs a result takes it before."""

    data: bytearray = field(repr=False)
    label: SampleLabel

    def __len__(self) -> int:
        return len(self.data)

    def __enter__(self) -> Sample:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Overwrite the bytes."""
        self.data[:] = bytes(len(self.data))


class Reservoir:
    """At most `capacity` bytes, 0 for none at all, that grow too old after `ttl_s` seconds since capture start."""

    def __init__(self, capacity: int, *, ttl_s: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.capacity = capacity
        self.counters = ReservoirCounters()
        self._max_portions = max(1, capacity // _GRAIN_BYTES)
        self._ttl_ns = int(ttl_s * NS_PER_S)
        self._clock = clock
        # Bytes that arrived and do not count for what was set aside; each byte set aside takes a hundred of them.
        self._credit = 0
        # Best first, which is the order samples are taken in.
        self._lanes = {kind: Lane() for kind in product(BEST_FIRST, (Processing.NONE, Processing.MIXED))}

    @property
    def level(self) -> int:
        """Bytes in the reservoir, expired ones included until they are met."""
        return sum(lane.level for lane in self._lanes.values())

    # Bytes in

    def skim(self, chunk: Stored) -> int:
        """Set the end of an arriving `chunk` aside, cutting it off. Returns how many bytes.

        Must see every chunk that arrives, once. The number is 0 for most small chunks and below the
        length of the chunk for all.
        """
        size = len(chunk)
        self._credit += size
        if self._credit < _GRAIN_CREDIT:
            return 0
        label = chunk.origin.label
        lane = self._lanes[label.source_class, label.processing]
        portion = self._fitting(min(self._credit // ONE_IN, size - 1), lane)
        if portion:
            self._credit -= portion * ONE_IN
            self.counters.set_aside += portion
            lane.insert(chunk.cut_end(portion))
        self._credit = min(self._credit, _GRAIN_CREDIT)
        return portion

    def _fitting(self, wanted: int, lane: Lane) -> int:
        """Return how many of the `wanted` bytes fit, after what is worse than those of `lane` made way."""
        self.expire()
        for worse in reversed(self._lanes.values()):
            if worse is lane:
                break
            while worse.level and self._room() < wanted:
                self.counters.displaced += worse.drop_oldest()
        return min(wanted, self._room())

    def _room(self) -> int:
        level = portions = 0
        for lane in self._lanes.values():
            if lane.level:
                level += lane.level
                portions += len(lane)
        return self.capacity - level if portions < self._max_portions else 0

    # Bytes out

    def take(self, n: int, source_class: SourceClass | None = None, *, least: int = 1) -> Sample:
        """Take at most `n` bytes, the oldest, and not fewer than `least`, all of one class and processing.

        The class is the best there is, or `source_class`. Raises UnsupportedError when the reservoir is switched
        off, PoolShortError when it holds too little of the kind, ValueError unless 1 <= least <= n.
        """
        if not 1 <= least <= n:
            raise ValueError("a sample holds at least a byte")
        if not self.capacity:
            raise UnsupportedError("this gateway sets no bytes aside for tests")
        self.expire()
        for (lane_class, processing), lane in self._lanes.items():
            if lane.level >= least and source_class in (None, lane_class):
                used, data = lane.take(min(n, lane.level), 0)
                self.counters.sampled += len(data)
                return Sample(bytearray(data), _label(used, lane_class, processing))
        raise PoolShortError("too few bytes are set aside for tests", retry_after_s=RETRY_HINT_S)

    # Ends

    def expire(self) -> None:
        """Destroy what has passed the age limit."""
        before_ns = self._clock.now_ns() - self._ttl_ns
        for lane in self._lanes.values():
            if lane.level:
                self.counters.expired += lane.expire(before_ns)

    def purge(self, key_id: str) -> None:
        """Destroy what the key `key_id` vouched for, since nobody does any more."""
        self.counters.purged += sum(lane.purge(key_id) for lane in self._lanes.values())

    def wipe(self) -> None:
        """Overwrite everything that is left, and count it as dropped."""
        self.counters.dropped += sum(lane.wipe() for lane in self._lanes.values())


def _label(used: list[Stored], source_class: SourceClass, processing: Processing) -> SampleLabel:
    devices = tuple(dict.fromkeys(portion.origin.device_id for portion in used))
    return SampleLabel(
        source_class,
        processing,
        devices[:_MAX_DEVICES],
        min(portion.capture_start_ns for portion in used),
        max(portion.capture_end_ns for portion in used),
    )
