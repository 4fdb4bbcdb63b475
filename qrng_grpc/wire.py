"""Between protobuf and our own values.

Idea: protobuf types stay at the edges. What arrives is checked here, once and completely, and inside
live only values that hold what their types promise. Enumerations are matched by name, so a value
that is unspecified or unknown to this version has no counterpart and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError

from qrng_grpc.chunk import (
    MAX_CHUNK_BYTES,
    MAX_DEVICE_IDS,
    MAX_SOURCE_STATES,
    Block,
    BlockLabel,
    Chunk,
    Heartbeat,
    Identity,
    SourceState,
    is_id,
)
from qrng_grpc.labels import Condition, Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.v1 import chunk_pb2, labels_pb2

E = TypeVar("E", bound=Enum)

MAX_SIGNED_CHUNK_BYTES = MAX_CHUNK_BYTES + 16_384
"""The most bytes of a serialised Chunk that a receiver reads."""
_MAX_INT64 = 2**63 - 1
_SHARED_LABELS = 256


class MalformedChunkError(ValueError):
    """Bytes that are no chunk, or a chunk that contradicts its own contract."""


class Labels(Generic[E]):
    """One enumeration in both worlds."""

    def __init__(self, ours: type[E], number_of: Callable[[str], int], prefix: str) -> None:
        self._to_proto: dict[E, int] = {member: number_of(prefix + member.name) for member in ours}
        self._from_proto = {number: member for member, number in self._to_proto.items()}

    def to_proto(self, member: E) -> Any:
        """Return the number that stands for `member` on the wire."""
        return self._to_proto[member]

    def from_proto(self, number: int) -> E | None:
        """Return the member for `number`, or None when it is unspecified or unknown."""
        return self._from_proto.get(number)


CLASSES = Labels(SourceClass, labels_pb2.SourceClass.Value, "SOURCE_CLASS_")
PROCESSINGS = Labels(Processing, labels_pb2.Processing.Value, "PROCESSING_")
COLLECTORS_DO = (Processing.NONE, Processing.MIXED)
"""What may stand in a chunk."""
CUSTODIES = Labels(Custody, labels_pb2.Custody.Value, "CUSTODY_")
VERDICTS = Labels(HealthVerdict, labels_pb2.HealthVerdict.Value, "HEALTH_VERDICT_")
CONDITIONS = Labels(Condition, chunk_pb2.SourceState.Condition.Value, "CONDITION_")


def encode_chunk(chunk: Chunk) -> bytes:
    """Serialise `chunk`: the bytes that are signed and that travel."""
    identity, block, label = chunk.identity, chunk.block, chunk.block.label
    message = chunk_pb2.Chunk(
        collector_id=identity.collector_id,
        pool_id=identity.pool_id,
        epoch=identity.epoch,
        sequence=identity.sequence,
        capture_start_ns=block.capture_start_ns,
        capture_end_ns=block.capture_end_ns,
        data=block.data,
        crc32=chunk.crc32,
        device_ids=label.device_ids,
        source_class=CLASSES.to_proto(label.source_class),
        processing=PROCESSINGS.to_proto(label.processing),
        custody=CUSTODIES.to_proto(label.custody),
        health_verdict=VERDICTS.to_proto(label.health_verdict),
    )
    return message.SerializeToString()


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """Serialise `heartbeat`: the bytes that are signed and that travel."""
    identity = heartbeat.identity
    message = chunk_pb2.Chunk(
        collector_id=identity.collector_id,
        pool_id=identity.pool_id,
        epoch=identity.epoch,
        sequence=identity.sequence,
        capture_end_ns=heartbeat.capture_end_ns,
        heartbeat=chunk_pb2.Heartbeat(
            sources=[source_message(state) for state in heartbeat.sources],
            queued_bytes=heartbeat.queued,
            overflow_bytes=heartbeat.overflow,
            expired_bytes=heartbeat.expired,
            in_doubt_bytes=heartbeat.in_doubt,
        ),
    )
    return message.SerializeToString()


def decode_chunk(serialised: bytes) -> Chunk | Heartbeat:
    """Read a serialised chunk or heartbeat.

    Raises MalformedChunkError when it is none or breaks the contract of chunk.proto. The length of
    the data and its CRC are left to the caller, who has outcomes of their own for them.
    """
    try:
        message = chunk_pb2.Chunk.FromString(serialised)
    except DecodeError as error:
        raise MalformedChunkError("not a Chunk") from error
    identity = _identity(message)
    if message.HasField("heartbeat"):
        if message.data:
            raise MalformedChunkError("a heartbeat with data")
        return _heartbeat(identity, message)
    return Chunk(identity, _block(message), message.crc32)


def _heartbeat(identity: Identity, message: chunk_pb2.Chunk) -> Heartbeat:
    told = message.heartbeat
    if len(told.sources) > MAX_SOURCE_STATES:
        raise MalformedChunkError("a heartbeat of too many sources")
    return Heartbeat(
        identity,
        message.capture_end_ns,
        tuple(map(_source_state, told.sources)),
        queued=told.queued_bytes,
        overflow=told.overflow_bytes,
        expired=told.expired_bytes,
        in_doubt=told.in_doubt_bytes,
    )


def source_message(state: SourceState) -> chunk_pb2.SourceState:
    """Return the message that says how one source does."""
    return chunk_pb2.SourceState(
        device_id=state.device_id,
        source_class=CLASSES.to_proto(state.source_class),
        condition=CONDITIONS.to_proto(state.condition),
        fetched_bytes=state.fetched_bytes,
    )


def _source_state(message: chunk_pb2.SourceState) -> SourceState:
    source_class = CLASSES.from_proto(message.source_class)
    condition = CONDITIONS.from_proto(message.condition)
    if not is_id(message.device_id) or source_class is None or condition is None:
        raise MalformedChunkError("a source without an id, or in a state that is unspecified or unknown")
    return SourceState(message.device_id, source_class, condition, message.fetched_bytes)


def _identity(message: chunk_pb2.Chunk) -> Identity:
    if not (is_id(message.collector_id) and is_id(message.pool_id)):
        raise MalformedChunkError("a collector or pool id that is none")
    if not (0 < message.epoch <= _MAX_INT64 and 0 < message.sequence <= _MAX_INT64):
        raise MalformedChunkError("an epoch or sequence out of range")
    return Identity(message.collector_id, message.pool_id, message.epoch, message.sequence)


def _block(message: chunk_pb2.Chunk) -> Block:
    data = message.data  # once: each look is a copy
    if not data:
        raise MalformedChunkError("neither data nor heartbeat")
    if not 0 < message.capture_start_ns <= message.capture_end_ns:
        raise MalformedChunkError("a capture that ends before it starts")
    return Block(data, message.capture_start_ns, message.capture_end_ns, _label(message))


def _label(message: chunk_pb2.Chunk) -> BlockLabel:
    return _label_of(
        tuple(message.device_ids),
        message.source_class,
        message.processing,
        message.custody,
        message.health_verdict,
    )


@lru_cache(maxsize=_SHARED_LABELS)
def _label_of(device_ids: tuple[str, ...], class_: int, processed: int, kept: int, judged: int) -> BlockLabel:
    """Return one object for equal labels: a source's chunks all have the same few."""
    if not 1 <= len(device_ids) <= MAX_DEVICE_IDS or not all(map(is_id, device_ids)):
        raise MalformedChunkError("device ids that are none, or too many")
    source_class = CLASSES.from_proto(class_)
    processing = PROCESSINGS.from_proto(processed)
    custody = CUSTODIES.from_proto(kept)
    verdict = VERDICTS.from_proto(judged)
    if source_class is None or custody is None or verdict is None:
        raise MalformedChunkError("a label that is unspecified or unknown")
    if processing is None or processing not in COLLECTORS_DO:
        raise MalformedChunkError("a processing that collectors do not do")
    return BlockLabel(device_ids, source_class, processing, custody, verdict)
