"""The same clients without manners, at the native engine.

What it does not bound is told in docs/operations.md, "Engines", and is not tried here: the number of connections and of
calls that say nothing, and how large a message grows before it is refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import test_abuse as abuse
from tests.chaos.raw_client import GET_ENTROPY, call, continuation, hpack_bomb, unfinished_headers
from tests.chaos.raw_gateway import PING, frame, headers, reset
from tests.chaos.siege import Attack, Siege, besieged


async def rapid_reset(siege: Siege) -> None:
    """Calls that are taken back in the same breath: after some the connection is closed."""
    key = siege.lab.api_key
    async with siege.client() as client:
        calls = (headers(s, call(GET_ENTROPY, key=key), end=False) + reset(abuse.CANCEL)(s) for s in abuse.odd(900))
        await abuse.fire(client, calls)
        await client.ended.wait()


async def ping_flood(siege: Siege) -> None:
    """Pings without a pause are answered one by one."""
    async with siege.client() as client:
        await abuse.fire(client, (frame(PING, 0, 0, b"12345678") for _ in range(10_000)))
        await client.answered()


async def hpack_bombs(siege: Siege) -> None:
    """Calls of 16 KiB that are megabytes of header fields when they are unpacked: the connection is closed."""
    for value, times in (("v" * 4000, 12_000), ("v", 16_000)) * 4:
        async with siege.client() as client:
            await abuse.fire(client, (hpack_bomb(s, "x-bomb", value, times) for s in abuse.odd(16)))
            await client.ended.wait()


async def continuation_flood(siege: Siege) -> None:
    """Header fields without an end: the connection is closed."""
    for fields in ([("x-more", "v" * 4000)], []):
        async with siege.client() as client:
            await client.send(unfinished_headers(1, call(GET_ENTROPY)))
            await abuse.fire(client, (continuation(1, fields) for _ in range(20_000)))
            await client.ended.wait()


@pytest.mark.parametrize(
    "attack",
    [
        rapid_reset,
        ping_flood,
        hpack_bombs,
        continuation_flood,
        abuse.settings_flood,
        abuse.huge_header_lists,
        abuse.ten_thousand_streams,
        abuse.mute_connections,
        abuse.never_reads,
        abuse.tiny_windows,
        abuse.half_closed_streams,
        abuse.large_messages,
    ],
)
async def test_an_abuse_of_http2_disturbs_nobody_else(tmp_path: Path, attack: Attack) -> None:
    """Whatever one client does with frames, honest clients get every answer, and memory stays bounded."""
    async with besieged(tmp_path, engine="native") as siege:
        await siege.withstands(attack)
