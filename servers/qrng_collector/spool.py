"""The spool: what waits for a gateway, kept on disk, so that a restart does not lose it.

Idea: a log. A block is written before it counts as captured; that it was *assigned* (to a pool, under a sequence)
is durable before its first byte may be sent; that it is gone is written when it is. Reading the log from its
beginning gives what is left: blocks that may have been sent, with their identity, and blocks that never were.

Nothing is ever sent under two identities, because an assignment that a crash took away was not durable, so nothing of
the chunk had been sent. That is why a log that was cut in its last record can be read up to there, and why one that
lacks a record anywhere else is refused. A "gone" that a crash took away lets a chunk come again under the identity it
had, which the gateway knows; or a block that was never sent at all.

The log is cut into segments (segment.py). The oldest is deleted when nothing of it is left, and only the oldest, so
that no record is deleted while the block it speaks of is still there; that it will be is durable before it is. When
room runs out, what is left of the oldest is written again at the end. Each segment begins with the epoch, the last
sequence of every pool, the number of the oldest segment, and the tag of the last record of the segment before it. So
what is read is one chain: a segment that is missing, exchanged, or shorter than it was when the next began, is found.

The epoch is the spool's: sequences go on after a restart. Its state directory remembers the number of the newest
segment and how much of it was durable when something was last assigned, so that an older copy of the files, put
back, is refused.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from qrng_collector.epoch import keep_epoch, next_epoch
from qrng_collector.segment import (
    KEY_BYTES,
    Kind,
    Record,
    Segment,
    SegmentWriter,
    SpoolKey,
    TornError,
    damaged,
    keep_first,
    read_segment,
    refuse_shared,
    remove,
)
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel
from qrng_grpc.clock import Clock
from qrng_grpc.errors import StateError
from qrng_grpc.files import UnusableFileError, about, sync_directory, why_unreadable
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.logs import get_log
from qrng_grpc.state import NumbersFile, state_directory
from qrng_grpc.wording import reason_of

BLOCK_OVERHEAD_BYTES = 1024
"""More than any block takes in the spool beside its data, its assignment included."""
MIN_SPOOL_BYTES = 16 << 20
"""The least room a spool needs: for the largest blocks, and to clean up in."""

_MAX_SEGMENT = 8 << 20
_NUMBER = struct.Struct(">Q")
_PAIR = struct.Struct(">QQ")
_LABEL_LENGTH = struct.Struct(">H")
_FILE_NAME = re.compile(r"([0-9]{16})\.spool")


@dataclass(slots=True)
class Kept:
    """A block in the spool. `arrived_ns` is monotonic; in a process that came later, capture start stands for it."""

    number: int
    """Order of arrival."""
    block: Block
    arrived_ns: int
    pool_id: str | None = None
    """None until it is assigned."""
    sequence: int = 0
    segment: int = field(default=0, repr=False)


@dataclass(slots=True)
class _Log:
    """What the segments of an earlier process say, once all are read."""

    collector_id: str = ""
    spool_id: bytes = b""
    epoch: int = 0
    last_number: int = 0
    sequences: dict[str, int] = field(default_factory=dict)
    blocks: dict[int, Kept] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes of each segment, oldest first."""
    oldest: int = 0
    """The number from which on no segment was deleted."""
    tag: bytes = b""
    """That of the last record."""

    def state(self, number: int) -> bytearray:
        """Return what segment `number`, the next, begins with."""
        state = {
            "collector_id": self.collector_id,
            "epoch": self.epoch,
            "sequences": self.sequences,
            "oldest": next(iter(self.sizes), number),
            "previous_tag": self.tag.hex(),
        }
        return bytearray(json.dumps(state).encode())

    def take(self, segment: Segment, path: Path) -> None:
        """Take in what the next segment says. Raises StateError when it is not the one that comes next in this log."""
        if self.spool_id and segment.spool_id != self.spool_id:
            raise StateError(f"{path} belongs to another spool than the files beside it")
        if path != segment_path(path.parent, segment.number) or segment.records[0].kind is not Kind.STATE:
            raise damaged(path)
        self._begin(json.loads(segment.records[0].content), path)
        for record in segment.records[1:]:
            self._apply(record, segment.number)
        self.spool_id, self.tag = segment.spool_id, segment.tag
        self.sizes[segment.number] = segment.size

    def _begin(self, state: dict[str, Any], path: Path) -> None:
        """Take in what a segment begins with, if it follows the one that was read before it."""
        if self.sizes and state["previous_tag"] != self.tag.hex():
            raise StateError(f"{path} does not follow the segment before it: one was cut short, exchanged or deleted")
        self.collector_id, self.epoch, self.oldest = state["collector_id"], state["epoch"], state["oldest"]
        for pool_id, sequence in state["sequences"].items():
            self._sequence(pool_id, sequence)

    def _apply(self, record: Record, segment: int) -> None:
        content = record.content
        if record.kind is Kind.BLOCK:
            self._block(content, segment)
        elif record.kind is Kind.ASSIGNED:
            number, sequence = _PAIR.unpack_from(content)
            self.assigned(number, content[_PAIR.size :].decode(), sequence)
        elif record.kind is Kind.GONE:
            self.blocks.pop(_NUMBER.unpack(content)[0], None)
        elif record.kind is Kind.SEQUENCE:
            self._sequence(content[_NUMBER.size :].decode(), _NUMBER.unpack_from(content)[0])
        elif record.kind is Kind.OLDEST:
            (self.oldest,) = _NUMBER.unpack(content)

    def _block(self, content: bytes, segment: int) -> None:
        number, block = _decode_block(content)
        self.last_number = max(self.last_number, number)
        # Of a block that was being written again when the crash came, the first place counts: it may be assigned
        # in segments behind that one, and not yet behind the second.
        self.blocks.setdefault(number, Kept(number, block, 0, segment=segment))

    def assigned(self, number: int, pool_id: str, sequence: int) -> None:
        """Take in that a block was assigned."""
        self._sequence(pool_id, sequence)
        # The block may stand further on, where it was written again.
        if number in self.blocks:
            self.blocks[number].pool_id, self.blocks[number].sequence = pool_id, sequence

    def _sequence(self, pool_id: str, sequence: int) -> None:
        self.sequences[pool_id] = max(sequence, self.sequences.get(pool_id, 0))


class Spool:
    """An open spool. Every method that writes raises StateError when the disk refuses, and then it is at an end."""

    def __init__(
        self, directory: Path, key: SpoolKey, log: _Log, *, size: int, largest_block: int, newest: NumbersFile
    ) -> None:
        self.epoch = log.epoch
        self.last_number = log.last_number
        """The number of the last block of an earlier process, or 0."""
        self.capacity = size // 2
        """Bytes blocks may take, each with `BLOCK_OVERHEAD_BYTES`. The rest is for what is gone, until cleaned up."""
        self._directory = directory
        self._key = key
        self._log = log
        self._recovered = list(log.blocks.values())
        self._limit = min(size // 8, _MAX_SEGMENT)
        self._room = size - self._limit - 2 * (largest_block + BLOCK_OVERHEAD_BYTES)
        self._newest = newest
        self._live = dict.fromkeys(log.sizes, 0)
        for kept in self._recovered:
            self._live[kept.segment] += 1
        self._writer: SegmentWriter | None = None
        with self._writing():
            self._begin_segment()
            self._delete_empty()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self._log.sizes.values())

    @property
    def sequences(self) -> Mapping[str, int]:
        """The last sequence of each pool."""
        return self._log.sequences

    def take_recovered(self) -> list[Kept]:
        """Return what an earlier process left, in order of arrival; a second time, nothing."""
        recovered, self._recovered = self._recovered, []
        return sorted(recovered, key=lambda kept: kept.number)

    def keep(self, number: int, block: Block, arrived_ns: int) -> None:
        """Write a block. From now on it survives this process, and from the next assignment on a loss of power."""
        kept = Kept(number, block, arrived_ns)
        with self._writing():
            self._make_room(len(block) + BLOCK_OVERHEAD_BYTES)
            self._append(Kind.BLOCK, _encode_block(number, block))
        kept.segment = self._current.number
        self._live[kept.segment] += 1
        self._log.blocks[number] = kept

    def assign(self, pool_id: str, sequences: Mapping[int, int]) -> None:
        """Make durable that these blocks, by number, have these sequences of a pool. Only then may they be sent.

        All or, when the disk refuses, none.
        """
        with self._writing():
            self._make_room(len(sequences) * BLOCK_OVERHEAD_BYTES)
            for number, sequence in sequences.items():
                self._append(Kind.ASSIGNED, _assignment(number, pool_id, sequence))
            self._make_durable()
        for number, sequence in sequences.items():
            self._log.assigned(number, pool_id, sequence)

    def take_sequence(self, pool_id: str, sequence: int) -> None:
        """Make durable that a sequence was taken for something that is not kept."""
        with self._writing():
            self._make_room(BLOCK_OVERHEAD_BYTES)
            self._append(Kind.SEQUENCE, bytearray(_NUMBER.pack(sequence) + pool_id.encode()))
            self._make_durable()
        self._log.sequences[pool_id] = sequence

    def forget(self, number: int) -> None:
        """Write that a block is gone, whatever became of it."""
        kept = self._log.blocks.pop(number)
        self._live[kept.segment] -= 1
        with self._writing():
            self._append(Kind.GONE, bytearray(_NUMBER.pack(number)))
            self._delete_empty()

    def close(self) -> None:
        """Make all durable. What is in it stays there for the next process."""
        with self._writing():
            self._end_segment()

    @property
    def _current(self) -> SegmentWriter:
        if self._writer is None:
            raise StateError(f"the spool in {self._directory} is closed")
        return self._writer

    def _append(self, kind: Kind, content: bytearray) -> None:
        if self._current.size >= self._limit:
            self._begin_segment()
        self._current.append(kind, content)
        self._measure()

    def _measure(self) -> None:
        self._log.sizes[self._current.number] = self._current.size
        self._log.tag = self._current.tag

    def _make_durable(self) -> None:
        """Make all that was written durable, and let the state directory know how much that is.

        It need not be told durably: what an earlier moment left there is true too.
        """
        self._current.sync()
        self._newest.write(self._current.number, self._current.durable_size, synced=False)

    def _begin_segment(self) -> None:
        """End the current segment, all of it durable, and begin the next."""
        self._end_segment()
        newest, _ = self._newest.read() or (0, 0)
        number = max(newest, *self._log.sizes, 0) + 1
        self._writer = SegmentWriter(segment_path(self._directory, number), self._key, self._log.spool_id, number)
        self._live[number] = 0
        self._writer.append(Kind.STATE, self._log.state(number))
        self._measure()
        self._writer.sync()
        sync_directory(self._directory)
        self._newest.write(number, self._writer.durable_size)

    def _end_segment(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _make_room(self, size: int) -> None:
        """Write what is left of the oldest segments again until `size` bytes fit, going round the log at most once."""
        for number in list(self._log.sizes):
            if self.size + size <= self._room or number == self._current.number:
                return
            self._move(number)

    def _move(self, segment: int) -> None:
        for kept in [kept for kept in self._log.blocks.values() if kept.segment == segment]:
            self._append(Kind.BLOCK, _encode_block(kept.number, kept.block))
            self._live[segment] -= 1
            kept.segment = self._current.number
            self._live[kept.segment] += 1
            if kept.pool_id is not None:
                self._append(Kind.ASSIGNED, _assignment(kept.number, kept.pool_id, kept.sequence))
        self._make_durable()
        self._delete_empty()

    def _delete_empty(self) -> None:
        """Delete the oldest segments of which nothing is left, once it is durable that they may be missing."""
        current = self._current.number
        empty = list(takewhile(lambda number: number != current and not self._live[number], self._log.sizes))
        if not empty:
            return
        self._append(Kind.OLDEST, bytearray(_NUMBER.pack(empty[-1] + 1)))
        self._make_durable()
        for number in empty:
            remove(segment_path(self._directory, number))
            del self._log.sizes[number], self._live[number]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Give the spool up when the disk refuses: nobody knows what is on it then, and the next start will read it."""
        try:
            yield
        except OSError as error:
            if self._writer is not None:
                self._writer.abandon()
                self._writer = None
            raise _unwritable(self._directory, error) from None


@contextmanager
def open_spool(
    directory: Path,
    key_file: Path,
    *,
    size: int,
    collector_id: str,
    state_dir: Path,
    clock: Clock,
    largest_block: int = MAX_CHUNK_BYTES,
) -> Iterator[Spool]:
    """Hold `directory` (made if it does not exist, mode 0700) and read what an earlier process left in it.

    `size` bounds the bytes on disk, for blocks of at most `largest_block` bytes; `state_dir`
    must be held by this process. Raises StateError when the spool cannot be used: held by another process, not ours
    alone, of another key or collector, damaged, incomplete, older than the state directory says, or of an epoch that
    is over.
    """
    with state_directory(directory):
        refuse_shared(directory, directory.stat())
        newest = NumbersFile(state_dir / "spool", 2)
        key = _spool_key(key_file)
        log, torn_bytes = _read_log(directory, key, newest)
        _settle_identity(log, directory, collector_id, state_dir, clock)
        _set_ages(log, clock)
        spool = Spool(directory, key, log, size=size, largest_block=largest_block, newest=newest)
        try:
            if log.blocks or torn_bytes:
                recovered_bytes = sum(len(kept.block) for kept in log.blocks.values())
                get_log().info("spool_recovered", recovered_bytes=recovered_bytes, torn_bytes=torn_bytes)
            yield spool
        finally:
            spool.close()


def read_spool_key(path: Path) -> bytes:
    """Read a spool's key: 32 bytes, as hexadecimal digits or in base64, in a file that is ours, of mode 0600 or 0400.

    Raises UnusableFileError when it is not usable, never with its content.
    """
    with about(path):
        return _key_in(_own_text(path))


def _own_text(path: Path) -> bytes:
    """Return what stands in a file that is ours alone. Raises ValueError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is no regular file")
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) not in (0o600, 0o400):
                raise ValueError("must belong to this user and have mode 0600 or 0400")
            return file.read(1024).strip()
    except OSError as error:
        raise ValueError(why_unreadable(error)) from None


def segment_path(directory: Path, number: int) -> Path:
    """Return where a segment lies."""
    return directory / f"{number:016d}.spool"


def _spool_key(path: Path) -> SpoolKey:
    try:
        return SpoolKey(read_spool_key(path))
    except UnusableFileError as error:
        raise StateError(f"spool_key_file: {error.path}: {error}") from None


def _key_in(text: bytes) -> bytes:
    try:
        key = bytes.fromhex(text.decode("ascii")) if len(text) == 2 * KEY_BYTES else _base64(text)
    except ValueError:  # UnicodeDecodeError and binascii.Error are two
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"expected {KEY_BYTES} bytes, as hexadecimal digits or in base64")
    return key


def _base64(text: bytes) -> bytes:
    padded = text.rstrip(b"=")
    return base64.b64decode(padded + b"=" * (-len(padded) % 4), altchars=_alphabet(text), validate=True)


def _alphabet(text: bytes) -> bytes:
    return b"-_" if b"-" in text or b"_" in text else b"+/"


def _read_log(directory: Path, key: SpoolKey, newest: NumbersFile) -> tuple[_Log, int]:
    """Read all segments, and make durable what is read of the last. Returns how many bytes were cut off it, too."""
    log, torn_bytes = _Log(), 0
    names = (_FILE_NAME.fullmatch(path.name) for path in directory.iterdir())
    numbers = sorted(int(name[1]) for name in names if name is not None)
    expected = newest.read() or (0, 0)
    for number in numbers:
        path, last = segment_path(directory, number), number == numbers[-1]
        try:
            segment = read_segment(path, key)
        except TornError:
            if not last or number <= expected[0]:
                raise damaged(path) from None
            torn_bytes += _keep_first(path, 0)
            continue
        if segment.torn and not last:
            raise damaged(path)
        _taking(log, segment, path)
    _refuse_incomplete(log, directory, expected)
    if numbers and numbers[-1] in log.sizes:
        torn_bytes += _keep_first(segment_path(directory, numbers[-1]), log.sizes[numbers[-1]])
    return log, torn_bytes


def _refuse_incomplete(log: _Log, directory: Path, expected: tuple[int, ...]) -> None:
    """Raise StateError when segments are missing at the beginning of a log, or anything that is `expected` at its end.

    `expected`: the number of the newest segment, and the least size it has.
    """
    newest = max(log.sizes.items(), default=expected)
    if newest < expected:
        raise StateError(
            f"the spool in {directory} is older than the state directory says: what it holds may have been sent since"
        )
    if log.sizes and log.oldest not in log.sizes:
        raise StateError(f"the spool in {directory} lacks segments from {log.oldest} on: they were deleted")


def _keep_first(path: Path, size: int) -> int:
    """Make `size` bytes of a segment durable, and cut off the rest: all of it by deleting it. Returns its bytes.

    What was read may never have reached the disk, if only its program was killed; the next segment stands on it.
    """
    try:
        torn_bytes = path.stat().st_size - size
        if size:
            keep_first(path, size)
        else:
            remove(path)
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    return torn_bytes


def _unwritable(directory: Path, error: OSError) -> StateError:
    return StateError(f"the spool in {directory} cannot be written ({reason_of(error)})")


def _taking(log: _Log, segment: Segment, path: Path) -> None:
    try:
        log.take(segment, path)
    except (ValueError, KeyError, struct.error):
        # Sealed by the key, so it was written like this: by a version that knows more than this one.
        raise StateError(f"{path} holds what this version does not know") from None


def _settle_identity(log: _Log, directory: Path, collector_id: str, state_dir: Path, clock: Clock) -> None:
    """Continue the epoch of the log, or begin one when it is empty."""
    if not log.sizes:
        log.collector_id, log.spool_id = collector_id, secrets.token_bytes(16)
        log.epoch = next_epoch(state_dir, clock.now_ns())
        return
    if log.collector_id != collector_id:
        raise StateError(f"the spool in {directory} belongs to another collector")
    if not keep_epoch(state_dir, log.epoch):
        raise StateError(
            f"the spool in {directory} is of an epoch that is over: the collector ran without it since,"
            " so no gateway would take what it holds; delete its files to begin anew"
        )


def _set_ages(log: _Log, clock: Clock) -> None:
    """Make every block as old as the wall clock says: since its source was asked."""
    now_ns, monotonic_ns = clock.now_ns(), clock.monotonic_ns()
    for kept in log.blocks.values():
        kept.arrived_ns = monotonic_ns - max(0, now_ns - kept.block.capture_start_ns)


def _assignment(number: int, pool_id: str, sequence: int) -> bytearray:
    return bytearray(_PAIR.pack(number, sequence) + pool_id.encode())


def _encode_block(number: int, block: Block) -> bytearray:
    label = block.label
    about = {
        "device_ids": label.device_ids,
        "source_class": label.source_class.value,
        "processing": label.processing.value,
        "custody": label.custody.value,
        "health_verdict": label.health_verdict.value,
        "capture_start_ns": block.capture_start_ns,
        "capture_end_ns": block.capture_end_ns,
    }
    text = json.dumps(about, separators=(",", ":")).encode()
    content = bytearray(_NUMBER.pack(number))
    content += _LABEL_LENGTH.pack(len(text))
    content += text
    content += block.data
    return content


def _decode_block(content: bytes) -> tuple[int, Block]:
    (number,) = _NUMBER.unpack_from(content)
    (length,) = _LABEL_LENGTH.unpack_from(content, _NUMBER.size)
    start = _NUMBER.size + _LABEL_LENGTH.size
    about = json.loads(content[start : start + length])
    label = BlockLabel(
        tuple(about["device_ids"]),
        SourceClass(about["source_class"]),
        Processing(about["processing"]),
        Custody(about["custody"]),
        HealthVerdict(about["health_verdict"]),
    )
    return number, Block(content[start + length :], about["capture_start_ns"], about["capture_end_ns"], label)
