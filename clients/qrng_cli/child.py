"""A child process that cannot outlive us unnoticed.

Idea: each child leads a process group of its own, so that Ctrl-C reaches us alone and we choose the order
of the end. It holds the reading end of a pipe whose writing end is ours only: however we end, by SIGKILL
too, the pipe closes and the child drains as with SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

from qrng_grpc.errors import QrngError


class ChildEndedError(QrngError):
    """A child process ended before it was told to, or did not end well."""

    reason = "CHILD_ENDED"


@dataclass(frozen=True, slots=True)
class Command:
    """A `qrng` subcommand to run, and how many seconds it may take to drain before it is killed."""

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    drain_s: float


class Child:
    """A running child."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process

    async def ended(self) -> NoReturn:
        """Wait until the child ends of its own accord. Always raises: ChildEndedError."""
        code = await self._process.wait()
        how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
        raise ChildEndedError(f"the {self._name} ended {how}; its last lines above say why")

    async def drain(self, limit_s: float) -> str | None:
        """Tell the child to end, and wait. Returns what went wrong: it had to be killed, or ended badly."""
        if self._process.returncode is not None:
            return None
        self._process.terminate()
        try:
            async with asyncio.timeout(limit_s):
                code = await self._process.wait()
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            return f"the {self._name} did not end in {limit_s:.0f} s and was killed"
        # So young a child that it does not handle the signal yet has nothing to drain.
        well = code in (0, -signal.SIGTERM)
        return None if well else f"the {self._name} ended with exit code {code}"


@asynccontextmanager
async def running(command: Command) -> AsyncIterator[Child]:
    """Run `command` while the block runs, then drain it. Raises ChildEndedError when it ends badly."""
    ours_to_read, ours_to_hold = os.pipe()
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "qrng_cli.main", command.name, *command.arguments),
                *("--end-with-fd", str(ours_to_read)),
                env=command.environ,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(ours_to_read,),
                start_new_session=True,
            )
        finally:
            os.close(ours_to_read)
        child = Child(command.name, process)
        try:
            yield child
        finally:
            complaint = await child.drain(command.drain_s)
        if complaint is not None:
            raise ChildEndedError(complaint)
    finally:
        os.close(ours_to_hold)
