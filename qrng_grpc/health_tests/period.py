"""Period: a source that plays the same bytes again, within the last MiB.

Idea: hold on to the first bytes of the stream, the *anchor*, and look for them in the MiB that follows; then take the
next anchor. Every byte is searched once, for one anchor. Anchors follow each other in spans of 1 MiB and one
anchor, so that a period of any length up to 1 MiB, that one included, falls into a span. The end of
what was searched is kept, so that a repetition may lie across blocks.

A repetition of 16 bytes holds an aligned word of 4, and which word of the anchor that is follows from its place modulo
4. So four comparisons of whole words rule a block out; only a block with such a word is searched byte by byte.

An anchor is as long as it takes to hold 128 bits: 16 bytes at 8 bits per byte, more from a source that is
assessed lower, whose bytes repeat by chance.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qrng_grpc.health_tests.cutoffs import DEFAULT_ALPHA, MAX_ENTROPY, check_parameters
from qrng_grpc.health_tests.verdict import Failure, HealthTest

LONGEST_PERIOD = 1 << 20
"""The longest distance of a repetition that is found: 1 MiB."""
ANCHOR_BITS = 128
LEAST_ANCHOR_BYTES = 16


def anchor_bytes(assessed_entropy: float = MAX_ENTROPY) -> int:
    """Return how many bytes hold 128 bits. Raises ValueError unless 0 < H <= 8."""
    check_parameters(assessed_entropy, DEFAULT_ALPHA)
    return math.ceil(ANCHOR_BITS / assessed_entropy)


class Period:
    """An alarm when an anchor of `size` bytes, 16 or more, comes again within 1 MiB. ValueError for less."""

    def __init__(self, size: int = LEAST_ANCHOR_BYTES) -> None:
        if size < LEAST_ANCHOR_BYTES:
            raise ValueError("an anchor takes at least 16 bytes")
        self._size = size
        self._span = LONGEST_PERIOD + size
        self._anchor = b""
        self._words = words_of(bytes(size))
        self._searched = b""
        self._seen = 0

    def check(self, block: bytes) -> Failure | None:
        """Take the next bytes of the stream. Returns the first alarm they raise; then the test is spent."""
        start, failure = 0, None
        while start < len(block) and failure is None:
            position = self._seen % self._span
            if position < self._size:
                end = min(len(block), start + self._size - position)
                self._extend_anchor(block[start:end], position)
            else:
                end = min(len(block), start + self._span - position)
                failure = self._search(block, start, end)
            self._seen += end - start
            start = end
        return failure

    def _extend_anchor(self, part: bytes, position: int) -> None:
        self._anchor = self._anchor[:position] + part
        if len(self._anchor) == self._size:
            self._words = words_of(self._anchor)
            self._searched = self._anchor[1:]

    def _search(self, block: bytes, start: int, end: int) -> Failure | None:
        """Look for the anchor across the beginning of a part of the block, then inside it."""
        overlap = self._size - 1
        joint = self._searched + block[start : min(end, start + overlap)]
        index = joint.find(self._anchor)
        if index < 0 and may_hold(block, start, end, self._words):
            found = block.find(self._anchor, start, end)
            index = -1 if found < 0 else found - start + overlap
        if index < 0:
            self._searched = block[end - overlap : end] if end - start >= overlap else joint[-overlap:]
            return None
        # `joint` begins `overlap` bytes before the part, and an anchor ends `overlap` bytes after it began.
        return Failure(
            HealthTest.PERIOD, (self._seen + index - overlap) % self._span, LONGEST_PERIOD, self._seen + index
        )


def words_of(anchor: bytes) -> NDArray[np.uint32]:
    """Return the words that begin at the first four bytes of `anchor`, as a column."""
    return np.frombuffer(b"".join(anchor[offset : offset + 4] for offset in range(4)), np.uint32).reshape(4, 1)


def may_hold(block: bytes, start: int, end: int, words: NDArray[np.uint32]) -> bool:
    """Say whether a word of four bytes, aligned to the start of `block[start:end]`, is one of `words`."""
    part = np.frombuffer(block, np.uint32, (end - start) // 4, start)
    found: NDArray[np.bool_] = part == words
    return found.tobytes().find(1) >= 0
