"""Fetching: reading blocks at a pace of our own.

Idea: every `fetch_interval` a reader, which is a tested source or a mix of several, is asked for one
block. How fast that goes depends on the sources and on our clock, never on what the gateway answers, so that
nobody outside can signal inwards through the pace. (`overflow=pause` gives that up, and says so in its
setting.) A reader that fails is asked again after a growing wait, not before it said it would be ready; only
the first failure and the recovery are logged.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from qrng_collector.config import CollectorConfig
from qrng_collector.queue import ChunkQueue
from qrng_collector.reader import BlockReader
from qrng_grpc.backoff import Backoff
from qrng_grpc.clock import NS_PER_S, Clock
from qrng_grpc.errors import SourceError
from qrng_grpc.logs import get_log


class Fetcher:
    """Reads blocks into the queue."""

    def __init__(self, reader: BlockReader, queue: ChunkQueue, config: CollectorConfig, clock: Clock) -> None:
        self._reader = reader
        self._queue = queue
        self._size = reader.fetch_size
        self._interval_s = reader.fetch_interval_s
        self._pauses = config.overflow == "pause"
        self._backoff = Backoff(config.retry_policy)
        self._clock = clock
        self._log = get_log().bind(device_ids=reader.label.device_ids)

    async def run(self) -> NoReturn:
        """Fetch until cancelled. Bytes that a cancelled read would have delivered were never captured."""
        while True:
            started_ns = self._clock.monotonic_ns()
            failure_wait_s = await self._fetch_if_allowed()
            spent_s = (self._clock.monotonic_ns() - started_ns) / NS_PER_S
            await asyncio.sleep(max(self._interval_s - spent_s, failure_wait_s))

    async def _fetch_if_allowed(self) -> float:
        """Fetch unless set to pause and without room. Return the seconds to wait after a failure, or 0."""
        if not self._pauses:
            return await self._fetch()
        if not self._queue.reserve(self._size):
            return 0.0
        return await self._fetch(reserved=self._size)

    async def _fetch(self, reserved: int = 0) -> float:
        try:
            block = await self._reader.read(self._size)
        except SourceError as error:
            return self._failed(error)
        finally:
            if reserved:
                self._queue.release(reserved)
        self._recovered()
        self._queue.offer(block, self._clock.monotonic_ns())
        return 0.0

    def _failed(self, error: SourceError) -> float:
        if not self._backoff.failures:
            self._log.warning("fetch_failed", reason=error.message)
        return self._backoff.failed(at_least_s=error.retry_after_s or 0.0)

    def _recovered(self) -> None:
        if self._backoff.failures:
            self._log.info("fetch_recovered", failures=self._backoff.failures)
        self._backoff.succeeded()
