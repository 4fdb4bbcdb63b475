"""HKDF: the vectors of RFC 5869, and the mix built on it, recomputed from the standard library alone."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.chunk import BlockLabel
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources.mixing import Leg, hkdf

RFC_5869 = [  # appendix A, cases 1 to 4: hash, keying material, salt, info, output
    (
        "sha256",
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        "sha256",
        bytes(range(0x00, 0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "sha256",
        "0b" * 22,
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
    (
        "sha1",
        "0b" * 11,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "085a01ea1b10f36933068b56efa5ad81a4f14b822f5b091568a9cdd4f155fda2c22e422478d305f3f896",
    ),
]
ALGORITHMS = {"sha256": hashes.SHA256(), "sha1": hashes.SHA1()}  # noqa: S303 - the RFC's own vectors use it
PUBLISHED = (
    "0dc8fe0d4721990de13c70405ee12b59e73fe0527e7a588ff71e92b54194b25a"
    "870e4d561f5ae342cb49e10dd047e2dfd4f7f5c8292617d1f2bdba4774fe9cf4"
)
vectors = pytest.mark.parametrize(("name", "material", "salt", "info", "output"), RFC_5869, ids=range(1, 5))


def rfc_5869(name: str, material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Compute HKDF as RFC 5869, section 2, describes it."""
    key = hmac.digest(salt, material, name)
    output, last = b"", b""
    for number in range(1, 256):
        last = hmac.digest(key, last + info + bytes([number]), name)
        output += last
    return output[:length]


@vectors
def test_reference(name: str, material: str, salt: str, info: str, output: str) -> None:
    """What these tests compare with is the HKDF of the RFC."""
    computed = rfc_5869(
        name, bytes.fromhex(material), bytes.fromhex(salt), bytes.fromhex(info), len(bytes.fromhex(output))
    )
    assert computed.hex() == output


@vectors
def test_library(name: str, material: str, salt: str, info: str, output: str) -> None:
    """So is what the mix is built on."""
    kdf = HKDF(ALGORITHMS[name], len(bytes.fromhex(output)), bytes.fromhex(salt), bytes.fromhex(info))
    assert kdf.derive(bytes.fromhex(material)).hex() == output


def test_published_mix() -> None:
    """Two legs of 80 bytes give these 64 bytes in every release."""
    first = Leg(bytes(range(80)), BlockLabel(("a",), SourceClass.QUANTUM), 8)
    second = Leg(bytes(range(80, 160)), BlockLabel(("b",), SourceClass.HARDWARE), 8)
    assert hkdf([first, second], 64).data.hex() == PUBLISHED


@given(st.binary(min_size=120, max_size=200), st.binary(min_size=0, max_size=200), st.integers(65, 96))
def test_blocks_have_input_of_their_own(first: bytes, second: bytes, size: int) -> None:
    """Each 32 bytes are HKDF-SHA-512 of their own share of every leg, each share behind its length."""
    legs = [
        Leg(first, BlockLabel(("a",), SourceClass.QUANTUM), 8),
        Leg(second, BlockLabel(("b",), SourceClass.QUANTUM), 8),
    ]
    expected = b""
    for block in range(3):
        material = b""
        for data in (first, second):
            share = data[len(data) * block // 3 : len(data) * (block + 1) // 3]
            material += len(share).to_bytes(4, "big") + share
        expected += rfc_5869("sha512", material, b"qrng.mix.hkdf.sha512", b"qrng.mix.block", 32)
    if first[:16] != second[:16]:
        assert hkdf(legs, size).data == expected[:size]
