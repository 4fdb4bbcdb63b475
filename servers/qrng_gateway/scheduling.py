"""Which threads a call passes through, and how the kernel shares a core among them.

Idea: a call passes from thread to thread some ten times, within grpc and to the event loop. By default Linux lets
whichever thread was woken last interrupt the one that woke it, which was about to go on with more of the
same; so on a busy core almost every event costs two changes of thread, and wakes the event loop for itself alone.
As *batch* work (SCHED_BATCH, sched(7)) they let each other finish: with 16 calls in flight a call then takes a sixth
less processor time, with 32 on a stream two fifths, and is answered sooner (docs/performance.md). With one call
at a time, or where cores are idle, nothing changes. It needs no privilege, and takes none from others: it is the
gateway that waits a little longer, a few milliseconds at most, where programs beside it keep all cores busy.

From 1.80 on grpcio hands what happens on a listener's connections to a pool of threads, three of which take part
in every call. As it did before, the thread that waits for calls can see to the connections itself, and a call is a
tenth cheaper. grpc leaves the choice to its users for some versions yet; one that does not know it any more ignores it.
ADR 0009.
"""

from __future__ import annotations

import os
import sys

EXPERIMENTS = "GRPC_EXPERIMENTS"
WITHOUT_POOL = "-event_engine_listener,-event_engine_client"


def spare_io_threads() -> bool:
    """Have grpc's servers in this process do without a pool of threads for their connections.

    To be called before grpc is imported: it reads its environment then. What somebody else chose there stays. False
    where it comes too late or has no say.
    """
    if "grpc" in sys.modules:
        return False
    return os.environ.setdefault(EXPERIMENTS, WITHOUT_POOL) == WITHOUT_POOL


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
