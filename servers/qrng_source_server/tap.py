"""The tap: one source, drawn from by one request at a time.

Idea: whoever draws stands in one line, in the order of arrival, and only when it is their turn is the source asked, for
exactly what they need. So nothing is ever read ahead, and there is nothing left over that somebody else could be given.
Whoever leaves, because a call was cancelled or its deadline passed, leaves the line, or takes what was being read for
them out of the world.

The leg behind the tap tests every byte before anybody has it. Its start-up test, too, takes a turn in the line.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from qrng_grpc.chunk import Block, BlockLabel
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import (
    ENDING,
    DrainingError,
    InvalidRequestError,
    LimitError,
    SourceError,
    SourceUnavailableError,
    UnsupportedError,
    WeakerSourceError,
)
from qrng_grpc.labels import Condition, Processing, SourceClass
from qrng_grpc.sources.leg import Leg, SourceView

RETRY_HINT_S = 1.0
"""When to come back where nobody knows better."""
_NS_PER_MS = 1_000_000


class DrawSpec(NamedTuple):
    """What a client asks of a source. `size_field` is what its request calls the size; `max_age_ms` 0 means any age."""

    size: int
    size_field: str = "bytes_needed"
    least_class: SourceClass | None = None
    processing: Processing | None = None
    max_age_ms: int = 0
    include_provenance: bool = False


class Tap:
    """Hands out what `leg` delivers, at most `limit` bytes a time; `max_waiting` may stand in line."""

    def __init__(self, leg: Leg, *, limit: int, max_waiting: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._leg = leg
        self._limit = limit
        self._max_waiting = max_waiting
        self._clock = clock
        self._turn = asyncio.Lock()
        self._draining = False
        self.waiting = 0
        """Requests in line, the one whose turn it is included."""
        self.served_bytes = 0
        self.served_requests = 0

    @property
    def label(self) -> BlockLabel:
        """What its bytes are."""
        return self._leg.label

    @property
    def ready(self) -> bool:
        """Whether who asks now may expect bytes."""
        return self._leg.trusted and self._leg.condition is Condition.DELIVERING and not self._draining

    @property
    def source(self) -> SourceView:
        """How the source does."""
        (view,) = self._leg.states()
        return view

    def check(self, spec: DrawSpec) -> None:
        """Refuse what can never be had here.

        Raises InvalidRequestError, UnsupportedError, and WeakerSourceError when the source is not of the class asked
        for.
        """
        if not 1 <= spec.size <= self._limit:
            raise InvalidRequestError(f"expected 1 to {self._limit} bytes", field=spec.size_field)
        if spec.max_age_ms < 0:
            raise InvalidRequestError("an age is not negative", field="max_age_ms")
        if spec.include_provenance:
            raise UnsupportedError("there are no chunks here that bytes could come from", field="include_provenance")
        if spec.processing not in (None, self.label.processing):
            raise UnsupportedError("the bytes are as the source delivers them", field="processing")
        if spec.least_class is not None and not self.label.source_class.at_least(spec.least_class):
            raise WeakerSourceError("the source is weaker than the least class asked for")

    async def draw(self, spec: DrawSpec) -> Block:
        """Return bytes that were measured after this call.

        Raises as `check`, LimitError when too many wait, SourceUnavailableError with the seconds to stay away when the
        source does not deliver, and DrainingError when the server ends. Cancelled, it leaves the line, and what was
        being read for it is lost.
        """
        self.check(spec)
        if self.waiting >= self._max_waiting:
            raise LimitError("too many requests wait for the source", retry_after_s=RETRY_HINT_S)
        self.waiting += 1
        try:
            async with self._turn:
                block = await self._measure(spec)
        finally:
            self.waiting -= 1
        self.served_bytes += len(block)
        self.served_requests += 1
        return block

    async def make_ready(self) -> None:
        """Have the source pass its start-up test, if it is due. A source that fails is left to what its leg knows."""
        if self._leg.trusted:
            return
        async with self._turn:
            try:
                await self._leg.make_ready()
            except SourceError:  # logged by the leg; the next look tries again
                return

    def test_anew(self) -> None:
        """Have the source tested before it is next read, also when it waits for the operator."""
        self._leg.test_anew()

    def drain(self) -> None:
        """Give nothing to those in line, from the next turn on."""
        self._draining = True

    async def _measure(self, spec: DrawSpec) -> Block:
        if self._draining:
            raise DrainingError(ENDING)
        try:
            block = await self._leg.read(spec.size)
        except SourceError as error:
            wait_s = error.retry_after_s or RETRY_HINT_S
        else:
            self._check_age(block, spec.max_age_ms)
            return block
        # The source's own words stay here: they may be those of a stranger.
        raise SourceUnavailableError("the source does not deliver now", retry_after_s=wait_s)

    def _check_age(self, block: Block, max_age_ms: int) -> None:
        """Refuse bytes that took longer to come than they may be old; they are lost."""
        if max_age_ms and self._clock.now_ns() - block.capture_start_ns > max_age_ms * _NS_PER_MS:
            took_s = (block.capture_end_ns - block.capture_start_ns) / NS_PER_S
            raise SourceUnavailableError(f"to measure them took {took_s:.3f} s", retry_after_s=RETRY_HINT_S)
