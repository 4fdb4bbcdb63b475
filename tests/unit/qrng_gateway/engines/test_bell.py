"""A bell runs the task that waits for it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from qrng_gateway.engines.bell import Bell

ROUNDS: ContextVar[int] = ContextVar("rounds")


async def waiting(bell: Bell, heard: list[int]) -> None:
    """Wait for the bell again and again, and note in the task's own context how often it rang."""
    ROUNDS.set(0)
    while True:
        await bell
        ROUNDS.set(ROUNDS.get() + 1)
        heard.append(ROUNDS.get())


async def rung(bell: Bell, times: int) -> None:
    """Ring so many times in one callback of the loop."""
    done = asyncio.get_running_loop().create_future()

    def ring() -> None:
        for _ in range(times):
            bell.ring()
        done.set_result(None)

    asyncio.get_running_loop().call_soon(ring)
    await done


async def test_the_task_runs_while_the_bell_rings() -> None:
    """Each ring has the task go on at once, in its own context, so that two in a row are heard apart."""
    heard: list[int] = []
    bell = Bell(asyncio.get_running_loop())
    await rung(bell, 1)  # nobody waits: nothing happens
    task = asyncio.create_task(waiting(bell, heard))
    await asyncio.sleep(0)
    await rung(bell, 2)
    assert heard == [1, 2]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_at_the_bell_ends() -> None:
    """It ends in the next round of the loop, or when the bell rings before; a bell of nobody may ring on."""
    for times in (0, 1):
        heard: list[int] = []
        bell = Bell(asyncio.get_running_loop())
        task = asyncio.create_task(waiting(bell, heard))
        await asyncio.sleep(0)
        task.cancel()
        await rung(bell, times)
        with pytest.raises(asyncio.CancelledError):
            await task
        await rung(bell, 1)
        assert heard == []


async def test_a_bell_outlives_a_cancellation_that_was_taken_back() -> None:
    """Who goes on after a cancellation may wait again."""
    bell, heard = Bell(asyncio.get_running_loop()), []

    async def stubborn() -> None:
        for _ in range(2):
            try:
                await bell
            except asyncio.CancelledError:
                heard.append("cancelled")
            else:
                heard.append("rung")

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    await rung(bell, 1)
    await task
    assert heard == ["cancelled", "rung"]
