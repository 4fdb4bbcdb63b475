"""HTTP/2 by clients without manners: nobody else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import count

import pytest

from qrng_gateway.fronts.calls import MAX_UNREAD
from qrng_grpc.config import host_and_port
from qrng_grpc.serving import MAX_CONNECTIONS
from tests.chaos.raw_client import (
    CHECK_HEALTH,
    ENHANCE_YOUR_CALM,
    GET_ENTROPY,
    INITIAL_WINDOW_SIZE,
    STREAM,
    SUBSCRIBE,
    RawClient,
    call,
    continuation,
    hpack_bomb,
    settings,
    unfinished_headers,
    window_update,
)
from tests.chaos.raw_gateway import DATA, END_STREAM, PING, RST_STREAM, frame, headers, message, reset
from tests.chaos.siege import ANSWERS, Attack, Siege
from tests.programs import health

CANCEL = 8
BREATH = 20
"""Frames an attack sends before others in this process have their turn."""


def odd(most: int) -> Iterator[int]:
    """Return the ids of a client's first `most` streams."""
    return iter(range(1, 2 * most, 2))


async def fire(client: RawClient, frames: Iterator[bytes]) -> int:
    """Send `frames` while the gateway takes them, and let others have their turn. Returns how many it took."""
    for sent in count():
        shot = next(frames, None)
        if shot is None or not await client.send(shot):
            return sent
        if sent % BREATH == 0:
            await asyncio.sleep(0)
    raise AssertionError("counting does not end")


async def rapid_reset(siege: Siege) -> None:
    """Calls that are taken back in the same breath, together nearly as many as may wait for the gateway to look."""
    key = siege.lab.api_key
    for _ in range(3):
        async with siege.client() as client:
            await fire(client, (headers(s, call(GET_ENTROPY, key=key), end=False) + reset(CANCEL)(s) for s in odd(900)))
            await client.answered()


async def ping_flood(siege: Siege) -> None:
    """Pings without a pause: the gateway closes the connection, having said why to those who listen."""
    async with siege.client() as client:
        await fire(client, (frame(PING, 0, 0, b"12345678") for _ in range(10_000)))
        await client.ended.wait()
    async with siege.client() as client:
        while not client.ended.is_set():
            await client.answered()
        assert client.goaways[-1] == (ENHANCE_YOUR_CALM, b"too_many_pings")


async def settings_flood(siege: Siege) -> None:
    """Settings that change all the time."""
    async with siege.client() as client:
        await fire(client, (settings((INITIAL_WINDOW_SIZE, 65_535 + n % 9)) for n in range(20_000)))
        await client.answered()


async def huge_header_lists(siege: Siege) -> None:
    """Calls with 16 KiB of header fields, and with more."""
    for fields in (120, 200):
        more = [(f"x-{n}", "v" * 60) for n in range(fields)]
        async with siege.client() as client:
            await fire(client, (headers(s, call(GET_ENTROPY, *more), end=True) for s in odd(500)))
            await client.answered()


async def hpack_bombs(siege: Siege) -> None:
    """Calls of 16 KiB that are 48 MB of header fields when they are unpacked."""
    for value, times in (("v" * 4000, 12_000), ("v", 16_000)) * 4:
        async with siege.client() as client:
            await fire(
                client, (hpack_bomb(s, "x-bomb", value, times) for s in odd(16))
            )  # each takes megabytes until it is reset
            await client.answered()


async def continuation_flood(siege: Siege) -> None:
    """Header fields without an end: the gateway does not keep them, and gives up."""
    for fields in ([("x-more", "v" * 4000)], []):
        async with siege.client() as client:
            await client.send(unfinished_headers(1, call(GET_ENTROPY)))
            await fire(client, (continuation(1, fields) for _ in range(20_000)))


async def ten_thousand_streams(siege: Siege) -> None:
    """Ten thousand calls on one connection, none of which says anything."""
    async with siege.client() as client:
        key = siege.lab.api_key
        await fire(client, (headers(s, call(GET_ENTROPY, key=key), end=False) for s in odd(10_000)))
        await client.answered()


async def silent_calls(siege: Siege) -> None:
    """More calls without a key and without a request than a gateway has places."""
    for path in (GET_ENTROPY, CHECK_HEALTH):
        async with AsyncExitStack() as connections:
            opened: list[RawClient] = []
            for _ in range(6):
                opened.append(await connections.enter_async_context(siege.client()))
                await fire(opened[-1], (headers(s, call(path), end=False) for s in odd(500)))
                while sum(client.seen[RST_STREAM] for client in opened) < 500 * len(opened) - MAX_UNREAD:
                    await siege.rest()
            assert await health(siege.lab.client_address, "liveness") == "SERVING"


async def mute_connections(siege: Siege) -> None:
    """More connections than a gateway takes, that never speak."""
    address = host_and_port(siege.lab.client_address)
    writers = [(await asyncio.open_connection(*address))[1] for _ in range(MAX_CONNECTIONS + 10)]
    for _ in range(ANSWERS):
        await siege.rest()
    for writer in writers:
        writer.transport.abort()


async def never_reads(siege: Siege) -> None:
    """Subscriptions with windows as wide as can be, whose client takes nothing from its socket."""
    async with siege.client((INITIAL_WINDOW_SIZE, 2**31 - 1), reads=False) as client:
        await client.send(window_update(0, 2**31 - 1 - 65_535))
        await fire(client, (subscription(s, siege.lab.api_key) for s in odd(50)))
        for _ in range(ANSWERS):
            await siege.rest()


async def tiny_windows(siege: Siege) -> None:
    """Subscriptions whose client takes one byte at a time."""
    async with siege.client((INITIAL_WINDOW_SIZE, 1)) as client:
        await fire(client, (subscription(s, siege.lab.api_key) for s in odd(200)))
        for _ in range(ANSWERS):
            await fire(client, (window_update(s, 1) for s in odd(200)))
        while client.seen[DATA] < ANSWERS:
            await siege.rest()


async def half_closed_streams(siege: Siege) -> None:
    """Calls that end without a request, and such that begin one and never end it."""
    key = siege.lab.api_key
    async with siege.client() as client:
        await fire(client, (headers(s, call(GET_ENTROPY, key=key), end=True) for s in odd(300)))
        await client.answered()
        begun = b"\x00\x00\x00\x10\x00" + b"\x08"
        later = range(601, 1201, 2)
        await fire(
            client, (headers(s, call(STREAM, key=key), end=False) + frame(DATA, 0, s, begun) for s in iter(later))
        )
        await client.answered()


async def large_messages(siege: Siege) -> None:
    """Requests above 16 KiB: each is refused on its own, with RESOURCE_EXHAUSTED, and its bytes are not kept."""
    key = siege.lab.api_key
    announced = b"\x00" + (1 << 30).to_bytes(4, "big") + bytes(1000)
    async with siege.client() as client:
        await fire(
            client,
            (headers(s, call(GET_ENTROPY, key=key), end=False) + frame(DATA, 0, s, announced) for s in odd(300)),
        )
        await client.answered()


def subscription(stream: int, key: str) -> bytes:
    """Return the frames of an endless subscription to messages of 512 bytes."""
    return (
        headers(stream, call(SUBSCRIBE, key=key), end=False)
        + message(stream, b"\x08\x80\x04")
        + frame(DATA, END_STREAM, stream, b"")
    )


@pytest.mark.parametrize(
    "attack",
    [
        rapid_reset,
        ping_flood,
        settings_flood,
        huge_header_lists,
        hpack_bombs,
        continuation_flood,
        ten_thousand_streams,
        silent_calls,
        mute_connections,
        never_reads,
        tiny_windows,
        half_closed_streams,
        large_messages,
    ],
)
async def test_an_abuse_of_http2_disturbs_nobody_else(siege: Siege, attack: Attack) -> None:
    """Whatever one client does with frames, honest clients get every answer, and memory stays bounded."""
    await siege.withstands(attack)
