"""Chunks that a gateway holds back at their collector: they wait, they are bounded, and they arrive once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from qrng_client import AsyncEntropyClient
from qrng_collector.app import Collector, collecting
from qrng_collector.config import CollectorConfig, RetryPolicy
from qrng_gateway.observation.status import Accounting
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing import LedgerSource, ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.testing.relay import relaying
from tests.chaos.books import (
    ROOMY,
    check_collector_line,
    check_gateway_line,
    check_not_sent_again,
    distinct_bytes,
    ledger_of,
    replay,
    sent_bytes,
)
from tests.ledger import Ledger
from tests.programs import CHUNK_BYTES, PUSH_METHOD, Laboratory, disposed_count, free_address
from tests.waiting import until

AHEAD_S = 3


class AheadClock:
    """A clock that is `ahead_s` seconds ahead of `clock`, until somebody sets it right."""

    def __init__(self, clock: ManualClock, ahead_s: float) -> None:
        self.ahead_s = ahead_s
        self._clock = clock

    def now_ns(self) -> int:
        return self._clock.now_ns() + round(self.ahead_s * NS_PER_S)

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns()


def collector_config(gateway: RunningGateway, push_url: str, state_dir: Path, **settings: Any) -> CollectorConfig:
    """Return the settings of a fast collector for `gateway`, which it reaches at `push_url`."""
    record = gateway.key_record
    common = {
        "hmac_secret_key": record.secret.decode(),
        "hmac_key_id": record.key_id,
        "collector_id": record.collector_id,
        "pool_id": gateway.pool_id,
        "best_class": record.best_class,
        "source": "mock",
        "fetch_chunk_size": CHUNK_BYTES,
        "fetch_interval": 0.002,
        "push_url": push_url,
        "push_interval": 0.02,
        "retry_policy": RetryPolicy(initial_s=0.02, maximum_s=0.1),
        "flush_timeout": 60,
        "state_dir": state_dir,
    }
    return CollectorConfig(**{**common, **settings})


def check_bounds(source: LedgerSource, collector: Collector, gateway: Accounting) -> None:
    """Check DESIGN section 2 item 4 where bytes are in doubt: sum - in doubt <= captured <= sum."""
    counters = collector.counters
    known = gateway.stored + sum(gateway.refused.values()) + counters.expired + counters.overflow
    total = known + counters.dropped_at_shutdown + counters.in_doubt
    assert counters.captured == source.delivered_bytes
    assert total - counters.in_doubt <= counters.captured <= total
    assert gateway.stored == gateway.served + gateway.overflow + gateway.expired + gateway.dropped_at_shutdown


async def test_a_clock_ahead_within_the_tolerance(tmp_path: Path) -> None:
    """A collector whose clock is 3 s ahead is served like any other when the tolerance is 5 s."""
    clock, source = ManualClock(), LedgerSource()
    async with running_gateway(clock=clock, best_class=SourceClass.SIMULATED, clock_tolerance=5) as gateway:
        clock.advance(10)
        async with (
            relaying(free_address(), gateway.push_address) as relay,
            collecting(
                collector_config(gateway, relay.address, tmp_path), sources=[source], clock=AheadClock(clock, AHEAD_S)
            ) as collector,
        ):
            await until(lambda: gateway.gateway.pool.counters.stored > 0)
    assert relay.statuses == {"OK"}
    assert not gateway.gateway.ingest.held
    assert gateway.gateway.accounting().stored == collector.counters.captured == source.delivered_bytes


async def test_a_clock_ahead_of_the_tolerance(tmp_path: Path) -> None:
    """Chunks from the future are held, FAILED_PRECONDITION, and stored once the gateway's clock has caught up."""
    clock, source = ManualClock(), LedgerSource()
    ahead = AheadClock(clock, AHEAD_S)
    async with running_gateway(clock=clock, best_class=SourceClass.SIMULATED, clock_tolerance=0) as gateway:
        clock.advance(10)
        async with (
            relaying(free_address(), gateway.push_address) as relay,
            collecting(collector_config(gateway, relay.address, tmp_path), sources=[source], clock=ahead) as collector,
        ):
            await until(lambda: len(relay.calls) > 3)
            assert relay.statuses == {"FAILED_PRECONDITION"}
            assert gateway.gateway.pool.counters.stored == 0
            ahead.ahead_s = 0
            clock.advance(AHEAD_S)
            await until(lambda: relay.calls[-1].status == "OK")
    assert collector.counters.in_doubt == collector.counters.dropped_at_shutdown == 0
    assert gateway.gateway.accounting().stored == collector.counters.captured == source.delivered_bytes
    assert gateway.gateway.ingest.duplicates == 0


async def test_a_chunk_damaged_on_its_way(tmp_path: Path) -> None:
    """One flipped bit and it is held, UNAUTHENTICATED; sent again it is stored, once, and so is all behind it."""
    source = LedgerSource()
    async with (
        running_gateway(best_class=SourceClass.SIMULATED) as gateway,
        relaying(free_address(), gateway.push_address) as relay,
        collecting(collector_config(gateway, relay.address, tmp_path), sources=[source]) as collector,
    ):
        relay.damage_after(0)
        await until(lambda: relay.damaged == 1)
        await until(lambda: relay.calls[-1].status == "OK")
    assert relay.statuses == {"OK", "UNAUTHENTICATED"}
    check_not_sent_again(relay.calls)
    assert collector.counters.in_doubt == collector.counters.dropped_at_shutdown == 0
    assert gateway.gateway.accounting().stored == collector.counters.captured == source.delivered_bytes
    assert gateway.gateway.ingest.duplicates == 0


@pytest.mark.parametrize(
    "limit", [{"buffer_ttl": 3600, "buffer_size": 65_536}, {"buffer_ttl": 0.2, "buffer_size": 1 << 20}], ids=str
)
async def test_a_pool_that_stays_full_under_backpressure(tmp_path: Path, limit: dict[str, float]) -> None:
    """A full pool holds chunks at their collector, which stays within its own bounds and goes on when there is room.

    What it has to give up is overflow or expired, and in doubt where it had been sent; nothing is stored twice.
    """
    source, served = LedgerSource(seed=1), b""
    settings: dict[str, Any] = {"best_class": SourceClass.SIMULATED, "overflow": "backpressure", "buffer_size": 1 << 20}
    async with running_gateway(**settings) as gateway:
        large = {"fetch_chunk_size": 16 * CHUNK_BYTES, "flush_timeout": 0.2}
        async with (
            relaying(free_address(), gateway.push_address) as relay,
            collecting(
                collector_config(gateway, relay.address, tmp_path, **large, **limit), sources=[source]
            ) as collector,
            AsyncEntropyClient(gateway.client_address, api_key=gateway.api_key) as client,
        ):
            counters, pool = collector.counters, gateway.gateway.pool
            await until(lambda: counters.overflow + counters.expired > 0 and counters.in_doubt > 0)
            await until(lambda: "RESOURCE_EXHAUSTED" in relay.statuses)
            assert pool.level <= pool.capacity
            assert collector.queue.queued <= limit["buffer_size"]
            stored_when_full = pool.counters.stored
            served += (await client.get(1 << 19)).data
            await until(lambda: pool.counters.stored > stored_when_full)
        async with AsyncEntropyClient(gateway.client_address, api_key=gateway.api_key) as client:
            while pool.level:
                served += (await client.get(min(pool.level, 1 << 20))).data
    Ledger(1, stream_bytes=source.delivered_bytes).check_once(served)
    assert gateway.gateway.ingest.held["POOL_FULL"] > 0
    assert gateway.gateway.accounting().overflow == 0
    check_bounds(source, collector, gateway.gateway.accounting())


async def test_an_epoch_below_the_mark(lab: Laboratory) -> None:
    """A collector that lost its epoch file, and whose clock was set back, is held until the mark is deleted.

    The epoch file that runs ahead stands for the clock that did.
    """
    async with relaying(free_address(), lab.push_address) as relay, lab.gateway() as first:
        lab.put_epoch(1 << 62)
        async with lab.collector(mock_seed=1, push_url=relay.address, **ROOMY) as ahead:
            await lab.settled(lambda books: books.stored_bytes > 0)
            assert await ahead.end() == 0
        lab.delete_epoch()
        async with lab.collector(mock_seed=2, push_url=relay.address, **ROOMY) as collector:
            at_hold, held_from = await lab.accounting(), len(relay.calls)
            # A relay that still writes when a call ends may hear INTERNAL of its own making, so not every call tells.
            await until(lambda: "FAILED_PRECONDITION" in [call.status for call in relay.calls[held_from:]])
            await until(lambda: len(relay.calls) > held_from + 3)
            assert (await lab.accounting()).stored_bytes == at_hold.stored_bytes

            served = await lab.read_all()
            assert await first.end() == 0
            lab.delete_gateway_state()
            async with lab.gateway() as second:
                await lab.settled(lambda books: books.stored_bytes > 0)
                assert await collector.end() == 0
                replayed = await replay(lab, relay.calls)
                served += await lab.read_all()
                assert await second.end() == 0
    assert replayed.stored_bytes == 0
    (await ledger_of(1, 2, read_by=ahead, captured=distinct_bytes(relay.calls))).check_once(served)
    for gateway in (first, second):
        check_gateway_line(gateway.accounting)
    for program in (ahead, collector):
        check_collector_line(program.accounting)
    assert second.accounting["refused"]["before_start"] > 0
    assert collector.accounting["in_doubt"] == collector.accounting["dropped_at_shutdown"] == 0


async def test_a_gateway_that_drains(lab: Laboratory) -> None:
    """On SIGTERM an open push call ends at once: with its count if it has one, else UNAVAILABLE. Exit code 0."""
    async with lab.gateway() as gateway, grpc.aio.insecure_channel(lab.push_address) as channel:
        push: Any = channel.stream_unary(PUSH_METHOD)
        counted, empty = push(), push()
        await counted.write(lab.signed(os.urandom(CHUNK_BYTES), epoch=1, sequence=1))
        await empty.wait_for_connection()
        await lab.settled(lambda books: books.stored_bytes == CHUNK_BYTES)
        gateway.ask_to_end()
        assert disposed_count(await counted) == 1
        with pytest.raises(grpc.aio.AioRpcError) as held:
            await empty
        assert await gateway.ended() == 0
    assert held.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gateway.accounting["dropped_at_shutdown"] == CHUNK_BYTES


async def test_a_collector_without_a_gateway_ends_politely(lab: Laboratory) -> None:
    """On SIGTERM a collector whose gateway has gone gives up its flush, counts what is left and exits with 0."""
    async with (
        relaying(free_address(), lab.push_address) as relay,
        lab.gateway() as gateway,
        lab.collector(push_url=relay.address, flush_timeout=0.1) as collector,
    ):
        await until(lambda: "OK" in relay.statuses and not relay.calls[-1].over)
        heard = sent_bytes([call for call in relay.calls[:-1] if call.status == "OK"])
        assert await gateway.end() == 0
        assert await collector.end() == 0
    books = collector.accounting
    check_gateway_line(gateway.accounting)
    check_collector_line(books)
    assert books["queued"] == 0
    assert 0 < heard <= books["disposed"] <= gateway.accounting["stored"] <= books["disposed"] + books["in_doubt"]
