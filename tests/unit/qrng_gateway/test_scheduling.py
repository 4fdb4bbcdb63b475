"""Threads that let each other finish."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = """
import os, threading
from qrng_gateway.scheduling import let_threads_finish
{before}
done, inherited = let_threads_finish(), []
thread = threading.Thread(target=lambda: inherited.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(done, os.sched_getscheduler(0), *inherited)
"""


def seen(before: str = "") -> list[str]:
    """Run it in a process of its own, whose policy is nobody else's, and return what came of it."""
    shown = subprocess.run([sys.executable, "-c", SHOW.format(before=before)], capture_output=True, check=True)
    return shown.stdout.decode().split()


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no scheduling policies")
def test_threads_are_batch_work() -> None:
    """The process and the threads that it starts later run as batch work."""
    assert seen() == ["True", str(os.SCHED_BATCH), str(os.SCHED_BATCH)]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no scheduling policies")
def test_a_policy_that_somebody_chose_stays() -> None:
    """A process that runs as something else than the default goes on so."""
    idle = str(os.SCHED_IDLE)
    assert seen("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))") == ["False", idle, idle]
