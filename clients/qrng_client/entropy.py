"""What a client gets: bytes and what they are.

Idea: a reply is believed only when it is whole. It must answer the request that was sent, hold exactly
the bytes asked for, say what every label is, be of no weaker class and no other processing than asked,
and tell where each byte came from if that was asked; anything else is an error, and none of its bytes are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from qrng_client.requests import Wish
from qrng_grpc.errors import QrngError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass, weakest_class, weakest_processing
from qrng_grpc.v1 import entropy_pb2
from qrng_grpc.wire import CLASSES, CUSTODIES, PROCESSINGS, VERDICTS
from qrng_grpc.wording import came_instead

Reply = entropy_pb2.GetEntropyResponse | entropy_pb2.SubscribeEntropyResponse

_MAX_NAMES = 16


class BadReplyError(QrngError):
    """The server answered something that breaks its contract. Its bytes were not used."""

    reason = "BAD_REPLY"


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """Bytes of one chunk: `size` of them from `offset` on, in the chunk as the gateway stored it."""

    collector_id: str
    """The collector that signed the chunk."""
    epoch: int
    sequence: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Entropy:
    """Random bytes and their labels. Where bytes differ, a label is that of the weakest.

    Times are nanoseconds of Unix time by the collector's clock. `bytes(entropy)` is its data; `repr` never
    shows it.
    """

    data: bytes = field(repr=False)
    source_class: SourceClass
    processing: Processing
    custody: Custody
    health_verdict: HealthVerdict
    device_id: str
    """The devices the bytes came from, joined by commas; after 16 of them "..."."""
    collector_id: str
    """The collectors the bytes came through, joined likewise."""
    capture_start_ns: int
    """Earliest capture start of any byte."""
    capture_end_ns: int
    """Latest capture end of any byte."""
    generation_timestamp_ns: int
    """Capture end of the oldest byte."""
    provenance: tuple[ChunkRange, ...] = ()
    """Where the bytes came from, in their order; empty unless it was asked for."""

    def __bytes__(self) -> bytes:
        return self.data

    def __len__(self) -> int:
        return len(self.data)


def read_reply(reply: Reply | None, *, size: int, sequence_id: int, wish: Wish) -> Entropy:
    """Take the bytes out of `reply`. Raises BadReplyError unless it is exactly what was asked for.

    None is what grpc makes of a reply that is missing or unreadable.
    """
    if reply is None:
        raise BadReplyError("the server answered no readable message")
    if reply.sequence_id != sequence_id:
        raise BadReplyError("the reply belongs to another request")
    if len(reply.data) != size:
        raise BadReplyError(f"the reply holds {came_instead(len(reply.data), size)}")
    source_class = CLASSES.from_proto(reply.source_class)
    processing = PROCESSINGS.from_proto(reply.processing)
    custody = CUSTODIES.from_proto(reply.custody)
    verdict = VERDICTS.from_proto(reply.health_verdict)
    if source_class is None or processing is None or custody is None or verdict is None:
        raise BadReplyError("the reply has a label that is unspecified or unknown")
    if wish.least_class is not None and not source_class.at_least(wish.least_class):
        raise BadReplyError("the reply is of a weaker class than asked for")
    if wish.processing not in (None, processing):
        raise BadReplyError("the reply is of another processing than asked for")
    return Entropy(
        data=reply.data,
        source_class=source_class,
        processing=processing,
        custody=custody,
        health_verdict=verdict,
        device_id=reply.device_id,
        collector_id=reply.collector_id,
        capture_start_ns=reply.capture_start_ns,
        capture_end_ns=reply.capture_end_ns,
        generation_timestamp_ns=reply.generation_timestamp_ns,
        provenance=_read_ranges(reply.provenance, size) if wish.provenance else (),
    )


def _read_ranges(told: Iterable[entropy_pb2.ChunkRange], size: int) -> tuple[ChunkRange, ...]:
    ranges = tuple(ChunkRange(o.collector_id, o.epoch, o.sequence, o.offset_bytes, o.size_bytes) for o in told)
    if any(one.offset < 0 or one.size < 1 for one in ranges) or sum(one.size for one in ranges) != size:
        raise BadReplyError("the reply does not tell where each of its bytes came from")
    return ranges


def join(parts: Sequence[Entropy]) -> Entropy:
    """Put `parts`, at least one, together in order, under the weakest of their labels."""
    if len(parts) == 1:
        return parts[0]
    remote = any(part.custody is Custody.REMOTE for part in parts)
    untested = any(part.health_verdict is HealthVerdict.UNTESTED for part in parts)
    return Entropy(
        data=b"".join(part.data for part in parts),
        source_class=weakest_class(part.source_class for part in parts),
        processing=weakest_processing(part.processing for part in parts),
        custody=Custody.REMOTE if remote else Custody.LOCAL,
        health_verdict=HealthVerdict.UNTESTED if untested else HealthVerdict.PASSED,
        device_id=_join_names(part.device_id for part in parts),
        collector_id=_join_names(part.collector_id for part in parts),
        capture_start_ns=min(part.capture_start_ns for part in parts),
        capture_end_ns=max(part.capture_end_ns for part in parts),
        generation_timestamp_ns=min(part.generation_timestamp_ns for part in parts),
        provenance=tuple(one for part in parts for one in part.provenance),
    )


def _join_names(lists: Iterable[str]) -> str:
    names = list(dict.fromkeys(name for names in lists for name in names.split(",")))
    known = [name for name in names if name != "..."]
    if len(known) > _MAX_NAMES or len(known) < len(names):
        return ",".join([*known[:_MAX_NAMES], "..."])
    return ",".join(known)
