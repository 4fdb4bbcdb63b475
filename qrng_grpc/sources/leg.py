"""Legs: a source with its tests, its quarantine and a pace of its own.

Idea: whoever reads a leg gets a block that passed, or an error that says when to come again. Behind that the leg
looks after its source, so that no other has to: it asks no faster than it is set to, stays away as
long as a busy source says, waits longer after each further failure, and after many of them only *probes*
now and then. What arrived is tested before anybody sees it. A block that fails is discarded and counted, and
the source is in quarantine until it passes a start-up test again; the third time in a day it waits for
the operator. An operator may also have a source tested on demand, before its next block.

A test at start-up or on demand takes bytes that are used for nothing else. They are gathered in requests no larger
than those for blocks, so that a slow source comes into service too, and what has been gathered is kept should a read
fail or be cancelled.

A source may fail in a way nobody foresaw. That is its failure and no other's: it counts and is told by its kind.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from qrng_grpc.backoff import Backoff, RetryPolicy
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel
from qrng_grpc.clock import NS_PER_S, Clock
from qrng_grpc.errors import SourceError
from qrng_grpc.health_tests import Monitor, Quarantine, QuarantineState, Verdict
from qrng_grpc.labels import Condition, HealthVerdict, SourceClass
from qrng_grpc.logs import get_log
from qrng_grpc.sources import EntropySource
from qrng_grpc.wording import came_instead

CLOSE_S = 5.0
"""Seconds that a source gets to close."""
HELD_LOOK_S = 60.0
"""Seconds after which a source that waits for the operator is looked at again, without asking it anything."""
ENDS_OF_THE_PROGRAM = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What is no failure of a source, though it is raised while one is read. All else is, whatever class it is of."""


@dataclass(frozen=True, slots=True)
class SourceView:
    """How one source does. Bytes are counted since it was opened."""

    device_id: str
    source_class: SourceClass
    condition: Condition
    fetched_bytes: int
    """Whatever the source delivered, in the number that was asked for."""
    discarded_bytes: int
    """Of these: taken for tests at start-up and on demand, or of blocks that failed or were never completed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a source is read.

    `size` bytes every `interval_s` seconds, in requests of at most `most` bytes, which may take `timeout_s` each and
    begin no sooner than `request_interval_s` after one another.
    """

    size: int
    interval_s: float
    timeout_s: float
    most: int = MAX_CHUNK_BYTES
    request_interval_s: float = 0.0


@dataclass(slots=True)
class _Gathered:
    """Replies of a source, joined."""

    data: bytearray = field(default_factory=bytearray, repr=False)
    replies: list[int] = field(default_factory=list)
    """The places in `data` at which one begins."""

    def add(self, reply: bytes) -> None:
        self.replies.append(len(self.data))
        self.data += reply


class Leg:
    """One source, tested.

    It owns `source`. `start_up_bytes`, at least 1024, are what a test at start-up or on demand takes. Its label is
    that of the source with the verdict PASSED, since no other byte leaves it. It is also a
    `LabelledSource` for a mix. Reads do not overlap.
    """

    def __init__(
        self,
        source: EntropySource,
        pace: Pace,
        *,
        monitor: Monitor,
        quarantine: Quarantine,
        retry_policy: RetryPolicy,
        start_up_bytes: int,
        clock: Clock,
    ) -> None:
        self.label = replace(source.label, health_verdict=HealthVerdict.PASSED)
        self.fetch_size = pace.size
        self.fetch_interval_s = pace.interval_s
        self._source = source
        self._pace = pace
        self._monitor = monitor
        self._quarantine = quarantine
        self._start_up_bytes = start_up_bytes
        self._test_demanded = False
        self._samples = _Gathered()
        self._backoff = Backoff(retry_policy)
        self._open_after = retry_policy.open_after
        self._open_s = retry_policy.open_s
        self._clock = clock
        self._rests_until_ns = self._may_ask_ns = clock.monotonic_ns()
        self._fetched_bytes = 0
        self._discarded_bytes = 0
        self._closed = False
        self._log = get_log().bind(device_ids=source.label.device_ids)

    @property
    def condition(self) -> Condition:
        """Whether it delivers. A source that was never tested counts as in quarantine."""
        if not self._quarantine.trusted and not self._backoff.failures:
            return Condition.QUARANTINED
        if self._quarantine.state in {QuarantineState.QUARANTINED, QuarantineState.HELD}:
            return Condition.QUARANTINED
        return Condition.FAILING if self._backoff.failures else Condition.DELIVERING

    @property
    def trusted(self) -> bool:
        """Whether it passed its start-up test and has failed nothing since."""
        return self._quarantine.trusted

    async def make_ready(self) -> None:
        """Let the source earn its trust, unless it has it. Raises SourceError, with the seconds to stay away."""
        self._check_rest()
        if not self._quarantine.trusted:
            await self._start_up()

    async def read(self, size: int) -> Block:
        """Return a block that passed. Raises SourceError, with the seconds to stay away.

        A source that has none to give is not asked before: early reads fail at once.
        """
        await self.make_ready()
        if self._test_demanded:
            await self._on_demand()
        await self._turn()
        start_ns = self._clock.now_ns()
        gathered = await self._gather_block(size)
        block = block_of(bytes(gathered.data), start_ns, self._clock, self.label)
        self._judge(self._monitor.check(bytes(block.data), gathered.replies), size)
        return block

    async def read_labelled(self, size: int) -> tuple[bytes, BlockLabel]:
        """Return `size` bytes that passed, for a mix. Raises SourceError."""
        block = await self.read(size)
        return bytes(block.data), block.label

    def states(self) -> list[SourceView]:
        """How its source does."""
        (device_id, *_) = self.label.device_ids
        return [
            SourceView(device_id, self.label.source_class, self.condition, self._fetched_bytes, self._discarded_bytes)
        ]

    async def try_out(self) -> Verdict:
        """Return the verdict of one start-up test, without consequences. Raises SourceError when it cannot be run."""
        samples = await self._samples_for_test()
        return self._monitor.start_up(bytes(samples.data), samples.replies)

    def test_anew(self) -> int:
        """Have the source tested before its next block. One that waits for the operator is released to its test.

        A block that is being read is not held up, a pause after a failure is not cut short.
        """
        self._test_demanded = True
        if self._quarantine.release():
            self._rests_until_ns = self._clock.monotonic_ns()
            self._log.info("source_released")
        return 1

    async def close(self) -> None:
        """Close the source and log its books; a running read ends with SourceError.

        A source that cannot be closed, or takes longer over it than CLOSE_S, is left as it is.
        """
        if not self._closed:
            self._closed = True
            self._log.info("source_accounting", fetched=self._fetched_bytes, discarded=self._discarded_bytes)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._source.close()
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self._log.warning("source_not_closed", fault="CancelledError")
        except ENDS_OF_THE_PROGRAM:
            raise
        except BaseException as error:  # the boundary of a source: nobody else's end must wait for it
            self._log.warning("source_not_closed", fault=type(error).__name__)

    def _check_rest(self) -> None:
        """Raise SourceError while the source is to be left alone."""
        rest_s = (self._rests_until_ns - self._clock.monotonic_ns()) / NS_PER_S
        if rest_s > 0:
            raise SourceError("the source is left alone for a while", retry_after_s=rest_s)
        if self._quarantine.state is QuarantineState.HELD:
            raise SourceError("the source waits for the operator", retry_after_s=HELD_LOOK_S)
        test_in_s = self._quarantine.test_in_s
        if test_in_s:
            raise SourceError("the source is in quarantine", retry_after_s=test_in_s)

    async def _start_up(self) -> None:
        """Let the source earn its trust. Raises SourceError unless it passes."""
        samples = await self._samples_for_test()
        self._test_demanded = False
        self._judge(self._monitor.start_up(bytes(samples.data), samples.replies), 0)
        self._quarantine.passed()
        self._log.info("source_trusted", start_up_bytes=len(samples.data))

    async def _on_demand(self) -> None:
        """Test the source because somebody asked for it. Raises SourceError unless it passes."""
        samples = await self._samples_for_test()
        self._test_demanded = False
        self._judge(self._monitor.on_demand(bytes(samples.data), samples.replies), 0)
        self._log.info("source_tested", on_demand_bytes=len(samples.data))

    async def _samples_for_test(self) -> _Gathered:
        """Fetch what a test takes, for nothing but the test. Raises SourceError; what came until then stays."""
        samples, most = self._samples, min(self._pace.size, self._pace.most)
        while (missing := self._start_up_bytes - len(samples.data)) > 0:
            reply = await self._ask(min(missing, most))
            samples.add(reply)
            self._discarded_bytes += len(reply)
        self._samples = _Gathered()
        return samples

    async def _gather_block(self, size: int) -> _Gathered:
        """Fetch `size` bytes. Raises SourceError; then, and cancelled, what came until then is discarded."""
        gathered = _Gathered()
        try:
            while (missing := size - len(gathered.data)) > 0:
                gathered.add(await self._ask(min(missing, self._pace.most)))
        except BaseException:
            self._discarded_bytes += len(gathered.data)
            raise
        return gathered

    async def _ask(self, size: int) -> bytes:
        """Make one request, when it is time for it. Raises SourceError after taking note of the failure."""
        await self._turn()
        self._may_ask_ns = self._clock.monotonic_ns() + round(self._pace.request_interval_s * NS_PER_S)
        try:
            data = await exactly(self._source, size, self._pace.timeout_s)
        except SourceError as error:
            wait_s = self._rest(error)
            raise SourceError(error.message, retry_after_s=wait_s) from None
        self._fetched_bytes += size
        self._answered()
        return data

    async def _turn(self) -> None:
        """Wait until the source may be asked again."""
        wait_s = (self._may_ask_ns - self._clock.monotonic_ns()) / NS_PER_S
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def _rest(self, error: SourceError) -> float:
        """Count a failure. Return for how long the source is left alone now."""
        wait_s = self._backoff.failed(at_least_s=error.retry_after_s or 0.0)
        if self._backoff.failures >= self._open_after:
            wait_s = max(wait_s, self._open_s)
        if self._backoff.failures == 1:
            self._log.warning("source_failed", reason=error.message)
        if self._backoff.failures == self._open_after:
            self._log.warning("source_circuit_opened", failures=self._backoff.failures, probe_every_s=self._open_s)
        self._rests_until_ns = self._clock.monotonic_ns() + round(wait_s * NS_PER_S)
        return wait_s

    def _answered(self) -> None:
        if self._backoff.failures:
            self._log.info("source_answers_again", failures=self._backoff.failures)
        self._backoff.succeeded()

    def _judge(self, verdict: Verdict, size: int) -> None:
        """Go on if the bytes passed. Otherwise count `size` as discarded and raise SourceError."""
        if verdict.failure is None:
            return
        self._discarded_bytes += size
        state = self._quarantine.failed()
        self._log.error("source_quarantined", state=state.value, failure=str(verdict.failure))
        raise SourceError(
            f"the source failed its tests ({verdict.failure.test.value})",
            retry_after_s=HELD_LOOK_S if state is QuarantineState.HELD else self._quarantine.test_in_s,
        )


async def exactly(source: EntropySource, size: int, timeout_s: float) -> bytes:
    """Return `size` bytes of `source`. Raises SourceError when it brings others, or none within the time."""
    try:
        async with asyncio.timeout(timeout_s):
            data = await source.read(size)
    except SourceError:
        raise
    except TimeoutError:
        fault = "the source did not answer in time"
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        fault = "the source gave up"  # it cancelled a task of its own, which must not pass for our being cancelled
    except ENDS_OF_THE_PROGRAM:
        raise
    except BaseException as error:  # the boundary of a source: whatever goes wrong in one must not end the others
        fault = f"the source failed in a way nobody foresaw ({type(error).__name__})"
    else:
        if not isinstance(data, bytes):  # a stranger's code, whatever it promises
            fault = f"the source delivered no bytes but a {type(data).__name__}"
        elif len(data) == size:
            return data
        else:
            fault = f"the source delivered {came_instead(len(data), size)}"
    # Raised out here, the error does not carry the other one, whose text may be a stranger's.
    raise SourceError(fault)


def _is_cancelled() -> bool:
    """Say whether somebody asked the running task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def block_of(data: bytes, start_ns: int, clock: Clock, label: BlockLabel) -> Block:
    """Return what was asked for at `start_ns` as a block."""
    # The wall clock may have been set back in between; a capture never ends before it starts.
    return Block(data, start_ns, max(start_ns, clock.now_ns()), label)
