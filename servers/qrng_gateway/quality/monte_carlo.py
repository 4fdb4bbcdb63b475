"""Pi by Monte Carlo: what share of random points in the unit square lies in the quarter of a circle.

Idea: one iteration takes 8 bytes, two coordinates of 32 bits, little-endian, x first. A point is inside when
x**2 + y**2 < 2**64, decided in whole numbers, and pi is four times the share inside. The error shrinks with the
square root of the number of iterations, from a perfect source too, so a run on a MiB finds pi to about 0.005 and
nothing more. The same is done with a pseudo-random generator for comparison: the two are expected to look alike.

It is a demonstration that goes wrong for a grossly broken source, and no measure of how good a sound one is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qrng_gateway.pool.reservoir import Sample, SampleLabel
from qrng_gateway.quality import chi_square
from qrng_gateway.quality.chi_square import ChiSquare

BYTES_PER_ITERATION = 8
MAX_ITERATIONS = 10_000_000
DEFAULT_ITERATIONS = 1_000_000
MAX_SCATTER_POINTS = 1000
PSEUDO_RANDOM = "numpy PCG64, seeded by the operating system"

_CONVERGENCE_POINTS = 50
_FIRST_POINT = 10
_STEP = 1 << 15
"""Iterations at a time: what they take in between stays near the processor, and other threads get their turn."""
_Z_95 = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Convergence:
    """The estimate after so many iterations."""

    iterations: int
    estimated_pi: float

    @property
    def error(self) -> float:
        """How far the estimate is from pi."""
        return abs(self.estimated_pi - math.pi)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What bytes say of pi."""

    iterations: int
    inside: int
    interval: tuple[float, float]
    """Where pi lies with 95 % confidence, were the bytes fair."""
    chi_square: ChiSquare | None
    """Of the counts of the byte values; None for too few."""
    convergence: tuple[Convergence, ...]
    """At numbers of iterations evenly spaced by ratio, the last being all."""
    convergence_rate: float | None
    """Exponent r of the error as iterations**r, fitted to `convergence`: about -0.5, give or take much in a single
    run. None for fewer than two points."""

    @property
    def estimated_pi(self) -> float:
        """Four times the share of points inside."""
        return 4 * self.inside / self.iterations

    @property
    def error(self) -> float:
        """How far the estimate is from pi."""
        return abs(self.estimated_pi - math.pi)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A sample and a pseudo-random generator at the same task, with as many iterations."""

    iterations_requested: int
    label: SampleLabel
    sample: Estimate
    pseudo: Estimate
    inside: tuple[Point, ...]
    """The first points of the sample that lie in the circle; those outside are in `outside`, together at most 1000."""
    outside: tuple[Point, ...]


def compare(sample: Sample, iterations_requested: int, generator: np.random.Generator | None = None) -> Comparison:
    """Estimate pi from the bytes of `sample`, and from as many of `generator`, by default a new PCG64.

    Takes some 20 ms for each MiB of the sample, in small steps, and belongs in a thread. Raises ValueError for a
    sample of fewer than 8 bytes.
    """
    iterations = len(sample) // BYTES_PER_ITERATION
    generator = generator or np.random.Generator(np.random.PCG64())
    inside, outside = scatter(sample.data)
    return Comparison(
        iterations_requested,
        sample.label,
        estimate(sample.data),
        estimate(generator.bytes(iterations * BYTES_PER_ITERATION)),
        inside,
        outside,
    )


def estimate(data: bytes | bytearray) -> Estimate:
    """Estimate pi from `data`, 8 bytes an iteration; an incomplete last one is left out. ValueError for none."""
    iterations = len(data) // BYTES_PER_ITERATION
    if not iterations:
        raise ValueError("an iteration takes 8 bytes")
    convergence = _convergence(data, iterations)
    inside = round(convergence[-1].estimated_pi * iterations / 4)
    return Estimate(
        iterations,
        inside,
        wilson_interval(inside, iterations),
        chi_square.of_byte_counts(data),
        convergence,
        convergence_rate(convergence),
    )


def are_inside(data: bytes | bytearray, first: int, end: int) -> NDArray[np.bool_]:
    """Say of each iteration from `first` to before `end` whether its point is inside."""
    x, y = _coordinates(data, first, end)
    x *= x
    y *= y
    np.invert(y, out=y)  # 2**64 - 1 - y**2, where the sum of both squares would not fit into 64 bits
    return x <= y


def _coordinates(data: bytes | bytearray, first: int, end: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    pairs = np.frombuffer(data, "<u4", 2 * (end - first), BYTES_PER_ITERATION * first).reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def spaced_points(iterations: int) -> list[int]:
    """Return at most 50 numbers of iterations, from 10 on evenly spaced by ratio, rounded; the last is `iterations`."""
    if iterations <= _FIRST_POINT:
        return [iterations]
    ratio = math.log(iterations / _FIRST_POINT) / (_CONVERGENCE_POINTS - 1)
    points = {round(_FIRST_POINT * math.exp(ratio * step)) for step in range(_CONVERGENCE_POINTS - 1)}
    return sorted(points | {iterations})


def _convergence(data: bytes | bytearray, iterations: int) -> tuple[Convergence, ...]:
    inside = done = 0
    course = []
    for point in spaced_points(iterations):
        for first in range(done, point, _STEP):
            inside += int(np.count_nonzero(are_inside(data, first, min(point, first + _STEP))))
        done = point
        course.append(Convergence(point, 4 * inside / point))
    return tuple(course)


def convergence_rate(course: tuple[Convergence, ...]) -> float | None:
    """Return the slope of a line through log(error) over log(iterations), by least squares; None below two points."""
    if len(course) < 2:
        return None
    across = np.log([point.iterations for point in course])
    across -= across.mean()
    up = np.log([point.error for point in course])  # never log(0): four times a fraction is not pi
    return float(across @ up / (across @ across))


def wilson_interval(inside: int, iterations: int) -> tuple[float, float]:
    """Return the interval for pi that holds it with 95 % confidence, by the score of Wilson (1927).

    Unlike the usual one it stays within what is possible, for few points and for none inside too.
    """
    share = inside / iterations
    spread = _Z_95**2 / iterations
    centre = (share + spread / 2) / (1 + spread)
    margin = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return 4 * max(0.0, centre - margin), 4 * min(1.0, centre + margin)


def scatter(data: bytes | bytearray) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """Return the first points of `data`, at most 1000, inside and outside, as coordinates from 0 to 1 to six digits."""
    end = min(MAX_SCATTER_POINTS, len(data) // BYTES_PER_ITERATION)
    x, y = (np.round(axis / 2.0**32, 6).tolist() for axis in _coordinates(data, 0, end))
    marked = list(zip(are_inside(data, 0, end).tolist(), zip(x, y, strict=True), strict=True))
    return tuple(point for inside, point in marked if inside), tuple(point for inside, point in marked if not inside)


def as_json(comparison: Comparison) -> dict[str, object]:
    """Return the reply of REST, in plain lists and numbers. Fields that cannot be told from so few bytes are null."""
    sample, label = comparison.sample, comparison.label
    return {
        "iterations_requested": comparison.iterations_requested,
        "iterations_used": sample.iterations,
        "bytes_per_iteration": BYTES_PER_ITERATION,
        **_estimate_as_json(sample),
        "source_class": label.source_class.value,
        "processing": label.processing.value,
        "device_ids": list(label.device_ids),
        "capture_start_ns": label.capture_start_ns,
        "capture_end_ns": label.capture_end_ns,
        "quantum_vs_pseudo": {
            "sample": {"source_class": label.source_class.value, **_in_short(sample)},
            "pseudo": {"generator": PSEUDO_RANDOM, **_estimate_as_json(comparison.pseudo)},
        },
        "scatter_plot_data": {"inside": list(comparison.inside), "outside": list(comparison.outside)},
    }


def _estimate_as_json(estimate: Estimate) -> dict[str, object]:
    tested = estimate.chi_square
    return {
        **_in_short(estimate),
        "confidence_interval": {"level": 0.95, "low": estimate.interval[0], "high": estimate.interval[1]},
        "chi_square": tested
        and {
            "of": "counts of the 256 byte values",
            "statistic": tested.statistic,
            "degrees_of_freedom": chi_square.DEGREES_OF_FREEDOM,
            "p_value": tested.p_value,
        },
        "convergence": [
            {"iterations": point.iterations, "estimated_pi": point.estimated_pi, "error": point.error}
            for point in estimate.convergence
        ],
    }


def _in_short(estimate: Estimate) -> dict[str, object]:
    return {
        "estimated_pi": estimate.estimated_pi,
        "error": estimate.error,
        "convergence_rate": estimate.convergence_rate,
    }
