"""Testing sources on demand: of a collector that runs, and before one is started."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qrng_grpc.state import state_directory
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


PROFILES = Path(__file__).parents[2] / "deployments"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the shipped profiles, in which nothing was ever set up."""
    for name in ("urandom", "firefly-1", "quantis"):
        shutil.copytree(PROFILES / name, tmp_path / "deployments" / name)
    return tmp_path


def trial(place: Path, *arguments: str) -> tuple[int, str]:
    """Run `qrng test` there without any setting in the environment. Returns exit code, and what it says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("QR_", "QRNG_"))}
    command = [sys.executable, "-P", "-m", "qrng_cli.main", "test", *arguments]
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=50, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_profile_is_tried_before_anything_is_set_up(place: Path) -> None:
    """Neither keys nor a gateway are needed to hear how a source does, and nothing is left behind."""
    before = sorted(place.rglob("*"))
    assert trial(place, "--profile", "urandom") == (0, "os-urandom: passed: 65,536 bytes\n")
    assert trial(place) == (0, "os-urandom: passed: 65,536 bytes\n")
    assert sorted(place.rglob("*")) == before


def test_nothing_of_the_way_to_a_gateway_is_needed(place: Path) -> None:
    """A profile that names certificates which are not there, and keys of nobody's yet, lets its source be tried."""
    appliance = ("appliance_url=https://127.0.0.1:1", f"appliance_fingerprint={'0' * 64}")
    needless = (
        "hmac_secret_key=replace-with-your-secret",
        "spool_dir=spool",
        "pools=[]",
        "push_interval=-4",
        "flush_timeout=later",
    )
    arguments = [argument for setting in (*appliance, *needless) for argument in ("--set", setting)]
    code, said = trial(place, "--profile", "quantis", *arguments)
    assert code == 1
    assert said.startswith("quantis-1: not tested: ")


def test_the_collector_of_up_is_not_disturbed(place: Path) -> None:
    """Beside `qrng up` the sources are its collector's, and what to do then is one line."""
    state = place / "var" / "collector"
    state.mkdir(parents=True, mode=0o700)
    with state_directory(state):
        code, said = trial(place, "--profile", "urandom")
    assert code == 1
    assert said.count("\n") == 1
    assert "a running collector tests its sources on SIGUSR1" in said
    assert trial(place, "--profile", "urandom")[0] == 0


def test_no_other_source_is_tried_under_the_name_of_a_profile(place: Path) -> None:
    """A profile for clients has no source that could be tested; the operating system's would not be it."""
    code, said = trial(place, "--profile", "firefly-1")
    assert code == 2
    assert "the profile firefly-1 has settings of clients alone" in said


def test_a_recording_is_not_read_by_who_cannot_remember_it(place: Path) -> None:
    """Its bytes would come again with the collector's first block, so a state directory is demanded, and it alone."""
    (place / "recording").write_bytes(os.urandom(100_000))
    source = ("source=device", "device_path=recording", "source_class=hardware", "device_id=d")
    arguments = [argument for setting in source for argument in ("--set", setting)]
    code, said = trial(place, *arguments)
    assert code == 2
    assert [line.split(":")[0] for line in said.splitlines()[1:]] == ["  - state_dir"]
    assert trial(place, *arguments, "--set", "state_dir=state")[0] == 0
