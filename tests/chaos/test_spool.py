"""Collectors with a spool that die, come back, and go on where they were.

The simulated source of each run has a seed of its own, so the ledger tells whose bytes were served, and which are
missing: from where its start-up tests let it begin, a run's bytes must follow each other without a gap.
"""

from __future__ import annotations

import random
import resource
import secrets
from pathlib import Path
from typing import Any

import pytest

from qrng_grpc.testing.relay import relaying
from tests.chaos.books import (
    ROOMY,
    WIDE,
    before_start,
    check_collector_line,
    check_gateway_line,
    check_not_sent_again,
    distinct_bytes,
    ledger_of,
    replay,
    taken,
)
from tests.ledger import WORD_BYTES
from tests.programs import CHUNK_BYTES, Laboratory, free_address, running

KILLS = 3
SOME = 16 * CHUNK_BYTES


@pytest.fixture
def spool(tmp_path: Path) -> dict[str, Any]:
    """The settings of a roomy spool."""
    room = ROOMY | {"spool_size": 4 * ROOMY["buffer_size"]}
    return {"spool_dir": tmp_path / "spool", "spool_key_file": key_file(tmp_path / "spool.key"), **room}


def key_file(path: Path) -> Path:
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


async def test_a_collector_with_a_spool_killed_again_and_again(
    lab: Laboratory, spool: dict[str, Any], rng: random.Random
) -> None:
    """Nothing that was captured is lost, and nothing is served twice, whether it was on its way or waited."""
    served, epochs = bytearray(), set()
    async with relaying(free_address(), lab.push_address) as relay, lab.gateway(**WIDE) as gateway:
        for seed in range(KILLS):
            async with lab.collector(mock_seed=seed, push_url=relay.address, **spool) as collector:
                before = await lab.accounting()
                await lab.settled(lambda books, least=before.stored_bytes + SOME: books.stored_bytes >= least)
                relay.stopped.clear()
                relay.stop_after(rng.randrange(6))
                await relay.stopped.wait()
                await collector.kill()
                epochs.add((await collector.event("collecting"))["epoch"])
            relay.go_on()
            served += await lab.read_all()
        async with lab.collector(mock_seed=KILLS, push_url=relay.address, **spool) as last:
            before = await lab.accounting()
            await lab.settled(lambda books: books.stored_bytes >= before.stored_bytes + SOME)
            assert await last.end() == 0
            epochs.add((await last.event("collecting"))["epoch"])
        replayed = await replay(lab, relay.calls)
        served += await lab.read_all()
        books = await lab.accounting()
        assert await gateway.end() == 0

    assert len(epochs) == 1
    assert (replayed.stored_bytes, replayed.refusals, before_start(books)) == (0, [], 0)
    check_not_sent_again(relay.calls)
    ledger = await ledger_of(*range(KILLS + 1), read_by=last, captured=distinct_bytes(relay.calls))
    places = ledger.check_once(bytes(served))
    begins = min(number for _, number in places)
    for seed in range(KILLS + 1):
        numbers = [number for one, number in places if one == seed]
        assert len(numbers) >= SOME // WORD_BYTES
        assert numbers == list(range(begins, begins + len(numbers)))
    check_gateway_line(gateway.accounting)
    check_collector_line(last.accounting)
    assert taken(gateway.accounting) == len(served)
    line = last.accounting
    assert line["captured"] == WORD_BYTES * len([number for seed, number in places if seed == KILLS])
    assert line["recovered"] > 0
    assert line["disposed"] == line["captured"] + line["recovered"]


async def test_what_a_polite_end_leaves_comes_with_the_next_run(lab: Laboratory, spool: dict[str, Any]) -> None:
    """It counts as spooled in one run and as recovered in the next, to the byte, and arrives once."""
    async with lab.gateway(**WIDE) as gateway:
        async with lab.collector(mock_seed=1, push_url=free_address(), **spool | {"flush_timeout": 0.2}) as first:
            await first.event("push_status")
            assert await first.end() == 0
        async with lab.collector(mock_seed=2, **spool) as second:
            await lab.settled(lambda books: books.stored_bytes >= SOME)
            assert await second.end() == 0
        captured = first.accounting["captured"] + second.accounting["captured"]
        (await ledger_of(1, 2, read_by=first, captured=captured)).check_once(await lab.read_all())
        assert await gateway.end() == 0

    for line in (first.accounting, second.accounting):
        check_collector_line(line)
        assert line["dropped_at_shutdown"] == line["in_doubt"] == 0
    assert first.accounting["captured"] == first.accounting["spooled"] == second.accounting["recovered"] > 0
    assert captured == second.accounting["disposed"] == taken(gateway.accounting)


async def test_a_spool_of_another_key_is_refused(lab: Laboratory, spool: dict[str, Any], tmp_path: Path) -> None:
    """The program says so and does not start; with the right key all is there."""
    async with lab.collector(push_url=free_address(), **spool | {"flush_timeout": 0}) as first:
        await first.event("push_status")
        assert await first.end() == 0
    wrong = lab.collector_environ(**spool | {"spool_key_file": key_file(tmp_path / "wrong.key")})
    async with running("collector", environ=wrong) as refused:
        assert await refused.ended() == 1
    assert "was written under another key" in "".join(refused.words)
    async with lab.collector(push_url=free_address(), **spool | {"flush_timeout": 0}) as again:
        assert await again.end() == 0
    assert again.accounting["recovered"] == first.accounting["spooled"] > 0


async def test_a_disk_that_refuses_ends_the_collector(lab: Laboratory, spool: dict[str, Any]) -> None:
    """It cannot keep its word any more, and says so; what it had written comes with the next run, and nothing twice."""
    async with lab.gateway(**WIDE) as gateway:
        async with lab.collector(mock_seed=1, **spool) as first:
            await lab.settled(lambda books: books.stored_bytes >= SOME)
            resource.prlimit(first.pid, resource.RLIMIT_FSIZE, (1024, 1024))
            assert await first.ended() == 1
        assert first.words[0] == f"Error: the spool in {spool['spool_dir']} cannot be written (File too large)\n"
        async with lab.collector(mock_seed=2, **spool) as second:
            before = await lab.accounting()
            await lab.settled(lambda books: books.stored_bytes >= before.stored_bytes + SOME)
            assert await second.end() == 0
        captured = first.accounting["captured"] + second.accounting["captured"]
        places = (await ledger_of(1, 2, read_by=first, captured=captured)).check_once(await lab.read_all())
        assert await gateway.end() == 0

    numbers = [number for seed, number in places if seed == 1]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for line in (first.accounting, second.accounting):
        check_collector_line(line)
    # The write that was refused may have been that a block is gone, which counted already.
    assert second.accounting["recovered"] - first.accounting["spooled"] in {0, CHUNK_BYTES}
