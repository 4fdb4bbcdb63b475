"""A waker runs the task that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from qrng_gateway.engines.waker import Waker

ROUNDS: ContextVar[int] = ContextVar("rounds")


async def waiting(waker: Waker, heard: list[int]) -> None:
    """Wait again and again, and note in the task's own context how often that ended."""
    ROUNDS.set(0)
    while True:
        await waker
        ROUNDS.set(ROUNDS.get() + 1)
        heard.append(ROUNDS.get())


async def woken(waker: Waker, times: int) -> None:
    """Wake whoever waits so many times in one callback of the loop."""
    done = asyncio.get_running_loop().create_future()

    def wake() -> None:
        for _ in range(times):
            waker.wake()
        done.set_result(None)

    asyncio.get_running_loop().call_soon(wake)
    await done


async def test_the_task_runs_while_it_is_woken() -> None:
    """Each time the task goes on at once, in its own context, so that two in a row are heard apart."""
    heard: list[int] = []
    waker = Waker(asyncio.get_running_loop())
    await woken(waker, 1)  # nobody waits: nothing happens
    task = asyncio.create_task(waiting(waker, heard))
    await asyncio.sleep(0)
    await woken(waker, 2)
    assert heard == [1, 2]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_while_it_waits_ends() -> None:
    """It ends in the next round of the loop, or when it is woken before; a waker of nobody may be used on."""
    for times in (0, 1):
        heard: list[int] = []
        waker = Waker(asyncio.get_running_loop())
        task = asyncio.create_task(waiting(waker, heard))
        await asyncio.sleep(0)
        task.cancel()
        await woken(waker, times)
        with pytest.raises(asyncio.CancelledError):
            await task
        await woken(waker, 1)
        assert heard == []


@pytest.mark.parametrize(
    "disturb", [lambda task, _: task.cancel(), lambda _, waker: waker.wake()], ids=["again", "woken"]
)
async def test_a_waker_outlives_a_cancellation_that_was_taken_back(
    disturb: Callable[[asyncio.Task[None], Waker], object],
) -> None:
    """Who goes on after a cancellation may wait again, and is woken only when somebody wakes it."""
    loop = asyncio.get_running_loop()
    waker, heard = Waker(loop), []

    async def stubborn() -> None:
        for _ in range(2):
            try:
                await waker
            except asyncio.CancelledError:
                heard.append("cancelled")
            else:
                heard.append("woken")

    task = loop.create_task(stubborn())
    await asyncio.sleep(0)
    loop.call_soon(disturb, task, waker)
    task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert heard == ["cancelled"]
    await woken(waker, 1)
    await task
    assert heard == ["cancelled", "woken"]
