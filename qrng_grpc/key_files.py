"""Key records in files.

Idea: one form at both ends. A file lists records, `keys:` in YAML or JSON; those of a collector hold what
signs (`secret`, `private_key`), those of a gateway what verifies (`secret`, `public_key`). Whoever can read
a secret can sign, and whoever can change a file can add a key, so a file that others can read or change is
refused. Every mistake is reported at once, by record and field, and never with a value.

What a file with a mistake grants counts for nothing. What it takes away may be the very reason why it was
written, in haste, so that counts wherever it can be made out: `withdrawn_by`.

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
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from qrng_grpc.chunk import checked_id
from qrng_grpc.config import describe_mistake, read_yaml, yaml_readings
from qrng_grpc.errors import ConfigError
from qrng_grpc.files import refuse_foreign, refuse_shared
from qrng_grpc.keys import ALGORITHM_NAMES, KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.moments import Moment

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


class _Entry(BaseModel):
    """A record as it stands in a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

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


def read_key_file(path: Path) -> tuple[KeyRecord, ...]:
    """Return the records of a file, at least one. Raises ConfigError with every mistake."""
    try:
        refuse_shared(path)
    except ValueError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    mistakes: list[str] = []
    content = read_yaml(path, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    listed = content.pop("keys", None)
    mistakes += [f"{path}: there is no such name as {name!r}; records stand under keys" for name in content]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_RECORDS:
        raise ConfigError([*mistakes, f"{path}: expected keys: with a list of 1 to {MAX_RECORDS} records"])
    records = [_read_entry(entry, f"{path}: keys[{index}]", mistakes) for index, entry in enumerate(listed)]
    mistakes += [f"{path}: two records share the id {key_id}" for key_id in _doubled(records)]
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(record for record in records if record is not None)


def withdrawn_by(path: Path, records: Sequence[KeyRecord]) -> tuple[KeyRecord, ...]:
    """Return `records` without what a file takes from them that is not usable as a whole; nothing is granted.

    A record is revoked where any of that id says so, whatever else is wrong with it, and narrowed to what the readable
    ones of that id allow. One that is gone is revoked if all ids can be read. A file that is no list of records, or
    that others can change, takes nothing.
    """
    entries = _legible(path)
    ids = [entry.get("id") for entry in entries]
    complete = bool(ids) and all(isinstance(key_id, str) for key_id in ids)
    return tuple(
        replace(record, revoked=True)
        if record.key_id not in ids and complete
        else _narrowed(record, [entry for entry in entries if entry.get("id") == record.key_id])
        for record in records
    )


def _legible(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a file, in every reading of it; an empty one for each that is no mapping."""
    try:
        refuse_foreign(path)
    except ValueError:
        return []
    lists = [reading.get("keys") for reading in yaml_readings(path)]
    readable = [listed for listed in lists if isinstance(listed, list) and len(listed) <= MAX_RECORDS]
    return [entry if isinstance(entry, dict) else {} for listed in readable for entry in listed]


def _narrowed(record: KeyRecord, entries: list[dict[str, Any]]) -> KeyRecord:
    """Return `record` with no right that an entry of its id takes from it."""
    if any(entry.get("revoked", False) is not False for entry in entries):
        return replace(record, revoked=True)
    for entry in entries:
        readable = _read_entry(entry, "", [])
        if readable is not None:
            record = record.narrowed_to(readable)
    return record


def _read_entry(entry: Any, where: str, mistakes: list[str]) -> KeyRecord | None:
    try:
        return _Entry.model_validate(entry).record()
    except ValidationError as error:
        mistakes += [f"{where}.{describe_mistake(one, _Entry)}" for one in error.errors()]
    except ValueError as error:
        mistakes.append(f"{where}: {error}")
    return None


def _doubled(records: list[KeyRecord | None]) -> list[str]:
    ids = [record.key_id for record in records if record is not None]
    return sorted({key_id for key_id in ids if ids.count(key_id) > 1})
