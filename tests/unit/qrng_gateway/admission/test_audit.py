"""The audit log: who was given what, on a real disk."""

from __future__ import annotations

import json
import os
import resource
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from qrng_gateway.admission.audit import MAX_TEXT, AuditLog, Entry, _LogFile, line_of
from qrng_grpc.errors import ConfigError
from qrng_grpc.labels import Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.waiting import until

UNARY = "qrng.v1.EntropyService/GetEntropy"
SOON_S = 0.005
"""How often a log of these tests writes, where it is not to be asked."""


def entry(size: int = 0, **fields: Any) -> Entry:
    """A call that went well, of `size` bytes."""
    call = Entry(
        ManualClock().now_ns(),
        "call",
        "client-1",
        UNARY,
        "ipv4:192.0.2.7:50122",
        size,
        1,
        "OK",
        SourceClass.QUANTUM,
        Processing.NONE,
    )
    return call._replace(**fields)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, each of which must be whole."""
    text = path.read_text(encoding="ascii")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def sizes(path: Path) -> list[int]:
    return [line["bytes"] for line in read(path) if line["event"] != "lost"]


def has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@asynccontextmanager
async def writing(path: Path, **options: Any) -> AsyncIterator[AuditLog]:
    audit = AuditLog(path, ManualClock(), **{"interval_s": SOON_S, **options})
    async with audit.running():
        yield audit


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_line_says_who_got_what(tmp_path: Path) -> None:
    """All that is known of a call stands in its line, under plain names."""
    path = tmp_path / "audit"
    async with writing(path) as audit:
        audit.note(entry(1024))
    assert read(path) == [
        {
            "time": "2025-01-01T00:00:00.000000Z",
            "event": "call",
            "client_id": "client-1",
            "method": UNARY,
            "peer": "ipv4:192.0.2.7:50122",
            "bytes": 1024,
            "messages": 1,
            "status": "OK",
            "source_class": "quantum",
            "processing": "none",
            "stream": None,
        }
    ]


async def test_a_stream_has_two_lines(tmp_path: Path) -> None:
    """One when it opens, one with the totals when it ends; a number shows that they belong together."""
    path = tmp_path / "audit"
    async with writing(path) as audit:
        numbers = audit.new_stream(), audit.new_stream()
        assert numbers[0] != numbers[1]
        audit.note(entry(0, event="opened", stream=numbers[0], status=None, source_class=None, messages=0))
        audit.note(entry(8192, event="ended", stream=numbers[0], messages=8))
    opened, ended = read(path)
    assert (opened["event"], opened["status"], opened["source_class"]) == ("opened", None, None)
    assert (ended["event"], ended["bytes"], ended["messages"]) == ("ended", 8192, 8)
    assert opened["stream"] == ended["stream"] == numbers[0]


def test_times_are_exact_to_the_microsecond() -> None:
    """Entries of several seconds each have their own."""
    times = (0, 999_999_999, 1_000_000_000, 1_000_001_000)
    lines = [line_of(entry(time_ns=at_ns)) for at_ns in times]
    assert [json.loads(line)["time"][-16:] for line in lines] == [
        "T00:00:00.000000Z"[-16:],
        "T00:00:00.999999Z"[-16:],
        "T00:00:01.000000Z"[-16:],
        "T00:00:01.000001Z"[-16:],
    ]


@given(st.text(st.characters(codec=None)), st.text(max_size=MAX_TEXT), st.one_of(st.none(), st.text(max_size=MAX_TEXT)))
def test_no_text_can_end_its_line_or_add_a_field(peer: str, method: str, client_id: str | None) -> None:
    """Whatever a text holds, it comes back as that one text, cut where it is too long."""
    (line,) = line_of(entry(peer=peer, method=method, client_id=client_id)).splitlines()
    said = json.loads(line)
    assert (said["peer"], said["method"], said["client_id"]) == (peer[:MAX_TEXT], method, client_id)
    assert len(said) == 11


async def test_it_writes_while_it_runs(tmp_path: Path) -> None:
    """Entries reach the file before the end, in their order, without anybody waiting for them."""
    path = tmp_path / "audit"
    async with writing(path) as audit:
        for number in range(2000):
            audit.note(entry(number))
        await until(lambda: path.read_bytes().count(b"\n") == 2000)
        assert sizes(path) == list(range(2000))


def test_what_comes_while_it_writes_is_for_the_next_time(tmp_path: Path) -> None:
    """It writes what waits and rests, however fast more comes: line by line that would cost many times as much."""
    path = tmp_path / "audit"
    audit = AuditLog(path, ManualClock())

    class Busy(_LogFile):
        def write(self, lines: bytes) -> None:
            super().write(lines)
            audit.note(entry(9))

    file = Busy(path)
    audit.note(entry(1))
    audit._write(file)
    assert sizes(path) == [1, 9]
    audit._write(file)
    file.close()
    assert sizes(path) == [1, 9, 9, 9]


async def test_nothing_is_kept_without_a_path(tmp_path: Path) -> None:
    """Without a path there is no thread, no file, and nothing is counted as lost."""
    audit = AuditLog(None)
    threads = {*threading.enumerate()}
    async with audit.running():
        audit.note(entry())
        audit.reopen()
        assert {*threading.enumerate()} <= threads
    assert (audit.enabled, audit.lost, audit.mistakes) == (False, 0, ())


async def test_the_file_is_ours_alone(tmp_path: Path) -> None:
    """A file that it makes has mode 0600, whatever the umask."""
    path = tmp_path / "audit"
    before = os.umask(0)
    try:
        async with writing(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_it_appends(tmp_path: Path) -> None:
    """What a file holds already stays."""
    path = tmp_path / "audit"
    for number in range(3):
        async with writing(path) as audit:
            audit.note(entry(number))
    assert sizes(path) == [0, 1, 2]


async def test_an_unusable_file_refuses_to_start(tmp_path: Path) -> None:
    """A directory, a pipe, a file that others may write, and one in no directory are refused, by the setting's name."""
    shared, pipe = tmp_path / "shared", tmp_path / "pipe"
    shared.touch()
    shared.chmod(0o666)
    os.mkfifo(pipe)
    for path in (tmp_path, shared, pipe, tmp_path / "nowhere" / "audit"):
        with pytest.raises(ConfigError, match="audit_log_file"):
            await AuditLog(path).running().__aenter__()


async def test_what_has_no_room_is_counted_in_the_next_line(tmp_path: Path) -> None:
    """Beyond its bound entries are lost, and the file says how many, where they would have been."""
    path = tmp_path / "audit"
    audit = AuditLog(path, ManualClock(), max_waiting=2, interval_s=SOON_S)
    for number in range(5):
        audit.note(entry(number))
    assert audit.lost == 3
    async with audit.running():
        await until(lambda: has_text(path))
        audit.note(entry(9))
    told, *rest = read(path)
    assert (told["event"], told["entries"]) == ("lost", 3)
    assert [line["bytes"] for line in rest] == [0, 1, 9]


async def test_a_renamed_file_is_followed_by_a_new_one(tmp_path: Path) -> None:
    """After a rotation, entries go into a new file at the path, and none twice or nowhere."""
    path, rotated = tmp_path / "audit", tmp_path / "audit.1"
    async with writing(path) as audit:
        audit.note(entry(1))
        await until(lambda: has_text(path))
        path.rename(rotated)
        await until(path.exists)
        audit.note(entry(2))
    assert (sizes(rotated), sizes(path)) == ([1], [2])


async def test_a_file_put_in_its_place_is_written(tmp_path: Path) -> None:
    """A rotation that makes the new file itself gets what follows."""
    path, fresh = tmp_path / "audit", tmp_path / "fresh"
    fresh.touch()
    fresh.chmod(0o640)
    async with writing(path, interval_s=3600) as audit:  # so that it is not just writing to the old one
        fresh.rename(path)
        audit.note(entry(1))
    assert sizes(path) == [1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_deleted_file_is_made_anew(tmp_path: Path) -> None:
    """A file that has vanished comes back."""
    path = tmp_path / "audit"
    async with writing(path) as audit:
        path.unlink()
        await until(path.exists)
        audit.note(entry(1))
    assert sizes(path) == [1]


async def test_asked_it_opens_the_file_at_once(tmp_path: Path) -> None:
    """`reopen`, as on SIGHUP, does not wait for the next second."""
    path, rotated = tmp_path / "audit", tmp_path / "audit.1"
    async with writing(path, interval_s=3600) as audit:
        path.rename(rotated)
        audit.note(entry(1))
        audit.reopen()
        await until(lambda: has_text(path))
        assert sizes(path) == [1]
    assert sizes(rotated) == []


async def test_a_missing_directory_stops_nothing(tmp_path: Path) -> None:
    """While the file cannot be made, entries wait and status warns; once it can, they are written and all is well."""
    directory, moved = tmp_path / "logs", tmp_path / "moved"
    directory.mkdir()
    path = directory / "audit"
    with capture_logs() as events:
        async with writing(path) as audit:
            directory.rename(moved)
            await until(lambda: audit.mistakes != ())
            audit.note(entry(1))
            assert audit.mistakes == (
                "the audit log cannot be written (No such file or directory); 0 entries are lost so far",
            )
            directory.mkdir()
            await until(lambda: audit.mistakes == ())
    assert sizes(path) == [1]
    assert [event["event"] for event in events] == ["audit_log_fails", "audit_log_works_again"]


async def test_a_full_disk_breaks_no_line(tmp_path: Path) -> None:
    """Filled up in the middle of a line, the file goes on with its rest when there is room again."""
    path = tmp_path / "audit"
    async with writing(path) as audit:
        with disk_of(1000):
            for number in range(10):
                audit.note(entry(number))
            await until(lambda: audit.mistakes != ())
            assert path.stat().st_size == 1000
            assert not path.read_bytes().endswith(b"\n")
        await until(lambda: audit.mistakes == ())
        assert sizes(path) == list(range(10))


async def test_a_line_that_was_begun_is_whole_in_the_next_file(tmp_path: Path) -> None:
    """Rotated while its last line is broken, the log writes that line whole into the new file."""
    path, rotated = tmp_path / "audit", tmp_path / "audit.1"
    async with writing(path) as audit:
        with disk_of(1000):
            for number in range(10):
                audit.note(entry(number))
            await until(lambda: audit.mistakes != ())
            path.rename(rotated)
        await until(lambda: audit.mistakes == ())
    whole = [json.loads(line)["bytes"] for line in rotated.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert whole + sizes(path) == list(range(10))


def test_a_line_that_was_tried_again_in_vain_is_whole_in_the_next_file(tmp_path: Path) -> None:
    """However often the rest of a broken line was refused, the file that follows has all of the line."""
    path, rotated = tmp_path / "audit", tmp_path / "audit.1"
    file = _LogFile(path)
    file.open()
    lines = [b'{"line":1}\n', b'{"line":2}\n', b'{"line":3}\n']
    with disk_of(15):
        for more in (lines[0] + lines[1], b"", lines[2]):
            with pytest.raises(OSError, match="File too large"):
                file.write(more)
    path.rename(rotated)
    file.follow()
    file.write(b"")
    file.close()
    assert rotated.read_bytes() == lines[0] + lines[1][:4]
    assert path.read_bytes() == lines[1] + lines[2]


async def test_what_the_disk_never_took_is_counted_at_the_end(tmp_path: Path) -> None:
    """Entries that wait when the gateway ends, and cannot be written, are lost and said to be."""
    path = tmp_path / "audit"
    with capture_logs() as events, disk_of(1000):
        async with writing(path) as audit:
            for number in range(10):
                audit.note(entry(number))
            await until(lambda: audit.mistakes != ())
            for number in range(5):
                audit.note(entry(number))
    written = path.read_bytes().count(b"\n")
    assert audit.lost == 15 - written
    assert events[-1] == {"event": "audit_entries_lost", "entries": 15 - written, "log_level": "error"}


async def test_a_thread_that_has_ended_is_told(tmp_path: Path) -> None:
    """A fault of ours, as with a clock beyond the last year there is, ends the thread; status does not conceal that."""
    ends: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, ends.append
    try:
        audit = AuditLog(tmp_path / "audit", ManualClock(10**30), max_waiting=0, interval_s=SOON_S)
        async with audit.running():
            audit.note(entry())  # is lost, and the thread tells when
            await until(lambda: audit.mistakes != ())
    finally:
        threading.excepthook = before
    assert "its thread has ended" in audit.mistakes[0]
    assert ends[0].exc_type in (OverflowError, ValueError)
