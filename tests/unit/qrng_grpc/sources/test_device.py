"""Devices and files: exact, forward only, and never in the way of the event loop."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources.device import DeviceSource


def source_of(path: Path, **arguments: Any) -> DeviceSource:
    return DeviceSource(path, SourceClass.HARDWARE, "dev-0", **arguments)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe that both blocks and never ends, and the descriptor to write to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield path, writer
    os.close(writer)


def test_label_is_as_stated(tmp_path: Path) -> None:
    """Class, device id and custody are the operator's statement."""
    label = source_of(tmp_path / "x", custody=Custody.REMOTE).label
    assert (label.device_ids, label.source_class, label.custody) == (("dev-0",), SourceClass.HARDWARE, Custody.REMOTE)
    assert source_of(tmp_path / "x").label.custody is Custody.LOCAL
    with pytest.raises(ValueError, match="device id"):
        DeviceSource(tmp_path / "x", SourceClass.HARDWARE, "dev 0")


@pytest.mark.parametrize("size", [1, 4097, 1 << 20])
async def test_character_device_is_read_exactly(size: int) -> None:
    """A character device gives as many bytes as are asked for."""
    source = source_of(Path("/dev/urandom"))
    assert len(await source.read(size)) == size
    await source.close()


async def test_without_a_descriptor_left_a_read_fails_and_the_next_one_may_not() -> None:
    """A process that has all descriptors it may have gets a SourceError, and its bytes once there is room again."""
    source = source_of(Path("/dev/urandom"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    for room in range(2):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, hard))
        try:
            with pytest.raises(SourceError, match="Too many open files"):
                await source.read(16)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(await source.read(16)) == 16
    await source.close()


async def test_file_is_read_forward_once(tmp_path: Path) -> None:
    """Reads of a file follow one another; its end is an error, and stays one."""
    path = tmp_path / "recording"
    path.write_bytes(bytes(range(100)))
    source = source_of(path)
    assert await source.read(60) == bytes(range(60))
    assert await source.read(40) == bytes(range(60, 100))
    for _ in range(3):
        with pytest.raises(SourceError, match="ended"):
            await source.read(1)
    await source.close()


async def test_rest_of_a_file_is_not_served_short_or_twice(tmp_path: Path) -> None:
    """A file that ends within a read gives an error instead of fewer bytes, and what was read is lost."""
    path = tmp_path / "recording"
    path.write_bytes(bytes(100))
    source = source_of(path)
    for size in (101, 10):
        with pytest.raises(SourceError, match="ended"):
            await source.read(size)
    await source.close()


async def test_next_run_goes_on_behind_what_was_read(tmp_path: Path) -> None:
    """A recording's bytes are read once, however often the program starts and whatever it read in between."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"onetwothree")
    second.write_bytes(b"new")
    for path, expected in ((first, b"one"), (first, b"two"), (second, b"new"), (first, b"three")):
        source = source_of(path, progress_dir=tmp_path)
        assert await source.read(len(expected)) == expected
        await source.close()


async def test_file_whose_progress_is_not_known_is_not_read(tmp_path: Path) -> None:
    """A damaged or unwritable note of how far a file was read hands out nothing, however often one asks."""
    path = tmp_path / "recording"
    path.write_bytes(b"onetwothree")
    status = path.stat()
    (tmp_path / f"read-{status.st_dev}-{status.st_ino}").write_bytes(b"damaged")
    damaged = source_of(path, progress_dir=tmp_path)
    unwritable = source_of(path, progress_dir=tmp_path / "missing")
    for source in (damaged, damaged, unwritable):
        with pytest.raises(SourceError):
            await source.read(3)
    for source in (damaged, unwritable):
        await source.close()


async def test_file_that_grows_goes_on(tmp_path: Path) -> None:
    """What is appended later is read later, and nothing before it again."""
    path = tmp_path / "recording"
    path.write_bytes(b"one")
    source = source_of(path)
    assert await source.read(3) == b"one"
    with path.open("ab") as file:
        file.write(b"two")
    assert await source.read(3) == b"two"
    await source.close()


async def test_concurrent_reads_take_turns(tmp_path: Path) -> None:
    """Reads at the same time share no byte and leave none out."""
    path = tmp_path / "recording"
    content = b"".join(number.to_bytes(4, "big") for number in range(1000))
    path.write_bytes(content)
    source = source_of(path)
    pieces = await asyncio.gather(*(source.read(400) for _ in range(10)))
    assert b"".join(pieces) == content
    await source.close()


@pytest.mark.parametrize("name", ["missing", "."])
async def test_what_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    """A path that is not there or a directory is a SourceError that says so in words."""
    source = source_of(tmp_path / name)
    with pytest.raises(SourceError, match=r"\(No such file or directory\)|\(Is a directory\)"):
        await source.read(1)
    await source.close()


async def test_device_that_appears_later_is_read(tmp_path: Path) -> None:
    """A device that was missing is opened by the next read."""
    path = tmp_path / "late"
    source = source_of(path)
    with pytest.raises(SourceError, match=r"\(No such file or directory\)"):
        await source.read(1)
    path.write_bytes(b"x")
    assert await source.read(1) == b"x"
    await source.close()


async def test_device_that_is_unplugged_is_told(tmp_path: Path) -> None:
    """A device that goes away is a SourceError, and later reads look for it anew."""
    master, slave = os.openpty()
    tty.setraw(slave)
    path = tmp_path / "device"
    path.symlink_to(os.ttyname(slave))
    source = source_of(path)
    os.write(master, b"abc")
    assert await source.read(3) == b"abc"
    os.close(slave)
    os.close(master)
    path.unlink()  # the terminal it led to may be somebody else's by now
    with pytest.raises(SourceError, match=r"cannot be read \(Input/output error\)|ended"):
        await source.read(1)
    with pytest.raises(SourceError, match=r"\(No such file or directory\)"):
        await source.read(1)
    await source.close()


async def test_bytes_are_awaited_without_blocking(pipe: tuple[Path, int]) -> None:
    """While a device has too little, the event loop goes on; the read ends when the rest has come."""
    path, writer = pipe
    source = source_of(path)
    read = asyncio.create_task(source.read(6))
    os.write(writer, b"abc")
    await asyncio.to_thread(int)  # the loop and its threads are free
    assert not read.done()
    os.write(writer, b"def")
    assert await read == b"abcdef"
    await source.close()


async def test_cancelled_read_leaves_the_source_usable(pipe: tuple[Path, int]) -> None:
    """A cancelled read ends at once; the next one reads what comes then, without what was lost."""
    path, writer = pipe
    source = source_of(path)
    read = asyncio.create_task(source.read(4))
    await asyncio.to_thread(int)
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    later = asyncio.create_task(source.read(4))
    os.write(writer, b"wxyz")
    assert await later == b"wxyz"
    await source.close()


async def test_close_ends_a_blocked_read(pipe: tuple[Path, int]) -> None:
    """Closing a source whose device is silent ends the read that waits for it."""
    source = source_of(pipe[0])
    read = asyncio.create_task(source.read(1))
    await asyncio.to_thread(int)
    await source.close()
    with pytest.raises(SourceError):
        await read
    await source.close()
    with pytest.raises(SourceError, match="closed"):
        await source.read(1)


def test_nothing_stays_open(tmp_path: Path) -> None:
    """A source that is closed, read or not, has given back its descriptors."""

    async def read_and_close() -> None:
        for path in (Path("/dev/urandom"), tmp_path / "gone"):
            source = source_of(path)
            with suppress(SourceError):
                await source.read(1)
            await source.close()
        await source_of(tmp_path / "never-read").close()

    before = set(Path("/proc/self/fd").iterdir())
    asyncio.run(read_and_close())
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_process_ends_though_a_read_is_open(tmp_path: Path) -> None:
    """A program that ends without closing a silent device is not kept alive by it."""
    os.mkfifo(tmp_path / "pipe")
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from qrng_grpc.labels import SourceClass\n"
        "from qrng_grpc.sources.device import DeviceSource\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "writer = os.open(path, os.O_RDWR)\n"
        "async def main():\n"
        "    source = DeviceSource(path, SourceClass.HARDWARE, 'd')\n"
        "    read = asyncio.create_task(source.read(1))\n"
        "    await asyncio.to_thread(int)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "pipe")], timeout=30, check=False)
    assert ended.returncode == 0
