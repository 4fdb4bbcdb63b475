"""The description of REST is true: what it names is served, what it bounds is bounded, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from qrng_grpc.errors import ERRORS_BY_REASON
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1 import errors_pb2
from tests.integration.fronts import Front
from tests.integration.rest_requests import bearer, get, own_api, told

Document = dict[str, Any]
HTTP_REASONS = {"NOT_FOUND", "METHOD_NOT_ALLOWED", "TIMEOUT", "TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"}
"""Reasons that only HTTP has."""


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    """A gateway with bytes for everything."""
    async with running_gateway(quality_reservoir_size=1 << 20, max_wait=0, max_fresh_wait=0) as running:
        await running.push(os.urandom(2_000_000))
        yield running


@pytest.fixture
async def document(gateway: RunningGateway, http: aiohttp.ClientSession) -> Document:
    """Its description, as anybody gets it."""
    described: Document = await told(http, gateway, "/openapi.json", headers={})
    return described


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Yield each operation with its verb and path."""
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            yield verb.upper(), path, operation


def needs_key(operation: Document) -> bool:
    return operation.get("security") != []


def good_query(operation: Document) -> dict[str, str]:
    """Return the least query that is in order; of a test one that leaves something for the next."""
    wanted = [p for p in operation.get("parameters", ()) if p["required"] or p["name"] == "iterations"]
    return {parameter["name"]: str(parameter["schema"]["minimum"]) for parameter in wanted}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "$ref")
        part = list(part.values())
    if isinstance(part, list):
        for inside in part:
            yield from references(inside)


async def test_every_route_is_described_and_every_description_is_a_route(front: Front) -> None:
    """The document has the registered routes, by verb and path, and no other; HEAD goes with GET."""
    api = own_api(front)
    routes = {(verb, path) for path, endpoints in api.routes.items() for verb in endpoints if verb != "HEAD"}
    described = json.loads(api.document)
    assert routes == {(verb, path) for verb, path, _ in operations(described)}
    assert "/metrics" not in described["paths"]


async def test_the_document_holds_together(document: Document) -> None:
    """References lead somewhere, names of operations are unique, and nothing is described that is never used."""
    assert document["openapi"].startswith("3.1")
    named = set(references(document))
    there = {
        f"#/components/{kind}/{name}"
        for kind, parts in document["components"].items()
        if kind != "securitySchemes"
        for name in parts
    }
    assert named == there
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] for _, _, operation in operations(document))


async def test_every_operation_answers_as_described(
    gateway: RunningGateway, http: aiohttp.ClientSession, document: Document
) -> None:
    """With a key 200 of a described type, with described headers; without one 401, unless none is needed."""
    for verb, path, operation in operations(document):
        options: Any = {"method": verb, "params": good_query(operation)}
        status, headers, _ = await get(http, gateway, path, **options)
        described = operation["responses"]["200"]
        assert status == 200, path
        assert any(headers["Content-Type"].startswith(kind) for kind in described["content"]), path
        assert set(described.get("headers", ())) - {"X-QRNG-Bytes-Left-Today"} <= set(headers), path
        status, _, _ = await get(http, gateway, path, headers={}, **options)
        assert status == (401 if needs_key(operation) else 200), path


async def test_every_bound_is_the_real_one(
    gateway: RunningGateway, http: aiohttp.ClientSession, document: Document
) -> None:
    """The ends of a described range are taken, one beyond either is not; so it goes with each listed value."""
    for verb, path, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            schema, name = parameter["schema"], parameter["name"]
            good, bad = values_of(schema)
            for value in good:
                params = good_query(operation) | ({"max": str(2**63 - 1)} if name == "min" else {})
                params |= {"min": str(-(2**63))} if name == "max" else {}
                status, _, _ = await get(http, gateway, path, method=verb, params=params | {name: value})
                assert status in {200, 503}, (path, name, value)
            for value in bad:
                params = good_query(operation) | {name: value}
                assert (await get(http, gateway, path, method=verb, params=params))[0] == 400, (path, name, value)


def values_of(schema: Document) -> tuple[list[str], list[str]]:
    """Return values that a schema admits, and values that it does not."""
    if schema["type"] == "integer":
        low, high = schema["minimum"], schema["maximum"]
        return [str(low), str(high)], [str(low - 1), str(high + 1), "NaN", ""]
    if schema["type"] == "boolean":
        return ["true", "false"], ["1", "True", ""]
    return schema["enum"], ["", schema["enum"][0].upper()]


async def test_no_parameter_is_kept_secret(
    gateway: RunningGateway, http: aiohttp.ClientSession, document: Document
) -> None:
    """An endpoint that refuses an unknown parameter knows the described ones and no other."""
    for verb, path, operation in operations(document):
        if operation.get("parameters"):
            params = good_query(operation) | {"another": "1"}
            _, _, body = await get(http, gateway, path, method=verb, params=params)
            told_names = json.loads(body)["error"]["message"].removeprefix("there is a parameter beyond ").split(", ")
            assert told_names == [parameter["name"] for parameter in operation["parameters"]], path


async def test_every_error_is_of_our_tree(document: Document) -> None:
    """The described reasons are those of `ErrorReason` and of HTTP that REST can give, each with its own status."""
    reasons = set(document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["reason"]["enum"])
    published = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert reasons - HTTP_REASONS <= published
    ours = {str(ERRORS_BY_REASON[reason].http_status) for reason in reasons - HTTP_REASONS}
    described = {status for _, _, operation in operations(document) for status in operation["responses"]}
    assert described == {"200", "408", "413", "415"} | ours


async def test_the_document_is_of_this_gateway(http: aiohttp.ClientSession) -> None:
    """The header of a key, the key in the address, the limit and the metrics are as they were set."""
    settings: Any = {"api_key_header": "x-lab-key", "allow_api_key_in_query": False, "max_rest_bytes": 77}
    async with running_gateway(metrics_enabled=False, **settings) as gateway:
        described = await told(http, gateway, "/openapi.json", headers={})
        ways = described["components"]["securitySchemes"]
        assert ways["header"]["name"] == "x-lab-key"
        assert "query" not in ways
        (size,) = (p for p in described["paths"]["/api/random"]["get"]["parameters"] if p["name"] == "bytes")
        assert size["schema"]["maximum"] == 77
        assert "/metrics" not in described["paths"]
        assert (await get(http, gateway, "/metrics"))[0] == 404


async def test_the_page_for_people_has_everything_and_loads_nothing(
    gateway: RunningGateway, http: aiohttp.ClientSession, document: Document
) -> None:
    """Every operation and parameter is on it; its policy allows one style, by hash, and it has no other part."""
    status, headers, body = await get(http, gateway, "/docs", headers={})
    html = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for verb, path, operation in operations(document):
        assert f"<code>{verb} {path}</code>" in html
        assert all(f"<code>{parameter['name']}</code>" in html for parameter in operation.get("parameters", ()))
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy
    assert not re.search(r"<(script|img|link|iframe|object)|\son\w+=|style=|https?:", html)
    assert headers["Referrer-Policy"] == "no-referrer"


async def test_metrics_and_liveness_need_no_key(front: Front, http: aiohttp.ClientSession) -> None:
    """Prometheus reads `/metrics`; `/health/live` is 200 while `/health` is 503 for want of bytes."""
    assert (await get(http, front.gateway, "/health", headers={}))[0] == 503
    assert (await get(http, front.gateway, "/health/live", headers={}))[0] == 200
    await get(http, front.gateway, "/api/random?bytes=1")
    status, headers, body = await get(http, front.gateway, "/metrics", headers={})
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'qrng_calls_total{method="GET /api/random",status="503"} 1.0' in body
    assert b'qrng_calls_total{method="GET /health/live",status="200"} 1.0' in body


async def test_what_a_client_has_left_stands_in_every_reply(http: aiohttp.ClientSession) -> None:
    """Requests left count down, in replies and in refusals; one too many is 429 and told when to come back."""
    clock = ManualClock()
    async with running_gateway(rate_limit=2, address_rate_limit=1000, max_wait=0, clock=clock) as gateway:
        clock.advance(1)
        await gateway.push(os.urandom(100))
        _, first, _ = await get(http, gateway, "/api/random?bytes=1")
        _, second, _ = await get(http, gateway, "/api/random?bytes=x")
        assert (first["X-QRNG-Requests-Left"], second["X-QRNG-Requests-Left"]) == ("1", "0")
        status, headers, body = await get(http, gateway, "/api/status")
        assert (status, headers["X-QRNG-Requests-Left"], headers["Retry-After"]) == (429, "0", "1")
        assert json.loads(body)["error"]["retry_after_seconds"] == 1
        _, stranger, _ = await get(http, gateway, "/api/status", headers={})
        assert "X-QRNG-Requests-Left" not in stranger


ORIGIN = "https://lab.example:8443"


async def test_pages_of_other_origins_read_nothing_unless_listed(front: Front, http: aiohttp.ClientSession) -> None:
    """Without the setting no header of CORS is ever sent, and a preflight is a method that is not there."""
    await front.gateway.push(os.urandom(100))
    asks = bearer(front.gateway) | {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    for method, expected in (("GET", 200), ("OPTIONS", 405)):
        status, headers, _ = await get(http, front.gateway, "/api/random?bytes=1", method=method, headers=asks)
        assert status == expected
        assert not any(name.startswith("Access-Control") for name in headers)


async def test_pages_of_listed_origins_read_replies(http: aiohttp.ClientSession) -> None:
    """A listed origin is told its own name, never `*` and never that a browser may add credentials; others nothing."""
    async with running_gateway(cors_allowed_origins=[ORIGIN], max_wait=0) as gateway:
        await gateway.push(os.urandom(100))
        asks = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
        status, headers, body = await get(http, gateway, "/api/random?bytes=1", method="OPTIONS", headers=asks)
        assert (status, body, headers["Access-Control-Allow-Origin"]) == (204, b"", ORIGIN)
        assert headers["Access-Control-Allow-Headers"] == "authorization, content-type, api-key"
        for path, expected in (("/api/random?bytes=1", 200), ("/api/random", 400), ("/nothing", 404)):
            status, headers, _ = await get(http, gateway, path, headers=bearer(gateway) | {"Origin": ORIGIN})
            assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (expected, ORIGIN, "Origin")
            assert "X-QRNG-Source-Class" in headers["Access-Control-Expose-Headers"]
            assert "Access-Control-Allow-Credentials" not in headers
        for other in ("null", "https://lab.example", ORIGIN.upper(), f"{ORIGIN}.evil.example"):
            status, headers, _ = await get(
                http, gateway, "/api/random?bytes=1", headers=bearer(gateway) | {"Origin": other}
            )
            assert status == 200
            assert not any(name.startswith("Access-Control") for name in headers)
