"""Memory stays bounded however many bytes pass: 1.5 times the capacity, beside what the idle process takes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qrng_client import AsyncEntropyClient
from tests.programs import Laboratory
from tests.slow.memory import resident_bytes
from tests.slow.pool_traffic import CAPACITY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MOST_GROWTH = 1.5 * CAPACITY
CHUNK_BYTES = MESSAGE_BYTES = 65_536
ROUND_BYTES = 1 << 20
FIRST_FILL = CAPACITY // ROUND_BYTES * ROUND_BYTES


@pytest.mark.parametrize("chunk_bytes", [1024, 65_536])
@pytest.mark.parametrize(
    ("least_read", "most_read", "total"),
    [(256, 65_536, 1_000_000_000), (256, 256, 100_000_000)],
    ids=["reads of 256 B to 64 KiB", "reads of 256 B"],
)
async def test_a_pool_in_traffic(chunk_bytes: int, least_read: int, most_read: int, total: int) -> None:
    """A full pool of 10 MB takes no more than 15 MB, after as many bytes as one likes."""
    arguments = map(str, (chunk_bytes, least_read, most_read, total))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.slow.pool_traffic", *arguments, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    seen = json.loads(told)
    print(seen)
    assert seen["served"] >= total
    assert seen["most"] - seen["idle"] <= MOST_GROWTH


async def test_a_gateway_in_traffic(tmp_path: Path) -> None:
    """A gateway whose pool of 10 MB is full takes no more than 15 MB, while 100 MB pass through gRPC."""
    lab, rng = Laboratory(tmp_path), random.Random(0)
    sequences = itertools.count(1)
    async with lab.gateway(buffer_size=CAPACITY) as gateway, lab.client() as client:
        idle = most = resident_bytes(gateway.pid)
        for _ in range(FIRST_FILL // ROUND_BYTES):
            await lab.push(list(fresh_chunks(lab, sequences)))
        served = 0
        while served < 100_000_000:
            served += sum(await asyncio.gather(read_stream(client), read_one_by_one(client, rng)))
            most = max(most, resident_bytes(gateway.pid))
            await lab.push(list(fresh_chunks(lab, sequences)))
            most = max(most, resident_bytes(gateway.pid))
        assert await gateway.end() == 0
    print({"idle": idle, "most": most, "served": served})
    assert gateway.accounting["served"] == served
    assert most - idle <= MOST_GROWTH


def fresh_chunks(lab: Laboratory, sequences: Iterator[int]) -> Iterator[bytes]:
    """Return the requests of one call, ROUND_BYTES in all."""
    for _ in range(ROUND_BYTES // CHUNK_BYTES):
        yield lab.signed(os.urandom(CHUNK_BYTES), epoch=1, sequence=next(sequences))


async def read_stream(client: AsyncEntropyClient) -> int:
    """Read half a round as one stream."""
    return sum([len(message) async for message in client.stream(MESSAGE_BYTES, ROUND_BYTES // 2)])


async def read_one_by_one(client: AsyncEntropyClient, rng: random.Random) -> int:
    """Read half a round in calls of 256 B to 64 KiB."""
    left = ROUND_BYTES // 2
    while left:
        left -= len(await client.get(min(left, round(256 * 256 ** rng.random()))))
    return ROUND_BYTES // 2
