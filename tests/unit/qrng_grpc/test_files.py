"""Files are replaced as a whole, keep owner and mode, and those that others could exchange are found out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qrng_grpc.errors import ConfigError
from qrng_grpc.files import (
    FIRST_RETRY_LOOKS,
    LAST_RETRY_LOOKS,
    Watched,
    refuse_foreign,
    replace_whole,
    shown_path,
)


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    """A new file has the mode that was asked for; one that exists keeps its own, and is another file afterwards."""
    file = tmp_path / "file"
    replace_whole(file, b"first", new_mode=0o640)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o604)
    before = file.stat().st_ino
    replace_whole(file, b"second", new_mode=0o600)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"second", 0o604)
    assert file.stat().st_ino != before


def test_what_cannot_be_replaced_stays_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """A directory in its place ends the writing; the half-made file is gone."""
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        replace_whole(tmp_path / "file", b"content", new_mode=0o600)
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 - names are all that is asked


@pytest.mark.parametrize(("mode", "refused"), [(0o644, False), (0o400, False), (0o664, True), (0o602, True)])
def test_what_others_could_write_is_found_out(tmp_path: Path, mode: int, refused: bool) -> None:
    """Others may read such a file, and not write it."""
    file = tmp_path / "file"
    file.touch()
    file.chmod(mode)
    if refused:
        with pytest.raises(ValueError, match="can be changed by others"):
            refuse_foreign(file)
    else:
        refuse_foreign(file)


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing is told as that."""
    with pytest.raises(ValueError, match=r"cannot be read \(No such file or directory\)"):
        refuse_foreign(tmp_path / "missing")


@pytest.mark.parametrize(
    "path",
    ["/etc/qrng/tls/server.pem", "var/firefly-1/collector-signing-key-2", "keys/0123456789abcdef", "C0llector.key", ""],
)
def test_paths_are_shown(path: str) -> None:
    """What people call files is told as it is."""
    assert shown_path(path) == path


@pytest.mark.parametrize(
    "content",
    [
        "-----BEGIN PRIVATE KEY-----",
        "line\nline",
        "x" * 256,
        "0f" * 32,
        "K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
        "qXv3-8nM_2bTz-Lw9Rk4Ys6Uc1Hf-Gj5Dp7Ae0Bi-Zx2Vm",
    ],
)
def test_what_stands_in_place_of_a_path_is_not_shown(content: str) -> None:
    """A key, or a file's text, that somebody gave where its file is to be named."""
    assert shown_path(content) == shown_path(Path(content)) == "something unlike a path"


def test_files_that_stay_unusable_are_seldom_read(tmp_path: Path) -> None:
    """Once told they are tried again ever more seldom; a change is read as soon as it stands still, as is a reload."""
    file, reads, told = tmp_path / "file", [], []

    def read() -> str:
        reads.append(file.read_text())
        if reads[-1] != "good":
            raise ConfigError(["not good"])
        return reads[-1]

    def looks(number: int) -> int:
        """The number of reads that so many looks cost."""
        before = len(reads)
        for _ in range(number):
            watched.look()
        return len(reads) - before

    file.write_text("good")
    watched = Watched((file,), read, told.append)
    file.write_text("bad")
    assert looks(2) == 1
    assert looks(FIRST_RETRY_LOOKS - 1) == 0
    assert looks(1) == 1
    assert looks(2 * FIRST_RETRY_LOOKS - 1) == 0
    assert looks(1) == 1
    looks(2 * LAST_RETRY_LOOKS)
    assert looks(3 * LAST_RETRY_LOOKS) == 3
    file.write_text("still bad")
    assert looks(2) == 1
    assert looks(FIRST_RETRY_LOOKS) == 1
    assert told == [("not good",), ("not good",)]
    watched.reload()
    assert len(told) == 3
    file.write_text("good")
    assert looks(2) == 1
    assert watched.mistakes == ()
