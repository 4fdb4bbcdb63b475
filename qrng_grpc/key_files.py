"""Key records in files.

Idea: one form at both ends. A file lists records, `keys:` in YAML or JSON; those of a collector hold what
signs (`secret`, `private_key`), those of a gateway what verifies (`secret`, `public_key`). Whoever can read
a secret can sign, and whoever can change a file can add a key, so a file that others can read or change is
refused. How it is read, and what counts of a file with a mistake, is that of all files of records.

    keys:
      - id: lab-1-a                        # in every chunk it signs
        algorithm: ed25519                 # or hmac-sha256
        public_key: "d75a98..."            # 64 hexadecimal digits; private_key at the collector; secret with HMAC
        collector_id: lab-1
        pool_ids: [pool-1]
        best_class: quantum
        not_before: 2026-01-01T00:00:00Z   # from when it is valid; without, always
        not_after: 2027-01-01T00:00:00Z    # until when; without, for ever
        revoked: false
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from qrng_grpc.chunk import checked_id
from qrng_grpc.files import refuse_shared
from qrng_grpc.keys import ALGORITHM_NAMES, KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.moments import Moment
from qrng_grpc.record_files import RecordFiles, RecordPart, doubled

MAX_RECORDS = 1000
_ALGORITHMS = {name: algorithm for algorithm, name in ALGORITHM_NAMES.items()}

_HEX_KEY = re.compile(r"[0-9A-Fa-f]{64}")


def _checked_hex(text: str) -> str:
    if not _HEX_KEY.fullmatch(text):
        raise ValueError("expected 64 hexadecimal digits")
    return text


def _checked_algorithm(name: str) -> str:
    if name not in _ALGORITHMS:
        raise ValueError("expected hmac-sha256 or ed25519")
    return name


_Id = Annotated[str, AfterValidator(checked_id)]
_Hex = Annotated[str, AfterValidator(_checked_hex)]


class _KeyPart(RecordPart[KeyRecord]):
    """A record as it stands in a file."""

    id: _Id
    algorithm: Annotated[str, AfterValidator(_checked_algorithm)]
    secret: str | None = Field(None, repr=False)
    private_key: _Hex | None = Field(None, repr=False)
    public_key: _Hex | None = None
    collector_id: _Id
    pool_ids: Annotated[tuple[_Id, ...], Field(min_length=1, max_length=64)]
    best_class: SourceClass
    not_before: Moment = None
    not_after: Moment = None
    revoked: Annotated[bool, Field(strict=True)] = False

    def record(self) -> KeyRecord:
        """Return the record. Raises ValueError when its parts do not go together."""
        ed25519 = self.algorithm == "ed25519"
        if ed25519 and self.secret is not None:
            raise ValueError("secret: is for hmac-sha256; ed25519 has a private_key or a public_key")
        if not ed25519 and (self.private_key or self.public_key):
            raise ValueError("private_key, public_key: are for ed25519; hmac-sha256 has a secret")
        return KeyRecord(
            key_id=self.id,
            secret=bytes.fromhex(self.private_key or "") if ed25519 else (self.secret or "").encode(),
            collector_id=self.collector_id,
            pool_ids=frozenset(self.pool_ids),
            best_class=self.best_class,
            algorithm=_ALGORITHMS[self.algorithm],
            not_before_ns=self.not_before,
            not_after_ns=self.not_after,
            revoked=self.revoked,
            public_key=bytes.fromhex(self.public_key or ""),
        )


def _clashes(records: Sequence[KeyRecord]) -> list[str]:
    return [f"two records share the id {key_id}" for key_id in doubled(record.key_id for record in records)]


_FILES = RecordFiles("keys", MAX_RECORDS, _KeyPart, attrgetter("key_id"), _clashes, least=1)


def read_key_file(path: Path) -> tuple[KeyRecord, ...]:
    """Return the records of a file, at least one. Raises ConfigError with every mistake."""
    return _FILES.records_in(_FILES.content_of(path, refuse_shared), path)


def withdrawn_by(path: Path, records: Sequence[KeyRecord]) -> tuple[KeyRecord, ...]:
    """Return `records` without what a file takes from them that is not usable as a whole; nothing is granted.

    As `RecordFiles.withdrawn_by` has it.
    """
    return _FILES.withdrawn_by(path, records)
