"""Tests on demand: on the reservoir's bytes alone, one at a time, and what they used is gone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from qrng_gateway.pool.lane import Origin, Stored
from qrng_gateway.pool.reservoir import Reservoir
from qrng_gateway.quality.on_demand import QualityTests
from qrng_grpc.errors import InvalidRequestError, LimitError, PoolShortError, UnsupportedError
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import block


def filled(level: int, capacity: int = 1 << 20) -> Reservoir:
    """A reservoir that has set aside `level` bytes."""
    clock = ManualClock()
    reservoir = Reservoir(capacity, ttl_s=3600, clock=clock)
    if level:
        one = block(100 * level, clock)
        assert reservoir.skim(Stored(one, Origin(one.label, "lab", "dev"))) == level
    return reservoir


async def test_a_test_uses_what_there_is() -> None:
    """A test gets no more than is set aside, says how much that was, and leaves nothing of it."""
    reservoir = filled(8000)
    compared = await QualityTests(reservoir).monte_carlo(1_000_000)
    assert compared.iterations_requested == 1_000_000
    assert compared.sample.iterations == 1000
    assert reservoir.level == 0
    assert reservoir.counters.sampled == 8000


async def test_one_at_a_time() -> None:
    """A second test is refused while the first runs, with a time to come back, and takes nothing."""
    reservoir = filled(20_000)
    tests = QualityTests(reservoir)
    first = asyncio.create_task(tests.monte_carlo(10))
    await asyncio.sleep(0)
    level = reservoir.level
    with pytest.raises(LimitError) as caught:
        await tests.monte_carlo(10)
    assert caught.value.retry_after_s
    assert reservoir.level == level
    assert (await first).sample.iterations == 10
    assert (await tests.monte_carlo(10)).sample.iterations == 10


async def test_a_test_whose_client_left_runs_on_alone() -> None:
    """Cancelled, a test goes on unseen; until it ends no other starts, so that tests never run side by side."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    free = threading.Event()
    busy = asyncio.create_task(asyncio.to_thread(free.wait))
    await asyncio.sleep(0)
    reservoir = filled(20_000)
    tests = QualityTests(reservoir)
    first = asyncio.create_task(tests.monte_carlo(2000))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    running = tests._running
    assert running is not None
    with pytest.raises(LimitError):
        await tests.monte_carlo(10)
    free.set()
    await asyncio.gather(busy, running)
    assert (await tests.monte_carlo(10)).sample.iterations == 10


@pytest.mark.parametrize("iterations", [0, -1, 10_000_001, 1 << 70])
async def test_iterations_out_of_range(iterations: int) -> None:
    """A number out of range is the request's fault, and costs nothing."""
    reservoir = filled(8000)
    with pytest.raises(InvalidRequestError) as caught:
        await QualityTests(reservoir).monte_carlo(iterations)
    assert caught.value.field == "iterations"
    assert reservoir.counters.sampled == 0


async def test_nothing_to_test() -> None:
    """Without bytes for one iteration, or of the class asked for, there is no test, but a hint; switched off, none."""
    with pytest.raises(PoolShortError) as caught:
        await QualityTests(filled(0)).monte_carlo(1)
    assert caught.value.retry_after_s
    tests = QualityTests(filled(8000))
    with pytest.raises(PoolShortError):
        await tests.monte_carlo(1, SourceClass.HARDWARE)
    assert (await tests.monte_carlo(1)).sample.iterations == 1
    with pytest.raises(UnsupportedError):
        await QualityTests(filled(0, capacity=0)).monte_carlo(1)
