"""Clients of REST that send too much, too slowly or nonsense, or never read: they end, and others are served."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest

from qrng_grpc.config import host_and_port
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from tests.integration.fronts import Front
from tests.integration.rest_requests import bearer, get, own_rest, refusal, sent_raw, told

MONTE_CARLO = "/api/test/monte-carlo"
JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def connection(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect with the least of a receive buffer; leave without asking the gateway whether it minds."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, host_and_port(address))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def flood(address: str, lines: list[bytes]) -> bytes:
    """Send `lines` until the gateway has had enough; return what it said, if that could still be read."""
    async with connection(address) as (reader, writer):
        reply = asyncio.create_task(reader.read())
        with suppress(ConnectionError):
            for line in lines:
                writer.write(line)
                await writer.drain()
        with suppress(ConnectionError):
            return await reply
    return b""


@pytest.mark.parametrize(
    "headers",
    [
        [b"X-Much: "] + [b"x" * 65_536] * 160,
        [b"X-%d: %s\r\n" % (number, b"x" * 4000) for number in range(2600)],
        [b"X-%d: 1\r\n" % number for number in range(1_000_000)],
    ],
    ids=["one of 10 MB", "10 MB in lines that are in order", "a million"],
)
async def test_headers_are_bounded(front: Front, http: aiohttp.ClientSession, headers: list[bytes]) -> None:
    """Ten megabytes of headers are refused after a small part of them, without a key being looked at."""
    reply = await flood(front.gateway.gateway.rest_address, [b"GET /health HTTP/1.1\r\nHost: x\r\n", *headers])
    assert not reply or (b" 400 " in reply.splitlines()[0] and b"INVALID_ARGUMENT" in reply)
    assert (await get(http, front.gateway, "/health/live"))[0] == 200


async def test_as_many_headers_as_a_client_needs_are_served(front: Front, http: aiohttp.ClientSession) -> None:
    """Fifty headers of a kilobyte are nobody's attack."""
    many = {f"X-Header-{number}": "x" * 1000 for number in range(50)}
    assert (await get(http, front.gateway, "/health/live", headers=many))[0] == 200


async def test_a_client_that_drips_its_request_is_closed(front: Front) -> None:
    """Each byte buys no more time: a request that is not whole in time never will be."""
    async with own_rest(front, idle_s=0.2) as address, connection(address) as (reader, writer):
        ended = asyncio.create_task(reader.read())
        writer.write(b"GET /health HTTP/1.1\r\nX-Slow: ")
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=0.02)
        with suppress(ConnectionError):
            assert await ended == b""


async def test_a_client_that_never_reads_is_closed(front: Front, http: aiohttp.ClientSession) -> None:
    """Replies that nobody takes hold a connection no longer than a request that nobody sends."""
    await front.gateway.push(os.urandom(1_000_000))
    line = b"GET /api/random?bytes=65536 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
    async with (
        own_rest(front, idle_s=0.2, max_connections=1) as address,
        connection(address) as (_, writer),
    ):
        writer.write(line % front.gateway.api_key.encode() * 100)
        status = None
        while status is None:  # one connection is all there is, and it is taken until the gateway has had enough
            with suppress(aiohttp.ClientError):
                async with http.get(f"http://{address}/health/live") as response:
                    status = response.status
        assert status == 200


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /api/random?bytes=\xff HTTP/1.1",
        b"GET /\xff\xfe HTTP/1.1",
        b"GET /api/random?bytes=5%00 HTTP/1.1",
        b"GET /api/random?bytes=%zz HTTP/1.1",
        b"GET /api/%72andom?bytes=x HTTP/1.1",
        b"GET //api/random HTTP/1.1",
        b"GET /../api/random HTTP/1.1",
        b"GET /api/status HTTP/1.1\r\nAuthorization: Bearer \xff\xfe",
    ],
)
async def test_what_is_no_text_is_refused(front: Front, request_line: bytes) -> None:
    """Bytes that are no UTF-8, or no address, end in a refusal of our shape and never in a fault of ours."""
    key = front.gateway.api_key.encode()
    ours = b"" if b"Authorization" in request_line else b"Authorization: Bearer %s\r\n" % key
    reply = await sent_raw(front.gateway, request_line + b"\r\nHost: x\r\nConnection: close\r\n" + ours + b"\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert int(head.split()[1]) in {400, 401, 404}
    assert set(json.loads(body)["error"]) >= {"reason", "message"}
    assert front.gateway.gateway.pool.counters.served == 0


@pytest.fixture
async def testing() -> AsyncIterator[RunningGateway]:
    """A gateway with bytes for tests."""
    async with running_gateway(quality_reservoir_size=1 << 20, max_wait=0) as gateway:
        await gateway.push(os.urandom(1_000_000))
        yield gateway


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"{}", {"Content-Type": "text/plain"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b"iterations=10", {"Content-Type": "application/x-www-form-urlencoded"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b"{}", {"Content-Type": "nonsense"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b"\x1f\x8b\x08", JSON | {"Content-Encoding": "gzip"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b"{}" + b" " * 1100, JSON, (413, "TOO_LARGE")),
        (b"not JSON", JSON, (400, "INVALID_ARGUMENT")),
        (b"[" * 1000, JSON, (400, "INVALID_ARGUMENT")),
        (b"null", JSON, (400, "INVALID_ARGUMENT")),
        (b"[10]", JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": "10"}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": true}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": null}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": 1.5}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": NaN}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": -Infinity}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": 1e308}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": 1e999}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": %s}' % (b"9" * 900), JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": 0}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": 10000001}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"iterations": 10, "iterations": 10}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"rounds": 10}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"source_class": 1}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"source_class": "best"}', JSON, (400, "INVALID_ARGUMENT")),
        (b'{"\xff": 1}', JSON, (400, "INVALID_ARGUMENT")),
    ],
)
async def test_a_body_is_a_small_json_object_or_refused(
    testing: RunningGateway,
    http: aiohttp.ClientSession,
    body: bytes,
    headers: dict[str, str],
    expected: tuple[int, str],
) -> None:
    """A body of another type is 415, one beyond a kilobyte 413, one of another shape 400; no test is run."""
    headers = bearer(testing) | headers
    refused = await refusal(http, testing, MONTE_CARLO, method="POST", data=body, headers=headers)
    assert refused[:2] == expected


async def test_a_body_that_does_not_come_is_408(testing: RunningGateway) -> None:
    """Who announces a body and does not send it is not waited for."""
    head = f"POST {MONTE_CARLO} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {testing.api_key}\r\n"
    reply = await sent_raw(testing, f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode())
    assert b" 408 " in reply.splitlines()[0]
    assert b"TIMEOUT" in reply


async def test_a_body_that_is_no_http_is_400(testing: RunningGateway) -> None:
    """A body that breaks the rules of HTTP is the client's mistake and not ours."""
    head = f"POST {MONTE_CARLO} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {testing.api_key}\r\n"
    reply = await sent_raw(testing, f"{head}Transfer-Encoding: chunked\r\n\r\nnonsense\r\n".encode())
    assert b" 400 " in reply.splitlines()[0]


async def test_no_endpoint_waits_for_a_body_it_does_not_want(front: Front) -> None:
    """A GET that announces a gigabyte is answered at once, and its connection closed."""
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    assert b" 200 " in (await sent_raw(front.gateway, request)).splitlines()[0]


@pytest.mark.parametrize("expects", ["100-continue", "a-miracle"])
async def test_what_a_client_expects_is_not_repeated(front: Front, expects: str) -> None:
    """A client that waits for leave to send its body gets it; other expectations are ignored."""
    lines = f"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: {expects}\r\n\r\n"
    reply = await sent_raw(front.gateway, lines.encode())
    assert (b"100 Continue" in reply) == (expects == "100-continue")
    assert b" 200 " in reply
    elsewhere = await sent_raw(front.gateway, lines.replace("/health/live", "/nothing").encode())
    assert json.loads(elsewhere.rpartition(b"\r\n\r\n")[2])["error"]["reason"] in {"NOT_FOUND", "INVALID_ARGUMENT"}
    assert b"miracle" not in reply + elsewhere


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/random?bytes=1", "GET"),
        ("HEAD", "/api/integers?count=1", "GET"),
        ("OPTIONS", "/api/floats?count=1", "GET"),
        ("PUT", "/api/uuid", "GET"),
        ("DELETE", "/api/status", "GET"),
        ("PATCH", MONTE_CARLO, "GET,POST"),
        ("POST", "/health", "GET,HEAD"),
        ("POST", "/metrics", "GET,HEAD"),
        ("TRACE", "/openapi.json", "GET,HEAD"),
    ],
)
async def test_other_methods_are_405_and_told_which_there_are(
    front: Front, http: aiohttp.ClientSession, method: str, path: str, allowed: str
) -> None:
    """405 names the methods of that path in Allow."""
    status, headers, _ = await get(http, front.gateway, path, method=method)
    assert (status, headers["Allow"]) == (405, allowed)


async def test_a_test_takes_nothing_from_the_pool(testing: RunningGateway, http: aiohttp.ClientSession) -> None:
    """Monte Carlo runs on what was set aside, makes do with that and destroys it; no client has a byte less."""
    before = testing.gateway.pool.level
    first = await told(http, testing, MONTE_CARLO)
    assert (first["iterations_requested"], first["iterations_used"]) == (1_000_000, 10_000 // 8)
    assert first["source_class"] == "operating_system"
    assert 0 < first["estimated_pi"] < 4
    assert first["confidence_interval"]["low"] < first["estimated_pi"] < first["confidence_interval"]["high"]
    assert first["quantum_vs_pseudo"].keys() == {"sample", "pseudo"}
    assert len(first["scatter_plot_data"]["inside"]) + len(first["scatter_plot_data"]["outside"]) == 1000
    assert testing.gateway.pool.level == before
    assert (await refusal(http, testing, MONTE_CARLO))[:2] == (503, "POOL_SHORT")


@pytest.mark.parametrize(
    ("method", "query", "body"),
    [
        ("GET", "?iterations=100", None),
        ("POST", "?iterations=100", None),
        ("POST", "", b'{"iterations": 100}'),
        ("POST", "", b'{"iterations": 1e2, "source_class": "operating_system"}'),
        ("POST", "?source_class=operating_system", b'{"iterations": 100.0}'),
    ],
)
async def test_iterations_may_stand_in_the_address_or_in_the_body(
    testing: RunningGateway, http: aiohttp.ClientSession, method: str, query: str, body: bytes | None
) -> None:
    """GET and POST do the same; what is left over stays for the next test."""
    headers = bearer(testing) | (JSON if body else {})
    done = await told(http, testing, MONTE_CARLO + query, method=method, data=body, headers=headers)
    assert (done["iterations_requested"], done["iterations_used"]) == (100, 100)


async def test_where_nothing_is_set_aside_there_are_no_tests(http: aiohttp.ClientSession) -> None:
    """A gateway without a reservoir says that it has none, and not that it should be asked again."""
    async with running_gateway(quality_reservoir_size=0) as gateway:
        await gateway.push(os.urandom(1_000_000))
        status, reason, headers = await refusal(http, gateway, MONTE_CARLO)
        assert (status, reason) == (501, "UNSUPPORTED")
        assert "Retry-After" not in headers
