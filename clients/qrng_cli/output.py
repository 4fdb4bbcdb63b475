"""Where random bytes go: a terminal, a pipe, a file.

Idea: a file is there whole or not at all, since half of what was asked for looks like all of it; and
raw bytes do not go to a terminal by accident, where they would be lost and garble it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from qrng_grpc.files import appearing_whole


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write `path`, mode 0600, so that it appears complete or stays as it was. A link to it stays a link."""
    with appearing_whole(path.resolve()) as file:
        yield file


@contextmanager
def destination(path: Path | None, *, raw: bool, force: bool) -> Iterator[BinaryIO]:
    """Open `path`, or standard output when it is None or `-`. Raises UsageError before raw bytes meet a terminal."""
    if path is None or path == Path("-"):
        if sys.stdout is None:
            raise click.UsageError("standard output is closed")
        stdout = sys.stdout.buffer
        if raw and not force and stdout.isatty():
            raise click.UsageError("raw bytes would garble the terminal: use a pipe, --output or --force")
        yield stdout
        stdout.flush()
    elif path.exists() and not path.is_file():
        with path.open("wb") as device:
            yield device
    else:
        with whole_file(path) as file:
            yield file


@contextmanager
def progress(total: int | None, *, worth_showing: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with each number of bytes done; it moves a bar when a person can see it."""
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    shown = worth_showing and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)
