"""REST for legacy clients: `GET /api/random`, `GET /api/status`, `GET /health`.

Idea: the same dispenser, other clothes. Parameters are read strictly (one of each, decimal digits
only), errors are one JSON shape, what the bytes are stands in `X-QRNG-` headers, and no reply may be
kept by a cache. A client that leaves while its claim waits takes nothing. Nothing of a request is
logged, since its address may hold a key.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from math import ceil
from typing import Any

from aiohttp import hdrs, web

from qrng_gateway.access import Access, bearer_key
from qrng_gateway.dispenser import Demand, Dispenser
from qrng_gateway.pool import Claimed
from qrng_gateway.status import GatewayStatus, Observer
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.config import host_and_port
from qrng_grpc.errors import AuthenticationError, ConfigError, InvalidRequestError, QrngError
from qrng_grpc.logs import get_log
from qrng_grpc.serving import MAX_CONNECTIONS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

IDLE_S = 75.0

_MAX_DIGITS = 10
_MAX_LINE = 4096
_TEXT: dict[str, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "hexadecimal": bytes.hex,
    "base64": lambda data: base64.b64encode(data).decode("ascii"),
    "b64": lambda data: base64.b64encode(data).decode("ascii"),
}
_BINARY = ("binary", "raw")
_REASONS = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "TOO_LARGE"}

log = get_log()
# What aiohttp itself would say of a broken request quotes it.
_silent = logging.getLogger("qrng_gateway.rest.silent")
_silent.disabled = True


class RestApi:
    """The handlers. `limit` is the most bytes in one reply."""

    def __init__(
        self, access: Access, dispenser: Dispenser, observer: Observer, *, limit: int, key_in_query: bool
    ) -> None:
        self._access = access
        self._dispenser = dispenser
        self._observer = observer
        self._limit = limit
        self._key_in_query = key_in_query

    def app(self) -> web.Application:
        """Return the application that serves this API."""
        app = web.Application(middlewares=[_telling_errors], client_max_size=1)
        app.on_response_prepare.append(_set_common_headers)
        app.router.add_get("/api/random", self._random, allow_head=False)
        app.router.add_get("/api/status", self._status, allow_head=False)
        app.router.add_get("/health", self._health)
        return app

    async def _random(self, request: web.Request) -> web.Response:
        client = self._client(request)
        encoding = _single(request, "encoding") or "hex"
        if encoding not in _TEXT and encoding not in _BINARY:
            raise InvalidRequestError("expected hex, hexadecimal, base64, b64, binary or raw", field="encoding")
        demand = Demand(_decimal(request, "bytes"), "bytes")
        claimed = await self._dispenser.dispense(demand, limit=self._limit, client=client, time_left_s=None)
        headers = _label_headers(claimed)
        if encoding in _BINARY:
            return web.Response(body=claimed.data, content_type="application/octet-stream", headers=headers)
        return web.Response(text=_TEXT[encoding](claimed.data), headers=headers)

    async def _status(self, request: web.Request) -> web.Response:
        self._client(request)
        return web.json_response(_status_body(self._observer.status()))

    async def _health(self, _request: web.Request) -> web.Response:
        if self._observer.ready:
            return web.json_response({"status": "serving"})
        return web.json_response({"status": "not serving"}, status=503)

    def _client(self, request: web.Request) -> str:
        presented = [bearer_key(value) for value in request.headers.getall(hdrs.AUTHORIZATION, [])]
        if self._key_in_query:
            presented += request.query.getall("api_key", [])
        return self._access.client_with(presented)


@asynccontextmanager
async def serving_rest(
    app: web.Application,
    address: str,
    *,
    grace_s: float,
    idle_s: float = IDLE_S,
    max_connections: int = MAX_CONNECTIONS,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve `app` at `address`, as HTTPS with `tls`; yields HOST:PORT with the real port.

    Connections beyond `max_connections` are closed at once, others when they bring no whole request for
    `idle_s` seconds. Leaving takes at most `grace_s` seconds: half of them for running requests to finish,
    half for those that do not, to be told and to leave. Raises ConfigError when it cannot listen there.
    """
    host, port = host_and_port(address)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_silent,
        handler_cancellation=True,
        shutdown_timeout=grace_s / 2,  # aiohttp waits twice: for the handler, then for its cancelled rest
        keepalive_timeout=idle_s,
        max_line_size=_MAX_LINE,
    )
    await runner.setup()
    try:
        try:
            listener = await asyncio.get_running_loop().create_server(
                _admitting(runner, max_connections), host, port, ssl=tls, reuse_port=False
            )
        except OSError as error:
            raise ConfigError([f"{address}: cannot listen there ({error.strerror or type(error).__name__})"]) from None
        bound = listener.sockets[0].getsockname()[1]
        try:
            yield f"{address.rpartition(':')[0]}:{bound}"
        finally:
            listener.close()
    finally:
        await runner.cleanup()


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


def _admitting(runner: web.AppRunner, max_connections: int) -> Callable[[], asyncio.Protocol]:
    """Return what makes a protocol for each new connection: the runner's while there is room."""
    server = runner.server
    assert server is not None, "a runner that is set up has a server"  # noqa: S101

    def admit() -> asyncio.Protocol:
        return server() if len(server.connections) < max_connections else _TurnedAway()

    return admit


@web.middleware
async def _telling_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except QrngError as error:
        return _error_response(error.http_status, error.reason, error.message, error.retry_after_s)
    except web.HTTPException as error:
        response = _error_response(error.status, _REASONS.get(error.status, "INVALID_ARGUMENT"), error.reason)
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response
    except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
        log.error("request_failed", fault=type(fault).__name__)
        return _error_response(500, QrngError.reason, "an internal fault; the server's log has the rest")


async def _set_common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[hdrs.SERVER] = "qrng"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _error_response(status: int, reason: str, message: str, retry_after_s: float | None = None) -> web.Response:
    error: dict[str, str | int] = {"reason": reason, "message": message}
    headers = {}
    if retry_after_s is not None:
        error["retry_after_seconds"] = ceil(retry_after_s)
        headers[hdrs.RETRY_AFTER] = str(ceil(retry_after_s))
    if status == AuthenticationError.http_status:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return web.json_response({"error": error}, status=status, headers=headers)


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
        "collectors": [
            {"collector_id": c.collector_id, "epoch": c.epoch, "sequence": c.sequence, "silent_seconds": c.silent_s}
            for c in status.collectors
        ],
        "accounting": asdict(accounting),
    }


def _iso(unix_ns: int | None) -> str | None:
    if unix_ns is None:
        return None
    return datetime.fromtimestamp(unix_ns / NS_PER_S, UTC).isoformat(timespec="milliseconds")
