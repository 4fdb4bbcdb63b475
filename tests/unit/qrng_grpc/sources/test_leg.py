"""Legs: a source behind its tests, its quarantine and its own pace."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from qrng_grpc.chunk import Block, BlockLabel
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Condition, Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.sources import leg as leg_module
from qrng_grpc.sources.leg import HELD_LOOK_S, Leg, SourceView
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing import LedgerSource, ManualClock
from qrng_grpc.testing.faults import ByteStream, biased_bits, cached_body, repeating, stuck_bit, stuck_byte
from tests.legs import QUANTUM, SIZE, START_UP, StreamSource, leg_of


async def failure_of(leg: Leg, size: int = SIZE) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await leg.read(size)
    return caught.value


async def test_nothing_leaves_before_the_start_up_test() -> None:
    """The first bytes of a source are for its test alone; what comes after is labelled PASSED."""
    clock, source = ManualClock(now_ns=7), LedgerSource(3, label=QUANTUM)
    leg = leg_of(source, clock)
    assert leg.condition is Condition.QUARANTINED
    block = await leg.read(SIZE)
    passed = BlockLabel(("q",), SourceClass.QUANTUM, Processing.NONE, Custody.LOCAL, HealthVerdict.PASSED)
    assert block == Block(source.delivered[START_UP:], 7, 7, passed)
    assert leg.label == passed
    assert leg.states() == [
        SourceView("q", SourceClass.QUANTUM, Condition.DELIVERING, START_UP + SIZE, START_UP),
    ]


async def test_requests_stay_within_what_a_source_brings() -> None:
    """A source that brings little at once is asked several times, for the block as for the test."""
    source = StreamSource(SeededStream(1))
    block = await leg_of(source, ManualClock(), most=600).read(1000)
    assert source.asked == [600, 424, 600, 400]
    assert block.data == SeededStream(1).take(START_UP + 1000)[START_UP:]


@pytest.mark.parametrize(
    "faulty",
    [stuck_byte, partial(stuck_bit, 2), partial(biased_bits, 0.6), partial(repeating, 96)],
    ids=["stuck_byte", "stuck_bit", "biased_bits", "repeating"],
)
async def test_a_block_that_fails_is_discarded_and_the_source_comes_back(faulty: Callable[..., ByteStream]) -> None:
    """A fault is an error and no bytes; after the pause and a start-up test the source delivers again."""
    clock, size = ManualClock(), 1 << 17
    source = StreamSource(faulty(after=START_UP + size))
    leg = leg_of(source, clock, size=size)
    assert len(await leg.read(size)) == size
    with capture_logs() as logs:
        failure = await failure_of(leg, size)
    assert [entry["event"] for entry in logs] == ["source_quarantined"]
    assert (leg.condition, failure.retry_after_s) == (Condition.QUARANTINED, 60.0)
    assert leg.states()[0].discarded_bytes == START_UP + size
    asked = len(source.asked)
    assert (await failure_of(leg, size)).message == "the source is in quarantine"
    assert len(source.asked) == asked
    source.stream = SeededStream(77)
    clock.advance(60)
    assert (await leg.read(size)).data == SeededStream(77).take(START_UP + size)[START_UP:]
    assert leg.condition is Condition.DELIVERING


async def test_a_cached_reply_is_not_believed() -> None:
    """The same answer twice fails, and goes on failing for as long as it comes."""
    clock = ManualClock()
    source = StreamSource(cached_body(after=START_UP + SIZE))
    leg = leg_of(source, clock)
    await leg.read(SIZE)
    await leg.read(SIZE)
    assert "fingerprint" in (await failure_of(leg)).message
    clock.advance(60)
    assert "failed its tests" in (await failure_of(leg)).message


async def test_a_cached_reply_is_found_wherever_in_a_block_it_lies() -> None:
    """A block of several replies of which one came before is discarded, whichever that is."""

    class Cached(StreamSource):
        """Behind a cache that answers requests of one size from memory."""

        answer: bytes | None = None

        async def read(self, size: int) -> bytes:
            if size != 400:
                return await super().read(size)
            self.answer = self.answer or await super().read(size)
            return self.answer

    clock, source = ManualClock(), Cached(SeededStream(1))
    leg = leg_of(source, clock, size=1000, most=600)
    first = await leg.read(1000)
    assert first.data.endswith(source.answer or b"?")
    assert (await failure_of(leg, 1000)).message == "the source failed its tests (fingerprint)"
    assert leg.condition is Condition.QUARANTINED


async def test_a_cached_reply_is_found_wherever_in_a_test_it_lies() -> None:
    """Tests, too, know every reply of theirs again: on demand, and at the start-up that follows."""

    class Cached(StreamSource):
        """Behind a cache that answers the last request of each test from memory."""

        answer: bytes | None = None

        async def read(self, size: int) -> bytes:
            if size != START_UP - 2 * 400:
                return await super().read(size)
            self.answer = self.answer or await super().read(size)
            return self.answer

    clock = ManualClock()
    leg = leg_of(Cached(SeededStream(1)), clock, size=400)
    await leg.read(400)
    leg.test_anew()
    for _ in range(2):
        assert (await failure_of(leg, 400)).message == "the source failed its tests (fingerprint)"
        clock.advance(60)


async def test_three_quarantines_in_a_day_wait_for_the_operator() -> None:
    """A source that fails again and again is not asked any more until it is released, and then tested first."""
    clock, source = ManualClock(), StreamSource(SeededStream(5))
    leg = leg_of(source, clock)
    for _ in range(3):
        clock.advance(60)
        await leg.read(SIZE)
        sound, source.stream = source.stream, stuck_byte()
        failure = await failure_of(leg)
        source.stream = sound
    assert failure.retry_after_s == HELD_LOOK_S
    clock.advance(86_400)
    asked = len(source.asked)
    assert (await failure_of(leg)).message == "the source waits for the operator"
    assert len(source.asked) == asked
    with capture_logs() as logs:
        assert leg.test_anew() == 1
        assert len(await leg.read(SIZE)) == SIZE
        assert len(await leg.read(SIZE)) == SIZE
    assert [entry["event"] for entry in logs] == ["source_released", "source_trusted"]


async def test_a_test_on_demand_comes_before_the_next_block() -> None:
    """Its bytes are used for nothing else; a source that passes goes on, and is not tested again."""
    source = StreamSource(SeededStream(8))
    leg = leg_of(source, ManualClock())
    await leg.read(SIZE)
    assert leg.test_anew() == 1
    with capture_logs() as logs:
        block = await leg.read(SIZE)
        await leg.read(SIZE)
    assert source.asked == [START_UP, SIZE, START_UP, SIZE, SIZE]
    assert block.data == SeededStream(8).take(2 * (START_UP + SIZE))[-SIZE:]
    assert [entry["event"] for entry in logs] == ["source_tested"]
    assert leg.states()[0].discarded_bytes == 2 * START_UP


async def test_a_source_that_fails_on_demand_goes_into_quarantine() -> None:
    """A fault that the test finds is treated as one of a block: no byte, a pause, and a start-up test."""
    clock, source = ManualClock(), StreamSource(SeededStream(8))
    leg = leg_of(source, clock)
    await leg.read(SIZE)
    leg.test_anew()
    source.stream = stuck_byte()
    failure = await failure_of(leg)
    assert (failure.retry_after_s, leg.condition) == (60.0, Condition.QUARANTINED)
    assert "repetition_count" in failure.message
    assert leg.test_anew() == 1
    assert (await failure_of(leg)).message == "the source is in quarantine"
    source.stream = SeededStream(9)
    clock.advance(60)
    assert (await leg.read(SIZE)).data == SeededStream(9).take(START_UP + SIZE)[START_UP:]


async def test_no_block_leaves_while_a_demanded_test_cannot_be_run() -> None:
    """A source that fails to answer stays to be tested; what it brings then is for the test first."""
    clock, source = ManualClock(), StreamSource(SeededStream(8))
    leg = leg_of(source, clock)
    await leg.read(SIZE)
    leg.test_anew()
    source.failures = [SourceError("unplugged")]
    wait_s = (await failure_of(leg)).retry_after_s or 0.0
    clock.advance(wait_s)
    await leg.read(SIZE)
    assert source.asked[2:] == [START_UP, START_UP, SIZE]


async def test_trying_a_source_out_has_no_consequences() -> None:
    """Whoever tries a source hears the verdict, and the source is neither trusted nor in quarantine for it."""
    leg = leg_of(StreamSource(SeededStream(8)), ManualClock())
    assert (await leg.try_out()).passed
    bad = leg_of(StreamSource(stuck_byte()), ManualClock())
    for _ in range(3):
        assert not (await bad.try_out()).passed
    assert bad.states()[0].discarded_bytes == 3 * START_UP
    assert "failed its tests" in (await failure_of(bad)).message


async def test_a_source_that_fails_its_first_test_delivers_nothing() -> None:
    """Not a byte of a source that is broken from the beginning is used."""
    leg = leg_of(StreamSource(stuck_byte()), ManualClock())
    assert "repetition_count" in (await failure_of(leg)).message
    assert leg.states() == [SourceView("q", SourceClass.QUANTUM, Condition.QUARANTINED, START_UP, START_UP)]


async def test_a_busy_source_is_left_alone_as_long_as_it_says() -> None:
    """After a Retry-After no request is made before that time."""
    clock, source = ManualClock(), StreamSource(SeededStream(1))
    source.failures = [SourceError("status 429", retry_after_s=30.0)]
    leg = leg_of(source, clock)
    assert (await failure_of(leg)).retry_after_s == 30.0
    clock.advance(29)
    assert (await failure_of(leg)).retry_after_s == 1.0
    assert (source.asked, leg.condition) == ([START_UP], Condition.FAILING)
    clock.advance(1)
    assert len(await leg.read(SIZE)) == SIZE


async def test_the_circuit_opens_and_is_probed() -> None:
    """Waits grow; after `open_after` failures in a row there is one request a minute, until one succeeds."""
    clock, source = ManualClock(), StreamSource(SeededStream(1))
    source.failures = [SourceError("status 500") for _ in range(6)]
    leg = leg_of(source, clock)
    waits = []
    with capture_logs() as logs:
        for _ in range(6):
            wait_s = (await failure_of(leg)).retry_after_s or 0.0
            waits.append(wait_s)
            clock.advance(wait_s)
        await leg.read(SIZE)
        assert [entry["event"] for entry in logs] == [
            "source_failed", "source_circuit_opened", "source_answers_again", "source_trusted",
        ]  # fmt: skip
    assert waits == [1, 2, 4, 60, 60, 60]
    source.failures = [SourceError("status 500")]
    assert (await failure_of(leg)).retry_after_s == 1


async def test_a_cancelled_start_up_goes_on_where_it_was() -> None:
    """What was gathered for the test stays; the next read asks for what is missing."""

    hanging = asyncio.Event()

    class Hanging(StreamSource):
        async def read(self, size: int) -> bytes:
            if len(self.asked) == 2:
                self.asked.append(0)
                hanging.set()
                await asyncio.Event().wait()
            return await super().read(size)

    source = Hanging(SeededStream(1))
    leg = leg_of(source, ManualClock(), most=400)
    read = asyncio.create_task(leg.read(SIZE))
    await hanging.wait()
    read.cancel()
    await asyncio.wait([read])
    assert len(await leg.read(100)) == 100
    assert source.asked == [400, 400, 0, 224, 100]


async def test_a_failed_start_up_goes_on_where_it_was() -> None:
    """What was gathered for the test before a failure is kept, and not fetched again."""

    class Failing(StreamSource):
        async def read(self, size: int) -> bytes:
            if len(self.asked) == 1:
                self.failures = [SourceError("busy")]
            return await super().read(size)

    clock, source = ManualClock(), Failing(SeededStream(1))
    leg = leg_of(source, clock, size=600)
    clock.advance((await failure_of(leg, 600)).retry_after_s or 0.0)
    assert len(await leg.read(600)) == 600
    assert source.asked == [600, 424, 424, 600]


async def test_a_slow_source_comes_into_service() -> None:
    """Tests are fetched as blocks are: a source that brings each block in its time passes, however long it takes."""

    class Slow(StreamSource):
        async def read(self, size: int) -> bytes:
            if size > 100:
                await asyncio.Event().wait()
            return await super().read(size)

    source = Slow(SeededStream(1))
    leg = leg_of(source, ManualClock(), size=100, timeout_s=0.2)
    assert len(await leg.read(100)) == 100
    leg.test_anew()
    assert len(await leg.read(100)) == 100
    assert source.asked == 2 * ([100] * 10 + [24, 100])


async def test_requests_are_spaced() -> None:
    """Between two requests, also for one block, there is the interval that is set, whatever time the first took."""
    source = StreamSource(SeededStream(1))
    leg = leg_of(source, ManualClock(), size=600, request_interval_s=3600.0)
    read = asyncio.create_task(leg.read(600))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (source.asked, read.done()) == ([600], False)
    read.cancel()
    await asyncio.wait([read])


async def test_the_books_of_a_source_balance() -> None:
    """Whatever was fetched was delivered or discarded, also when a block failed or was given up in its middle."""

    class Stumbling(StreamSource):
        async def read(self, size: int) -> bytes:
            self.failures = [SourceError("busy")] * (len(self.asked) % 4 == 3)
            return await super().read(size)

    clock, source = ManualClock(), Stumbling(SeededStream(1))
    leg = leg_of(source, clock, size=3000, most=1000)
    delivered = failures = 0
    while failures < 4:
        try:
            delivered += len(await leg.read(3000))
        except SourceError as error:
            failures += 1
            clock.advance(error.retry_after_s or 0.0)
        (view,) = leg.states()
        assert view.fetched_bytes == delivered + view.discarded_bytes
    assert delivered > 0
    assert view.discarded_bytes > START_UP


async def test_the_books_balance_after_a_read_was_cancelled() -> None:
    """What had come of a block that a mix, say, no longer waits for is counted as discarded."""

    class Stalling(StreamSource):
        async def read(self, size: int) -> bytes:
            if len(self.asked) == 5:
                stalling.set()
                await asyncio.Event().wait()
            return await super().read(size)

    stalling = asyncio.Event()
    leg = leg_of(Stalling(SeededStream(1)), ManualClock(), most=400)
    read = asyncio.create_task(leg.read(1000))
    await stalling.wait()
    read.cancel()
    await asyncio.wait([read])
    assert leg.states() == [SourceView("q", SourceClass.QUANTUM, Condition.DELIVERING, START_UP + 800, START_UP + 800)]


class OutOfBoundsError(BaseException):
    """What no program foresees of a source: an error that is no Exception."""


@pytest.mark.parametrize("fault", [UnicodeError, OutOfBoundsError])
async def test_an_unforeseen_failure_is_one_of_that_source(fault: type[BaseException]) -> None:
    """Any exception of a source is a failure like another: it counts, and is told by its kind, without its text."""

    class Broken(StreamSource):
        async def read(self, size: int) -> bytes:
            raise fault("STRANGER'S TEXT")

    leg = leg_of(Broken(SeededStream(1)), ManualClock())
    with capture_logs() as logs:
        failure = await failure_of(leg)
    assert failure.message == f"the source failed in a way nobody foresaw ({fault.__name__})"
    assert failure.retry_after_s == 1.0
    assert [entry["event"] for entry in logs] == ["source_failed"]
    assert "STRANGER" not in repr(logs) + "".join(traceback.format_exception(failure))
    assert leg.states()[0].fetched_bytes == 0


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_is_no_failure_of_a_source(end: type[BaseException]) -> None:
    """Ctrl-C while a source is read ends the program, and is not counted."""

    class Interrupted(StreamSource):
        async def read(self, size: int) -> bytes:
            raise end

    with pytest.raises(end):
        asyncio.run(leg_of(Interrupted(SeededStream(1)), ManualClock()).read(SIZE))


class GivesUp(StreamSource):
    """Reads until `task` is there and was cancelled, by whomever."""

    def __init__(self) -> None:
        super().__init__(SeededStream(1))
        self.task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reading = asyncio.Event()

    async def read(self, size: int) -> bytes:
        self.reading.set()
        await self.task
        raise AssertionError


async def test_a_source_that_cancels_itself_fails() -> None:
    """A source whose own task was cancelled has failed; whoever reads it is not cancelled for that."""
    source = GivesUp()
    leg = leg_of(source, ManualClock())
    source.task.cancel()
    assert (await failure_of(leg)).message == "the source gave up"
    assert leg.condition is Condition.FAILING


async def test_a_reader_that_is_cancelled_is() -> None:
    """Who cancels a read cancels it, and that is no failure of the source's."""
    source = GivesUp()
    leg = leg_of(source, ManualClock())
    reader = asyncio.create_task(leg.read(SIZE))
    await source.reading.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert leg.condition is Condition.QUARANTINED


@pytest.mark.parametrize("fault", [OSError, TimeoutError, asyncio.CancelledError, OutOfBoundsError])
async def test_a_source_that_cannot_be_closed_holds_nobody_up(fault: type[BaseException]) -> None:
    """Whatever goes wrong when a source closes is logged by its kind, once its books are."""

    class Sticky(StreamSource):
        async def close(self) -> None:
            raise fault("words of a stranger")

    with capture_logs() as logs:
        await leg_of(Sticky(SeededStream(1)), ManualClock()).close()
    assert [entry["event"] for entry in logs] == ["source_accounting", "source_not_closed"]
    assert logs[1]["fault"] == fault.__name__
    assert "stranger" not in repr(logs)


async def test_a_source_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source gets its time to close, and no more; who cancels the closing is not held up either."""

    class Endless(StreamSource):
        async def close(self) -> None:
            await asyncio.Event().wait()

    closing = asyncio.create_task(leg_of(Endless(SeededStream(1)), ManualClock()).close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    monkeypatch.setattr(leg_module, "CLOSE_S", 0.001)
    with capture_logs() as logs:
        await leg_of(Endless(SeededStream(1)), ManualClock()).close()
    assert logs[-1]["fault"] == "TimeoutError"


async def test_a_silent_or_short_source_fails() -> None:
    """No answer in time, another number of bytes than asked for, or something else than bytes, is a failure."""

    class Silent(StreamSource):
        async def read(self, size: int) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

    class Short(StreamSource):
        async def read(self, size: int) -> bytes:
            return self.stream.take(size - 1)

    class Wordy(StreamSource):
        async def read(self, size: int) -> bytes:
            words: Any = "x" * size
            return words

    wordy = leg_of(Wordy(SeededStream(1)), ManualClock())
    assert (await failure_of(wordy)).message == "the source delivered no bytes but a str"
    silent = leg_of(Silent(SeededStream(1)), ManualClock(), timeout_s=0.01)
    assert (await failure_of(silent)).message == "the source did not answer in time"
    short = leg_of(Short(SeededStream(1)), ManualClock())
    assert (await failure_of(short)).message == "the source delivered 1,023 bytes where 1,024 were asked for"
