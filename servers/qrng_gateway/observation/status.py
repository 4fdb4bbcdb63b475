"""How the gateway does: one snapshot for GetStatus, `/api/status`, health and the accounting line.

Idea: nobody reports to the observer; it looks. Counters are plain integers that the pool and the
ingest keep anyway, and once a second `tick` notes how far they have come, which is enough to tell
when bytes last arrived and how many claims a second are served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from qrng_gateway.link.ingest import CollectorView, Ingest
from qrng_gateway.link.inspection import CORRUPT, REPEATED
from qrng_gateway.pool.forecast import Forecast
from qrng_gateway.pool.lane import FOREVER_NS
from qrng_gateway.pool.pool import Pool
from qrng_grpc import __version__
from qrng_grpc.chunk import Heartbeat
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.keys import Algorithm, KeyState
from qrng_grpc.labels import Condition, Processing, SourceClass

ARRIVING_S = 5.0
"""Bytes that arrived at most this long ago count as arriving."""
SILENT_S = 30.0
"""A collector that has not been heard for longer, by data or heartbeat, is worth a warning."""
SPOILT_S = 3600.0
"""How long chunks that were refused as corrupt or repeated are worth one."""
KEY_ENDS_SOON_S = 7 * 86_400.0
"""A signing key in use that ends sooner is worth a warning."""
SHORT_S = 60.0
"""A pool that is forecast to be empty sooner is worth a warning."""
RATE_WINDOW_S = 60
"""Over how long claims per second are averaged."""


class State(Enum):
    """How the gateway does."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Watermark(Enum):
    """How full the pool is: below 10 %, up to 80 %, up to 95 %, above."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Accounting:
    """Where every byte went since start; `duplicates` are chunks.

    At rest stored = served + pooled + expired + overflow + purged + set_aside + conditioned + dropped_at_shutdown.
    """

    stored: int
    served: int
    pooled: int
    expired: int
    overflow: int
    purged: int
    set_aside: int
    """For tests of quality; nobody claims them."""
    conditioned: int
    """Used up by conditioning: what went in less what came out."""
    dropped_at_shutdown: int
    refused: dict[str, int]
    duplicates: int


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """The bytes of one class and processing; the age is that of the oldest, in seconds since capture start."""

    source_class: SourceClass
    processing: Processing
    pooled: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class CollectorStatus:
    """A collector that has been heard, how many seconds ago, and what its last heartbeat said.

    The heartbeat's arrival is in nanoseconds of Unix time; both are None before the first.
    """

    collector_id: str
    epoch: int
    sequence: int
    silent_s: float
    heartbeat: Heartbeat | None
    last_heartbeat_ns: int | None
    clock_skew_s: float | None = None
    """How far its clock seems to be behind ours; see `CollectorView`."""


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """A signing key. Times in nanoseconds of Unix time; None: not used since start, without end."""

    key_id: str
    collector_id: str
    algorithm: Algorithm
    state: KeyState
    last_used_ns: int | None
    not_after_ns: int | None


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """One look at the gateway. `capacity` in bytes; the arrival is that of the last stored bytes, in
    nanoseconds of Unix time and as seconds since, None before any.
    """

    state: State
    pool_id: str
    uptime_s: float
    version: str
    capacity: int
    watermark: Watermark
    lanes: tuple[LaneStatus, ...]
    collectors: tuple[CollectorStatus, ...]
    keys: tuple[KeyStatus, ...]
    accounting: Accounting
    served_claims: int
    waiting_claims: int
    claims_per_s: float
    inflow: float
    outflow: float
    """Bytes a second that were stored and claimed lately."""
    reserved: int
    """Bytes of the pool that are kept for single clients; lanes do not show them."""
    seconds_left: float | None
    """When the pool is empty if both go on as they do; None while it does not get emptier."""
    last_arrival_ns: int | None
    freshness_s: float | None
    warnings: tuple[str, ...]


def watermark(level: int, capacity: int) -> Watermark:
    """Return the watermark of a pool that holds `level` of `capacity` bytes."""
    percent = 100 * level / capacity
    if percent < 10:
        return Watermark.LOW
    if percent <= 80:
        return Watermark.MEDIUM
    return Watermark.HIGH if percent <= 95 else Watermark.CRITICAL


def _state(ready: bool, warnings: tuple[str, ...]) -> State:
    if not ready:
        return State.UNHEALTHY
    return State.DEGRADED if warnings else State.HEALTHY


class Observer:
    """Looks at `pool` and `ingest`. `least_class` is the weakest class anyone is served here.

    The gateway is ready while so many bytes can be claimed, or so many a second arrive. `more_warnings` is asked for
    those of parts that the observer does not know.
    """

    def __init__(
        self,
        pool: Pool,
        ingest: Ingest,
        *,
        pool_id: str,
        least_class: SourceClass,
        ready_bytes: int = 1,
        ready_bytes_per_s: float = 0,
        more_warnings: Callable[[], Iterable[str]] = tuple,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._pool = pool
        self._ingest = ingest
        self._pool_id = pool_id
        self._least_class = least_class
        self._ready_bytes = ready_bytes
        self._ready_bytes_per_s = ready_bytes_per_s
        self._more_warnings = more_warnings
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._claims: deque[tuple[int, int]] = deque([(self._started_ns, 0)])
        # Of what may be served here: weaker bytes, and those used up on the way in, make nobody ready.
        self._entered = 0
        self._arrivals = Forecast(clock)
        self._arrived_ns: int | None = None
        self._spoilt = 0
        self._spoilt_ns: int | None = None
        self._draining = False

    def tick(self) -> None:
        """Note what changed since the last look. Called once a second, and before each status."""
        now_ns = self._clock.monotonic_ns()
        entered = sum(n for kind, n in self._pool.entered.items() if kind.at_least(self._least_class))
        self._arrivals.look(entered, 0)
        if entered != self._entered:
            self._entered = entered
            self._arrived_ns = now_ns
        if self._refused_as_spoilt() != self._spoilt:
            self._spoilt = self._refused_as_spoilt()
            self._spoilt_ns = now_ns
        if now_ns - self._claims[-1][0] >= NS_PER_S:
            self._claims.append((now_ns, self._pool.counters.claims))
        while now_ns - self._claims[0][0] > RATE_WINDOW_S * NS_PER_S and len(self._claims) > 1:
            self._claims.popleft()

    def drain(self) -> None:
        """Say from now on that the gateway ends."""
        self._draining = True

    @property
    def draining(self) -> bool:
        """Whether the gateway ends."""
        return self._draining

    @property
    def ready(self) -> bool:
        """Whether a client may expect bytes: enough can be claimed, or they arrive fast enough."""
        if self._draining:
            return False
        self._pool.expire()
        self.tick()
        return self._pool.claimable(self._least_class) >= self._ready_bytes or self._arriving()

    def _arriving(self) -> bool:
        fast_enough = self._arrivals.inflow >= self._ready_bytes_per_s
        return fast_enough and self._seconds_since(self._arrived_ns) <= ARRIVING_S

    def status(self) -> GatewayStatus:
        """Take a snapshot."""
        ready = self.ready
        collectors = self._collectors()
        warnings = self._warnings(collectors)
        return GatewayStatus(
            state=_state(ready, warnings),
            pool_id=self._pool_id,
            uptime_s=self._seconds_since(self._started_ns),
            version=__version__,
            capacity=self._pool.capacity,
            watermark=watermark(self._pool.level, self._pool.capacity),
            lanes=self._lanes(),
            collectors=collectors,
            keys=self._keys(),
            accounting=self.accounting(),
            served_claims=self._pool.counters.claims,
            waiting_claims=self._pool.waiting,
            claims_per_s=self._claims_per_s(),
            inflow=self._pool.forecast.inflow,
            outflow=self._pool.forecast.outflow,
            reserved=self._pool.reserved,
            seconds_left=self._pool.forecast.seconds_left(self._pool.level),
            last_arrival_ns=self._last_arrival_ns(),
            freshness_s=None if self._arrived_ns is None else self._seconds_since(self._arrived_ns),
            warnings=warnings,
        )

    def accounting(self) -> Accounting:
        """Say where every byte went."""
        counters = self._pool.counters
        return Accounting(
            stored=counters.stored,
            served=counters.served,
            pooled=self._pool.level,
            expired=counters.expired,
            overflow=counters.overflow,
            purged=counters.purged,
            set_aside=counters.set_aside,
            conditioned=counters.conditioned,
            dropped_at_shutdown=counters.dropped,
            refused=dict(self._ingest.refused),
            duplicates=self._ingest.duplicates,
        )

    def _lanes(self) -> tuple[LaneStatus, ...]:
        now_ns = self._clock.now_ns()
        return tuple(
            LaneStatus(
                lane.source_class,
                lane.processing,
                lane.level,
                max(0.0, (now_ns - lane.oldest_capture_start_ns) / NS_PER_S),
            )
            for lane in self._pool.lanes()
        )

    def _collectors(self) -> tuple[CollectorStatus, ...]:
        return tuple(map(self._collector, self._ingest.collectors()))

    def _collector(self, view: CollectorView) -> CollectorStatus:
        return CollectorStatus(
            view.collector_id,
            view.epoch,
            view.sequence,
            self._seconds_since(view.last_heard_monotonic_ns),
            view.heartbeat,
            None if view.heartbeat is None else self._unix_ns(view.heartbeat_monotonic_ns),
            view.clock_skew_s,
        )

    def _refused_as_spoilt(self) -> int:
        return self._ingest.refused[CORRUPT] + self._ingest.refused[REPEATED]

    def _keys(self) -> tuple[KeyStatus, ...]:
        ring, now_ns = self._ingest.keys, self._clock.now_ns()
        last_used_ns = ring.last_used_ns()
        return tuple(
            KeyStatus(
                record.key_id,
                record.collector_id,
                record.algorithm,
                record.state_at(now_ns),
                last_used_ns.get(record.key_id),
                record.not_after_ns,
            )
            for record in ring.records
        )

    def _key_warnings(self) -> Iterator[str]:
        """Yield a warning for each collector that cannot sign, or soon cannot, with the key that it signs with."""
        if self._ingest.keys_stale:
            yield "the file of signing keys cannot be used; the last usable keys stay in force"
        by_collector: dict[str, list[KeyStatus]] = {}
        for key in self._keys():
            by_collector.setdefault(key.collector_id, []).append(key)
        for collector_id, keys in by_collector.items():
            if all(key.state is not KeyState.VALID for key in keys):
                yield f"collector {collector_id} has no signing key that is valid"
                continue
            used = max(keys, key=lambda key: (key.last_used_ns or 0, key.not_after_ns or FOREVER_NS))
            if used.not_after_ns is not None and used.state in (KeyState.VALID, KeyState.EXPIRED):
                left_s = (used.not_after_ns - self._clock.now_ns()) / NS_PER_S
                if left_s <= KEY_ENDS_SOON_S:
                    when = f"ends in {left_s / 86_400:.1f} days" if left_s > 0 else "has ended"
                    yield f"signing key {used.key_id} of collector {collector_id} {when}"

    def _warnings(self, collectors: tuple[CollectorStatus, ...]) -> tuple[str, ...]:
        warnings = []
        level, capacity = self._pool.level, self._pool.capacity
        if self._draining:
            warnings.append("the gateway is ending")
        if not level:
            warnings.append("the pool is empty")
        elif watermark(level, capacity) is Watermark.LOW:
            warnings.append("the pool is low: below 10 %")
        lanes = self._pool.lanes()
        if lanes and not any(lane.source_class.at_least(self._least_class) for lane in lanes):
            warnings.append(f"all bytes in the pool are weaker than {self._least_class.value}, the least_class here")
        left_s = self._pool.forecast.seconds_left(level)
        if level and left_s is not None and left_s < SHORT_S:
            warnings.append(f"the pool will be empty in {left_s:.0f} s at this rate")
        if not collectors:
            warnings.append("no collector has been heard since start")
        silent = [collector for collector in collectors if collector.silent_s > SILENT_S]
        warnings += [f"collector {c.collector_id} has been silent for {c.silent_s:.0f} s" for c in silent]
        warnings += _quarantined(collectors)
        if self._seconds_since(self._spoilt_ns) <= SPOILT_S:
            warnings.append("chunks with damaged or repeated data were refused within the last hour")
        # Under back-pressure a full pool takes nothing in, which is no reason to worry.
        stale_s = self._seconds_since(self._arrived_ns)
        if SILENT_S < stale_s < float("inf") and watermark(level, capacity) is not Watermark.CRITICAL:
            warnings.append(f"no bytes have arrived for {stale_s:.0f} s")
        warnings += self._key_warnings()
        warnings += self._more_warnings()
        return tuple(warnings)

    def _claims_per_s(self) -> float:
        since_ns, claims = self._claims[0]
        return (self._pool.counters.claims - claims) / max(1.0, self._seconds_since(since_ns))

    def _last_arrival_ns(self) -> int | None:
        return None if self._arrived_ns is None else self._unix_ns(self._arrived_ns)

    def _unix_ns(self, monotonic_ns: int) -> int:
        return self._clock.now_ns() - (self._clock.monotonic_ns() - monotonic_ns)

    def _seconds_since(self, monotonic_ns: int | None) -> float:
        if monotonic_ns is None:
            return float("inf")
        return (self._clock.monotonic_ns() - monotonic_ns) / NS_PER_S


def _quarantined(collectors: tuple[CollectorStatus, ...]) -> list[str]:
    return [
        f"source {source.device_id} of collector {collector.collector_id} is in quarantine"
        for collector in collectors
        if collector.heartbeat is not None
        for source in collector.heartbeat.sources
        if source.condition is Condition.QUARANTINED
    ]
