"""Files that an operator exchanges while a program runs, and files that hold secrets.

Idea: what was read from a set of files stays in force until the files hold something else that is usable.
A program looks at them about once a second and takes a change once it has stood still from one look to
the next, so that a half-written file is not read, or at once when it is told to.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from qrng_grpc.errors import ConfigError
from qrng_grpc.wording import reason_of

LOOK_S = 1.0
"""Seconds between two looks at the files."""
FIRST_RETRY_LOOKS = 8
LAST_RETRY_LOOKS = 600
"""After how many looks files that were found unusable are tried again, though they are as they were. It doubles."""
_LONGEST_SHOWN = 255
_LONG_WORD = re.compile(r"[\w+=-]{20,}", re.ASCII)

T = TypeVar("T")
_Stamp = tuple[tuple[int, ...] | None, ...]


class Watched(Generic[T]):
    """What `read` made of the files at `paths` when they were last usable.

    `read` raises ConfigError when they are not; `complain` is then told the mistakes, once for each state of
    the files. Raises ConfigError when they are not usable to begin with.
    """

    def __init__(
        self, paths: Sequence[Path], read: Callable[[], T], complain: Callable[[tuple[str, ...]], object]
    ) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._complain = complain
        self._taken = self._seen = self._told = self._stamp()
        self._retry_looks = self._looks_left = FIRST_RETRY_LOOKS
        self.mistakes: tuple[str, ...] = ()
        """What is wrong with the files as they are now; empty when what they hold is in force."""
        self.value = read()
        """What is in force; another object after each change."""

    def look(self) -> bool:
        """Take a change that has stood still since the last look. Say whether `value` is another now."""
        stamp, before = self._stamp(), self._seen
        self._seen = stamp
        if stamp != before or stamp == self._taken:
            return False
        if stamp != self._told:
            return self._take(stamp, tell=True)
        return self._is_due() and self._take(stamp, tell=False)

    def _is_due(self) -> bool:
        """Say whether to try again what was found unusable: time may make it usable, but to read it takes time too."""
        self._looks_left -= 1
        if self._looks_left > 0:
            return False
        self._looks_left = self._retry_looks = min(2 * self._retry_looks, LAST_RETRY_LOOKS)
        return True

    def reload(self) -> bool:
        """Take what the files hold now. Say whether `value` is another now."""
        self._seen = self._stamp()
        return self._take(self._seen, tell=True)

    def _take(self, stamp: _Stamp, *, tell: bool) -> bool:
        if tell:
            self._told = stamp
            self._retry_looks = self._looks_left = FIRST_RETRY_LOOKS
        try:
            value = self._read()
        except ConfigError as error:
            self.mistakes = tuple(error.mistakes)
            if tell:
                self._complain(self.mistakes)
            return False
        self._taken = stamp
        self.mistakes = ()
        if value == self.value:
            return False
        self.value = value
        return True

    def _stamp(self) -> _Stamp:
        return tuple(_stamp_of(path) for path in self._paths)


class UnusableFileError(ValueError):
    """A file that a setting names cannot be used. Its text says why; `path` which file, as it may be shown."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = shown_path(path)


def shown_path(path: Path | str) -> str:
    """Return a path to be shown; of what looks as if somebody had put the content of the file in its place, nothing."""
    text = str(path)
    is_one = text.isprintable() and len(text) <= _LONGEST_SHOWN and "-----BEGIN" not in text
    return text if is_one and not any(map(_could_be_a_key, _LONG_WORD.findall(text))) else "something unlike a path"


def _could_be_a_key(word: str) -> bool:
    """Say whether a long word is as one draws it, in hex, Base64 or the like, and not as one thinks of it."""
    mixed_case = not (word.islower() or word.isupper())
    return any(map(str.isdigit, word)) and (mixed_case or word.isalnum())


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Let what the block says against a file, a ValueError, be known as said of the one at `path`."""
    try:
        yield
    except ValueError as error:
        raise UnusableFileError(path, str(error)) from None


def why_unreadable(error: OSError | UnicodeError) -> str:
    """Say why a file cannot be read, in the system's words: it is not there, a directory, or not for us to read."""
    why = "not text in UTF-8" if isinstance(error, UnicodeError) else reason_of(error)
    return f"cannot be read ({why})"


def refuse_shared(path: Path) -> None:
    """Refuse a secret that others could read or exchange: ours alone, or root's and readable by a group of ours.

    Raises ValueError.
    """
    state = _state_of_ours(path)
    if stat.S_IMODE(state.st_mode) & (0o027 if state.st_uid == 0 else 0o077):
        raise ValueError("can be read or changed by others; chmod 600 it")


def refuse_foreign(path: Path) -> None:
    """Refuse what others could exchange, though they may read it: it is ours or root's, and nobody else may write.

    Raises ValueError.
    """
    if stat.S_IMODE(_state_of_ours(path).st_mode) & 0o022:
        raise ValueError("can be changed by others; chmod go-w it")


def _state_of_ours(path: Path) -> os.stat_result:
    """Return what the system says of a file that is ours or root's. Raises ValueError of any other."""
    try:
        state = path.stat()
    except OSError as error:
        raise ValueError(why_unreadable(error)) from None
    if state.st_uid not in (os.geteuid(), 0):
        raise ValueError("belongs to another user")
    return state


@contextmanager
def appearing_whole(path: Path, place: Callable[[Path, Path], object] = Path.replace) -> Iterator[BinaryIO]:
    """Yield a file of mode 0600 that appears at `path` with all that the block writes, or not at all.

    `place` puts it there, given where it lies meanwhile and `path`. Raises OSError, and what `place` raises.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:  # by a name that nobody gave
        error.filename = str(path)
        raise
    newborn = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        place(newborn, path)
    except BaseException:  # whatever ends the writing, half a file must not stay
        newborn.unlink(missing_ok=True)
        raise


def replace_whole(path: Path, content: bytes, *, new_mode: int) -> None:
    """Write `path` so that it holds all of `content` or what it held before.

    It keeps its owner and mode; a new file gets `new_mode`. A link to it stays a link. Raises OSError.
    """
    path = path.resolve()
    with appearing_whole(path) as file:
        file.write(content)
        _take_after(path, file.fileno(), new_mode)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make what was born, renamed or deleted in `path` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_after(path: Path, descriptor: int, new_mode: int) -> None:
    """Give a file owner and mode of `path`, or `new_mode` where there is no such file."""
    try:
        state = path.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, new_mode)
        return
    ours = os.fstat(descriptor)
    if (ours.st_uid, ours.st_gid) != (state.st_uid, state.st_gid):
        os.fchown(descriptor, state.st_uid, state.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(state.st_mode))


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_mode
