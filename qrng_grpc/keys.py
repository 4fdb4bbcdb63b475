"""Signing keys: who may sign which chunks, and the signatures themselves.

Idea: a key is more than its secret. Its record says which collector may use it, for which pools, up
to which class of source and when; the algorithm is read from the record, never from the message, so
that no sender can choose a weaker one. Unknown key ids are found out by a dictionary look-up, before
anything is hashed.

HMAC-SHA256: RFC 2104, FIPS 198-1. The signed input is described in protos/qrng_grpc/v1/chunk.proto.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from qrng_grpc.chunk import Identity, is_id
from qrng_grpc.errors import ForeignChunkError, UnverifiedChunkError
from qrng_grpc.labels import SourceClass

MIN_HMAC_KEY_BYTES = 32
"""Shorter secrets are refused: an HMAC key should be as long as the hash (RFC 2104, section 3)."""

_DOMAIN = b"qrng.v1.SignedChunk\x00"


class Algorithm(Enum):
    """How a key signs. The value is the byte that stands for it in the signed input."""

    HMAC_SHA256 = 1


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A signing key and its rights. Times are nanoseconds of Unix time; None means without limit."""

    key_id: str
    secret: bytes = field(repr=False)
    collector_id: str
    pool_ids: frozenset[str]
    best_class: SourceClass
    algorithm: Algorithm = Algorithm.HMAC_SHA256
    not_before_ns: int | None = None
    not_after_ns: int | None = None
    revoked: bool = False

    def __post_init__(self) -> None:
        """Refuse a record that could not be honoured. Raises ValueError, never with the secret in its text."""
        for name in (self.key_id, self.collector_id, *self.pool_ids):
            if not is_id(name):
                raise ValueError("key, collector and pool ids take 1 to 64 characters from A-Z a-z 0-9 . _ -")
        if len(self.secret) < MIN_HMAC_KEY_BYTES:
            raise ValueError(f"an HMAC key needs at least {MIN_HMAC_KEY_BYTES} bytes")

    def valid_at(self, now_ns: int) -> bool:
        """Say whether the key may be used at `now_ns`."""
        started = self.not_before_ns is None or now_ns >= self.not_before_ns
        ended = self.not_after_ns is not None and now_ns >= self.not_after_ns
        return started and not ended and not self.revoked

    def sign(self, chunk: bytes) -> bytes:
        """Return the signature of a serialised chunk: 32 bytes."""
        return hmac.digest(self.secret, signed_input(self.algorithm, self.key_id, chunk), "sha256")

    def verifies(self, chunk: bytes, signature: bytes) -> bool:
        """Say, in constant time, whether `signature` is this key's over `chunk`."""
        return hmac.compare_digest(self.sign(chunk), signature)

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


class KeyRing:
    """Key records by id. Raises ValueError when two share one: either would hide the other."""

    def __init__(self, records: Iterable[KeyRecord]) -> None:
        listed = list(records)
        self._records = {record.key_id: record for record in listed}
        if len(self._records) != len(listed):
            raise ValueError("two key records share an id")

    @property
    def classes(self) -> frozenset[SourceClass]:
        """The best classes of all records."""
        return frozenset(record.best_class for record in self._records.values())

    @property
    def collector_ids(self) -> frozenset[str]:
        """The collectors that any record belongs to."""
        return frozenset(record.collector_id for record in self._records.values())

    def verified_by(self, key_id: str, chunk: bytes, signature: bytes, now_ns: int) -> KeyRecord:
        """Return the record whose signature `chunk` carries.

        Raises UnverifiedChunkError, with one text for every cause.
        """
        record = self._records.get(key_id)
        if record is None or not record.valid_at(now_ns) or not record.verifies(chunk, signature):
            raise UnverifiedChunkError("the chunk is not signed by a key that is valid here")
        return record


def signed_input(algorithm: Algorithm, key_id: str, chunk: bytes) -> bytes:
    """Return the bytes a signature covers: domain, algorithm, length-prefixed key id, chunk."""
    name = key_id.encode("ascii")
    return b"".join((_DOMAIN, bytes((algorithm.value, len(name))), name, chunk))
