"""Memory stays flat, however many calls and connections come and go."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from qrng_grpc.labels import SourceClass
from tests.chaos.raw_client import GET_ENTROPY, call, raw_client
from tests.chaos.raw_gateway import DATA, END_STREAM, frame, headers, message
from tests.clients.programs import PROTOS, program, run
from tests.programs import Laboratory, Program
from tests.slow.memory import resident_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MOST_GROWTH = 0.05
CALLS, CONNECTIONS = 200_000, 5_000
ROUNDS, WARM_UP = 10, 2
SIZE = 32
CHUNK_BYTES = 65_536
SCRIPT = Path(__file__).parents[1] / "clients" / "k6" / "load.js"
STREAMS = {"users": 1, "calls": 10, "messages": 4, "size": SIZE}
AT_ONCE = 50


@dataclass(eq=False)
class Stocked:
    """A gateway whose pool is full at the end of each round, so that only leaks make a difference."""

    lab: Laboratory
    gateway: Program
    levels: list[int] = field(default_factory=list)
    """Bytes resident after each round."""
    _sequences: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def refill(self) -> None:
        """Push until the pool overflows."""
        for _ in range(16):
            data = os.urandom(CHUNK_BYTES)
            await self.lab.push([self.lab.signed(data, epoch=1, sequence=next(self._sequences))])

    async def end_round(self) -> None:
        await self.refill()
        self.levels.append(resident_bytes(self.gateway.pid))

    def check(self) -> None:
        """Compare the rounds after the warm-up with its last."""
        print([level >> 10 for level in self.levels])
        assert max(self.levels[WARM_UP:]) <= (1 + MOST_GROWTH) * self.levels[WARM_UP - 1]


@asynccontextmanager
async def stocked(directory: Path) -> AsyncIterator[Stocked]:
    lab = Laboratory(directory)
    lab = replace(lab, record=replace(lab.record, best_class=SourceClass.OPERATING_SYSTEM))
    async with lab.gateway(buffer_size=1 << 20, drain_timeout=1) as gateway:
        opened = Stocked(lab, gateway)
        await opened.refill()
        yield opened
        assert await gateway.end() == 0
        opened.check()


async def test_memory_is_flat_over_calls(tmp_path: Path) -> None:
    """200,000 calls that k6 makes leave a gateway with the memory it had after the first tenths."""
    async with stocked(tmp_path) as site:
        for _ in range(ROUNDS + WARM_UP):
            assert await load(site.lab, CALLS // ROUNDS) == CALLS // ROUNDS
            await site.end_round()


async def test_memory_is_flat_over_connections(tmp_path: Path) -> None:
    """5,000 connections, each with one call, leave a gateway with the memory it had after the first tenths."""
    async with stocked(tmp_path) as site:
        for _ in range(ROUNDS + WARM_UP):
            for _ in range(CONNECTIONS // ROUNDS // AT_ONCE):
                await asyncio.gather(*(one_call(site.lab) for _ in range(AT_ONCE)))
            await site.end_round()


async def load(lab: Laboratory, calls: int) -> int:
    """Have k6 make unary calls, and some streams. Returns how many unary calls were answered."""
    kinds = {
        "UNARY": {"users": 8, "calls": calls, "messages": 1, "size": SIZE},
        "SUBSCRIBE": STREAMS,
        "STREAM": STREAMS,
    }
    env = {
        "QR_GRPC_SERVER_ADDRESS": lab.client_address,
        "QR_GRPC_API_KEY": lab.api_key,
        "PROTOS": str(PROTOS),
        "LOAD": json.dumps(kinds),
        "LONGEST": "300s",
    }
    quietly = ("--no-usage-report", "--quiet", "--no-color", "--address", "")
    ended = await run(program("k6"), "run", *quietly, SCRIPT, env=env, limit_s=320)
    assert ended.code == 0, ended
    replies: int = json.loads(ended.stdout)["replies"]
    return replies - 2 * STREAMS["calls"] * STREAMS["messages"]


async def one_call(lab: Laboratory) -> None:
    """Connect, be answered, and leave."""
    async with raw_client(lab.client_address) as client:
        request = message(1, b"\x08" + bytes((SIZE,))) + frame(DATA, END_STREAM, 1, b"")
        await client.send(headers(1, call(GET_ENTROPY, key=lab.api_key), end=False) + request)
        await client.had(DATA)
