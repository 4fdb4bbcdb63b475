"""Signing keys: what they sign, what they verify, what they may vouch for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc import keys
from qrng_grpc.chunk import Identity
from qrng_grpc.errors import ForeignChunkError, UnverifiedChunkError
from qrng_grpc.keys import MIN_HMAC_KEY_BYTES, Algorithm, KeyRecord, KeyRing, KeyState
from qrng_grpc.labels import BEST_FIRST, SourceClass
from tests.contract import ed25519

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


@pytest.mark.parametrize("skew", [-3, 0, 3])
def test_a_key_changes_hands_between_clocks_that_differ(skew: int) -> None:
    """The old key ends when the new one begins, by the signer's clock, and the verifier's differs as far as allowed."""
    keys = [dataclasses.replace(KEY, key_id="old", not_after_ns=100)]
    keys.append(dataclasses.replace(KEY, key_id="new", not_before_ns=100))
    ring = KeyRing(keys)
    for now in range(90, 111):
        (key,) = (key for key in keys if key.valid_at(now + skew))
        assert ring.verified_by(key.key_id, b"chunk", key.sign(b"chunk"), now, abs(skew)) is key


def test_no_key_lives_longer_than_clocks_may_differ() -> None:
    """Beyond the tolerance it is not valid yet, or has expired; and none helps a revoked key."""
    key = dataclasses.replace(KEY, not_before_ns=10, not_after_ns=20)
    assert [key.valid_at(now, 3) for now in (6, 7, 22, 23)] == [False, True, True, False]
    assert key.state_at(6, 3) is KeyState.NOT_YET_VALID
    assert key.state_at(23, 3) is KeyState.EXPIRED
    assert not dataclasses.replace(key, revoked=True).valid_at(15, 3)


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


PRIVATE = bytes(range(32))


def ed25519_pair(key_id: str = "key-e") -> tuple[KeyRecord, KeyRecord]:
    """The record of the collector, and that of the gateway."""
    pools = frozenset({"pool-a", "pool-b"})
    signer = KeyRecord(key_id, PRIVATE, "lab", pools, SourceClass.HARDWARE, Algorithm.ED25519)
    verifier = KeyRecord(
        key_id, b"", "lab", pools, SourceClass.HARDWARE, Algorithm.ED25519, public_key=signer.public_key
    )
    return signer, verifier


@given(st.binary(max_size=256), st.binary(max_size=96))
def test_the_public_part_verifies_and_cannot_sign(chunk: bytes, other: bytes) -> None:
    """What the private key signed, in 64 bytes, the public one verifies; nothing else, and it signs nothing."""
    signer, verifier = ed25519_pair()
    signature = signer.sign(chunk)
    assert len(signature) == 64
    assert verifier.verifies(chunk, signature)
    assert not verifier.verifies(chunk, other)
    assert (signer.can_sign, verifier.can_sign) == (True, False)
    with pytest.raises(ValueError, match="only the public part"):
        verifier.sign(chunk)


def test_the_algorithm_is_the_records() -> None:
    """A signature made with HMAC over the public key, which everybody may know, is not one of Ed25519."""
    _, verifier = ed25519_pair()
    forger = dataclasses.replace(KEY, key_id="key-e", secret=verifier.public_key)
    assert not verifier.verifies(b"chunk", forger.sign(b"chunk"))


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": b"s" * 31},
        {"secret": b"", "public_key": b""},
        {"public_key": b"p" * 33},
        {"public_key": b"p" * 32},
        {"algorithm": Algorithm.HMAC_SHA256},
        {"not_before_ns": 5, "not_after_ns": 5},
    ],
)
def test_records_whose_parts_do_not_go_together_are_refused(changes: dict[str, Any]) -> None:
    """A key of another length, another's public key, a public key for HMAC, an end before the beginning."""
    signer, _ = ed25519_pair()
    with pytest.raises(ValueError, match=r"key|Ed25519"):
        dataclasses.replace(signer, **changes)


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, "order 8", "order 8, other"])
def test_public_keys_anyone_could_sign_for_are_refused(y: int | str, sign: int) -> None:
    """Points of small order, in any notation: a placeholder of zeros is one of them."""
    if isinstance(y, str):
        prime = ed25519.P
        # Doubled, a point of order 8 has y = 0, so d y^4 + 2 y^2 = 1.
        root = next(
            y
            for y in (keys._ORDER_8_Y, prime - keys._ORDER_8_Y)
            if (ed25519.D * pow(y, 4, prime) + 2 * y * y - 1) % prime == 0
        )
        y = root if y == "order 8" else prime - root
    _, verifier = ed25519_pair()
    with pytest.raises(ValueError, match="anyone could sign"):
        dataclasses.replace(verifier, public_key=(y | sign).to_bytes(32, "little"))


def test_a_ring_takes_other_records_and_tells_what_was_withdrawn() -> None:
    """Revoked, gone, of another secret or with fewer rights: withdrawn. More rights, or an end: not."""
    names = ("stays", "ends", "grows", "gone", "revoked", "other-secret", "weaker", "pool-less", "given-away")
    before = {name: dataclasses.replace(KEY, key_id=name) for name in names}
    after = before | {
        "ends": dataclasses.replace(before["ends"], not_after_ns=5),
        "grows": dataclasses.replace(
            before["grows"], pool_ids=frozenset({"pool-a", "pool-b", "c"}), best_class=SourceClass.QUANTUM
        ),
        "revoked": dataclasses.replace(before["revoked"], revoked=True),
        "other-secret": dataclasses.replace(before["other-secret"], secret=b"o" * 32),
        "weaker": dataclasses.replace(before["weaker"], best_class=SourceClass.SIMULATED),
        "pool-less": dataclasses.replace(before["pool-less"], pool_ids=frozenset({"pool-a"})),
        "given-away": dataclasses.replace(before["given-away"], collector_id="other"),
        "new": dataclasses.replace(KEY, key_id="new"),
    }
    del after["gone"]
    ring = KeyRing(before.values())
    withdrawn = ring.replace(after.values())
    assert withdrawn == {"gone", "revoked", "other-secret", "weaker", "pool-less", "given-away"}
    assert all(ring.upholds(record) == (name not in withdrawn) for name, record in before.items())
    assert ring.verified_by("new", b"chunk", after["new"].sign(b"chunk"), 0) is after["new"]


@pytest.mark.parametrize(("other", "left"), [
    ({}, {}),
    ({"best_class": SourceClass.QUANTUM, "pool_ids": frozenset({"pool-a", "pool-b", "c"})}, {}),
    ({"best_class": SourceClass.SIMULATED}, {"best_class": SourceClass.SIMULATED}),
    ({"pool_ids": frozenset({"pool-b", "c"})}, {"pool_ids": frozenset({"pool-b"})}),
    ({"pool_ids": frozenset({"c"})}, {"pool_ids": frozenset()}),
    ({"not_before_ns": 3, "not_after_ns": 9}, {"not_before_ns": 5, "not_after_ns": 9}),
    ({"not_before_ns": 6}, {"not_before_ns": 6}),
    ({"not_after_ns": 5}, {"revoked": True}),
    ({"revoked": True}, {"revoked": True}),
    ({"secret": b"o" * 32}, {"revoked": True}),
    ({"collector_id": "other"}, {"revoked": True}),
])  # fmt: skip
def test_a_record_is_narrowed_and_never_widened(other: dict[str, Any], left: dict[str, Any]) -> None:
    """To what both records allow: a lost right is lost, one that only the other has is not gained."""
    record = dataclasses.replace(KEY, not_before_ns=5, not_after_ns=10)
    unlimited = dataclasses.replace(record, not_before_ns=None, not_after_ns=None)
    narrowed = record.narrowed_to(dataclasses.replace(unlimited, **other))
    assert narrowed == dataclasses.replace(record, **left)
    assert record.narrowed_to(narrowed) == narrowed


def test_records_that_cannot_be_taken_change_nothing() -> None:
    """Two records of one id leave the ring as it was."""
    ring = KeyRing([KEY])
    with pytest.raises(ValueError, match="share an id"):
        ring.replace([KEY, KEY])
    assert ring.records == (KEY,)


def test_last_use_is_remembered_while_the_key_stands() -> None:
    """A ring tells when each key was last used, and forgets it with the key."""
    ring = KeyRing([KEY])
    assert ring.last_used_ns() == {}
    ring.used(KEY, 7)
    ring.replace([KEY, dataclasses.replace(KEY, key_id="key-2")])
    assert ring.last_used_ns() == {"key-1": 7}
    ring.replace([dataclasses.replace(KEY, key_id="key-2")])
    assert ring.last_used_ns() == {}
