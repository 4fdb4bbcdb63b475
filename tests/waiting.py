"""Waiting in tests: for what can only be looked at, and for a machine that was too slow for once.

Idea: a test never sleeps in the hope that something has happened by then. It waits until it has, for as long as that
takes; the test's own time limit bounds it, and a condition that never comes true is a failure there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")
LetPass = Callable[[float], None]
"""Lets so many seconds pass for whoever goes by the time of the event loop."""

_LOOK_S = 0.005


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Let the event loop run until `condition`, which may be asynchronous, holds."""
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        await asyncio.sleep(_LOOK_S)


async def in_time(attempt: Callable[[], Awaitable[Result]], *too_late: type[Exception]) -> Result:
    """Return what `attempt` returns, made again as long as it ends in one of `too_late`.

    For what has a time limit of its own, so short that this machine may be the slow one.
    """
    while True:
        try:
            return await attempt()
        except too_late:
            await asyncio.sleep(0)
