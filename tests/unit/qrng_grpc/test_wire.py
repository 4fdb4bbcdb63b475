"""Chunks to bytes and back, and every way in which bytes are no chunk."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from qrng_grpc import wire
from qrng_grpc.chunk import ID_PATTERN, MAX_CHUNK_BYTES, Block, BlockLabel, Chunk, Heartbeat, Identity, SourceState
from qrng_grpc.labels import Condition, Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.v1 import chunk_pb2, labels_pb2, push_pb2

ids = st.from_regex(ID_PATTERN, fullmatch=True)
positive = st.integers(1, 2**63 - 1)
labels = st.builds(
    BlockLabel,
    st.lists(ids, min_size=1, max_size=8).map(tuple),
    st.sampled_from(SourceClass),
    st.sampled_from(wire.COLLECTORS_DO),
    st.sampled_from(Custody),
    st.sampled_from(HealthVerdict),
)
states = st.builds(
    SourceState, ids, st.sampled_from(SourceClass), st.sampled_from(Condition), st.integers(0, 2**64 - 1)
)
amounts = st.integers(0, 2**64 - 1)
heartbeats = st.builds(
    Heartbeat,
    st.builds(Identity, ids, ids, positive, positive),
    positive,
    st.lists(states, max_size=64).map(tuple),
    amounts,
    amounts,
    amounts,
    amounts,
)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    start, end = sorted((draw(positive), draw(positive)))
    block = Block(draw(st.binary(min_size=1, max_size=64)), start, end, draw(labels))
    return Chunk(draw(st.builds(Identity, ids, ids, positive, positive)), block, draw(st.integers(0, 2**32 - 1)))


def message() -> chunk_pb2.Chunk:
    """A chunk that holds to the contract, for tests to spoil."""
    return chunk_pb2.Chunk(
        collector_id="lab",
        pool_id="pool",
        epoch=5,
        sequence=6,
        capture_start_ns=7,
        capture_end_ns=8,
        data=b"\x01\x02",
        crc32=9,
        device_ids=["quantis-0"],
        source_class=labels_pb2.SOURCE_CLASS_QUANTUM,
        processing=labels_pb2.PROCESSING_NONE,
        custody=labels_pb2.CUSTODY_LOCAL,
        health_verdict=labels_pb2.HEALTH_VERDICT_UNTESTED,
    )


@given(chunks())
def test_round_trip(chunk: Chunk) -> None:
    """A chunk that was encoded is decoded to its equal, its CRC as it was sent."""
    assert wire.decode_chunk(wire.encode_chunk(chunk)) == chunk


@given(chunks())
def test_envelope_leaves_room_for_everything_else(chunk: Chunk) -> None:
    """All fields but the data fit into the 16 KiB a receiver allows for them."""
    assert len(wire.encode_chunk(chunk)) - len(chunk.block) <= 16_384


@given(st.binary(max_size=200))
def test_any_bytes_are_a_chunk_or_refused(noise: bytes) -> None:
    """Whatever arrives is a chunk, a heartbeat or a MalformedChunkError, nothing else."""
    try:
        assert isinstance(wire.decode_chunk(noise), Chunk | Heartbeat)
    except wire.MalformedChunkError:
        return


def test_every_truncation_is_refused() -> None:
    """A chunk cut anywhere is refused."""
    serialised = message().SerializeToString()
    for length in range(len(serialised)):
        with pytest.raises(wire.MalformedChunkError):
            wire.decode_chunk(serialised[:length])


def spoil(**fields: object) -> Callable[[chunk_pb2.Chunk], None]:
    def apply(chunk: chunk_pb2.Chunk) -> None:
        for name, value in fields.items():
            if isinstance(value, list):
                chunk.ClearField(name)  # type: ignore[arg-type]
                getattr(chunk, name).extend(value)
            else:
                setattr(chunk, name, value)

    return apply


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (spoil(collector_id=""), "collector or pool id"),
        (spoil(collector_id="../lab"), "collector or pool id"),
        (spoil(pool_id=""), "collector or pool id"),
        (spoil(pool_id="x" * 65), "collector or pool id"),
        (spoil(epoch=0), "epoch or sequence"),
        (spoil(epoch=2**63), "epoch or sequence"),
        (spoil(sequence=0), "epoch or sequence"),
        (spoil(sequence=2**64 - 1), "epoch or sequence"),
        (spoil(data=b""), "neither data nor heartbeat"),
        (spoil(capture_start_ns=0), "ends before it starts"),
        (spoil(capture_start_ns=-1), "ends before it starts"),
        (spoil(capture_start_ns=9), "ends before it starts"),
        (spoil(capture_end_ns=0), "ends before it starts"),
        (spoil(device_ids=[]), "device ids"),
        (spoil(device_ids=["a b"]), "device ids"),
        (spoil(device_ids=["ok", ""]), "device ids"),
        (spoil(device_ids=["d"] * 9), "device ids"),
        (spoil(source_class=0), "unspecified or unknown"),
        (spoil(source_class=99), "unspecified or unknown"),
        (spoil(processing=0), "that collectors do not do"),
        (spoil(processing=99), "that collectors do not do"),
        (spoil(processing=labels_pb2.PROCESSING_SHA256), "that collectors do not do"),
        (spoil(processing=labels_pb2.PROCESSING_MIXED_XOR_OS), "that collectors do not do"),
        (spoil(custody=0), "unspecified or unknown"),
        (spoil(custody=-1), "unspecified or unknown"),
        (spoil(health_verdict=0), "unspecified or unknown"),
        (spoil(health_verdict=3), "unspecified or unknown"),
    ],
)
def test_broken_contract(fault: Callable[[chunk_pb2.Chunk], None], text: str) -> None:
    """A chunk that breaks any one rule of its contract is refused, in words of ours."""
    chunk = message()
    fault(chunk)
    with pytest.raises(wire.MalformedChunkError, match=text):
        wire.decode_chunk(chunk.SerializeToString())


def test_bytes_that_are_no_text_are_refused() -> None:
    """An id that is not UTF-8 makes the whole chunk unreadable."""
    serialised = message().SerializeToString().replace(b"lab", b"\xff\xfe\xfd")
    with pytest.raises(wire.MalformedChunkError, match="not a Chunk"):
        wire.decode_chunk(serialised)


def test_heartbeat() -> None:
    """A chunk with a heartbeat and no data is a heartbeat."""
    chunk = chunk_pb2.Chunk(collector_id="lab", pool_id="pool", epoch=5, sequence=6, capture_end_ns=8)
    chunk.heartbeat.queued_bytes = 3
    assert wire.decode_chunk(chunk.SerializeToString()) == Heartbeat(Identity("lab", "pool", 5, 6), 8, queued=3)


@given(heartbeats)
def test_heartbeat_round_trip(heartbeat: Heartbeat) -> None:
    """A heartbeat that was encoded is decoded to its equal."""
    assert wire.decode_chunk(wire.encode_heartbeat(heartbeat)) == heartbeat


@pytest.mark.parametrize(
    "states",
    [
        [{"device_id": "q 1"}],
        [{"source_class": 0}],
        [{"source_class": 99}],
        [{"condition": 0}],
        [{"condition": 99}],
        [{}] * 65,
    ],
    ids=["id", "class-0", "class-99", "condition-0", "condition-99", "too-many"],
)
def test_heartbeat_of_impossible_sources_is_refused(states: list[dict[str, Any]]) -> None:
    """What is said of sources is as strict as what is said of bytes."""
    chunk = chunk_pb2.Chunk(collector_id="lab", pool_id="pool", epoch=5, sequence=6, capture_end_ns=8)
    for state in states:
        chunk.heartbeat.sources.add(**{"device_id": "q", "source_class": 1, "condition": 1, **state})
    with pytest.raises(wire.MalformedChunkError, match="source"):
        wire.decode_chunk(chunk.SerializeToString())


def test_heartbeat_with_data_is_refused() -> None:
    """What carries data is no heartbeat, lest data pass without labels."""
    chunk = message()
    chunk.heartbeat.SetInParent()
    with pytest.raises(wire.MalformedChunkError, match="heartbeat with data"):
        wire.decode_chunk(chunk.SerializeToString())


def test_fields_of_a_later_version_are_passed_over() -> None:
    """A field this version does not know does not make a chunk malformed."""
    serialised = message().SerializeToString()
    later = serialised + b"\xf8\x07\x2a"  # field 127, varint 42
    assert wire.decode_chunk(later) == wire.decode_chunk(serialised)


@pytest.mark.parametrize(
    ("table", "ours", "enumeration"),
    [
        (wire.CLASSES, SourceClass, labels_pb2.SourceClass),
        (wire.PROCESSINGS, Processing, labels_pb2.Processing),
        (wire.CUSTODIES, Custody, labels_pb2.Custody),
        (wire.VERDICTS, HealthVerdict, labels_pb2.HealthVerdict),
        (wire.CONDITIONS, Condition, chunk_pb2.SourceState.Condition),
    ],
)
def test_enumerations_agree(table: wire.Labels[Any], ours: type[Enum], enumeration: Any) -> None:
    """Every label but UNSPECIFIED exists in both worlds and survives the passage."""
    numbers = set(enumeration.values())
    assert {table.to_proto(member) for member in ours} == numbers - {0}
    assert all(table.from_proto(table.to_proto(member)) is member for member in ours)
    assert table.from_proto(0) is None
    assert table.from_proto(max(numbers) + 1) is None


NEVER = re.compile(b"(?!)")
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), max_size=2)
"""Each at a place: so many bytes taken out, these put in."""
appended = st.sampled_from(
    [
        b"",
        chunk_pb2.Chunk(data=b"other").SerializeToString(),
        b"\x3a\x00",
        chunk_pb2.Chunk(heartbeat=chunk_pb2.Heartbeat()).SerializeToString(),
        chunk_pb2.Chunk(trace_context="00-1-1-00").SerializeToString(),
        b"\x3a\x10" + bytes(16),
    ]
)


def edited(serialised: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, taken, put in changes:
        at = place % (len(serialised) + 1)
        serialised = serialised[:at] + put + serialised[at + taken :]
    return serialised


def outcome(read: Callable[[bytes], Any], serialised: bytes, error: type[Exception]) -> Any:
    try:
        return read(serialised)
    except error as refused:
        return str(refused) if error is wire.MalformedChunkError else error


@given(chunks(), edits, appended)
def test_cutting_the_data_out_of_a_chunk_changes_no_outcome(
    chunk: Chunk, changes: list[tuple[int, int, bytes]], more: bytes
) -> None:
    """Whatever is sent, as every encoder would, damaged, or with fields twice, is read as protobuf reads it."""
    serialised = edited(wire.encode_chunk(chunk), changes) + more
    cut = outcome(wire.decode_chunk, serialised, wire.MalformedChunkError)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_BEFORE_DATA", NEVER)
        assert outcome(wire.decode_chunk, serialised, wire.MalformedChunkError) == cut


@given(
    st.binary(max_size=200),
    ids,
    st.binary(max_size=64),
    edits,
    st.sampled_from([b"", b"\x0a\x00", b"\x0a\x02\x0a\x00"]),
)
@example(b"", "k", b"", [], b"")
@example(b"chunk", "k", b"s", [], b"\x0a\x05\x0a\x03new")
def test_cutting_the_chunk_out_of_a_request_changes_no_outcome(
    chunk: bytes, key_id: str, signature: bytes, changes: list[tuple[int, int, bytes]], more: bytes
) -> None:
    """The same holds for requests."""
    signed = chunk_pb2.SignedChunk(chunk=chunk, key_id=key_id, signature=signature)
    request = push_pb2.PushChunksRequest(signed_chunk=signed).SerializeToString()
    for serialised in (
        edited(request, changes) + more,
        push_pb2.PushChunksRequest(
            signed_chunk=chunk_pb2.SignedChunk.FromString(signed.SerializeToString() + more)
        ).SerializeToString(),
    ):
        cut = outcome(wire.decode_push_request, serialised, DecodeError)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire, "_BEFORE_CHUNK", NEVER)
            assert outcome(wire.decode_push_request, serialised, DecodeError) == cut


@pytest.mark.parametrize("depth", [1, 98, 99, 100, 101, 102])
@pytest.mark.parametrize("read", [wire.decode_push_request, wire.decode_chunk])
def test_groups_may_be_nested_as_deep_as_protobuf_allows(read: Callable[[bytes], Any], depth: int) -> None:
    """What this version does not know is refused when it is nested too deep, wherever reading it begins."""
    groups = b"\x7b" * depth + b"\x7c" * depth  # field 15
    if read is wire.decode_chunk:
        serialised, error = message().SerializeToString() + groups, wire.MalformedChunkError
    else:
        signed = chunk_pb2.SignedChunk(chunk=b"chunk", key_id="k", signature=b"s").SerializeToString() + groups
        # A message and bytes are one thing on the wire, and bytes may hold anything.
        serialised, error = chunk_pb2.SignedChunk(chunk=signed).SerializeToString(), DecodeError
    cut = outcome(read, serialised, error)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_BEFORE_DATA", NEVER)
        patch.setattr(wire, "_BEFORE_CHUNK", NEVER)
        assert outcome(read, serialised, error) == cut


def test_data_is_not_copied() -> None:
    """What a chunk carries is a view of the request it came in, whoever signed it."""
    chunk = message()
    signed = chunk_pb2.SignedChunk(chunk=chunk.SerializeToString(), key_id="k" * 64, signature=bytes(64))
    request = push_pb2.PushChunksRequest(signed_chunk=signed).SerializeToString()
    decoded = wire.decode_chunk(wire.decode_push_request(request).chunk)
    assert isinstance(decoded, Chunk)
    assert isinstance(decoded.block.data, memoryview)
    assert decoded.block.data.obj is request
    assert decoded.block.data == chunk.data


def test_nothing_is_kept_of_ids_that_are_none() -> None:
    """What is kept of ids, since the next chunk has the same, is of ids: not of a megabyte where one should be."""
    refused = chunk_pb2.Chunk(collector_id="x" * MAX_CHUNK_BYTES, pool_id="pool", epoch=1, sequence=1)
    tracemalloc.start()
    try:
        with pytest.raises(wire.MalformedChunkError, match="a collector or pool id that is none"):
            wire.decode_chunk(refused.SerializeToString())
        assert tracemalloc.get_traced_memory()[0] < MAX_CHUNK_BYTES // 2
    finally:
        tracemalloc.stop()
