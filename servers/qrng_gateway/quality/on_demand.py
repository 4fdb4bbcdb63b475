"""Tests that a client asks for: one at a time, away from the event loop, on the reservoir's bytes alone.

Idea: a test takes what the reservoir has, says how much that was, and no more: it must not cost clients a byte. While
one runs another is refused rather than put in line, so that tests take one thread at most.
"""

from __future__ import annotations

import asyncio

from qrng_gateway.pool.reservoir import Reservoir, Sample
from qrng_gateway.quality.monte_carlo import BYTES_PER_ITERATION, MAX_ITERATIONS, Comparison, compare
from qrng_grpc.errors import InvalidRequestError, LimitError
from qrng_grpc.labels import SourceClass

RETRY_HINT_S = 1.0


class QualityTests:
    """The tests of one gateway, on its `reservoir`."""

    def __init__(self, reservoir: Reservoir) -> None:
        self._reservoir = reservoir
        self._running: asyncio.Task[Comparison] | None = None

    async def monte_carlo(self, iterations: int, source_class: SourceClass | None = None) -> Comparison:
        """Estimate pi with at most `iterations`, 1 to 10,000,000, on bytes of `source_class` or the best there is.

        Raises InvalidRequestError for another number, LimitError while a test runs, and what `Reservoir.take`
        raises. Cancelled, the test runs to its end, unseen, and until then others are refused.
        """
        if not 1 <= iterations <= MAX_ITERATIONS:
            raise InvalidRequestError("expected 1 to 10000000 iterations", field="iterations")
        if self._running is not None:
            raise LimitError("another test is running", retry_after_s=RETRY_HINT_S)
        sample = self._reservoir.take(iterations * BYTES_PER_ITERATION, source_class, least=BYTES_PER_ITERATION)
        self._running = asyncio.create_task(self._compared(sample, iterations))
        return await asyncio.shield(self._running)

    async def _compared(self, sample: Sample, iterations: int) -> Comparison:
        try:
            with sample:
                return await asyncio.to_thread(compare, sample, iterations)
        finally:
            self._running = None
