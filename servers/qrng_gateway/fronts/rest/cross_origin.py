"""Browsers on pages of other origins, where a setting names them.

Idea: a page may read a reply only when its origin is listed, letter by letter. Keys travel in headers that a page
sets itself, so credentials that a browser adds by itself are never asked for, and there is no wildcard.
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from qrng_gateway.fronts.rest.labels import ALLOWANCES, LABEL_HEADERS
from qrng_grpc.http_serving import Handler

_PREFLIGHT_S = 600
_EXPOSED = (hdrs.RETRY_AFTER, *ALLOWANCES.values(), *LABEL_HEADERS)


def sharing_with(origins: Collection[str], key_header: str) -> Middleware:
    """Return what lets pages of `origins` ask, with their key in `key_header` or as Bearer, and read the replies."""

    @web.middleware
    async def share(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin not in origins:
            response = await handler(request)
        elif request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            response = web.Response(status=204, headers=_preflight(key_header))
        else:
            response = await handler(request)
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(_EXPOSED)
        if origin is not None and origin in origins:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.VARY] = hdrs.ORIGIN
        return response

    return share


def _preflight(key_header: str) -> dict[str, str]:
    return {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST",
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: f"authorization, content-type, {key_header}",
        hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_S),
    }
