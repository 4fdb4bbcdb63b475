"""QuantumArrays: arrays of the source's bytes, each value as likely as any other."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client.arrays import QuantumArrays, accepted
from qrng_grpc.errors import SourceError
from qrng_grpc.values import floats
from tests.unit.qrng_client.byte_sources import Scripted, Seeded

Draw = Callable[[QuantumArrays], np.ndarray[Any, Any]]

DRAWS: dict[str, Draw] = {
    "bits": lambda arrays: arrays.bits(100),
    "integers": lambda arrays: arrays.integers(0, 1000, 100),
    "random": lambda arrays: arrays.random(100),
    "normal": lambda arrays: arrays.normal(1, 2, 100),
    "standard_normal": lambda arrays: arrays.standard_normal(100),
}
KINDS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


def of(data: bytes) -> QuantumArrays:
    """Arrays of a source that gives `data` at its first read and nothing after that."""
    return QuantumArrays(Scripted([data]))


def test_every_method_is_tried() -> None:
    """The tests of all methods below leave none out."""
    assert {name for name in dir(QuantumArrays) if not name.startswith("_")} == set(DRAWS)


@pytest.mark.parametrize("name", DRAWS)
def test_every_method_fails_with_the_source(name: str) -> None:
    """When the source raises, gives too little, or gives something else, there is no array."""
    for script, error in (([OSError("gone")], OSError), ([b"short"], SourceError), ([None], SourceError)):
        with pytest.raises(error):
            DRAWS[name](QuantumArrays(Scripted(script)))


@pytest.mark.parametrize("name", DRAWS)
def test_the_bytes_decide(name: str) -> None:
    """The same bytes make the same array, others another one."""
    first, same, other = (DRAWS[name](QuantumArrays(Seeded(seed))) for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any()


@pytest.mark.parametrize("size", [0, 1, 7, (2, 3), (0, 5), (), (2, 1, 4)])
def test_shapes_are_those_of_numpy(size: int | tuple[int, ...]) -> None:
    """A size is a number of values or a shape; none, nothing is read."""
    source = Seeded()
    arrays, theirs = QuantumArrays(source), np.random.default_rng(1)
    shape = theirs.random(size).shape if size != () else ()
    assert arrays.bits(size).shape == arrays.integers(0, 9, size).shape == shape
    assert arrays.random(size).shape == arrays.normal(0, 1, size).shape == arrays.standard_normal(size).shape == shape
    assert bool(source.reads) is bool(math.prod(shape))


@pytest.mark.parametrize("size", [-1, (2, -1), 1.5, "3"])
def test_no_size(size: Any) -> None:
    """What is no size is refused as NumPy refuses it, before anything is read."""
    arrays = QuantumArrays(Scripted([]))
    for draw in (arrays.bits, arrays.random, arrays.standard_normal, lambda n: arrays.integers(0, 9, n)):
        with pytest.raises((ValueError, TypeError)):
            draw(size)


def test_large_arrays_are_read_in_messages() -> None:
    """No read is above 1 MiB, and the values are those of the bytes in order, over all reads."""
    source = Seeded()
    drawn = QuantumArrays(source).random((500, 400))
    assert drawn.reshape(-1).tolist() == floats(Seeded().read(7 * 200_000))
    arrays = QuantumArrays(source)
    arrays.bits(10_000_000)
    arrays.integers(0, 10**9, 200_000)
    arrays.standard_normal(200_000)
    assert max(source.reads) <= 1 << 20


# Bits and floats


def test_bits_by_hand() -> None:
    """The first bit is the highest of the first byte; only as many bytes are read as are begun."""
    assert of(b"\x80\x01\xc0").bits(18).tolist() == [1, *[0] * 14, 1, 1, 1]


@given(st.binary(max_size=100))
def test_floats_are_those_of_the_other_front_ends(data: bytes) -> None:
    """A float64 is the float that `qrng_grpc.values` makes of the same seven bytes."""
    whole = data[: len(data) // 7 * 7]
    drawn = of(whole).random(len(whole) // 7)
    assert drawn.dtype == np.float64
    assert drawn.tolist() == floats(whole)


def test_single_precision_by_hand() -> None:
    """A float32 is one of the 2**24 multiples of 2**-24, exactly."""
    drawn = of(bytes.fromhex("000000 000001 800000 ffffff")).random(4, np.float32)
    assert drawn.dtype == np.float32
    assert drawn.astype(np.float64).tolist() == [0, 2.0**-24, 0.5, 1 - 2.0**-24]


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex128, ">f8"])
def test_no_kind_of_float(dtype: Any) -> None:
    """Other kinds of number are refused, before anything is read."""
    with pytest.raises(TypeError, match="float64 or float32"):
        QuantumArrays(Scripted([])).random(3, dtype)


# Integers


@pytest.mark.parametrize("word", [np.uint8, np.uint16])
def test_no_integer_is_preferred(word: type[np.uint8 | np.uint16]) -> None:
    """Of all words, exactly as many are accepted for each integer as for any other."""
    words = np.arange(np.iinfo(word).max + 1).astype(word)
    spans = range(1, 257) if word is np.uint8 else (1, 2, 3, 10, 101, 256, 257, 1000, 4096, 40_000, 65_535, 65_536)
    for span in spans:
        counts = np.bincount(accepted(words, span), minlength=span)
        assert len(counts) == span
        assert set(counts.tolist()) == {words.size // span}


def test_integers_by_hand() -> None:
    """Bytes are their own integers; wide ones are big-endian, the lowest for zeros; what is rejected is replaced."""
    assert of(b"\x00\x01\xff").integers(0, 256, 3).tolist() == [0, 1, 255]
    assert of(b"\x00\x01\xff").integers(-128, 128, 3, np.int8).tolist() == [-128, -127, 127]
    lowest, highest = -(2**63), 2**63 - 1
    wide = bytes(8) + b"\x80" + bytes(7) + b"\xff" * 8
    assert of(wide).integers(lowest, highest, 3, endpoint=True).tolist() == [lowest, 0, highest]
    assert of(wide).integers(0, 2**64, 3, np.uint64).tolist() == [0, 2**63, 2**64 - 1]
    dice = QuantumArrays(Scripted([b"\x00\xfc\x07\xff", b"\xfe\x0d", b"\x05"]))
    assert dice.integers(1, 7, 4).tolist() == [1, 2, 2, 6]


@given(st.sampled_from(KINDS), st.data())
def test_integers_stay_in_range(kind: type[np.signedinteger[Any]], data: st.DataObject) -> None:
    """Integers of every kind and range lie within it, at its ends too, and have the dtype asked for."""
    bounds = np.iinfo(kind)
    low, high = sorted(data.draw(st.tuples(*2 * [st.integers(int(bounds.min), int(bounds.max))])))
    drawn = QuantumArrays(Seeded()).integers(low, high, 50, kind, endpoint=True)
    assert drawn.dtype == kind
    assert all(low <= number <= high for number in drawn.tolist())


def test_one_possible_integer_needs_no_bytes() -> None:
    """A range of one integer is that integer, of every kind, and nothing is read."""
    assert QuantumArrays(Scripted([])).integers(5, 6, 3).tolist() == [5, 5, 5]
    assert QuantumArrays(Scripted([])).integers(2**64 - 1, 2**64, 1, np.uint64).tolist() == [2**64 - 1]


@pytest.mark.parametrize(
    ("span", "word_bytes"), [(2, 1), (6, 1), (100, 2), (256, 1), (257, 2), (40_000, 4), (10**9, 8), (2**40, 8)]
)
def test_small_ranges_take_small_words(span: int, word_bytes: int) -> None:
    """Words are no larger than it takes to throw away at most a sixteenth of them."""
    source = Seeded()
    QuantumArrays(source).integers(0, span, 1000)
    assert source.reads[0] == 1000 * word_bytes
    assert sum(source.reads[1:]) <= 1000 * word_bytes / 8


@pytest.mark.parametrize(
    ("low", "high", "dtype", "error"),
    [
        (0, 0, np.int64, ValueError),
        (1, 0, np.int64, ValueError),
        (0, 129, np.int8, ValueError),
        (-1, 5, np.uint8, ValueError),
        (0, 2**63 + 1, np.int64, ValueError),
        (0, 5, np.float64, TypeError),
        (0, 5, "S3", TypeError),
    ],
)
def test_no_range(low: Any, high: Any, dtype: Any, error: type[Exception]) -> None:
    """What NumPy refuses is refused with the same kind of error, before anything is read."""
    with pytest.raises(error):
        np.random.default_rng(1).integers(low, high, 3, dtype)
    with pytest.raises(error):
        QuantumArrays(Scripted([])).integers(low, high, 3, dtype)


@pytest.mark.parametrize(("low", "high"), [(0.5, 2), (0, 2.5), ("0", 5), (np.array([1, 2]), 5)])
def test_no_bound(low: Any, high: Any) -> None:
    """A bound is a whole number: NumPy rounds a float, and here that is a mistake; arrays of bounds are not taken."""
    with pytest.raises(TypeError):
        QuantumArrays(Scripted([])).integers(low, high, 3)


def test_a_source_that_is_always_rejected() -> None:
    """A source that is stuck at bytes that are rejected ends with an error, not never."""

    class Stuck:
        def read(self, n: int, /) -> bytes:
            return b"\xff" * n

    for size in (1, 1000):
        with pytest.raises(SourceError, match="not random"):
            QuantumArrays(Stuck()).integers(0, 6, size)


# Normal


def test_normal_by_hand() -> None:
    """Distances come first, 64 bits each, then angles: the farthest is at 9.42, the nearest at 0; all are finite."""
    turns = bytes(7) + b"\x20" + bytes(6) + b"\x80" + bytes(6)
    drawn = of(bytes(8) + b"\xff" * 8 + b"\x80" + bytes(7) + turns).standard_normal(6)
    farthest, half = math.sqrt(128 * math.log(2)), math.sqrt(2 * math.log(2))
    assert drawn.tolist() == pytest.approx([farthest, 0, -half, 0, 0, 0], abs=1e-12)
    assert np.isfinite(of(b"\xff" * 15).standard_normal(2)).all()


def test_mean_and_deviation() -> None:
    """`normal` is `standard_normal`, stretched and moved; an odd number of values drops one."""
    standard = QuantumArrays(Seeded()).standard_normal(5)
    assert QuantumArrays(Seeded()).normal(10, 2, 5).tolist() == (standard * 2 + 10).tolist()
    assert QuantumArrays(Seeded()).normal(10, 0, 3).tolist() == [10, 10, 10]


@pytest.mark.parametrize("scale", [-1, float("nan")])
def test_no_deviation(scale: float) -> None:
    """A standard deviation is 0 or more."""
    with pytest.raises(ValueError, match="scale"):
        QuantumArrays(Scripted([])).normal(0, scale, 3)


# NumPy is an extra


def test_only_arrays_need_numpy() -> None:
    """Without NumPy the client, QuantumRandom and QuantumSecrets work; only this module cannot be imported."""
    program = (
        "import sys\n"
        "sys.modules['numpy'] = None\n"
        "import qrng_client, qrng_client.quantum_random, qrng_client.quantum_secrets\n"
        "try:\n"
        "    import qrng_client.arrays\n"
        "except ImportError as error:\n"
        "    sys.exit('numpy' not in str(error))\n"
        "sys.exit(2)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_counts_of_values() -> None:
    """Elements of a small range all come, about equally often."""
    counts = Counter(QuantumArrays(Seeded()).integers(0, 6, 6000).tolist())
    assert counts.keys() == set(range(6))
    assert all(abs(count - 1000) < 4 * math.sqrt(1000) for count in counts.values())
