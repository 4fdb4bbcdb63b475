"""What a program must remember across restarts, and may not get wrong.

Idea: a state directory belongs to one process at a time (a lock says so) and to its owner alone
(mode 0700). A record in it is a few numbers in 128 bytes, less than a disk's sector, overwritten in
place and synced: after a crash it holds the old numbers or the new ones. A checksum tells damage
from both, and damaged state refuses to start, since guessing could let a replay in.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qrng_grpc.errors import StateError, StateHeldError
from qrng_grpc.files import shown_path, sync_directory, why_unreadable
from qrng_grpc.wording import reason_of

_RECORD_BYTES = 128
_MAGIC = "qrng-state-1"


@contextmanager
def state_directory(path: Path) -> Iterator[Path]:
    """Hold `path` as this process's own, made if it does not exist (mode 0700).

    Raises StateHeldError when another process holds it, StateError when it cannot be used or others may write to it.
    """
    shown = shown_path(path)
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        if path.stat().st_mode & 0o022:
            raise StateError(f"state directory {shown} is writable by others; chmod 700 it")
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"state directory {shown} cannot be used ({reason_of(error)})") from None
    try:
        _seize(lock, shown)
        yield path
    finally:
        os.close(lock)


def _seize(lock: int, shown: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StateHeldError(f"state directory {shown} is held by another process") from None
    except OSError as error:
        raise StateError(f"state directory {shown} cannot be locked ({reason_of(error)})") from None


class NumbersFile:
    """A few numbers, 0 or more each, that survive a crash: all old or all new."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count

    def read(self) -> tuple[int, ...] | None:
        """Return the numbers, or None when none were ever written. Raises StateError when the file is damaged."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self._path} {why_unreadable(error)}") from None
        words = raw[:_RECORD_BYTES].decode("ascii", "replace").split()
        numbers = tuple(int(word) for word in words[1:-1] if word.isdecimal())
        if raw != self._record(numbers) or len(numbers) != self._count:
            raise StateError(f"{self._path} is damaged; see docs/operations.md before you delete it")
        return numbers

    def write(self, *numbers: int, synced: bool = True) -> None:
        """Make `numbers` durable before returning.

        Where `synced` is false they survive a kill of this process, but only some time later a crash of the machine.
        Raises OSError when that fails, ValueError for numbers that `read` would not give back.
        """
        record = self._record(numbers)
        if len(numbers) != self._count or min(numbers) < 0 or len(record) != _RECORD_BYTES:
            raise ValueError(f"expected {self._count} numbers, 0 or more, that fit into {_RECORD_BYTES} bytes")
        if self._path.exists():
            _write(self._path, record, synced=synced)
            return
        # A file that is born must be born whole, or a crash would leave an empty one behind.
        # No id holds a tilde, so the name cannot be that of a record.
        newborn = self._path.with_name(self._path.name + "~")
        _write(newborn, record, synced=True)
        newborn.replace(self._path)
        sync_directory(self._path.parent)

    @staticmethod
    def _record(numbers: tuple[int, ...]) -> bytes:
        text = " ".join((_MAGIC, *map(str, numbers)))
        return f"{text} {zlib.crc32(text.encode()):08x}".ljust(_RECORD_BYTES - 1).encode() + b"\n"


def _write(path: Path, record: bytes, *, synced: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.pwrite(descriptor, record, 0) != len(record):
            raise OSError("short write")
        if synced:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
