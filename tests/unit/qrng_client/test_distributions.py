"""Numbers follow their distributions: with recorded seeds, by tests that a biased source does not pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from qrng_client.arrays import QuantumArrays
from qrng_client.byte_source import ByteSource
from qrng_client.quantum_random import QuantumRandom
from qrng_client.quantum_secrets import QuantumSecrets
from tests import goodness
from tests.unit.qrng_client.byte_sources import Biased, Seeded

SEEDS = (1, 2, 3)
DRAWN = 10_000
MANY = 50_000

Numbers = Callable[[ByteSource], Iterable[float]]
Values = Callable[[ByteSource], Iterable[Hashable]]
Cdf = Callable[[float], float]


def each(draw: Callable[[QuantumRandom], Any]) -> Callable[[ByteSource], list[Any]]:
    """What 10,000 calls return."""

    def drawn(source: ByteSource) -> list[Any]:
        rng = QuantumRandom(source, buffer_bytes=1 << 16)
        return [draw(rng) for _ in range(DRAWN)]

    return drawn


def triangle(x: float) -> float:
    """The distribution function of the triangle from 0 to 1 with its top at 1/4."""
    return 4 * x * x if x < 0.25 else 1 - (1 - x) ** 2 / 0.75


def von_mises() -> Cdf:
    """That of von Mises on [0, 2 pi) with its mean at 0 and kappa 2, by Simpson's rule on a fine grid."""
    angles = np.linspace(0, 2 * np.pi, 2001)
    density = np.exp(2 * np.cos(angles))
    steps = (density[:-1:2] + 4 * density[1::2] + density[2::2]).cumsum()
    table = [0, *(steps / steps[-1]).tolist(), 1]

    def cdf(x: float) -> float:
        place, part = divmod(x * 1000 / math.tau, 1)
        return table[int(place)] * (1 - part) + table[int(place) + 1] * part

    return cdf


CONTINUOUS: dict[str, tuple[Numbers, Cdf]] = {
    "random": (each(lambda rng: rng.random()), lambda x: x),
    "uniform": (each(lambda rng: rng.uniform(-3, 5)), lambda x: (x + 3) / 8),
    "triangular": (each(lambda rng: rng.triangular(0, 1, 0.25)), triangle),
    "gauss": (each(lambda rng: rng.gauss(3, 2)), lambda x: goodness.normal((x - 3) / 2)),
    "normalvariate": (each(lambda rng: rng.normalvariate(3, 2)), lambda x: goodness.normal((x - 3) / 2)),
    "lognormvariate": (each(lambda rng: rng.lognormvariate(0, 0.5)), lambda x: goodness.normal(2 * math.log(x))),
    "expovariate": (each(lambda rng: rng.expovariate(2)), lambda x: 1 - math.exp(-2 * x)),
    "gammavariate": (each(lambda rng: rng.gammavariate(2, 3)), lambda x: 1 - math.exp(-x / 3) * (1 + x / 3)),
    "betavariate": (each(lambda rng: rng.betavariate(2, 3)), lambda x: 6 * x**2 - 8 * x**3 + 3 * x**4),
    "paretovariate": (each(lambda rng: rng.paretovariate(3)), lambda x: 1 - x**-3),
    "weibullvariate": (each(lambda rng: rng.weibullvariate(2, 1.5)), lambda x: 1 - math.exp(-((x / 2) ** 1.5))),
    "vonmisesvariate": (each(lambda rng: rng.vonmisesvariate(0, 2)), von_mises()),
    "arrays.random": (lambda source: QuantumArrays(source).random(MANY).tolist(), lambda x: x),
    "arrays.random float32": (lambda source: QuantumArrays(source).random(MANY, np.float32).tolist(), lambda x: x),
    "arrays.standard_normal": (lambda source: QuantumArrays(source).standard_normal(MANY).tolist(), goodness.normal),
    "arrays.normal": (
        lambda source: QuantumArrays(source).normal(3, 2, MANY).tolist(),
        lambda x: goodness.normal((x - 3) / 2),
    ),
}


def evenly(values: Iterable[Hashable]) -> dict[Hashable, float]:
    return dict.fromkeys(values, 1.0)


def shuffled(rng: QuantumRandom) -> tuple[int, ...]:
    cards = [0, 1, 2, 3]
    rng.shuffle(cards)
    return tuple(cards)


def secret(draw: Callable[[QuantumSecrets], Hashable]) -> Values:
    return lambda source: [draw(QuantumSecrets(source)) for _ in range(DRAWN)]


WORDS = [first + second for first in "abc" for second in "abc"]
DIE = range(1, 7)
BINOMIAL = {wins: math.comb(6, wins) * 0.4**wins * 0.6 ** (6 - wins) for wins in range(7)}

DISCRETE: dict[str, tuple[Values, dict[Hashable, float]]] = {
    "getrandbits": (each(lambda rng: rng.getrandbits(5)), evenly(range(32))),
    "randrange": (each(lambda rng: rng.randrange(0, 300, 3)), evenly(range(0, 300, 3))),
    "randint": (each(lambda rng: rng.randint(1, 6)), evenly(DIE)),
    "choice": (each(lambda rng: rng.choice("abcdefg")), evenly("abcdefg")),
    "choices": (each(lambda rng: "".join(rng.choices("abc", k=2))), evenly(WORDS)),
    "choices, weighted": (each(lambda rng: rng.choices("abc", [1, 2, 3])[0]), {"a": 1, "b": 2, "c": 3}),
    "sample": (each(lambda rng: tuple(rng.sample(range(5), 2))), evenly(permutations(range(5), 2))),
    "sample, counted": (each(lambda rng: rng.sample("ab", 1, counts=[1, 3])[0]), {"a": 1, "b": 3}),
    "shuffle": (each(shuffled), evenly(permutations(range(4)))),
    "randbytes": (lambda source: list(QuantumRandom(source).randbytes(MANY)), evenly(range(256))),
    "token_bytes": (lambda source: list(QuantumSecrets(source).token_bytes(MANY)), evenly(range(256))),
    "randbelow": (secret(lambda secrets: secrets.randbelow(11)), evenly(range(11))),
    "uuid4, a digit": (secret(lambda secrets: str(secrets.uuid4())[15]), evenly("0123456789abcdef")),
    "arrays.bits": (lambda source: QuantumArrays(source).bits(MANY).tolist(), evenly((0, 1))),
    "arrays.integers, one byte": (lambda source: QuantumArrays(source).integers(1, 7, MANY).tolist(), evenly(DIE)),
    "arrays.integers, two bytes": (
        lambda source: QuantumArrays(source).integers(-50, 51, MANY, np.int8).tolist(),
        evenly(range(-50, 51)),
    ),
    "arrays.integers, eight bytes": (
        lambda source: (QuantumArrays(source).integers(0, 3 << 61, MANY, np.uint64) >> np.uint64(61)).tolist(),
        evenly(range(3)),
    ),
}

if hasattr(QuantumRandom, "binomialvariate"):  # Python 3.12
    DISCRETE["binomialvariate"] = (each(lambda rng: rng.binomialvariate(6, 0.4)), dict(BINOMIAL))  # type: ignore[attr-defined,unused-ignore]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_numbers_fit(name: str, seed: int) -> None:
    """Numbers of fair bytes fit the distribution they are asked for, by the test of Kolmogorov and Smirnov."""
    draw, cdf = CONTINUOUS[name]
    assert goodness.of_numbers(draw(Seeded(seed)), cdf) > goodness.FITS


@pytest.mark.parametrize("name", CONTINUOUS)
def test_numbers_of_biased_bytes_do_not_fit(name: str) -> None:
    """Bits that are 1 in 5 of 8 cases show in every distribution."""
    draw, cdf = CONTINUOUS[name]
    assert goodness.of_numbers(draw(Biased(1)), cdf) < goodness.MISFITS


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", DISCRETE)
def test_values_fit(name: str, seed: int) -> None:
    """Integers, elements and orders of fair bytes come as often as they should, by the chi-square test."""
    draw, weights = DISCRETE[name]
    assert goodness.of_counts(draw(Seeded(seed)), weights) > goodness.FITS


HIDDEN = {"randrange", "randint", "choice", "choices", "sample", "shuffle", "randbelow", "arrays.integers, two bytes"}
"""The remainder of a number of 16 bits and more is even, as far as so few draws can tell, though each bit is off."""


@pytest.mark.parametrize("name", [name for name in DISCRETE if name not in HIDDEN])
def test_values_of_biased_bytes_do_not_fit(name: str) -> None:
    """Bits that are 1 in 5 of 8 cases show where bits are counted, or numbers compared."""
    draw, weights = DISCRETE[name]
    assert goodness.of_counts(draw(Biased(1)), weights) < goodness.MISFITS


@pytest.mark.parametrize("seed", SEEDS)
def test_tails(seed: int) -> None:
    """Normal numbers lie beyond 3 and 4 standard deviations as often as they should, on both sides."""
    drawn = QuantumArrays(Seeded(seed)).standard_normal(1_000_000)
    weights: dict[Hashable, float] = {
        sign * beyond: goodness.normal(-beyond) - (goodness.normal(-4) if beyond == 3 else 0)
        for sign in (-1, 1)
        for beyond in (3, 4)
    }
    weights[0] = 1 - sum(weights.values())
    size = np.abs(drawn)
    places = (np.sign(drawn) * (3 * (size > 3) + (size > 4))).astype(int)
    assert goodness.of_counts(places.tolist(), weights) > goodness.FITS


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbours_are_independent(seed: int) -> None:
    """Two throws that share a read, two halves of a normal pair, and two calls of `gauss` say nothing of each other."""
    dice = QuantumRandom(Seeded(seed)).choices(range(6), k=2 * DRAWN)
    pairs = zip(dice[::2], dice[1::2], strict=True)
    assert goodness.of_counts(pairs, evenly((a, b) for a in range(6) for b in range(6))) > goodness.FITS
    rng, normal = QuantumRandom(Seeded(seed)), QuantumArrays(Seeded(seed)).standard_normal(1 << 16)
    calls = [(rng.gauss() > 0, rng.gauss() > 0) for _ in range(DRAWN)]
    half = normal.size // 2
    signs = evenly((a, b) for a in (False, True) for b in (False, True))
    assert goodness.of_counts(calls, signs) > goodness.FITS
    assert goodness.of_counts(zip(normal[:half] > 0, normal[half:] > 0, strict=True), signs) > goodness.FITS
