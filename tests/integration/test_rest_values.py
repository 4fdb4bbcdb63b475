"""Integers, floats and UUIDs over REST, and what a client may demand of the bytes they are made of."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from typing import Any

import aiohttp
import pytest

from qrng_grpc import values
from qrng_grpc.chunk import BlockLabel
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.clock import ManualClock
from qrng_grpc.testing.gateway import running_gateway
from tests.integration.fronts import Front
from tests.integration.rest_requests import get, refusal, told
from tests.waiting import until

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
ENDPOINTS = ("/api/random?bytes=5", "/api/integers?count=5", "/api/floats?count=5", "/api/uuid?count=5")


def made_of(data: bytes, count: int, low: int, high: int) -> list[int]:
    """Return the integers that the one place of arithmetic makes of the first bytes of `data`."""
    integers = values.Integers(count, low, high)
    integers.feed(data[: integers.bytes_needed])
    return integers.values


@pytest.mark.parametrize(
    ("query", "count", "low", "high"),
    [
        ("count=1", 1, 0, 100),
        ("count=1000", 1000, 0, 100),
        ("count=10&min=1&max=6", 10, 1, 6),
        ("count=10&min=-6&max=-1", 10, -6, -1),
        ("count=10&min=0&max=255", 10, 0, 255),
        (f"count=1000&min={INT64_MIN}&max={INT64_MAX}", 1000, INT64_MIN, INT64_MAX),
        (f"count=10&min={INT64_MIN}&max={INT64_MIN + 1}", 10, INT64_MIN, INT64_MIN + 1),
        (f"count=10&min={INT64_MAX - 1}&max={INT64_MAX}", 10, INT64_MAX - 1, INT64_MAX),
        (f"count=10&min={INT64_MIN}&max=0", 10, INT64_MIN, 0),
    ],
)
async def test_integers_are_made_by_the_shared_arithmetic(
    front: Front, http: aiohttp.ClientSession, query: str, count: int, low: int, high: int
) -> None:
    """A JSON array of `count` integers, both bounds inclusive, from 0 to 100 by default, extremes of int64 included."""
    data = os.urandom(20_000)
    await front.gateway.push(data)
    drawn = await told(http, front.gateway, f"/api/integers?{query}")
    assert drawn == made_of(data, count, low, high)
    assert all(low <= integer <= high for integer in drawn)


async def test_a_range_of_one_value_takes_no_bytes(front: Front, http: aiohttp.ClientSession) -> None:
    """Where nothing is left to chance nothing is claimed, and the reply has no label."""
    status, headers, body = await get(http, front.gateway, "/api/integers?count=3&min=-7&max=-7")
    assert (status, json.loads(body)) == (200, [-7, -7, -7])
    assert "X-QRNG-Source-Class" not in headers


async def test_integers_that_are_rejected_are_drawn_anew(front: Front, http: aiohttp.ClientSession) -> None:
    """Bytes beyond the last whole multiple of the range are used up, and others taken; the reply is of those alone."""
    needed = values.Integers(1, 0, 100).bytes_needed
    good = os.urandom(needed - 1) + b"\0"
    await front.gateway.push(b"\xff" * needed)
    await front.gateway.push(good)
    assert await told(http, front.gateway, "/api/integers?count=1") == made_of(good, 1, 0, 100)
    assert front.gateway.gateway.pool.counters.served == 2 * needed


async def test_when_bytes_run_out_on_the_way_nothing_is_handed_out(front: Front, http: aiohttp.ClientSession) -> None:
    """A rejection that finds the pool short is 503, without a value."""
    await front.gateway.push(b"\xff" * values.Integers(5, 0, 100).bytes_needed)
    assert (await refusal(http, front.gateway, "/api/integers?count=5"))[:2] == (503, "POOL_SHORT")


async def test_a_stuck_source_does_not_drain_the_pool(front: Front, http: aiohttp.ClientSession) -> None:
    """Bytes that are rejected again and again are no fair ones: after four draws the gateway gives up, with 500."""
    await front.gateway.push(b"".join(b"\xff\xff\xff\xff" + bytes([last]) for last in range(250, 256)))
    assert (await refusal(http, front.gateway, "/api/integers?count=1"))[:2] == (500, "INTERNAL")
    assert front.gateway.gateway.pool.counters.served == 4 * values.Integers(1, 0, 100).bytes_needed


@pytest.mark.parametrize("count", [1, 1000])
async def test_floats_have_53_bits_each(front: Front, http: aiohttp.ClientSession, count: int) -> None:
    """A JSON array of `count` floats in [0, 1), each exact."""
    data = os.urandom(8000)
    await front.gateway.push(data)
    drawn = await told(http, front.gateway, f"/api/floats?count={count}")
    assert drawn == values.floats(data[: 7 * count])
    assert all(0 <= number < 1 and number * 2**53 == int(number * 2**53) for number in drawn)


async def test_one_uuid_is_text_and_several_are_an_array(front: Front, http: aiohttp.ClientSession) -> None:
    """Version 4, one by default."""
    data = os.urandom(4000)
    await front.gateway.push(data)
    made = [str(one) for one in values.uuids(data[: 16 * 102])]
    for path, expected in (("/api/uuid", made[0]), ("/api/uuid?count=1", made[1])):
        status, headers, body = await get(http, front.gateway, path)
        assert (status, headers["Content-Type"], body.decode()) == (200, "text/plain; charset=utf-8", expected)
    several = await told(http, front.gateway, "/api/uuid?count=100")
    assert several == made[2:]
    assert {uuid.UUID(one).version for one in several} == {4}


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_every_reply_says_what_its_bytes_were(front: Front, http: aiohttp.ClientSession, path: str) -> None:
    """Class and capture time stand in the headers of every endpoint that hands bytes out; no part may be asked for."""
    await front.gateway.push(os.urandom(1000), capture_start_ns=front.gateway.clock.now_ns())
    status, headers, body = await get(http, front.gateway, path)
    assert (status, headers["X-QRNG-Source-Class"]) == (200, "operating_system")
    assert 0 < int(headers["X-QRNG-Capture-Start-Ns"]) <= int(headers["X-QRNG-Capture-End-Ns"])
    assert (headers["Cache-Control"], headers["Accept-Ranges"]) == ("no-store", "none")
    ranged = {"Authorization": f"Bearer {front.gateway.api_key}", "Range": "bytes=0-1"}
    status, headers, again = await get(http, front.gateway, path, headers=ranged)
    assert status == 200 and "Content-Range" not in headers
    assert again != body


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/integers", "count"),
        ("/api/integers?count=0", "count"),
        ("/api/integers?count=-1", "count"),
        ("/api/integers?count=1001", "count"),
        ("/api/integers?count=NaN", "count"),
        ("/api/integers?count=Infinity", "count"),
        ("/api/integers?count=1.0", "count"),
        ("/api/integers?count=01", "count"),
        ("/api/integers?count=%FF%FE", "count"),
        ("/api/integers?count=5%00", "count"),
        ("/api/integers?count=5%0A", "count"),
        ("/api/integers?count=%D9%A5", "count"),
        ("/api/integers?count=1&count=1", "count"),
        (f"/api/integers?count=1&min={INT64_MIN - 1}", "min"),
        (f"/api/integers?count=1&max={INT64_MAX + 1}", "max"),
        ("/api/integers?count=1&max=" + "9" * 3000, "max"),
        ("/api/integers?count=1&min=-0", "min"),
        ("/api/integers?count=1&min=101", "min"),
        ("/api/integers?count=1&min=1&max=0", "min"),
        ("/api/floats?count=0", "count"),
        ("/api/floats?count=1001", "count"),
        ("/api/floats?count=nan", "count"),
        ("/api/uuid?count=0", "count"),
        ("/api/uuid?count=101", "count"),
        ("/api/uuid?count=", "count"),
        ("/api/random?bytes=1&least_class=QUANTUM", "least_class"),
        ("/api/random?bytes=1&least_class=", "least_class"),
        ("/api/random?bytes=1&max_age_ms=-1", "max_age_ms"),
        (f"/api/random?bytes=1&max_age_ms={INT64_MAX + 1}", "max_age_ms"),
        ("/api/random?bytes=1&fresh=1", "fresh"),
        ("/api/random?bytes=1&fresh=", "fresh"),
        ("/api/integers?count=1&min=5&max=5&fresh=maybe", "fresh"),
        ("/api/random?bytes=1&min_class=quantum", None),
        ("/api/random?bytes=1&%FF=1", None),
        ("/api/random?bytes=1&=1", None),
        ("/api/uuid?bytes=1", None),
    ],
)
async def test_bad_parameters_are_400_and_named(
    front: Front, http: aiohttp.ClientSession, path: str, field: str | None
) -> None:
    """What is out of range, not plain, there twice or unknown is refused by our name for it, and takes nothing."""
    await front.gateway.push(os.urandom(100))
    status, _, body = await get(http, front.gateway, path)
    error = json.loads(body)["error"]
    assert (status, error["reason"], error.get("field")) == (400, "INVALID_ARGUMENT", field)
    assert front.gateway.gateway.pool.counters.served == 0


async def test_no_reply_takes_more_than_the_gateway_gives_at_once(http: aiohttp.ClientSession) -> None:
    """`max_rest_bytes` binds values as it binds bytes."""
    async with running_gateway(max_rest_bytes=32, max_wait=0) as gateway:
        await gateway.push(os.urandom(1000))
        for path in ("/api/random?bytes=33", "/api/integers?count=100", "/api/floats?count=5", "/api/uuid?count=3"):
            assert (await refusal(http, gateway, path))[0] == 400
        assert (await get(http, gateway, "/api/uuid?count=2"))[0] == 200


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_client_may_state_the_least_class(http: aiohttp.ClientSession, path: str) -> None:
    """Weaker bytes are not served under a better name, and which of two is told by the reason."""
    async with running_gateway(best_class="hardware", least_class="simulated", max_wait=0) as gateway:
        await gateway.push(os.urandom(1000), label=BlockLabel(("os",), SourceClass.OPERATING_SYSTEM))
        assert (await get(http, gateway, f"{path}&least_class=operating_system"))[0] == 200
        assert (await refusal(http, gateway, f"{path}&least_class=hardware"))[:2] == (503, "POOL_SHORT")
        status, reason, headers = await refusal(http, gateway, f"{path}&least_class=quantum")
        assert (status, reason, headers["Retry-After"]) == (503, "WEAKER_SOURCE", "10")


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_client_may_state_the_greatest_age(http: aiohttp.ClientSession, path: str) -> None:
    """Bytes captured longer ago are left where they are; 0 and the greatest number accept all."""
    clock = ManualClock()
    async with running_gateway(clock=clock, max_wait=0) as gateway:
        clock.advance(1)
        await gateway.push(os.urandom(1000))
        clock.advance(60)
        assert (await refusal(http, gateway, f"{path}&max_age_ms=59999"))[:2] == (503, "POOL_SHORT")
        for max_age_ms in (60_001, INT64_MAX, 0):
            assert (await get(http, gateway, f"{path}&max_age_ms={max_age_ms}"))[0] == 200


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_client_may_demand_fresh_bytes(http: aiohttp.ClientSession, path: str) -> None:
    """Fresh bytes are waited for: what was there before stays there."""
    async with running_gateway(max_wait=0, max_fresh_wait=30) as gateway:
        await gateway.push(os.urandom(500))
        asked_ns = gateway.clock.now_ns()
        waiting: asyncio.Task[Any] = asyncio.create_task(get(http, gateway, f"{path}&fresh=true"))
        await until(lambda: gateway.gateway.pool.waiting == 1)
        await gateway.push(os.urandom(500))
        status, headers, _ = await waiting
        assert status == 200
        assert int(headers["X-QRNG-Capture-Start-Ns"]) > asked_ns
        assert (await get(http, gateway, f"{path}&fresh=false"))[0] == 200
