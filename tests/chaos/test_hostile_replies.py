"""What a gateway in an attacker's hands can put into a reply, and that none of it leaves a trace in the collector.

Idea: run a collector into one refusal and photograph it: counters, queue, what it logged, what it shows at
/status, what lies in its state directory. The photograph after a hostile reply must be that of a plain
refusal with the same status code, byte for byte. Time stands still meanwhile, so nothing else can differ.
"""

from __future__ import annotations

import base64
import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qrng_collector.app import Collector, collecting
from qrng_collector.config import CollectorConfig, RetryPolicy
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing import ManualClock, ScriptedSource
from qrng_grpc.v1.push_pb2 import PushChunksResponse
from tests.chaos.raw_gateway import Header, Reply, answer, goaway, raw_gateway, refusal, reset
from tests.waiting import until

CHUNKS, CHUNK_BYTES = 3, 64
HOSTILE = "HOSTILE"
CODES = {
    "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5, "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "ABORTED": 10, "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12, "INTERNAL": 13, "UNAVAILABLE": 14, "DATA_LOSS": 15, "UNAUTHENTICATED": 16,
}  # fmt: skip
FUZZED = 60


def collector_config(push_url: str, state_dir: Path) -> CollectorConfig:
    settings = {
        "hmac_secret_key": "0123456789abcdef0123456789abcdef",
        "hmac_key_id": "k1",
        "collector_id": "lab",
        "pool_id": "pool",
        "best_class": SourceClass.SIMULATED,
        "source": "mock",
        "state_dir": state_dir,
        "push_url": push_url,
        "fetch_chunk_size": CHUNK_BYTES,
        "fetch_interval": 0.001,
        "push_interval": 0.01,
        "flush_timeout": 0,
        # One refusal, and then silence: the wait after it is longer than any test.
        "retry_policy": RetryPolicy(initial_s=3600, maximum_s=3600, jitter=0),
    }
    return CollectorConfig(**settings)


def photograph(collector: Collector, logs: list[dict[str, object]], state_dir: Path) -> bytes:
    """Return everything a collector holds, says and shows."""
    (pusher,) = collector.pushers
    parts = {
        "epoch": collector.epoch,
        "accounting": asdict(collector.counters),
        "queued": collector.queue.queued,
        "pusher": {name: str(value) for name, value in vars(pusher).items() if isinstance(value, int | str | None)},
        "chunks": asdict(pusher.counters),
        "failures": pusher.failures,
        "status": collector.observer.status(),
        "logs": logs,
        "state": {file.name: file.read_bytes().hex() for file in sorted(state_dir.iterdir())},
    }
    return json.dumps(parts, default=repr).encode()


async def after(reply: Reply, state_dir: Path) -> tuple[str, bytes]:
    """Let a collector be refused once with `reply`. Returns the status it noted, and the photograph."""
    source = ScriptedSource([bytes((n,)) * CHUNK_BYTES for n in range(CHUNKS)])
    with capture_logs() as logs:
        async with (
            raw_gateway(reply, source.over.wait) as address,
            collecting(collector_config(address, state_dir), sources=[source], clock=ManualClock()) as collector,
        ):
            (pusher,) = collector.pushers
            await until(lambda: pusher.failures == 1)
            taken = pusher.status, photograph(collector, [dict(entry) for entry in logs], state_dir)
        assert collector.counters.disposed == 0
    return taken


class Plain:
    """Photographs of plain refusals, by status."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._taken: dict[str, bytes] = {}

    async def of(self, status: str) -> bytes:
        if status not in self._taken:
            noted, self._taken[status] = await after(refusal(CODES[status]), self._directory / f"plain-{status}")
            assert noted == status
        return self._taken[status]


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    return Plain(tmp_path)


def count(chunks: int) -> bytes:
    return PushChunksResponse(disposed_count=chunks).SerializeToString()


def some_text(rng: random.Random) -> str:
    """Printable, percent-encoded or not, as headers allow it."""
    return HOSTILE + "".join(chr(rng.randrange(0x21, 0x7F)) for _ in range(rng.randrange(200)))


def some_fields(rng: random.Random) -> list[Header]:
    known = ["grpc-message", "grpc-retry-pushback-ms", "retry-delay", "x-hostile", "user-agent", "grpc-encoding-x"]
    fields = [(name, some_text(rng)) for name in rng.sample(known, rng.randrange(4))]
    binary = rng.sample(["grpc-status-details-bin", "x-hostile-bin", "grpc-tags-bin"], rng.randrange(3))
    return [*fields, *((name, base64.b64encode(rng.randbytes(rng.randrange(300))).decode()) for name in binary)]


def some_reply(rng: random.Random) -> Reply:
    """Any end of a call that does not dispose of the one chunk it carried."""
    status, trailing = rng.choice([*CODES.values(), 17, 99, 2**31]), some_fields(rng)
    payload = rng.choice([None, count(0), count(1), count(2**63), rng.randbytes(rng.randrange(1, 60))])
    replies = [
        refusal(status, *trailing),
        answer(payload, status, some_fields(rng), trailing),
        answer(count(rng.choice([2, 3, 2**40, 2**64 - 1])), 0, some_fields(rng), trailing),
        answer(rng.randbytes(rng.randrange(65, 4096)), 0, some_fields(rng), trailing),
        answer(b"\xff" * rng.randrange(1, 60), 0, [], trailing),
    ]
    reply, debug = rng.choice(replies), goaway(rng.choice([0, 2, 11]), some_text(rng).encode())
    if rng.random() < 0.4:
        return lambda stream: reply(stream) + debug
    return reply


@pytest.mark.timeout(120)
async def test_fuzzed_replies(plain: Plain, tmp_path: Path, rng: random.Random) -> None:
    """Whatever a reply carries besides its status, the collector is byte for byte as after that status alone."""
    statuses = set()
    for number in range(FUZZED):
        status, photo = await after(some_reply(rng), tmp_path / f"hostile-{number}")
        assert photo == await plain.of(status), number
        assert HOSTILE.encode() not in photo
        statuses.add(status)
    assert len(statuses) > 5


@pytest.mark.parametrize("excess", [1, 2, 2**32, 2**64 - 2])
async def test_a_count_above_what_was_sent(plain: Plain, tmp_path: Path, excess: int) -> None:
    """Who counts more chunks than there were is treated as if it were not there."""
    status, photo = await after(answer(count(1 + excess), 0), tmp_path / "hostile")
    assert status == "UNAVAILABLE"
    assert photo == await plain.of(status)


@pytest.mark.parametrize("code", [0, 2, 8, 11])
async def test_a_stream_that_is_reset(plain: Plain, tmp_path: Path, code: int) -> None:
    """A reset says no more than the status it stands for."""
    status, photo = await after(reset(code), tmp_path / "hostile")
    assert photo == await plain.of(status)


async def test_endless_metadata(plain: Plain, tmp_path: Path) -> None:
    """More metadata than we take is a refusal like any other."""
    fields = [(f"x-{number}", HOSTILE * 100) for number in range(20)]
    status, photo = await after(refusal(CODES["PERMISSION_DENIED"], *fields), tmp_path / "hostile")
    assert photo == await plain.of(status)
    assert HOSTILE.encode() not in photo


async def test_the_photograph_shows_what_it_should(plain: Plain) -> None:
    """It would not be blank if something came in: it tells one status from another."""
    assert await plain.of("UNAVAILABLE") != await plain.of("UNAUTHENTICATED")
    assert b'"in_doubt"' in await plain.of("UNAVAILABLE")
