"""Monte Carlo: points decided exactly, statistics that hold at the edges, honest labels."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_gateway.pool.reservoir import Sample, SampleLabel
from qrng_gateway.quality.monte_carlo import (
    PSEUDO_RANDOM,
    Convergence,
    are_inside,
    as_json,
    compare,
    convergence_rate,
    estimate,
    scatter,
    spaced_points,
    wilson_interval,
)
from qrng_grpc.labels import Processing, SourceClass

LABEL = SampleLabel(SourceClass.OPERATING_SYSTEM, Processing.NONE, ("dev-a", "dev-b"), 1_000, 2_000)
COORDINATES = st.integers(0, 2**32 - 1)


def points(*coordinates: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<II", x, y) for x, y in coordinates)


def fair(iterations: int, seed: int = 1) -> bytes:
    return np.random.Generator(np.random.PCG64(seed)).bytes(8 * iterations)


def sample(data: bytes) -> Sample:
    return Sample(bytearray(data), LABEL)


# Points


@pytest.mark.parametrize(
    ("x", "y", "inside"),
    [
        (0, 0, True),
        (0, 2**32 - 1, True),
        (2**32 - 1, 0, True),
        (2**32 - 1, 2**32 - 1, False),
        # 3, 4, 5 as a right triangle: its hypotenuse is just below, and just above, 2**32.
        (3 * 858_993_459, 4 * 858_993_459, True),
        (3 * 858_993_460, 4 * 858_993_460, False),
    ],
)
def test_points_by_hand(x: int, y: int, inside: bool) -> None:
    """The corners, and points a hair from the circle, fall where whole numbers say."""
    assert are_inside(points((x, y)), 0, 1).tolist() == [inside]


@settings(deadline=None)
@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=50))
def test_points_are_decided_exactly(coordinates: list[tuple[int, int]]) -> None:
    """A point is inside exactly when the sum of its squares is below 2**64."""
    decided = are_inside(points(*coordinates), 0, len(coordinates)).tolist()
    assert decided == [x * x + y * y < 2**64 for x, y in coordinates]


def test_scatter_is_what_was_counted() -> None:
    """The first thousand points, as fractions, those inside apart from those outside, and none more."""
    inside, outside = scatter(fair(5000))
    assert len(inside) + len(outside) == 1000
    assert len(inside) == np.count_nonzero(are_inside(fair(5000), 0, 1000))
    assert all(math.hypot(*point) < 1.000002 for point in inside)
    assert all(math.hypot(*point) > 0.999998 for point in outside)


# Estimates


def test_estimate_by_hand() -> None:
    """Three of four points inside make pi 3, and the part of an iteration at the end counts for nothing."""
    estimated = estimate(points((0, 0), (1, 1), (2**31, 2**31), (2**32 - 1, 2**32 - 1)) + b"\xff" * 7)
    assert (estimated.iterations, estimated.inside) == (4, 3)
    assert estimated.estimated_pi == 3
    assert estimated.error == pytest.approx(math.pi - 3)
    assert estimated.convergence == (Convergence(4, 3),)
    assert estimated.convergence_rate is None
    assert estimated.chi_square is None


@pytest.mark.parametrize("data", [b"", bytes(7)])
def test_no_iteration_no_estimate(data: bytes) -> None:
    """Fewer than eight bytes cannot be estimated from, and pi is not made up."""
    with pytest.raises(ValueError, match="8 bytes"):
        estimate(data)


@pytest.mark.parametrize(("first", "value"), [(0x00, 4), (0xFF, 0)])
def test_stuck_bytes(first: int, value: int) -> None:
    """From a source that is stuck, pi is 4 or 0, far outside the interval, and the byte counts are impossible."""
    estimated = estimate(bytes([first]) * 8000)
    assert estimated.estimated_pi == value
    assert not estimated.interval[0] <= math.pi <= estimated.interval[1]
    assert estimated.chi_square is not None
    assert estimated.chi_square.p_value == 0


def test_fair_bytes_find_pi() -> None:
    """Fixed fair bytes for 300,000 iterations find pi within four standard deviations, over several steps."""
    estimated = estimate(fair(300_000))
    assert estimated.error < 4 * math.sqrt(math.pi * (4 - math.pi) / 300_000)
    assert estimated.interval[0] < estimated.estimated_pi < estimated.interval[1]
    assert estimated.inside == np.count_nonzero(are_inside(fair(300_000), 0, 300_000))


def test_the_course_is_that_of_the_same_points() -> None:
    """What the estimate was after n iterations is the estimate from the first n."""
    data = fair(100_000)
    for point in estimate(data).convergence:
        assert point.estimated_pi == estimate(data[: 8 * point.iterations]).estimated_pi


@settings(deadline=None)
@given(st.integers(1, 10_000_000))
def test_points_of_the_course(iterations: int) -> None:
    """At most 50 points, rising, from 10 on or the only one, the last being all iterations."""
    course = spaced_points(iterations)
    assert 1 <= len(course) <= 50
    assert course == sorted(set(course))
    assert course[0] == min(10, iterations)
    assert course[-1] == iterations


# Statistics


@pytest.mark.parametrize("exponent", [-0.5, -1, 0, 0.25])
def test_convergence_rate_by_hand(exponent: float) -> None:
    """Errors that fall as a power of the iterations have that power as their rate."""
    course = tuple(Convergence(n, math.pi + 0.1 * n**exponent) for n in (10, 100, 1000, 5000))
    assert convergence_rate(course) == pytest.approx(exponent, abs=1e-9)


@pytest.mark.parametrize(
    ("inside", "iterations", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), 857-872, table I: method 3 for 81/263, 15/148, 0/20, 1/29.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(inside: int, iterations: int, low: float, high: float) -> None:
    """The published intervals of proportions, to four decimals, times four."""
    interval = wilson_interval(inside, iterations)
    assert interval == (pytest.approx(4 * low, abs=0.0002), pytest.approx(4 * high, abs=0.0002))


@settings(deadline=None)
@given(st.integers(1, 10_000_000), st.data())
def test_interval_is_possible(iterations: int, data: st.DataObject) -> None:
    """Whatever was counted, the interval holds the estimate and lies between 0 and 4."""
    inside = data.draw(st.integers(0, iterations))
    low, high = wilson_interval(inside, iterations)
    assert -1e-12 <= low <= 4 * inside / iterations + 1e-12
    assert 4 * inside / iterations - 1e-12 <= high <= 4 + 1e-12


def test_the_interval_covers_pi_as_often_as_it_says() -> None:
    """Of 500 runs on fixed fair bytes, pi lies in 95 % of the intervals, give or take four standard deviations."""
    covered = 0
    for seed in range(500):
        low, high = estimate(fair(200, seed)).interval
        covered += low <= math.pi <= high
    assert abs(covered - 475) <= 4 * math.sqrt(500 * 0.95 * 0.05)


# Comparison


def test_the_baseline_does_as_many_iterations() -> None:
    """The generator is given the iterations that the sample had, whatever was requested, and its own bytes."""
    compared = compare(sample(fair(500)), 1_000_000, np.random.Generator(np.random.PCG64(7)))
    assert compared.iterations_requested == 1_000_000
    assert compared.sample == estimate(fair(500))
    assert compared.pseudo == estimate(fair(500, 7))


def test_the_baseline_is_new_each_time() -> None:
    """Without a generator one is seeded by the operating system, so that two baselines differ."""
    compared = [compare(sample(fair(500)), 500) for _ in range(2)]
    assert compared[0].sample == compared[1].sample
    assert compared[0].pseudo.convergence != compared[1].pseudo.convergence


def test_reply() -> None:
    """The reply has the fields that clients know, says what the bytes were, and is plain JSON without NaN."""
    compared = compare(sample(fair(2000)), 5000)
    reply = json.loads(json.dumps(as_json(compared), allow_nan=False))
    assert (reply["iterations_requested"], reply["iterations_used"], reply["bytes_per_iteration"]) == (5000, 2000, 8)
    assert reply["estimated_pi"] == compared.sample.estimated_pi
    assert reply["error"] == abs(reply["estimated_pi"] - math.pi)
    assert reply["convergence_rate"] == compared.sample.convergence_rate
    low, high = compared.sample.interval
    assert reply["confidence_interval"] == {"level": 0.95, "low": low, "high": high}
    assert compared.sample.chi_square is not None
    assert reply["chi_square"]["p_value"] == compared.sample.chi_square.p_value
    assert reply["chi_square"]["degrees_of_freedom"] == 255
    assert "byte" in reply["chi_square"]["of"]
    assert reply["convergence"][-1] == {k: reply[k] for k in ("estimated_pi", "error")} | {"iterations": 2000}
    assert (reply["source_class"], reply["processing"]) == ("operating_system", "none")
    assert reply["device_ids"] == ["dev-a", "dev-b"]
    assert (reply["capture_start_ns"], reply["capture_end_ns"]) == (1_000, 2_000)
    assert sum(map(len, reply["scatter_plot_data"].values())) == 1000


def test_reply_compares_under_honest_names() -> None:
    """Both sides of the comparison say what they are; bytes of the operating system are nowhere called quantum."""
    reply = as_json(compare(sample(fair(2000)), 2000))
    sides = json.loads(json.dumps(reply["quantum_vs_pseudo"]))
    assert sides["sample"]["source_class"] == "operating_system"
    assert sides["pseudo"]["generator"] == PSEUDO_RANDOM
    assert sides["pseudo"]["chi_square"]["degrees_of_freedom"] == 255
    assert json.dumps(reply).count("quantum") == 1


def test_reply_of_one_iteration() -> None:
    """What cannot be told from one point is null."""
    reply = json.loads(json.dumps(as_json(compare(sample(bytes(8)), 1)), allow_nan=False))
    assert reply["iterations_used"] == 1
    assert reply["convergence_rate"] is reply["chi_square"] is None
    assert reply["scatter_plot_data"] == {"inside": [[0.0, 0.0]], "outside": []}
