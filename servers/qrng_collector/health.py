"""Health over HTTP, for this machine only: `GET /health` and `GET /status`.

Idea: a probe of the platform asks whether the collector does its work, and an operator how. Neither needs
a key, so neither is served beyond loopback; the settings see to that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from qrng_collector.status import Observer
from qrng_grpc.http_serving import serving_http, telling_errors, with_common_headers

MAX_CONNECTIONS = 16
_GRACE_S = 1.0


@asynccontextmanager
async def serving_health(observer: Observer, address: str | None) -> AsyncIterator[str | None]:
    """Serve at `address` while the block runs; yields HOST:PORT with the real port. Without an address, nothing.

    Raises ConfigError when it cannot listen there.
    """
    if address is None:
        yield None
        return
    async with serving_http(_app(observer), address, grace_s=_GRACE_S, max_connections=MAX_CONNECTIONS) as bound:
        yield bound


def _app(observer: Observer) -> web.Application:
    async def health(_request: web.Request) -> web.Response:
        """200 while bytes flow, else 503."""
        if observer.ready:
            return web.json_response({"status": "collecting"})
        return web.json_response({"status": "not collecting"}, status=503)

    async def status(_request: web.Request) -> web.Response:
        return web.json_response(observer.status())

    app = web.Application(middlewares=[telling_errors], client_max_size=1)
    with_common_headers(app)
    app.router.add_get("/health", health)
    app.router.add_get("/status", status, allow_head=False)
    return app
