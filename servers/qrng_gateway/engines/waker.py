"""A waker: what a task waits for that is to go on at once when it is woken.

Idea: a future that is done has the event loop wake its task in the next round, and each round is a look at all sockets;
so is the first step of a new task. Where calls come one at a time these rounds are a good part of the work. Asyncio
asks little of what a task may wait for, "a Future-like object" in the words of `asyncio.isfuture`: it is given a
function that has the task go on. A future has the loop call that in its time; the waker calls it itself, and the task
runs then and there, until it waits again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context


class Waker:
    """For one task of `loop`, which may wait for it again and again.

    Used by a callback of the loop, never by a task: one cannot run within another, and would not be woken again. A task
    that is cancelled while it waits is woken in the next round.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_go_on", "_loop")

    _go_on: Callable[[Waker], None] | None
    _context: Context

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False  # by its name asyncio knows what is like a future
        self._loop = loop
        self._go_on = None
        self._cancelled = False

    def __await__(self) -> Generator[Waker, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def wake(self) -> None:
        """Run the task until it waits again; where none waits, do nothing."""
        go_on, self._go_on = self._go_on, None
        if go_on is not None:
            self._context.run(go_on, self)

    # What asyncio calls.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the task."""
        return self._loop

    def add_done_callback(self, go_on: Callable[[Waker], None], *, context: Context) -> None:
        """Keep what has the task go on, to be run in its `context`."""
        self._go_on, self._context = go_on, context

    def cancel(self, msg: object = None) -> bool:
        """Wake the task soon, since it is to be cancelled."""
        self._cancelled = True
        self._loop.call_soon(self._wake_cancelled)
        return True

    def result(self) -> None:
        """Return what the task waited for: nothing. Raises CancelledError when it is to be cancelled."""
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError

    def _wake_cancelled(self) -> None:
        if self._cancelled:  # else it was woken meanwhile, and has heard of it
            self.wake()
