"""The REST facade, as legacy clients use it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from structlog.testing import capture_logs

from qrng_gateway.observation.status import GatewayStatus
from qrng_grpc.chunk import BlockLabel, Heartbeat, Identity, SourceState
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, changing_client_file, digest_of
from qrng_grpc.config import host_and_port
from qrng_grpc.errors import ConfigError
from qrng_grpc.labels import Condition, SourceClass
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import running_gateway
from tests.integration.fronts import Front, signed_heartbeat
from tests.integration.rest_requests import bearer, get, own_rest, refusal, sent_raw
from tests.waiting import until


@pytest.mark.parametrize(
    ("encoding", "content_type", "decode"),
    [
        ("", "text/plain; charset=utf-8", lambda body: bytes.fromhex(body.decode())),
        ("&encoding=hex", "text/plain; charset=utf-8", lambda body: bytes.fromhex(body.decode())),
        ("&encoding=hexadecimal", "text/plain; charset=utf-8", lambda body: bytes.fromhex(body.decode())),
        ("&encoding=base64", "text/plain; charset=utf-8", base64.b64decode),
        ("&encoding=b64", "text/plain; charset=utf-8", base64.b64decode),
        ("&encoding=binary", "application/octet-stream", bytes),
        ("&encoding=raw", "application/octet-stream", bytes),
    ],
)
async def test_random_bytes_come_in_every_encoding(
    front: Front, http: aiohttp.ClientSession, encoding: str, content_type: str, decode: Any
) -> None:
    """The body is exactly the bytes asked for, in the encoding asked for; hex when none is."""
    data = os.urandom(33)
    await front.gateway.push(data)
    status, headers, body = await get(http, front.gateway, f"/api/random?bytes=33{encoding}")
    assert (status, headers["Content-Type"], decode(body)) == (200, content_type, data)


async def test_headers_say_what_the_bytes_are_and_keep_caches_out(front: Front, http: aiohttp.ClientSession) -> None:
    """Labels travel in X-QRNG- headers; no cache may keep a reply; the server does not advertise its parts."""
    await front.gateway.push(os.urandom(100))
    _, headers, _ = await get(http, front.gateway, "/api/random?bytes=10")
    assert headers["X-QRNG-Source-Class"] == "operating_system"
    assert headers["X-QRNG-Processing"] == "none"
    assert headers["X-QRNG-Custody"] == "local"
    assert headers["X-QRNG-Health-Verdict"] == "untested"
    assert headers["X-QRNG-Device-Id"] == "test-device"
    assert headers["X-QRNG-Collector-Id"] == front.gateway.collector_id
    assert int(headers["X-QRNG-Capture-Start-Ns"]) <= int(headers["X-QRNG-Capture-End-Ns"])
    assert int(headers["X-QRNG-Generation-Timestamp-Ns"]) > 0
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "qrng"


@pytest.mark.parametrize("size", [1, 65_536])
async def test_both_ends_of_the_range_are_served(front: Front, http: aiohttp.ClientSession, size: int) -> None:
    """1 and 65536 bytes are in range."""
    await front.gateway.push(os.urandom(70_000))
    status, _, body = await get(http, front.gateway, f"/api/random?bytes={size}&encoding=raw")
    assert (status, len(body)) == (200, size)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?bytes=",
        "?bytes=0",
        "?bytes=-1",
        "?bytes=65537",
        "?bytes=99999999999999999999",
        "?bytes=1.0",
        "?bytes=1e3",
        "?bytes=0x10",
        "?bytes=+5",
        "?bytes=%205",
        "?bytes=1_0",
        "?bytes=%EF%BC%95",
        "?bytes=%D9%A5",
        "?bytes=5&bytes=5",
        "?bytes=5&encoding=utf8",
        "?bytes=5&encoding=HEX",
        "?bytes=5&encoding=hex&encoding=raw",
    ],
)
async def test_bad_parameters_are_400_and_take_nothing(front: Front, http: aiohttp.ClientSession, query: str) -> None:
    """A size is decimal digits in range, an encoding one of six, each given once."""
    await front.gateway.push(os.urandom(100))
    status, reason, _ = await refusal(http, front.gateway, f"/api/random{query}")
    assert (status, reason) == (400, "INVALID_ARGUMENT")
    assert front.gateway.gateway.pool.level == 100


@pytest.mark.parametrize("path", ["/api/random?bytes=5", "/api/random", "/api/status"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer not-a-key-of-this-gateway"},
        {"Authorization": "Basic bm90LWEta2V5"},
    ],
)
async def test_without_a_right_key_all_are_told_the_same(
    front: Front, http: aiohttp.ClientSession, path: str, headers: dict[str, str]
) -> None:
    """401 with generic words, before parameters are looked at."""
    status, reason, told = await refusal(http, front.gateway, path, headers=headers)
    assert (status, reason, told["WWW-Authenticate"]) == (401, "INVALID_KEY", "Bearer")


async def test_the_key_may_stand_in_the_query(front: Front, http: aiohttp.ClientSession) -> None:
    """?api_key= opens as Bearer does; both at once, two, or an empty one do not."""
    await front.gateway.push(os.urandom(100))
    key = front.gateway.api_key
    path = f"/api/random?bytes=5&api_key={key}"
    assert (await get(http, front.gateway, path, headers={}))[0] == 200
    assert (await refusal(http, front.gateway, path))[0] == 401
    assert (await refusal(http, front.gateway, f"{path}&api_key={key}", headers={}))[0] == 401
    assert (await refusal(http, front.gateway, "/api/random?bytes=5&api_key=", headers={}))[0] == 401


async def test_the_key_in_the_query_can_be_switched_off(http: aiohttp.ClientSession) -> None:
    """Switched off, a key in the query is as good as none."""
    async with running_gateway(allow_api_key_in_query=False, max_wait=0) as gateway:
        await gateway.push(os.urandom(100))
        path = f"/api/random?bytes=5&api_key={gateway.api_key}"
        assert (await refusal(http, gateway, path, headers={}))[0] == 401
        assert (await get(http, gateway, path))[0] == 200


async def test_no_key_is_logged(
    front: Front, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a good request, nor a bad one, nor one that is no HTTP puts a key into a log."""
    caplog.set_level(logging.DEBUG)
    key = front.gateway.api_key
    for path in ("/api/random?bytes=5", "/api/random?bytes=x", "/nothing?x=1"):
        await get(http, front.gateway, f"{path}&api_key={key}", headers={})
    reader, writer = await asyncio.open_connection(*host_and_port(front.gateway.gateway.rest_address))
    writer.write(f"GET /api/random?api_key={key} HTTP/9.x\r\nHost: x\r\n\r\n".encode())
    assert b" 400 " in await reader.read()
    writer.close()
    await writer.wait_closed()
    assert key not in caplog.text
    assert key not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /api/random?bytes=4&api_key=%s HTTP/9.9",
        b"GET http://[%s/ HTTP/1.1",
        b"GET /health HTTP/1.1\r\nContent-Length: -1\r\nX-Key: %s",
        b"GET /?api_key=%s&x=" + b"x" * 9000 + b" HTTP/1.1",
        b"\x16\x03\x01%s",
        b"GET /api/random?bytes=4&api_key=%s HTTP/1.1\r\nTransfer-Encoding: nonsense",
    ],
)
async def test_a_broken_request_is_refused_in_our_words(front: Front, request_line: bytes) -> None:
    """What is no HTTP is 400 with our JSON, and nothing of it comes back, not even where it holds a key."""
    key = front.gateway.api_key.encode()
    reply = await sent_raw(front.gateway, request_line % key + b"\r\nHost: x\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["error"]["reason"] == "INVALID_ARGUMENT"
    assert b"cache-control: no-store" in head.lower()
    assert key not in reply
    assert b"aiohttp" not in reply


@pytest.mark.parametrize("end", [b"", b" HTTP/0.9"])
async def test_http_0_9_is_refused(front: Front, end: bytes) -> None:
    """A request without a version, or of 0.9, takes nothing, with the right key either."""
    await front.gateway.push(os.urandom(100))
    line = b"GET /api/random?bytes=4&api_key=%s" % front.gateway.api_key.encode()
    reply = await sent_raw(front.gateway, line + end + b"\r\n\r\n")
    assert b" 400 " in reply.splitlines()[0]
    assert front.gateway.gateway.pool.counters.served == 0


async def test_status_shows_what_a_collector_says_of_itself(front: Front, http: aiohttp.ClientSession) -> None:
    """A heartbeat's numbers and source states stand in /api/status, and a source in quarantine among the warnings."""
    gateway = front.gateway
    identity = Identity(gateway.collector_id, gateway.pool_id, gateway.epoch, 1)
    ill = SourceState("dev-1", SourceClass.HARDWARE, Condition.QUARANTINED, 4)
    await gateway.push_signed([signed_heartbeat(gateway, Heartbeat(identity, time.time_ns(), (ill,), queued=5))])
    _, _, body = await get(http, gateway, "/api/status")
    status = json.loads(body)
    (collector,) = status["collectors"]
    assert collector["queued_bytes"] == 5
    assert collector["sources"] == [
        {"device_id": "dev-1", "source_class": "hardware", "condition": "quarantined", "fetched_bytes": 4}
    ]
    assert collector["last_heartbeat"].startswith("20")
    assert f"source dev-1 of collector {gateway.collector_id} is in quarantine" in status["warnings"]


async def test_a_short_pool_is_503_with_retry_after(front: Front, http: aiohttp.ClientSession) -> None:
    """Retry-After is whole seconds, rounded up, and stands in the body too."""
    status, reason, headers = await refusal(http, front.gateway, "/api/random?bytes=5")
    assert (status, reason) == (503, "POOL_SHORT")
    assert int(headers["Retry-After"]) >= 1


async def test_only_weaker_bytes_are_not_served(http: aiohttp.ClientSession) -> None:
    """The gateway's least class binds REST, which cannot state one."""
    async with running_gateway(best_class="quantum", max_wait=0) as gateway:
        await gateway.push(os.urandom(100), label=BlockLabel(("os",), SourceClass.OPERATING_SYSTEM))
        assert (await refusal(http, gateway, "/api/random?bytes=5"))[:2] == (503, "POOL_SHORT")


async def test_a_full_line_is_429(http: aiohttp.ClientSession) -> None:
    """Over a bound is told apart from an empty pool."""
    async with running_gateway(max_wait=60, max_waiting=1) as gateway:
        first = asyncio.create_task(get(http, gateway, "/api/random?bytes=5"))
        await until(lambda: gateway.gateway.pool.waiting == 1)
        status, reason, headers = await refusal(http, gateway, "/api/random?bytes=5")
        assert (status, reason) == (429, "LIMIT_EXCEEDED")
        assert int(headers["Retry-After"]) >= 1
        await gateway.push(os.urandom(5))
        assert (await first)[0] == 200


async def test_a_client_that_leaves_while_waiting_takes_nothing(http: aiohttp.ClientSession) -> None:
    """A closed connection gives up its place in line."""
    async with running_gateway(max_wait=60) as gateway:
        waiting = asyncio.create_task(get(http, gateway, "/api/random?bytes=5"))
        await until(lambda: gateway.gateway.pool.waiting == 1)
        waiting.cancel()
        await until(lambda: gateway.gateway.pool.waiting == 0)
        await gateway.push(os.urandom(5))
        assert gateway.gateway.pool.level == 5


def traced(headers: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield `headers` again and again, each time with another id of a trace."""
    return (headers | {"Traceparent": f"00-{number:032x}-{number:016x}-01"} for number in count(1))


def alike(headers: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield `headers` again and again."""
    return repeat(headers)


again = pytest.mark.parametrize("again", [alike, traced])
Again = Callable[[dict[str, str]], Iterator[dict[str, str]]]


@again
async def test_a_request_that_came_before_counts_like_any_other(http: aiohttp.ClientSession, again: Again) -> None:
    """The same request again gets other bytes, is counted, and is refused when its client has sent too many."""
    clock = ManualClock()
    async with running_gateway(rate_limit=3, address_rate_limit=1000, max_wait=0, clock=clock) as gateway:
        clock.advance(1)
        data = os.urandom(15)
        await gateway.push(data)
        asks = islice(again(bearer(gateway)), 4)
        replies = [await get(http, gateway, "/api/random?bytes=5&encoding=raw", headers=headers) for headers in asks]
        assert b"".join(body for _, _, body in replies[:3]) == data
        assert [headers["X-QRNG-Requests-Left"] for _, headers, _ in replies] == ["2", "1", "0", "0"]
        assert [status for status, _, _ in replies] == [200, 200, 200, 429]
        _, _, metrics = await get(http, gateway, "/metrics", headers={})
        assert b'qrng_calls_total{method="GET /api/random",status="200"} 3.0' in metrics
        assert b'qrng_calls_total{method="GET /api/random",status="429"} 1.0' in metrics


@again
async def test_a_key_that_is_withdrawn_opens_nothing_again(
    tmp_path: Path, http: aiohttp.ClientSession, again: Again
) -> None:
    """However often a request was answered, it is not once its key was revoked."""
    file, key = tmp_path / "clients.yaml", "a-key-that-will-be-revoked"
    with changing_client_file(file) as records:
        records.append(ClientRecord(Client("leaver"), (KeyDigest(digest_of(key)),)))
    async with running_gateway(api_keys_file=file, max_wait=0) as gateway:
        await gateway.push(os.urandom(100))
        headers = again({"Authorization": f"Bearer {key}"})
        for _ in range(3):
            assert (await get(http, gateway, "/api/random?bytes=5", headers=next(headers)))[0] == 200
        with changing_client_file(file) as records:
            records[0] = replace(records[0], revoked=True)
        gateway.gateway.reload()
        assert (await refusal(http, gateway, "/api/random?bytes=5", headers=next(headers)))[0] == 401
        assert gateway.gateway.pool.level == 85


@again
@pytest.mark.parametrize("key_header", ["Authorization", "Api-Key"])
async def test_a_request_that_came_before_needs_its_key_again(
    front: Front, http: aiohttp.ClientSession, again: Again, key_header: str
) -> None:
    """The same request with no key, a wrong one, the right one twice or another besides is refused, in any order."""
    await front.gateway.push(os.urandom(100))
    right, path = bearer(front.gateway)["Authorization"].removeprefix("Bearer "), "/api/random?bytes=5"
    wrong = [[], [f"{right}x"], [right, right], [right, "another"], ["another", right]]
    prefix = "Bearer " if key_header == "Authorization" else ""
    ids = again({})
    for keys in ([right], *wrong, [right], *wrong):
        headers = CIMultiDict([*next(ids).items(), *((key_header, f"{prefix}{key}") for key in keys)])
        status, _, _ = await get(http, front.gateway, path, headers=headers)
        assert status == (200 if keys == [right] else 401)


async def test_unknown_paths_and_methods_have_the_same_shape(front: Front, http: aiohttp.ClientSession) -> None:
    """404 and 405 are JSON as every error is, 405 with Allow; HEAD must not claim bytes to throw them away."""
    await front.gateway.push(os.urandom(100))
    assert (await refusal(http, front.gateway, "/nothing"))[:2] == (404, "NOT_FOUND")
    status, reason, headers = await refusal(http, front.gateway, "/api/random?bytes=5", method="POST")
    assert (status, reason, headers["Allow"]) == (405, "METHOD_NOT_ALLOWED", "GET")
    status, _, _ = await get(http, front.gateway, "/api/random?bytes=5", method="HEAD")
    assert status == 405
    assert front.gateway.gateway.pool.level == 100


async def test_status_has_the_fields_legacy_clients_read(front: Front, http: aiohttp.ClientSession) -> None:
    """Fill, freshness, totals, rate and warnings, under their old names."""
    _, _, body = await get(http, front.gateway, "/api/status")
    before = json.loads(body)
    assert (before["status"], before["last_data_received"], before["data_freshness_seconds"]) == (
        "unhealthy",
        None,
        None,
    )
    await front.gateway.push(os.urandom(5_000_000))
    await get(http, front.gateway, "/api/random?bytes=100")
    _, headers, body = await get(http, front.gateway, "/api/status")
    after = json.loads(body)
    assert headers["Content-Type"].startswith("application/json")
    assert after["status"] == "healthy"
    pooled = 5_000_000 - after["accounting"]["set_aside"] - 100
    assert after["buffer_bytes_available"] == pooled
    assert after["buffer_fill_percent"] == pytest.approx(pooled / 100_000)
    assert after["inflow_bytes_per_second"] >= after["outflow_bytes_per_second"] >= 0
    assert after["forecast_seconds_left"] is None
    assert after["last_data_received"].endswith("+00:00")
    assert 0 <= after["data_freshness_seconds"] < 60
    assert 0 <= after["uptime_seconds"] < 60
    assert (after["total_requests_served"], after["total_bytes_served"]) == (1, 100)
    assert after["requests_per_second"] <= 1
    assert after["warnings"] == []
    assert (after["watermark"], after["pool_id"]) == ("medium", front.gateway.pool_id)
    assert after["accounting"]["stored"] == 5_000_000


async def test_health_needs_no_key(front: Front, http: aiohttp.ClientSession) -> None:
    """503 while there is nothing to serve, 200 when there is."""
    assert (await get(http, front.gateway, "/health", headers={}))[0] == 503
    await front.gateway.push(os.urandom(100))
    assert (await get(http, front.gateway, "/health", headers={}))[0] == 200
    assert (await get(http, front.gateway, "/health", headers={}, method="HEAD"))[0] == 200


class BrokenObserver:
    """Looks, and fails in a way nobody foresaw."""

    def status(self) -> GatewayStatus:
        raise ZeroDivisionError("a text that must not travel")


async def test_a_fault_of_ours_tells_nothing(front: Front, http: aiohttp.ClientSession) -> None:
    """An unforeseen exception is a 500 without its text, and one log line without it too."""
    with capture_logs() as logs:
        async with own_rest(front, observer=BrokenObserver()) as address:  # type: ignore[arg-type]
            headers = bearer(front.gateway)
            async with http.get(f"http://{address}/api/status", headers=headers) as response:
                assert response.status == 500
                assert "must not travel" not in await response.text()
    assert logs == [{"event": "request_failed", "fault": "ZeroDivisionError", "log_level": "error"}]


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: "])
async def test_a_connection_that_brings_no_whole_request_is_closed(front: Front, sent: bytes) -> None:
    """Nobody holds a connection, which needs no key, by saying nothing or half a sentence."""
    async with own_rest(front, idle_s=0.1) as address:
        reader, writer = await asyncio.open_connection(*host_and_port(address))
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()


async def test_connections_are_bounded(front: Front, http: aiohttp.ClientSession) -> None:
    """One connection too many is closed at once; those that are open are served."""
    async with own_rest(front, max_connections=1) as address:
        async with http.get(f"http://{address}/health") as response:
            assert response.status == 503
        reader, writer = await asyncio.open_connection(*host_and_port(address))
        assert await reader.read() == b""
        writer.close()
        async with http.get(f"http://{address}/health") as response:
            assert response.status == 503


async def test_an_address_in_use_is_a_mistake_of_the_configuration(front: Front) -> None:
    """Two servers never share a port by accident; the second says which address it is."""
    address = front.gateway.gateway.rest_address
    with pytest.raises(ConfigError, match=address):
        async with running_gateway(rest_listen_address=address):
            raise AssertionError("it listens where another does")
