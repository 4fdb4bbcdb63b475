"""Faults of sources: streams of bytes that go wrong in a known way, for tests of health tests.

Idea: a stream is anything with `take(size) -> bytes`. Each function here returns one that is sound for
`after` bytes and faulty from then on, made from the seeded stream of `qrng_grpc.sources.mock`, so that the same
arguments give the same bytes on every run.

    stuck_byte       one value for ever
    favoured_byte    one value far too often
    stuck_bit        one bit of every byte keeps its value
    biased_bits      every bit is set with the same probability, not 1/2
    repeating        a piece of the stream again and again
    cached_body      every `take` gets the same reply: a cache on the way

    stream = stuck_bit(3, after=100_000)
    stream.take(65_536)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from qrng_grpc.sources.mock import SeededStream


class ByteStream(Protocol):
    """Bytes in a row."""

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        ...


class FaultyStream:
    """`after` bytes of `sound`, then whatever `faulty`, asked for a number of bytes, returns."""

    def __init__(self, sound: ByteStream, faulty: Callable[[int], bytes], after: int) -> None:
        self._sound = sound
        self._faulty = faulty
        self._sound_left = after

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        sound_size = min(size, self._sound_left)
        self._sound_left -= sound_size
        sound = self._sound.take(sound_size)
        return sound if sound_size == size else sound + self._faulty(size - sound_size)


def stuck_byte(value: int = 0, *, seed: int = 0, after: int = 0) -> ByteStream:
    """Return a stream whose every byte is `value`, 0 to 255."""
    return FaultyStream(SeededStream(seed), lambda size: bytes((value,)) * size, after)


def favoured_byte(value: int, share: float, *, seed: int = 0, after: int = 0) -> ByteStream:
    """Return a stream in which a byte is replaced by `value` with probability `share`, in steps of 1/256."""
    stream = SeededStream(seed)

    def faulty(size: int) -> bytes:
        chosen = _below(stream, size, share)
        return np.where(chosen, np.uint8(value), np.frombuffer(stream.take(size), np.uint8)).tobytes()

    return FaultyStream(stream, faulty, after)


def stuck_bit(position: int, value: int = 1, *, seed: int = 0, after: int = 0) -> ByteStream:
    """Return a stream in which bit `position`, 0 the least significant and 7 the most, is always `value`, 0 or 1."""
    stream = SeededStream(seed)
    mask = 1 << position
    table = bytes(byte | mask if value else byte & ~mask for byte in range(256))
    return FaultyStream(stream, lambda size: stream.take(size).translate(table), after)


def biased_bits(ones: float, *, seed: int = 0, after: int = 0) -> ByteStream:
    """Return a stream whose bits are each set with probability `ones`, in steps of 1/256."""
    stream = SeededStream(seed)
    return FaultyStream(stream, lambda size: np.packbits(_below(stream, 8 * size, ones)).tobytes(), after)


def repeating(period: int, *, seed: int = 0, after: int = 0) -> ByteStream:
    """Return a stream that repeats its next `period` bytes, at least 1, for ever."""
    stream = SeededStream(seed)
    piece = b""
    position = 0

    def faulty(size: int) -> bytes:
        nonlocal piece, position
        piece = piece or stream.take(period)
        start, position = position, (position + size) % period
        return (piece * ((start + size) // period + 1))[start : start + size]

    return FaultyStream(stream, faulty, after)


def cached_body(*, seed: int = 0, after: int = 0) -> ByteStream:
    """Return a stream of which every `take` gets the first bytes of the same body, however often it asks."""
    stream = SeededStream(seed)
    body = b""

    def faulty(size: int) -> bytes:
        nonlocal body
        body += stream.take(max(0, size - len(body)))
        return body[:size]

    return FaultyStream(stream, faulty, after)


def _below(stream: ByteStream, count: int, probability: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.frombuffer(stream.take(count), np.uint8) < round(256 * probability)
