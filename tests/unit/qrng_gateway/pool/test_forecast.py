"""The forecast, on a clock of the test's."""

from __future__ import annotations

import pytest

from qrng_gateway.pool.forecast import LATEST_S, SOONEST_S, UNKNOWN_S, Forecast
from qrng_grpc.testing.clock import ManualClock


def looked(clock: ManualClock, *, stored: int, served: int, seconds: int = 120) -> Forecast:
    """A forecast after `seconds` of so many bytes each second."""
    forecast = Forecast(clock)
    for second in range(1, seconds + 1):
        clock.advance(1)
        forecast.look(stored * second, served * second)
    return forecast


def test_it_says_how_long_a_pool_lasts():
    """With 100 bytes a second fewer, 1000 bytes last ten seconds; with more, nobody can say."""
    clock = ManualClock()
    assert looked(clock, stored=100, served=200).seconds_left(1000) == pytest.approx(10, rel=0.01)
    assert looked(clock, stored=200, served=100).seconds_left(1000) is None


def test_it_says_when_so_many_bytes_will_have_come():
    """At 100 bytes a second 500 take five seconds, within bounds that make sense to wait for."""
    forecast = looked(ManualClock(), stored=100, served=100)
    assert forecast.seconds_until(500) == pytest.approx(5, rel=0.01)
    assert forecast.seconds_until(1) == SOONEST_S
    assert forecast.seconds_until(10**9) == LATEST_S


def test_it_does_not_pretend_to_know():
    """While nothing has arrived the hint is a second."""
    assert Forecast(ManualClock()).seconds_until(10**6) == UNKNOWN_S


def test_two_looks_at_one_time_are_one():
    """A look without time passing changes nothing, and divides by nothing."""
    clock = ManualClock()
    forecast = looked(clock, stored=100, served=100)
    forecast.look(10**9, 10**9)
    assert forecast.inflow == pytest.approx(100, rel=0.01)
