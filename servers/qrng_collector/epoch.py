"""The epoch: which run of the collector a chunk belongs to.

Idea: sequences begin at 1 in every run, so runs need numbers that only grow, even when the clock was
set back in between. An epoch is durable before its first chunk is sent; two runs never share one, but
for those that share a spool: it keeps the sequences too, so the next run goes on with its epoch.
"""

from __future__ import annotations

from pathlib import Path

from qrng_grpc.errors import StateError
from qrng_grpc.state import NumbersFile
from qrng_grpc.wording import reason_of


def next_epoch(state_dir: Path, now_ns: int) -> int:
    """Take the next epoch and make it durable: `now_ns`, or one above the last where that is later.

    `state_dir` must be held by this process. Raises StateError when the file is damaged or cannot be written.
    """
    file = NumbersFile(state_dir / "epoch", 1)
    (last,) = file.read() or (0,)
    epoch = max(now_ns, last + 1)
    _write(file, epoch, state_dir)
    return epoch


def keep_epoch(state_dir: Path, epoch: int) -> bool:
    """Go on with `epoch`, which was kept elsewhere. False when a later one has begun since.

    Raises StateError as `next_epoch` does.
    """
    file = NumbersFile(state_dir / "epoch", 1)
    (last,) = file.read() or (0,)
    if last < epoch:
        _write(file, epoch, state_dir)
    return last <= epoch


def _write(file: NumbersFile, epoch: int, state_dir: Path) -> None:
    try:
        file.write(epoch)
    except OSError as error:
        raise StateError(f"the epoch cannot be written to {state_dir} ({reason_of(error)})") from None
