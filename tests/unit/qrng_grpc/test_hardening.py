"""Each test hardens a process of its own: what was asked of the kernel is not taken back."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

SMALL = 1 << 16
MOST = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
LARGE = 1 << 30 if resource.RLIM_INFINITY == MOST else MOST
"""A limit that a whole process may well fit below."""

_PROGRAM = """
import ctypes, json, mmap, os, resource, sys
from pathlib import Path
from qrng_grpc.errors import ConfigError
from qrng_grpc.hardening import harden
from qrng_grpc.logs import configure_logs

lock_memory, limit, user = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
configure_logs("info", "test")
resource.setrlimit(resource.RLIMIT_MEMLOCK, (min(limit, 4096), limit))
if user:
    os.setuid(user)
try:
    harden(lock_memory)
except ConfigError as error:
    refusal = error.mistakes
else:
    refusal = None
later = mmap.mmap(-1, 64 << 20)
later.write(bytes(1 << 20))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "refusal": refusal,
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK),
    "locked_kb": int(status["VmLck"].split()[0]),
    "resident_kb": int(status["VmRSS"].split()[0]),
}))
"""

NOBODY = 65534


def limit_can_be_lifted() -> bool:
    """Say whether a process here may have no limit of locked memory: there is none, or ours has CAP_SYS_RESOURCE."""
    before, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (before, resource.RLIM_INFINITY))
    except ValueError:  # what Python makes of EPERM
        return False
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (before, most))
    return True


only_root_can = pytest.mark.skipif(os.geteuid() != 0, reason="only root has the capability")


def hardened(lock_memory: str, *, limit: int, user: int = 0) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Harden a process of `user` with this limit of locked memory. Returns what it then was, and what it logged."""
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, lock_memory, str(limit), str(user)],
        check=True,
        capture_output=True,
        timeout=30,
        # Nobody may not write where coverage is measured to, and would complain where its log is read.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    return json.loads(ended.stdout), [json.loads(line) for line in ended.stderr.splitlines()]


def unprivileged() -> int:
    """Return a user without capabilities: nobody, or who runs the tests."""
    return NOBODY if os.geteuid() == 0 else 0


@pytest.mark.parametrize("lock_memory", ["try", "off"])
def test_there_are_no_core_dumps(lock_memory: str) -> None:
    """Whatever is said of locking, the process has a core limit of 0 and is not dumpable."""
    state, _ = hardened(lock_memory, limit=SMALL, user=unprivileged())
    assert state["core"] == [0, 0]
    assert state["dumpable"] == 0


@pytest.mark.skipif(not limit_can_be_lifted(), reason="only CAP_SYS_RESOURCE lifts a limit of locked memory")
def test_without_a_limit_memory_is_locked_as_it_is_touched() -> None:
    """Later memory is locked too, and what was never touched does not become resident by it."""
    state, logged = hardened("try", limit=resource.RLIM_INFINITY, user=unprivileged())
    assert state["refusal"] is None
    assert logged == []
    assert int(str(state["locked_kb"])) > 64 << 10
    assert int(str(state["resident_kb"])) < 64 << 10


@only_root_can
def test_the_capability_is_as_good_as_no_limit() -> None:
    """With CAP_IPC_LOCK memory is locked under a small limit, which stays, and 64 MiB more can be had untouched."""
    state, logged = hardened("require", limit=SMALL)
    assert state["refusal"] is None
    assert logged == []
    assert int(str(state["locked_kb"])) > 64 << 10
    assert int(str(state["resident_kb"])) < 64 << 10
    assert state["memlock"] == [4096, SMALL]


@pytest.mark.parametrize("limit", [SMALL, LARGE])
def test_with_a_limit_nothing_is_locked(limit: int) -> None:
    """Under a limit, however large, memory is not locked: a warning says so, and 64 MiB more can be had."""
    state, logged = hardened("try", limit=limit, user=unprivileged())
    assert state["refusal"] is None
    assert state["locked_kb"] == 0
    assert state["memlock"] == [4096, limit]
    assert [event["event"] for event in logged] == ["memory_not_locked"]


def test_what_is_required_and_cannot_be_refuses_to_start() -> None:
    """lock_memory: require without the right to it is a mistake in the settings, which the words name."""
    state, _ = hardened("require", limit=SMALL, user=unprivileged())
    (mistake,) = state["refusal"]  # type: ignore[misc]
    assert mistake.startswith("lock_memory: ")


def test_switched_off_nothing_is_tried() -> None:
    """lock_memory: off locks nothing and says nothing, even of one who could."""
    state, logged = hardened("off", limit=SMALL)
    assert state["locked_kb"] == 0
    assert logged == []
