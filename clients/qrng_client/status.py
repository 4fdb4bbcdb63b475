"""A gateway's account of itself, as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qrng_client.entropy import BadReplyError
from qrng_grpc.labels import Condition, Processing, SourceClass
from qrng_grpc.v1 import chunk_pb2, entropy_pb2
from qrng_grpc.wire import CLASSES, CONDITIONS, PROCESSINGS

_Reply = entropy_pb2.GetStatusResponse


@dataclass(frozen=True, slots=True)
class Lane:
    """The bytes of one class and processing in the pool. None stands for a label this version does not know."""

    source_class: SourceClass | None
    processing: Processing | None
    pooled_bytes: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class Source:
    """A source, as its collector told. None stands for what this version does not know; bytes since its start."""

    device_id: str
    source_class: SourceClass | None
    condition: Condition | None
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a collector last told of itself. Dropped bytes are counted since it started."""

    arrived_ns: int
    """When, in nanoseconds of Unix time by the gateway's clock."""
    queued_bytes: int
    overflow_bytes: int
    expired_bytes: int
    in_doubt_bytes: int
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Collector:
    """What the gateway knows of one collector: the last chunk it took, and how long ago it was heard."""

    collector_id: str
    epoch: int
    sequence: int
    silent_s: float
    heartbeat: Heartbeat | None = None
    """None before the first since the gateway's start."""
    clock_skew_s: float | None = None
    """How far its clock seems to be behind the gateway's, negative when ahead; None before a chunk of it arrived."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A signing key the gateway knows. Times in nanoseconds of Unix time; None: not used since its start, no end."""

    key_id: str
    collector_id: str
    algorithm: str
    state: str
    """valid, not_yet_valid, expired or revoked; "unknown" for what this version does not know."""
    last_used_ns: int | None
    not_after_ns: int | None


@dataclass(frozen=True, slots=True)
class Accounting:
    """Where every byte went since the gateway started. At rest, stored is the sum of the eight below it."""

    stored_bytes: int
    served_bytes: int
    pooled_bytes: int
    expired_bytes: int
    overflow_bytes: int
    purged_bytes: int
    set_aside_bytes: int
    """For tests of quality; nobody can claim them."""
    conditioned_bytes: int
    """Used up by the gateway's conditioning: what went in less what came out."""
    dropped_at_shutdown_bytes: int
    refused_bytes: dict[str, int]
    """Bytes that never entered the pool, by reason."""
    duplicate_chunks: int


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The state of a gateway. `warnings` say in words what an operator should look at."""

    state: str
    """healthy, degraded or unhealthy; "unknown" for what this version does not know."""
    pool_id: str
    version: str
    uptime_s: float
    capacity_bytes: int
    pooled_bytes: int
    watermark: str
    """low, medium, high or critical; "unknown" for what this version does not know."""
    lanes: tuple[Lane, ...]
    collectors: tuple[Collector, ...]
    accounting: Accounting
    served_claims: int
    waiting_claims: int
    warnings: tuple[str, ...]
    keys: tuple[SigningKey, ...]
    inflow_bytes_per_s: float
    """What entered the pool lately."""
    outflow_bytes_per_s: float
    """What was claimed lately."""
    reserved_bytes: int
    """Of those pooled, what is kept for single clients; lanes do not show it."""
    forecast_s: float | None
    """In how many seconds the pool is empty if both go on as they do; None while it does not get emptier."""


def read_status(reply: _Reply | None) -> GatewayStatus:
    """Return `reply` as values. Raises BadReplyError for None, which grpc makes of what it cannot read."""
    if reply is None:
        raise BadReplyError("the server answered no readable message")
    return GatewayStatus(
        state=_name(_Reply.State.items(), reply.state, "STATE_"),
        pool_id=reply.pool_id,
        version=reply.version,
        uptime_s=reply.uptime_seconds,
        capacity_bytes=reply.capacity_bytes,
        pooled_bytes=reply.pooled_bytes,
        watermark=_name(_Reply.Watermark.items(), reply.watermark, "WATERMARK_"),
        lanes=tuple(_lane(lane) for lane in reply.lanes),
        collectors=tuple(_collector(collector) for collector in reply.collectors),
        accounting=_accounting(reply.accounting),
        served_claims=reply.served_claims,
        waiting_claims=reply.waiting_claims,
        warnings=tuple(reply.warnings),
        keys=tuple(_key(key) for key in reply.keys),
        inflow_bytes_per_s=reply.inflow_bytes_per_second,
        outflow_bytes_per_s=reply.outflow_bytes_per_second,
        reserved_bytes=reply.reserved_bytes,
        forecast_s=reply.forecast_seconds_left if reply.HasField("forecast_seconds_left") else None,
    )


def _lane(lane: entropy_pb2.LaneStatus) -> Lane:
    source_class, processing = CLASSES.from_proto(lane.source_class), PROCESSINGS.from_proto(lane.processing)
    return Lane(source_class, processing, lane.pooled_bytes, lane.oldest_age_seconds)


def _collector(collector: entropy_pb2.CollectorStatus) -> Collector:
    heartbeat = _heartbeat(collector) if collector.last_heartbeat_ns else None
    return Collector(
        collector_id=collector.collector_id,
        epoch=collector.epoch,
        sequence=collector.sequence,
        silent_s=collector.silent_seconds,
        heartbeat=heartbeat,
        clock_skew_s=collector.clock_skew_seconds if collector.HasField("clock_skew_seconds") else None,
    )


def _heartbeat(collector: entropy_pb2.CollectorStatus) -> Heartbeat:
    return Heartbeat(
        arrived_ns=collector.last_heartbeat_ns,
        queued_bytes=collector.queued_bytes,
        overflow_bytes=collector.overflow_bytes,
        expired_bytes=collector.expired_bytes,
        in_doubt_bytes=collector.in_doubt_bytes,
        sources=tuple(_source(source) for source in collector.sources),
    )


def _source(source: chunk_pb2.SourceState) -> Source:
    source_class, condition = CLASSES.from_proto(source.source_class), CONDITIONS.from_proto(source.condition)
    return Source(source.device_id, source_class, condition, source.fetched_bytes)


def _key(key: entropy_pb2.KeyStatus) -> SigningKey:
    return SigningKey(
        key_id=key.key_id,
        collector_id=key.collector_id,
        algorithm=key.algorithm,
        state=_name(entropy_pb2.KeyStatus.State.items(), key.state, "STATE_"),
        last_used_ns=key.last_used_ns or None,
        not_after_ns=key.not_after_ns or None,
    )


def _accounting(accounting: entropy_pb2.Accounting) -> Accounting:
    return Accounting(
        stored_bytes=accounting.stored_bytes,
        served_bytes=accounting.served_bytes,
        pooled_bytes=accounting.pooled_bytes,
        expired_bytes=accounting.expired_bytes,
        overflow_bytes=accounting.overflow_bytes,
        purged_bytes=accounting.purged_bytes,
        set_aside_bytes=accounting.set_aside_bytes,
        conditioned_bytes=accounting.conditioned_bytes,
        dropped_at_shutdown_bytes=accounting.dropped_at_shutdown_bytes,
        refused_bytes={refused.reason: refused.refused_bytes for refused in accounting.refused},
        duplicate_chunks=accounting.duplicate_chunks,
    )


def _name(members: Iterable[tuple[str, int]], number: int, prefix: str) -> str:
    name = next((name for name, value in members if value == number), "").removeprefix(prefix).lower()
    return name if name not in ("", "unspecified") else "unknown"
