"""Blocks and chunks: what a source delivered, and what a collector sends of it.

Idea: a *block* is bytes with their labels and capture times. Binding it to a pool gives it an
identity, (collector, pool, epoch, sequence), and makes it a *chunk*; that identity belongs to the
bytes for ever, so that a gateway can store them once however often they arrive.

Neither shows its bytes in `repr`.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from qrng_grpc.labels import Condition, Custody, HealthVerdict, Processing, SourceClass

MAX_CHUNK_BYTES = 1 << 20
"""The most data in one chunk: 1 MiB, a constant of the protocol."""
MAX_PROVENANCE_BYTES = 65_536
"""The most bytes of one reply that tells where they came from: small chunks make that longer than the bytes."""
MAX_DEVICE_IDS = 8
MAX_SOURCE_STATES = 64
"""The most sources one heartbeat tells of."""
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""The form of collector, pool, device and key ids: safe in file names, metadata and logs."""

_ID = re.compile(ID_PATTERN)


def is_id(text: str) -> bool:
    """Say whether `text` has the form of an id."""
    return _ID.fullmatch(text) is not None


def checked_id(text: str) -> str:
    """Return `text` if it has the form of an id. Raises ValueError."""
    if not is_id(text):
        raise ValueError("expected 1 to 64 of the characters A-Z a-z 0-9 . _ - with a letter or digit first")
    return text


@dataclass(frozen=True, slots=True)
class BlockLabel:
    """What a source says of its bytes."""

    device_ids: tuple[str, ...]
    source_class: SourceClass
    processing: Processing = Processing.NONE
    custody: Custody = Custody.LOCAL
    health_verdict: HealthVerdict = HealthVerdict.UNTESTED


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes of one fetch. Capture times are nanoseconds of Unix time: source asked, source had answered."""

    data: bytes | memoryview = field(repr=False)
    """A source's are bytes, those of a chunk that was decoded may be a view of the message it came in."""
    capture_start_ns: int
    capture_end_ns: int
    label: BlockLabel

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose chunk it is, for which pool, and which one. Ordered by (epoch, sequence) per collector and pool."""

    collector_id: str
    pool_id: str
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block bound to a pool. `crc32` is what the sender computed; `intact` compares."""

    identity: Identity
    block: Block
    crc32: int

    @classmethod
    def bind(cls, block: Block, identity: Identity) -> Chunk:
        """Give `block` its identity."""
        return cls(identity, block, zlib.crc32(block.data))

    @property
    def intact(self) -> bool:
        """Whether the data matches its CRC-32."""
        return zlib.crc32(self.block.data) == self.crc32


@dataclass(frozen=True, slots=True)
class SourceState:
    """How one source does. `fetched_bytes` runs from the collector's start."""

    device_id: str
    source_class: SourceClass
    condition: Condition
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A chunk without data: it shows that a collector is alive, and how it does.

    `capture_end_ns` is the moment it was made. The numbers are bytes: in the collector's queue, and lost
    since its start for want of room, of age unsent, and after they may have been delivered.
    """

    identity: Identity
    capture_end_ns: int
    sources: tuple[SourceState, ...] = ()
    queued: int = 0
    overflow: int = 0
    expired: int = 0
    in_doubt: int = 0
