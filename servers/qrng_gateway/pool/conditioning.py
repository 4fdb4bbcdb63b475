"""Post-processing: what the gateway itself may do to bytes before it serves them, and says of them.

Idea: a function from a chunk's bytes to those that are stored, chosen by setting, with the label it leads to.

- `none` leaves bytes as they came.
- `sha256` conditions them. Each output of 32 bytes is the SHA-256 of its own part of the chunk, which has to hold
  64 bits of entropy more than come out (SP 800-90C, for full entropy from a vetted hash function). How much a byte
  holds is for the operator to say. What comes out less is used up, and counted as that. A chunk too small for
  one output is used up whole.
- `xor-os` combines them with as many bytes of the operating system's, by XOR: no weaker than the better of
  the two while they are independent, so it hedges against a source that fails unseen. It makes no class
  better, since nobody outside can tell whether the source still counts.

Both cost the property that served bytes are those a device delivered, which is why `none` is the default.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

from qrng_grpc.labels import Processing

PostProcessing = Literal["none", "sha256", "xor-os"]

OUTPUT_BYTES = 32
OUTPUT_BITS = 8 * OUTPUT_BYTES
SURPLUS_BITS = 64
"""Bits of entropy that go in beyond those that come out (SP 800-90C)."""


class Conditioner(Protocol):
    """Makes what is stored of what came."""

    @property
    def labels(self) -> Mapping[Processing, Processing]:
        """What the bytes are called afterwards, by what a collector had done to them."""

    def __call__(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return at most as many bytes, perhaps none."""


@dataclass(frozen=True, slots=True)
class Sha256:
    """Conditioning with SHA-256, of bytes that hold `entropy_per_byte` bits of entropy each; above 0, at most 8."""

    entropy_per_byte: float

    @property
    def labels(self) -> Mapping[Processing, Processing]:
        """What the bytes are called afterwards."""
        return {Processing.MIXED: Processing.MIXED_SHA256, Processing.NONE: Processing.SHA256}

    @property
    def part_bytes(self) -> int:
        """The least bytes that make one output."""
        return math.ceil((OUTPUT_BITS + SURPLUS_BITS) / self.entropy_per_byte)

    def __call__(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return 32 bytes for each part, the parts being as equal as may be, so that every byte is used."""
        view = memoryview(data)
        outputs = len(view) // self.part_bytes
        ends = [len(view) * index // outputs for index in range(outputs + 1)] if outputs else [0]
        return b"".join(hashlib.sha256(view[start:end]).digest() for start, end in pairwise(ends))


@dataclass(frozen=True, slots=True)
class XorOs:
    """XOR with the operating system's randomness."""

    @property
    def labels(self) -> Mapping[Processing, Processing]:
        """What the bytes are called afterwards."""
        return {Processing.MIXED: Processing.MIXED_XOR_OS, Processing.NONE: Processing.XOR_OS}

    def __call__(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return as many bytes."""
        n = len(data)
        both = int.from_bytes(data, "little") ^ int.from_bytes(os.urandom(n), "little")
        return both.to_bytes(n, "little")


def conditioner(kind: PostProcessing, entropy_per_byte: float | None = None) -> Conditioner | None:
    """Return what `kind` names; None for `none`. `entropy_per_byte` is required with `sha256`."""
    if kind == "sha256":
        if entropy_per_byte is None:
            raise ValueError("sha256 needs to know the entropy of a byte")
        return Sha256(entropy_per_byte)
    return XorOs() if kind == "xor-os" else None
