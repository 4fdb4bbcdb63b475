"""What the fetcher reads: a source with its tests, a mix of several, or a test double.

Idea: all three are `BlockReader`s, so that the fetcher knows neither how many sources there are nor whether they are
mixed:

    Leg           one source, tested (`qrng_grpc.sources.leg`); also a leg of a mix
    MixedReader   several legs, mixed
    PlainReader   a source as it is, UNTESTED, for test doubles
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qrng_grpc.chunk import Block, BlockLabel
from qrng_grpc.clock import Clock
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Condition
from qrng_grpc.logs import get_log
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.leg import Leg, Pace, SourceView, block_of, exactly
from qrng_grpc.sources.mixing import MixedSource


class BlockReader(Protocol):
    """Something blocks are read from."""

    @property
    def label(self) -> BlockLabel:
        """What is to be expected of the next block."""
        ...

    @property
    def fetch_size(self) -> int:
        """Bytes to ask for at a time."""
        ...

    @property
    def fetch_interval_s(self) -> float:
        """Seconds between the starts of two reads."""
        ...

    async def read(self, size: int) -> Block:
        """Return a block of `size` bytes, with its capture times and label.

        Raises SourceError, with `retry_after_s` where it is known when asking again makes sense. Cancelled, it
        discards what it had read.
        """
        ...

    def states(self) -> list[SourceView]:
        """How the sources behind it do."""
        ...

    def test_anew(self) -> int:
        """Have each source tested before its next block, also one that waits for the operator.

        Returns how many sources that concerns.
        """
        ...

    async def close(self) -> None:
        """Close the sources. Closing twice does no harm."""
        ...


class PlainReader:
    """A source as it is: nothing is tested, so nothing is called tested."""

    def __init__(self, source: EntropySource, pace: Pace, clock: Clock) -> None:
        self.label = source.label
        self.fetch_size = pace.size
        self.fetch_interval_s = pace.interval_s
        self._source = source
        self._timeout_s = pace.timeout_s
        self._clock = clock
        self._fetched_bytes = 0
        self._condition = Condition.DELIVERING

    async def read(self, size: int) -> Block:
        """Read one block. Raises SourceError, also for a number of bytes that was not asked for."""
        start_ns = self._clock.now_ns()
        try:
            data = await exactly(self._source, size, self._timeout_s)
        except SourceError:
            self._condition = Condition.FAILING
            raise
        self._condition = Condition.DELIVERING
        self._fetched_bytes += size
        return block_of(data, start_ns, self._clock, self.label)

    def states(self) -> list[SourceView]:
        """How each of its devices does."""
        label = self.label
        return [
            SourceView(device_id, label.source_class, self._condition, self._fetched_bytes, 0)
            for device_id in label.device_ids
        ]

    def test_anew(self) -> int:
        """Nothing here is tested."""
        return 0

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()


class MixedReader:
    """A mix of legs. It owns them. What changes about it is logged: a leg that went missing, a leg that is back."""

    def __init__(self, mix: MixedSource, legs: Sequence[Leg], pace: Pace, clock: Clock) -> None:
        self.fetch_size = pace.size
        self.fetch_interval_s = pace.interval_s
        self._mix = mix
        self._legs = legs
        self._clock = clock
        self._told: tuple[str, ...] = ()
        self._closed = False
        self._log = get_log()

    @property
    def label(self) -> BlockLabel:
        """The label of the latest block; before the first, what holds when every leg answers."""
        return self._mix.label

    async def read(self, size: int) -> Block:
        """Return a mixed block. Raises SourceError."""
        start_ns = self._clock.now_ns()
        try:
            data, label = await self._mix.read_labelled(size)
        finally:
            self._tell()
        return block_of(data, start_ns, self._clock, label)

    def states(self) -> list[SourceView]:
        """How each leg's source does."""
        return [view for leg in self._legs for view in leg.states()]

    def test_anew(self) -> int:
        """Have every leg tested before its next block, also those that wait for the operator."""
        return sum([leg.test_anew() for leg in self._legs])

    async def close(self) -> None:
        """Close every leg, and log what mixing used up and what it had to discard."""
        if not self._closed:
            self._closed = True
            counters = self._mix.counters
            self._log.info("mix_accounting", used_up=counters.used_up_bytes, discarded=counters.discarded_bytes)
        await self._mix.close()

    def _tell(self) -> None:
        missing = tuple(self._mix.missing)
        if missing == self._told:
            return
        self._told = missing
        if missing:
            self._log.warning("mix_misses_legs", device_ids=missing)
        else:
            self._log.info("mix_complete")
