"""What a process that holds keys and entropy asks of the kernel: no core dumps, and no memory on disk.

Idea: a core dump is a file with everything that was in memory. The limit on its size does not bind a kernel that pipes
dumps to a program, as most distributions' do, so the process is declared not dumpable as well: then nobody of the
same user can attach to it either.

Swap is the other way to disk. Memory is locked as it is touched (MCL_ONFAULT): what has never been used takes
no room, and what has been stays. A process with a limit of locked memory could be refused memory later, which
would end it, so memory is locked only where there is no limit: RLIMIT_MEMLOCK can be raised to none, or the process has
CAP_IPC_LOCK. Whether it truly has that is seen by trying with a limit of nothing.
See prctl(2), mlockall(2), setrlimit(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from qrng_grpc.errors import ConfigError
from qrng_grpc.logs import get_log

LockMemory = Annotated[Literal["try", "require", "off"], BeforeValidator(lambda word: "off" if word is False else word)]
"""What is asked of memory. YAML reads off as false."""

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

log = get_log()


def harden(lock_memory: LockMemory) -> None:
    """Do all of it, early in a program's life, once it logs.

    Without the right to lock memory, "try" logs a warning, and "require" raises ConfigError.
    """
    forbid_core_dumps()
    if lock_memory == "off":
        return
    obstacle = memory_locked()
    if obstacle is None:
        return
    if lock_memory == "require":
        raise ConfigError([f"lock_memory: memory cannot be locked ({obstacle}); it needs LimitMEMLOCK=infinity"])
    log.warning("memory_not_locked", obstacle=obstacle)


def forbid_core_dumps() -> bool:
    """Let no core dump of this process be made. False where only its size could be limited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = _libc("prctl")
    return prctl is not None and prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0


def memory_locked() -> str | None:
    """Keep this process's memory out of swap, now and later, where that can never cost it an allocation.

    Returns None when it is so, else what stood in the way.
    """
    lock = _libc("mlockall")
    if lock is None:
        return "the system has no mlockall"
    before, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = most == resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (most if unlimited else 0, most))
    failed = lock(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0
    obstacle = os.strerror(ctypes.get_errno()) if failed else None
    if not unlimited:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (before, most))
    return obstacle


def _libc(function: str) -> Any:
    """Return a function of the C library, None where it has none of that name."""
    return getattr(ctypes.CDLL(None, use_errno=True), function, None)
