"""Health over HTTP, for this machine only: `GET /health` and `GET /status`.

Idea: a probe of the platform asks whether the collector does its work, and an operator how. Neither needs
a key, so neither is served beyond loopback; the settings see to that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from qrng_collector.status import Observer
from qrng_grpc.http_replies import Reply, json_reply, telling_errors
from qrng_grpc.http_serving import Handler, Site, found, serving_http

MAX_CONNECTIONS = 16
_GRACE_S = 1.0


@asynccontextmanager
async def serving_health(observer: Observer, address: str | None) -> AsyncIterator[str | None]:
    """Serve at `address` while the block runs; yields HOST:PORT with the real port. Without an address, nothing.

    Raises ConfigError when it cannot listen there, which health_listen_address says.
    """
    if address is None:
        yield None
        return
    async with serving_http(
        _site(observer),
        address,
        grace_s=_GRACE_S,
        max_connections=MAX_CONNECTIONS,
        setting="health_listen_address",
    ) as bound:
        yield bound


def _site(observer: Observer) -> Site:
    async def health(_request: web.BaseRequest) -> Reply:
        """200 while bytes flow, else 503."""
        if observer.ready:
            return json_reply({"status": "collecting"})
        return json_reply({"status": "not collecting"}, status=503)

    async def status(_request: web.BaseRequest) -> Reply:
        return json_reply(observer.status())

    routes: dict[str, dict[str, Handler]] = {"/health": {"GET": health, "HEAD": health}, "/status": {"GET": status}}

    @telling_errors
    async def answer(request: web.BaseRequest) -> Reply:
        return await found(routes, request)(request)

    return Site(answer)
