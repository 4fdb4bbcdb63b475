"""Testing sources on demand: of a collector that runs, and before one is started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Laboratory


@pytest.fixture
def lab(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path)


async def qrng_test(lab: Laboratory, **settings: Any) -> tuple[int | None, list[str], str]:
    """Run `qrng test` with the collector's settings. Returns exit code, lines and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "qrng_cli.main", "test"),
        env=lab.collector_environ(**settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode().splitlines(), err.decode()


async def test_sigusr1_has_the_sources_tested(lab: Laboratory) -> None:
    """On SIGUSR1 a collector tests each source before its next block, and goes on."""
    async with lab.gateway(), lab.collector(mock_seed=7) as collector:
        await collector.event("source_trusted")
        os.kill(collector.pid, signal.SIGUSR1)
        assert (await collector.event("tests_demanded"))["sources"] == 1
        tested = await collector.event("source_tested")
        await lab.settled(lambda accounting: accounting.stored_bytes > 0)
        assert await collector.end() == 0
    (books,) = [event for event in collector.events if event["event"] == "source_accounting"]
    assert books["discarded"] == 2 * tested["on_demand_bytes"]


async def test_hangup_tests_nothing(lab: Laboratory) -> None:
    """SIGHUP is for files alone: a certificate that is renewed by night releases no source."""
    async with lab.collector(mock_seed=7) as collector:
        await collector.event("source_trusted")
        os.kill(collector.pid, signal.SIGHUP)
        assert await collector.end() == 0
    assert not {"tests_demanded", "source_tested"} & {event["event"] for event in collector.events}


async def test_a_sound_source_passes(lab: Laboratory) -> None:
    """Without a collector that runs, a trial tells each verdict on standard output, and leaves no log."""
    assert await qrng_test(lab, mock_seed=7) == (0, ["mock: passed: 65,536 bytes"], "")


async def test_a_faulty_and_a_missing_source_do_not(lab: Laboratory, tmp_path: Path) -> None:
    """Each source is told of, what is wrong with it included; if any is unfit the exit code says so."""
    (tmp_path / "stuck").write_bytes(bytes(1 << 17))
    device = {"kind": "device", "source_class": "hardware"}
    sources = [
        {"kind": "system"},
        {**device, "device_id": "stuck", "path": str(tmp_path / "stuck")},
        {**device, "device_id": "gone", "path": str(tmp_path / "gone")},
    ]
    settings = {"source": "system", "best_class": "quantum", "sources": json.dumps(sources)}
    code, (system, stuck, gone), errors = await qrng_test(lab, **settings)
    assert (code, errors) == (1, "Error: 2 of 3 sources did not pass\n")
    assert "passed: " in system
    assert stuck == "stuck: failed: repetition_count: 6 (cutoff 6) at sample 5"
    assert gone.startswith("gone: not tested: ")


async def test_a_running_collector_is_not_disturbed(lab: Laboratory) -> None:
    """Beside a collector with the same state there is no trial, but word of how to have it test its sources."""
    async with lab.collector(mock_seed=7):
        code, lines, errors = await qrng_test(lab, mock_seed=7)
    assert (code, lines) == (1, [])
    assert "SIGUSR1" in errors
