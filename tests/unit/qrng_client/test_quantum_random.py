"""QuantumRandom: all of `random.Random`, on the source's bytes and nothing else."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle
import random
import threading
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client.quantum_random import QuantumRandom
from qrng_grpc.errors import SourceError
from qrng_grpc.values import floats, width
from tests.ledger import Ledger
from tests.unit.qrng_client.byte_sources import Scripted, Seeded

Draw = Callable[[QuantumRandom], object]

DRAWS: dict[str, Draw] = {
    "betavariate": lambda rng: rng.betavariate(2, 3),
    "binomialvariate": lambda rng: rng.binomialvariate(10, 0.3),  # type: ignore[attr-defined,unused-ignore]
    "choice": lambda rng: rng.choice(range(1 << 60)),
    "choices": lambda rng: rng.choices(range(1 << 60), k=3),
    "expovariate": lambda rng: rng.expovariate(2.0),
    "gammavariate": lambda rng: rng.gammavariate(2, 3),
    "gauss": lambda rng: rng.gauss(1, 2),
    "getrandbits": lambda rng: rng.getrandbits(100),
    "lognormvariate": lambda rng: rng.lognormvariate(0, 1),
    "normalvariate": lambda rng: rng.normalvariate(1, 2),
    "paretovariate": lambda rng: rng.paretovariate(3),
    "randbytes": lambda rng: rng.randbytes(9),
    "randint": lambda rng: rng.randint(-(1 << 64), 1 << 64),
    "random": lambda rng: rng.random(),
    "randrange": lambda rng: rng.randrange(0, 1 << 64, 3),
    "sample": lambda rng: rng.sample(range(1 << 60), 5),
    "shuffle": lambda rng: rng.shuffle(list(range(9))),
    "triangular": lambda rng: rng.triangular(1, 5, 2),
    "uniform": lambda rng: rng.uniform(1, 5),
    "vonmisesvariate": lambda rng: rng.vonmisesvariate(1, 2),
    "weibullvariate": lambda rng: rng.weibullvariate(1, 2),
}
STATE = {"seed", "getstate", "setstate"}
METHODS = sorted(name for name in dir(random.Random) if not name.startswith("_") and name != "VERSION")
DRAWN = [name for name in METHODS if name not in STATE]


def test_every_method_is_known() -> None:
    """Every public method of this Python's `random.Random` is tried below; one that is new makes this fail."""
    later = {"binomialvariate"} - set(METHODS)  # Python 3.12
    assert set(METHODS) == (set(DRAWS) - later) | STATE


@pytest.mark.parametrize("name", DRAWN)
def test_every_method_works_on_the_source(name: str) -> None:
    """Each method reads bytes; the same bytes give the same value, others another one."""
    first, same, other = Seeded(1), Seeded(1), Seeded(2)
    drawn = [DRAWS[name](QuantumRandom(source)) for source in (first, same)]
    assert drawn[0] == drawn[1]
    assert first.reads == same.reads != []
    values = {repr(DRAWS[name](QuantumRandom(other))) for _ in range(5)}
    assert len(values) > 1 or name == "shuffle"  # which returns None


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("buffer_bytes", [0, 64])
def test_every_method_fails_with_the_source(name: str, buffer_bytes: int) -> None:
    """When the source raises, or gives too little, so does each method: no number is made of anything else."""
    for script, error in (([OSError("gone")], OSError), ([b"x"], SourceError), ([b""], SourceError)):
        with pytest.raises(error):
            DRAWS[name](QuantumRandom(Scripted(script), buffer_bytes=buffer_bytes))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_what_it_took(name: str) -> None:
    """A call that the standard library's method takes, this one takes too."""
    theirs, ours = getattr(random.Random, name), getattr(QuantumRandom, name)
    if name in STATE or ours is theirs:
        return
    mine, given = (list(inspect.signature(method).parameters.values())[1:] for method in (ours, theirs))
    assert [(one.name, one.kind, one.default) for one in mine] == [(one.name, one.kind, one.default) for one in given]


# How much is read


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (lambda rng: rng.random(), 7),
        (lambda rng: rng.getrandbits(1), 1),
        (lambda rng: rng.getrandbits(65), 9),
        (lambda rng: rng.randrange(6), 5),
        (lambda rng: rng.randint(0, 255), 1),
        (lambda rng: rng.choice("abcdef"), 5),
        (lambda rng: rng.choices("abcdef", k=100), 37),
        (lambda rng: rng.shuffle(list(range(52))), 33),
        (lambda rng: rng.sample(range(49), 6), 9),
        (lambda rng: rng.sample("ab", 4, counts=[3, 3]), 6),
        (lambda rng: rng.gauss(), 14),
        (lambda rng: rng.uniform(1, 2), 7),
        (lambda rng: rng.randbytes(1000), 1000),
    ],
)
def test_one_read_for_a_call(draw: Draw, size: int) -> None:
    """Integers, elements, shuffles, samples, bytes and `gauss` take one read, of what they need."""
    source = Seeded()
    draw(QuantumRandom(source))
    assert source.reads == [size]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.getrandbits(0),
        lambda rng: rng.randbytes(0),
        lambda rng: rng.choice("a"),
        lambda rng: rng.randrange(1),
        lambda rng: rng.shuffle([]),
        lambda rng: rng.shuffle([1]),
        lambda rng: rng.sample("abc", 0),
        lambda rng: rng.choices("abc", k=0),
        lambda rng: rng.choices("abc", k=-1),
    ],
)
def test_nothing_is_read_for_nothing(draw: Draw) -> None:
    """What leaves no choice asks the source for nothing."""
    source = Seeded()
    draw(QuantumRandom(source))
    assert source.reads == []


def test_a_buffer_makes_many_draws_one_read() -> None:
    """With a buffer, 100 floats are one read; once discarded, its bytes are gone."""
    source = Seeded()
    rng = QuantumRandom(source, buffer_bytes=1024)
    drawn = [rng.random() for _ in range(100)]
    assert drawn == floats(Seeded().read(700))
    assert source.reads == [1024]
    rng.discard()
    assert rng.random() == floats(Seeded().read(1031)[1024:])[0]
    QuantumRandom(source).discard()


# Values


@given(st.binary(min_size=7, max_size=7))
def test_floats_are_those_of_the_other_front_ends(data: bytes) -> None:
    """`random` is the float that `qrng_grpc.values` makes of the same seven bytes."""
    assert [QuantumRandom(Scripted([data])).random()] == floats(data)


@given(st.integers(0, 300))
def test_bits_are_the_first_of_the_bytes(k: int) -> None:
    """`getrandbits` is the first k bits of the source's bytes, for every k."""
    stream = int.from_bytes(Seeded().read(40), "big")
    assert QuantumRandom(Seeded()).getrandbits(k) == stream >> (320 - k)


def each_number(space: int) -> list[Scripted]:
    """Sources whose next bytes are, as a number, 0, 1 and so on below `space`."""
    size = width(space, 1)
    return [Scripted([number.to_bytes(size, "big")]) for number in range(space)]


def shuffled(rng: QuantumRandom) -> tuple[int, ...]:
    cards = [0, 1, 2, 3]
    rng.shuffle(cards)
    return tuple(cards)


@pytest.mark.parametrize(
    ("draw", "outcomes"),
    [
        (lambda rng: rng.randrange(7), range(7)),
        (lambda rng: rng.randrange(10, 0, -3), (1, 4, 7, 10)),
        (lambda rng: rng.randint(-3, 3), range(-3, 4)),
        (lambda rng: rng.choice("abcde"), "abcde"),
        (lambda rng: "".join(rng.choices("abc", k=3)), ["".join(word) for word in itertools.product("abc", repeat=3)]),
        (lambda rng: tuple(rng.sample(range(5), 3)), list(itertools.permutations(range(5), 3))),
        (lambda rng: tuple(rng.sample(range(4), 4)), list(itertools.permutations(range(4)))),
        (shuffled, list(itertools.permutations(range(4)))),
    ],
)
def test_no_outcome_is_preferred(draw: Callable[[QuantumRandom], Any], outcomes: Any) -> None:
    """Of all accepted numbers exactly as many lead to each outcome as to any other."""
    drawn = Counter(draw(QuantumRandom(source)) for source in each_number(len(outcomes)))
    assert drawn == Counter(outcomes)


def test_a_sample_with_counts() -> None:
    """`counts` repeats elements, as in the standard library; all of them are a permutation."""
    drawn = QuantumRandom(Seeded()).sample(["red", "blue"], 6, counts=[4, 2])
    assert Counter(drawn) == {"red": 4, "blue": 2}


def test_long_shuffles_and_samples() -> None:
    """A shuffle and a sample of thousands lose and repeat nothing."""
    rng, deck = QuantumRandom(Seeded()), list(range(5000))
    rng.shuffle(deck)
    assert deck != sorted(deck) == list(range(5000))
    assert len(set(rng.sample(range(10**12), 5000))) == 5000


def test_a_failed_shuffle_leaves_all_in_place() -> None:
    """A shuffle that the source fails has moved nothing."""
    deck = list(range(52))
    with pytest.raises(SourceError):
        QuantumRandom(Scripted([])).shuffle(deck)
    assert deck == list(range(52))


def test_gauss_by_hand() -> None:
    """`gauss` is Box and Muller's: a turn, and a distance that ends at 8.57 standard deviations; it keeps no half."""
    zero, most = bytes(7), b"\xff" * 7
    assert QuantumRandom(Scripted([zero + zero])).gauss(5, 2) == 5
    farthest = QuantumRandom(Scripted([zero + most])).gauss()
    assert math.isclose(farthest, math.sqrt(106 * math.log(2)))
    half = b"\x80" + bytes(6)
    assert QuantumRandom(Scripted([half + most])).gauss() == -farthest
    source = Seeded()
    rng = QuantumRandom(source)
    assert rng.gauss() != rng.gauss()
    assert source.reads == [14, 14]
    assert rng.gauss_next is None


@pytest.mark.parametrize(
    ("draw", "error"),
    [
        (lambda rng: rng.getrandbits(-1), ValueError),
        (lambda rng: rng.getrandbits(1.5), TypeError),
        (lambda rng: rng.randbytes(-1), ValueError),
        (lambda rng: rng.randrange(0), ValueError),
        (lambda rng: rng.randint(1, 0), ValueError),
        (lambda rng: rng.choice([]), IndexError),
        (lambda rng: rng.choices([]), IndexError),
        (lambda rng: rng.choices("ab", k=1.5), TypeError),
        (lambda rng: rng.choices("ab", [0, 0]), ValueError),
        (lambda rng: rng.choices("ab", [1]), ValueError),
        (lambda rng: rng.sample("ab", 3), ValueError),
        (lambda rng: rng.sample("ab", -1), ValueError),
        (lambda rng: rng.sample("ab", 1.0), TypeError),
        (lambda rng: rng.sample({1, 2}, 1), TypeError),
        (lambda rng: rng.sample("ab", 1, counts=[1]), ValueError),
        (lambda rng: rng.shuffle("ab"), TypeError),
    ],
)
def test_mistakes_are_those_of_the_standard_library(draw: Draw, error: type[Exception]) -> None:
    """A call that makes no sense raises what the standard library raises."""
    for rng in (QuantumRandom(Seeded()), random.Random(1)):
        with pytest.raises(error):
            draw(rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [[1, 0, 3], [0.5, 0.0, 1.5], [Fraction(1, 4), Fraction(0), Fraction(3, 4)]])
def test_weights(weights: list[Any]) -> None:
    """Weights of any kind are kept, and one of 0 is never drawn."""
    drawn = Counter(QuantumRandom(Seeded(), buffer_bytes=4096).choices("abc", weights, k=4000))
    assert drawn.keys() == {"a", "c"}
    assert abs(drawn["a"] - 1000) < 4 * math.sqrt(750)


# No state


def test_there_is_no_state() -> None:
    """A seed changes nothing, and there is no state to get, set, copy or pickle."""
    rng = QuantumRandom(Seeded())
    rng.seed(7)
    rng.seed(a="seven", version=2)
    assert rng.random() == QuantumRandom(Seeded()).random()
    with pytest.raises(NotImplementedError):
        rng.getstate()
    with pytest.raises(NotImplementedError):
        rng.setstate(random.Random(1).getstate())
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(rng)


def test_a_source_need_not_be_hashable() -> None:
    """The source is not taken for a seed."""

    class Unhashable(Seeded):
        __hash__ = None  # type: ignore[assignment]

    assert QuantumRandom(Unhashable(), buffer_bytes=64).random() == QuantumRandom(Seeded()).random()


def test_no_source() -> None:
    """What is no source, a seed say, is refused at once."""
    for nothing in (None, 42, b"seed"):
        with pytest.raises(TypeError, match="no read"):
            QuantumRandom(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("buffer_bytes", [0, 256])
def test_threads_share_no_byte(buffer_bytes: int) -> None:
    """Four threads that draw from one generator get every byte of the source at most once."""
    source = Seeded()
    rng = QuantumRandom(source, buffer_bytes=buffer_bytes)
    taken: list[list[bytes]] = [[] for _ in range(4)]

    def take(number: int) -> None:
        taken[number] = [rng.getrandbits(128).to_bytes(16, "big") for _ in range(500)]

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Ledger(0, stream_bytes=sum(source.reads)).check_once(b"".join(itertools.chain(*taken)))
