"""Many crashes in a row, at moments that chance picks, under a client that never stops reading."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from qrng_grpc.errors import QrngError
from qrng_grpc.testing.relay import Relay, relaying
from tests.chaos.books import check_collector_line, check_gateway_line, check_not_for_ever, replay
from tests.ledger import WORD_BYTES, Ledger
from tests.programs import Laboratory, free_address

ROUNDS = 16
STREAM_BYTES = 4 << 20
"""More than a collector fetches in one round."""


@asynccontextmanager
async def reading(lab: Laboratory, rng: random.Random) -> AsyncIterator[bytearray]:
    """Read without a pause while the block runs, whatever happens to the gateway; yields what was read."""
    served = bytearray()

    async def read() -> None:
        async with lab.client() as client:
            while True:
                try:
                    served.extend((await client.get(WORD_BYTES * rng.randint(1, 200))).data)
                except QrngError:
                    await asyncio.sleep(0.02)

    task = asyncio.create_task(read())
    try:
        yield served
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def one_round(lab: Laboratory, relay: Relay, seed: int, rng: random.Random) -> None:
    """Let both programs run until a call has stopped in its middle, and kill one; the other ends politely."""
    async with AsyncExitStack() as programs:
        gateway = await programs.enter_async_context(lab.gateway())
        collector = await programs.enter_async_context(
            lab.collector(mock_seed=seed, push_url=relay.address, flush_timeout=0.2)
        )
        await lab.settled(lambda books: books.stored_bytes > 0)
        relay.stopped.clear()
        relay.stop_after(rng.randrange(4))
        await relay.stopped.wait()
        victim, survivor = rng.sample((gateway, collector), 2)
        await victim.kill()
        relay.go_on()
        if survivor is gateway:
            await replay(lab, rng.choices(relay.calls, k=3))
        assert await survivor.end() == 0
    check = check_gateway_line if survivor is gateway else check_collector_line
    check(survivor.accounting)
    if rng.random() < 0.3:
        lab.delete_gateway_state()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_storm_of_crashes(lab: Laboratory, rng: random.Random) -> None:
    """However often gateway and collector die, and whatever is played again in between, no byte is served twice."""
    async with relaying(free_address(), lab.push_address) as relay, reading(lab, rng) as served:
        for seed in range(ROUNDS):
            await one_round(lab, relay, seed, rng)
    assert served
    Ledger(*range(ROUNDS), stream_bytes=STREAM_BYTES).check_once(bytes(served))
    check_not_for_ever(relay.calls)
