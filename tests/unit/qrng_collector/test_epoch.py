from __future__ import annotations

from pathlib import Path

import pytest

from qrng_collector.epoch import keep_epoch, next_epoch
from qrng_grpc.errors import StateError


def test_the_first_epoch_is_now(tmp_path: Path) -> None:
    """Without state an epoch is the time in nanoseconds."""
    assert next_epoch(tmp_path, 1_700) == 1_700


@pytest.mark.parametrize("now_ns", [1_700, 1_699, 1])
def test_epochs_grow_whatever_the_clock_does(tmp_path: Path, now_ns: int) -> None:
    """A clock that stands still or was set back gives the next number all the same."""
    next_epoch(tmp_path, 1_700)
    assert next_epoch(tmp_path, now_ns) == 1_701
    assert next_epoch(tmp_path, 5_000) == 5_000


def test_a_damaged_epoch_refuses_to_start(tmp_path: Path) -> None:
    """A guess could repeat an epoch."""
    next_epoch(tmp_path, 1_700)
    file = tmp_path / "epoch"
    file.write_bytes(file.read_bytes().replace(b"1700", b"1600"))
    with pytest.raises(StateError, match="damaged"):
        next_epoch(tmp_path, 1_800)


def test_an_epoch_that_cannot_be_kept_is_not_used(tmp_path: Path) -> None:
    """Without durability two runs could share an epoch. /dev/null takes what is written and refuses to synchronise."""
    newborn = tmp_path / "epoch~"
    newborn.mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        next_epoch(tmp_path, 1_700)
    newborn.rmdir()
    newborn.symlink_to("/dev/null")
    with pytest.raises(StateError, match="cannot be written"):
        next_epoch(tmp_path, 1_700)


def test_an_epoch_kept_elsewhere_goes_on_unless_a_later_one_began(tmp_path: Path) -> None:
    """A state directory that knows less learns it; one that knows better says so."""
    assert keep_epoch(tmp_path, 7)
    assert keep_epoch(tmp_path, 7)
    assert next_epoch(tmp_path, 1) == 8
    assert not keep_epoch(tmp_path, 7)
    assert next_epoch(tmp_path, 1) == 9
