"""One collector and two real gateways: bytes go where they are taken, and each to one of them only."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from qrng_client import AsyncEntropyClient
from qrng_collector.app import Collector, collecting
from qrng_collector.config import CollectorConfig, RetryPolicy
from qrng_collector.target import PoolTarget
from qrng_grpc.errors import ConfigError, SourceError
from qrng_grpc.labels import Condition, SourceClass
from qrng_grpc.testing import LedgerSource, ManualClock, ScriptedSource
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.testing.relay import Relay, relaying
from qrng_grpc.v1.push_pb2 import PushChunksRequest
from qrng_grpc.wire import decode_chunk
from tests.ledger import Ledger
from tests.programs import free_address
from tests.waiting import until

CHUNK_BYTES = 1024
KEY = {
    "hmac_secret_key": "0123456789abcdef0123456789abcdef",
    "hmac_key_id": "k1",
    "collector_id": "lab",
    "best_class": SourceClass.SIMULATED,
}


def gateway_settings(pool_id: str, **settings: Any) -> dict[str, Any]:
    return {**KEY, "pool_id": pool_id, "buffer_size": 16 << 20, **settings}


def config(state_dir: Path, *targets: tuple[str, str], **settings: Any) -> CollectorConfig:
    values: dict[str, Any] = {
        **KEY,
        "source": "mock",
        "state_dir": state_dir,
        "pools": tuple(PoolTarget(pool_id=pool_id, push_url=push_url) for pool_id, push_url in targets),
        "fetch_chunk_size": CHUNK_BYTES,
        "fetch_interval": 0.002,
        "buffer_size": 64 << 20,
        "push_interval": 0.02,
        "flush_timeout": 60,
        "retry_policy": RetryPolicy(initial_s=0.02, maximum_s=0.1),
        **settings,
    }
    return CollectorConfig(**values)


def stored(*gateways: RunningGateway) -> int:
    return sum(gateway.gateway.accounting().stored for gateway in gateways)


def check_books(collector: Collector, source: LedgerSource) -> None:
    counters = collector.counters
    assert counters.captured == counters.gone == source.delivered_bytes


async def read_all(gateway: RunningGateway) -> bytes:
    """Take all that is in a gateway's pool."""
    served, pool = b"", gateway.gateway.pool
    async with AsyncEntropyClient(gateway.client_address, api_key=gateway.api_key) as client:
        while pool.level:
            served += (await client.get(min(pool.level, 1 << 20))).data
    return served


async def test_a_dead_pool_keeps_no_byte_from_a_live_one(tmp_path: Path) -> None:
    """All bytes go to the pool that takes them, and none is in doubt."""
    source = LedgerSource(seed=1)
    async with running_gateway(**gateway_settings("west")) as west:
        targets = ("east", free_address()), ("west", west.push_address)
        async with collecting(config(tmp_path, *targets), sources=[source]) as collector:
            await until(lambda: stored(west) >= 100 * CHUNK_BYTES)
        check_books(collector, source)
        assert collector.counters.disposed == stored(west) == source.delivered_bytes


async def test_two_live_pools_share(tmp_path: Path) -> None:
    """Both are sent bytes, and no byte is in both."""
    source = LedgerSource(seed=1)
    async with (
        running_gateway(**gateway_settings("east")) as east,
        running_gateway(**gateway_settings("west")) as west,
    ):
        targets = ("east", east.push_address), ("west", west.push_address)
        async with collecting(config(tmp_path, *targets), sources=[source]) as collector:
            await until(lambda: min(stored(east), stored(west)) >= 20 * CHUNK_BYTES)
        check_books(collector, source)
        assert collector.counters.disposed == stored(east, west) == source.delivered_bytes
        served = await read_all(east) + await read_all(west)
    Ledger(1, stream_bytes=source.delivered_bytes).check_once(served)
    assert len(served) == source.delivered_bytes


async def test_a_gateway_that_goes_and_returns(tmp_path: Path) -> None:
    """While it is away the other takes what was never sent; what may have been sent waits for it, and arrives once."""
    source, state, address = LedgerSource(seed=1), tmp_path / "east", free_address()
    settings = gateway_settings("east", state_dir=state, push_listen_address=address)
    served = b""
    async with running_gateway(**gateway_settings("west")) as west:
        async with AsyncExitStack() as first:
            east = await first.enter_async_context(running_gateway(**settings))
            relay = await first.enter_async_context(relaying("127.0.0.1:0", address))
            targets = ("east", relay.address), ("west", west.push_address)
            async with collecting(config(tmp_path / "lab", *targets), sources=[source]) as collector:
                await until(lambda: stored(east) >= 20 * CHUNK_BYTES)
                relay.lose_replies(1)
                await until(lambda: relay.cuts == 1)
                served, before = await read_all(east), stored(west)
                relay.stop_after(0)  # nothing reaches it any more
                await until(lambda: stored(west) >= before + 50 * CHUNK_BYTES)
                relay.go_on()
                at_return = stored(east)
                await until(lambda: stored(east) >= at_return + 20 * CHUNK_BYTES)
            served += await read_all(east)
            assert collector.counters.disposed == stored(east, west) == source.delivered_bytes
        served += await read_all(west)
    check_books(collector, source)
    Ledger(1, stream_bytes=source.delivered_bytes).check_once(served)


async def test_what_may_have_been_sent_moves_nowhere(tmp_path: Path) -> None:
    """A chunk whose pool never answers again is in doubt at the age limit, though another pool is free."""
    clock, source = ManualClock(), ScriptedSource([bytes((n,)) * CHUNK_BYTES for n in range(1, 4)])
    async with (
        running_gateway(clock=clock, **gateway_settings("east")) as east,
        relaying("127.0.0.1:0", east.push_address) as relay,
    ):
        clock.advance(1)
        relay.lose_replies(1000)
        settings = config(tmp_path, ("east", relay.address), ("west", free_address()), buffer_ttl=60, flush_timeout=0)
        async with collecting(settings, sources=[source], clock=clock) as collector:
            await source.over.wait()
            await until(lambda: relay.cuts > 0)
            clock.advance(61)
            await until(lambda: not collector.queue.queued)
    assert collector.counters.in_doubt >= CHUNK_BYTES
    assert collector.counters.in_doubt + collector.counters.expired == 3 * CHUNK_BYTES
    assert collector.counters.disposed == 0


@pytest.mark.parametrize("trouble", ["cut", "lost", "twice", "late"])
async def test_a_bad_wire(tmp_path: Path, trouble: str) -> None:
    """Cut, duplicated, late or unanswered: every byte arrives once, and what was recorded enters no second time."""
    source = LedgerSource(seed=1)
    async with running_gateway(**gateway_settings("east")) as east, relaying("127.0.0.1:0", east.push_address) as relay:
        async with collecting(config(tmp_path, ("east", relay.address)), sources=[source]) as collector:
            await until(lambda: stored(east) >= 10 * CHUNK_BYTES)
            misbehave(relay, trouble)
            seen = len(relay.calls)
            await until(lambda: len(relay.calls) >= seen + 5)
        everything = stored(east)
        assert collector.counters.disposed == everything == source.delivered_bytes
        for call in relay.calls:
            assert (await relay.replay(call)).status == "OK"
        assert stored(east) == everything


def misbehave(relay: Relay, trouble: str) -> None:
    relay.duplicate = trouble == "twice"
    relay.delay_s = 0.002 if trouble == "late" else 0.0
    if trouble == "cut":
        relay.cut_after(2)
    if trouble == "lost":
        relay.lose_replies(2)


async def test_the_breaker_opens_and_closes(tmp_path: Path) -> None:
    """Each failure in a row makes the wait longer and the call smaller; one success, and all is as before."""
    source = LedgerSource(seed=1)
    async with running_gateway(**gateway_settings("east")) as east, relaying("127.0.0.1:0", east.push_address) as relay:
        relay.lose_replies(1000)
        async with collecting(config(tmp_path, ("east", relay.address)), sources=[source]) as collector:
            (pusher,) = collector.pushers
            await until(lambda: pusher.failures >= 5)
            assert pusher.status == "UNAVAILABLE"
            relay.lose_replies(0)
            await until(lambda: pusher.failures == 0 and pusher.status == "OK")
        assert [len(call.requests) for call in relay.calls[3:5]] == [1, 1]
        assert collector.counters.disposed == stored(east)


def heartbeats(relay: Relay) -> list[Any]:
    sent = [decode_chunk(PushChunksRequest.FromString(r).signed_chunk.chunk) for c in relay.calls for r in c.requests]
    return [one for one in sent if not hasattr(one, "block")]


async def test_silence_is_told_from_a_cut_wire(tmp_path: Path) -> None:
    """Every `heartbeat_interval` a pool is sent a heartbeat: it takes a sequence, and stores nothing."""
    clock, source = ManualClock(), ScriptedSource([bytes(range(256)) * 4])
    async with (
        running_gateway(clock=clock, **gateway_settings("east")) as east,
        relaying("127.0.0.1:0", east.push_address) as relay,
    ):
        clock.advance(1)
        settings = config(tmp_path, ("east", relay.address), heartbeat_interval=10)
        async with collecting(settings, sources=[source], clock=clock) as collector:
            (pusher,) = collector.pushers
            await until(lambda: collector.counters.disposed == CHUNK_BYTES)
            assert not heartbeats(relay)
            for expected in (1, 2, 3):
                clock.advance(10)
                await until(lambda: east.gateway.ingest.heartbeats == expected)  # noqa: B023 - awaited here
            assert pusher.counters.heartbeats == 3
    assert [heartbeat.identity.sequence for heartbeat in heartbeats(relay)] == [2, 3, 4]
    assert collector.counters.captured == collector.counters.disposed == CHUNK_BYTES


async def test_a_busy_collector_tells_how_it_does(tmp_path: Path) -> None:
    """A collector that pushes all the time sends heartbeats too, so that what it loses is seen."""
    clock, demanded = ManualClock(), [asyncio.Event(), asyncio.Event()]
    block = bytes(range(256)) * 4
    source = ScriptedSource([demanded[0], block, demanded[1], block[::-1]])
    async with running_gateway(clock=clock, **gateway_settings("east")) as east:
        clock.advance(1)
        settings = config(tmp_path, ("east", east.push_address), heartbeat_interval=10)
        async with collecting(settings, sources=[source], clock=clock) as collector:
            for chunks, demand in enumerate(demanded, start=1):
                clock.advance(6)
                demand.set()
                await until(lambda: collector.counters.disposed == chunks * CHUNK_BYTES)  # noqa: B023 - awaited here
            await until(lambda: east.gateway.ingest.heartbeats == 1)


async def test_the_condition_of_a_source_is_told(tmp_path: Path) -> None:
    """When a source begins to fail, and when it delivers again, the gateway hears of it without waiting."""
    told, block = asyncio.Event(), bytes(range(256)) * 4
    source = ScriptedSource([block, SourceError("unplugged"), told, block[::-1]])
    async with running_gateway(**gateway_settings("east")) as east, relaying("127.0.0.1:0", east.push_address) as relay:
        settings = {"heartbeat_interval": 3600, "fetch_timeout": 3600}
        async with collecting(config(tmp_path, ("east", relay.address), **settings), sources=[source]) as collector:
            await until(lambda: east.gateway.ingest.heartbeats == 1)
            told.set()
            await until(lambda: len(heartbeats(relay)) == 2)
            await until(lambda: collector.counters.disposed == 2 * CHUNK_BYTES)
    conditions = [[state.condition for state in heartbeat.sources] for heartbeat in heartbeats(relay)]
    assert conditions == [[Condition.FAILING], [Condition.DELIVERING]]


async def test_a_lost_heartbeat_is_not_sent_again(tmp_path: Path) -> None:
    """What it said has aged; the next one has a sequence of its own."""
    clock, source = ManualClock(), ScriptedSource([])
    async with (
        running_gateway(clock=clock, **gateway_settings("east")) as east,
        relaying("127.0.0.1:0", east.push_address) as relay,
    ):
        relay.lose_replies(1)
        settings = config(tmp_path, ("east", relay.address), heartbeat_interval=10)
        async with collecting(settings, sources=[source], clock=clock) as collector:
            clock.advance(10)
            await until(lambda: collector.pushers[0].failures == 1)
            clock.advance(10)
            await until(lambda: collector.pushers[0].status == "OK")
    assert [heartbeat.identity.sequence for heartbeat in heartbeats(relay)] == [1, 2]
    assert east.gateway.ingest.duplicates == 0


async def test_health_and_status(tmp_path: Path) -> None:
    """Locally the collector tells how sources, queue and pools do, without a secret; 503 when nothing is delivered."""
    source = LedgerSource(seed=1)
    async with running_gateway(**gateway_settings("east")) as east, aiohttp.ClientSession() as http:
        settings = config(tmp_path, ("east", east.push_address), health_listen_address="127.0.0.1:0")
        with capture_logs() as logs:
            async with collecting(settings, sources=[source]) as collector:
                url = f"http://{collector.health_address}"
                await until(lambda: collector.counters.disposed >= 10 * CHUNK_BYTES)
                async with http.get(f"{url}/health") as reply:
                    assert (reply.status, await reply.json()) == (200, {"status": "collecting"})
                async with http.get(f"{url}/status?api_key=secret") as reply:
                    text, status = await reply.text(), await reply.json()
                async with http.get(f"{url}/elsewhere") as reply:
                    assert (reply.status, (await reply.json())["error"]["reason"]) == (404, "NOT_FOUND")
    assert status["ready"] is True
    assert status["sources"][0]["condition"] == "delivering"
    assert status["sources"][0]["fetched_bytes"] >= 10 * CHUNK_BYTES
    assert status["accounting"]["disposed"] >= 10 * CHUNK_BYTES
    (pool,) = status["pools"]
    assert (pool["pool_id"], pool["status"], pool["failures_in_a_row"]) == ("east", "OK", 0)
    assert pool["chunks"]["disposed"] >= 10
    assert status["uptime_seconds"] >= status["last_push_seconds"] >= 0
    assert KEY["hmac_secret_key"] not in text
    assert "secret" not in repr(logs)


async def test_no_health_without_a_source(tmp_path: Path) -> None:
    """A collector whose source fails says so, with a status a probe understands."""
    source = ScriptedSource([SourceError("unplugged")] * 1000)
    settings = {"health_listen_address": "127.0.0.1:0", "flush_timeout": 0}
    async with (
        collecting(config(tmp_path, ("east", free_address()), **settings), sources=[source]) as collector,
        aiohttp.ClientSession() as http,
    ):
        await until(lambda: not collector.observer.ready)
        async with http.get(f"http://{collector.health_address}/health") as reply:
            assert reply.status == 503


async def test_an_address_in_use(tmp_path: Path) -> None:
    """A collector that cannot tell how it does when asked to does not start."""
    settings = {"health_listen_address": "127.0.0.1:0", "flush_timeout": 0}
    async with collecting(config(tmp_path / "a", ("east", free_address()), **settings), sources=[]) as first:
        taken = config(
            tmp_path / "b", ("east", free_address()), health_listen_address=first.health_address, flush_timeout=0
        )
        with pytest.raises(ConfigError, match="cannot listen there"):
            async with collecting(taken, sources=[]):
                pass
