"""The real programs, as the kernel sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs import Laboratory, Program


@pytest.fixture
def lab(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path)


async def test_programs_leave_no_core_dumps(lab: Laboratory) -> None:
    """Neither program may make a core file, and locks no memory when told not to."""
    async with lab.gateway(lock_memory="off") as gateway, lab.collector(lock_memory="off") as collector:
        for program in (gateway, collector):
            assert core_limits(program) == ["0", "0"]
            assert locked_kb(program) == 0


async def test_programs_lock_their_memory_or_say_that_they_cannot(lab: Laboratory) -> None:
    """By default each program has either memory locked, or one warning logged."""
    async with lab.gateway() as gateway, lab.collector() as collector:
        for program in (gateway, collector):
            warnings = [event for event in program.events if event["event"] == "memory_not_locked"]
            assert (locked_kb(program) > 0, len(warnings)) in ((True, 0), (False, 1))


def core_limits(program: Program) -> list[str]:
    """Return the soft and the hard limit of a core file."""
    lines = Path(f"/proc/{program.pid}/limits").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("Max core file size")]
    return line.split()[4:6]


def locked_kb(program: Program) -> int:
    lines = Path(f"/proc/{program.pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmLck:")]
    return int(line.split()[1])
