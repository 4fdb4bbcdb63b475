"""How the kernel shares a core among the threads of this process.

Idea: a call passes from thread to thread some ten times, within grpc and to the event loop. By default Linux lets
whichever thread was woken last interrupt the one that woke it, which was about to go on with more of the
same; so on a busy core almost every event costs two changes of thread, and wakes the event loop for itself alone.
As *batch* work (SCHED_BATCH, sched(7)) they let each other finish: with 16 calls in flight a call then takes a sixth
less processor time, with 32 on a stream two fifths, and is answered sooner (docs/performance.md). With one call
at a time, or where cores are idle, nothing changes. It needs no privilege, and takes none from others: it is the
gateway that waits a little longer, a few milliseconds at most, where programs beside it keep all cores busy.
"""

from __future__ import annotations

import os


def let_threads_finish() -> bool:
    """Have the threads that this one starts from now on, and itself, run as batch work.

    A policy that somebody chose for this process stays, as does the default where there are no policies. False then.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:  # a sandbox that lets nobody choose
        return False
    return True
