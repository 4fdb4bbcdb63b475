"""Signing keys: who may sign which chunks, and the signatures themselves.

Idea: a key is more than its secret. Its record says which collector may use it, for which pools, up
to which class of source and when; the algorithm is read from the record, never from the message, so
that no sender can choose a weaker one. Unknown key ids are found out by a dictionary look-up, before
anything is hashed.

With HMAC-SHA256 (RFC 2104, FIPS 198-1) both ends hold the same secret. With Ed25519 (RFC 8032) the
collector holds the private key and the gateway the public one, with which nothing can be signed. The
signed input is described in protos/qrng_grpc/v1/chunk.proto.

Records come and go while chunks arrive, so a ring can be given others at any time. What was signed with
a key that was withdrawn is no longer vouched for: `upholds` tells. Clocks differ, and a key changes hands at
a moment of the signer's clock: who verifies allows for that at both ends of a key's validity.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from qrng_grpc.chunk import Identity, is_id
from qrng_grpc.errors import ForeignChunkError, UnverifiedChunkError
from qrng_grpc.labels import SourceClass

MIN_HMAC_KEY_BYTES = 32
"""Shorter secrets are refused: an HMAC key should be as long as the hash (RFC 2104, section 3)."""
ED25519_KEY_BYTES = 32

_DOMAIN = b"qrng.v1.SignedChunk\x00"
_FIELD_PRIME = 2**255 - 19
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_WEAK_YS = frozenset((0, 1, _FIELD_PRIME - 1, _ORDER_8_Y, _FIELD_PRIME - _ORDER_8_Y))
"""The y coordinates of the points of order 1, 2, 4 and 8, for which anyone can make signatures."""


class Algorithm(Enum):
    """How a key signs. The value is the byte that stands for it in the signed input."""

    HMAC_SHA256 = 1
    ED25519 = 2


ALGORITHM_NAMES = {Algorithm.HMAC_SHA256: "hmac-sha256", Algorithm.ED25519: "ed25519"}
"""What algorithms are called in files and in status."""


class KeyState(Enum):
    """Whether a key may be used."""

    VALID = "valid"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A signing key and its rights. Times are nanoseconds of Unix time; None means without limit."""

    key_id: str
    secret: bytes = field(repr=False)
    """HMAC-SHA256: what both ends share. Ed25519: the private key, none where only the public one is known."""
    collector_id: str
    pool_ids: frozenset[str]
    best_class: SourceClass
    algorithm: Algorithm = Algorithm.HMAC_SHA256
    not_before_ns: int | None = None
    not_after_ns: int | None = None
    revoked: bool = False
    public_key: bytes = b""
    """Ed25519: the public key, found from the private one where that is given. HMAC-SHA256: none."""
    _keyed: hmac.HMAC | None = field(init=False, repr=False, compare=False, default=None)
    """HMAC-SHA256: what has taken the key and all that is signed before the chunk."""
    _signer: Ed25519PrivateKey | None = field(init=False, repr=False, compare=False, default=None)
    _verifier: Ed25519PublicKey | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        """Refuse a record that could not be honoured. Raises ValueError, never with the secret in its text."""
        for name in (self.key_id, self.collector_id, *self.pool_ids):
            if not is_id(name):
                raise ValueError("key, collector and pool ids take 1 to 64 characters from A-Z a-z 0-9 . _ -")
        if None not in (self.not_before_ns, self.not_after_ns) and self.not_before_ns >= self.not_after_ns:  # type: ignore[operator]
            raise ValueError("a key ends after it begins")
        if self.algorithm is Algorithm.ED25519:
            self._open_ed25519()
        elif len(self.secret) < MIN_HMAC_KEY_BYTES:
            raise ValueError(f"an HMAC key needs at least {MIN_HMAC_KEY_BYTES} bytes")
        elif self.public_key:
            raise ValueError("an HMAC key has no public part")
        else:
            keyed = hmac.new(self.secret, _signed_head(self.algorithm, self.key_id), "sha256")
            object.__setattr__(self, "_keyed", keyed)

    def _open_ed25519(self) -> None:
        if any(len(key) not in (0, ED25519_KEY_BYTES) for key in (self.secret, self.public_key)):
            raise ValueError(f"Ed25519 keys, private and public, have {ED25519_KEY_BYTES} bytes")
        public_key = self.public_key
        if self.secret:
            signer = Ed25519PrivateKey.from_private_bytes(self.secret)
            public_key = signer.public_key().public_bytes_raw()
            object.__setattr__(self, "_signer", signer)
        if not public_key:
            raise ValueError("an Ed25519 key needs its public part, or the private one")
        if self.public_key not in (b"", public_key):
            raise ValueError("the public key is not that of the private key")
        if _is_weak(public_key):
            raise ValueError("anyone could sign for this public key")
        object.__setattr__(self, "public_key", public_key)
        object.__setattr__(self, "_verifier", Ed25519PublicKey.from_public_bytes(public_key))

    @property
    def can_sign(self) -> bool:
        """Whether the record holds what signing takes: the secret or private key."""
        return bool(self.secret)

    def state_at(self, now_ns: int, tolerance_ns: int = 0) -> KeyState:
        """Say how the key stands at `now_ns`: it is valid from `not_before_ns` up to, not including, `not_after_ns`.

        It is valid so much longer at both ends as the signer's clock may differ, `tolerance_ns`.
        """
        if self.revoked:
            return KeyState.REVOKED
        if self.not_after_ns is not None and now_ns - tolerance_ns >= self.not_after_ns:
            return KeyState.EXPIRED
        if self.not_before_ns is not None and now_ns + tolerance_ns < self.not_before_ns:
            return KeyState.NOT_YET_VALID
        return KeyState.VALID

    def valid_at(self, now_ns: int, tolerance_ns: int = 0) -> bool:
        """Say whether the key may be used at `now_ns`, by a clock that differs by `tolerance_ns` at most."""
        return self.state_at(now_ns, tolerance_ns) is KeyState.VALID

    def sign(self, chunk: bytes | memoryview) -> bytes:
        """Return the signature of a serialised chunk: 32 bytes, with Ed25519 64.

        Raises ValueError when the private key is not known.
        """
        if self._keyed is not None:
            mac = self._keyed.copy()
            mac.update(chunk)  # apart from the head, which saves a copy of the chunk
            return mac.digest()
        if self._signer is None:
            raise ValueError("only the public part of this key is known")
        return self._signer.sign(signed_input(self.algorithm, self.key_id, chunk))

    def verifies(self, chunk: bytes | memoryview, signature: bytes) -> bool:
        """Say whether `signature` is this key's over `chunk`, in a time that depends on no secret."""
        if self._verifier is None:
            return hmac.compare_digest(self.sign(chunk), signature)
        try:
            self._verifier.verify(signature, signed_input(self.algorithm, self.key_id, chunk))
        except InvalidSignature:
            return False
        return True

    def check_rights(self, identity: Identity, source_class: SourceClass | None) -> None:
        """Refuse a chunk this key may not vouch for. Raises ForeignChunkError.

        `source_class` is None for a heartbeat, which claims none.
        """
        if identity.collector_id != self.collector_id:
            raise ForeignChunkError("the key belongs to another collector")
        if identity.pool_id not in self.pool_ids:
            raise ForeignChunkError("the key may not sign for this pool")
        if source_class is not None and not self.best_class.at_least(source_class):
            raise ForeignChunkError("the key may not claim this class of source")

    def upholds(self, earlier: KeyRecord) -> bool:
        """Say whether this record still vouches for all that `earlier`, of the same id, vouched for.

        It does unless it is revoked, is another key or another collector's, or has lost a pool or a class. Times do
        not matter: what a key signed while it was valid stays good when it ends.
        """
        return self is earlier or (
            not self.revoked
            and self._is_key_of(earlier)
            and self.pool_ids >= earlier.pool_ids
            and self.best_class.at_least(earlier.best_class)
        )

    def narrowed_to(self, other: KeyRecord) -> KeyRecord:
        """Return this record with no right that `other`, of the same id, has not: revoked where they share none."""
        starts = [ns for ns in (self.not_before_ns, other.not_before_ns) if ns is not None]
        ends = [ns for ns in (self.not_after_ns, other.not_after_ns) if ns is not None]
        never = bool(starts and ends) and max(starts) >= min(ends)
        if other.revoked or never or not self._is_key_of(other):
            return replace(self, revoked=True)
        return replace(
            self,
            pool_ids=self.pool_ids & other.pool_ids,
            best_class=self.best_class if other.best_class.at_least(self.best_class) else other.best_class,
            not_before_ns=max(starts, default=None),
            not_after_ns=min(ends, default=None),
        )

    def _is_key_of(self, other: KeyRecord) -> bool:
        """Say whether both are the same key of the same collector."""
        return (
            self.algorithm is other.algorithm
            and hmac.compare_digest(self._verifies_with, other._verifies_with)
            and self.collector_id == other.collector_id
        )

    @property
    def _verifies_with(self) -> bytes:
        return self.public_key or self.secret


class KeyRing:
    """Key records by id, and when each was last seen to sign. Raises ValueError when two records share an id:
    either would hide the other.
    """

    def __init__(self, records: Iterable[KeyRecord]) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._last_used_ns: dict[str, int] = {}
        self.replace(records)

    def replace(self, records: Iterable[KeyRecord]) -> frozenset[str]:
        """Put `records` in the place of those that stand. Returns the ids whose earlier chunks nobody vouches for now.

        Raises ValueError, with nothing changed, when two share an id.
        """
        listed = list(records)
        by_id = {record.key_id: record for record in listed}
        if len(by_id) != len(listed):
            raise ValueError("two key records share an id")
        before, self._records = self._records, by_id
        self._last_used_ns = {key_id: ns for key_id, ns in self._last_used_ns.items() if key_id in by_id}
        return frozenset(key_id for key_id, record in before.items() if not self.upholds(record))

    @property
    def records(self) -> tuple[KeyRecord, ...]:
        """The records that stand."""
        return tuple(self._records.values())

    @property
    def classes(self) -> frozenset[SourceClass]:
        """The best classes of all records that are not revoked."""
        return frozenset(record.best_class for record in self._records.values() if not record.revoked)

    def upholds(self, record: KeyRecord) -> bool:
        """Say whether what `record` once verified is still vouched for."""
        current = self._records.get(record.key_id)
        return current is record or (current is not None and current.upholds(record))

    def last_used_ns(self) -> dict[str, int]:
        """Return, by key id, when the key was last used; keys that never were are left out."""
        return dict(self._last_used_ns)

    def used(self, record: KeyRecord, now_ns: int) -> None:
        """Note that a chunk was signed with `record` that was never seen before: a replay says nothing of a key."""
        self._last_used_ns[record.key_id] = now_ns

    def __contains__(self, key_id: str) -> bool:
        """Say whether there is a record of that id, whatever its state."""
        return key_id in self._records

    def verified_by(
        self, key_id: str, chunk: bytes | memoryview, signature: bytes, now_ns: int, tolerance_ns: int = 0
    ) -> KeyRecord:
        """Return the record whose signature `chunk` carries, of a signer whose clock differs by `tolerance_ns` at most.

        Raises UnverifiedChunkError, with one text for every cause.
        """
        record = self._records.get(key_id)
        if record is None or not record.valid_at(now_ns, tolerance_ns) or not record.verifies(chunk, signature):
            raise UnverifiedChunkError("the chunk is not signed by a key that is valid here")
        return record


def signed_input(algorithm: Algorithm, key_id: str, chunk: bytes | memoryview) -> bytes:
    """Return the bytes a signature covers: domain, algorithm, length-prefixed key id, chunk."""
    return b"".join((_signed_head(algorithm, key_id), chunk))


def _signed_head(algorithm: Algorithm, key_id: str) -> bytes:
    """Return what stands before the chunk."""
    name = key_id.encode("ascii")
    return b"".join((_DOMAIN, bytes((algorithm.value, len(name))), name))


def _is_weak(public_key: bytes) -> bool:
    """Say whether `public_key` is a point of small order, however it is written."""
    y = int.from_bytes(public_key, "little") & ((1 << 255) - 1)
    return y % _FIELD_PRIME in _WEAK_YS
