"""REST for legacy clients: `GET /api/random`, `GET /api/status`, `GET /health`.

Idea: the same dispenser, other clothes. Parameters are read strictly (one of each, decimal digits
only), errors are one JSON shape, what the bytes are stands in `X-QRNG-` headers, and no reply may be
kept by a cache. A client that leaves while its claim waits takes nothing. Nothing of a request is
logged, since its address may hold a key.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from qrng_gateway.access import Access, bearer_key, certified_uri, uris_of
from qrng_gateway.desk import Call, Desk
from qrng_gateway.dispenser import Demand
from qrng_gateway.metrics import OTHER
from qrng_gateway.pool import Claimed
from qrng_gateway.status import CollectorStatus, GatewayStatus, Observer
from qrng_grpc.client_keys import Client
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.http_serving import Handler, telling_errors, with_common_headers
from qrng_grpc.keys import ALGORITHM_NAMES

_MAX_DIGITS = 10
_TEXT: dict[str, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "hexadecimal": bytes.hex,
    "base64": lambda data: base64.b64encode(data).decode("ascii"),
    "b64": lambda data: base64.b64encode(data).decode("ascii"),
}
_BINARY = ("binary", "raw")


CALL: web.RequestKey[Call] = web.RequestKey("call", Call)
"""The call that a request is, at the desk."""
GONE = "499"
"""The status of a request whose client left before there was one."""


class RestApi:
    """The handlers. `limit` is the most bytes in one reply."""

    def __init__(self, access: Access, desk: Desk, observer: Observer, *, limit: int, key_in_query: bool) -> None:
        self._access = access
        self._desk = desk
        self._observer = observer
        self._limit = limit
        self._key_in_query = key_in_query

    def app(self) -> web.Application:
        """Return the application that serves this API."""
        app = web.Application(middlewares=[self._passing_the_desk(), telling_errors], client_max_size=1)
        with_common_headers(app)
        app.router.add_get("/api/random", self._random, allow_head=False)
        app.router.add_get("/api/status", self._status, allow_head=False)
        app.router.add_get("/health", self._health)
        return app

    def _passing_the_desk(self) -> Middleware:
        """Return what makes every request a call, and tells the reply what its client has left."""

        @web.middleware
        async def pass_the_desk(request: web.Request, handler: Handler) -> web.StreamResponse:
            call = request[CALL] = self._desk.open(_method_of(request), _peer_of(request))
            status = GONE
            try:
                response = await handler(request)
                status = str(response.status)
            finally:
                call.close(status)
            for name, value in call.allowances():
                response.headers[f"X-{name}"] = value
            return response

        return pass_the_desk

    async def _random(self, request: web.Request) -> web.Response:
        call = self._admitted(request)
        encoding = _single(request, "encoding") or "hex"
        if encoding not in _TEXT and encoding not in _BINARY:
            raise InvalidRequestError("expected hex, hexadecimal, base64, b64, binary or raw", field="encoding")
        demand = Demand(_decimal(request, "bytes"), "bytes")
        claimed = await call.dispense(demand, limit=self._limit, time_left_s=None)
        headers = _label_headers(claimed)
        if encoding in _BINARY:
            return web.Response(body=claimed.data, content_type="application/octet-stream", headers=headers)
        return web.Response(text=_TEXT[encoding](claimed.data), headers=headers)

    async def _status(self, request: web.Request) -> web.Response:
        self._admitted(request)
        return web.json_response(_status_body(self._observer.status()))

    async def _health(self, _request: web.Request) -> web.Response:
        if self._observer.ready:
            return web.json_response({"status": "serving"})
        return web.json_response({"status": "not serving"}, status=503)

    def _admitted(self, request: web.Request) -> Call:
        """Return the call of `request`, let in. Raises what `Call.admit` does."""
        call = request[CALL]
        forwarded = request.headers.getall("X-Forwarded-For", []) if self._desk.trusted_proxies else []
        call.admit(partial(self._client, request), ",".join(forwarded))
        return call

    def _client(self, request: web.Request) -> Client:
        presented = [bearer_key(value) for value in request.headers.getall(hdrs.AUTHORIZATION, [])]
        presented += request.headers.getall(self._access.key_name, [])
        if self._key_in_query:
            presented += request.query.getall("api_key", [])
        certificate = request.get_extra_info("peercert")
        return self._access.identify(presented, certified_uri(uris_of(certificate)))


def _method_of(request: web.Request) -> str:
    """Return what was asked for, as counters name it: the verb, and the path as it was registered."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical}" if resource is not None else OTHER


def _peer_of(request: web.Request) -> str:
    """Return whose connection it is, as grpc would name it."""
    name = request.get_extra_info("peername")
    if not name:
        return "unix:"
    host, port = name[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _single(request: web.Request, name: str) -> str | None:
    """Return a parameter's value, None without one. Raises InvalidRequestError when it is there twice."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise InvalidRequestError(f"{name} is given more than once", field=name)
    return values[0] if values else None


def _decimal(request: web.Request, name: str) -> int:
    text = _single(request, name)
    if text is None:
        raise InvalidRequestError(f"{name} is required", field=name)
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise InvalidRequestError(f"{name} is not a decimal number", field=name)
    return int(text)


def _label_headers(claimed: Claimed) -> dict[str, str]:
    label = claimed.label
    return {
        "X-QRNG-Source-Class": label.source_class.value,
        "X-QRNG-Processing": label.processing.value,
        "X-QRNG-Custody": label.custody.value,
        "X-QRNG-Health-Verdict": label.health_verdict.value,
        "X-QRNG-Device-Id": label.device_id,
        "X-QRNG-Collector-Id": label.collector_id,
        "X-QRNG-Generation-Timestamp-Ns": str(label.generation_ns),
        "X-QRNG-Capture-Start-Ns": str(label.capture_start_ns),
        "X-QRNG-Capture-End-Ns": str(label.capture_end_ns),
    }


def _status_body(status: GatewayStatus) -> dict[str, Any]:
    accounting = status.accounting
    return {
        # What legacy clients read.
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
        # What GetStatus says besides.
        "pool_id": status.pool_id,
        "version": status.version,
        "capacity_bytes": status.capacity,
        "watermark": status.watermark.value,
        "waiting_claims": status.waiting_claims,
        "lanes": [
            {
                "source_class": lane.source_class.value,
                "processing": lane.processing.value,
                "pooled_bytes": lane.pooled,
                "oldest_age_seconds": lane.oldest_age_s,
            }
            for lane in status.lanes
        ],
        "collectors": [_collector_body(collector) for collector in status.collectors],
        "keys": [
            {
                "key_id": key.key_id,
                "collector_id": key.collector_id,
                "algorithm": ALGORITHM_NAMES[key.algorithm],
                "state": key.state.value,
                "last_used": _iso(key.last_used_ns),
                "not_after": _iso(key.not_after_ns),
            }
            for key in status.keys
        ],
        "accounting": asdict(accounting),
    }


def _collector_body(collector: CollectorStatus) -> dict[str, Any]:
    body: dict[str, Any] = {
        "collector_id": collector.collector_id,
        "epoch": collector.epoch,
        "sequence": collector.sequence,
        "silent_seconds": collector.silent_s,
        "last_heartbeat": _iso(collector.last_heartbeat_ns),
    }
    if collector.heartbeat is not None:
        told = collector.heartbeat
        body |= {
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
    return body


def _iso(unix_ns: int | None) -> str | None:
    if unix_ns is None:
        return None
    return datetime.fromtimestamp(unix_ns / NS_PER_S, UTC).isoformat(timespec="milliseconds")
