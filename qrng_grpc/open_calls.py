"""Calls that are open, of one kind: known, bounded, and ended at once when their server ends.

Idea: each is held by the task that serves it, so that to end a call is to cancel its task, and what its client
hears is why. grpcio can tell it at any moment but one: while a call's headers are on their way, with its first message
if nobody has sent them before, its status is refused, and the client would wait for ever. So a call that
writes messages sends its headers first, and is known from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc.aio

from qrng_grpc.errors import DrainingError, LimitError

Metadata = Sequence[tuple[str, str | bytes]]

RETRY_HINT_S = 1.0


class OpenCalls:
    """The open calls of a kind, `limit` at most.

    `crowded` is what one too many hears, `ending` each of them when it is ended.
    """

    def __init__(self, limit: int, *, crowded: str, ending: str) -> None:
        self.limit = limit
        self._crowded = crowded
        self._ending = ending
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def taken(self, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Be one of the calls within the block, which the current task serves.

        Raises LimitError when too many are open, DrainingError when the server ends: then also from whatever the
        block is waiting for. A client that leaves cancels as ever. For calls that write no messages, have sent their
        headers, or are of a kind that is never drained.
        """
        self._check()
        task = asyncio.current_task()
        assert task is not None, "a handler runs in a task"  # noqa: S101
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._draining or context.cancelled():
                raise
            task.uncancel()
            raise DrainingError(self._ending) from None
        finally:
            self._tasks.discard(task)

    @asynccontextmanager
    async def taken_with_headers(
        self, context: grpc.aio.ServicerContext[Any, Any], headers: Metadata = ()
    ) -> AsyncIterator[None]:
        """Send `headers`, and be one of the calls within the block, as `taken`. For calls that write messages.

        What can be refused should be before: with headers a call is committed, and gRPC clients whose policy is to try
        it again (gRFC A6) do not.
        """
        self._check()
        await context.send_initial_metadata(headers)
        with self.taken(context):
            yield

    def _check(self) -> None:
        if self._draining:
            raise DrainingError(self._ending)
        if len(self._tasks) >= self.limit:
            raise LimitError(self._crowded, retry_after_s=RETRY_HINT_S)

    def drain(self) -> None:
        """End every call now, and every later one at its beginning."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
