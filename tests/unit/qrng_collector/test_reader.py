"""What the fetcher reads: mixes of tested sources, and sources as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from qrng_collector.reader import MixedReader, PlainReader
from qrng_grpc.chunk import Block, BlockLabel
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Condition, Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.sources.leg import Pace, SourceView
from qrng_grpc.sources.mixing import LegSource, MixedSource
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.faults import stuck_byte
from tests.legs import QUANTUM, START_UP, SYSTEM, StreamSource, leg_of


def mixed(sources: Sequence[StreamSource], clock: ManualClock, choice: Any) -> MixedReader:
    legs = [leg_of(source, clock) for source in sources]
    mix = MixedSource("xor", [LegSource(leg, 8.0) for leg in legs], on_missing_leg=choice, clock=clock)
    return MixedReader(mix, legs, Pace(64, 1.0, 5.0), clock)


async def test_a_mix_takes_only_what_passed() -> None:
    """A leg in quarantine is missing: the mix goes on under the other's label, says so once, and recovers."""
    clock = ManualClock()
    good, bad = StreamSource(SeededStream(1), SYSTEM), StreamSource(stuck_byte(after=START_UP + 64), QUANTUM)
    reader = mixed([bad, good], clock, "degrade")
    with capture_logs() as logs:
        block = await reader.read(64)
        assert block.label == BlockLabel(
            ("q", "s"), SourceClass.QUANTUM, Processing.MIXED, Custody.LOCAL, HealthVerdict.PASSED
        )
        for _ in range(2):
            weaker = (await reader.read(64)).label
            assert (weaker.device_ids, weaker.source_class) == (("s",), SourceClass.OPERATING_SYSTEM)
        assert [view.condition for view in reader.states()] == [Condition.QUARANTINED, Condition.DELIVERING]
        bad.stream = SeededStream(9)
        clock.advance(60)
        assert (await reader.read(64)).label == block.label
    told = [entry["event"] for entry in logs if entry["event"].startswith("mix")]
    assert told == ["mix_misses_legs", "mix_complete"]
    with capture_logs() as logs:
        await reader.close()
        await reader.close()
    assert [(entry["event"], entry.get("used_up"), entry.get("fetched"), entry["discarded"]) for entry in logs] == [
        ("mix_accounting", 128, None, 0),
        ("source_accounting", None, START_UP + 4 * 64, START_UP),
        ("source_accounting", None, 2 * START_UP + 3 * 64, 2 * START_UP + 64),
    ]
    assert (good.closed, bad.closed) == (True, True)


async def test_a_mix_set_to_stop_stops() -> None:
    """Without one of its legs such a mix delivers nothing."""
    clock = ManualClock()
    reader = mixed([StreamSource(stuck_byte(), QUANTUM), StreamSource(SeededStream(1), SYSTEM)], clock, "stop")
    with pytest.raises(SourceError, match="missing: q"):
        await reader.read(64)


async def test_a_mix_has_each_leg_tested_on_demand() -> None:
    """Every leg is tested before the next block of the mix, at its own expense."""
    sources = [StreamSource(SeededStream(1), QUANTUM), StreamSource(SeededStream(2), SYSTEM)]
    reader = mixed(sources, ManualClock(), "stop")
    await reader.read(64)
    assert reader.test_anew() == 2
    assert len(await reader.read(64)) == 64
    assert [source.asked for source in sources] == [[START_UP, 64, START_UP, 64]] * 2


async def test_a_plain_reader_calls_nothing_tested() -> None:
    """Test doubles are read as they are, UNTESTED, and their failures show."""
    source = StreamSource(stuck_byte())
    reader = PlainReader(source, Pace(16, 1.0, 5.0), ManualClock(now_ns=5))
    assert await reader.read(16) == Block(bytes(16), 5, 5, QUANTUM)
    source.failures = [SourceError("unplugged")]
    with pytest.raises(SourceError):
        await reader.read(16)
    assert reader.states() == [SourceView("q", SourceClass.QUANTUM, Condition.FAILING, 16, 0)]
    assert reader.test_anew() == 0
    await reader.close()
    assert source.closed
