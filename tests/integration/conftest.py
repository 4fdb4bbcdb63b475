"""Fixtures of the integration tests; their helpers are in fronts.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import get_args

import aiohttp
import pytest

from qrng_gateway.engines import EngineName
from qrng_grpc.testing.gateway import EVERYWHERE, running_gateway
from tests.integration.fronts import Front, open_front
from tests.waiting import LetPass

ENGINES = get_args(EngineName)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What speaks gRPC with clients: a module that uses this runs over each engine."""
    name: str = request.param
    monkeypatch.setitem(EVERYWHERE, "engine", name)
    return name


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """A gateway that waits for nothing, so that a short pool is told at once."""
    async with running_gateway(max_wait=0) as gateway, open_front(gateway) as opened:
        yield opened


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def let_pass(monkeypatch: pytest.MonkeyPatch) -> LetPass:
    """Time that passes at once: nobody has to wait for it, and a machine that is slow comes too late for nothing."""
    loop = asyncio.get_running_loop()
    really, ahead_s = loop.time, 0.0

    def passing(seconds: float) -> None:
        nonlocal ahead_s
        ahead_s += seconds

    monkeypatch.setattr(loop, "time", lambda: really() + ahead_s)
    return passing
