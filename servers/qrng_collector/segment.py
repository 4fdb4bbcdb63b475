"""One file of the spool: sealed records, one behind the other.

Idea: a segment is written by one process between its birth and its end, and never again. It is sealed
(AES-256-GCM) under a key of its own, derived (HKDF-SHA256) from the spool's key and 32 random bytes in its
head; the nonce is the number of the record. So no key meets a nonce twice, and nothing has to survive a
crash for that: a process that comes back begins a new segment, with new random bytes, even where it
cuts a torn tail off an old one, and even where somebody has put an older copy of the files back.

    head    magic (16 bytes), mark of the key (16), id of the spool (16), number of the segment (8),
            random bytes (32), CRC-32 of all this (4)
    record  kind (1), length of what is sealed (4), CRC-32 of both and of the place (4), what is sealed

Associated data is the head, the kind, the length, and the place of the record in the file, so that a record is
nothing in another place. The CRC-32 of a record's first bytes is there to tell a file that was cut, in which the
last record is shorter than it says, from one whose length was damaged: whoever took the second for the first would
drop whatever comes behind it.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qrng_grpc.errors import StateError
from qrng_grpc.files import sync_directory, why_unreadable

KEY_BYTES = 32
MAX_SEGMENT_BYTES = 32 << 20
"""More than any segment takes."""

_MAGIC = b"qrng-spool-1".ljust(16, b"\0")
_HEAD = struct.Struct(">16s16s16sQ32s")
_CRC = struct.Struct(">I")
_HEAD_BYTES = _HEAD.size + _CRC.size
_START = struct.Struct(">BI")
_START_BYTES = _START.size + _CRC.size
_PLACE = struct.Struct(">Q")
_TAG_BYTES = 16


class Kind(Enum):
    """What a record says."""

    STATE = 1
    """First in every segment: whose spool it is, its epoch, the last sequence of every pool, and what it follows."""
    BLOCK = 2
    ASSIGNED = 3
    GONE = 4
    SEQUENCE = 5
    """A sequence that was taken for a heartbeat."""
    OLDEST = 6
    """All segments below this number are about to be deleted."""


class TornError(Exception):
    """A segment that ends before its first record does: it was never in use."""


@dataclass(frozen=True, slots=True)
class SpoolKey:
    """The key of a spool: 32 bytes."""

    secret: bytes = field(repr=False)

    @property
    def mark(self) -> bytes:
        """16 bytes that tell this key from another, and nothing about it."""
        return self._derive(b"mark", b"", 16)

    def cipher(self, salt: bytes) -> AESGCM:
        """Return what seals the segment with these random bytes."""
        return AESGCM(self._derive(b"segment", salt, KEY_BYTES))

    def _derive(self, purpose: bytes, salt: bytes, length: int) -> bytes:
        return HKDF(SHA256(), length, salt, b"qrng spool " + purpose).derive(self.secret)


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read: its content, and the bytes it takes in the file."""

    kind: Kind
    content: bytes = field(repr=False)
    size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that was read. `size` is where its last whole record ends."""

    spool_id: bytes
    number: int
    records: list[Record] = field(repr=False)
    size: int
    tag: bytes
    """That of the last whole record. It vouches for head, number and size, so for all that is in the segment."""
    torn: bool
    """Whether a part of a record comes behind the last whole one."""


class _Sealer:
    """Seals and opens the records of one segment, in their order."""

    def __init__(self, key: SpoolKey, head: bytes, salt: bytes) -> None:
        self._cipher = key.cipher(salt)
        self._head = head
        self._records = 0

    def seal(self, start: bytes, place: int, content: bytearray) -> bytes:
        return self._cipher.encrypt(self._nonce(), content, self._bound(start, place))

    def open(self, start: bytes, place: int, sealed: bytes) -> bytes:
        return self._cipher.decrypt(self._nonce(), sealed, self._bound(start, place))

    def _nonce(self) -> bytes:
        """Return the next nonce. Whatever becomes of the record, it never comes again."""
        self._records += 1
        return self._records.to_bytes(12, "big")

    def _bound(self, start: bytes, place: int) -> bytes:
        return b"".join((self._head, start, _PLACE.pack(place)))


class SegmentWriter:
    """A new segment. Raises OSError, as all its methods do, when the disk refuses."""

    def __init__(self, path: Path, key: SpoolKey, spool_id: bytes, number: int) -> None:
        salt = secrets.token_bytes(32)
        head = _HEAD.pack(_MAGIC, key.mark, spool_id, number, salt)
        self.number = number
        self._sealer = _Sealer(key, head, salt)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.size = 0
        self.durable_size = 0
        """Bytes that a loss of power would leave."""
        self.tag = b""
        """That of the last record."""
        self._write(head + _CRC.pack(zlib.crc32(head)))

    def append(self, kind: Kind, content: bytearray) -> None:
        """Write one record; `content` is overwritten with zeros. Not durable until `sync`."""
        start = _START.pack(kind.value, len(content) + _TAG_BYTES)
        sealed = self._sealer.seal(start, self.size, content)
        content[:] = bytes(len(content))
        self._write(b"".join((start, _start_crc(start, self.size), sealed)))
        self.tag = sealed[-_TAG_BYTES:]

    def sync(self) -> None:
        """Make all that was written durable."""
        os.fdatasync(self._file)
        self.durable_size = self.size

    def close(self) -> None:
        """Make it durable and end it."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def abandon(self) -> None:
        """End it as it is."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self.size + written)
        self.size += len(data)


def read_segment(path: Path, key: SpoolKey) -> Segment:
    """Read a segment up to its last whole record.

    Raises TornError when it has none, and StateError when it is not ours alone, of another key, or damaged.
    """
    raw = _read_private(path)
    if len(raw) < _HEAD_BYTES:
        raise TornError
    head = raw[: _HEAD.size]
    magic, mark, spool_id, number, salt = _HEAD.unpack(head)
    if magic != _MAGIC or raw[_HEAD.size : _HEAD_BYTES] != _CRC.pack(zlib.crc32(head)):
        raise damaged(path)
    if mark != key.mark:
        raise StateError(f"{path} was written under another key than the one in spool_key_file")
    sealer, records, place, tag = _Sealer(key, head, salt), [], _HEAD_BYTES, b""
    for kind, start, sealed in _cut(raw, path):
        try:
            records.append(Record(kind, sealer.open(start, place, sealed), _START_BYTES + len(sealed)))
        except InvalidTag:
            raise damaged(path) from None
        place += _START_BYTES + len(sealed)
        tag = sealed[-_TAG_BYTES:]
    if not records:
        raise TornError
    return Segment(spool_id, number, records, place, tag, torn=place < len(raw))


def keep_first(path: Path, size: int) -> None:
    """Make the first `size` bytes of a segment durable, and cut off what comes behind them. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a segment, durably. Raises OSError."""
    path.unlink()
    sync_directory(path.parent)


def damaged(path: Path) -> StateError:
    """Return the error that refuses a file."""
    return StateError(f"{path} is damaged; see docs/operations.md before you delete it")


def _cut(raw: bytes, path: Path) -> Iterator[tuple[Kind, bytes, bytes]]:
    """Cut a file into kind, start and sealed content of its records, and stop where it was cut itself."""
    place = _HEAD_BYTES
    while len(raw) - place >= _START_BYTES:
        start = raw[place : place + _START.size]
        number, length = _START.unpack(start)
        kind = next((kind for kind in Kind if kind.value == number), None)
        if raw[place + _START.size : place + _START_BYTES] != _start_crc(start, place) or kind is None:
            raise damaged(path)
        end = place + _START_BYTES + length
        if end > len(raw):
            return
        yield kind, start, raw[place + _START_BYTES : end]
        place = end


def _start_crc(start: bytes, place: int) -> bytes:
    return _CRC.pack(zlib.crc32(start + _PLACE.pack(place)))


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            refuse_shared(path, os.fstat(descriptor))
            raw = file.read(MAX_SEGMENT_BYTES + 1)
    except OSError as error:
        raise StateError(f"{path} {why_unreadable(error)}") from None
    if len(raw) > MAX_SEGMENT_BYTES:
        raise damaged(path)
    return raw


def refuse_shared(path: Path, status: os.stat_result) -> None:
    """Raise StateError when `path` belongs to somebody else, or others may do anything with it."""
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StateError(f"{path} must belong to this user alone; chown and chmod go= it")
