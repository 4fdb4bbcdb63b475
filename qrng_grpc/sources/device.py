"""A character device or a file: `/dev/qrandom0`, `/dev/hwrng`, a recording.

Idea: what has been read is gone. A device is opened once and read forward only; a file that ends is
an error and never starts again, since that would serve its bytes twice. How far a regular file was read
is made durable before its bytes are handed out, so that the next run goes on behind them.

Devices block, and some do so in ways nobody can interrupt. So each read runs in a thread of its own,
which waits for the device *or* a wake-up of ours, one read at a time. A driver that blocks all the
same keeps one daemon thread and nothing else: neither `read` being cancelled nor `close` waits for it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import select
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from qrng_grpc.errors import SourceError, StateError
from qrng_grpc.files import why_unreadable
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device
from qrng_grpc.state import NumbersFile

CLOSE_PATIENCE_S = 1.0
"""How long `close` waits for a read that does not answer the wake-up."""
_READ_AGAIN_MS = 10
"""Pause after a device that announced bytes had none: its driver cannot be waited for."""


class DeviceSource:
    """Bytes of a character device or file.

    Its class, device id and custody are yours to state. Nothing is opened before the first read.
    `progress_dir` keeps, across runs, how far each regular file was read, by device and inode; without it a
    new source begins a file at its start, so every recording must then be given to one run only.
    Raises ValueError for a device id that is none.
    """

    def __init__(
        self,
        path: Path,
        source_class: SourceClass,
        device_id: str,
        custody: Custody = Custody.LOCAL,
        *,
        progress_dir: Path | None = None,
    ) -> None:
        self.label = one_device(device_id, source_class, custody)
        self._path = path
        self._progress_dir = progress_dir
        self._reader: _Reader | None = None
        self._turn = asyncio.Lock()
        self._running: asyncio.Future[bytes] | None = None
        self._closed = False

    async def read(self, size: int) -> bytes:
        """Return the next `size` bytes of the device.

        Raises SourceError when it cannot be opened or read, when a file ends before `size` bytes (what
        was left of it is lost), when its progress cannot be kept, and once closed. Concurrent reads take turns.
        Cancelled, it returns at once and loses what it had read.
        """
        async with self._turn:
            if self._running is not None:
                await asyncio.wait([self._running])
            if self._closed:
                raise SourceError("the source is closed")
            reader = self._reader = self._reader or self._new_reader()
            reader.wake_up.silence()
            self._running = _in_thread(partial(reader.read_exactly, size))
            try:
                return await asyncio.shield(self._running)
            except asyncio.CancelledError:
                reader.wake_up.ring()
                raise

    def _new_reader(self) -> _Reader:
        try:
            return _Reader(self._path, self._progress_dir)
        except OSError as error:  # no descriptor is left
            raise SourceError(f"the device {why_unreadable(error)}") from None

    async def close(self) -> None:
        """End a running read with SourceError and close the device.

        A driver that does not let go within `CLOSE_PATIENCE_S` keeps its descriptor until the process ends.
        """
        if self._closed:
            return
        self._closed = True
        if self._reader is None:
            return
        self._reader.wake_up.ring()
        if self._running is not None:
            _, stuck = await asyncio.wait([self._running], timeout=CLOSE_PATIENCE_S)
            if stuck:
                return
        self._reader.close()


class _WakeUp:
    """A bell that the event loop rings and a worker thread hears while it waits for a device."""

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Make `heard` return True, until it is silenced."""
        os.eventfd_write(self._bell, 1)

    def silence(self) -> None:
        """Forget earlier rings."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def heard(self, *devices: int, timeout_ms: int | None = None) -> bool:
        """Wait for a ring, for one of `devices` or for the time to pass; say whether it was a ring."""
        poll = select.poll()
        for descriptor in (self._bell, *devices):
            poll.register(descriptor, select.POLLIN)
        return any(descriptor == self._bell for descriptor, _ in poll.poll(timeout_ms))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._bell)


class _Reader:
    """The open device, and what happens to it in the worker thread."""

    def __init__(self, path: Path, progress_dir: Path | None) -> None:
        self.wake_up = _WakeUp()
        self._path = path
        self._progress_dir = progress_dir
        self._descriptor: int | None = None

    def read_exactly(self, size: int) -> bytes:
        """Read until there are `size` bytes. Raises SourceError."""
        try:
            descriptor = self._opened()
            gathered = self._gather(descriptor, size)
            self._keep_progress(descriptor)
        except (OSError, StateError) as error:
            self._drop_character_device()
            why = why_unreadable(error) if isinstance(error, OSError) else f"cannot be read ({error.message})"
            raise SourceError(f"the device {why}") from None
        return gathered

    def close(self) -> None:
        """Give the descriptors back. No read may be running."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self.wake_up.close()

    def _opened(self) -> int:
        if self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                self._resume(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def _gather(self, descriptor: int, size: int) -> bytes:
        gathered = bytearray()
        while len(gathered) < size:
            if self.wake_up.heard(descriptor):
                raise SourceError("the read was given up")
            try:
                part = os.read(descriptor, size - len(gathered))
            except BlockingIOError:
                self.wake_up.heard(timeout_ms=_READ_AGAIN_MS)
                continue
            if not part:
                self._drop_character_device()
                raise SourceError("the device or file ended")
            gathered += part
        return bytes(gathered)

    def _resume(self, descriptor: int) -> None:
        """Go on where an earlier run stopped in this very file. Raises StateError when that cannot be known."""
        progress = self._progress(descriptor)
        if progress is not None:
            (offset,) = progress.read() or (0,)
            os.lseek(descriptor, offset, os.SEEK_SET)

    def _keep_progress(self, descriptor: int) -> None:
        """Make durable how far a regular file was read, before anyone sees what was."""
        progress = self._progress(descriptor)
        if progress is not None:
            progress.write(os.lseek(descriptor, 0, os.SEEK_CUR))

    def _progress(self, descriptor: int) -> NumbersFile | None:
        file = os.fstat(descriptor)
        if self._progress_dir is None or not stat.S_ISREG(file.st_mode):
            return None
        return NumbersFile(self._progress_dir / f"read-{file.st_dev}-{file.st_ino}", 1)

    def _drop_character_device(self) -> None:
        """Let the next read open a character device anew: it may have been plugged out and in.

        Anything else has a beginning, to which opening it again would return.
        """
        if self._descriptor is not None and stat.S_ISCHR(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            self._descriptor = None


def _in_thread(work: Callable[[], bytes]) -> asyncio.Future[bytes]:
    """Run `work` in a daemon thread: unlike an executor's, it does not keep the process from ending."""
    outcome: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # the end of the thread: whatever happened belongs to who awaits it
            outcome.set_exception(error)

    outcome.set_running_or_notify_cancel()
    future = asyncio.wrap_future(outcome)
    # A cancelled reader does not come back for the outcome; look at it for him, or asyncio complains.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    threading.Thread(target=run, name="qrng-device", daemon=True).start()
    return future
