from __future__ import annotations

import base64
import os
import resource
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import pytest

from qrng_collector.epoch import next_epoch
from qrng_collector.segment import SpoolKey, read_segment
from qrng_collector.spool import MIN_SPOOL_BYTES, Kept, Spool, open_spool, read_spool_key
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel
from qrng_grpc.errors import StateError, StateHeldError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_collector.disk import START_NS, Disk

LABEL = BlockLabel(("qrng-1", "qrng-2"), SourceClass.QUANTUM, Processing.MIXED, Custody.REMOTE, HealthVerdict.PASSED)
POOL = "pool"


def block(mark: int, size: int = 40) -> Block:
    return Block(mark.to_bytes(4, "big") * (size // 4), START_NS - 5, START_NS, LABEL)


def contents(disk: Disk) -> list[tuple[int, bytes, str | None, int]]:
    """Open a spool, and return what it holds."""
    with disk.opened() as spool:
        return [told(kept) for kept in spool.take_recovered()]


def told(kept: Kept) -> tuple[int, bytes, str | None, int]:
    return kept.number, kept.block.data, kept.pool_id, kept.sequence


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_what_was_kept_comes_back(disk: Disk) -> None:
    """Blocks with their labels and times, in order; assigned ones with their identity; without what is gone."""
    with disk.opened() as spool:
        epoch = spool.epoch
        for number in range(1, 5):
            spool.keep(number, block(number), 0)
        spool.assign(POOL, {1: 1, 2: 2})
        spool.forget(1)
        spool.forget(4)
    with disk.opened() as spool:
        kept = spool.take_recovered()
        assert [told(one) for one in kept] == [(2, block(2).data, POOL, 2), (3, block(3).data, None, 0)]
        assert kept[0].block == block(2)
        assert (spool.epoch, spool.last_number, dict(spool.sequences)) == (epoch, 4, {POOL: 2})
        assert spool.take_recovered() == []


def test_sequences_go_on_when_nothing_is_left(disk: Disk) -> None:
    """A sequence is never given twice, not even those of heartbeats, and though every file they stood in is gone."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
        spool.assign(POOL, {1: 1})
        spool.forget(1)
        spool.take_sequence(POOL, 2)
        spool.take_sequence("west", 7)
    for _ in range(3):
        with disk.opened() as spool:
            assert dict(spool.sequences) == {POOL: 2, "west": 7}
    assert len(disk.segments) == 1


def test_ages_survive(disk: Disk) -> None:
    """A block that comes back is as old as the wall clock says, though the monotonic clock began anew."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    disk.clock = ManualClock(START_NS + 1_000)
    with disk.opened() as spool:
        (kept,) = spool.take_recovered()
        assert disk.clock.monotonic_ns() - kept.arrived_ns == 1_005


def test_a_block_is_not_older_than_now(disk: Disk) -> None:
    """A wall clock that was set back makes nothing younger than new."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    disk.clock = ManualClock(START_NS - 1_000)
    with disk.opened() as spool:
        (kept,) = spool.take_recovered()
        assert kept.arrived_ns == disk.clock.monotonic_ns()


def test_nothing_readable_on_disk(disk: Disk) -> None:
    """Neither data nor labels stand in a file, nor the key; and nobody else may read the files."""
    with disk.opened() as spool:
        spool.keep(1, block(0x41424344, 4096), 0)
    raw = b"".join(path.read_bytes() for path in disk.segments)
    for secret in (b"ABCDABCD", b"qrng-1", b"quantum", disk.key_file.read_bytes(), read_spool_key(disk.key_file)):
        assert secret not in raw
    assert {path.stat().st_mode & 0o777 for path in disk.segments} == {0o600}
    assert disk.spool.stat().st_mode & 0o777 == 0o700


def test_equal_blocks_never_look_equal(disk: Disk, tmp_path: Path) -> None:
    """No key meets a nonce twice: not in one segment, not after a restart, not when a copy was put back."""
    written = []
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    for twin in (disk.copy(tmp_path / "east"), disk.copy(tmp_path / "west")):
        with twin.opened() as spool:
            for _ in range(2):
                before = twin.segments[-1].stat().st_size
                spool.keep(2, block(1), 0)
                written.append(twin.segments[-1].read_bytes()[before:])
    sealed = [record[9:] for record in written]
    assert len({len(record) for record in sealed}) == 1
    for place in range(len(sealed[0]) - 8):
        assert len({record[place : place + 8] for record in sealed}) == len(sealed)


def whole_records(disk: Disk) -> tuple[bytes, list[tuple[int, list[tuple[int, bytes, str | None, int]]]]]:
    """Write a segment step by step. Returns it, and what is in the spool from which length on."""
    steps = []
    with disk.opened() as spool:
        (path,) = disk.segments

        def note() -> None:
            steps.append((path.stat().st_size, [told(kept) for kept in spool._log.blocks.values()]))

        note()
        for number in (1, 2):
            spool.keep(number, block(number, 16), 0)
            note()
        spool.assign(POOL, {1: 1})
        note()
        spool.assign(POOL, {2: 2})
        note()
        spool.forget(1)
        note()
        raw = path.read_bytes()
    return raw, steps


def test_a_torn_tail_is_cut_off(disk: Disk) -> None:
    """Cut at whichever byte, the last segment is read up to its last whole record."""
    raw, steps = whole_records(disk)
    (path,) = disk.segments
    for length in range(steps[0][0], len(raw) + 1):
        for segment in disk.segments:
            segment.unlink()
        (disk.state / "spool").unlink()
        path.touch(mode=0o600)
        path.write_bytes(raw[:length])
        assert contents(disk) == [state for size, state in steps if size <= length][-1]
    assert contents(disk) == steps[-1][1]


def test_a_segment_torn_at_its_birth_was_never_in_use(disk: Disk, tmp_path: Path) -> None:
    """A crash in the middle of beginning a segment loses nothing and is no damage; afterwards it is."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    before = disk.copy(tmp_path / "before")
    with disk.opened():
        pass
    newest = disk.segments[-1]
    head = newest.read_bytes()
    for length in (0, 1, 91, 92, 100, len(head) - 1):
        crashed = before.copy(tmp_path / f"at-{length}")
        torn = crashed.spool / newest.name
        torn.touch(mode=0o600)
        torn.write_bytes(head[:length])
        assert [number for number, *_ in contents(crashed)] == [1]
    os.truncate(newest, 50)
    with pytest.raises(StateError, match="damaged"), disk.opened():
        pass


def test_damage_anywhere_is_refused(disk: Disk) -> None:
    """Whichever bit of a whole record or of a head is flipped, the spool is refused, and the file left as it is."""
    raw, _ = whole_records(disk)
    (path,) = disk.segments
    for place in range(len(raw)):
        hurt = bytearray(raw)
        hurt[place] ^= 1 << (place % 8)
        path.write_bytes(hurt)
        with pytest.raises(StateError), disk.opened():
            pass
        assert path.read_bytes() == bytes(hurt)


def test_records_cannot_be_moved(disk: Disk) -> None:
    """A record in another place, another segment or twice is damage."""
    raw, steps = whole_records(disk)
    (path,) = disk.segments
    first, second, third = (size for size, _ in steps[:3])
    one, two = raw[first:second], raw[second:third]
    assert len(one) == len(two)
    for forged in (raw[:first] + two + one + raw[third:], raw + raw[third:], raw[:first] + raw[second:]):
        path.write_bytes(forged)
        with pytest.raises(StateError, match="damaged"), disk.opened():
            pass


def test_a_segment_cut_in_the_middle_of_the_log_is_refused(disk: Disk) -> None:
    """Only the last segment may have been written to when the program ended."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    with disk.opened() as spool:
        spool.keep(2, block(2), 0)
    first = disk.segments[0]
    os.truncate(first, first.stat().st_size - 1)
    with pytest.raises(StateError, match="damaged"), disk.opened():
        pass


def record_ends(disk: Disk, path: Path) -> list[int]:
    """Where each record of a segment ends in the file."""
    segment = read_segment(path, SpoolKey(read_spool_key(disk.key_file)))
    sizes = [record.size for record in segment.records]
    return list(accumulate(sizes, initial=segment.size - sum(sizes)))[1:]


def assigned_in_a_closed_segment(disk: Disk) -> Path:
    """Write a segment with three blocks, two of which may have been sent, and a segment behind it."""
    with disk.opened() as spool:
        for number in (1, 2, 3):
            spool.keep(number, block(number), 0)
        spool.assign(POOL, {1: 1, 2: 2})
    with disk.opened():
        pass
    return disk.segments[0]


def test_a_closed_segment_cut_between_two_records_is_refused(disk: Disk, tmp_path: Path) -> None:
    """Or what was assigned and sent would come back as never sent, and go out under another identity."""
    first = assigned_in_a_closed_segment(disk)
    *ends, whole = record_ends(disk, first)
    assert whole == first.stat().st_size
    for end in ends:
        cut = disk.copy(tmp_path / f"at-{end}")
        os.truncate(cut.segments[0], end)
        with pytest.raises(StateError, match="does not follow the segment before it"), cut.opened():
            pass
    assert [identity for *_, identity in contents(disk)] == [1, 2, 0]


def test_a_segment_missing_in_the_middle_is_refused(disk: Disk) -> None:
    """An assignment may have been in it."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    with disk.opened() as spool:
        spool.assign(POOL, {1: 1})
    with disk.opened():
        pass
    disk.segments[1].unlink()
    with pytest.raises(StateError, match="does not follow the segment before it"), disk.opened():
        pass


def test_a_segment_missing_at_the_beginning_is_refused(disk: Disk) -> None:
    """Only the spool deletes segments, and it says so in those that stay."""
    assigned_in_a_closed_segment(disk).unlink()
    with pytest.raises(StateError, match="lacks segments from 1 on"), disk.opened():
        pass


def test_a_segment_of_another_past_is_refused(disk: Disk, tmp_path: Path) -> None:
    """Though it is of this spool, whole, and of the right number."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    twin = disk.copy(tmp_path / "twin")
    for one in (disk, twin):
        for _ in range(2):
            with one.opened() as spool:
                spool.keep(2, block(2), 0)
    shutil.copy(twin.segments[1], disk.segments[1])
    with pytest.raises(StateError, match="does not follow the segment before it"), disk.opened():
        pass


def test_a_segment_that_the_next_has_outlived_is_no_gap(disk: Disk, tmp_path: Path) -> None:
    """A crash between the word that a segment goes and its going: it may be there or not."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
        spool.forget(1)
    before = disk.copy(tmp_path / "before")
    with disk.opened() as spool:
        spool.keep(2, block(2), 0)
    left = contents(disk)
    assert before.segments[0].name not in [path.name for path in disk.segments]
    assert [number for number, *_ in left] == [2]
    again = disk.copy(tmp_path / "again")
    shutil.copy(before.segments[0], again.spool)
    assert contents(again) == left


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed"])
def test_the_newest_segment_cut_short_is_refused(disk: Disk, tmp_path: Path, *, ended: bool) -> None:
    """The state directory knows how much of it was durable at the last assignment; nothing below that is a crash."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
        spool.keep(2, block(2), 0)
        before = disk.segments[-1].stat().st_size
        spool.assign(POOL, {1: 1, 2: 2})
        spool.take_sequence(POOL, 3)
        durable = disk.segments[-1].stat().st_size
        spool.keep(3, block(3), 0)
        killed = disk.copy(tmp_path / "killed")
    crashed = disk if ended else killed
    for size in (before, durable - 1):
        cut = crashed.copy(tmp_path / f"at-{size}", cut_to=size)
        with pytest.raises(StateError, match="older than the state directory says"), cut.opened():
            pass
        assert cut.segments[-1].stat().st_size == size
    if not ended:
        assert [identity for *_, identity in contents(crashed.copy(tmp_path / "torn", cut_to=durable))] == [1, 2]


def test_another_key_is_refused(disk: Disk) -> None:
    """The error says that it is the key; nothing is changed; with the right key all is there."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    right = disk.key_file.read_text()
    disk.new_key()
    with pytest.raises(StateError, match="another key than the one in spool_key_file"), disk.opened():
        pass
    disk.key_file.write_text(right)
    assert [number for number, *_ in contents(disk)] == [1]


def test_another_collector_is_refused(disk: Disk) -> None:
    """A gateway would know its chunks as another's."""
    with disk.opened():
        pass
    with (
        pytest.raises(StateError, match="another collector"),
        open_spool(
            disk.spool, disk.key_file, size=1 << 24, collector_id="other", state_dir=disk.state, clock=disk.clock
        ),
    ):
        pass


def test_an_older_copy_is_refused(disk: Disk, tmp_path: Path) -> None:
    """What it holds as never sent may have been sent since."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
    old = disk.copy(tmp_path / "old")
    with disk.opened() as spool:
        spool.assign(POOL, {1: 1})
    shutil.rmtree(disk.spool)
    shutil.copytree(old.spool, disk.spool)
    with pytest.raises(StateError, match="older than the state directory says"), disk.opened():
        pass


def test_files_of_two_spools_are_refused(disk: Disk, tmp_path: Path) -> None:
    """Even under one key."""
    with disk.opened():
        pass
    other = disk.copy(tmp_path / "other")
    shutil.rmtree(other.spool)
    with other.opened():
        pass
    shutil.copy(other.segments[0], disk.spool)
    with pytest.raises(StateError, match="another spool"), disk.opened():
        pass


def test_a_spool_left_out_for_a_run_is_over(disk: Disk) -> None:
    """Its epoch is below that of the run without it, so no gateway would take what it holds; begun anew it goes on."""
    with disk.opened() as spool:
        first = spool.epoch
        spool.keep(1, block(1), 0)
    between = next_epoch(disk.state, START_NS)
    with pytest.raises(StateError, match="epoch that is over"), disk.opened():
        pass
    for segment in disk.segments:
        segment.unlink()
    with disk.opened() as spool:
        assert first < between < spool.epoch


def test_a_spool_outlives_its_state_directory(disk: Disk) -> None:
    """The epoch is the spool's; the state directory learns it again."""
    with disk.opened() as spool:
        epoch = spool.epoch
    shutil.rmtree(disk.state)
    disk.state.mkdir(mode=0o700)
    with disk.opened() as spool:
        assert spool.epoch == epoch
    assert next_epoch(disk.state, 1) == epoch + 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_files_of_others_are_refused(disk: Disk, mode: int) -> None:
    """Neither a segment nor the directory may be open to anybody else."""
    with disk.opened():
        pass
    disk.segments[0].chmod(mode)
    with pytest.raises(StateError, match="this user alone"), disk.opened():
        pass
    disk.segments[0].chmod(0o600)
    disk.spool.chmod(mode | 0o100)
    with pytest.raises(StateError), disk.opened():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_given_away_are_refused(disk: Disk) -> None:
    """Who owns a file can change it."""
    with disk.opened():
        pass
    os.chown(disk.segments[0], 65534, -1)
    with pytest.raises(StateError, match="this user alone"), disk.opened():
        pass


def test_a_link_is_refused(disk: Disk) -> None:
    """A segment is a file of ours, wherever a link may point."""
    with disk.opened():
        pass
    target = disk.segments[0].rename(disk.directory / "elsewhere")
    (disk.spool / "0000000000000001.spool").symlink_to(target)
    with pytest.raises(StateError, match="cannot be read"), disk.opened():
        pass


def test_two_programs_never_share_a_spool(disk: Disk) -> None:
    """The second is refused."""
    with disk.opened(), pytest.raises(StateHeldError), disk.opened():
        pass


def test_what_is_gone_makes_room(disk: Disk) -> None:
    """The files never take more than `size`, however much passes through; an old block stays, with its identity."""
    size = MIN_SPOOL_BYTES
    with disk.opened(size=size) as spool:
        spool.keep(1, block(1), 0)
        spool.assign(POOL, {1: 1})
        for number in range(2, 60):
            spool.keep(number, block(number, MAX_CHUNK_BYTES), 0)
            assert spool.size == sum(path.stat().st_size for path in disk.segments) <= size
            if number > 5:
                spool.forget(number - 4)
    assert disk.segments[0].name > "0000000000000001.spool"
    kept = [(1, block(1).data, POOL, 1)]
    assert contents(disk) == kept + [(number, block(number, MAX_CHUNK_BYTES).data, None, 0) for number in range(56, 60)]


def test_a_crash_while_blocks_are_written_again(disk: Disk, tmp_path: Path) -> None:
    """At whichever byte it comes, an assigned block stays assigned: at the next start, and at the one after it."""
    little = {"size": 16 << 10, "largest_block": 60}
    with disk.opened(**little) as spool:
        spool.keep(1, block(1), 0)
        spool.assign(POOL, {1: 1})
        number, first = 1, disk.segments[0]
        while first.exists():
            number += 1
            before = disk.copy(tmp_path / f"before-{number}")
            spool.keep(number, block(number), 0)
            spool.forget(number)
    written = (disk.spool / before.segments[-1].name).read_bytes()
    start = before.segments[-1].stat().st_size
    for length in range(start, len(written) + 1):
        crashed = before.copy(tmp_path / f"at-{length}")
        crashed.segments[-1].write_bytes(written[:length])
        for _ in range(2):
            with crashed.opened(**little) as spool:
                assert told(spool.take_recovered()[0]) == (1, block(1).data, POOL, 1)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let no file grow beyond the size of `path`."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_refuses_ends_the_spool(disk: Disk) -> None:
    """Nobody knows then what is on disk; what was there before is there at the next start."""
    with disk.opened() as spool:
        spool.keep(1, block(1), 0)
        with full_disk(disk.segments[-1]), pytest.raises(StateError, match="cannot be written"):
            spool.assign(POOL, {1: 1})
        with pytest.raises(StateError, match="is closed"):
            spool.keep(2, block(2), 0)
    assert contents(disk) == [(1, block(1).data, None, 0)]


@pytest.mark.parametrize(
    "step",
    [lambda spool: spool.assign(POOL, {1: 1}), lambda spool: spool.take_sequence(POOL, 1), lambda spool: None],
    ids=["assign", "take_sequence", "close"],
)
def test_a_disk_that_does_not_synchronise_ends_the_spool(disk: Disk, step: Callable[[Spool], None]) -> None:
    """/dev/null takes what is written and keeps none of it, as a disk may: then nothing counts as assigned."""
    with pytest.raises(StateError, match=r"cannot be written \(Invalid argument\)"), disk.opened() as spool:
        spool.keep(1, block(1), 0)
        with Path(os.devnull).open("wb") as no_disk:
            os.dup2(no_disk.fileno(), spool._current._file)
        step(spool)
    assert not spool.sequences
    assert told(next(iter(spool._log.blocks.values()))) == (1, block(1).data, None, 0)


@pytest.mark.parametrize(
    "encode",
    [
        lambda key: key.hex(),
        lambda key: key.hex().upper() + "\n",
        lambda key: base64.b64encode(key).decode(),
        lambda key: base64.urlsafe_b64encode(key).decode().rstrip("="),
    ],
)
def test_a_key_file_holds_32_bytes(tmp_path: Path, encode: object) -> None:
    """As hexadecimal digits or in either base64, in a file that is nobody else's."""
    assert callable(encode)
    key, path = secrets.token_bytes(32), tmp_path / "key"
    for mode in (0o600, 0o400):
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(encode(key))
        path.chmod(mode)
        assert read_spool_key(path) == key


@pytest.mark.parametrize("content", ["", "00" * 31, "00" * 33, "zz" * 32, "A" * 42, "A" * 44, "\xff" * 64, "é" * 32])
def test_a_key_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    """Never with its content in the error."""
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^expected 32 bytes, as hexadecimal digits or in base64$"):
        read_spool_key(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o700, 0o440])
def test_a_key_file_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Mode 0600 or 0400."""
    path = tmp_path / "key"
    path.write_text("00" * 32)
    path.chmod(mode)
    with pytest.raises(ValueError, match="mode 0600 or 0400"):
        read_spool_key(path)


def test_a_key_file_is_a_file(tmp_path: Path) -> None:
    """Not a directory, nor nothing, nor a pipe that nobody writes to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (tmp_path, tmp_path / "none", pipe):
        with pytest.raises(ValueError, match=r"regular file|cannot be read"):
            read_spool_key(path)
