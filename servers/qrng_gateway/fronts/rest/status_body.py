"""The gateway's state as `/api/status` tells it.

Idea: the first names are those that legacy clients read; the others say what `GetStatus` does. Times are ISO 8601 in
UTC, durations in seconds, sizes in bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from qrng_gateway.observation.status import CollectorStatus, GatewayStatus, KeyStatus, LaneStatus
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.keys import ALGORITHM_NAMES


def status_body(status: GatewayStatus) -> dict[str, Any]:
    """Return the JSON body for `status`."""
    return _for_legacy_clients(status) | {
        "pool_id": status.pool_id,
        "version": status.version,
        "capacity_bytes": status.capacity,
        "watermark": status.watermark.value,
        "waiting_claims": status.waiting_claims,
        "inflow_bytes_per_second": round(status.inflow, 3),
        "outflow_bytes_per_second": round(status.outflow, 3),
        "forecast_seconds_left": status.seconds_left,
        "reserved_bytes": status.reserved,
        "lanes": [_lane(lane) for lane in status.lanes],
        "collectors": [_collector(collector) for collector in status.collectors],
        "keys": [_key(key) for key in status.keys],
        "accounting": asdict(status.accounting),
    }


def _for_legacy_clients(status: GatewayStatus) -> dict[str, Any]:
    accounting = status.accounting
    return {
        "status": status.state.value,
        "buffer_fill_percent": round(100 * accounting.pooled / status.capacity, 3),
        "buffer_bytes_available": accounting.pooled,
        "last_data_received": _iso(status.last_arrival_ns),
        "data_freshness_seconds": status.freshness_s,
        "uptime_seconds": status.uptime_s,
        "total_requests_served": status.served_claims,
        "total_bytes_served": accounting.served,
        "requests_per_second": round(status.claims_per_s, 3),
        "warnings": list(status.warnings),
    }


def _lane(lane: LaneStatus) -> dict[str, Any]:
    return {
        "source_class": lane.source_class.value,
        "processing": lane.processing.value,
        "pooled_bytes": lane.pooled,
        "oldest_age_seconds": lane.oldest_age_s,
    }


def _collector(collector: CollectorStatus) -> dict[str, Any]:
    body: dict[str, Any] = {
        "collector_id": collector.collector_id,
        "epoch": collector.epoch,
        "sequence": collector.sequence,
        "silent_seconds": collector.silent_s,
        "clock_skew_seconds": collector.clock_skew_s,
        "last_heartbeat": _iso(collector.last_heartbeat_ns),
    }
    if collector.heartbeat is None:
        return body
    told = collector.heartbeat
    return body | {
        "queued_bytes": told.queued,
        "overflow_bytes": told.overflow,
        "expired_bytes": told.expired,
        "in_doubt_bytes": told.in_doubt,
        "sources": [
            {
                "device_id": source.device_id,
                "source_class": source.source_class.value,
                "condition": source.condition.value,
                "fetched_bytes": source.fetched_bytes,
            }
            for source in told.sources
        ],
    }


def _key(key: KeyStatus) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "collector_id": key.collector_id,
        "algorithm": ALGORITHM_NAMES[key.algorithm],
        "state": key.state.value,
        "last_used": _iso(key.last_used_ns),
        "not_after": _iso(key.not_after_ns),
    }


def _iso(unix_ns: int | None) -> str | None:
    if unix_ns is None:
        return None
    return datetime.fromtimestamp(unix_ns / NS_PER_S, UTC).isoformat(timespec="milliseconds")
