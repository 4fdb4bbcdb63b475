"""A codec for any entropy server: a number goes out, bytes come back.

Idea: servers that hand out random bytes over gRPC differ in the names of their messages and agree in
what matters: the request holds *how many*, in a field with some number, the reply holds *the bytes*, in
another. Names do not travel, numbers do. So a `MessageShape`, which is settings and not code, is enough
to speak to any of them, with no stub and no descriptor:

    request  = prefix || key(count_field, VARINT) varint(n) || key(request_echo_field, VARINT) varint(echo)
    reply    = ... key(data_field, LEN) varint(length) data ...

    n = 13312, shape of a default server:  08 80 68
    n = 20480:                             08 80 a0 01
    n = 0:                                 the empty message, as proto3 leaves out what is zero

What comes back decides which bytes are used as randomness, so the reader is stricter than a protobuf
library: it takes a reply whole or not at all. A reply cut short anywhere, a length beyond its end, a
number of more than 64 bits, field number 0, a group, one of our fields in another wire type, or data of
another length than asked for is a `MalformedReplyError`. Fields we were not told of are skipped; of
several with the same number the last counts, as proto3 has it. Nothing is copied but the data, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from qrng_grpc.errors import SourceError
from qrng_grpc.wording import came_instead

MAX_COUNT = (1 << 31) - 1
"""The most bytes a request can ask for: servers declare the count as int32, most of them."""
MAX_FIELD_NUMBER = (1 << 29) - 1
MAX_PREFIX_BYTES = 4096
MAX_FIELDS = 1024
"""The most fields a reply may have, so that reading one takes bounded time."""
REPLY_OVERHEAD_BYTES = 16_384
"""What a reply may bring besides its data: a bound for whoever receives it."""

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5
"""Wire types."""

_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10
_MAX_KEY_BYTES = 5
_TOO_MANY_FIELDS = f"the reply has more than {MAX_FIELDS} fields"
_WRONG_TYPE = "a field of the reply is of another type than expected"
_RESERVED = range(19_000, 20_000)
_UINT64 = 1 << 64
_SHORT = [bytes((value,)) for value in range(0x80)]
"""The varints of one byte."""
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class MalformedReplyError(SourceError):
    """The reply is not what this shape and request call for. Asking again in the same way rarely helps."""


class WrongEchoError(MalformedReplyError):
    """The reply repeats another number than that of its request: it may be another's."""


@dataclass(frozen=True, slots=True)
class MessageShape:
    """Where a server has its fields. The defaults fit `qrng.v1`, `qr_entropy` and `qrng`.

    Field numbers are 1 to 536870911 without 19000 to 19999. `prefix` is what every request begins with,
    in protobuf's encoding, at most 4096 bytes: whole fields, neither the count nor the echo among them.
    A server that repeats a number of the request in its reply has both echo fields, any other neither;
    in `qr_entropy` they are 2 and 2. A server whose replies state the class of their bytes, as a number, has a
    class field; in `qrng.v1` it is 5.

    Raises ValueError, naming the setting at fault.
    """

    count_field: int = 1
    data_field: int = 1
    prefix: bytes = field(default=b"", repr=False)
    """Not shown: a server may want something secret here."""
    request_echo_field: int | None = None
    reply_echo_field: int | None = None
    class_field: int | None = None

    def __post_init__(self) -> None:
        for name in ("count_field", "data_field", "request_echo_field", "reply_echo_field", "class_field"):
            _check_field_number(name, getattr(self, name))
        if (self.request_echo_field is None) != (self.reply_echo_field is None):
            raise ValueError("request_echo_field, reply_echo_field: give both or neither")
        if self.count_field == self.request_echo_field:
            raise ValueError("request_echo_field: the count is there already")
        if self.data_field == self.reply_echo_field:
            raise ValueError("reply_echo_field: the data are there already")
        if self.class_field is not None and self.class_field in (self.data_field, self.reply_echo_field):
            raise ValueError("class_field: the data or the echo are there already")
        _check_prefix(self.prefix, {self.count_field, self.request_echo_field})

    @property
    def echoes(self) -> bool:
        """Whether replies repeat a number of their request."""
        return self.reply_echo_field is not None


@dataclass(slots=True)  # Not frozen, since one is made for every exchange, and a frozen one takes thrice as long.
class Reply:
    """What a reply said.

    `echo` is a signed 64-bit number, `class_number` one of 64 bits; each None when the shape has no place for it.
    """

    data: bytes = field(repr=False)
    echo: int | None = None
    class_number: int | None = None


def encode_request(shape: MessageShape, count: int, *, echo: int | None = None) -> bytes:
    """Return the request for `count` bytes, 0 to 2**31 - 1.

    `echo` is any signed 64-bit number; it travels when the shape has a place for it. Raises ValueError
    for a number out of its range, and for an echo that is missing or has no place.
    """
    if not 0 <= count <= MAX_COUNT:
        raise ValueError("the count is out of range")
    _check_echo(shape, echo)
    counted = varint_field(shape.count_field, count) if count else b""
    if shape.request_echo_field is None or not echo:
        return shape.prefix + counted
    echoed = varint_field(shape.request_echo_field, echo % _UINT64)
    in_order = shape.count_field < shape.request_echo_field
    return shape.prefix + (counted + echoed if in_order else echoed + counted)


class RequestWriter:
    """Writes the requests of one shape, as `encode_request` does, and remembers what requests of one size share."""

    _MOST = 256
    """Sizes remembered."""

    def __init__(self, shape: MessageShape) -> None:
        self._shape = shape
        self._echo_key = b"" if shape.request_echo_field is None else encode_varint(shape.request_echo_field << 3)
        self._echo_is_last = shape.request_echo_field is not None and shape.request_echo_field > shape.count_field
        self._heads: dict[int, bytes] = {}

    def write(self, count: int, echo: int | None) -> bytes:
        """Return the request for `count` bytes. Raises ValueError as `encode_request`."""
        if echo is None or echo <= 0 or not self._echo_is_last:
            return encode_request(self._shape, count, echo=echo)
        head = self._heads.get(count) or self._new_head(count)
        return head + (_SHORT[echo] if echo < 0x80 else encode_varint(echo))

    def _new_head(self, count: int) -> bytes:
        head = encode_request(self._shape, count, echo=0) + self._echo_key
        if len(self._heads) < self._MOST:
            self._heads[count] = head
        return head


def decode_reply(shape: MessageShape, payload: bytes, *, size: int, echo: int | None = None) -> Reply:
    """Return what `payload` says, which must be exactly `size` bytes of data and, in a shape with one, `echo`.

    Raises MalformedReplyError, in words of ours, for everything else; ValueError for an echo that is
    missing or has no place, as `encode_request`.
    """
    if echo is None or not 0 <= echo <= _INT64_MAX or shape.reply_echo_field is None:
        _check_echo(shape, echo)
    start, end, echoed, class_number = _find(shape, payload)
    if end - start != size:
        raise MalformedReplyError(f"the reply holds {came_instead(end - start, size)}")
    if echo != echoed:
        raise WrongEchoError("the reply repeats another number than that of the request")
    return Reply(payload[start:end], echoed, class_number)


def fields(payload: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, value and end of each field, in their order; at most 1024.

    The value is the number of a varint, and for anything else how many bytes before `end` it takes.
    Raises MalformedReplyError where the fields stop making sense.
    """
    position = count = 0
    while position < len(payload):
        count += 1
        if count > MAX_FIELDS:
            raise MalformedReplyError(_TOO_MANY_FIELDS)
        number, wire_type, position = _read_key(payload, position)
        value, position = _read_value(payload, position, wire_type)
        yield number, wire_type, value, position


def encode_varint(value: int) -> bytes:
    """Return `value`, 0 to 2**64 - 1, in as few bytes as it takes."""
    if value <= 0x7F:
        return _SHORT[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_field(number: int, value: int) -> bytes:
    """Return a field that holds `value`, 0 to 2**64 - 1."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a field that holds `value`."""
    return encode_varint(number << 3 | LEN) + encode_varint(len(value)) + value


def _find(shape: MessageShape, payload: bytes) -> tuple[int, int, int | None, int | None]:
    """Return where the data begin and end, the number repeated, and the class. What is absent is empty, or 0.

    It reads as `fields` does. Every exchange comes by here, so what most fields are, short keys and lengths, is read
    without a call.
    """
    start = end = 0
    echo = None if shape.reply_echo_field is None else 0
    class_number = None if shape.class_field is None else 0
    position = count = 0
    size = len(payload)
    while position < size:
        count += 1
        if count > MAX_FIELDS:
            raise MalformedReplyError(_TOO_MANY_FIELDS)
        key = payload[position]
        if 8 <= key < 0x80:
            number, wire_type, position = key >> 3, key & 7, position + 1
        else:
            number, wire_type, position = _read_key(payload, position)
        if wire_type == LEN and position < size and (value := payload[position]) < size - position and value < 0x80:
            position += 1 + value
        else:
            value, position = _read_value(payload, position, wire_type)
        if number == shape.data_field:
            if wire_type != LEN:
                raise MalformedReplyError(_WRONG_TYPE)
            start, end = position - value, position
        elif number == shape.reply_echo_field:
            if wire_type != VARINT:
                raise MalformedReplyError(_WRONG_TYPE)
            echo = value - _UINT64 if value > _INT64_MAX else value
        elif number == shape.class_field:
            _expect(wire_type, VARINT)
            class_number = value
    return start, end, echo, class_number


def _expect(wire_type: int, expected: int) -> None:
    if wire_type != expected:
        raise MalformedReplyError(_WRONG_TYPE)


def _read_key(payload: bytes, position: int) -> tuple[int, int, int]:
    """Return field number, wire type and where the value begins."""
    key, value_at = _read_varint(payload, position)
    number = key >> 3
    if not 1 <= number <= MAX_FIELD_NUMBER or value_at - position > _MAX_KEY_BYTES:
        raise MalformedReplyError("a field of the reply has a number that is none")
    return number, key & 7, value_at


def _read_value(payload: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Return the value of a varint, the length of anything else, and where the field ends."""
    if wire_type == VARINT:
        return _read_varint(payload, position)
    if wire_type == LEN:
        length, position = _read_varint(payload, position)
    elif wire_type in _FIXED_BYTES:
        length = _FIXED_BYTES[wire_type]
    else:
        raise MalformedReplyError("a field of the reply is a group or of no known type")
    if length > len(payload) - position:
        raise MalformedReplyError("the reply ends within a field")
    return length, position + length


def _read_varint(payload: bytes, position: int) -> tuple[int, int]:
    """Return a number of at most 64 bits and where it ends."""
    if position < len(payload) and payload[position] < 0x80:
        return payload[position], position + 1  # Most are one byte long.
    value = 0
    for index, byte in enumerate(payload[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >= _UINT64:
                break
            return value, position + index + 1
    if len(payload) - position < _MAX_VARINT_BYTES:
        raise MalformedReplyError("the reply ends within a number")
    raise MalformedReplyError("a number of the reply has more than 64 bits")


def _check_field_number(name: str, number: int | None) -> None:
    if number is not None and (not 1 <= number <= MAX_FIELD_NUMBER or number in _RESERVED):
        raise ValueError(f"{name}: expected 1 to {MAX_FIELD_NUMBER}, without 19000 to 19999")


def _check_prefix(prefix: bytes, taken: set[int | None]) -> None:
    """Raise ValueError unless `prefix` is whole fields with other numbers than those `taken`."""
    if len(prefix) > MAX_PREFIX_BYTES:
        raise ValueError(f"prefix: expected at most {MAX_PREFIX_BYTES} bytes")
    try:
        numbers = {number for number, *_ in fields(prefix)}
    except MalformedReplyError:
        raise ValueError("prefix: expected whole protobuf fields") from None
    if numbers & taken:
        raise ValueError("prefix: holds the count or the echo, which every request brings itself")


def _check_echo(shape: MessageShape, echo: int | None) -> None:
    if (shape.reply_echo_field is None) != (echo is None):
        raise ValueError("an echo is for shapes that have one, and those need it")
    if echo is not None and not _INT64_MIN <= echo <= _INT64_MAX:
        raise ValueError("the echo is out of range")
