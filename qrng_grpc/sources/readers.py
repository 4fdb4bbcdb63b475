"""Readers: the random bytes in the body of an answer, or an error.

Idea: whoever asks for n bytes says how they are packed, and a reader finds exactly n bytes packed just
so, or raises `SourceError`. It never guesses, cuts, pads or skips: odd hexadecimal digits, white space
in the middle, a number out of its range, a JSON key given twice, one block shorter than the others and
a page of HTML are all refused, since each of them means that the body is not what was asked for. What a
body says is never repeated in an error: it may be entropy, or a stranger's text.

A reader is named by a short text, so that settings and presets are data:

    raw                             the body is the bytes
    hex, base64                     the body is their text, perhaps with a line break at its end
    json:PATH:hex                   a string in a JSON document; or base64
    json-array:PATH:ENTRY           an array, joined; ENTRY is hex, base64, uint8, uint16 or uint32
    line:N:hex                      line N of the body, from 1; or base64

PATH is keys and array positions joined by dots, as in `data.random_bytes` or `result.0.value`; empty,
it is the whole document. Numbers wider than a byte are laid out big-endian.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from qrng_grpc.errors import SourceError
from qrng_grpc.wording import came_instead

Reader = Callable[[bytes, int], bytes]
"""From a body and a size, at least 1, to exactly that many bytes. Raises SourceError."""
Decoder = Callable[[bytes], bytes]

_NUMBER_BYTES = {"uint8": 1, "uint16": 2, "uint32": 4}
_PAGE_BEGINS = (b"<!doctype", b"<html", b"<?xml")
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
_SPECIFICATION = re.compile(r"(json|json-array|line):([^:]*):([a-z0-9]+)")


def reader_named(name: str) -> Reader:
    """Return the reader of that name. Raises ValueError for a name that stands for none."""
    if name == "raw":
        return raw
    if name in _DECODERS:
        return partial(_read_text, _DECODERS[name])
    match = _SPECIFICATION.fullmatch(name)
    if match is None:
        raise ValueError("expected raw, hex, base64, json:PATH:hex, json-array:PATH:uint8 or line:N:hex")
    kind, place, packing = match.groups()
    return _MAKERS[kind](place, packing)


def raw(body: bytes, size: int) -> bytes:
    """Return the body, which must have `size` bytes and not begin like a page.

    Random bytes begin so less than once in 2**35 readings, and are then refused too.
    """
    if body.lstrip()[:9].lower().startswith(_PAGE_BEGINS):
        raise SourceError("the source answered with a page, not with random bytes")
    return exactly(body, size)


def exactly(data: bytes, size: int) -> bytes:
    """Return `data` if it has `size` bytes. Raises SourceError."""
    _check_count(len(data), size)
    return data


def _check_count(found: int, size: int) -> None:
    if found != size:
        raise SourceError(f"the answer holds {came_instead(found, size)}")


def check_challenge(body: bytes, challenge: str) -> None:
    """Refuse an answer whose first line is not the SHA-512 of `challenge`, in hexadecimal digits.

    It shows that the answer was made after the question, so that it is no cached or recorded one.
    """
    answered = _from_hex(_line(body, 1))
    if answered != hashlib.sha512(challenge.encode()).digest():
        raise SourceError("the answer does not belong to our challenge")


def _read_text(decode: Decoder, body: bytes, size: int) -> bytes:
    return exactly(decode(body.removesuffix(b"\n").removesuffix(b"\r")), size)


def _read_line(decode: Decoder, number: int, body: bytes, size: int) -> bytes:
    return exactly(decode(_line(body, number)), size)


def _line(body: bytes, number: int) -> bytes:
    lines = body.split(b"\n", number)
    if len(lines) < number:
        raise SourceError(f"the answer has no line {number}")
    return lines[number - 1].removesuffix(b"\r")


def _read_json(decode: Decoder, path: tuple[str, ...], body: bytes, size: int) -> bytes:
    return exactly(decode(_ascii(_find(_document(body), path))), size)


def _read_json_texts(decode: Decoder, path: tuple[str, ...], body: bytes, size: int) -> bytes:
    parts = [decode(_ascii(entry)) for entry in _entries(body, path)]
    if len({len(part) for part in parts}) > 1:
        raise SourceError("the blocks in the answer differ in length")
    return exactly(b"".join(parts), size)


def _read_json_numbers(width: int, path: tuple[str, ...], body: bytes, size: int) -> bytes:
    entries = _entries(body, path)
    _check_count(width * len(entries), size)
    # `type`, because True is an int too.
    if any(type(entry) is not int or not 0 <= entry < 1 << 8 * width for entry in entries):
        raise SourceError(f"the answer has an entry that is no number of {8 * width} bits")
    return b"".join(entry.to_bytes(width, "big") for entry in entries)


def _entries(body: bytes, path: tuple[str, ...]) -> list[Any]:
    found = _find(_document(body), path)
    if not isinstance(found, list):
        raise SourceError("the answer has no array where the random bytes should be")
    return found


def _document(body: bytes) -> Any:
    """Parse JSON in UTF-8. Raises SourceError when it is none, ambiguous, or reports a failure."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unambiguous, parse_constant=_refuse)
    except (ValueError, RecursionError):
        document = None
    if document is None:
        raise SourceError("the answer is not a JSON document")
    if isinstance(document, dict) and _reports_failure(document):
        raise SourceError("the answer reports a failure")
    return document


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice")
    return document


def _refuse(_constant: str) -> Any:
    raise ValueError("NaN and infinities are not JSON")


def _reports_failure(document: dict[str, Any]) -> bool:
    succeeded = document.get("success", True) in (True, "true")
    return not succeeded or bool(document.get("error")) or bool(document.get("errors"))


def _find(document: Any, path: tuple[str, ...]) -> Any:
    """Follow `path` into `document`. Raises SourceError where it ends early."""
    found = document
    for step in path:
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isascii() and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise SourceError("the answer has nothing where the random bytes should be")
    return found


def _ascii(value: Any) -> bytes:
    if not isinstance(value, str) or not value.isascii():
        raise SourceError("the answer has no text where the random bytes should be")
    return value.encode("ascii")


def _from_hex(text: bytes) -> bytes:
    try:
        return binascii.unhexlify(text)
    except ValueError:  # binascii.Error is one
        pass
    raise SourceError("the answer has something else where hexadecimal digits should be")


def _from_base64(text: bytes) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        data = b""
    # Text that is not what its bytes would be written as has been cut or changed.
    if not data or binascii.b2a_base64(data, newline=False) != text:
        raise SourceError("the answer has something else where base64 should be")
    return data


def _json_reader(place: str, packing: str) -> Reader:
    return partial(_read_json, _decoder(packing), _path(place))


def _json_array_reader(place: str, packing: str) -> Reader:
    if packing in _NUMBER_BYTES:
        return partial(_read_json_numbers, _NUMBER_BYTES[packing], _path(place))
    return partial(_read_json_texts, _decoder(packing), _path(place))


def _line_reader(place: str, packing: str) -> Reader:
    if not _NUMBER.fullmatch(place):
        raise ValueError("a line is a number from 1 to 9999")
    return partial(_read_line, _decoder(packing), int(place))


def _decoder(packing: str) -> Decoder:
    if packing not in _DECODERS:
        raise ValueError("text is packed as hex or base64; the entries of json-array may be uint8, uint16 or uint32")
    return _DECODERS[packing]


def _path(place: str) -> tuple[str, ...]:
    steps = tuple(place.split(".")) if place else ()
    if not all(0 < len(step) <= 64 for step in steps) or len(steps) > 16:
        raise ValueError("a JSON path is at most 16 keys of 1 to 64 characters, joined by dots")
    return steps


_DECODERS: dict[str, Decoder] = {"hex": _from_hex, "base64": _from_base64}
_MAKERS = {"json": _json_reader, "json-array": _json_array_reader, "line": _line_reader}
