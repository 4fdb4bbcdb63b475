"""Turns: what the streams of a client cost while they wait, and what is given back when they leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qrng_gateway.admission.limits import Limiter
from qrng_gateway.desk import Call
from qrng_gateway.dispenser import Demand
from qrng_grpc.client_keys import Client, Limits
from qrng_grpc.clock import SystemClock
from tests.unit.qrng_gateway.blocks import block, put
from tests.unit.qrng_gateway.test_desk import Setting

STREAMS = 40


class CountingClock(SystemClock):
    """Real time; each decision over a request looks at it once."""

    def __init__(self) -> None:
        self.looks = 0

    def monotonic_ns(self) -> int:
        self.looks += 1
        return super().monotonic_ns()


@pytest.mark.parametrize(("requests_per_s", "address_rate"), [(200, 100_000), (100_000, 200)])
async def test_streams_that_wait_for_one_rate_do_not_all_ask_for_each_token(
    tmp_path: Path, requests_per_s: float, address_rate: float
) -> None:
    """Streams take turns: each asks a few times in all, whether the client's rate is short or its address's."""
    clock = CountingClock()
    setting = Setting(tmp_path)
    setting.limiter = setting.desk.limiter = Limiter(tmp_path, rate_limit=address_rate, clock=clock)
    client = Client("many", limits=Limits(requests_per_s=requests_per_s))
    setting.known.add("many")
    calls = [await opened(setting, client) for _ in range(STREAMS)]
    for _ in range(200 - STREAMS):
        setting.limiter.admit(client, "192.0.2.7")
    clock.looks = 0
    ended: list[int] = []

    async def wait(place: int, call: Call) -> None:
        await call.next_request()
        ended.append(place)

    async with asyncio.TaskGroup() as streams:
        for place, call in enumerate(calls):
            streams.create_task(wait(place, call))
    assert len(ended) == STREAMS
    assert clock.looks <= 6 * STREAMS


async def opened(setting: Setting, client: Client) -> Call:
    """Return a call whose first request was read already."""
    call = setting.admitted(client)
    await call.next_request()
    return call


async def test_a_stream_that_is_cancelled_while_it_waits_gives_its_turn_back(tmp_path: Path) -> None:
    """Requests that waited and were never served leave no debt to those that come later."""
    setting = Setting(tmp_path, rate_limit=2)
    calls = [await opened(setting, Client("anybody")) for _ in range(2)]
    waiting = [asyncio.create_task(call.next_request()) for call in calls for _ in range(5)]
    await asyncio.sleep(0)
    setting.clock.advance(0.5)
    assert setting.limiter.remaining(calls[0].client).requests == 0
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert setting.limiter.remaining(calls[0].client).requests >= 1


async def test_a_stream_that_is_cancelled_while_it_is_paced_gives_its_bytes_back(tmp_path: Path) -> None:
    """Of rate and quota alike: the next stream waits no longer for what was never handed out."""
    setting = Setting(tmp_path)
    client = Client("slow", limits=Limits(bytes_per_s=1, bytes_per_day=2 << 20))
    setting.known.add("slow")
    put(setting.pool, block(1 << 12, setting.clock))
    setting.limiter.charge(client, 1 << 20, paced=True)
    call = setting.admitted(client)
    paced = asyncio.create_task(call.dispense_in_time(Demand(1000), limit=1 << 20, time_left_s=None))
    await asyncio.sleep(0)
    assert setting.limiter.remaining(client).bytes_today == (1 << 20) - 1000
    paced.cancel()
    await asyncio.gather(paced, return_exceptions=True)
    assert setting.limiter.remaining(client).bytes_today == 1 << 20
    assert setting.limiter.charge(client, 10, paced=True).wait_s == pytest.approx(10)
    assert setting.pool.level == 1 << 12
