"""The estimate of a collector's clock, from times alone."""

from __future__ import annotations

from qrng_gateway.link.skew import WINDOW_NS, Skew
from qrng_grpc.clock import NS_PER_S

START_NS = 1000 * WINDOW_NS


def test_nothing_is_known_before_a_chunk():
    """Without a chunk there is no estimate."""
    assert Skew().seconds is None


def test_the_quickest_way_counts():
    """Of chunks on their way for 3, 1 and 2 s, by a clock 5 s behind, the estimate is 6 s: never below the truth."""
    skew = Skew()
    for way_s in (3, 1, 2):
        skew.note(START_NS - (5 + way_s) * NS_PER_S, START_NS)
    assert skew.seconds == 6


def test_a_clock_ahead_is_told_by_its_sign():
    """A collector whose clock is ahead has a negative skew."""
    skew = Skew()
    skew.note(START_NS + 2 * NS_PER_S, START_NS)
    assert skew.seconds == -2


def test_old_lags_are_forgotten():
    """After a clock was set, what was measured before counts for two minutes at most."""
    skew = Skew()
    skew.note(START_NS - 1 * NS_PER_S, START_NS)
    for minute in (1, 2):
        now_ns = START_NS + minute * WINDOW_NS
        skew.note(now_ns - 9 * NS_PER_S, now_ns)
    assert skew.seconds == 9


def test_a_silence_forgets_too():
    """Lags from before a silence of minutes do not count."""
    skew = Skew()
    skew.note(START_NS - 1 * NS_PER_S, START_NS)
    later_ns = START_NS + 5 * WINDOW_NS
    skew.note(later_ns - 9 * NS_PER_S, later_ns)
    assert skew.seconds == 9
