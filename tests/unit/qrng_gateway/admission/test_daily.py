"""Daily counts: what was given out today is never forgotten, whatever ends the program."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_gateway.admission.daily import KEPT_DAYS, NS_PER_DAY, STEPS, DailyCounts, DayCount
from qrng_grpc.errors import StateError
from qrng_grpc.state import NumbersFile
from qrng_grpc.testing.clock import ManualClock

CLIENT = "lab-sampler"
QUOTA = 10_000
DAY_S = 86_400


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def on_disk(directory: Path) -> tuple[int, ...] | None:
    return NumbersFile(directory / f"{CLIENT}.day", 2).read()


def taken(count: DayCount, n: int) -> int:
    """Take as many times `n` bytes as the quota allows; return how many bytes that were."""
    total = 0
    while count.take(n, QUOTA):
        total += n
    return total


@settings(max_examples=25, deadline=None)  # each writes to the disk
@given(sizes=st.lists(st.integers(1, 400), max_size=20), quota=st.integers(1, 5000))
def test_a_kill_never_loses_what_was_given_out(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], quota: int
) -> None:
    """At any moment the file covers all that was counted, and at most a hundredth of the quota more."""
    directory, given_out = tmp_path_factory.mktemp("quota"), 0
    count = DailyCounts(directory, ManualClock()).of(CLIENT)
    for size in sizes:
        given_out += size if count.take(size, quota) else 0
        assert given_out <= quota
        after_a_kill = DailyCounts(directory, ManualClock()).of(CLIENT).used
        assert given_out <= after_a_kill <= min(quota, given_out + quota // STEPS)


def test_a_quota_is_given_out_to_the_last_byte(tmp_path: Path) -> None:
    """Exactly the quota passes, in whatever sizes, and the rest is refused without being counted."""
    count = DailyCounts(tmp_path, ManualClock()).of(CLIENT)
    assert taken(count, 300) == 9900
    assert not count.take(101, QUOTA)
    assert count.take(100, QUOTA)
    assert count.left(QUOTA) == (0, DAY_S)


def test_a_quota_costs_few_writes(tmp_path: Path) -> None:
    """However small the claims, the count on disk moves on in steps of a hundredth of the quota."""
    count, states = DailyCounts(tmp_path, ManualClock()).of(CLIENT), set()
    while count.take(1, QUOTA):
        states.add(on_disk(tmp_path))
    assert STEPS <= len(states) <= STEPS + 2


def test_a_polite_end_is_exact(tmp_path: Path) -> None:
    """Once settled, the file says what was counted, less what was given back."""
    counts = DailyCounts(tmp_path, ManualClock())
    count = counts.of(CLIENT)
    assert count.take(1000, QUOTA)
    count.give_back(300, count.day)
    counts.settle()
    assert DailyCounts(tmp_path, ManualClock()).of(CLIENT).used == 700


def test_a_new_day_begins_at_midnight_utc(tmp_path: Path) -> None:
    """The time that is told is the time to midnight, and then the whole quota is there again."""
    clock = ManualClock()
    count = DailyCounts(tmp_path, clock).of(CLIENT)
    clock.advance(DAY_S - 10)
    taken(count, 100)
    assert count.left(QUOTA) == (0, 10)
    clock.advance(10)
    assert count.left(QUOTA) == (QUOTA, DAY_S)
    assert taken(count, 100) == QUOTA


def test_what_comes_back_late_adds_nothing_to_the_new_day(tmp_path: Path) -> None:
    """Bytes counted before midnight and given back after it leave the new day's quota as it is."""
    clock = ManualClock()
    count = DailyCounts(tmp_path, clock).of(CLIENT)
    assert count.take(1000, QUOTA)
    yesterday = count.day
    clock.advance(DAY_S)
    assert count.take(1000, QUOTA)
    count.give_back(1000, yesterday)
    assert count.left(QUOTA)[0] == QUOTA - 1000


def test_a_clock_set_back_over_midnight_grants_no_second_quota(tmp_path: Path) -> None:
    """A day that has begun goes on, also after a restart, however often the clock crosses midnight."""
    clock = ManualClock()
    clock.advance(DAY_S - 1)
    count = DailyCounts(tmp_path, clock).of(CLIENT)
    clock.advance(2)
    assert taken(count, 100) == QUOTA
    clock.step_wall(-2)
    assert taken(count, 100) == 0
    assert count.left(QUOTA) == (0, DAY_S + 1)
    assert DailyCounts(tmp_path, clock).of(CLIENT).left(QUOTA)[0] == 0
    clock.step_wall(2)
    assert taken(count, 100) == 0


def test_a_clock_that_was_far_ahead_locks_nobody_out(tmp_path: Path) -> None:
    """Once the clock is right again, what was counted is today's, on disk too, and tomorrow begins as ever."""
    clock = ManualClock()
    clock.step_wall(400 * DAY_S)
    count = DailyCounts(tmp_path, clock).of(CLIENT)
    assert count.take(4000, QUOTA)
    clock.step_wall(-400 * DAY_S)
    restarted = DailyCounts(tmp_path, clock).of(CLIENT)
    for right_again in (count, restarted):
        assert not right_again.take(QUOTA - 3899, QUOTA)
        assert right_again.take(1, QUOTA)
    today = clock.now_ns() // NS_PER_DAY
    assert (on_disk(tmp_path) or ())[0] == today
    clock.advance(DAY_S)
    assert taken(restarted, 100) == QUOTA


def test_files_of_clients_that_are_gone_are_deleted(tmp_path: Path) -> None:
    """What is kept on disk is bounded by the clients of a month, and an old file does not spoil today's quota."""
    clock = ManualClock()
    for name in ("a", "b"):
        assert DailyCounts(tmp_path, clock).of(name).take(QUOTA, QUOTA)
    clock.advance(KEPT_DAYS * DAY_S)
    assert DailyCounts(tmp_path, clock).of("b").take(QUOTA, QUOTA)
    clock.advance(DAY_S)
    assert DailyCounts(tmp_path, clock).of("b").left(QUOTA)[0] == QUOTA
    assert files(tmp_path) == ["b.day"]


def test_a_damaged_count_refuses_to_start(tmp_path: Path) -> None:
    """Nobody guesses what a client had."""
    (tmp_path / "lab.day").write_bytes(b"qrng-state-1 20089 0 00000000".ljust(128))
    with pytest.raises(StateError, match="damaged"):
        DailyCounts(tmp_path, ManualClock())


def test_a_directory_that_cannot_be_used_refuses_to_start(tmp_path: Path) -> None:
    """Counts that could not be kept are not begun."""
    (tmp_path / "quota").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        DailyCounts(tmp_path / "quota" / "below", ManualClock())


def test_what_cannot_be_written_is_not_given_out(tmp_path: Path) -> None:
    """Without its directory a count gives out what the file covered and no more, and goes on when it is back."""
    directory = tmp_path / "quota"
    counts = DailyCounts(directory, ManualClock())
    count = counts.of(CLIENT)
    assert count.take(1, QUOTA)
    directory.rename(tmp_path / "away")
    assert count.take(100, QUOTA)
    with pytest.raises(StateError, match="could not be written"):
        count.take(1, QUOTA)
    assert (counts.failing, count.used) == (True, 101)
    count.give_back(50, count.day)
    counts.settle()
    (tmp_path / "away").rename(directory)
    assert DailyCounts(directory, ManualClock()).of(CLIENT).used == 101
    assert count.take(51, QUOTA)
    assert not counts.failing
