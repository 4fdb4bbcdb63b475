"""Messages that are read and written without protobuf say what protobuf would have said."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from qrng_gateway.fronts.messages import Asked, Reader, demand_of, packing, with_provenance
from qrng_gateway.pool.claims import Claimed, ReplyLabel
from qrng_gateway.pool.lane import ChunkRange
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.v1 import entropy_pb2
from qrng_grpc.wire import CLASSES, CUSTODIES, PROCESSINGS, VERDICTS

INT64 = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.integers(0, 2**63 - 1)
LABELS = st.builds(
    ReplyLabel,
    st.text(max_size=20),
    st.text(max_size=20),
    st.sampled_from(SourceClass),
    st.sampled_from(Processing),
    st.sampled_from(Custody),
    st.sampled_from(HealthVerdict),
    MOMENTS,
    MOMENTS,
    MOMENTS,
)
RANGES = st.lists(st.builds(ChunkRange, st.text(max_size=9), MOMENTS, MOMENTS, MOMENTS, MOMENTS), max_size=3)
PIECES = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=3)
REPLIES = (
    entropy_pb2.GetEntropyResponse,
    entropy_pb2.SubscribeEntropyResponse,
    entropy_pb2.StreamEntropyResponse,
)


@given(PIECES, LABELS, INT64, RANGES)
def test_a_reply_is_what_protobuf_would_have_written(
    pieces: list[bytes], label: ReplyLabel, sequence_id: int, ranges: list[ChunkRange]
) -> None:
    """A packed reply equals the serialised message of each of the three methods, to the byte."""
    data = b"".join(pieces)
    packed = packing(sequence_id)(list(map(memoryview, pieces)), label, len(data))
    reply = with_provenance(Claimed(packed, label, tuple(ranges)))
    for make in REPLIES:
        message: Any = make(
            data=data,
            sequence_id=sequence_id,
            generation_timestamp_ns=label.generation_ns,
            device_id=label.device_id,
            source_class=CLASSES.to_proto(label.source_class),
            processing=PROCESSINGS.to_proto(label.processing),
            custody=CUSTODIES.to_proto(label.custody),
            health_verdict=VERDICTS.to_proto(label.health_verdict),
            collector_id=label.collector_id,
            capture_start_ns=label.capture_start_ns,
            capture_end_ns=label.capture_end_ns,
            provenance=[
                entropy_pb2.ChunkRange(
                    collector_id=one.collector_id,
                    epoch=one.epoch,
                    sequence=one.sequence,
                    offset_bytes=one.offset,
                    size_bytes=one.size,
                )
                for one in ranges
            ],
        )
        assert reply == message.SerializeToString()


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 1 << 20])
def test_a_reply_of_any_size_is_whole(size: int) -> None:
    """The length before the data is right on both sides of each place where it grows."""
    label = ReplyLabel("d", "c", SourceClass.QUANTUM, Processing.NONE, Custody.LOCAL, HealthVerdict.PASSED, 1, 2, 3)
    packed = packing(0)((memoryview(bytes(size)),), label, size)
    assert entropy_pb2.GetEntropyResponse.FromString(packed).data == bytes(size)


REQUESTS = st.builds(
    entropy_pb2.GetEntropyRequest,
    bytes_needed=st.integers(-(2**31), 2**31 - 1),
    sequence_id=INT64,
    least_class=st.sampled_from([0, 1, 2, 3, 4]),
    max_age_ms=INT64,
    processing=st.sampled_from([0, 1, 2]),
    span_lanes=st.booleans(),
    fresh=st.booleans(),
    include_provenance=st.booleans(),
)


def reader() -> Reader:
    return Reader(entropy_pb2.GetEntropyRequest.FromString, "bytes_needed")


@given(st.lists(REQUESTS, max_size=6))
def test_requests_are_read_as_protobuf_reads_them(requests: list[Any]) -> None:
    """However often a request comes, and whatever came before, it asks for what stands in it."""
    read = reader()
    for request in requests + requests:
        demand = demand_of(request, request.bytes_needed, "bytes_needed")
        assert read(request.SerializeToString()) == Asked(demand, request.sequence_id)


def test_what_is_kept_of_requests_is_bounded() -> None:
    """No flood of different requests, of long ones, or of sequence ids takes more room than was set aside."""
    read = reader()
    for n in range(1, 3000):
        read(entropy_pb2.GetEntropyRequest(bytes_needed=n, sequence_id=n).SerializeToString())
    assert len(read._kept) <= 1024
    read._kept.clear()
    read(entropy_pb2.GetEntropyRequest(bytes_needed=5).SerializeToString() + b"\x9a\x06\x7f" + bytes(127))
    assert not read._kept
    for n in range(1, 100):
        read(entropy_pb2.GetEntropyRequest(bytes_needed=5, sequence_id=n).SerializeToString())
    assert len(read._kept) == 1


def test_a_request_that_cannot_be_answered_is_refused_each_time() -> None:
    """A class or processing that this version does not know is an error in place of a request, and is not kept."""
    read = reader()
    for field in ("least_class", "processing"):
        request: Any = entropy_pb2.GetEntropyRequest(bytes_needed=5)
        setattr(request, field, 99)
        for _ in range(2):
            refused = read(request.SerializeToString())
            assert isinstance(refused, InvalidRequestError)
            assert refused.field == field
    with pytest.raises(DecodeError):
        read(b"\xff")
    assert not read._kept
