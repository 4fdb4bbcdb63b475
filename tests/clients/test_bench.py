"""The benchmark runs: a small comparison, through its command line."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.clients.programs import REPOSITORY, run

pytestmark = pytest.mark.timeout(300)


async def test_small_comparison(tmp_path: Path) -> None:
    """A gateway is compared with its peers; whoever cannot be built is named; a report is written."""
    if shutil.which("g++") is None or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the benchmark needs a C++ compiler and two cores")
    command = [sys.executable, REPOSITORY / "bench" / "compare.py", "--only", "bidi 1 KiB, 1 in flight"]
    ended = await run(*command, "--rounds", "6", "--run", "0.02", "--results", tmp_path, env={}, limit_s=280)
    if "for want of" in ended.stderr and ended.code:
        pytest.skip(ended.stderr.strip())
    assert ended.code == 0, ended
    (comparison,) = json.loads((tmp_path / "streams.json").read_text())["comparisons"]
    assert {"gateway", "bare grpc.aio"} <= {*comparison["servers"]}
    assert {len(runs) for runs in comparison["runs"].values()} == {6}
    assert "bidi 1 KiB, 1 in flight" in (tmp_path / "results.md").read_text()
