"""The published vectors in vectors/signing-ed25519.json: what every implementation of the signature must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qrng_grpc.keys import Algorithm, KeyRecord, signed_input
from qrng_grpc.labels import SourceClass
from tests.contract import ed25519

VECTORS = json.loads((Path(__file__).parent / "vectors" / "signing-ed25519.json").read_text(encoding="utf-8"))
Vector = dict[str, Any]

accepted = pytest.mark.parametrize("vector", VECTORS["accepted"], ids=lambda vector: vector["name"])
rejected = pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda vector: vector["name"])


def key_of(vector: Vector, *, private: bool = False) -> KeyRecord:
    secret = bytes.fromhex(vector["private_key_hex"]) if private else b""
    public_key = bytes.fromhex(vector["public_key_hex"])
    pools = frozenset({"pool-a"})
    return KeyRecord(
        vector["key_id"], secret, "lab-1", pools, SourceClass.QUANTUM, Algorithm.ED25519, public_key=public_key
    )


@accepted
def test_vectors_hold_by_themselves(vector: Vector) -> None:
    """RFC 8032 in plain Python, following the description, arrives at each key and signature."""
    key_id, chunk = vector["key_id"].encode("ascii"), bytes.fromhex(vector["chunk_hex"])
    private_key = bytes.fromhex(vector["private_key_hex"])
    covered = b"qrng.v1.SignedChunk\x00" + b"\x02" + bytes([len(key_id)]) + key_id + chunk
    assert covered.hex() == vector["signed_input_hex"]
    assert ed25519.public_key(private_key).hex() == vector["public_key_hex"]
    assert ed25519.sign(private_key, covered).hex() == vector["signature_hex"]


def test_the_plain_implementation_is_that_of_the_rfc() -> None:
    """RFC 8032, section 7.1, test 1: the empty message."""
    private_key = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ed25519.sign(private_key, b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


@accepted
def test_we_sign_as_published(vector: Vector) -> None:
    """Our key gives the published signed input and signature; the public part is enough to verify it."""
    chunk, signature = bytes.fromhex(vector["chunk_hex"]), bytes.fromhex(vector["signature_hex"])
    assert signed_input(Algorithm.ED25519, vector["key_id"], chunk).hex() == vector["signed_input_hex"]
    assert key_of(vector, private=True).sign(chunk) == signature
    assert key_of(vector).verifies(chunk, signature)


@rejected
def test_we_refuse_as_published(vector: Vector) -> None:
    """No spoilt chunk or signature verifies."""
    assert not key_of(vector).verifies(bytes.fromhex(vector["chunk_hex"]), bytes.fromhex(vector["signature_hex"]))
