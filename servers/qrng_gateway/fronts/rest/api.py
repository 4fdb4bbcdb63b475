"""The endpoints: each reads what it was asked, makes one call of the domain, and writes the answer down."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial
from typing import Any, NamedTuple, Protocol

from aiohttp import hdrs, web

from qrng_gateway.admission.access import Pass, certified_uri, uris_of
from qrng_gateway.desk import Call, Desk
from qrng_gateway.fronts.rest.bounds import MAX_DRAWS
from qrng_gateway.fronts.rest.cross_origin import OF_ORIGINS, sharing_with
from qrng_gateway.fronts.rest.labels import allowance_lines, label_lines
from qrng_gateway.fronts.rest.openapi import described
from qrng_gateway.fronts.rest.orders import FORMS, Form, Order, order_in
from qrng_gateway.fronts.rest.page import PAGE_HEADERS, page
from qrng_gateway.fronts.rest.parameters import KEY, MAX_BODY_BYTES, in_query_or_body
from qrng_gateway.fronts.rest.status_body import status_body
from qrng_gateway.observation.metrics import CONTENT_TYPE, OTHER, Metrics
from qrng_gateway.observation.status import Observer
from qrng_gateway.quality.monte_carlo import DEFAULT_ITERATIONS, MAX_ITERATIONS, Comparison, as_json
from qrng_grpc.client_keys import bearer_key
from qrng_grpc.errors import AuthenticationError, QrngError
from qrng_grpc.http_replies import Again, Reply, field_lines, json_reply, telling_errors
from qrng_grpc.http_serving import Handler, Site, found, peer_of
from qrng_grpc.labels import SourceClass

GONE = "499"
"""The status of a request whose client left before there was one."""

Answer = Callable[[web.BaseRequest, Call], Awaitable[Reply]]


class Endpoint(NamedTuple):
    """Who answers requests for one path and verb, `method`, as counters name it. It never raises."""

    method: str
    answer: Answer


class _Admitted(NamedTuple):
    """Who was let in, and whom a proxy spoke for then."""

    passed: Pass
    forwarded_for: str


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
        self.routes = self._routed()
        """The endpoints, by path and verb."""

    def site(self) -> Site:
        """Return what is to be served."""
        answer: Handler = self._answered
        heeds: list[str] = [hdrs.AUTHORIZATION, self._access.key_name]
        if self._desk.trusted_proxies:
            heeds.append(hdrs.X_FORWARDED_FOR)
        if self._allowed_origins:
            answer = sharing_with(self._allowed_origins, self._access.key_name, answer)
            heeds += OF_ORIGINS
        return Site(answer, MAX_BODY_BYTES, tuple(heeds))

    def _routed(self) -> dict[str, dict[str, Endpoint]]:
        # No HEAD of what takes a key: it must not claim bytes to throw them away.
        answers: dict[str, Answer] = {path: partial(self._bytes, form) for path, form in FORMS.items()}
        answers |= {"/api/status": self._status, "/api/test/monte-carlo": self._monte_carlo}
        open_answers: dict[str, Answer] = {
            "/health": self._ready,
            "/health/live": self._alive,
            "/openapi.json": self._openapi,
            "/docs": self._docs,
        }
        if self._metrics is not None:
            open_answers["/metrics"] = partial(_shown, self._metrics)
        routes = {path: _endpoints(path, answer, hdrs.METH_GET) for path, answer in answers.items()}
        routes["/api/test/monte-carlo"] |= _endpoints("/api/test/monte-carlo", self._monte_carlo, hdrs.METH_POST)
        return routes | {
            path: _endpoints(path, answer, hdrs.METH_GET, hdrs.METH_HEAD) for path, answer in open_answers.items()
        }

    async def _answered(self, request: web.BaseRequest) -> Reply:
        try:
            endpoint = found(self.routes, request)
        except web.HTTPException as refusal:
            endpoint = _refusing(refusal)
        return await self._at_the_desk(endpoint.method, peer_of(request), partial(endpoint.answer, request))

    async def _at_the_desk(self, method: str, peer: str, answer: Callable[[Call], Awaitable[Reply]]) -> Reply:
        """Return what `answer` does, as a call at the desk; the reply tells its client what it has left."""
        call = self._desk.open(method, peer)
        status = GONE
        try:
            reply = await answer(call)
            status = str(reply.status)
        finally:
            call.close(status)
        reply.fields += allowance_lines(call.allowances())
        return reply

    def _admit(self, call: Call, request: web.BaseRequest) -> _Admitted:
        """Let `request` in. Raises what `Call.admit` does."""
        forwarded_for = ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, []))  # heeded where a proxy is trusted
        call.admit(partial(self._client, request), forwarded_for)
        return _Admitted(call.passed, forwarded_for)

    def _client(self, request: web.BaseRequest) -> Pass:
        presented = [bearer_key(value) for value in request.headers.getall(hdrs.AUTHORIZATION, [])]
        presented += request.headers.getall(self._access.key_name, [])
        if self._key_in_query:
            presented += request.query.getall(KEY, [])
        certificate = request.get_extra_info("peercert")
        return self._access.identify(presented, certified_uri(uris_of(certificate)))

    # Bytes

    async def _bytes(self, form: Form, request: web.BaseRequest, call: Call) -> Reply:
        admitted = self._admit(call, request)
        order = order_in(request, form, self._limit)
        reply = await self._filled(order, call)
        reply.again = Again(partial(self._begin_again, call.method, admitted, order))
        return reply

    def _begin_again(
        self, method: str, admitted: _Admitted, order: Order, peer: str
    ) -> Coroutine[Any, Any, Reply] | None:
        """Answer a request of `peer` that is known for one that was let in before."""
        try:
            passed = self._access.current(admitted.passed)
        except AuthenticationError:
            return None  # but what it brings may let it in another way by now

        async def answer(call: Call) -> Reply:
            call.admit(lambda: passed, admitted.forwarded_for)
            return await self._filled(order, call)

        return self._at_the_desk(method, peer, telling_errors(answer))

    async def _filled(self, order: Order, call: Call) -> Reply:
        for _ in range(MAX_DRAWS):
            data, label = b"", ""
            if order.demand.size:
                claimed = call.dispense_now(order.demand, limit=self._limit) or await call.dispense(
                    order.demand, limit=self._limit, time_left_s=None
                )
                data, label = claimed.data, label_lines(claimed.label)
            body = order.write(data)
            if body is not None:
                return Reply(body, order.content_type, fields=label)
        raise QrngError("fair bytes are not rejected so often: their source seems to be broken")

    # How the gateway and its bytes do

    async def _status(self, request: web.BaseRequest, call: Call) -> Reply:
        self._admit(call, request)
        return json_reply(status_body(self._observer.status()))

    async def _monte_carlo(self, request: web.BaseRequest, call: Call) -> Reply:
        self._admit(call, request)
        asked = await in_query_or_body(request, iterations=int, source_class=str)
        iterations = asked.integer("iterations", 1, MAX_ITERATIONS, DEFAULT_ITERATIONS)
        return json_reply(as_json(await self._quality.monte_carlo(iterations, asked.source_class("source_class"))))

    # For everybody

    async def _ready(self, _request: web.BaseRequest, _call: Call) -> Reply:
        if self._observer.ready:
            return json_reply({"status": "serving"})
        return json_reply({"status": "not serving"}, status=503)

    async def _alive(self, _request: web.BaseRequest, _call: Call) -> Reply:
        return json_reply({"status": "alive"})

    async def _openapi(self, _request: web.BaseRequest, _call: Call) -> Reply:
        return Reply(self.document, "application/json")

    async def _docs(self, _request: web.BaseRequest, _call: Call) -> Reply:
        return Reply(self._page.encode(), "text/html; charset=utf-8", fields=field_lines(PAGE_HEADERS))


async def _shown(metrics: Metrics, _request: web.BaseRequest, _call: Call) -> Reply:
    return Reply(await metrics.text(), CONTENT_TYPE)


def _endpoints(path: str, answer: Answer, *verbs: str) -> dict[str, Endpoint]:
    return {verb: Endpoint(f"{verb} {path}", telling_errors(answer)) for verb in verbs}


def _refusing(refusal: web.HTTPException) -> Endpoint:
    """Return the endpoint where there is none."""

    async def refuse(_request: web.BaseRequest, _call: Call) -> Reply:
        raise refusal

    return Endpoint(OTHER, telling_errors(refuse))
