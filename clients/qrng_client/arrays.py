"""NumPy arrays of random numbers, on bytes from elsewhere.

Idea: the arithmetic of `qrng_grpc.values`, for whole arrays at a time. A float is made of the same 7 bytes as there. An
integer is made of a *word* of 1, 2, 4 or 8 bytes, big-endian: words beyond the last whole multiple of the range are
thrown away, and of the others the remainder is taken, so that each integer is as likely as any other. The words are the
smallest of which at most a sixteenth is thrown away. Arrays are filled in blocks, each of one read below 1 MiB, one
message of a server.

Why there is no `numpy.random.BitGenerator` here, which would lend these bytes to all of `numpy.random.Generator`: NumPy
draws from one by C functions that return a number and cannot fail. A source that cannot be reached would have to be
hidden behind numbers of another kind, and that is never done.

This module needs NumPy, which the client library does not: install the extra `numpy`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qrng_client.byte_source import ByteSource, checked_source, read_exactly
from qrng_grpc.errors import SourceError
from qrng_grpc.values import FLOAT_BYTES

Size = int | tuple[int, ...]
"""How many numbers, or the shape of the array."""
Words = NDArray[np.unsignedinteger[Any]]
Scalar = TypeVar("Scalar", bound=np.generic)

_BLOCK = 1 << 16
"""Numbers to a read."""
_MOST_REJECTED = 128
"""Of random words at most half are rejected, so this many in a row less than once in 2**128 times."""
_SINGLE_BYTES = 3
"""What a float32 takes: its 24 bits."""
_PAIR_BYTES = 8 + FLOAT_BYTES
"""What two normal numbers take."""


class QuantumArrays:
    """Arrays of the bytes of `source`, with the names and the order of arguments of `numpy.random.Generator`.

    >>> arrays = QuantumArrays(source)
    >>> arrays.integers(1, 7, size=(2, 3)).shape
    (2, 3)

    An array is whole or an error is raised: what the source raises; SourceError when it gave something else than was
    asked for; ValueError for a negative size. Safe to share between threads when the source is. Raises TypeError
    for a source without a `read` that returns bytes.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = checked_source(source)

    def bits(self, size: Size) -> NDArray[np.uint8]:
        """Return bits, each 0 or 1, the first that of highest value in the source's first byte.

        >>> set(QuantumArrays(source).bits(1000).tolist()) == {0, 1}
        True
        """
        drawn = np.empty(size, np.uint8)
        for block in _blocks(drawn, 8 * _BLOCK):
            data = np.frombuffer(self._read(-(-block.size // 8)), np.uint8)
            block[:] = np.unpackbits(data, count=block.size)
        return drawn

    def integers(
        self, low: int, high: int, size: Size, dtype: DTypeLike = np.int64, *, endpoint: bool = False
    ) -> NDArray[Any]:
        """Return integers from `low` up to and not including `high`, or including it with `endpoint`.

        Raises ValueError when there is no such integer or `dtype` cannot hold them all, TypeError when it is for no
        integers.

        >>> bool((QuantumArrays(source).integers(-5, 5, 100, endpoint=True) <= 5).all())
        True
        """
        first, last = operator.index(low), operator.index(high) - (not endpoint)
        kind = _checked_kind(dtype, first, last)
        drawn = np.empty(size, kind)
        if last > first:
            self._fill(drawn.reshape(-1), first, last - first + 1)
        else:
            drawn.fill(first)
        return drawn

    def random(self, size: Size, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Return floats in [0, 1): float64 of 53 bits, as `random()` gives them, or float32 of 24 bits.

        Raises TypeError for any other `dtype`.

        >>> drawn = QuantumArrays(source).random(1000)
        >>> bool(((drawn >= 0) & (drawn < 1)).all())
        True
        """
        drawn = np.empty(size, dtype)
        if drawn.dtype not in (np.float64, np.float32):
            raise TypeError(f"expected float64 or float32, not {drawn.dtype}")
        double = drawn.dtype == np.float64
        for block in _blocks(drawn, _BLOCK):
            data = self._read(block.size * (FLOAT_BYTES if double else _SINGLE_BYTES))
            block[:] = _doubles(data) if double else _singles(data)
        return drawn

    def normal(self, loc: float, scale: float, size: Size) -> NDArray[np.float64]:
        """Return float64 from the normal distribution with mean `loc` and standard deviation `scale`, 0 or more.

        Both halves of the method of Box and Muller, "A Note on the Generation of Random Normal Deviates", Annals of
        Mathematical Statistics 29 (1958), 610-611. The distance from the centre comes of 64 bits, so the tails
        follow the distribution up to 9.4 standard deviations, and end there, where less than 2**-64 of it is left.
        The direction comes of 53 bits. Raises ValueError for a `scale` below 0.

        >>> 90 < float(QuantumArrays(source).normal(100, 5, size=1000).mean()) < 110
        True
        """
        if not scale >= 0:
            raise ValueError("scale must be 0 or more")
        drawn = self.standard_normal(size)
        drawn *= scale
        drawn += loc
        return drawn

    def standard_normal(self, size: Size) -> NDArray[np.float64]:
        """Return `normal(0, 1, size)`.

        >>> QuantumArrays(source).standard_normal((3, 4)).shape
        (3, 4)
        """
        drawn = np.empty(size, np.float64)
        for block in _blocks(drawn, _BLOCK):
            pairs = -(-block.size // 2)
            block[:] = _normals(self._read(pairs * _PAIR_BYTES), pairs)[: block.size]
        return drawn

    def _fill(self, drawn: NDArray[Any], first: int, span: int) -> None:
        """Fill `drawn` with integers uniform in [first, first + span), span 2 or more."""
        word_bytes = _word_bytes(span)
        offset = np.uint64(first % 2**64)
        filled = rejected = 0
        while filled < drawn.size:
            words = _words(self._read(word_bytes * min(drawn.size - filled, _BLOCK)), word_bytes)
            kept = accepted(words, span)
            rejected = 0 if kept.size else rejected + words.size
            if rejected >= _MOST_REJECTED:
                raise SourceError("the source's bytes are not random: they were rejected again and again")
            # Sums beyond 64 bits wrap round, which is how a negative number is written in them.
            drawn[filled : filled + kept.size] = (kept.astype(np.uint64) + offset).view(np.int64)
            filled += kept.size

    def _read(self, n: int) -> bytes:
        return read_exactly(self._source, n)


def accepted(words: Words, span: int) -> Words:
    """Return a number in [0, span) for each of `words` but those that would make some numbers likelier than others."""
    possible = 1 << 8 * words.itemsize
    if span & (span - 1) == 0:
        return words & words.dtype.type(span - 1)
    limit = possible - possible % span
    return words[words < limit] % words.dtype.type(span)


def _words(data: bytes, word_bytes: int) -> Words:
    return np.frombuffer(data, f">u{word_bytes}").astype(f"u{word_bytes}")


def _doubles(data: bytes) -> NDArray[np.float64]:
    words = np.zeros((len(data) // FLOAT_BYTES, 8), np.uint8)
    words[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, FLOAT_BYTES)
    return (words.view(">u8")[:, 0] >> np.uint64(3)).astype(np.float64) * 2.0**-53


def _singles(data: bytes) -> NDArray[np.float32]:
    words = np.zeros((len(data) // _SINGLE_BYTES, 4), np.uint8)
    words[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, _SINGLE_BYTES)
    return words.view(">u4")[:, 0].astype(np.float32) * np.float32(2.0**-24)


def _normals(data: bytes, pairs: int) -> NDArray[np.float64]:
    """Return so many numbers, and as many that go with them, of 8 bytes each for a distance and 7 for a direction."""
    distance = np.sqrt(-2 * np.log((_words(data[: 8 * pairs], 8) + 1.0) * 2.0**-64))
    angle = _doubles(data[8 * pairs :]) * (2 * np.pi)
    return np.concatenate((distance * np.cos(angle), distance * np.sin(angle)))


def _word_bytes(span: int) -> int:
    """Return the smallest size of words of which at most a sixteenth is rejected, or 8."""
    for size in (1, 2, 4):
        possible = 1 << 8 * size
        if span <= possible and possible % span * 16 <= possible:
            return size
    return 8


def _checked_kind(dtype: DTypeLike, first: int, last: int) -> np.dtype[Any]:
    """Return the dtype. Raises TypeError when it is for no integers, ValueError unless it holds `first` to `last`."""
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        raise TypeError(f"expected a dtype of integers, not {kind}")
    if first > last:
        raise ValueError("low is not below high")
    bounds = np.iinfo(kind)
    if first < bounds.min or last > bounds.max:
        raise ValueError(f"{first} to {last} is more than {kind} holds")
    return kind


def _blocks(drawn: NDArray[Scalar], most: int) -> Iterator[NDArray[Scalar]]:
    """Yield views of all of `drawn`, each of at most so many numbers."""
    flat = drawn.reshape(-1)
    return (flat[start : start + most] for start in range(0, flat.size, most))
