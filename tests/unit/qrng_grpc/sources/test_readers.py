"""Readers: exactly the bytes that were packed, or an error that tells nothing of the body."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.errors import SourceError
from qrng_grpc.sources.readers import check_challenge, reader_named

some_bytes = st.binary(min_size=1, max_size=200).filter(lambda data: not data.lstrip().startswith(b"<"))
blocks = st.tuples(st.integers(1, 16), st.integers(1, 8)).flatmap(
    lambda drawn: st.lists(st.binary(min_size=drawn[0], max_size=drawn[0]), min_size=drawn[1], max_size=drawn[1])
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def dumped(document: object) -> bytes:
    return json.dumps(document).encode()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda data: data.hex().encode(),
    "base64": lambda data: b64(data).encode() + b"\n",
    "json:qrn:hex": lambda data: dumped({"length": len(data), "qrn": data.hex().upper()}),
    "json:data.random_bytes:base64": lambda data: dumped({"data": {"random_bytes": b64(data)}}),
    "json:result.0.value:hex": lambda data: dumped({"result": [{"value": data.hex()}]}),
    "json::hex": lambda data: dumped(data.hex()),
    "json-array:data:uint8": lambda data: dumped({"success": True, "data": list(data)}),
    "json-array::hex": lambda data: dumped([data[at : at + 1].hex() for at in range(len(data))]),
    "line:2:hex": lambda data: b"first\r\n" + data.hex().encode() + b"\r\nlast",
    "line:1:base64": lambda data: b64(data).encode(),
}


@pytest.mark.parametrize("name", PACKINGS)
@given(data=some_bytes)
def test_what_was_packed_is_read(name: str, data: bytes) -> None:
    """Every reader undoes its packing, and refuses the body when another size was asked for."""
    read, body = reader_named(name), PACKINGS[name](data)
    assert read(body, len(data)) == data
    for wrong in (len(data) - 1, len(data) + 1):
        with pytest.raises(SourceError):
            read(body, wrong)


@given(blocks)
def test_joined_blocks(entries: list[bytes]) -> None:
    """Arrays of blocks are joined in order."""
    joined = b"".join(entries)
    body = dumped({"random": [b64(entry) for entry in entries], "size": len(entries)})
    assert reader_named("json-array:random:base64")(body, len(joined)) == joined


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_wide_numbers(numbers: list[int]) -> None:
    """Numbers of 16 and 32 bits are laid out big-endian."""
    expected = b"".join(number.to_bytes(4, "big") for number in numbers)
    assert reader_named("json-array:data:uint32")(dumped({"data": numbers}), len(expected)) == expected
    assert reader_named("json-array::uint16")(b"[1, 65535]", 4) == b"\x00\x01\xff\xff"


@pytest.mark.parametrize("name", PACKINGS)
@given(body=st.binary(max_size=300) | st.text(max_size=100).map(str.encode), size=st.integers(1, 64))
def test_any_body(name: str, body: bytes, size: int) -> None:
    """Whatever the body is: exactly the bytes asked for, or a SourceError that quotes none of it."""
    try:
        assert len(reader_named(name)(body, size)) == size
    except SourceError as error:
        assert error.__cause__ is None
        assert error.__context__ is None
        assert not any(character in error.message for character in body.decode("latin-1") if not character.isascii())


PAGE = b"<!DOCTYPE html><title>Sign in</title><p>secret</p>"


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("page", [PAGE, b"\r\n  " + PAGE, b"<HTML>secret", b"<?xml version='1.0'?><html/>", b""])
def test_pages(name: str, page: bytes) -> None:
    """A page is never random bytes, not even if it is exactly as long."""
    with pytest.raises(SourceError) as refusal:
        reader_named(name)(page, max(len(page), 1))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("hex", b"c0ffe"),
        ("hex", b"c0 ff"),
        ("hex", b"0xc0"),
        ("hex", b" c0ff"),
        ("hex", b"c0ff\n\n"),
        ("hex", b"c0fg"),
        ("hex", "c0\uff46f".encode()),
        ("base64", b"wP8"),
        ("base64", b"wP8=="),
        ("base64", b"wP9="),
        ("base64", b"w P8="),
        ("base64", b"wP8=wP8="),
        ("base64", b"_-8="),
        ("json:qrn:hex", b'{"qrn": "c0ff"'),
        ("json:qrn:hex", b'{"qrn": "c0ff"} {}'),
        ("json:qrn:hex", b'{"qrn": "c0ff", "qrn": "c0ff"}'),
        ("json:qrn:hex", b'{"qrn": "c0ff", "x": NaN}'),
        ("json:qrn:hex", b'\xef\xbb\xbf{"qrn": "c0ff"}'),
        ("json:qrn:hex", '{"qrn": "c0ff"}'.encode("utf-16")),
        ("json:qrn:hex", b'{"qrn": ["c0ff"]}'),
        ("json:qrn:hex", b'{"qrn": 49407}'),
        ("json:qrn:hex", b'{"qrn": null}'),
        ("json:qrn:hex", b'{"qrm": "c0ff"}'),
        ("json:qrn:hex", b'{"qrn": "c0ff", "error": "out of entropy"}'),
        ("json:qrn:hex", b'{"qrn": "c0ff", "errors": ["out of entropy"]}'),
        ("json:qrn:hex", b'{"qrn": "c0ff", "success": false}'),
        ("json:qrn:hex", b'{"qrn": "c0ff", "success": "false"}'),
        ("json:qrn:hex", b"null"),
        ("json:qrn:hex", b"[" * 100_000),
        ("json:0:hex", b'["c0ff"'),
        ("json:1:hex", b'["c0ff"]'),
        ("json:-1:hex", b'["c0ff"]'),
        ("json-array:data:uint8", b'{"data": [192, 256]}'),
        ("json-array:data:uint8", b'{"data": [192, -1]}'),
        ("json-array:data:uint8", b'{"data": [192, 1.0]}'),
        ("json-array:data:uint8", b'{"data": [192, true]}'),
        ("json-array:data:uint8", b'{"data": [192, "1"]}'),
        ("json-array:data:uint8", b'{"data": [192, ' + b"9" * 5000 + b"]}"),
        ("json-array:data:uint8", b'{"data": "c0ff"}'),
        ("json-array:data:uint16", b'{"data": [65536]}'),
        ("json-array:data:hex", b'{"data": ["c0", "f", "f"]}'),
        ("json-array:data:hex", b'{"data": ["c0ff", ""]}'),
        ("json-array:data:hex", b'{"data": ["c0", 255]}'),
        ("json-array:data:hex", b'{"data": []}'),
        ("line:2:hex", b"c0ff"),
        ("line:2:hex", b"x\n"),
        ("line:2:hex", b"x\n c0ff"),
    ],
)
def test_spoilt_bodies(name: str, body: bytes) -> None:
    """Nothing is guessed, padded, cut or skipped."""
    with pytest.raises(SourceError):
        reader_named(name)(body, 2)


@pytest.mark.parametrize(
    "name",
    [
        *("", "text", "RAW", "hex:", "json", "json:a", "json:a:raw", "json:a:uint8", "json:a..b:hex"),
        *("line:0:hex", "line:-1:hex", "line:x:hex", "line:2:raw", "json-array:a:uint64", "json-array:a:int8"),
        f"json:{'a' * 65}:hex",
        "json:" + ".".join("a" * 17) + ":hex",
    ],
)
def test_no_reader(name: str) -> None:
    """A name that stands for no reader is refused."""
    with pytest.raises(ValueError, match=r"expected|packed|path|line"):
        reader_named(name)


@given(st.text("0123456789abcdef", min_size=1, max_size=64))
def test_challenge(challenge: str) -> None:
    """Only the SHA-512 of our own challenge proves that an answer is new."""
    proof = hashlib.sha512(challenge.encode()).hexdigest().encode()
    check_challenge(proof + b"\nseed\n", challenge)
    for body in (proof[:-2] + b"\nseed", b"\n" + proof, b"", hashlib.sha512(proof).hexdigest().encode() + b"\nseed"):
        with pytest.raises(SourceError):
            check_challenge(body, challenge)
