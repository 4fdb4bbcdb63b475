"""Values: integers, floats and UUIDs made of random bytes, each value as likely as any other.

Idea: the remainder of a byte divided by 100 prefers small numbers. So bytes are read as one large number,
numbers beyond the last whole multiple of what is wanted are thrown away, and what remains is divided evenly.
A *group* of integers shares one such number: its digits to the base of the range are the integers. Then the
bits that make a rejection rare are spent once for each group and not for each integer: 1000 integers from 0 to
100 hold 832.3 bytes of entropy and take 864, and a second round of bytes once in 600 million times. A range
whose size is a power of two is cut from its bits, without any rejection: 0 to 255 are the bytes themselves.

Nothing here knows where bytes come from, and no byte is used for two values. Everyone who makes values of
bytes does it here, so that all front ends agree.
"""

from __future__ import annotations

import uuid

from qrng_grpc.errors import InvalidRequestError

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1
FLOAT_BYTES = 7
"""What one float takes: 53 bits in whole bytes."""
UUID_BYTES = 16

_GROUP_BITS = 1024
"""A group holds as many integers as fit, so that arithmetic stays on small numbers."""
_SPARE_BITS = 32
"""A group is rejected with a probability below 2 to the power of minus this."""
_FLOAT_STEP = 2.0**-53


class Integers:
    """`count` independent integers, uniform in [low, high], both inclusive. It says how many bytes it needs:

        integers = Integers(10, 1, 6)
        while integers.bytes_needed:
            integers.feed(claim(integers.bytes_needed))
        integers.values

    Almost always one round does: of n integers it rejects some with a probability below (1 + n / 16) * 2**-32, and only
    those are drawn again. `count` 0 and a range of one value need no bytes at all.

    Raises InvalidRequestError when `low` or `high` is no signed 64-bit integer, or `low` above `high`; ValueError
    for a `count` below 0.
    """

    __slots__ = ("_base", "_count", "_group", "_low", "_shared", "values")

    def __init__(self, count: int, low: int, high: int) -> None:
        check_range(low, high)
        if count < 0:
            raise ValueError("a count is not negative")
        self.values: list[int] = [low] * count if low == high else []
        """The integers made so far; complete once no more bytes are needed."""
        self._count = count
        self._low = low
        self._base = high - low + 1
        self._group = _GROUP_BITS // max(1, (high - low).bit_length())
        self._shared = width(self._base, self._group)

    @property
    def bytes_needed(self) -> int:
        """How many bytes the next round takes, 0 when the integers are complete."""
        groups, rest = divmod(self._count - len(self.values), self._group)
        return groups * self._shared + (width(self._base, rest) if rest else 0)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take exactly `bytes_needed` bytes. Raises ValueError for another number of them, and takes nothing."""
        if len(data) != self.bytes_needed:
            raise ValueError("a round takes as many bytes as were asked for")
        groups, rest = divmod(self._count - len(self.values), self._group)
        start = 0
        for _ in range(groups):
            self._add(data[start : start + self._shared], self._group)
            start += self._shared
        if rest:
            self._add(data[start:], rest)

    def _add(self, data: bytes | bytearray | memoryview, count: int) -> None:
        drawn = digits(data, self._base, count)
        if drawn is not None:
            low = self._low
            self.values += [low + digit for digit in drawn]


def check_range(low: int, high: int) -> None:
    """Raise InvalidRequestError, with the field `min` or `max`, unless both are signed 64-bit and in order."""
    for name, bound in (("min", low), ("max", high)):
        if not INT64_MIN <= bound <= INT64_MAX:
            raise InvalidRequestError("beyond a signed 64-bit integer", field=name)
    if low > high:
        raise InvalidRequestError("min is above max", field="min")


def width(base: int, count: int) -> int:
    """Return from how many bytes to draw `count` digits to `base`, 1 or more.

    A power of two takes its bits, rounded up to a byte; any other base so many more that fewer than one draw in
    2**32 is rejected.
    """
    space: int = base**count
    is_power_of_two = space & (space - 1) == 0
    return -(-((space - 1).bit_length() + (0 if is_power_of_two else _SPARE_BITS)) // 8)


def digits(data: bytes | bytearray | memoryview, base: int, count: int) -> list[int] | None:
    """Return `count` independent digits, uniform in [0, base), from `data`; None when `data` is rejected.

    `data` is read as a number, big-endian. Of N possible numbers, the first N - N mod base**count are accepted: a whole
    multiple of base**count, so that each combination of digits has the same number of them. The digits are the
    lowest of the number to that base, the most significant first.
    """
    number = int.from_bytes(data, "big")
    possible = 1 << 8 * len(data)
    if number >= possible - possible % base**count:
        return None
    drawn = [0] * count
    for place in range(count - 1, -1, -1):
        number, drawn[place] = divmod(number, base)
    return drawn


def floats(data: bytes | bytearray | memoryview) -> list[float]:
    """Return a float in [0, 1) for each 7 bytes: one of the 2**53 multiples of 2**-53, all equally likely.

    The first 53 bits of the 7 bytes, big-endian, times 2**-53, as `random()` of CPython's `random.SystemRandom` does.
    Each float is exact. Raises ValueError when the last ones do not make seven.
    """
    if len(data) % FLOAT_BYTES:
        raise ValueError("a float takes 7 bytes")
    starts = range(0, len(data), FLOAT_BYTES)
    return [(int.from_bytes(data[start : start + FLOAT_BYTES], "big") >> 3) * _FLOAT_STEP for start in starts]


def uuids(data: bytes | bytearray | memoryview) -> list[uuid.UUID]:
    """Return a UUID of version 4 (RFC 9562, section 5.4) for each 16 bytes: 122 of the bits stay, 6 are set.

    Raises ValueError when the last bytes do not make sixteen.
    """
    if len(data) % UUID_BYTES:
        raise ValueError("a UUID takes 16 bytes")
    starts = range(0, len(data), UUID_BYTES)
    return [uuid.UUID(bytes=bytes(data[start : start + UUID_BYTES]), version=4) for start in starts]
