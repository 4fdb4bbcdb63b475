"""Inspection: was a chunk damaged, or its data here before?

Idea: the signature shows who sent a chunk, not that all was well when it was cut. Two faults are cheap to
notice here. A buffer that was never filled, or a byte stuck somewhere on the way, makes long runs of one
value: a *sample* of every chunk, 16 windows spread evenly over it, is searched for them. A cache, a
restored snapshot or a source that was started again from the same state sends old bytes under a new
identity: every chunk leaves a *fingerprint*, and one that another identity left before is known again.

A glance spares nearly every chunk the search: whatever is found by it repeats the byte before it more often
than sound bytes ever do.

This looks for corruption only and is no judgement of randomness, which the gateway cannot make: whoever may
sign can make up bytes that pass. The cutoffs suppose half a bit of entropy a byte, far below anything that
is worth sending, so that nothing sound is refused. What is tested at the sources is in
docs/output-monitoring.md.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

import numpy as np

from qrng_grpc.chunk import Chunk, Identity
from qrng_grpc.health_tests.adaptive_proportion import AdaptiveProportion
from qrng_grpc.health_tests.cutoffs import WINDOW_SAMPLES, adaptive_proportion_cutoff, repetition_count_cutoff
from qrng_grpc.health_tests.repetition_count import RepetitionCount

CORRUPT = "corrupt"
REPEATED = "repeated"
REMEMBERED_CHUNKS = 16_384
"""Fingerprints that are kept: 1 GiB of stream in chunks of 64 KiB, about 5 MB of memory."""
SUPPOSED_ENTROPY = 0.5
"""Bits per byte. At this level one sound sample in about 10**8 would be refused; at one bit, none."""
OPENING_BYTES = 256
"""What a fingerprint is made of: at half a bit per byte, these hold 128 bits."""
LEAST_OPENING_BYTES = 16
"""Shorter chunks may be equal by chance, and have no fingerprint."""

_WINDOWS = 16
_REPETITION_CUTOFF = repetition_count_cutoff(SUPPOSED_ENTROPY)
_PROPORTION_CUTOFF = adaptive_proportion_cutoff(SUPPOSED_ENTROPY)
# What a sample holds at least of bytes equal to the one before them, when it holds such a run (which lies in two
# windows at most) or such a window (where every other byte parts two equal ones at most); 8192 sound bytes have 32.
_FEWEST_REPEATS = min(_REPETITION_CUTOFF - 2, 2 * _PROPORTION_CUTOFF - WINDOW_SAMPLES - 1)
_DIGEST_BYTES = 16
_PROCESS_KEY = os.urandom(32)


class Inspection:
    """What the gateway looks for in every chunk. Remembers `capacity` of them, at least 1."""

    def __init__(self, capacity: int = REMEMBERED_CHUNKS, *, key: bytes = _PROCESS_KEY) -> None:
        self._fingerprints = Fingerprints(capacity, key)
        self._glance = Glance()

    def fault(self, chunk: Chunk) -> str | None:
        """Return CORRUPT or REPEATED, None when neither was seen.

        The same chunk may be inspected again, as happens to one that was held.
        """
        data = chunk.block.data
        if looks_corrupt(data, self._glance):
            return CORRUPT
        return REPEATED if self._fingerprints.known(data, chunk.identity) else None


class Fingerprints:
    """Which identity data came under, for the last `capacity` chunks. The oldest is forgotten first.

    A fingerprint is a BLAKE2b under `key`, drawn at random per process: it reveals no byte, and nobody
    outside can aim at it.
    """

    def __init__(self, capacity: int, key: bytes) -> None:
        if capacity < 1:
            raise ValueError("a memory has room for one")
        self._capacity = capacity
        self._keyed = hashlib.blake2b(digest_size=_DIGEST_BYTES, key=key)
        self._owners: OrderedDict[bytes, tuple[str, int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._owners)

    def known(self, data: bytes | memoryview, identity: Identity) -> bool:
        """Say whether `data` came before under another identity, and remember it otherwise."""
        if len(data) < LEAST_OPENING_BYTES:
            return False
        fingerprint = self._keyed.copy()
        fingerprint.update(data[:OPENING_BYTES])
        digest = fingerprint.digest()
        owner = (identity.collector_id, identity.epoch, identity.sequence)
        before = self._owners.setdefault(digest, owner)
        if before != owner:
            self._owners.move_to_end(digest)  # what goes round in a circle is never forgotten
            return True
        if len(self._owners) > self._capacity:
            self._owners.popitem(last=False)
        return False


def sample(data: bytes | memoryview) -> bytes:
    """Return 16 windows of 512 bytes, spread evenly over `data`; all of it when that is no more."""
    spacing = len(data) // _WINDOWS
    if spacing <= WINDOW_SAMPLES:
        return bytes(data)
    return b"".join([data[start : start + WINDOW_SAMPLES] for start in range(0, _WINDOWS * spacing, spacing)])


class Glance:
    """Counts repeats, of one chunk after the other: what it finds goes where it found the last, for one thread."""

    def __init__(self) -> None:
        self._found = bytearray(_WINDOWS * (WINDOW_SAMPLES - 1))
        self._equal = np.frombuffer(self._found, np.bool_).reshape(_WINDOWS, WINDOW_SAMPLES - 1)

    def repeats(self, data: bytes | memoryview) -> int:
        """Return how many bytes of a sample of `data` equal the one before them, each window taken by itself."""
        spacing = len(data) // _WINDOWS
        if spacing <= WINDOW_SAMPLES:
            whole = np.frombuffer(data, np.uint8)
            return int(np.count_nonzero(whole[1:] == whole[:-1]))
        strides = (spacing, 1)
        before = np.ndarray(self._equal.shape, np.uint8, data, 0, strides)
        after = np.ndarray(self._equal.shape, np.uint8, data, 1, strides)
        np.equal(before, after, self._equal)
        return self._found.count(1)


def looks_corrupt(data: bytes | memoryview, glance: Glance) -> bool:
    """Say whether a sample of `data` holds 81 equal bytes in a row, or a window in which one byte has most places."""
    if glance.repeats(data) < _FEWEST_REPEATS:
        return False
    sampled = sample(data)
    return (
        RepetitionCount(_REPETITION_CUTOFF).check(sampled) is not None
        or AdaptiveProportion(_PROPORTION_CUTOFF).check(sampled) is not None
    )
