"""Requests to a gateway's REST listener, good and bad, and REST of a gateway served once more on its own terms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from qrng_gateway.admission.access import Access
from qrng_gateway.admission.audit import AuditLog
from qrng_gateway.admission.guard import Guard
from qrng_gateway.admission.limits import Limiter
from qrng_gateway.desk import Desk
from qrng_gateway.dispenser import Dispenser
from qrng_gateway.fronts.rest import RestApi
from qrng_gateway.observation.metrics import CallCounts
from qrng_gateway.observation.status import Observer
from qrng_gateway.pool.reservoir import Reservoir
from qrng_gateway.quality.on_demand import QualityTests
from qrng_grpc.clock import SYSTEM_CLOCK
from qrng_grpc.config import host_and_port
from qrng_grpc.http_serving import serving_http
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.gateway import RunningGateway
from tests.integration.fronts import Front

Reply = tuple[int, dict[str, str], bytes]


def bearer(gateway: RunningGateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.api_key}"}


async def get(http: aiohttp.ClientSession, gateway: RunningGateway, path: str, **options: Any) -> Reply:
    """Ask with the right key, unless `headers` say otherwise."""
    options = {"headers": bearer(gateway), **options}
    async with http.request(options.pop("method", "GET"), gateway.rest_url + path, **options) as response:
        return response.status, dict(response.headers), await response.read()


async def told(http: aiohttp.ClientSession, gateway: RunningGateway, path: str, **options: Any) -> Any:
    """Return the JSON that a request is answered with, which must succeed."""
    status, headers, body = await get(http, gateway, path, **options)
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/json"), body
    return json.loads(body)


async def refusal(http: aiohttp.ClientSession, gateway: RunningGateway, path: str, **options: Any) -> Any:
    """Return status, reason and the headers of a request that fails, having checked the shape of its body."""
    status, headers, body = await get(http, gateway, path, **options)
    error = json.loads(body)["error"]
    assert set(error) <= {"reason", "message", "field", "retry_after_seconds"}
    assert isinstance(error["message"], str)
    assert headers["Cache-Control"] == "no-store"
    return status, error["reason"], headers


async def sent_raw(gateway: RunningGateway, request: bytes) -> bytes:
    """Send bytes that need not be HTTP; return all that comes back until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection(*host_and_port(gateway.gateway.rest_address))
    writer.write(request)
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    return reply


def own_api(front: Front, *, observer: Observer | None = None, origins: Collection[str] = ()) -> RestApi:
    """Return REST of the front's gateway once more, with a desk of its own."""
    gateway = front.gateway.gateway
    dispenser = Dispenser(
        gateway.pool, least_class=SourceClass.SIMULATED, max_wait_s=0, max_fresh_wait_s=0, clock_tolerance_s=0
    )
    limiter = Limiter(front.gateway.config.state_dir.parent, rate_limit=1_000_000)
    guard = Guard(SYSTEM_CLOCK, mistakes="wrong keys")
    access = Access([front.gateway.api_key])
    desk = Desk(access, dispenser, limiter, guard, CallCounts(), AuditLog(None))
    return RestApi(
        desk,
        observer or gateway.observer,
        QualityTests(Reservoir(0, ttl_s=1)),
        limit=65_536,
        key_in_query=False,
        allowed_origins=origins,
    )


@asynccontextmanager
async def own_rest(
    front: Front, *, observer: Observer | None = None, origins: Collection[str] = (), **settings: Any
) -> AsyncIterator[str]:
    """Serve REST of the front's gateway once more; `settings` are those of `serving_http`."""
    site = own_api(front, observer=observer, origins=origins).site()
    async with serving_http(site, "127.0.0.1:0", grace_s=1, **settings) as address:
        yield address
