"""A seeded generator: the same bytes on every run, labelled SIMULATED.

Idea: one endless stream per seed, cut wherever the reads cut it, so that what is read does not depend
on the sizes of the reads. Block i of the stream, 4096 bytes, is

    SHAKE-256("qrng.mock\\0" || seed || i), seed and i as 8 bytes, big-endian

which any language with SHA-3 can compute. Whoever knows the seed knows every byte: for tests and
demonstrations only.
"""

from __future__ import annotations

import hashlib

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device

DEVICE_ID = "mock"

_DOMAIN = b"qrng.mock\x00"
_BLOCK_BYTES = 4096


class SeededStream:
    """The stream of one seed, from its beginning. `seed` is 0 to 2**64 - 1; OverflowError beyond."""

    def __init__(self, seed: int) -> None:
        self._prefix = _DOMAIN + seed.to_bytes(8, "big")
        self._next_block = 0
        self._rest = b""

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        parts = [self._rest]
        missing = size - len(self._rest)
        while missing > 0:
            parts.append(self._block())
            missing -= _BLOCK_BYTES
        joined = b"".join(parts)
        self._rest = joined[size:]
        return joined[:size]

    def _block(self) -> bytes:
        digest = hashlib.shake_256(self._prefix + self._next_block.to_bytes(8, "big")).digest(_BLOCK_BYTES)
        self._next_block += 1
        return digest


class MockSource:
    """The stream of a seed as a source."""

    def __init__(self, seed: int) -> None:
        self.label = one_device(DEVICE_ID, SourceClass.SIMULATED, Custody.LOCAL)
        self._stream = SeededStream(seed)
        self._closed = False

    async def read(self, size: int) -> bytes:
        """Return the next `size` bytes of the stream. Raises SourceError once closed."""
        if self._closed:
            raise SourceError("the source is closed")
        return self._stream.take(size)

    async def close(self) -> None:
        """Refuse later reads."""
        self._closed = True
