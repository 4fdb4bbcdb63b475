"""The messages of EntropyService that come and go most often, between bytes and values of ours.

Idea: protobuf makes an object of every message, fills it and serialises it, which copies the bytes twice and costs more
than to claim them. But most requests of a client are alike, and of two replies from one chunk only the bytes
differ. So what a request asks for is kept by its bytes, and what a label says by the label; a reply is its
data between two pieces that are there already, joined in one copy. It is what protobuf would have written, to the
byte (tests/unit/qrng_gateway/fronts/test_messages.py).

What is kept is bounded, and depends on nothing but its key. The `sequence_id` of a request, which differs from
one to the next, is taken out before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from qrng_gateway.dispenser import Demand
from qrng_gateway.pool.claims import Claimed, Pack, ReplyLabel
from qrng_gateway.pool.lane import ChunkRange
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.v1 import entropy_pb2
from qrng_grpc.wire import CLASSES, CUSTODIES, PROCESSINGS, VERDICTS

Request = TypeVar(
    "Request",
    entropy_pb2.GetEntropyRequest,
    entropy_pb2.SubscribeEntropyRequest,
    entropy_pb2.StreamEntropyRequest,
)

_KEPT = 1024
"""Requests, and labels, that are kept."""
_LONGEST_KEPT = 64
"""Bytes of the longest request that is kept; an honest one has half as many."""
_TIMES = ReplyLabel._fields.index("generation_ns")
"""Where the times of a label begin, which are its last fields."""
_DATA_TAG = b"\x0a"
"""Field 1, and that its length follows."""


class Asked(NamedTuple):
    """A request for bytes."""

    demand: Demand
    sequence_id: int = 0


class Reader:
    """Reads requests that `parse` makes messages of. `size_field` is what they call the size."""

    def __init__(self, parse: Callable[[bytes], Any], size_field: str) -> None:
        self._parse = parse
        self._size_field = size_field
        self._kept: dict[bytes, Asked] = {}

    def __call__(self, serialised: bytes) -> Asked | InvalidRequestError:
        """Return what a request asks for, or why it cannot be answered. Raises DecodeError."""
        kept = self._kept.get(serialised)
        if kept is not None:
            return kept
        try:
            return self._read(self._parse(serialised))
        except InvalidRequestError as error:
            return error

    def _read(self, request: Any) -> Asked:
        sequence_id = request.sequence_id
        request.ClearField("sequence_id")
        key = request.SerializeToString()
        asked = self._kept.get(key)
        if asked is None:
            asked = Asked(demand_of(request, getattr(request, self._size_field), self._size_field))
            self._keep(key, asked)
        return asked._replace(sequence_id=sequence_id) if sequence_id else asked

    def _keep(self, key: bytes, asked: Asked) -> None:
        if len(key) > _LONGEST_KEPT:
            return
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[key] = asked


def demand_of(request: Request, size: int, size_field: str) -> Demand:
    """Return what `request` demands. Raises InvalidRequestError for labels that this version does not know."""
    return Demand(
        size,
        size_field,
        least_class=_least_class(request.least_class),
        processing=_processing(request.processing),
        max_age_ms=request.max_age_ms,
        span_lanes=request.span_lanes,
        fresh=request.fresh,
        include_provenance=request.include_provenance,
    )


def _least_class(number: int) -> SourceClass | None:
    stated = CLASSES.from_proto(number)
    if number and stated is None:
        raise InvalidRequestError("a class this server does not know", field="least_class")
    return stated


def _processing(number: int) -> Processing | None:
    stated = PROCESSINGS.from_proto(number)
    if number and stated is None:
        raise InvalidRequestError("a processing this server does not know", field="processing")
    return stated


def packing(sequence_id: int) -> Pack:
    """Return what makes replies to requests with a `sequence_id`, as they travel but for their provenance.

    The replies of the three methods have the same fields.
    """
    return partial(_pack_sequenced, _sequence_field(sequence_id)) if sequence_id else _pack


def _pack(pieces: Sequence[memoryview], label: ReplyLabel, size: int) -> bytes:
    return b"".join((_head(size), *pieces, _label_fields(label)))


def _pack_sequenced(sequence: bytes, pieces: Sequence[memoryview], label: ReplyLabel, size: int) -> bytes:
    return b"".join((_head(size), *pieces, sequence, _label_fields(label)))


def with_provenance(claimed: Claimed) -> bytes:
    """Return a reply that was packed, with its provenance where the claim asked for it."""
    if not claimed.ranges:
        return claimed.data
    ranges = map(_range_message, claimed.ranges)
    return claimed.data + entropy_pb2.GetEntropyResponse(provenance=ranges).SerializeToString()


@lru_cache(_KEPT)
def _head(size: int) -> bytes:
    """Return what stands before `size` bytes of data."""
    head = bytearray(_DATA_TAG)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


def _sequence_field(sequence_id: int) -> bytes:
    return entropy_pb2.GetEntropyResponse(sequence_id=sequence_id).SerializeToString()


@lru_cache(_KEPT)
def _label_fields(label: ReplyLabel) -> bytes:
    message = _untimed(*label[:_TIMES])
    message.generation_timestamp_ns = label.generation_ns
    message.capture_start_ns = label.capture_start_ns
    message.capture_end_ns = label.capture_end_ns
    return message.SerializeToString()


@lru_cache(_KEPT)
def _untimed(
    device_id: str,
    collector_id: str,
    source_class: SourceClass,
    processing: Processing,
    custody: Custody,
    health_verdict: HealthVerdict,
) -> entropy_pb2.GetEntropyResponse:
    """Return a message with what all bytes of an origin have in common, for the times to be set in it."""
    return entropy_pb2.GetEntropyResponse(
        device_id=device_id,
        source_class=CLASSES.to_proto(source_class),
        processing=PROCESSINGS.to_proto(processing),
        custody=CUSTODIES.to_proto(custody),
        health_verdict=VERDICTS.to_proto(health_verdict),
        collector_id=collector_id,
    )


def _range_message(one: ChunkRange) -> entropy_pb2.ChunkRange:
    return entropy_pb2.ChunkRange(
        collector_id=one.collector_id,
        epoch=one.epoch,
        sequence=one.sequence,
        offset_bytes=one.offset,
        size_bytes=one.size,
    )
