"""Everything is accounted for: from a source that keeps a ledger, through collector and gateway, to many clients."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qrng_collector.app import Collector, collecting
from qrng_collector.config import CollectorConfig
from qrng_gateway.observation.status import Accounting
from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing import LedgerSource, ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1 import entropy_pb2
from tests.integration.fronts import Front, open_front
from tests.waiting import until

SET_ASIDE: dict[str, Any] = {"quality_reservoir_size": 1 << 20}
CONDITIONED: dict[str, Any] = {"post_processing": "sha256", "entropy_per_byte": 7.5}
COMBINED: dict[str, Any] = {"post_processing": "xor-os"}
BEFORE_THE_POOL = pytest.mark.parametrize(
    "settings", [{}, SET_ASIDE, CONDITIONED, SET_ASIDE | CONDITIONED, SET_ASIDE | COMBINED], ids=str
)
"""What may become of bytes between their verification and the pool."""
WINDOW_BYTES = 16
READS = 12
"""Reads of each client."""

Reads = Callable[[Front, aiohttp.ClientSession, list[int]], Awaitable[list[bytes]]]


@pytest.fixture
def sizes() -> Callable[[], list[int]]:
    """Odd and even sizes for one client after the other. The seed is printed; QRNG_TEST_SEED sets it."""
    seed = int(os.environ.get("QRNG_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"QRNG_TEST_SEED={seed}")
    rng = random.Random(seed)
    return lambda: [rng.randint(WINDOW_BYTES, 12_000) for _ in range(READS)]


def collector_config(gateway: RunningGateway, state_dir: Path, **settings: Any) -> CollectorConfig:
    """Return the settings of a collector for `gateway`, fast ones."""
    record = gateway.key_record
    common = {
        "hmac_secret_key": record.secret.decode(),
        "hmac_key_id": record.key_id,
        "collector_id": record.collector_id,
        "pool_id": gateway.pool_id,
        "best_class": record.best_class,
        "source": "mock",
        "fetch_chunk_size": 4096,
        "fetch_interval": 0.002,
        "push_url": gateway.push_address,
        "push_interval": 0.02,
        "flush_timeout": 60,
        "state_dir": state_dir,
    }
    return CollectorConfig(**{**common, **settings})


def check_equation(delivered: int, collector: Collector, gateway: Accounting) -> None:
    """Check DESIGN section 2 item 4, exactly: captured is the sum of all that became of it."""
    counters = collector.counters
    refused = sum(gateway.refused.values())
    assert counters.captured == delivered
    assert counters.disposed == gateway.stored + refused
    assert counters.captured == (
        gateway.served
        + gateway.pooled
        + collector.queue.queued
        + (counters.expired + gateway.expired)
        + (counters.overflow + gateway.overflow)
        + refused
        + gateway.purged
        + gateway.set_aside
        + gateway.conditioned
        + counters.in_doubt
        + (counters.dropped_at_shutdown + gateway.dropped_at_shutdown)
    )


async def unary(front: Front, _http: aiohttp.ClientSession, sizes: list[int]) -> list[bytes]:
    return [
        (await front.entropy.GetEntropy(entropy_pb2.GetEntropyRequest(bytes_needed=n), metadata=front.key)).data
        for n in sizes
    ]


async def subscribe(front: Front, _http: aiohttp.ClientSession, sizes: list[int]) -> list[bytes]:
    request = entropy_pb2.SubscribeEntropyRequest(bytes_per_message=sizes[0], total_bytes=sum(sizes))
    return [reply.data async for reply in front.entropy.SubscribeEntropy(request, metadata=front.key)]


async def bidirectional(front: Front, _http: aiohttp.ClientSession, sizes: list[int]) -> list[bytes]:
    requests = [entropy_pb2.StreamEntropyRequest(bytes_needed=n) for n in sizes]
    return [reply.data async for reply in front.entropy.StreamEntropy(iter(requests), metadata=front.key)]


async def qr_entropy(front: Front, _http: aiohttp.ClientSession, sizes: list[int]) -> list[bytes]:
    requests = [qr_entropy_pb2.EntropyRequest(bytes_needed=n) for n in sizes]
    first = await front.qr_entropy.GetEntropy(requests[0], metadata=front.key)
    stream = front.qr_entropy.StreamEntropy(iter(requests[1:]), metadata=front.key)
    return [first.data, *[reply.data async for reply in stream]]


async def quantum_rng(front: Front, _http: aiohttp.ClientSession, sizes: list[int]) -> list[bytes]:
    return [
        (await front.quantum_rng.GetRandomBytes(quantum_rng_pb2.RandomRequest(num_bytes=n), metadata=front.key)).data
        for n in sizes
    ]


async def rest(front: Front, http: aiohttp.ClientSession, sizes: list[int]) -> list[bytes]:
    decoders: dict[str, Callable[[bytes], bytes]] = {
        "hex": lambda body: bytes.fromhex(body.decode()),
        "base64": base64.b64decode,
        "binary": bytes,
    }
    headers = {"Authorization": f"Bearer {front.gateway.api_key}"}
    pieces = []
    for n in sizes:
        for encoding, decode in decoders.items():
            url = f"{front.gateway.rest_url}/api/random?bytes={n}&encoding={encoding}"
            async with http.get(url, headers=headers) as response:
                assert response.status == 200
                pieces.append(decode(await response.read()))
    return pieces


ALL_KINDS: tuple[Reads, ...] = (unary, unary, subscribe, bidirectional, qr_entropy, quantum_rng, rest, rest)


def check_once(source: LedgerSource, pieces: list[bytes]) -> None:
    """Check that each piece was captured, each byte of it for nobody else, and that no window turns up twice."""
    places = sorted(run for piece in pieces for run in runs_of(piece, source.delivered))
    for (start, length), (following, _) in pairwise(places):
        assert start + length <= following, "a byte was served twice"
    check_no_window_twice(pieces)


def runs_of(piece: bytes, ledger: bytes) -> Iterator[tuple[int, int]]:
    """Yield place and length of each run of `ledger` that `piece` is made of.

    Between two runs bytes were set aside. What is too short to be found once may be placed among those, which is
    where nobody else's bytes are. Raises RuntimeError for what was never captured.
    """
    end = 0
    while piece:
        # Fewer bytes than a window may lie before a gap.
        before = next(k for k in range(min(WINDOW_BYTES, len(piece))) if piece[k : k + WINDOW_BYTES] in ledger[end:])
        start = ledger.index(piece[before : before + WINDOW_BYTES], end)
        if before:
            yield ledger.rindex(piece[:before], end, start), before
        run = zip(piece[before:], ledger[start:], strict=False)
        length = next((i for i, (ours, theirs) in enumerate(run) if ours != theirs), len(piece) - before)
        yield start, length
        piece, end = piece[before + length :], start + length


def check_no_window_twice(pieces: list[bytes]) -> None:
    count = sum(max(0, len(piece) - WINDOW_BYTES + 1) for piece in pieces)  # some are shorter than a window
    windows = {piece[i : i + WINDOW_BYTES] for piece in pieces for i in range(len(piece) - WINDOW_BYTES + 1)}
    assert len(windows) == count, "a window was served twice"


@BEFORE_THE_POOL
async def test_every_byte_is_served_once_and_accounted_for(
    tmp_path: Path, http: aiohttp.ClientSession, sizes: Callable[[], list[int]], settings: dict[str, Any]
) -> None:
    """With several clients at once on every service, each served byte was captured once and all others have a name.

    Where the gateway makes other bytes of them, none of those turns up twice, and those used up have a name too.
    """
    source = LedgerSource(seed=1)
    async with (
        running_gateway(best_class=SourceClass.SIMULATED, max_wait=60, **settings) as gateway,
        collecting(collector_config(gateway, tmp_path), sources=[source]) as collector,
        open_front(gateway) as front,
    ):
        replies = await asyncio.gather(*(reads(front, http, sizes()) for reads in ALL_KINDS))
        await until(lambda: gateway.gateway.pool.level > 0)
    accounting = gateway.gateway.accounting()
    pieces = [piece for pieces in replies for piece in pieces]

    if "post_processing" in settings:
        check_no_window_twice(pieces)
    else:
        check_once(source, pieces)
    assert (accounting.set_aside > 0) is ("quality_reservoir_size" in settings)
    assert accounting.set_aside <= accounting.stored // 100
    assert (accounting.conditioned > 0) is ("entropy_per_byte" in settings)
    assert accounting.served == sum(map(len, pieces))
    assert accounting.dropped_at_shutdown > 0
    assert accounting.pooled == collector.queue.queued == collector.counters.in_doubt == accounting.duplicates == 0
    check_equation(source.delivered_bytes, collector, accounting)


async def test_a_client_that_leaves_takes_what_it_was_promised_or_nothing(
    tmp_path: Path, http: aiohttp.ClientSession, sizes: Callable[[], list[int]]
) -> None:
    """Clients that leave in the middle of their calls cost no other client a byte, and the books balance."""
    source = LedgerSource(seed=2)
    request = entropy_pb2.SubscribeEntropyRequest(bytes_per_message=3000)
    never_there = entropy_pb2.GetEntropyRequest(bytes_needed=1 << 20, max_age_ms=50)
    async with (
        running_gateway(best_class=SourceClass.SIMULATED, max_wait=60) as gateway,
        collecting(collector_config(gateway, tmp_path), sources=[source]) as collector,
        open_front(gateway) as front,
    ):
        endless = front.entropy.SubscribeEntropy(request, metadata=front.key)
        got = [(await endless.read()).data, (await endless.read()).data]
        waiting = front.entropy.GetEntropy(never_there, metadata=front.key)
        await until(lambda: gateway.gateway.pool.waiting > 0)
        endless.cancel()
        waiting.cancel()
        await until(lambda: gateway.gateway.pool.waiting == 0)
        got += await unary(front, http, sizes())
    accounting = gateway.gateway.accounting()

    check_once(source, got)
    assert accounting.served >= sum(map(len, got))
    check_equation(source.delivered_bytes, collector, accounting)


@BEFORE_THE_POOL
async def test_every_fate_has_its_counter(
    tmp_path: Path, http: aiohttp.ClientSession, settings: dict[str, Any]
) -> None:
    """Bytes that overflow at either end, expire or are refused are counted there, and the books balance."""
    source, clock = LedgerSource(seed=3), ManualClock()
    lifetime: dict[str, Any] = {
        "best_class": SourceClass.SIMULATED,
        "buffer_ttl": 60,
        "clock_tolerance": 5,
        "buffer_size": 1 << 20,
    }
    async with running_gateway(clock=clock, **lifetime, **settings) as gateway:
        # 64 KiB every 2 ms overflow a queue of four chunks between two pushes, and soon the pool of sixteen.
        crowded = {"fetch_chunk_size": 65_536, "buffer_size": 262_144, "push_interval": 0.2}
        pool, ingest = gateway.gateway.pool, gateway.gateway.ingest
        async with (
            collecting(collector_config(gateway, tmp_path, **crowded), sources=[source], clock=clock) as collector,
            open_front(gateway) as front,
        ):
            counters = collector.counters
            await until(lambda: ingest.refused["before_start"] > 0)
            assert pool.counters.stored == 0
            clock.advance(6)
            await until(lambda: counters.overflow > 0 and pool.counters.overflow > 0)
            pieces = await unary(front, http, [4096])
            clock.advance(61)
            await until(lambda: pool.counters.expired > 0)
    accounting = gateway.gateway.accounting()

    assert accounting.refused["before_start"] > 0
    assert accounting.served == sum(map(len, pieces))
    check_equation(source.delivered_bytes, collector, accounting)


async def test_an_end_without_a_gateway_leaves_no_byte_unnamed(tmp_path: Path) -> None:
    """A collector whose gateway has gone ends with every byte counted: in doubt where it may have arrived.

    What was captured once the gateway could not be reached any more is bound to no call, and so never in doubt.
    """
    source = LedgerSource(seed=4)
    async with AsyncExitStack() as outlives:
        async with running_gateway(best_class=SourceClass.SIMULATED) as gateway:
            config = collector_config(gateway, tmp_path, flush_timeout=0.1)
            collector = await outlives.enter_async_context(collecting(config, sources=[source]))
            await until(lambda: gateway.gateway.pool.counters.stored > 0)
        await until(lambda: collector.pushers[0].status == "UNREACHABLE")
        captured = collector.counters.captured
        await until(lambda: collector.counters.captured > captured)
    accounting, counters = gateway.gateway.accounting(), collector.counters

    assert counters.dropped_at_shutdown >= counters.captured - captured > 0
    assert counters.captured == source.delivered_bytes == counters.gone
    assert counters.disposed <= accounting.stored <= counters.disposed + counters.in_doubt
