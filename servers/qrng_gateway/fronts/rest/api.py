"""The endpoints: each reads what it was asked, makes one call of the domain, and writes the answer down."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from typing import Any, Protocol

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from qrng_gateway.admission.access import Pass, bearer_key, certified_uri, uris_of
from qrng_gateway.desk import Call, Desk
from qrng_gateway.fronts.rest.bounds import DEFAULT_MAX, MAX_COUNT, MAX_DRAWS, MAX_UUIDS
from qrng_gateway.fronts.rest.cross_origin import sharing_with
from qrng_gateway.fronts.rest.encodings import BINARY, ENCODINGS, TEXT
from qrng_gateway.fronts.rest.labels import ALLOWANCES, label_headers
from qrng_gateway.fronts.rest.openapi import described
from qrng_gateway.fronts.rest.page import PAGE_HEADERS, page
from qrng_gateway.fronts.rest.parameters import DEMANDS, KEY, MAX_BODY_BYTES, Parameters, in_query, in_query_or_body
from qrng_gateway.fronts.rest.status_body import status_body
from qrng_gateway.observation.metrics import CONTENT_TYPE, OTHER, Metrics
from qrng_gateway.observation.status import Observer
from qrng_gateway.pool.claims import Claimed
from qrng_gateway.quality.monte_carlo import DEFAULT_ITERATIONS, MAX_ITERATIONS, Comparison, as_json
from qrng_grpc.errors import InvalidRequestError, QrngError
from qrng_grpc.http_serving import Handler, telling_errors, with_common_headers
from qrng_grpc.labels import SourceClass
from qrng_grpc.values import FLOAT_BYTES, INT64_MAX, INT64_MIN, UUID_BYTES, Integers, floats, uuids

CALL: web.RequestKey[Call] = web.RequestKey("call", Call)
"""The call that a request is, at the desk."""
GONE = "499"
"""The status of a request whose client left before there was one."""


class Quality(Protocol):
    """Who runs tests that a client asks for."""

    async def monte_carlo(self, iterations: int, source_class: SourceClass | None = None) -> Comparison:
        """Estimate pi with at most so many iterations."""


class RestApi:
    """The handlers.

    `limit` is the most bytes that one reply takes from the pool. `/metrics` is there when `metrics` are.
    `allowed_origins` are those of pages that may read replies.
    """

    def __init__(
        self,
        desk: Desk,
        observer: Observer,
        quality: Quality,
        *,
        limit: int,
        key_in_query: bool,
        metrics: Metrics | None = None,
        allowed_origins: Collection[str] = (),
    ) -> None:
        self._access = desk.access
        self._desk = desk
        self._observer = observer
        self._quality = quality
        self._limit = limit
        self._key_in_query = key_in_query
        self._metrics = metrics
        self._allowed_origins = allowed_origins
        document = described(
            limit=limit, key_header=desk.access.key_name, key_in_query=key_in_query, has_metrics=metrics is not None
        )
        self.document = json.dumps(document).encode()
        """What `/openapi.json` answers."""
        self._page = page(document)

    def app(self) -> web.Application:
        """Return the application that serves this API."""
        sharing = [sharing_with(self._allowed_origins, self._access.key_name)] if self._allowed_origins else []
        app = web.Application(
            middlewares=[*sharing, self._passing_the_desk(), telling_errors], client_max_size=MAX_BODY_BYTES
        )
        with_common_headers(app)
        for path, handler in {
            "/api/random": self._random,
            "/api/integers": self._integers,
            "/api/floats": self._floats,
            "/api/uuid": self._uuid,
            "/api/status": self._status,
            "/api/test/monte-carlo": self._monte_carlo,
        }.items():
            # No HEAD: it must not claim bytes to throw them away.
            app.router.add_get(path, handler, allow_head=False, expect_handler=_continuing)
        app.router.add_post("/api/test/monte-carlo", self._monte_carlo, expect_handler=_continuing)
        for path, open_handler in {
            "/health": self._ready,
            "/health/live": self._alive,
            "/openapi.json": self._openapi,
            "/docs": self._docs,
        }.items():
            app.router.add_get(path, open_handler, expect_handler=_continuing)
        if self._metrics is not None:
            app.router.add_get("/metrics", partial(_shown, self._metrics), expect_handler=_continuing)
        return app

    # Bytes and values

    async def _random(self, request: web.Request) -> web.Response:
        call, asked = self._admitted(request), in_query(request, "bytes", "encoding", *DEMANDS)
        encoding = asked.choice("encoding", ENCODINGS, "hex")
        claimed = await self._claimed(call, asked, asked.integer("bytes", 1, self._limit), "bytes")
        headers = label_headers(claimed.label)
        if encoding in BINARY:
            return web.Response(body=claimed.data, content_type="application/octet-stream", headers=headers)
        return web.Response(text=TEXT[encoding](claimed.data), headers=headers)

    async def _integers(self, request: web.Request) -> web.Response:
        call, asked = self._admitted(request), in_query(request, "count", "min", "max", *DEMANDS)
        count = asked.integer("count", 1, MAX_COUNT)
        low = asked.integer("min", INT64_MIN, INT64_MAX, 0)
        high = asked.integer("max", INT64_MIN, INT64_MAX, DEFAULT_MAX)
        # A draw that was rejected in part is thrown away whole: one claim, and its label, stand for all values.
        for _ in range(MAX_DRAWS):
            integers = Integers(count, low, high)
            if not integers.bytes_needed:
                asked.demand(0, "count")
                return _json(integers.values)
            claimed = await self._claimed(call, asked, integers.bytes_needed, "count")
            integers.feed(claimed.data)
            if not integers.bytes_needed:
                return _json(integers.values, claimed)
        raise QrngError("fair bytes are not rejected so often: their source seems to be broken")

    async def _floats(self, request: web.Request) -> web.Response:
        call, asked = self._admitted(request), in_query(request, "count", *DEMANDS)
        size = asked.integer("count", 1, MAX_COUNT) * FLOAT_BYTES
        claimed = await self._claimed(call, asked, size, "count")
        return _json(floats(claimed.data), claimed)

    async def _uuid(self, request: web.Request) -> web.Response:
        call, asked = self._admitted(request), in_query(request, "count", *DEMANDS)
        count = asked.integer("count", 1, MAX_UUIDS, 1)
        claimed = await self._claimed(call, asked, count * UUID_BYTES, "count")
        made = [str(one) for one in uuids(claimed.data)]
        if count == 1:
            return web.Response(text=made[0], headers=label_headers(claimed.label))
        return _json(made, claimed)

    async def _claimed(self, call: Call, asked: Parameters, size: int, size_field: str) -> Claimed:
        demand = asked.demand(size, size_field)
        if size > self._limit:
            raise InvalidRequestError(
                f"that takes {size} bytes, and this gateway gives {self._limit} in one reply", field=size_field
            )
        return await call.dispense(demand, limit=self._limit, time_left_s=None)

    # How the gateway and its bytes do

    async def _status(self, request: web.Request) -> web.Response:
        self._admitted(request)
        return _json(status_body(self._observer.status()))

    async def _monte_carlo(self, request: web.Request) -> web.Response:
        self._admitted(request)
        asked = await in_query_or_body(request, iterations=int, source_class=str)
        iterations = asked.integer("iterations", 1, MAX_ITERATIONS, DEFAULT_ITERATIONS)
        return _json(as_json(await self._quality.monte_carlo(iterations, asked.source_class("source_class"))))

    # For everybody

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._observer.ready:
            return _json({"status": "serving"})
        return _json({"status": "not serving"}, status=503)

    async def _alive(self, _request: web.Request) -> web.Response:
        return _json({"status": "alive"})

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.document, content_type="application/json")

    async def _docs(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html", headers=PAGE_HEADERS)

    # The desk

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
                response.headers[ALLOWANCES[name]] = value
            return response

        return pass_the_desk

    def _admitted(self, request: web.Request) -> Call:
        """Return the call of `request`, let in. Raises what `Call.admit` does."""
        call = request[CALL]
        forwarded = request.headers.getall("X-Forwarded-For", []) if self._desk.trusted_proxies else []
        call.admit(partial(self._client, request), ",".join(forwarded))
        return call

    def _client(self, request: web.Request) -> Pass:
        presented = [bearer_key(value) for value in request.headers.getall(hdrs.AUTHORIZATION, [])]
        presented += request.headers.getall(self._access.key_name, [])
        if self._key_in_query:
            presented += request.query.getall(KEY, [])
        certificate = request.get_extra_info("peercert")
        return self._access.identify(presented, certified_uri(uris_of(certificate)))


async def _shown(metrics: Metrics, _request: web.Request) -> web.Response:
    return web.Response(body=await metrics.text(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})


def _json(body: Any, claimed: Claimed | None = None, *, status: int = 200) -> web.Response:
    """Answer with `body`, which is labelled as the bytes that it was made of."""
    headers = None if claimed is None else label_headers(claimed.label)
    return web.json_response(body, status=status, headers=headers, dumps=partial(json.dumps, allow_nan=False))


async def _continuing(request: web.Request) -> web.StreamResponse | None:
    """Tell a client that waits for it to send its body. What else it expects is ignored, as RFC 9110 allows."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the reply has not begun
    return None


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
