"""Fingerprints: a reply that was fetched before, from a cache on the way or a recording.

Idea: two replies that begin alike are a fault whether or not they go on alike, so the opening 128 bits (16
bytes at 8 bits per byte) tell as much as the whole, at a hundredth of the cost. What is remembered is their
BLAKE2b under a key drawn at random per process: it reveals no byte, and nobody outside can aim at
it. A bounded number of replies is remembered; the oldest is forgotten first, and one that came again is young.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

DEFAULT_CAPACITY = 16_384
"""Replies remembered by default: 1 GiB of stream in replies of 64 KiB, about 3 MB of memory."""

_PROCESS_KEY = os.urandom(32)
_DIGEST_BYTES = 16


class Fingerprints:
    """The replies that came lately. `opening` and `capacity` are at least 1: ValueError for less."""

    def __init__(self, opening: int = 16, capacity: int = DEFAULT_CAPACITY, *, key: bytes = _PROCESS_KEY) -> None:
        if opening < 1 or capacity < 1:
            raise ValueError("a fingerprint takes a byte, and a memory room for one")
        self._opening = opening
        self._capacity = capacity
        self._key = key
        self._replies: OrderedDict[bytes, int] = OrderedDict()
        self._seen = 0

    @property
    def opening(self) -> int:
        """How many bytes a reply needs to have a fingerprint."""
        return self._opening

    @property
    def capacity(self) -> int:
        """The most replies that are remembered."""
        return self._capacity

    def __len__(self) -> int:
        return len(self._replies)

    def distance(self, reply: bytes) -> int | None:
        """Remember `reply`. Return how many replies ago it came before; None when it is new, or too short to tell."""
        if len(reply) < self._opening:
            return None
        digest = hashlib.blake2b(reply[: self._opening], digest_size=_DIGEST_BYTES, key=self._key).digest()
        self._seen += 1
        before = self._replies.get(digest)
        self._replies[digest] = self._seen
        if before is not None:
            self._replies.move_to_end(digest)
            return self._seen - before
        if len(self._replies) > self._capacity:
            self._replies.popitem(last=False)
        return None
