"""REST, for clients that speak no gRPC: curl, browsers, and programs that knew the gateways before this one.

Idea: the same desk, other clothes. An endpoint reads its parameters strictly, makes one call of the domain (a claim, a
status, a test) and writes the answer down: `parameters` and `orders` read, `api` calls, `labels` and `status_body`
write. `openapi` describes all of it as data, which tests hold against what is served, and `page` is that description
for people.

Errors are one JSON shape, what bytes are stands in `X-QRNG-` headers, and no reply may be kept by a cache. A client
that leaves while its claim waits takes nothing. Nothing of a request is logged or repeated, since its address may hold
a key.
"""

from __future__ import annotations

from qrng_gateway.fronts.rest.api import RestApi

__all__ = ["RestApi"]
