"""A gateway under attack, with honest clients beside.

Idea: a `Siege` is a real gateway process whose honest clients, one over gRPC and one over REST, ask again and again
for as long as an attack goes on, and then some more. Each of their answers must be whole. What the gateway takes in
memory meanwhile is bounded, it ends politely, and its log has nothing of a fault of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from qrng_client import AsyncEntropyClient
from tests.chaos.raw_client import RawClient, raw_client
from tests.programs import Laboratory, Program
from tests.slow.memory import resident_bytes

MOST_GROWTH = 256 << 20
"""Bytes of memory an attack may cost. What a gateway may have open and waiting is bounded; this is far above it."""
ANSWERS = 50
"""What each honest client gets at least."""
STOCK, CHUNK_BYTES = 8 << 20, 1 << 18
SIZE = 32

Attack = Callable[["Siege"], Awaitable[None]]


@dataclass(eq=False)
class Siege:
    """A gateway with honest clients."""

    lab: Laboratory
    gateway: Program
    honest: AsyncEntropyClient
    http: aiohttp.ClientSession

    async def withstands(self, attack: Attack) -> None:
        """Attack; the honest clients get all their answers, and memory stays bounded."""
        # From then on the connection is known by its key: wrong ones that share its address do not count against it.
        assert len(await self.honest.get(SIZE)) == SIZE
        before = most = resident_bytes(self.gateway.pid)
        attacking = asyncio.create_task(attack(self))
        answers = 0
        while not attacking.done() or answers < ANSWERS:
            assert len(await self.honest.get(SIZE)) == SIZE
            assert await self.rest() == 200
            answers += 1
            most = max(most, resident_bytes(self.gateway.pid))
        await attacking
        assert most - before <= MOST_GROWTH

    async def rest(self) -> int:
        """Read bytes over REST. Returns the status."""
        async with self.http.get(
            f"http://{self.lab.rest_address}/api/random?bytes={SIZE}", headers={"api-key": self.lab.api_key}
        ) as response:
            assert len(await response.text()) == 2 * SIZE
            return response.status

    def client(self, *pairs: tuple[int, int], reads: bool = True) -> AbstractAsyncContextManager[RawClient]:
        """Connect a client without manners to the gateway."""
        return raw_client(self.lab.client_address, *pairs, reads=reads)


@asynccontextmanager
async def besieged(directory: Path, **settings: object) -> AsyncIterator[Siege]:
    """Run a gateway with a full pool, and `settings`. It must end politely, and have logged no fault of its own."""
    lab = Laboratory(directory)
    async with lab.gateway(buffer_size=STOCK, max_wait=1, **settings) as gateway, lab.client() as honest:
        pieces = range(1, STOCK // CHUNK_BYTES)
        await lab.push([lab.signed(os.urandom(CHUNK_BYTES), epoch=1, sequence=piece) for piece in pieces])
        # Another address than the attacker's: wrong keys from one are soon refused unseen.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as http:
            yield Siege(lab, gateway, honest, http)
        assert await gateway.end() == 0
    assert [event for event in gateway.events if event["level"] in ("warning", "error", "critical")] == [
        event for event in gateway.events if event["event"] == "memory_not_locked"
    ]
    assert gateway.words == []
