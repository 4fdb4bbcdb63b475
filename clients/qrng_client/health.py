"""How a client does, as a plain dictionary for those who watch it. It holds no key and no byte."""

from __future__ import annotations

import time
from typing import Any

from qrng_client.draws import Books
from qrng_client.prefetch import Stock
from qrng_client.route import Route
from qrng_client.settings import CLASS_OF, ClientSettings
from qrng_grpc.labels import SourceClass


def health_of(
    settings: ClientSettings, route: Route | None, books: Books, stock: Stock | None, *, closed: bool
) -> dict[str, Any]:
    """Return what is known; `route` is that of a client of servers.

    `healthy`: the client is not closed, and some server is not left alone.
    """
    health: dict[str, Any] = {
        "healthy": not closed,
        "closed": closed,
        "source": settings.entropy_source_type,
        "source_class": _name(CLASS_OF.get(settings.entropy_source_type, settings.grpc_source_class)),
        "fallback_mode": settings.fallback_mode,
        "local_mixing": settings.local_mixing,
        "prefetched_bytes": None if stock is None else stock.level,
        **books.health(),
    }
    if route is None:
        return health
    servers = _health_of_servers(settings, route)
    return health | servers | {"healthy": not closed and any(one["breaker"] != "open" for one in servers["servers"])}


def _health_of_servers(settings: ClientSettings, route: Route) -> dict[str, Any]:
    now_s = time.monotonic()
    servers = [
        {
            "address": server.address,
            "breaker": server.breaker.state(now_s),
            "answers": server.answers,
            "failures": server.failures,
            "failures_in_a_row": server.breaker.failures,
        }
        for server in route.servers
    ]
    return {
        "authenticated": settings.api_key is not None or settings.grpc_cert_file is not None,
        "encrypted": all(endpoint.encrypted for endpoint in settings.endpoints),
        "mode": settings.grpc_mode,
        "method": settings.method.path,
        "timeout_ms": round(route.deadline.seconds() * 1000, 1),
        "retries": route.retried,
        "servers": servers,
    }


def _name(source_class: SourceClass | None) -> str | None:
    return None if source_class is None else source_class.value
