"""Threads that let each other finish, and connections without threads of their own."""

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


SPARE = """
import os
{before}
from qrng_gateway.scheduling import spare_io_threads
print(spare_io_threads(), os.environ.get("GRPC_EXPERIMENTS"))
"""
WITHOUT_POOL = "-event_engine_listener,-event_engine_client"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", f"True {WITHOUT_POOL}"),
        ("import grpc", "False None"),
        ("os.environ['GRPC_EXPERIMENTS'] = 'call_v3'", "False call_v3"),
    ],
)
def test_connections_have_no_threads_of_their_own_unless_it_is_too_late_or_somebody_chose(
    before: str, expected: str
) -> None:
    """What grpc reads when it is imported is set before, or not at all, and never over what somebody set."""
    assert printed(SPARE.format(before=before)) == expected


def test_the_gateway_program_asks_for_it_before_grpc_is_there() -> None:
    """Nothing that the command imports before has imported grpc."""
    program = """
import os
from click.testing import CliRunner
import qrng_cli.main
from qrng_cli.gateway import command
ended = CliRunner().invoke(command, ["--set", "no_such_setting=1"])
print(bool(ended.exit_code), os.environ.get("GRPC_EXPERIMENTS"))
"""
    assert printed(program) == f"True {WITHOUT_POOL}"


def printed(program: str) -> str:
    """Return what a program prints in a process of its own, where nobody has chosen anything."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    return shown.stdout.decode().strip()
