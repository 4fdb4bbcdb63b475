"""The audit log: who was given how much of what, one JSON object a line.

Idea: a handler appends a line to a list and goes on; once a second a thread of the log's own writes what has come
together. So no call waits for a disk, and a disk that fails or hangs stops no service: lines are kept for it while
there is room for them, then counted, and the next one that can be written says how many are missing.

The handler makes the line, not the thread: what it is about is in the processor's caches then, and calls that come
later do not wait for a thread that makes thousands. Most of it stood in the line before, too, so that it costs a
microsecond.

The thread makes sure that the file is the one at its path: renamed or deleted, as logs are rotated, it is opened anew.
Lines are whole in whatever file they land in. A line holds ids, numbers and names of ours, and of
what a peer sends nothing but its address; every text is escaped, so that none can end its line or add a field.
There is no field that could hold entropy or a key.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Literal, NamedTuple

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import ConfigError
from qrng_grpc.labels import Processing, SourceClass
from qrng_grpc.logs import get_log
from qrng_grpc.wording import reason_of

WRITE_EVERY_S = 1.0
MAX_WAITING = 32_768
"""Lines that wait for the disk at most: more than a second of the fastest calls, and ten megabytes."""
CLOSE_S = 5.0
"""How long the end of the gateway waits for the last entries to be written."""
MAX_TEXT = 256
"""Characters of a text from outside that are written."""
_LINES_AT_ONCE = 256
"""Few enough that to join and to write them, a tenth of a millisecond, holds up no call noticeably."""
_PAUSE_S = 0.0005
"""Between them the thread lets go of interpreter and core, or calls would wait for all that a second brought."""
_KINDS = 1024
"""Lines, without their times, that are known: more than there are connections that ask the same again and again."""

Event = Literal["call", "opened", "ended"]


class Entry(NamedTuple):
    """What is written of a call when it ends, and of a stream when it opens (`opened`) and ends (`ended`).

    `time_ns` is that of the event, in nanoseconds of Unix time. `peer` names the connection as grpc does
    (`ipv4:192.0.2.7:50122`). Of what is not known, or not yet, the entry has None; `stream` is the number that the two
    entries of one stream share.
    """

    time_ns: int
    event: Event
    client_id: str | None
    method: str
    peer: str
    size: int
    """Bytes of entropy handed out; of a stream, in all."""
    messages: int
    """Messages they were in."""
    status: str | None
    """The name of a gRPC status, or the number of an HTTP one; None of a stream that goes on."""
    source_class: SourceClass | None = None
    processing: Processing | None = None
    stream: int | None = None


class AuditLog:
    """The audit log at `path`; without a path, none is kept. It takes entries from within `running` on.

    It writes every `interval_s` seconds, and keeps `max_waiting` entries at most until they are written.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Clock = SYSTEM_CLOCK,
        *,
        interval_s: float = WRITE_EVERY_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.enabled = path is not None
        """Whether entries are worth making."""
        self.lost = 0
        """Entries that were never written, since there was no room for them."""
        self._file = None if path is None else _LogFile(path)
        self._clock = clock
        self._interval_s = interval_s
        self._max_waiting = max_waiting if self.enabled else 0
        self._waiting: deque[str] = deque()
        self._lost_told = 0
        self._streams = 0
        self._asked = threading.Event()
        self._ending = False

    @property
    def mistakes(self) -> tuple[str, ...]:
        """What is wrong now, for the warnings in status."""
        if self._file is None or self._file.fault is None:
            return ()
        return (f"the audit log cannot be written ({self._file.fault}); {self.lost} entries are lost so far",)

    def note(self, entry: Entry) -> None:
        """Keep `entry` to be written, or count it as lost. Never waits, and fails only beyond the year 9999."""
        if len(self._waiting) < self._max_waiting:
            self._waiting.append(line_of(entry))
        elif self.enabled:
            self.lost += 1

    def new_stream(self) -> int:
        """Return a number that no other stream of this run has."""
        self._streams += 1
        return self._streams

    def reopen(self) -> None:
        """Write what waits, into the file that is at the path then, now and not at the next second."""
        self._asked.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while the block runs, and the rest at its end.

        Raises ConfigError when the file cannot be opened to begin with. A disk that hangs is not waited for any
        longer than a few seconds.
        """
        file = self._file
        if file is None:
            yield
            return
        try:
            file.open()
        except OSError as error:
            raise ConfigError([f"audit_log_file: cannot be appended to ({reason_of(error)})"]) from None
        # A daemon, so that a disk that hangs for ever does not keep the process from ending.
        thread = threading.Thread(target=self._run, args=(file,), name="audit", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending = True
            self._asked.set()
            await asyncio.to_thread(thread.join, CLOSE_S)
            self.lost += len(self._waiting) + file.unwritten
            if self.lost:
                get_log().error("audit_entries_lost", entries=self.lost)

    def _run(self, file: _LogFile) -> None:
        """Write until the log ends. In its own thread."""
        try:
            while not self._ending:
                self._asked.wait(self._interval_s)
                self._asked.clear()
                self._write(file)
            self._write(file)
        finally:
            file.close()
            file.fault = file.fault or "its thread has ended"

    def _write(self, file: _LogFile) -> None:
        """Write what waits, as far as the disk takes it."""
        failed = file.fault is not None
        try:
            file.follow()
            file.write(b"")  # what is left of the last lines
            left = len(self._waiting)  # what comes meanwhile comes one by one, and is for the next time
            while left > 0 or self.lost != self._lost_told:
                file.write(self._next_lines())
                left -= _LINES_AT_ONCE
                if not self._ending:
                    time.sleep(_PAUSE_S)
        except OSError as error:
            file.fault = reason_of(error)
            if not failed:
                get_log().error("audit_log_fails", error=file.fault)
        else:
            file.fault = None
            if failed:
                get_log().info("audit_log_works_again", lost_entries=self.lost)

    def _next_lines(self) -> bytes:
        """Take some lines out of the queue."""
        lines = []
        lost = self.lost
        if lost != self._lost_told:
            lines.append(_lost_line(self._clock.now_ns(), lost - self._lost_told))
            self._lost_told = lost
        lines += [self._waiting.popleft() for _ in range(min(_LINES_AT_ONCE, len(self._waiting)))]
        return "".join(lines).encode("ascii")


class _LogFile:
    """A file that lines are appended to. What could not be written stays, and is written first the next time."""

    def __init__(self, path: Path) -> None:
        self.fault: str | None = None
        """Why it cannot be written; None while it can."""
        self._path = path
        self._descriptor = -1
        self._lines = b""
        self._written = 0

    def open(self) -> None:
        """Open the file at the path, made with mode 0600 if there is none. Raises OSError.

        It must be a regular file that nobody else may write: entries of others would be taken for ours.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(self._path, flags | os.O_NONBLOCK, 0o600)  # a pipe without a reader must not block us
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o022:
            os.close(descriptor)
            raise PermissionError("not a regular file that is ours alone to write")
        self.close()
        self._descriptor = descriptor
        self._written = self._whole  # A line of which the last file has the beginning is written whole into this one.

    def follow(self) -> None:
        """Open the file at the path if it is another than ours, or gone. Raises OSError."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self.open()
        else:
            if self._descriptor < 0 or not os.path.samestat(state, os.fstat(self._descriptor)):
                self.open()

    def write(self, lines: bytes) -> None:
        """Append `lines`. Raises OSError; what is not written yet is kept, and `lines` belongs to it."""
        whole = self._whole
        self._lines = self._lines[whole:] + lines
        self._written -= whole
        while self._written < len(self._lines):
            self._written += os.write(self._descriptor, memoryview(self._lines)[self._written :])

    @property
    def _whole(self) -> int:
        """Where in `_lines` the line begins that is not written whole yet."""
        return self._lines.rfind(b"\n", 0, self._written) + 1

    @property
    def unwritten(self) -> int:
        """Lines that are not written yet, or not whole."""
        return self._lines.count(b"\n", self._written)

    def close(self) -> None:
        """Close the file, if one is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def line_of(entry: Entry) -> str:
    """Return `entry` as a JSON object and a line feed, in ASCII."""
    return f'{{"time":"{_moment(entry.time_ns)}",{_fields(*entry[1:])}}}\n'


@lru_cache(_KINDS)
def _fields(  # noqa: PLR0917 - those of an entry, in its order
    event: Event,
    client_id: str | None,
    method: str,
    peer: str,
    size: int,
    messages: int,
    status: str | None,
    source_class: SourceClass | None,
    processing: Processing | None,
    stream: int | None,
) -> str:
    """Return the fields of an entry that follow its time."""
    return (
        f'"event":"{event}","client_id":{_text(client_id)},"method":{_text(method)},"peer":{_text(peer)},'
        f'"bytes":{size},"messages":{messages},"status":{_text(status)},"source_class":{_value(source_class)},'
        f'"processing":{_value(processing)},"stream":{"null" if stream is None else stream}'
    )


def _lost_line(now_ns: int, entries: int) -> str:
    return f'{{"time":"{_moment(now_ns)}","event":"lost","entries":{entries}}}\n'


def _moment(unix_ns: int) -> str:
    at_s, rest_ns = divmod(unix_ns, NS_PER_S)
    return f"{_second(at_s)}.{rest_ns // 1000:06d}Z"


@lru_cache(2)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _text(text: str | None) -> str:
    return "null" if text is None else quoted(text[:MAX_TEXT])


def _value(label: SourceClass | Processing | None) -> str:
    return "null" if label is None else f'"{label.value}"'
