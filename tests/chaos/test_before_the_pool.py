"""A gateway that sets bytes aside and makes others of them dies in the middle of a push, and comes back.

What is set aside or used up lies between verification and pool, where a crash could lose or double it unseen. So the
books must balance to the byte on both sides of the kill, and what is served must follow from what was recorded on
the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qrng_gateway.pool.conditioning import OUTPUT_BYTES, Sha256
from qrng_grpc.testing.relay import RecordedCall, relaying
from tests.chaos.books import (
    ROOMY,
    before_start,
    check_collector_line,
    check_gateway_line,
    check_not_sent_again,
    check_running_books,
    ledger_of,
    sent_chunks,
    stopped_mid_push,
    taken,
)
from tests.programs import CHUNK_BYTES, Laboratory, free_address

SOME = 64 * CHUNK_BYTES
"""More than it takes until bytes are set aside."""
PORTION_BYTES = 256
"""What is set aside at a time, off the end of a chunk."""
ENTROPY_PER_BYTE = 8
SHA256 = {"post_processing": "sha256", "entropy_per_byte": ENTROPY_PER_BYTE}


def outputs(calls: list[RecordedCall]) -> Iterator[bytes]:
    """Yield every output that conditioning can make of the chunks in `calls`, whole or without what was set aside."""
    condition = Sha256(ENTROPY_PER_BYTE)
    for data in sent_chunks(calls):
        for made in (condition(data), condition(data[:-PORTION_BYTES])):
            yield from pieces(made)


def pieces(data: bytes) -> Iterator[bytes]:
    assert len(data) % OUTPUT_BYTES == 0
    return (data[start : start + OUTPUT_BYTES] for start in range(0, len(data), OUTPUT_BYTES))


@pytest.mark.parametrize("settings", [{}, SHA256, {"post_processing": "xor-os"}], ids=["none", "sha256", "xor-os"])
async def test_a_gateway_killed_while_it_sets_aside(lab: Laboratory, settings: dict[str, Any]) -> None:
    """Every captured byte is in the books of one run, set aside and used up included; what is served comes once."""
    reservoir = {"quality_reservoir_size": 1 << 20, **settings}
    async with (
        relaying(free_address(), lab.push_address) as relay,
        lab.gateway(**reservoir) as first,
        lab.collector(mock_seed=1, push_url=relay.address, **ROOMY) as collector,
    ):
        await lab.settled(lambda books: books.pooled_bytes > 0 and books.set_aside_bytes > 0)
        served = await lab.read_all()
        at_kill = await stopped_mid_push(lab, relay, stored_bytes=SOME, messages=5)
        await first.kill()
        async with lab.gateway(**reservoir) as second:
            relay.go_on()
            await lab.settled(lambda books: books.stored_bytes >= SOME and books.set_aside_bytes > 0)
            assert await collector.end() == 0
            served += await lab.read_all()
            check_running_books(await lab.accounting())
            assert await second.end() == 0

    check_running_books(at_kill)
    check_gateway_line(second.accounting)
    check_collector_line(collector.accounting)
    check_not_sent_again(relay.calls)
    assert len(served) == at_kill.served_bytes + second.accounting["served"]
    assert collector.accounting["captured"] == at_kill.stored_bytes + before_start(at_kill) + taken(second.accounting)
    for set_aside, stored in (
        (at_kill.set_aside_bytes, at_kill.stored_bytes),
        (second.accounting["set_aside"], second.accounting["stored"]),
    ):
        assert 0 < set_aside <= stored // 100
    assert (second.accounting["conditioned"] > 0) is (settings == SHA256)
    if not settings:
        ledger = await ledger_of(1, read_by=collector, captured=collector.accounting["captured"])
        ledger.check_once(served)
    elif settings == SHA256:
        made = list(pieces(served))
        assert len(set(made)) == len(made), "an output was served twice"
        assert set(made) <= set(outputs(relay.calls))
