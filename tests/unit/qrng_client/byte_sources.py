"""Sources for tests of what is made of bytes: all small, and none looks at a clock."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from qrng_grpc.errors import SourceError
from qrng_grpc.sources.mock import SeededStream


class Seeded:
    """The stream of a seed, in which any 16 bytes in a row are found once; `reads` are the sizes asked for."""

    def __init__(self, seed: int = 0) -> None:
        self.reads: list[int] = []
        self._stream = SeededStream(seed)
        self._lock = threading.Lock()

    def read(self, n: int, /) -> bytes:
        """Return the next `n` bytes of the stream."""
        with self._lock:
            self.reads.append(n)
            return self._stream.take(n)


class Biased:
    """Bits of which 5 in 8 are 1, and not 4: what a test of a distribution must find."""

    def __init__(self, seed: int = 0) -> None:
        self._streams = [SeededStream(3 * seed + number) for number in range(3)]

    def read(self, n: int, /) -> bytes:
        """Return a fair bit, or 1 where two others are both 1."""
        fair, one, other = (int.from_bytes(stream.take(n), "big") for stream in self._streams)
        return (fair | one & other).to_bytes(n, "big")


class Scripted:
    """A source that answers with what its script says, whatever is asked for, and fails after that."""

    def __init__(self, script: Iterable[object]) -> None:
        self._script = iter(script)

    def read(self, _: int, /) -> bytes:
        """Return the next answer, or raise it. Raises SourceError when there is none."""
        answer = next(self._script, SourceError("unplugged"))
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]  # a script may break the contract
