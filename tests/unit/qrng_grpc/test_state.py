"""State directories and number files: one owner, all or nothing, damage refused."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qrng_grpc.errors import StateError
from qrng_grpc.state import NumbersFile, state_directory

NOBODY = 65534


def test_directory_is_made_private(tmp_path: Path) -> None:
    """A state directory that did not exist is made for its owner alone."""
    with state_directory(tmp_path / "a" / "b") as held:
        assert held.stat().st_mode & 0o777 == 0o700


def test_second_owner_is_refused(tmp_path: Path) -> None:
    """While one holds a directory nobody else gets it; afterwards they do."""
    held = state_directory(tmp_path / "s")
    held.__enter__()
    with pytest.raises(StateError, match="another process"), state_directory(tmp_path / "s"):
        raise AssertionError("held twice")
    held.__exit__(None, None, None)
    with state_directory(tmp_path / "s"):
        pass


def test_owner_of_another_process_is_refused(tmp_path: Path) -> None:
    """The lock holds between processes, and the death of its owner frees it."""
    program = (
        "import sys, pathlib\n"
        "from qrng_grpc.state import state_directory\n"
        "with state_directory(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "s")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match="another process"), state_directory(tmp_path / "s"):
            raise AssertionError("held twice")
        owner.kill()
    with state_directory(tmp_path / "s"):
        pass


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o722, 0o777])
def test_directory_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Where others could put a record of theirs, none is kept."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(mode)
    with pytest.raises(StateError, match="chmod 700"), state_directory(tmp_path / "s"):
        raise AssertionError("held")


def test_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """A file in the place of the directory is a StateError."""
    (tmp_path / "s").write_text("")
    with pytest.raises(StateError) as refusal, state_directory(tmp_path / "s"):
        raise AssertionError("held")
    assert refusal.value.message == f"state directory {tmp_path / 's'} cannot be used (File exists)"


def test_what_is_unlike_a_path_is_not_shown(tmp_path: Path) -> None:
    """Somebody may have put a key where the directory should be."""
    key = secrets.token_hex(200)
    with pytest.raises(StateError) as refusal, state_directory(tmp_path / key):
        raise AssertionError("held")
    assert refusal.value.message == "state directory something unlike a path cannot be used (File name too long)"


def test_errors_of_the_owner_are_its_own(tmp_path: Path) -> None:
    """An exception inside the block comes out as it is, whatever its kind."""
    with pytest.raises(BlockingIOError), state_directory(tmp_path / "s"):
        raise BlockingIOError


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4), st.integers(0, 2**63 - 1), st.booleans())
def test_numbers_survive(tmp_path: Path, numbers: list[int], later: int, synced: bool) -> None:
    """What was written last is what is read, the first time and after, synced or not."""
    file = NumbersFile(tmp_path / "numbers", len(numbers))
    file.write(*numbers, synced=synced)
    assert file.read() == tuple(numbers)
    file.write(*[later] * len(numbers), synced=synced)
    assert file.read() == (later,) * len(numbers)


def test_no_numbers_yet(tmp_path: Path) -> None:
    """A file that was never written is told from one that is damaged."""
    assert NumbersFile(tmp_path / "numbers", 2).read() is None


def test_record_is_private_and_smaller_than_a_sector(tmp_path: Path) -> None:
    """A record is 128 bytes that only its owner may read."""
    NumbersFile(tmp_path / "numbers", 2).write(1, 2)
    status = (tmp_path / "numbers").stat()
    assert (status.st_size, status.st_mode & 0o777) == (128, 0o600)


def test_damage_of_every_byte_is_refused(tmp_path: Path) -> None:
    """Whichever byte of a record changes, and to whatever, it is refused and not guessed at."""
    path = tmp_path / "numbers"
    file = NumbersFile(path, 2)
    file.write(1735689600000000000, 42)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for other in {0x00, 0x20, 0x31, 0x0A, 0xFF, whole[place] ^ 1} - {whole[place]}:
            path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            with pytest.raises(StateError, match="damaged"):
                file.read()


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"qrng-state-1", b"qrng-state-1 " + b"1" * 5000 + b" 00000000", bytes(128), b"\xff" * 128],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty, cut, foreign or huge file is damaged, not new."""
    (tmp_path / "numbers").write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        NumbersFile(tmp_path / "numbers", 1).read()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A record cut anywhere, or followed by anything, is damaged."""
    path = tmp_path / "numbers"
    file = NumbersFile(path, 1)
    file.write(7)
    whole = path.read_bytes()
    for content in [*(whole[:length] for length in range(len(whole))), whole + b"\n"]:
        path.write_bytes(content)
        with pytest.raises(StateError, match="damaged"):
            file.read()


def test_record_of_another_count_is_refused(tmp_path: Path) -> None:
    """A record of three numbers is not read as one of two."""
    NumbersFile(tmp_path / "numbers", 3).write(1, 2, 3)
    with pytest.raises(StateError, match="damaged"):
        NumbersFile(tmp_path / "numbers", 2).read()


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2, 3), (-1, 2), (1, 10**120)])
def test_unreadable_records_are_not_written(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    """What could not be read again is refused before it replaces what can."""
    file = NumbersFile(tmp_path / "numbers", 2)
    file.write(1, 2)
    with pytest.raises(ValueError, match="numbers"):
        file.write(*numbers)
    assert file.read() == (1, 2)


def test_unreadable_file_is_told(tmp_path: Path) -> None:
    """A record that cannot be read at all is a StateError, not a fresh start."""
    (tmp_path / "numbers").mkdir()
    with pytest.raises(StateError) as refusal:
        NumbersFile(tmp_path / "numbers", 1).read()
    assert refusal.value.message == f"{tmp_path / 'numbers'} cannot be read (Is a directory)"


def test_birth_is_whole(tmp_path: Path) -> None:
    """What a crash left of a first write is passed over, and the next first write replaces it."""
    file = NumbersFile(tmp_path / "numbers", 1)
    (tmp_path / "numbers~").write_bytes(b"qrng-sta")
    assert file.read() is None
    file.write(9)
    assert file.read() == (9,)
    assert os.listdir(tmp_path) == ["numbers"]  # noqa: PTH208


def test_births_of_neighbours_do_not_meet(tmp_path: Path) -> None:
    """Files whose names differ after a dot only do not share the place where they are born."""
    NumbersFile(tmp_path / "lab.new", 1).write(1)
    NumbersFile(tmp_path / "lab.2", 1).write(2)
    assert NumbersFile(tmp_path / "lab.new", 1).read() == (1,)
    assert NumbersFile(tmp_path / "lab.2", 1).read() == (2,)


NO_DISK = Path("/dev/null")
"""Takes every write, and refuses to synchronise: what is on no disk cannot be durable."""


@pytest.mark.parametrize("name", ["numbers", "numbers~"], ids=["later", "at birth"])
def test_a_write_that_could_not_be_made_durable_is_told(tmp_path: Path, name: str) -> None:
    """No number counts before it has reached the disk, and no file is born before its first ones have."""
    (tmp_path / name).symlink_to(NO_DISK)
    with pytest.raises(OSError, match="Invalid argument"):
        NumbersFile(tmp_path / "numbers", 1).write(1)
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


def test_a_write_that_need_not_be_durable_does_not_wait_for_it(tmp_path: Path) -> None:
    """Unless it is the first: a crash must not leave an empty file behind."""
    (tmp_path / "numbers").symlink_to(NO_DISK)
    NumbersFile(tmp_path / "numbers", 1).write(1, synced=False)
    (tmp_path / "numbers").rename(tmp_path / "numbers~")
    with pytest.raises(OSError, match="Invalid argument"):
        NumbersFile(tmp_path / "numbers", 1).write(1, synced=False)


def test_a_birth_that_could_not_be_made_durable_is_told() -> None:
    """A file of which the directory may not know after a crash is not there yet."""
    with unreadable_directory() as directory, pytest.raises(PermissionError):
        NumbersFile(directory / "numbers", 1).write(1)


@contextmanager
def unreadable_directory() -> Iterator[Path]:
    """Return a directory where files can be made and found, but which cannot be opened, so not synchronised."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o300)
        if user == 0:  # who may do everything steps down
            os.chown(directory, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield directory
        finally:
            os.seteuid(user)
            directory.chmod(0o700)


def test_failed_write_is_told(tmp_path: Path) -> None:
    """A write that could not be made raises OSError: the caller must not go on as if it had."""
    with pytest.raises(OSError, match="No such file"):
        NumbersFile(tmp_path / "gone" / "numbers", 1).write(1)
