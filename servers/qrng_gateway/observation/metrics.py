"""What the gateway counts, as Prometheus text for `/metrics`.

Idea: nobody reports to the metrics; they look. The parts keep plain integers anyway, `CallCounts` the one
kind that nobody else does, and observable instruments of OpenTelemetry read them when somebody asks. A call
pays for two dictionary look-ups, a bisection and three additions. Asked, we take one snapshot on the event
loop, so that the accounting adds up to the byte in what is shown, and make the text of it in a worker thread. The text
serves whoever asks within the next quarter of a second: `/metrics` needs no key, and must cost a flood of
readers nothing.

Latencies are a histogram, and OpenTelemetry has no observable one: its own would be fed by each call, at
12 to 20 microseconds. What its specification has for such a case, a *metric producer* whose ready-made metrics join
those of a reader when it collects, the SDK for Python lacks. So `_Reader` does the same at the
place the SDK names for readers of one's own, `_receive_metrics`: it adds a scope with our histogram, made of the
SDK's public types, to each collection, and everything behind it takes it as any other. The same few lines
would do for a reader that exports elsewhere.

Nothing is global: each gateway has a provider, a reader and a registry of its own. Label values are bounded:
methods and statuses come from fixed tables (anything else is `other`), classes and the like from our enums, ids of
collectors and signing keys from the key records. Clients are no label; the audit log knows them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from http import HTTPStatus
from itertools import islice, product
from typing import Any, Literal

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider, ObservableCounter, ObservableGauge
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from qrng_gateway.admission.audit import AuditLog
from qrng_gateway.link.ingest import Ingest
from qrng_gateway.observation.status import Accounting, CollectorStatus, GatewayStatus, Observer, State
from qrng_grpc import __version__
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_grpc.keys import KeyState
from qrng_grpc.labels import BEST_FIRST, Condition, Processing
from qrng_grpc.v1 import entropy_pb2, push_pb2

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""What the text is, for the header of that name."""
OTHER = "other"
"""The label value of a method or status that is in no table."""
LATENCY_BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0),
)
"""Upper bounds of the buckets, in seconds: a call of ours in the first, a long stream in the last."""
MAX_IDS = 1000
"""Collectors, and signing keys, that are shown at most."""
_MAX_SERIES = 10_000
"""Combinations of labels of one metric in a gateway's life, beyond which OpenTelemetry would lump them together."""
FRESH_NS = NS_PER_S // 4
"""How long a text serves whoever asks, in nanoseconds."""

_SERVICES = (entropy_pb2, push_pb2, qr_entropy_pb2, quantum_rng_pb2, health_pb2, reflection_pb2)
_ROUTES = (
    "GET /api/random",
    "GET /api/integers",
    "GET /api/floats",
    "GET /api/uuid",
    "GET /api/status",
    "GET /api/test/monte-carlo",
    "POST /api/test/monte-carlo",
    "GET /health",
    "GET /health/live",
    "GET /metrics",
    "GET /openapi.json",
    "GET /docs",
)
METHODS = (
    *(
        f"{service.full_name}/{method.name}"
        for module in _SERVICES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ),
    *_ROUTES,
)
"""What is counted under a name of its own: gRPC methods by their full name, REST by verb and path."""
_STATUSES = frozenset(code.name for code in grpc.StatusCode) | frozenset(str(code.value) for code in HTTPStatus)
_NOT_REMOVED = ("stored", "pooled", "refused", "duplicates")
_FATES = tuple(field.name for field in fields(Accounting) if field.name not in _NOT_REMOVED)
"""What became of bytes that have left the pool: whatever the accounting has besides these four."""
_REFUSALS = ("malformed", "before_start", "too_old", "too_large", "bad_crc", "corrupt", "repeated")
"""Reasons that are shown before they ever occur, so that the first occurrence is seen as a rise."""
_SCOPE = InstrumentationScope("qrng_gateway", __version__)


@dataclass(frozen=True, slots=True)
class CallRow:
    """The calls of one method: how many by status, how many by bucket of duration, and their seconds in all."""

    method: str
    statuses: dict[str, int]
    buckets: tuple[int, ...]
    seconds: float


class _Tally:
    """One row while it is counted."""

    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self.buckets = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.seconds = 0.0


class CallCounts:
    """How calls ended, by method and status, and how long they took. `methods` are those with rows of their own."""

    def __init__(self, methods: Iterable[str] = METHODS) -> None:
        self._other = _Tally()
        self._tallies = {method: _Tally() for method in methods}

    def note(self, method: str, status: str, seconds: float) -> None:
        """Count a call of `method` that ended after `seconds`.

        `status` is the name of a gRPC status (`OK`) or the number of an HTTP one (`200`).
        """
        tally = self._tallies.get(method, self._other)
        statuses = tally.statuses
        try:
            statuses[status] += 1
        except KeyError:
            known = status if status in _STATUSES else OTHER
            statuses[known] = statuses.get(known, 0) + 1
        tally.buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
        tally.seconds += seconds

    def rows(self) -> list[CallRow]:
        """Return what was counted, for each method that was ever called."""
        return [
            CallRow(method, dict(tally.statuses), tuple(tally.buckets), tally.seconds)
            for method, tally in (*self._tallies.items(), (OTHER, self._other))
            if tally.statuses
        ]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is shown, at one moment."""

    status: GatewayStatus
    held: Mapping[str, int]
    heartbeats: int
    calls: tuple[CallRow, ...]
    audit_lost: int

    @property
    def collectors(self) -> Iterator[tuple[CollectorStatus, dict[str, str]]]:
        """The collectors that are shown, with the label that names each."""
        for collector in islice(self.status.collectors, MAX_IDS):
            yield collector, {"collector_id": collector.collector_id}


Row = tuple[float, dict[str, str]]
"""A value and its labels."""
Read = Callable[[Snapshot], Iterable[Row]]


@dataclass(frozen=True, slots=True)
class Shown:
    """One metric: its name and unit as OpenTelemetry has them, and how it is read from a snapshot.

    The text has dots as underscores, the unit written out behind the name, and `_total` behind a counter.
    """

    kind: Literal["counter", "gauge"]
    name: str
    unit: str
    description: str
    read: Read


def _one(read: Callable[[Snapshot], float]) -> Read:
    """Make a metric without labels of one value."""
    return lambda snapshot: [(read(snapshot), {})]


def _removed(snapshot: Snapshot) -> Iterator[Row]:
    for fate in _FATES:
        yield getattr(snapshot.status.accounting, fate), {"fate": fate}


def _refused(snapshot: Snapshot) -> Iterator[Row]:
    for reason, size in {**dict.fromkeys(_REFUSALS, 0), **snapshot.status.accounting.refused}.items():
        yield size, {"reason": reason}


def _held(snapshot: Snapshot) -> Iterator[Row]:
    for reason, times in snapshot.held.items():
        yield times, {"reason": reason}


def _lane_levels(snapshot: Snapshot) -> Iterator[Row]:
    levels = {(lane.source_class, lane.processing): lane.pooled for lane in snapshot.status.lanes}
    for source_class, processing in product(BEST_FIRST, Processing):
        labels = {"source_class": source_class.value, "processing": processing.value}
        yield levels.get((source_class, processing), 0), labels


def _lane_ages(snapshot: Snapshot) -> Iterator[Row]:
    for lane in snapshot.status.lanes:
        yield lane.oldest_age_s, {"source_class": lane.source_class.value, "processing": lane.processing.value}


def _last_arrival(snapshot: Snapshot) -> Iterator[Row]:
    if snapshot.status.last_arrival_ns is not None:
        yield snapshot.status.last_arrival_ns / NS_PER_S, {}


def _silences(snapshot: Snapshot) -> Iterator[Row]:
    for collector, labels in snapshot.collectors:
        yield collector.silent_s, labels


def _queued(snapshot: Snapshot) -> Iterator[Row]:
    for collector, labels in snapshot.collectors:
        if collector.heartbeat is not None:
            yield collector.heartbeat.queued, labels


def _lost_at_collectors(snapshot: Snapshot) -> Iterator[Row]:
    for collector, labels in snapshot.collectors:
        if collector.heartbeat is not None:
            for fate in ("overflow", "expired", "in_doubt"):
                yield getattr(collector.heartbeat, fate), {**labels, "fate": fate}


def _sources(snapshot: Snapshot) -> Iterator[Row]:
    for collector, labels in snapshot.collectors:
        if collector.heartbeat is not None:
            conditions = Counter(source.condition for source in collector.heartbeat.sources)
            for condition in Condition:
                yield conditions[condition], {**labels, "condition": condition.value}


def _key_uses(snapshot: Snapshot) -> Iterator[Row]:
    for key in islice(snapshot.status.keys, MAX_IDS):
        if key.last_used_ns is not None:
            yield key.last_used_ns / NS_PER_S, {"key_id": key.key_id, "collector_id": key.collector_id}


def _key_ends(snapshot: Snapshot) -> Iterator[Row]:
    for key in islice(snapshot.status.keys, MAX_IDS):
        if key.not_after_ns is not None:
            yield key.not_after_ns / NS_PER_S, {"key_id": key.key_id, "collector_id": key.collector_id}


def _key_validity(snapshot: Snapshot) -> Iterator[Row]:
    for key in islice(snapshot.status.keys, MAX_IDS):
        valid = key.state is KeyState.VALID
        yield int(valid), {"key_id": key.key_id, "collector_id": key.collector_id}


def _calls(snapshot: Snapshot) -> Iterator[Row]:
    for row in snapshot.calls:
        for status, times in row.statuses.items():
            yield times, {"method": row.method, "status": status}


SHOWN = (
    Shown("counter", "qrng.pool.stored", "By", "Bytes stored.", _one(lambda s: s.status.accounting.stored)),
    Shown("counter", "qrng.pool.removed", "By", "Bytes that left the pool, by what became of them.", _removed),
    Shown("gauge", "qrng.pool.level", "By", "Bytes in the pool.", _one(lambda s: s.status.accounting.pooled)),
    Shown("gauge", "qrng.pool.capacity", "By", "Bytes the pool can hold.", _one(lambda s: s.status.capacity)),
    Shown("gauge", "qrng.pool.lane.level", "By", "Bytes in the pool, by class and processing.", _lane_levels),
    Shown("gauge", "qrng.pool.lane.oldest_age", "s", "Age of the oldest byte, from its capture start.", _lane_ages),
    Shown("gauge", "qrng.pool.last_arrival.timestamp", "s", "When bytes were last stored, Unix time.", _last_arrival),
    Shown("counter", "qrng.pool.claims", "{claim}", "Claims served.", _one(lambda s: s.status.served_claims)),
    Shown("gauge", "qrng.pool.waiting_claims", "{claim}", "Claims in line.", _one(lambda s: s.status.waiting_claims)),
    Shown("counter", "qrng.ingest.refused", "By", "Bytes of chunks finally refused, by reason.", _refused),
    Shown("counter", "qrng.ingest.held_chunks", "{chunk}", "Times a chunk was held, by reason.", _held),
    Shown(
        "counter",
        "qrng.ingest.duplicate_chunks",
        "{chunk}",
        "Chunks that had been taken before.",
        _one(lambda s: s.status.accounting.duplicates),
    ),
    Shown("counter", "qrng.ingest.heartbeats", "{chunk}", "Heartbeats taken.", _one(lambda s: s.heartbeats)),
    Shown("gauge", "qrng.collector.silence", "s", "Time since a collector was last heard.", _silences),
    Shown("gauge", "qrng.collector.queued", "By", "Bytes in a collector's queue, by its last heartbeat.", _queued),
    Shown(
        "counter",
        "qrng.collector.lost",
        "By",
        "Bytes a collector has lost since it started, by its last heartbeat.",
        _lost_at_collectors,
    ),
    Shown("gauge", "qrng.collector.sources", "{source}", "Sources of a collector, by condition.", _sources),
    Shown("gauge", "qrng.signing_key.last_used.timestamp", "s", "When a key was last used, Unix time.", _key_uses),
    Shown("gauge", "qrng.signing_key.not_after.timestamp", "s", "When a key ends, Unix time.", _key_ends),
    Shown("gauge", "qrng.signing_key.valid", "1", "Whether a key may be used now.", _key_validity),
    Shown("counter", "qrng.calls", "{call}", "Calls that ended, by method and status.", _calls),
    Shown("counter", "qrng.audit.lost_entries", "{entry}", "Audit entries lost.", _one(lambda s: s.audit_lost)),
    Shown(
        "gauge",
        "qrng.gateway.ready",
        "1",
        "Whether a client may expect bytes.",
        _one(lambda s: int(s.status.state is not State.UNHEALTHY)),
    ),
    Shown("gauge", "qrng.gateway.warnings", "{warning}", "Warnings in status.", _one(lambda s: len(s.status.warnings))),
)
"""Every metric that is read by an observable instrument."""


class Metrics:
    """The metrics of one gateway. `close` when it ends."""

    def __init__(
        self,
        observer: Observer,
        ingest: Ingest,
        calls: CallCounts,
        audit: AuditLog | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._observer = observer
        self._ingest = ingest
        self._calls = calls
        self._audit = audit
        self._clock = clock
        self._snapshot = self.look()
        self._taken_ns = 0
        self._text: asyncio.Future[bytes] | None = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._provider = MeterProvider(
            [_Reader(self._registry, self._latencies)],
            resource=Resource({"service.name": "qrng-gateway", "service.version": __version__}),
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,  # a global hook, and `close` does it
        )
        self._instrument()

    async def text(self) -> bytes:
        """Return the Prometheus text, at most a quarter of a second old. Cancelled, it leaves it to be finished."""
        now_ns = self._clock.monotonic_ns()
        if self._text is None or (self._text.done() and now_ns - self._taken_ns > FRESH_NS):
            self._taken_ns = now_ns
            self._snapshot = self.look()  # nobody reads the last one any more: its text is done
            self._text = asyncio.get_running_loop().run_in_executor(None, generate_latest, self._registry)
        return await asyncio.shield(self._text)

    def look(self) -> Snapshot:
        """Take a snapshot. To be called where the gateway runs, which changes all this."""
        return Snapshot(
            self._observer.status(),
            dict(self._ingest.held),
            self._ingest.heartbeats,
            tuple(self._calls.rows()),
            0 if self._audit is None else self._audit.lost,
        )

    def close(self) -> None:
        """Let go of the instruments."""
        self._provider.shutdown()

    def _instrument(self) -> None:
        meter = self._provider.get_meter(_SCOPE.name, _SCOPE.version)
        make = {"counter": meter.create_observable_counter, "gauge": meter.create_observable_gauge}
        for shown in SHOWN:
            make[shown.kind](shown.name, [self._observing(shown.read)], unit=shown.unit, description=shown.description)

    def _observing(self, read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _options: [Observation(value, labels) for value, labels in read(self._snapshot)]

    def _latencies(self) -> Metric:
        return Metric(
            "qrng.call.duration",
            "From when a call was taken until its answer was handed over; of a stream, until it ended.",
            "s",
            Histogram([_point(row) for row in self._snapshot.calls], AggregationTemporality.CUMULATIVE),
        )


class _Reader(PrometheusMetricReader):
    """A reader for `registry` to whose every collection joins what `produce` returns."""

    def __init__(self, registry: CollectorRegistry, produce: Callable[[], Metric]) -> None:
        super().__init__(
            scope_info_enabled=False,
            registry=registry,
            cardinality_limits={ObservableCounter: _MAX_SERIES, ObservableGauge: _MAX_SERIES},
        )
        self._produce = produce

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        (collected,) = metrics_data.resource_metrics
        produced = ScopeMetrics(_SCOPE, [self._produce()], "")
        joined = ResourceMetrics(collected.resource, [*collected.scope_metrics, produced], collected.schema_url)
        super()._receive_metrics(MetricsData([joined]), timeout_millis, **kwargs)


def _point(row: CallRow) -> HistogramDataPoint:
    """Return a row as OpenTelemetry has it. Prometheus asks for no times, minimum and maximum."""
    return HistogramDataPoint(
        attributes={"method": row.method},
        start_time_unix_nano=0,
        time_unix_nano=0,
        count=sum(row.buckets),
        sum=row.seconds,
        bucket_counts=row.buckets,
        explicit_bounds=LATENCY_BOUNDS_S,
        min=0.0,
        max=0.0,
    )
