"""The monitor of a source: start-up first, a failure stops it, another start-up test lets it go on."""

from __future__ import annotations

import pytest

from qrng_grpc.health_tests import START_UP_SAMPLES, HealthTest, Monitor, Verdict
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing.faults import cached_body, stuck_byte


def started(stream: SeededStream) -> Monitor:
    monitor = Monitor(8)
    assert monitor.start_up(stream.take(START_UP_SAMPLES)).passed
    return monitor


def test_nothing_is_tested_before_start_up() -> None:
    """A block has no verdict until the source passed its start-up test."""
    with pytest.raises(RuntimeError, match="start-up"):
        Monitor(8).check(bytes(16))


def test_start_up_takes_1024_samples() -> None:
    """1023 consecutive bytes are no start-up test and no on-demand test, 1024 are."""
    stream, monitor = SeededStream(0), Monitor(8)
    for test in (monitor.start_up, monitor.on_demand):
        with pytest.raises(ValueError, match="1024"):
            test(stream.take(1023))
    assert not monitor.started
    assert monitor.start_up(stream.take(1024)).passed
    assert monitor.started


def test_failed_start_up() -> None:
    """A source that fails its start-up test is not started, and may try again."""
    stream, monitor = SeededStream(0), Monitor(8)
    assert not monitor.start_up(bytes(1024)).passed
    assert not monitor.started
    assert monitor.start_up(stream.take(1024)).passed


def test_failure_neither_latches_nor_switches_off() -> None:
    """After a failed block nothing is tested until a start-up test passes; then everything is tested as before."""
    stream = SeededStream(0)
    monitor = started(stream)
    for _ in range(3):
        assert monitor.check(stream.take(5000)).passed
        assert not monitor.check(stream.take(100) + stuck_byte().take(100)).passed
        with pytest.raises(RuntimeError, match="start-up"):
            monitor.check(stream.take(100))
        assert monitor.start_up(stream.take(1024)).passed
    assert monitor.check(stream.take(5000)).passed


def test_state_spans_blocks() -> None:
    """A run of six equal bytes fails when it lies across blocks, the start-up samples among them."""
    stream, monitor = SeededStream(0), Monitor(8)
    assert monitor.start_up(stream.take(1021) + b"\x01\xaa\xaa\xaa").passed
    failure = monitor.check(b"\xaa\xaa\xaa" + stream.take(100)).failure
    assert failure is not None
    assert (failure.test, failure.statistic, failure.at) == (HealthTest.REPETITION_COUNT, 6, 1027)


def test_on_demand_leaves_the_stream_alone() -> None:
    """A passed on-demand test neither starts a monitor nor joins the stream; a failed one stops it."""
    stream, monitor = SeededStream(0), Monitor(8)
    assert monitor.on_demand(stream.take(1024)).passed
    assert not monitor.started
    assert monitor.start_up(stream.take(1021) + b"\x01\xaa\xaa\xaa").passed
    assert monitor.on_demand(b"\xaa\xaa\xaa" + stream.take(1021)).passed
    assert monitor.check(b"\xaa\xaa" + stream.take(100)).passed
    assert not monitor.on_demand(stuck_byte().take(1024)).passed
    assert not monitor.started


def test_a_cache_does_not_pass_by_repeating_itself() -> None:
    """The blocks of before are remembered through quarantine: a cached reply fails the start-up test too."""
    stream = cached_body(after=1024)
    monitor = Monitor(8)
    assert monitor.start_up(stream.take(1024)).passed
    assert monitor.check(stream.take(4096)).passed
    for verdict in (monitor.check(stream.take(4096)), monitor.start_up(stream.take(2048))):
        assert verdict.failure is not None
        assert verdict.failure.test is HealthTest.FINGERPRINT


def test_every_reply_is_remembered() -> None:
    """Of a block that is several replies each is known again, alone or within another block; the first is named."""
    stream = SeededStream(0)
    monitor, replies = started(stream), [stream.take(300) for _ in range(3)]
    assert monitor.check(b"".join(replies), (0, 300, 600)).passed
    failure = monitor.check(stream.take(100) + replies[2] + replies[1], (0, 100, 400)).failure
    assert failure is not None
    assert (failure.test, failure.statistic, failure.at) == (HealthTest.FINGERPRINT, 2, 1024 + 900 + 100 + 15)
    assert not monitor.on_demand(stream.take(1024) + replies[0], (0, 1024)).passed
    assert not monitor.start_up(stream.take(1024) + replies[0], (0, 1024)).passed


def test_reset_begins_anew() -> None:
    """After a reset the source must pass a start-up test."""
    monitor = started(SeededStream(0))
    monitor.reset()
    assert not monitor.started


def test_the_first_alarm_of_a_block_is_named() -> None:
    """Of several tests that fail, the verdict names the one that was decided first."""
    stream = SeededStream(0)
    body = stream.take(10) + bytes(1000)
    monitor = started(stream)
    first = monitor.check(body).failure
    monitor.start_up(stream.take(1024))
    second = monitor.check(body).failure
    assert first is not None
    assert second is not None
    assert (first.test, first.at) == (HealthTest.REPETITION_COUNT, 1024 + 10 + 5)
    assert (second.test, second.at) == (HealthTest.REPETITION_COUNT, 1024 + 10 + 5)


def test_verdicts_say_what_failed_and_show_no_bytes() -> None:
    """A verdict names test, statistic, cutoff and sample, and nothing of the block."""
    monitor = started(SeededStream(0))
    verdict = monitor.check(b"SECRETSECRETSECRET" + b"X" * 100)
    assert str(verdict) == "repetition_count: 6 (cutoff 6) at sample 1047"
    assert "SECRET" not in repr(verdict) + repr(monitor)
    assert str(Verdict()) == "passed"


@pytest.mark.parametrize("entropy", [0, 8.5])
def test_parameters(entropy: float) -> None:
    """A monitor that could not test is not made."""
    with pytest.raises(ValueError, match="8 bits"):
        Monitor(entropy)
