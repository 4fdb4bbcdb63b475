"""The standard library's `random`, on bytes from elsewhere.

Idea: `random.Random` makes everything of two methods, `random` and `getrandbits`, and has a third for numbers below a
bound. Here all three are made of a source's bytes by the arithmetic of `qrng_grpc.values`, and the rest is inherited,
so it is Python's own `triangular`, `betavariate` and so on. There is no state, hence no seed. What the standard
library does that would not do here is done anew:

- `shuffle`, `sample` and `choices` ask the source once for all they need, not once for each element. When that
  fails, nothing has been shuffled;
- `choices` without weights is exact; the standard library rounds a float;
- `gauss` keeps no second number for the next call: a thread or a forked child could get the same one.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterable, MutableSequence, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from qrng_client.bounded import numbers_below
from qrng_client.byte_source import ByteSource, checked_source, read_exactly
from qrng_client.read_ahead import ReadAhead
from qrng_grpc.values import FLOAT_BYTES, floats

if TYPE_CHECKING:
    from _typeshed import SupportsLenAndGetItem

T = TypeVar("T")


class QuantumRandom(random.Random):
    """Every method of `random.Random`, on the bytes of `source`. Safe to share between threads.

    >>> rng = QuantumRandom(source)
    >>> rng.randrange(100) in range(100)
    True
    >>> sorted(rng.sample(["ace", "king", "queen"], k=3))
    ['ace', 'king', 'queen']

    Each method reads what it needs after it is called: one read for integers, elements, shuffles, samples, `gauss` and
    bytes, one for each uniform number that goes into another distribution. `buffer_bytes` (1 to 1 MiB; 0, the default,
    is off) reads ahead instead, so that many small draws share a call; then bytes are up to a minute older than
    their use: see `ReadAhead`.

    Whatever the source raises comes through, and SourceError says that it gave something else than was asked for;
    never is a number made of anything else. There is no state to set, to get or to copy: `seed` does nothing;
    `getstate`, `setstate`, copying and pickling raise. Raises TypeError for a source without a `read` that returns
    bytes.
    """

    def __init__(self, source: ByteSource, *, buffer_bytes: int = 0) -> None:
        self._source = ReadAhead(source, buffer_bytes) if buffer_bytes else checked_source(source)
        super().__init__()

    def random(self) -> float:
        """Return a float in [0, 1): one of the 2**53 multiples of 2**-53, all equally likely."""
        return floats(self._read(FLOAT_BYTES))[0]

    def getrandbits(self, k: int, /) -> int:
        """Return an int of `k` random bits, 0 for none. Raises ValueError for a `k` below 0."""
        bits = operator.index(k)
        if bits < 0:
            raise ValueError("a number of bits is not negative")
        spare = -bits % 8
        return int.from_bytes(self._read((bits + spare) // 8), "big") >> spare

    def randbytes(self, n: int) -> bytes:
        """Return `n` random bytes, those of the source as they are. Raises ValueError for an `n` below 0."""
        return self._read(n)

    def seed(self, *_: object, **__: object) -> None:
        """Do nothing, as in `random.SystemRandom`: what comes next cannot be chosen."""

    def getstate(self) -> NoReturn:
        """Raise NotImplementedError: there is no state."""
        raise NotImplementedError("random bytes from a source have no state")

    def setstate(self, state: object) -> NoReturn:
        """Raise NotImplementedError: there is no state."""
        raise NotImplementedError("random bytes from a source have no state")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a QuantumRandom cannot be copied or pickled: make another one of the same source")

    def discard(self) -> None:
        """Overwrite and forget what was read ahead, if anything was.

        >>> rng = QuantumRandom(source, buffer_bytes=64)
        >>> 0 <= rng.random() < 1
        True
        >>> rng.discard()
        """
        if isinstance(self._source, ReadAhead):
            self._source.discard()

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        """Return a number from the normal distribution, at most 8.6 `sigma` from `mu`; no call depends on another.

        The cosine half of the method of Box and Muller, "A Note on the Generation of Random Normal Deviates", Annals
        of Mathematical Statistics 29 (1958), 610-611.
        """
        turn, rest = floats(self._read(2 * FLOAT_BYTES))
        return mu + sigma * math.cos(math.tau * turn) * math.sqrt(-2 * math.log(1 - rest))

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Put the elements of `x` in random order, each order as likely as any other."""
        lasts = range(len(x) - 1, 0, -1)
        for last, other in zip(lasts, self._below(last + 1 for last in lasts), strict=True):
            x[last], x[other] = x[other], x[last]

    def sample(self, population: Sequence[T], k: int, *, counts: Iterable[int] | None = None) -> list[T]:
        """Return `k` elements of `population` in the order they were drawn, no element twice; `counts` repeats them."""
        if counts is not None or not _can_spare(population, k):
            return super().sample(population, k, counts=counts)
        n = len(population)
        moved: dict[int, int] = {}
        picked = []
        for place, last in zip(self._below(range(n, n - k, -1)), range(n - 1, n - k - 1, -1), strict=True):
            picked.append(population[moved.get(place, place)])
            moved[place] = moved.get(last, last)
        return picked

    def choices(
        self,
        population: SupportsLenAndGetItem[T],
        weights: Sequence[Any] | None = None,
        *,
        cum_weights: Sequence[Any] | None = None,
        k: int = 1,
    ) -> list[T]:
        """Return `k` elements of `population`, each drawn from all of it.

        With weights one read is made for each, and a weight is kept to within the 53 bits of a float.
        """
        if weights is not None or cum_weights is not None or not len(population):
            return super().choices(population, weights, cum_weights=cum_weights, k=k)
        return [population[place] for place in self._below(repeat(len(population), k))]

    def _randbelow(self, n: int) -> int:
        """Return a number in [0, n): what `randrange` and `choice` of the standard library are made of.

        Theirs, made of `getrandbits`, is unbiased too, but reads up to twice on average. A subclass may replace it.
        """
        return self._below([n])[0]

    def _below(self, bounds: Iterable[int]) -> list[int]:
        return numbers_below(bounds, self._read)

    def _read(self, n: int) -> bytes:
        return read_exactly(self._source, n)


def _can_spare(population: object, k: int) -> bool:
    """Say whether `k` elements can be drawn; where not, the standard library has the words for it."""
    return isinstance(population, Sequence) and 0 <= k <= len(population)
