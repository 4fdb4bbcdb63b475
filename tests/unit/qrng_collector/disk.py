"""A spool's disk: what a test needs to open it, crash it and open what is left."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qrng_collector.spool import MIN_SPOOL_BYTES, Spool, open_spool
from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.testing.clock import ManualClock

START_NS = 1_000_000_000_000


class Disk:
    """A spool, its key, its state directory, and a clock."""

    def __init__(self, directory: Path, clock: ManualClock | None = None) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        self.state = directory / "state"
        self.key_file = directory / "spool.key"
        self.clock = clock or ManualClock(START_NS)
        if not self.key_file.exists():
            self.state.mkdir(mode=0o700, parents=True)
            self.new_key()

    def new_key(self) -> None:
        self.key_file.unlink(missing_ok=True)
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(secrets.token_hex(32))

    @contextmanager
    def opened(self, *, size: int = MIN_SPOOL_BYTES, largest_block: int = MAX_CHUNK_BYTES) -> Iterator[Spool]:
        with open_spool(
            self.spool,
            self.key_file,
            size=size,
            collector_id="lab",
            state_dir=self.state,
            clock=self.clock,
            largest_block=largest_block,
        ) as spool:
            yield spool

    @property
    def segments(self) -> list[Path]:
        return sorted(self.spool.glob("*.spool"))

    def copy(self, directory: Path, *, cut_to: int | None = None) -> Disk:
        """Copy everything as it is now, the last segment cut to `cut_to` bytes: what a crash would leave."""
        shutil.copytree(self.spool, directory / "spool", ignore=shutil.ignore_patterns("lock"))
        shutil.copytree(self.state, directory / "state")
        shutil.copy(self.key_file, directory)
        crashed = Disk(directory, self.clock)
        if cut_to is not None:
            os.truncate(crashed.segments[-1], cut_to)
        return crashed
