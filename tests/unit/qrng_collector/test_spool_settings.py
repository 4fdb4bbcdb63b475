from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.collector_settings import loaded, mistakes


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "spool.key"
    path.touch(mode=0o600)
    path.write_text("5a" * 32)
    return path


def test_there_is_no_spool_unless_asked_for() -> None:
    """What waits then waits in memory only."""
    assert loaded().spool_dir is None


def test_a_spool_needs_a_directory_and_a_key(key_file: Path) -> None:
    """With both it is accepted."""
    config = loaded(SPOOL_DIR="spool", SPOOL_KEY_FILE=str(key_file))
    assert (config.spool_dir, config.spool_key_file, config.spool_size) == (Path("spool"), key_file, 64 << 20)


def test_half_a_spool_is_refused(key_file: Path) -> None:
    """A key without a directory would protect nothing, a directory without a key would be readable."""
    assert mistakes(SPOOL_DIR="spool") == ("spool_key_file: required with spool_dir",)
    assert mistakes(SPOOL_KEY_FILE=str(key_file)) == ("spool_key_file: has no effect without spool_dir",)


def test_the_spool_is_not_the_state_directory(key_file: Path) -> None:
    """Each has a lock of its own."""
    assert mistakes(SPOOL_DIR="./state", SPOOL_KEY_FILE=str(key_file)) == ("spool_dir: must not be state_dir itself",)


def test_an_unsafe_key_is_refused(key_file: Path) -> None:
    """Before anything starts, and without its content."""
    key_file.chmod(0o644)
    (mistake,) = mistakes(SPOOL_DIR="spool", SPOOL_KEY_FILE=str(key_file))
    assert mistake == f"spool_key_file: {key_file}: must belong to this user and have mode 0600 or 0400"


def test_a_key_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    """With its path, unless that looks as if somebody had put the key itself there."""
    gone = "cannot be read (No such file or directory)"
    path = tmp_path / "gone.key"
    assert mistakes(SPOOL_DIR="spool", SPOOL_KEY_FILE=str(path)) == (f"spool_key_file: {path}: {gone}",)
    key = secrets.token_hex(32)
    assert mistakes(SPOOL_DIR="spool", SPOOL_KEY_FILE=key) == (f"spool_key_file: something unlike a path: {gone}",)


def test_a_spool_holds_the_queue(key_file: Path) -> None:
    """At least four times, since what is gone takes room until it is cleaned up."""
    given = {"SPOOL_DIR": "spool", "SPOOL_KEY_FILE": str(key_file)}
    assert mistakes(**given, BUFFER_SIZE=str(1 << 25)) == ("spool_size: must be at least four times buffer_size",)
    assert mistakes(SPOOL_SIZE="16777215") == ("spool_size: expected 16777216 or more",)
    assert loaded(BUFFER_SIZE=str(1 << 25)).spool_dir is None
    assert loaded(**given, BUFFER_SIZE=str(1 << 25), SPOOL_SIZE=str(1 << 27)).spool_size == 1 << 27
