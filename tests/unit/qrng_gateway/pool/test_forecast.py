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


@pytest.mark.parametrize("seconds", [1, 2, 5, 30])
def test_rates_are_right_from_the_first_second(seconds: int) -> None:
    """What comes and goes evenly since the start is told as it is, however short that is ago."""
    forecast = looked(ManualClock(), stored=1000, served=400, seconds=seconds)
    assert (forecast.inflow, forecast.outflow) == (pytest.approx(1000), pytest.approx(400))


def test_the_first_moment_is_no_flood() -> None:
    """What came in the first tenth of a second is not taken for a tenth of what a second brings."""
    clock = ManualClock()
    forecast = Forecast(clock)
    clock.advance(0.1)
    forecast.look(1000, 0)
    assert 900 < forecast.inflow <= 1100


def test_old_rates_are_forgotten() -> None:
    """Ten seconds after the last byte came, half of the rate is left."""
    clock = ManualClock()
    forecast = looked(clock, stored=1000, served=0)
    clock.advance(10)
    forecast.look(120 * 1000, 0)
    assert forecast.inflow == pytest.approx(500, rel=0.01)


def test_it_does_not_pretend_to_know():
    """While nothing has arrived the hint is a second."""
    assert Forecast(ManualClock()).seconds_until(10**6) == UNKNOWN_S


def test_two_looks_at_one_time_are_one():
    """A look without time passing changes nothing, and divides by nothing."""
    clock = ManualClock()
    forecast = looked(clock, stored=100, served=100)
    forecast.look(10**9, 10**9)
    assert forecast.inflow == pytest.approx(100, rel=0.01)
