"""Between protobuf and our own values.

Idea: protobuf types stay at the edges. What arrives is checked here, once and completely, and inside
live only values that hold what their types promise. Enumerations are matched by name, so a value
that is unspecified or unknown to this version has no counterpart and is refused.

A message is nearly all data, which protobuf would copy twice on its way out of it. So where a message has the form
that every encoder gives it, the data is cut out first, as a view, and protobuf reads the rest. What has any other
form it reads as a whole; the outcome is the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

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
from qrng_grpc.v1 import chunk_pb2, labels_pb2, push_pb2

E = TypeVar("E", bound=Enum)

MAX_SIGNED_CHUNK_BYTES = MAX_CHUNK_BYTES + 16_384
"""The most bytes of a serialised Chunk that a receiver reads."""
_MAX_INT64 = 2**63 - 1
_SHARED = 256
"""Labels, ids and lengths that are kept because the next chunk will have the same."""
_STAND_IN: Final = os.urandom(16)
"""What protobuf reads in place of a field that was cut out. Nobody can guess it, so if it is not there afterwards, the
field came more than once."""
_STAND_IN_FIELD: Final = bytes((len(_STAND_IN),)) + _STAND_IN
_LENGTH = rb"([\x80-\xff]{0,3}[\x00-\x7f])"
_NUMBER = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
_BEFORE_CHUNK = re.compile(rb"\x0a" + _LENGTH + rb"\x0a" + _LENGTH)
"""A PushChunksRequest up to the chunk in it: two tags and lengths."""
_MOST_BEHIND_CHUNK = 160
"""Bytes of a request behind its chunk, for which it is cut out: ids and signatures have 132 at most. In 200 could be
groups nested so deep that it matters to protobuf how deep it is already."""
_BEFORE_DATA = re.compile(
    rb"\x0a([\x01-\x40])([\w.-]+)\x12([\x01-\x40])([\w.-]+)"
    + b"".join(tag + _NUMBER for tag in (rb"\x18", rb"\x20", rb"\x28", rb"\x30"))
    + rb"\x3a"
    + _LENGTH
)
"""A Chunk up to its data, its fields in the order of their numbers: two ids, four numbers, tag and length."""


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
        data=bytes(block.data),  # which may be a view
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


class Signed(NamedTuple):
    """A serialised chunk as it came, and who vouches for it."""

    chunk: bytes | memoryview
    key_id: str
    signature: bytes


def decode_push_request(serialised: bytes) -> Signed:
    """Read a PushChunksRequest; its chunk is a view where it can be. Raises DecodeError when it is none."""
    before = _BEFORE_CHUNK.match(serialised)
    if before is not None:
        length, chunk_length = map(_length, before.groups())
        behind = len(serialised) - before.end() - chunk_length
        if before.end(1) + length == len(serialised) and behind <= _MOST_BEHIND_CHUNK:
            signed = chunk_pb2.SignedChunk()
            chunk = _cut_out(memoryview(serialised), b"\x0a", before.end(), chunk_length, signed)
            if chunk is not None and signed.chunk == _STAND_IN:
                return Signed(chunk, signed.key_id, signed.signature)
    signed = push_pb2.PushChunksRequest.FromString(serialised).signed_chunk
    return Signed(signed.chunk, signed.key_id, signed.signature)


def decode_chunk(serialised: bytes | memoryview) -> Chunk | Heartbeat:
    """Read a serialised chunk or heartbeat. The data of the chunk is a view of `serialised` where it can be.

    Raises MalformedChunkError when it is none or breaks the contract of chunk.proto. The length of
    the data and its CRC are left to the caller, who has outcomes of their own for them.
    """
    message = chunk_pb2.Chunk()
    try:
        data = _read_chunk(serialised, message)
    except DecodeError as error:
        raise MalformedChunkError("not a Chunk") from error
    identity = _identity(message)
    if message.HasField("heartbeat"):
        if data:
            raise MalformedChunkError("a heartbeat with data")
        return _heartbeat(identity, message)
    return Chunk(identity, _block(message, data), message.crc32)


def _read_chunk(serialised: bytes | memoryview, message: chunk_pb2.Chunk) -> bytes | memoryview:
    """Read `serialised` into `message`, which then need not hold the data. Returns the data. Raises DecodeError."""
    before = _BEFORE_DATA.match(serialised)
    if before is not None:
        collector_size, collector_id, pool_size, pool_id, length = before.groups()
        if len(collector_id) == collector_size[0] and len(pool_id) == pool_size[0]:
            view = memoryview(serialised)
            data = _cut_out(view, view[: before.start(5)], before.end(), _length(length), message)
            if data is not None and message.data == _STAND_IN:
                return data
    message.ParseFromString(bytes(serialised))
    return message.data


def _cut_out(
    serialised: memoryview, head: bytes | memoryview, start: int, length: int, message: Message
) -> memoryview | None:
    """Read `head` and what follows the `length` bytes from `start` into `message`, with a stand-in for those.

    Returns them, None where they are not all there. Raises DecodeError where reading the whole would.
    """
    end = start + length
    if end > len(serialised):
        return None
    message.ParseFromString(b"".join((head, _STAND_IN_FIELD, serialised[end:])))
    return serialised[start:end]


@lru_cache(maxsize=_SHARED)
def _length(varint: bytes) -> int:
    """Return the number that stands in the bytes of one varint."""
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(varint))


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
    collector_id, pool_id, epoch, sequence = message.collector_id, message.pool_id, message.epoch, message.sequence
    _check_ids(collector_id, pool_id)
    if not (0 < epoch <= _MAX_INT64 and 0 < sequence <= _MAX_INT64):
        raise MalformedChunkError("an epoch or sequence out of range")
    return Identity(collector_id, pool_id, epoch, sequence)


@lru_cache(maxsize=_SHARED)
def _check_ids(collector_id: str, pool_id: str) -> None:
    """Refuse what is no id. Only ids are kept, since what raises is not: the rest may be as long as a message."""
    if not (is_id(collector_id) and is_id(pool_id)):
        raise MalformedChunkError("a collector or pool id that is none")


def _block(message: chunk_pb2.Chunk, data: bytes | memoryview) -> Block:
    if not data:
        raise MalformedChunkError("neither data nor heartbeat")
    capture_start_ns, capture_end_ns = message.capture_start_ns, message.capture_end_ns
    if not 0 < capture_start_ns <= capture_end_ns:
        raise MalformedChunkError("a capture that ends before it starts")
    label = _label_of(
        tuple(message.device_ids),
        message.source_class,
        message.processing,
        message.custody,
        message.health_verdict,
    )
    return Block(data, capture_start_ns, capture_end_ns, label)


@lru_cache(maxsize=_SHARED)
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
