"""Fixtures of the tests with other people's clients; their helpers are in programs.py and stock.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.clients.stock import Stock, stocked_gateway


@pytest.fixture
async def stock() -> AsyncIterator[Stock]:
    """A gateway with 4 MiB of known bytes."""
    async with stocked_gateway(4 << 20) as opened:
        yield opened
