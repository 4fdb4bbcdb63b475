"""Browsers on pages of other origins, where a setting names them.

Idea: a page may read a reply only when its origin is listed, letter by letter. Keys travel in headers that a page
sets itself, so credentials that a browser adds by itself are never asked for, and there is no wildcard.
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import hdrs, web

from qrng_gateway.fronts.rest.labels import ALLOWANCES, LABEL_HEADERS
from qrng_grpc.http_replies import Reply, field_lines
from qrng_grpc.http_serving import Handler

OF_ORIGINS = (hdrs.ORIGIN, hdrs.ACCESS_CONTROL_REQUEST_METHOD)
"""The headers of requests that replies to pages depend on."""
_PREFLIGHT_S = 600
_EXPOSED = (hdrs.RETRY_AFTER, *ALLOWANCES.values(), *LABEL_HEADERS)


def sharing_with(origins: Collection[str], key_header: str, handler: Handler) -> Handler:
    """Let pages of `origins` ask, with their key in `key_header` or as Bearer, and read what `handler` replies."""
    vary = field_lines({hdrs.VARY: hdrs.ORIGIN})
    exposed = field_lines({hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: ", ".join(_EXPOSED)})
    preflight = _preflight(key_header)

    async def share(request: web.BaseRequest) -> Reply:
        origin = request.headers.get(hdrs.ORIGIN)
        listed = origin in origins
        if listed and request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
            reply, fields = Reply(b"", status=204), vary + preflight
        else:
            reply, fields = await handler(request), vary + exposed if listed else vary
        if listed:
            fields += field_lines({hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin})
        reply.fields += fields
        if reply.again is not None:
            reply.again = reply.again._replace(fields=fields)
        return reply

    return share


def _preflight(key_header: str) -> str:
    return field_lines(
        {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: f"authorization, content-type, {key_header}",
            hdrs.ACCESS_CONTROL_MAX_AGE: _PREFLIGHT_S,
        }
    )
