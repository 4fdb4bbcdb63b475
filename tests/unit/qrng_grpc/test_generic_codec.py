"""The codec for any server: published vectors, bytes of the protobuf library, and whatever else may arrive."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st

from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_grpc.generic_codec import (
    MAX_COUNT,
    MAX_FIELD_NUMBER,
    MAX_FIELDS,
    MalformedReplyError,
    MessageShape,
    RequestWriter,
    WrongEchoError,
    bytes_field,
    decode_reply,
    encode_request,
    encode_varint,
    varint_field,
)
from qrng_grpc.v1 import entropy_pb2

PLAIN = MessageShape()
ECHOING = MessageShape(request_echo_field=2, reply_echo_field=2)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
NUMBERS = st.integers(1, MAX_FIELD_NUMBER).filter(lambda n: n not in range(19_000, 20_000))
DATA = st.binary(max_size=300)


def messages(**declared: tuple[tuple[str, int, str], ...]) -> Any:
    """Return message classes of the protobuf library, declared here, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="here.proto", package="here", syntax="proto3")
    for message, declared_fields in declared.items():
        added = file.message_type.add(name=message)
        for name, number, kind in declared_fields:
            field = descriptor_pb2.FieldDescriptorProto
            added.field.add(
                name=name, number=number, type=getattr(field, f"TYPE_{kind.upper()}"), label=field.LABEL_OPTIONAL
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"here.{name}")) for name in declared]


KmsRequest, KmsReply, DrandReply = messages(
    KmsRequest=(("location", 1, "string"), ("length_bytes", 2, "int32")),
    KmsReply=(("data", 1, "bytes"), ("data_crc32c", 3, "bytes")),
    DrandReply=(("round", 1, "uint64"), ("signature", 2, "bytes"), ("randomness", 4, "bytes")),
)
LOCATION = "projects/p/locations/europe-west3"
KMS = MessageShape(count_field=2, prefix=bytes_field(1, LOCATION.encode()))


@pytest.mark.parametrize(
    ("count", "encoded"),
    [
        (0, ""),
        (1, "08 01"),
        (127, "08 7f"),
        (128, "08 80 01"),
        (13_312, "08 80 68"),
        (20_480, "08 80 a0 01"),
        (MAX_COUNT, "08 ff ff ff ff 07"),
    ],
)
def test_request_vectors(count: int, encoded: str) -> None:
    """A request for n bytes is 08 and n as a varint; for none it is the empty message."""
    assert encode_request(PLAIN, count) == bytes.fromhex(encoded)


@pytest.mark.parametrize(
    ("echo", "encoded"),
    [(0, "08 20"), (1, "08 20 10 01"), (-1, "08 20 10 ff ff ff ff ff ff ff ff ff 01")],
)
def test_echo_vectors(echo: int, encoded: str) -> None:
    """An echo travels as int64 does: ten bytes when negative, none when zero."""
    assert encode_request(ECHOING, 32, echo=echo) == bytes.fromhex(encoded)


@given(st.integers(0, MAX_COUNT), INT64)
def test_requests_are_those_of_the_protobuf_library(count: int, echo: int) -> None:
    """For every supported service the request is, byte for byte, what its stub would send."""
    stub = qr_entropy_pb2.EntropyRequest(bytes_needed=count, sequence_id=echo)
    ours = entropy_pb2.GetEntropyRequest(bytes_needed=count, sequence_id=echo)
    assert encode_request(ECHOING, count, echo=echo) == stub.SerializeToString() == ours.SerializeToString()
    assert encode_request(PLAIN, count) == quantum_rng_pb2.RandomRequest(num_bytes=count).SerializeToString()
    assert encode_request(KMS, count) == KmsRequest(location=LOCATION, length_bytes=count).SerializeToString()


@given(DATA, INT64)
def test_replies_of_the_protobuf_library_are_read(data: bytes, echo: int) -> None:
    """For every supported service a reply of its stub gives its data, and its echo where it has one."""
    labels: dict[str, Any] = {"generation_timestamp_ns": 1_700_000_000_000_000_000, "device_id": "quantis-0"}
    replies: list[tuple[MessageShape, Message]] = [
        (ECHOING, entropy_pb2.GetEntropyResponse(data=data, sequence_id=echo, **labels)),
        (ECHOING, qr_entropy_pb2.EntropyResponse(data=data, sequence_id=echo, **labels)),
        (PLAIN, quantum_rng_pb2.RandomResponse(data=data, timestamp=(1 << 64) - 1, device_id="firefly-1")),
        (KMS, KmsReply(data=data, data_crc32c=b"\x08\x01")),
        (MessageShape(data_field=4), DrandReply(round=7, signature=bytes(96), randomness=data)),
    ]
    for shape, message in replies:
        wanted = echo if shape.echoes else None
        reply = decode_reply(shape, message.SerializeToString(), size=len(data), echo=wanted)
        assert (reply.data, reply.echo) == (data, wanted)


def unknown_fields(taken: set[int | None]) -> st.SearchStrategy[bytes]:
    """Fields of every type that is to be skipped, with numbers other than those taken."""
    numbers = NUMBERS.filter(lambda n: n not in taken)
    return st.one_of(
        st.builds(varint_field, numbers, st.integers(0, (1 << 64) - 1)),
        st.builds(bytes_field, numbers, st.binary(max_size=40)),
        st.builds(lambda n, v: encode_varint(n << 3 | 1) + v, numbers, st.binary(min_size=8, max_size=8)),
        st.builds(lambda n, v: encode_varint(n << 3 | 5) + v, numbers, st.binary(min_size=4, max_size=4)),
    )


@given(st.data())
def test_order_and_unknown_fields_do_not_matter(draw: st.DataObject) -> None:
    """Fields may come in any order among any others; of several with one number the last counts."""
    data_field, echo_field = draw.draw(st.lists(NUMBERS, min_size=2, max_size=2, unique=True))
    shape = MessageShape(data_field=data_field, request_echo_field=2, reply_echo_field=echo_field)
    data = draw.draw(st.lists(DATA, min_size=1, max_size=3))
    echoes = draw.draw(st.lists(INT64, min_size=1, max_size=3))
    ours = [bytes_field(data_field, value) for value in data]
    numbers = [varint_field(echo_field, value % (1 << 64)) for value in echoes]
    parts = draw.draw(st.lists(unknown_fields({data_field, echo_field}), max_size=5))
    for sequence in (ours, numbers):
        slots = sorted(draw.draw(st.integers(0, len(parts))) for _ in sequence)
        for offset, (slot, part) in enumerate(zip(slots, sequence, strict=True)):
            parts.insert(slot + offset, part)
    reply = decode_reply(shape, b"".join(parts), size=len(data[-1]), echo=echoes[-1])
    assert (reply.data, reply.echo) == (data[-1], echoes[-1])


@given(NUMBERS, st.none() | NUMBERS, st.lists(st.tuples(st.integers(0, MAX_COUNT), INT64), max_size=6))
def test_a_writer_writes_what_is_encoded(
    count_field: int, echo_field: int | None, asked: list[tuple[int, int]]
) -> None:
    """A writer that remembers sizes writes the same bytes as one that does not, for every shape."""
    if echo_field == count_field:
        echo_field = None
    shape = MessageShape(count_field, 1, request_echo_field=echo_field, reply_echo_field=echo_field and 2)
    writer = RequestWriter(shape)
    for count, number in [*asked, *asked]:
        echo = None if echo_field is None else number
        assert writer.write(count, echo) == encode_request(shape, count, echo=echo)


@given(st.data(), st.integers(0, (1 << 64) - 1))
def test_a_stated_class_is_read(draw: st.DataObject, class_number: int) -> None:
    """The class that a reply states is its last field of that number, anywhere in it, and 0 when it states none."""
    shape = MessageShape(class_field=5)
    parts = draw.draw(st.lists(unknown_fields({1, 5}), max_size=4))
    parts += [bytes_field(1, b"abc"), varint_field(5, 7)]
    reply = b"".join(draw.draw(st.permutations(parts))) + varint_field(5, class_number)
    assert decode_reply(shape, reply, size=3).class_number == class_number
    assert decode_reply(shape, bytes_field(1, b"abc"), size=3).class_number == 0
    assert decode_reply(PLAIN, reply, size=3).class_number is None


def test_class_of_our_own_service() -> None:
    """In qrng.v1 the class stands in field 5, as the stub writes it."""
    shape = MessageShape(request_echo_field=2, reply_echo_field=2, class_field=5)
    reply = entropy_pb2.GetEntropyResponse(data=b"abc", sequence_id=9, source_class=3, device_id="x" * 200)
    assert decode_reply(shape, reply.SerializeToString(), size=3, echo=9).class_number == 3


def test_default_values_may_be_left_out() -> None:
    """A reply without its data holds none, and one without its echo repeats 0, as proto3 has it."""
    assert decode_reply(ECHOING, b"", size=0, echo=0).data == b""
    with pytest.raises(MalformedReplyError, match="0 bytes where 1 was"):
        decode_reply(PLAIN, b"", size=1)
    with pytest.raises(MalformedReplyError, match="another number"):
        decode_reply(ECHOING, b"\x0a\x01x", size=1, echo=7)


@pytest.mark.parametrize("size", [0, 3, 5, 1 << 20])
def test_length_is_exact(size: int) -> None:
    """Data of any other length than asked for are refused."""
    with pytest.raises(MalformedReplyError, match=f"4 bytes where {size:,} were asked for"):
        decode_reply(PLAIN, bytes_field(1, b"abcd"), size=size)


@pytest.mark.parametrize("echo", [0, 1, -8, 7 - (1 << 32)])
def test_another_echo_is_refused(echo: int) -> None:
    """A reply to another request is not taken for that to ours."""
    payload = bytes_field(1, b"abcd") + varint_field(2, 7)
    assert decode_reply(ECHOING, payload, size=4, echo=7).echo == 7
    with pytest.raises(WrongEchoError, match="another number"):
        decode_reply(ECHOING, payload, size=4, echo=echo)


@given(st.integers(0, 299), st.integers(-(1 << 63), -1))
def test_every_truncation_is_refused(length: int, echo: int) -> None:
    """A reply cut anywhere is no reply."""
    whole = varint_field(2, echo % (1 << 64)) + bytes_field(1, bytes(range(256)) + bytes(44))
    with pytest.raises(MalformedReplyError):
        decode_reply(ECHOING, whole[:length], size=300, echo=echo)


DATA_FIELD = b"\x0a\x04abcd"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"\x00\x00", "number that is none"),
        (b"\x02\x00", "number that is none"),
        (encode_varint(1 << 32) + b"\x00", "number that is none"),
        (b"\x8a\x80\x80\x80\x80\x00\x04abcd", "number that is none"),
        (b"\x0b\x0c", "a group"),
        (b"\x7b\x08\x01\x7c", "a group"),
        (b"\x0c", "a group"),
        (b"\x0e", "no known type"),
        (b"\x0f", "no known type"),
        (b"\x08\x04", "another type"),
        (b"\x09" + bytes(8), "another type"),
        (b"\x0d" + bytes(4), "another type"),
        (b"\x12\x01\x00", "another type"),
        (b"\x0a", "within a number"),
        (b"\x0a\x84", "within a number"),
        (b"\x80", "within a number"),
        (b"\x0a\x05abcd", "within a field"),
        (b"\x31abcdefg", "within a field"),
        (b"\x35abc", "within a field"),
        (b"\x0a" + encode_varint((1 << 64) - 1), "within a field"),
        (b"\x0a\xff\xff\xff\xff\x0f", "within a field"),
        (b"\x18" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x18" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (b"\x18" + b"\x80" * 10 + b"\x00", "more than 64 bits"),
        (b"<!doctype html><title>Sign in</title>", "a group"),
    ],
)
@pytest.mark.parametrize("before", [b"", DATA_FIELD])
def test_malformed_replies_are_refused(payload: bytes, text: str, before: bytes) -> None:
    """Whatever does not make sense to the last byte is refused as a whole."""
    with pytest.raises(MalformedReplyError, match=text):
        decode_reply(ECHOING, before + payload, size=4, echo=0)


def test_numbers_may_be_longer_than_needed() -> None:
    """A length padded within ten bytes is the same length, as protobuf has it."""
    assert decode_reply(PLAIN, b"\x0a\x84\x80\x80\x00abcd", size=4).data == b"abcd"
    assert decode_reply(PLAIN, b"\x18" + b"\xff" * 9 + b"\x01" + DATA_FIELD, size=4).data == b"abcd"


def test_fields_are_bounded() -> None:
    """A reply of ever so many fields is refused after so many, however small they are."""
    most = b"\x18\x00" * (MAX_FIELDS - 1) + DATA_FIELD
    assert decode_reply(PLAIN, most, size=4).data == b"abcd"
    with pytest.raises(MalformedReplyError, match="fields"):
        decode_reply(PLAIN, most + b"\x18\x00", size=4)


@given(st.binary(max_size=200), st.integers(0, 64), st.booleans())
@example(b"\x0a" + b"\xff" * 9 + b"\x01", 1, False)
@example(b"\x80" * 200, 1, False)
def test_any_bytes_give_a_reply_or_our_error(payload: bytes, size: int, echoing: bool) -> None:
    """No input makes the decoder raise anything but its error, or return another length."""
    echo = 7 if echoing else None
    try:
        reply = decode_reply(ECHOING if echoing else PLAIN, payload, size=size, echo=echo)
    except MalformedReplyError:
        return
    assert (len(reply.data), reply.echo) == (size, echo)


@given(st.randoms(use_true_random=False), DATA)
def test_damaged_replies_agree_with_the_protobuf_library(chance: random.Random, data: bytes) -> None:
    """What the decoder takes from a damaged reply, the protobuf library takes too."""
    damaged = bytearray(qr_entropy_pb2.EntropyResponse(data=data, sequence_id=7).SerializeToString())
    for _ in range(chance.randint(1, 3)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    try:
        reply = decode_reply(ECHOING, bytes(damaged), size=len(data), echo=7)
        theirs = qr_entropy_pb2.EntropyResponse.FromString(bytes(damaged))
    except (MalformedReplyError, DecodeError):  # The library also refuses text that is not UTF-8.
        return
    assert (theirs.data, theirs.sequence_id) == (reply.data, reply.echo)


@pytest.mark.parametrize("declared", [1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_declared_lengths_cost_nothing(declared: int) -> None:
    """A reply that announces more than it holds is refused before anything is set aside for it."""
    payload = b"\x0a" + encode_varint(declared) + bytes(1000)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedReplyError):
            decode_reply(PLAIN, payload, size=declared)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 65_536


def test_data_is_copied_once() -> None:
    """Reading a reply takes as much memory as its data, whatever it repeats."""
    data = bytes(1 << 20)
    payload = bytes_field(1, data) + bytes_field(5, data) + bytes_field(1, data)
    tracemalloc.start()
    try:
        decode_reply(PLAIN, payload, size=len(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(data) + 65_536


def test_request_is_prefix_count_and_echo() -> None:
    """The static prefix comes first, the others follow by number, whatever they are called."""
    shape = MessageShape(
        count_field=700, data_field=9, prefix=b"\x0a\x01p", request_echo_field=3, reply_echo_field=MAX_FIELD_NUMBER
    )
    assert encode_request(shape, 5, echo=6) == b"\x0a\x01p" + b"\x18\x06" + b"\xe0\x2b\x05"


@pytest.mark.parametrize("count", [-1, MAX_COUNT + 1])
def test_counts_out_of_range_are_refused(count: int) -> None:
    """Nobody is asked for a negative number of bytes, nor for 2 GiB."""
    with pytest.raises(ValueError, match="count"):
        encode_request(PLAIN, count)


def test_echoes_belong_to_shapes_with_one() -> None:
    """An echo that is missing, out of range or without a place is a mistake of the caller."""
    for shape, echo in ((PLAIN, 1), (ECHOING, None), (ECHOING, 1 << 63), (ECHOING, -(1 << 63) - 1)):
        with pytest.raises(ValueError, match="echo"):
            encode_request(shape, 1, echo=echo)
        with pytest.raises(ValueError, match="echo"):
            decode_reply(shape, DATA_FIELD, size=4, echo=echo)


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ({"count_field": 0}, "count_field"),
        ({"count_field": 1 << 29}, "count_field"),
        ({"data_field": 19_000}, "data_field"),
        ({"data_field": -1}, "data_field"),
        ({"request_echo_field": 2}, "both"),
        ({"reply_echo_field": 2}, "both"),
        ({"request_echo_field": 1, "reply_echo_field": 2}, "request_echo_field"),
        ({"request_echo_field": 2, "reply_echo_field": 1}, "reply_echo_field"),
        ({"class_field": 1}, "class_field"),
        ({"class_field": 2, "request_echo_field": 2, "reply_echo_field": 2}, "class_field"),
        ({"class_field": 19_000}, "class_field"),
        ({"prefix": b"\x12"}, "prefix"),
        ({"prefix": b"\x12\x05abc"}, "prefix"),
        ({"prefix": b"\x08\x01"}, "prefix: holds the count"),
        ({"prefix": b"\x10\x01", "request_echo_field": 2, "reply_echo_field": 2}, "prefix: holds the count"),
        ({"prefix": bytes_field(2, bytes(4096))}, "prefix"),
    ],
)
def test_shapes_that_cannot_work_are_refused(arguments: dict[str, Any], setting: str) -> None:
    """A shape whose fields collide, or whose prefix would swallow the count, names the setting at fault."""
    with pytest.raises(ValueError, match=setting):
        MessageShape(**arguments)


def test_no_repr_shows_bytes() -> None:
    """Neither data nor the prefix, which may hold something secret, appear in a repr."""
    assert "secret" not in repr(decode_reply(PLAIN, b"\x0a\x06secret", size=6))
    assert "secret" not in repr(MessageShape(prefix=b"\x12\x06secret"))
