"""Whole numbers below bounds, each with a bound of its own, out of one read.

Idea: to shuffle n things takes one number below n, one below n - 1 and so on. Asked for one by one that is n calls to a
server. But a number uniform below the product of some bounds holds a number below each of them, independent
and uniform: its digits, when the place values are the bounds. So bounds are multiplied into *groups* of about 1024
bits, all groups are drawn by one read, and each is accepted or rejected as `qrng_grpc.values` does it, without
bias. Of a million groups less than one in four thousand times any is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from qrng_grpc.errors import SourceError
from qrng_grpc.values import digits, width

_GROUP_BITS = 1024
_MOST_REJECTED = 4
"""Random bytes are rejected so often in a row less than once in 2**128 times."""


def numbers_below(bounds: Iterable[int], read: Callable[[int], bytes]) -> list[int]:
    """Return for each of `bounds`, 1 or more, a number from 0 up to and not including it; all are independent.

    `read` is called once, and again for a group that is rejected. Raises what `read` raises, and SourceError when its
    bytes are rejected so often that they cannot be random.
    """
    groups = list(_groups(bounds))
    widths = [width(space, 1) for space, _ in groups]
    data = memoryview(read(sum(widths)))
    numbers: list[int] = []
    for (space, group), size in zip(groups, widths, strict=True):
        numbers += split(_accepted(data[:size], space, read), group)
        data = data[size:]
    return numbers


def split(number: int, bounds: Iterable[int]) -> list[int]:
    """Return the digits of `number`, the least significant first, where `bounds` are the values of the places."""
    drawn = []
    for bound in bounds:
        number, digit = divmod(number, bound)
        drawn.append(digit)
    return drawn


def _groups(bounds: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield products of neighbouring bounds, with the bounds."""
    space, group = 1, list[int]()
    for bound in bounds:
        if group and (space * bound).bit_length() > _GROUP_BITS:
            yield space, group
            space, group = 1, []
        space *= bound
        group.append(bound)
    if group:
        yield space, group


def _accepted(data: bytes | memoryview, space: int, read: Callable[[int], bytes]) -> int:
    """Return a number below `space` made of `data`, or of as many bytes anew for as long as it is rejected."""
    for _ in range(_MOST_REJECTED):
        drawn = digits(data, space, 1)
        if drawn is not None:
            return drawn[0]
        data = read(len(data))
    raise SourceError("the source's bytes are not random: they were rejected again and again")
