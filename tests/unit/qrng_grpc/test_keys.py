"""Signing keys: what they sign, what they verify, what they may vouch for."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.chunk import Identity
from qrng_grpc.errors import ForeignChunkError, UnverifiedChunkError
from qrng_grpc.keys import MIN_HMAC_KEY_BYTES, KeyRecord, KeyRing
from qrng_grpc.labels import BEST_FIRST, SourceClass

SECRET = b"a secret of thirty-two bytes....."
KEY = KeyRecord("key-1", SECRET, "lab", frozenset({"pool-a", "pool-b"}), SourceClass.HARDWARE)
MINE = Identity("lab", "pool-a", 1, 1)


@given(st.binary(max_size=256))
def test_signature_verifies(chunk: bytes) -> None:
    """What a key signed it verifies, and its signature is 32 bytes long."""
    signature = KEY.sign(chunk)
    assert len(signature) == 32
    assert KEY.verifies(chunk, signature)


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=64))
def test_signature_is_bound_to_the_bytes(chunk: bytes, other: bytes) -> None:
    """A signature verifies for the very bytes that were signed and no others."""
    assert KEY.verifies(other, KEY.sign(chunk)) == (chunk == other)


def test_signature_is_bound_to_secret_and_key_id() -> None:
    """Neither another secret nor another key id with the same secret verifies."""
    signature = KEY.sign(b"chunk")
    assert not dataclasses.replace(KEY, secret=b"x" * 32).verifies(b"chunk", signature)
    assert not dataclasses.replace(KEY, key_id="key-2").verifies(b"chunk", signature)


def test_key_id_and_chunk_do_not_run_into_each_other() -> None:
    """Moving the border between key id and chunk changes what is signed."""
    longer = dataclasses.replace(KEY, key_id="key-1a")
    assert KEY.sign(b"abc") != longer.sign(b"bc")


@pytest.mark.parametrize("length", [0, 1, MIN_HMAC_KEY_BYTES - 1])
def test_short_secrets_are_refused(length: int) -> None:
    """An empty or short secret makes no key, and the refusal does not show it."""
    with pytest.raises(ValueError, match="32 bytes") as refusal:
        dataclasses.replace(KEY, secret=b"s" * length)
    assert "sss" not in str(refusal.value)


@pytest.mark.parametrize("field", ["key_id", "collector_id", "pool_ids"])
def test_ids_are_checked(field: str) -> None:
    """A record whose ids have not the form of ids is refused."""
    bad = frozenset({"pool a"}) if field == "pool_ids" else "../x"
    with pytest.raises(ValueError, match="1 to 64 characters"):
        dataclasses.replace(KEY, **{field: bad})  # type: ignore[arg-type]


def test_validity_in_time() -> None:
    """A key is valid from `not_before` up to, and no longer at, `not_after`."""
    key = dataclasses.replace(KEY, not_before_ns=10, not_after_ns=20)
    assert [key.valid_at(now) for now in (9, 10, 19, 20)] == [False, True, True, False]
    assert KEY.valid_at(0)
    assert not dataclasses.replace(KEY, revoked=True).valid_at(0)


def test_rights() -> None:
    """A key vouches for its collector, its pools and no class better than its best."""
    for source_class in BEST_FIRST[1:]:
        KEY.check_rights(MINE, source_class)
    KEY.check_rights(MINE, None)
    with pytest.raises(ForeignChunkError, match="class"):
        KEY.check_rights(MINE, SourceClass.QUANTUM)
    with pytest.raises(ForeignChunkError, match="collector"):
        KEY.check_rights(dataclasses.replace(MINE, collector_id="other"), None)
    with pytest.raises(ForeignChunkError, match="pool"):
        KEY.check_rights(dataclasses.replace(MINE, pool_id="other"), None)


def test_ring_finds_the_record() -> None:
    """A ring returns the record whose signature a chunk carries."""
    ring = KeyRing([KEY, dataclasses.replace(KEY, key_id="key-2", best_class=SourceClass.SIMULATED)])
    assert ring.verified_by("key-1", b"chunk", KEY.sign(b"chunk"), 0) is KEY
    assert ring.classes == {SourceClass.HARDWARE, SourceClass.SIMULATED}


def test_ring_tells_no_cause() -> None:
    """Unknown, expired and revoked keys and bad signatures are refused with one and the same text."""
    ring = KeyRing(
        [
            KEY,
            dataclasses.replace(KEY, key_id="old", not_after_ns=5),
            dataclasses.replace(KEY, key_id="gone", revoked=True),
        ]
    )
    texts = set()
    for key_id, signature in [
        ("key-1", bytes(32)),
        ("key-1", b""),
        ("nobody", KEY.sign(b"chunk")),
        ("ключ", KEY.sign(b"chunk")),
        ("old", dataclasses.replace(KEY, key_id="old").sign(b"chunk")),
        ("gone", dataclasses.replace(KEY, key_id="gone").sign(b"chunk")),
    ]:
        with pytest.raises(UnverifiedChunkError) as refusal:
            ring.verified_by(key_id, b"chunk", signature, 5)
        texts.add(str(refusal.value))
    assert len(texts) == 1


def test_ring_refuses_two_records_of_one_id() -> None:
    """Two records of one id are a mistake: one of them, perhaps the revoked one, would be hidden."""
    with pytest.raises(ValueError, match="share an id"):
        KeyRing([dataclasses.replace(KEY, revoked=True), KEY])


def test_repr_keeps_the_secret_back() -> None:
    """A record does not show its secret."""
    for shown in (repr(KEY), str(KEY), repr([KEY])):
        assert "secret" not in shown
        assert SECRET.hex() not in shown
