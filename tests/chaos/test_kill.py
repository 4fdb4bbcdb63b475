"""Gateways and collectors that die in the middle of a push, come back, and hear their past again.

Each test reads everything that is served and finds each byte in the ledger once; plays every call that
the relay recorded again; and ends what still runs politely, with exit code 0 and books that balance.
"""

from __future__ import annotations

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
    identities,
    ledger_of,
    replay,
    sent_bytes,
    stopped_mid_push,
    taken,
)
from tests.ledger import WORD_BYTES
from tests.programs import CHUNK_BYTES, Laboratory, free_address
from tests.waiting import until

ON_THE_WAY = 5
"""Chunks that a call has delivered when somebody dies."""
SOME = 16 * CHUNK_BYTES


@pytest.mark.parametrize("state", ["kept", "deleted"])
async def test_a_gateway_killed_mid_push(lab: Laboratory, state: str) -> None:
    """What a killed gateway held is lost, never repeated; the next one disposes of what was on its way.

    With its mark it knows all that arrived before as duplicates; without it, it refuses all that was captured
    before it started, and makes no mark of that.
    """
    async with (
        relaying(free_address(), lab.push_address) as relay,
        lab.gateway(**WIDE) as first,
        lab.collector(mock_seed=1, push_url=relay.address, **ROOMY) as collector,
    ):
        await lab.settled(lambda books: books.pooled_bytes >= SOME)
        served = await lab.read_all()
        at_kill = await stopped_mid_push(lab, relay, stored_bytes=SOME, messages=ON_THE_WAY)
        assert at_kill.pooled_bytes > 0
        await first.kill()
        recorded, recorded_bytes = identities(relay.calls), sent_bytes(relay.calls)
        if state == "deleted":
            lab.delete_gateway_state()
        async with lab.gateway(**WIDE) as second:
            early = await replay(lab, relay.calls)
            relay.go_on()
            await lab.settled(lambda books: books.stored_bytes >= SOME)
            assert await collector.end() == 0
            late = await replay(lab, relay.calls)
            served += await lab.read_all()
            assert await second.end() == 0

    assert early.stored_bytes == late.stored_bytes == 0
    assert early.refusals == late.refusals == []
    if state == "kept":
        assert (early.duplicates, early.before_start_bytes) == (len(recorded), 0)
    else:
        assert (early.duplicates, early.before_start_bytes) == (0, recorded_bytes)
    assert late.duplicates == len(identities(relay.calls))
    check_not_sent_again(relay.calls)

    books = collector.accounting
    (await ledger_of(1, read_by=collector, captured=books["captured"])).check_once(served)
    check_collector_line(books)
    check_gateway_line(second.accounting)
    assert books["in_doubt"] == books["dropped_at_shutdown"] == 0
    accounted = (
        at_kill.served_bytes + before_start(at_kill) + taken(second.accounting, replayed=early.before_start_bytes)
    )
    assert accounted <= books["captured"] <= accounted + at_kill.pooled_bytes
    if state == "kept":
        assert books["captured"] == accounted + at_kill.pooled_bytes


async def test_a_collector_killed_mid_push(lab: Laboratory) -> None:
    """A collector that comes back begins a higher epoch; what it had sent stands, and its old calls are refused."""
    async with relaying(free_address(), lab.push_address) as relay, lab.gateway(**WIDE) as gateway:
        async with lab.collector(mock_seed=1, push_url=relay.address, **ROOMY) as first:
            at_kill = await stopped_mid_push(lab, relay, stored_bytes=SOME, messages=ON_THE_WAY)
            await first.kill()
        old_calls = list(relay.calls)
        await until(lambda: all(call.over for call in old_calls))
        early = await replay(lab, old_calls)
        relay.go_on()
        async with lab.collector(mock_seed=2, push_url=relay.address, **ROOMY) as second:
            await lab.settled(lambda books: books.stored_bytes >= at_kill.stored_bytes + SOME)
            assert await second.end() == 0
        new_calls = relay.calls[len(old_calls) :]
        late, later = await replay(lab, new_calls), await replay(lab, old_calls)
        ledger = await ledger_of(1, 2, read_by=first, captured=distinct_bytes(relay.calls))
        places = ledger.check_once(await lab.read_all())
        assert await gateway.end() == 0

    assert (await second.event("collecting"))["epoch"] > (await first.event("collecting"))["epoch"]
    assert early.stored_bytes == late.stored_bytes == later.stored_bytes == 0
    assert (early.duplicates, late.duplicates) == (len(identities(old_calls)), len(identities(new_calls)))
    assert later.refusals == ["FAILED_PRECONDITION"] * len([call for call in old_calls if call.requests])
    check_not_sent_again(relay.calls)

    # Of the first run nothing is missing but what was in its queue: its bytes are the beginning of its stream.
    of_first = [number for seed, number in places if seed == 1]
    # A start-up test has used up what comes before.
    used = (await first.event("source_trusted"))["start_up_bytes"]
    start = (used + before_start(at_kill)) // WORD_BYTES
    assert of_first == list(range(start, start + at_kill.stored_bytes // WORD_BYTES))
    check_gateway_line(gateway.accounting)
    check_collector_line(second.accounting)
    assert taken(gateway.accounting) == at_kill.stored_bytes + before_start(at_kill) + second.accounting["disposed"]
    assert second.accounting["in_doubt"] == second.accounting["dropped_at_shutdown"] == 0


async def test_a_gateway_restarted_politely(lab: Laboratory) -> None:
    """SIGTERM loses nobody's count: what the pool held is dropped and counted, and old calls stay duplicates."""
    async with (
        relaying(free_address(), lab.push_address) as relay,
        lab.collector(mock_seed=1, push_url=relay.address, **ROOMY) as collector,
    ):
        async with lab.gateway() as first:
            await lab.settled(lambda books: books.stored_bytes >= SOME)
            assert await first.end() == 0
        async with lab.gateway() as second:
            await lab.settled(lambda books: books.stored_bytes >= SOME)
            assert await collector.end() == 0
            replayed = await replay(lab, relay.calls)
            ledger = await ledger_of(1, read_by=collector, captured=collector.accounting["captured"])
            ledger.check_once(await lab.read_all())
            assert await second.end() == 0

    assert (replayed.stored_bytes, replayed.refusals) == (0, [])
    assert replayed.duplicates == len(identities(relay.calls))
    check_not_sent_again(relay.calls)
    for gateway in (first, second):
        check_gateway_line(gateway.accounting)
    check_collector_line(collector.accounting)
    assert first.accounting["dropped_at_shutdown"] > 0
    assert collector.accounting["captured"] == taken(first.accounting) + taken(second.accounting)
