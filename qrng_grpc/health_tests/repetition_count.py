"""Repetition count (SP 800-90B, 4.4.1): a source that is stuck on one value.

Idea: compare every byte with the one before it, all at once; a run of C equal bytes is C - 1 equalities in
a row. ANDing that mask with itself shifted by 1, 2, 4, ... leaves only the long runs. Before that, the
aligned pairs of a block are compared with the pairs before them, half as much work: a run of five or more
holds two equal ones, and most blocks hold none. The length of the run at the end is kept, so
that a run may span blocks.
"""

from __future__ import annotations

import numpy as np

from qrng_grpc.health_tests.verdict import Failure, HealthTest

_SCREENED_RUN = 5
_LOOKS = 8


class RepetitionCount:
    """An alarm when `cutoff` bytes in a row, at least 2, are equal. ValueError for less."""

    def __init__(self, cutoff: int) -> None:
        if cutoff < 2:
            raise ValueError("one byte alone repeats nothing")
        self._cutoff = cutoff
        self._last = b""
        self._run = 0
        self._seen = 0

    def check(self, block: bytes) -> Failure | None:
        """Take the next bytes of the stream. Returns the first alarm they raise; then the test is spent."""
        if not block:
            return None
        run_goes_on = block[:1] == self._last
        leading = len(block) - len(block.lstrip(self._last)) if run_goes_on else 0
        if self._run + leading >= self._cutoff:
            last: int | None = self._cutoff - self._run - 1
        else:
            last = last_of_run(block, self._cutoff)
        before, self._seen = self._seen, self._seen + len(block)
        self._keep_run(block, self._run if leading == len(block) else 0)
        return None if last is None else Failure(HealthTest.REPETITION_COUNT, self._cutoff, self._cutoff, before + last)

    def _keep_run(self, block: bytes, before: int) -> None:
        end = block[-self._cutoff :]
        self._last = block[-1:]
        self._run = before + len(end) - len(end.rstrip(self._last))


def last_of_run(data: bytes, length: int) -> int | None:
    """Return the index at which the first run of `length` (at least 2) equal bytes is complete; None without one."""
    if len(data) < length or (length >= _SCREENED_RUN and not may_hold_run(data)):
        return None
    samples = np.frombuffer(data, np.uint8)
    mask = samples[1:] == samples[:-1]
    width = 1
    while 2 * width < length:
        mask = mask[width:] & mask[:-width]
        width *= 2
    missing = length - 1 - width
    index = (mask[missing:] & mask[: mask.size - missing]).tobytes().find(1)
    return None if index < 0 else index + length - 1


def may_hold_run(data: bytes) -> bool:
    """Say whether four equal bytes in a row begin at an even index, as they do in any run of five or more.

    True as well when too many pairs repeat to look at each.
    """
    pairs = np.frombuffer(data, np.uint16, len(data) // 2)
    mask = (pairs[1:] == pairs[:-1]).tobytes()
    index = -1
    for _ in range(_LOOKS):
        index = mask.find(1, index + 1)
        if index < 0:
            return False
        if data[2 * index] == data[2 * index + 1]:
            return True
    return True
