"""`fresh`: bytes whose capture began after they were asked for, from a real collector with a clock of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from qrng_collector.app import collecting
from qrng_collector.config import CollectorConfig
from qrng_grpc.chunk import BlockLabel
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, StreamEntropyRequest, SubscribeEntropyRequest
from tests.integration.fronts import Front, open_front, refused, refused_in_time
from tests.waiting import until

TOLERANCE_S = 0.2
BLOCK_BYTES = 1024
WORD_BYTES = 8
CLIENTS = 3
"""Of each kind."""
READS = 3


@dataclass(frozen=True)
class SkewedClock:
    """The system's clock, wrong by `ahead_s` seconds."""

    ahead_s: float

    def now_ns(self) -> int:
        """Nanoseconds of Unix time, as this clock has it."""
        return SYSTEM_CLOCK.now_ns() + round(self.ahead_s * NS_PER_S)

    def monotonic_ns(self) -> int:
        """Nanoseconds of time passed."""
        return SYSTEM_CLOCK.monotonic_ns()


@dataclass
class StampedSource:
    """A source of random blocks that knows when it truly began to make each of them."""

    label: BlockLabel = field(default_factory=lambda: BlockLabel(("stamped",), SourceClass.OPERATING_SYSTEM))
    began_ns: list[int] = field(default_factory=list)
    """When each block was begun, by the system's clock."""

    async def read(self, size: int) -> bytes:
        """Make a block."""
        self.began_ns.append(SYSTEM_CLOCK.now_ns())
        self._blocks.append(os.urandom(size))
        return self._blocks[-1]

    async def close(self) -> None:
        """Have nothing to close."""

    _blocks: list[bytes] = field(default_factory=list)

    def began(self, data: bytes) -> int:
        """Return when the earliest capture of `data` truly began. Raises StopIteration for bytes it never made."""
        words = (data[at : at + WORD_BYTES] for at in range(0, len(data), WORD_BYTES))
        return min(self.began_ns[self._block_of(word)] for word in words)

    def _block_of(self, word: bytes) -> int:
        return next(number for number, block in enumerate(self._blocks) if word in block)


@asynccontextmanager
async def site(directory: Path, ahead_s: float) -> AsyncIterator[tuple[Front, aiohttp.ClientSession, StampedSource]]:
    """Run a gateway and a collector whose clock is `ahead_s` seconds ahead of it."""
    source = StampedSource()
    async with (
        running_gateway(clock_tolerance=TOLERANCE_S, max_wait=60, max_fresh_wait=60) as gateway,
        open_front(gateway) as front,
        aiohttp.ClientSession(headers={"api-key": gateway.api_key}) as http,
        collecting(collector_config(gateway, directory), sources=[source], clock=SkewedClock(ahead_s)),
    ):
        yield front, http, source


def collector_config(gateway: RunningGateway, directory: Path) -> CollectorConfig:
    record = gateway.key_record
    return CollectorConfig(
        hmac_secret_key=record.secret.decode(),
        hmac_key_id=record.key_id,
        collector_id=record.collector_id,
        pool_id=gateway.pool_id,
        best_class=record.best_class,
        fetch_chunk_size=BLOCK_BYTES,
        fetch_interval=0.02,
        push_url=gateway.push_address,
        push_interval=0.05,
        state_dir=directory / "collector",
    )


# Every front that has `fresh`: each yields what it was given, and when it asked for it.

Asked = tuple[int, bytes, int]
"""When it was asked, by the system's clock, what came, and the capture start that the reply told."""
Reader = Callable[[Front, aiohttp.ClientSession], AsyncIterator[Asked]]


async def by_unary_calls(front: Front, _http: aiohttp.ClientSession) -> AsyncIterator[Asked]:
    while True:
        asked_ns = SYSTEM_CLOCK.now_ns()
        reply = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=64, fresh=True), metadata=front.key)
        yield asked_ns, reply.data, reply.capture_start_ns


async def by_subscription(front: Front, _http: aiohttp.ClientSession) -> AsyncIterator[Asked]:
    asked_ns = SYSTEM_CLOCK.now_ns()  # of each message at the earliest: the client paces nothing
    call = front.entropy.SubscribeEntropy(SubscribeEntropyRequest(bytes_per_message=64, fresh=True), metadata=front.key)
    while True:
        reply = await call.read()
        yield asked_ns, reply.data, reply.capture_start_ns


async def by_stream(front: Front, _http: aiohttp.ClientSession) -> AsyncIterator[Asked]:
    call = front.entropy.StreamEntropy(metadata=front.key)
    while True:
        asked_ns = SYSTEM_CLOCK.now_ns()
        await call.write(StreamEntropyRequest(bytes_needed=64, fresh=True))
        reply = await call.read()
        yield asked_ns, reply.data, reply.capture_start_ns


async def by_rest(front: Front, http: aiohttp.ClientSession) -> AsyncIterator[Asked]:
    while True:
        asked_ns = SYSTEM_CLOCK.now_ns()
        url = f"{front.gateway.rest_url}/api/random?bytes=64&encoding=raw&fresh=true"
        async with http.get(url) as response:
            assert response.status == 200
            yield asked_ns, await response.read(), int(response.headers["X-QRNG-Capture-Start-Ns"])


READERS: tuple[Reader, ...] = (by_unary_calls, by_subscription, by_stream, by_rest)


async def check_fresh(front: Front, http: aiohttp.ClientSession, source: StampedSource, reader: Reader) -> int:
    """Read some times, and check that each reply was captured after it was asked for. Returns how many there were."""
    checked = 0
    async for asked_ns, data, _ in reader(front, http):
        assert len(data) == 64
        assert source.began(data) > asked_ns
        checked += 1
        if checked == READS:
            break
    return checked


@pytest.mark.parametrize("ahead_s", [-TOLERANCE_S, 0.0, TOLERANCE_S * 0.9])
async def test_fresh_bytes_were_captured_after_they_were_asked_for(tmp_path: Path, ahead_s: float) -> None:
    """Every reply's capture truly began after its request, under load and with the collector's clock off either way."""
    async with site(tmp_path, ahead_s) as (front, http, source):
        readers = READERS * CLIENTS
        await until(lambda: front.gateway.gateway.pool.level > BLOCK_BYTES)
        taking_old = asyncio.create_task(take_anything(front))
        checked = await asyncio.gather(*(check_fresh(front, http, source, reader) for reader in readers))
        taking_old.cancel()
        assert checked == [READS] * len(readers)


async def take_anything(front: Front) -> None:
    """Keep taking bytes of any age, as other clients do meanwhile."""
    for _ in itertools.count():
        await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=front.key)


@pytest.mark.parametrize("ahead_s", [-TOLERANCE_S, 0.0, TOLERANCE_S * 0.9])
async def test_what_a_reply_tells_of_its_capture_is_true_but_for_the_clock(tmp_path: Path, ahead_s: float) -> None:
    """Corrected for how far the clock is off, the capture start in a reply is later than its request."""
    async with site(tmp_path, ahead_s) as (front, http, source):
        for reader in READERS:
            async for asked_ns, data, told_ns in reader(front, http):
                truly_ns = told_ns - round(ahead_s * NS_PER_S)
                assert truly_ns > asked_ns
                # The collector looks at its clock before it reads, the source when it is read.
                assert truly_ns <= source.began(data)
                break


# What is asked for freshly, and by whom else: time stands still here.


Begin = Callable[[Front, int], Awaitable[Any]]


@asynccontextmanager
async def still(clock: ManualClock, **settings: Any) -> AsyncIterator[Front]:
    common = {"clock_tolerance": TOLERANCE_S, "max_wait": 0, "max_fresh_wait": 30}
    async with running_gateway(clock=clock, **{**common, **settings}) as gateway, open_front(gateway) as front:
        clock.advance(1)
        yield front


def unary(front: Front, size: int, **demands: Any) -> Any:
    return front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=size, **demands), metadata=front.key)


async def test_a_fresh_claim_waits_for_the_next_chunk_and_leaves_older_bytes_to_others() -> None:
    """While it waits others have the older bytes at once; what is captured within the tolerance is no answer to it."""
    clock = ManualClock()
    old, doubtful, new = (os.urandom(64) for _ in range(3))
    async with still(clock) as front:
        gateway = front.gateway
        await gateway.push(old)
        waiting = asyncio.ensure_future(unary(front, 64, fresh=True))
        await until(lambda: gateway.gateway.pool.waiting == 1)
        assert (await unary(front, 32)).data == old[:32]
        clock.advance(TOLERANCE_S)
        await gateway.push(doubtful)
        assert (await unary(front, 32)).data == old[32:]
        assert gateway.gateway.pool.waiting == 1
        clock.advance(0.001)
        await gateway.push(new)
        reply = await waiting
        assert reply.data == new
        assert reply.capture_start_ns == clock.now_ns()
        assert (await unary(front, 64)).data == doubtful


async def test_a_fresh_claim_waits_until_the_deadline_and_takes_nothing() -> None:
    """Without new bytes it ends as a short pool before its client's deadline, and the older ones are all there."""
    clock = ManualClock()
    async with still(clock) as front:
        await front.gateway.push(os.urandom(64))
        request = GetEntropyRequest(bytes_needed=16, fresh=True)
        refusal = await refused_in_time(lambda: front.entropy.GetEntropy(request, metadata=front.key, timeout=0.5))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "POOL_SHORT")
        assert (await unary(front, 64)).data


async def test_a_fresh_claim_waits_no_longer_than_the_gateway_says() -> None:
    """Without a deadline `max_fresh_wait` bounds it, on gRPC and REST."""
    clock = ManualClock()
    async with (
        still(clock, max_wait=60, max_fresh_wait=0.05, clock_tolerance=0) as front,
        aiohttp.ClientSession() as http,
    ):
        await front.gateway.push(os.urandom(64))
        assert (await refused(unary(front, 16, fresh=True))).reason == "POOL_SHORT"
        url = f"{front.gateway.rest_url}/api/random?bytes=16&fresh=true"
        async with http.get(url, headers={"api-key": front.gateway.api_key}) as response:
            assert response.status == 503
            assert (await response.json())["error"]["reason"] == "POOL_SHORT"
