"""Files that list records: how every kind of them is read, and what counts of one with a mistake.

Idea: what a file grants counts only if all of it can be used, and every mistake is reported at once, by record and
field, and never with a value. What a file with a mistake takes away may be the very reason why it was
written, in haste, so that counts wherever it can be made out. Both rules are the same whatever the records are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qrng_grpc.config import describe_mistake, read_yaml, yaml_readings
from qrng_grpc.errors import ConfigError
from qrng_grpc.files import refuse_foreign, shown_path


class Record(Protocol):
    """A dataclass that can be revoked, and can lose what another of the same id has not."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def narrowed_to(self, other: Self) -> Self:
        """Return this record with no right that `other` has not."""


R = TypeVar("R", bound=Record)


class Part(BaseModel):
    """A part of a file: strict about names, and silent about values."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RecordPart(Part, ABC, Generic[R]):
    """A record as it stands in a file."""

    @abstractmethod
    def record(self) -> R:
        """Return the record. Raises ValueError when its parts do not go together."""


@dataclass(frozen=True)
class RecordFiles(Generic[R]):
    """Files with `least` to `most` records under `name`, each of which stands there as `part`.

    `id_of` tells a record's id, which is its `id` in the file; `clashes` yields what is wrong with several together.
    """

    name: str
    most: int
    part: type[RecordPart[R]]
    id_of: Callable[[R], str]
    clashes: Callable[[Sequence[R]], Iterable[str]]
    least: int = field(default=0, kw_only=True)

    def content_of(self, path: Path, refuse: Callable[[Path], None]) -> dict[str, Any]:
        """Return what stands in a file that `refuse` does not refuse. Raises ConfigError."""
        try:
            refuse(path)
        except ValueError as error:
            raise ConfigError([f"{shown_path(path)}: {error}"]) from None
        mistakes: list[str] = []
        content = read_yaml(path, mistakes)
        if mistakes:
            raise ConfigError(mistakes)
        return content

    def records_in(self, content: dict[str, Any], path: Path) -> tuple[R, ...]:
        """Return the records that a file's `content` describes. Raises ConfigError with every mistake."""
        listed = content.get(self.name)
        mistakes = [
            f"{path}: there is no such name as {name!r}; records stand under {self.name}"
            for name in content
            if name != self.name
        ]
        if not isinstance(listed, list) or not self.least <= len(listed) <= self.most:
            bounds = f"{self.least} to" if self.least else "at most"
            raise ConfigError([*mistakes, f"{path}: expected {self.name}: with a list of {bounds} {self.most} records"])
        read = [self._read(entry, f"{path}: {self.name}[{index}]", mistakes) for index, entry in enumerate(listed)]
        records = tuple(record for record in read if record is not None)
        mistakes += [f"{path}: {clash}" for clash in self.clashes(records)]
        if mistakes:
            raise ConfigError(mistakes)
        return records

    def withdrawn_by(self, path: Path, records: Sequence[R]) -> tuple[R, ...]:
        """Return `records` without what a file takes from them that is not usable as a whole; nothing is granted.

        A record is revoked where any of its id says so, whatever else is wrong with it, and narrowed to what the
        readable ones of its id allow. One that is gone is revoked if all ids can be read. A file that is no list
        of records, or that others can change, takes nothing.
        """
        by_id: dict[str | None, list[dict[str, Any]]] = {}
        for entry in self._legible(path):
            stated = entry.get("id")
            by_id.setdefault(stated if isinstance(stated, str) else None, []).append(entry)
        complete = bool(by_id) and None not in by_id
        return tuple(
            replace(record, revoked=True)
            if self.id_of(record) not in by_id and complete
            else self._narrowed(record, by_id.get(self.id_of(record), []))
            for record in records
        )

    def _legible(self, path: Path) -> list[dict[str, Any]]:
        """Return the entries of a file, in every reading of it; an empty one for each that is no mapping."""
        try:
            refuse_foreign(path)
        except ValueError:
            return []
        lists = [reading.get(self.name) for reading in yaml_readings(path)]
        readable = [listed for listed in lists if isinstance(listed, list) and len(listed) <= self.most]
        return [entry if isinstance(entry, dict) else {} for listed in readable for entry in listed]

    def _narrowed(self, record: R, entries: list[dict[str, Any]]) -> R:
        """Return `record` without what an entry of its id takes from it."""
        if any(entry.get("revoked", False) is not False for entry in entries):
            return replace(record, revoked=True)
        for entry in entries:
            readable = self._read(entry, "", [])
            if readable is not None:
                record = record.narrowed_to(readable)
        return record

    def _read(self, entry: Any, where: str, mistakes: list[str]) -> R | None:
        try:
            return self.part.model_validate(entry).record()
        except ValidationError as error:
            mistakes += [f"{where}.{describe_mistake(one, self.part)}" for one in error.errors()]
        except ValueError as error:
            mistakes.append(f"{where}: {error}")
        return None


def doubled(names: Iterable[str]) -> list[str]:
    """Return those of `names` that are there more than once, in order."""
    return sorted(name for name, times in Counter(names).items() if times > 1)
