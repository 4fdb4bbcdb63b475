"""The published vectors in vectors/signing.json: what every implementation of the signature must give."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from qrng_grpc import wire
from qrng_grpc.chunk import Chunk, Heartbeat
from qrng_grpc.keys import Algorithm, KeyRecord, signed_input
from qrng_grpc.labels import SourceClass

VECTORS = json.loads((Path(__file__).parent / "vectors" / "signing.json").read_text(encoding="utf-8"))
Vector = dict[str, Any]

accepted = pytest.mark.parametrize("vector", VECTORS["accepted"], ids=lambda vector: vector["name"])
rejected = pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda vector: vector["name"])


def key_of(vector: Vector) -> KeyRecord:
    secret = bytes.fromhex(vector["key_hex"])
    return KeyRecord(vector["key_id"], secret, "lab-1", frozenset({"pool-a"}), SourceClass.QUANTUM)


@accepted
def test_vectors_hold_by_themselves(vector: Vector) -> None:
    """The standard library alone, following the description, arrives at each signature."""
    key_id, chunk = vector["key_id"].encode("ascii"), bytes.fromhex(vector["chunk_hex"])
    covered = b"qrng.v1.SignedChunk\x00" + b"\x01" + bytes([len(key_id)]) + key_id + chunk
    assert covered.hex() == vector["signed_input_hex"]
    digest = hmac.new(bytes.fromhex(vector["key_hex"]), covered, hashlib.sha256).hexdigest()
    assert digest == vector["signature_hex"]


@accepted
def test_we_sign_as_published(vector: Vector) -> None:
    """Our key gives the published signed input and signature, and verifies it."""
    key, chunk = key_of(vector), bytes.fromhex(vector["chunk_hex"])
    assert signed_input(Algorithm.HMAC_SHA256, key.key_id, chunk).hex() == vector["signed_input_hex"]
    assert key.sign(chunk).hex() == vector["signature_hex"]
    assert key.verifies(chunk, bytes.fromhex(vector["signature_hex"]))


@rejected
def test_we_refuse_as_published(vector: Vector) -> None:
    """No spoilt chunk or signature verifies."""
    signature, chunk = bytes.fromhex(vector["signature_hex"]), bytes.fromhex(vector["chunk_hex"])
    assert not key_of(vector).verifies(chunk, signature)


@accepted
def test_we_read_as_published(vector: Vector) -> None:
    """Reading the chunk of a vector finds its fields."""
    assert fields_of(wire.decode_chunk(bytes.fromhex(vector["chunk_hex"]))) == vector["fields"]


def fields_of(decoded: Chunk | Heartbeat) -> dict[str, Any]:
    """Write down what was decoded in the notation of the vectors."""
    identity = decoded.identity
    named: dict[str, Any] = {
        "collector_id": identity.collector_id,
        "pool_id": identity.pool_id,
        "epoch": str(identity.epoch),
        "sequence": str(identity.sequence),
    }
    if isinstance(decoded, Heartbeat):
        return named | {"capture_end_ns": str(decoded.capture_end_ns), "heartbeat": True}
    block, label = decoded.block, decoded.block.label
    assert decoded.intact
    return named | {
        "capture_start_ns": str(block.capture_start_ns),
        "capture_end_ns": str(block.capture_end_ns),
        "data": block.data.hex(),
        "crc32": str(decoded.crc32),
        "device_ids": list(label.device_ids),
        "source_class": label.source_class.value,
        "processing": label.processing.value,
        "custody": label.custody.value,
        "health_verdict": label.health_verdict.value,
    }
