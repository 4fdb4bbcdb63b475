"""A ledger of simulated streams: which bytes a collector captured, and who got them.

Idea: chunks and reads here are cut in multiples of 16 bytes, so everything served is made of whole
*words* of the streams. A word occurs once in a stream, and streams of different seeds share none; so each
served word has one place, and "served once" means that no place turns up twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from qrng_grpc.sources.mock import SeededStream

WORD_BYTES = 16

Place = tuple[int, int]
"""The seed of a stream, and the number of a word in it."""


class Ledger:
    """The first `stream_bytes` bytes of the streams of `seeds`."""

    def __init__(self, *seeds: int, stream_bytes: int) -> None:
        self._places: dict[bytes, Place] = {
            word: (seed, number)
            for seed in seeds
            for number, word in enumerate(words(SeededStream(seed).take(stream_bytes)))
        }
        assert len(self._places) == len(seeds) * stream_bytes // WORD_BYTES, "a word occurs twice"

    def places(self, served: bytes) -> list[Place]:
        """Return where each word of `served` was captured. Raises KeyError for one that never was."""
        return [self._places[word] for word in words(served)]

    def check_once(self, served: bytes) -> list[Place]:
        """Check that each word of `served` was captured, and is there once. Returns their places in order."""
        places = self.places(served)
        assert len(set(places)) == len(places), "a byte was served twice"
        return sorted(places)


def words(data: bytes) -> Iterator[bytes]:
    """Cut `data` into words. Raises AssertionError when it is no whole number of them."""
    assert len(data) % WORD_BYTES == 0
    return (data[start : start + WORD_BYTES] for start in range(0, len(data), WORD_BYTES))
