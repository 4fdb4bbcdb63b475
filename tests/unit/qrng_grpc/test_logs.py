"""Logs: JSON lines from a level up, and nothing in them that must stay inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.logs import LogLevel, configure_logs, get_log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_one_event_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An event is one line of JSON on standard error, with program, level, time and its facts."""
    configure_logs("info", "qrng-gateway")
    get_log().info("pool_short", waiting=3, note="two\nlines")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    line = json.loads(err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "program": "qrng-gateway",
        "event": "pool_short",
        "level": "info",
        "waiting": 3,
        "note": "two\nlines",
    }


@pytest.mark.parametrize(("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level(capsys: pytest.CaptureFixture[str], level: LogLevel, written: int) -> None:
    """Events below the level set are not written."""
    configure_logs(level, "test")
    log = get_log()
    for write in (log.debug, log.info, log.warning, log.error):
        write("happened")
    assert len(capsys.readouterr().err.splitlines()) == written


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def nobody_reads() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(("stderr", "redirect"), [(full, ""), (nobody_reads, ""), (full, "2>&-")])
def test_a_log_that_cannot_be_written(stderr: Callable[[], int], redirect: str) -> None:
    """When the disk is full, nobody reads or standard error is closed, lines are lost and the program goes on."""
    program = (
        "import os\n"
        "from qrng_grpc.logs import configure_logs, get_log\n"
        "configure_logs('info', 'test')\n"
        "get_log().info('happened')\n"
        "os.write(1, b'went on')\n"
    )
    script = f'exec "$0" -c "$1" {redirect}'
    descriptor = stderr()
    try:
        done = subprocess.run(
            ["sh", "-c", script, sys.executable, program], stdout=subprocess.PIPE, stderr=descriptor, check=False
        )
    finally:
        os.close(descriptor)
    assert done.stdout == b"went on"


def test_our_values_keep_their_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    """Even when a value of ours is logged by mistake, no key and no entropy is in the line."""
    configure_logs("debug", "test")
    key = KeyRecord("k", b"HIDDENHIDDENHIDDENHIDDENHIDDENHIDDEN", "lab", frozenset({"p"}), SourceClass.QUANTUM)
    block = Block(b"HIDDEN", 1, 2, BlockLabel(("d",), SourceClass.QUANTUM))
    get_log().error("mistake", key=key, chunk=Chunk.bind(block, Identity("lab", "p", 1, 1)), blocks=[block])
    line = capsys.readouterr().err
    assert "KeyRecord" in line
    assert "HIDDEN" not in line
    assert b"HIDDEN".hex() not in line


def test_exceptions_have_their_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """A fault of ours is logged with its trace, still in one line."""
    configure_logs("info", "test")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        get_log().exception("fault")
    line = json.loads(capsys.readouterr().err)
    assert "RuntimeError: broken" in line["exception"]
