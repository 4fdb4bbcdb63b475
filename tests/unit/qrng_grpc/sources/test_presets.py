"""Providers and presets: what is asked, and what is made of answers as those services give them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources.presets import MAX_REQUESTS, PRESETS, Provider, Request

BASE = "https://192.0.2.7:8443"
KEY = "s.Correct+horse/battery="
CHALLENGE = "c" * 64

every_preset = pytest.mark.parametrize("provider", PRESETS.values(), ids=PRESETS)


def asked(provider: Provider, size: int) -> tuple[Request, ...]:
    """Return the requests of a well configured operator."""
    return provider.requests(
        size,
        base=BASE if provider.needs_base else None,
        key=KEY if provider.needs_key else None,
        new_challenge=lambda: CHALLENGE,
    )


def answered(name: str, data: bytes) -> bytes:
    """Return the body that the service of preset `name` sends for `data`."""
    documents: dict[str, Any] = {
        "anu": {
            "success": True,
            "type": "hex16",
            "length": str(len(data) // 16),
            "data": [data[at : at + 16].hex() for at in range(0, len(data), 16)],
        },
        "lfd": {"length": len(data), "qrn": data.hex()},
        "qrypt": {
            "random": [base64.b64encode(data[at : at + 1024]).decode() for at in range(0, len(data), 1024)],
            "size": len(data) // 1024,
        },
        "vault": {
            "request_id": "6a5ac5a2",
            "lease_id": "",
            "renewable": False,
            "data": {"random_bytes": data.hex()},
            "warnings": None,
            "auth": None,
        },
    }
    if name == "quantis":
        return data
    if name == "pollen":
        return f"{hashlib.sha512(CHALLENGE.encode()).hexdigest()}\n{data.hex()}\n".encode()
    return json.dumps(documents[name]).encode()


@every_preset
@given(size=st.integers(1, 4096))
def test_answers_are_read(provider: Provider, size: int) -> None:
    """The answers to a read hold what was asked for, and less than one unit more."""
    requests = asked(provider, size)
    stream = bytes(range(256)) * 40
    read = b""
    for request in requests:
        data = stream[len(read) : len(read) + request.size]
        body = answered(provider.name, data)
        assert len(body) <= request.max_body_bytes
        read += provider.read(request, body)
    assert read == stream[: len(read)]
    assert size <= len(read) < size + provider.unit_bytes


@every_preset
def test_most_a_read_may_ask_for(provider: Provider) -> None:
    """The largest read fits the requests it may take; one unit more does not."""
    assert len(asked(provider, provider.max_read_bytes)) <= MAX_REQUESTS
    assert provider.max_read_bytes <= MAX_CHUNK_BYTES
    for size in (0, MAX_REQUESTS * provider.max_units * provider.unit_bytes + 1):
        with pytest.raises(SourceError, match="a read"):
            asked(provider, size)


@every_preset
@pytest.mark.parametrize(
    "body", [b"", b"<!doctype html><p>secret", b'{"error":"secret"}', b'{"success":false,"message":"secret"}']
)
def test_failures_are_not_read(provider: Provider, body: bytes) -> None:
    """Pages and error documents are refused, and not quoted."""
    (request, *_) = asked(provider, 64)
    with pytest.raises(SourceError) as refusal:
        provider.read(request, body)
    assert "secret" not in str(refusal.value)


@every_preset
def test_endless_answers(provider: Provider) -> None:
    """A body beyond what the request can bring is refused before it is read."""
    (request, *_) = asked(provider, 64)
    with pytest.raises(SourceError, match="longer"):
        provider.read(request, bytes(request.max_body_bytes + 1))


@pytest.mark.parametrize(
    ("name", "size", "urls"),
    [
        ("quantis", 1000, [f"{BASE}/api/2.0/streambytes?size=1000"]),
        ("anu", 1024, ["https://api.quantumnumbers.anu.edu.au/?length=64&type=hex16&size=8"]),
        ("lfd", 32, ["https://lfdr.de/qrng_api/qrng?length=32&format=HEX"]),
        ("qrypt", 1025, ["https://api-eus.qrypt.com/api/v1/quantum-entropy?size=2"]),
        (
            "qrypt",
            600 * 1024,
            [f"https://api-eus.qrypt.com/api/v1/quantum-entropy?size={units}" for units in (512, 88)],
        ),
        ("vault", 64, [f"{BASE}/v1/sys/tools/random/64"]),
        ("pollen", 128, [f"{BASE}/?challenge={CHALLENGE}"] * 2),
    ],
)
def test_what_is_asked(name: str, size: int, urls: list[str]) -> None:
    """The URLs are those the services document, sizes counted in their units."""
    assert [request.url for request in asked(PRESETS[name], size)] == urls


def test_keys_and_bodies() -> None:
    """Keys travel in the headers the services document; Vault is posted to, in JSON."""
    assert asked(PRESETS["anu"], 16)[0].headers == (("Accept", "application/json"), ("x-api-key", KEY))
    assert asked(PRESETS["qrypt"], 16)[0].headers[1] == ("Authorization", f"Bearer {KEY}")
    (vault,) = asked(PRESETS["vault"], 16)
    assert (vault.method, vault.body) == ("POST", b'{"format":"hex"}')
    assert ("X-Vault-Token", KEY) in vault.headers
    assert asked(PRESETS["quantis"], 16)[0].headers == (("Accept", "application/octet-stream"),)


@every_preset
def test_nothing_to_see(provider: Provider) -> None:
    """The repr of a request shows neither key nor challenge, that of a provider not what it may say in secret."""
    (request, *_) = asked(provider, 64)
    assert KEY not in repr(request)
    assert CHALLENGE not in repr(request)
    secretive = dataclasses.replace(provider, headers=(("Authorization", "SECRET {key}"),), body="SECRET {bytes}")
    assert "SECRET" not in repr(secretive)


@every_preset
def test_as_much_as_a_request_brings_is_one_request(provider: Provider) -> None:
    """Whoever asks for at most `max_request_bytes` knows that each read is one request."""
    assert len(asked(provider, provider.max_request_bytes)) == 1
    assert provider.max_request_bytes <= MAX_CHUNK_BYTES


def test_a_request_need_not_say_how_many_where_there_is_no_choice() -> None:
    """How many bytes are wanted may stand anywhere in a request, or nowhere when it always brings the same number."""
    assert asked(dataclasses.replace(OWN, url="https://example/r", max_units=1, unit_bytes=64), 64)[0].size == 64
    in_body = dataclasses.replace(OWN, url="https://example/r", method="POST", body='{"n": {bytes}, "x": {}}')
    assert asked(in_body, 16)[0].body == b'{"n": 16, "x": {}}'


def test_classes() -> None:
    """Quantum services may be labelled so, Vault and pollen as operating systems; all are in others' hands."""
    assert {name: provider.best_class for name, provider in PRESETS.items()} == {
        "quantis": SourceClass.QUANTUM,
        "anu": SourceClass.QUANTUM,
        "lfd": SourceClass.QUANTUM,
        "qrypt": SourceClass.QUANTUM,
        "vault": SourceClass.OPERATING_SYSTEM,
        "pollen": SourceClass.OPERATING_SYSTEM,
    }
    assert {provider.custody for provider in PRESETS.values()} == {Custody.REMOTE}


@every_preset
def test_media_types(provider: Provider) -> None:
    """Pages are refused by their type too, and JSON where it is not what was asked for."""
    (request, *_) = asked(provider, 64)
    assert "text/html" in provider.refused_types
    assert ("application/json" in provider.refused_types) == (dict(request.headers)["Accept"] != "application/json")


def test_real_pollen() -> None:
    """An answer recorded from pollen 4.21, to the challenge 00ff."""
    body = (
        b"512de306c1f5d64bbb7fe4ce153d86c043a3a7c66b4f3d20077bde8d639a8697"
        b"be5271d478fa928c5342150e4bc8400b0906948dfa3b4099edd1711af8725cd1\n"
        b"3a5dbc2d8e33c7f1de8e1a469762ea447be2f46bbdd0a749e7a6af6103b22f38"
        b"35a0bf683f614b1c1a041c5a2bb2bbcf7bfce4b594d22a28c5513ffca291bafd\n"
    )
    pollen = PRESETS["pollen"]
    (request,) = pollen.requests(64, base=BASE, new_challenge=lambda: "00ff")
    assert pollen.read(request, body).hex().startswith("3a5dbc2d8e33c7f1")
    (other,) = pollen.requests(64, base=BASE)
    with pytest.raises(SourceError, match="challenge"):
        pollen.read(other, body)


def test_challenges_are_new() -> None:
    """No two requests carry the same challenge."""
    requests = PRESETS["pollen"].requests(640, base=BASE)
    assert len({request.challenge for request in requests}) == 10


@pytest.mark.parametrize("key", ["", "two words", "line\r\nX-Other: 1", 'quo"te', "back\\slash", "schlüssel"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    """A key that could break out of its header is refused, and not repeated."""
    with pytest.raises(ValueError, match="a key has") as refusal:
        PRESETS["anu"].requests(16, key=key)
    assert not key or key not in str(refusal.value)


def test_what_the_operator_must_say() -> None:
    """A base or key that is missing, or has no effect, is refused."""
    with pytest.raises(ValueError, match="needs the URL"):
        PRESETS["quantis"].requests(16)
    with pytest.raises(ValueError, match="needs a key"):
        PRESETS["anu"].requests(16)
    with pytest.raises(ValueError, match="takes no key"):
        PRESETS["lfd"].requests(16, key=KEY)
    with pytest.raises(ValueError, match="fixed URL"):
        OWN.requests(16, base=BASE)
    (moved,) = PRESETS["qrypt"].requests(16, base=f"{BASE}/", key=KEY)
    assert moved.url.startswith(f"{BASE}/api/v1/")


OWN = Provider("own", "https://example/r?n={bytes}", "hex", SourceClass.HARDWARE)


@pytest.mark.parametrize(
    "changes",
    [
        {"reader": "text"},
        {"url": "ftp://example/{bytes}"},
        {"url": "{base}/{size}"},
        {"url": "https://example/{key}"},
        {"headers": (("X Y", "z"),)},
        {"headers": (("X", "z\r\nY: 1"),)},
        {"headers": (("X", "Token {kee}"),)},
        {"body": "{size} bytes, please"},
        {"url": "https://example/r"},
        {"unit_bytes": 0},
        {"max_units": 0},
        {"proves_challenge": True},
    ],
)
def test_providers_that_cannot_be(changes: dict[str, Any]) -> None:
    """Templates that could not be sent or read are refused when the provider is made."""
    with pytest.raises(ValueError):
        dataclasses.replace(OWN, **changes)


def test_any_provider() -> None:
    """A provider nobody has heard of takes a value, not code."""
    (request,) = OWN.requests(4)
    assert (request.method, request.url, request.size) == ("GET", "https://example/r?n=4", 4)
    assert OWN.read(request, b"00c0ffee\n") == b"\x00\xc0\xff\xee"
