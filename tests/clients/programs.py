"""Other people's programs: found, run as subprocesses within a time, read.

Idea: a program gets nothing of this machine but its search path. Its environment is given, its home is
empty, and it ends with the block that started it, together with whatever it started itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).parents[2]
PROTOS = REPOSITORY / "protos"
NODE_TESTS = Path(__file__).parent / "node"
NODE_MODULES = NODE_TESTS / "node_modules"
EXAMPLES = REPOSITORY / "clients" / "examples"
REQUIRED_BY = ("QRNG_REQUIRE_CLIENTS", "CI")
"""With one of these in the environment, a program that is absent fails its tests; otherwise it skips them."""

_SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


@dataclass(frozen=True)
class Outcome:
    """How a program ended and what it wrote."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


def program(name: str) -> str:
    """Return the path of `name`, from this virtual environment before any other."""
    found = shutil.which(name, path=_SEARCH_PATH)
    return found or _absent(f"{name} is not installed")


def node() -> str:
    """Return the path of Node once the packages of tests/clients/node are installed."""
    if not (NODE_MODULES / "@grpc" / "grpc-js").is_dir():
        _absent("the packages of tests/clients/node are not installed")
    return program("node")


async def run(
    *argv: str | Path,
    env: Mapping[str, str],
    stdin: str | None = None,
    cwd: Path | None = None,
    limit_s: float = 40.0,
) -> Outcome:
    """Run a program to its end, in `cwd`. Raises TimeoutError, and ends it, after `limit_s` seconds."""
    stdin_kind = DEVNULL if stdin is None else PIPE
    async with started(*argv, env=env, stdin=stdin_kind, cwd=cwd) as process, asyncio.timeout(limit_s):
        stdout, stderr = await process.communicate(None if stdin is None else stdin.encode())
        return _outcome(process, stdout, stderr)


@asynccontextmanager
async def started(
    *argv: str | Path, env: Mapping[str, str], stdin: int = PIPE, cwd: Path | None = None
) -> AsyncIterator[Process]:
    """Run a program while the block runs, then kill what is left of it."""
    with tempfile.TemporaryDirectory(prefix="qrng-client-") as home:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
            env={"PATH": _SEARCH_PATH, "HOME": home, **env},
            cwd=cwd,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # it may end at this moment
                    os.killpg(process.pid, signal.SIGKILL)
                await process.communicate()


async def rest_of(process: Process, *, limit_s: float = 20.0) -> Outcome:
    """Close the input of a started program and wait for its end; what was read from it before is not repeated."""
    if process.stdin is not None:
        process.stdin.close()
    async with asyncio.timeout(limit_s):
        stdout, stderr = await process.communicate()
    return _outcome(process, stdout, stderr)


def _outcome(process: Process, stdout: bytes, stderr: bytes) -> Outcome:
    assert process.returncode is not None
    return Outcome(process.returncode, stdout.decode(), stderr.decode())


def _absent(what: str) -> NoReturn:
    reason = f"{what}: `make test-clients` installs what these tests need"
    if any(os.environ.get(name) for name in REQUIRED_BY):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
