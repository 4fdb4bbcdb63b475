"""Claims: what a client demands of its bytes, and what the bytes that it gets are.

Idea: a reply is labelled by its worst byte. Bytes of one chunk are what that chunk is; of several, the weakest of all
that is known of any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from qrng_gateway.pool.lane import ChunkRange, Stored
from qrng_grpc.labels import (
    Custody,
    HealthVerdict,
    Processing,
    SourceClass,
    weakest_class,
    weakest_processing,
)

L = TypeVar("L")

_MAX_NAMES = 16


# Named tuples where one is made for each call: a frozen dataclass takes four times as long to make.


class ClaimSpec(NamedTuple):
    """What a client demands of its bytes. Ages in seconds since capture start; times in nanoseconds of Unix time."""

    least_class: SourceClass
    processing: Processing | None = None
    max_age_s: float | None = None
    captured_after_ns: int | None = None
    span_lanes: bool = False
    provenance: bool = False
    """Whether it wants to know which chunks its bytes came from."""


class ReplyLabel(NamedTuple):
    """What claimed bytes are: the weakest of all that is known of any of them."""

    device_id: str
    collector_id: str
    source_class: SourceClass
    processing: Processing
    custody: Custody
    health_verdict: HealthVerdict
    generation_ns: int
    """Capture end of the oldest byte."""
    capture_start_ns: int
    capture_end_ns: int


class Claimed(NamedTuple):
    """Bytes that left the pool for one client."""

    data: bytes
    """The bytes, or what the claim's `Pack` made of them."""
    label: ReplyLabel
    ranges: tuple[ChunkRange, ...] = ()
    """Where the bytes lay, in their order, when the claim asked for it."""

    def __repr__(self) -> str:
        return f"Claimed({len(self.data)} bytes, {self.label!r})"


Pack = Callable[[Sequence[memoryview], ReplyLabel, int], bytes]
"""Makes what a claim returns of its bytes, which lie in pieces, of their label, and of how many there are.

A message that is made of the pieces themselves is the only copy of them.
"""


def as_they_are(pieces: Sequence[memoryview], _label: ReplyLabel, _size: int) -> bytes:
    """Return the bytes and nothing else."""
    return b"".join(pieces)


def label_of(used: list[Stored]) -> ReplyLabel:
    """Return what bytes of the chunks `used` are: one object for every claim that is answered from one chunk."""
    first = label_of_one(used[0])
    if len(used) == 1:
        return first
    origin = used[0].origin
    if any(chunk.origin is not origin for chunk in used):
        return _merged_label(used)
    # Bytes of one origin lie in one lane, oldest first.
    return _ending(first, max([chunk.capture_end_ns for chunk in used]))


def label_of_two(oldest: Stored, following: Stored) -> ReplyLabel:
    """Return what bytes of two chunks of one origin are, in the order of their capture."""
    return _ending(label_of_one(oldest), max(oldest.capture_end_ns, following.capture_end_ns))


def label_of_one(chunk: Stored) -> ReplyLabel:
    """Return what bytes of `chunk` are."""
    if chunk.label is None:
        origin = chunk.origin
        label = origin.label
        chunk.label = ReplyLabel(
            origin.device_id,
            origin.collector_id,
            label.source_class,
            label.processing,
            label.custody,
            label.health_verdict,
            chunk.capture_end_ns,
            chunk.capture_start_ns,
            chunk.capture_end_ns,
        )
    return chunk.label


def _ending(label: ReplyLabel, capture_end_ns: int) -> ReplyLabel:
    return label if label.capture_end_ns == capture_end_ns else ReplyLabel(*label[:-1], capture_end_ns)


def _merged_label(used: list[Stored]) -> ReplyLabel:
    oldest = min(used, key=lambda chunk: chunk.capture_start_ns)
    origins = list({id(chunk.origin): chunk.origin for chunk in used}.values())
    labels = [origin.label for origin in origins]
    return ReplyLabel(
        device_id=_names(name for label in labels for name in label.device_ids),
        collector_id=_names(origin.collector_id for origin in origins),
        source_class=weakest_class(label.source_class for label in labels),
        processing=weakest_processing(label.processing for label in labels),
        custody=_worst(Custody.REMOTE, (label.custody for label in labels), Custody.LOCAL),
        health_verdict=_worst(HealthVerdict.UNTESTED, (label.health_verdict for label in labels), HealthVerdict.PASSED),
        generation_ns=oldest.capture_end_ns,
        capture_start_ns=oldest.capture_start_ns,
        capture_end_ns=max(chunk.capture_end_ns for chunk in used),
    )


def _worst(worst: L, labels: Iterable[L], best: L) -> L:
    return worst if worst in labels else best


def _names(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ",".join(distinct if len(distinct) <= _MAX_NAMES else [*distinct[:_MAX_NAMES], "..."])
