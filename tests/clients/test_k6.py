"""The real k6: several users at once, on all three kinds of call."""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.programs import PROTOS, Outcome, program, run
from tests.clients.stock import Stock, stocked_gateway

SCRIPT = Path(__file__).parent / "k6" / "load.js"
LOAD = {
    "UNARY": {"users": 4, "calls": 400, "messages": 1, "size": 256},
    "SUBSCRIBE": {"users": 2, "calls": 40, "messages": 16, "size": 4096},
    "STREAM": {"users": 2, "calls": 40, "messages": 8, "size": 1024},
}
LOAD_REPLIES = sum(kind["calls"] * kind["messages"] for kind in LOAD.values())
LOAD_BYTES = sum(kind["calls"] * kind["messages"] * kind["size"] for kind in LOAD.values())
CHECKS_A_REPLY = 3
THRESHOLD_CROSSED = 99


async def load(stock: Stock) -> Outcome:
    quietly = ("--no-usage-report", "--quiet", "--no-color", "--address", "")
    env = {**stock.env, "PROTOS": str(PROTOS), "LOAD": json.dumps(LOAD)}
    return await run(program("k6"), "run", *quietly, SCRIPT, env=env)


async def test_a_load_of_all_kinds_passes_without_an_error() -> None:
    """Unary calls and streams of several users all get whole replies, and the gateway counted the same bytes."""
    async with stocked_gateway(LOAD_BYTES) as stock:
        ended = await load(stock)
        assert ended.code == 0, ended
        summary = json.loads(ended.stdout)
        assert summary["replies"] == LOAD_REPLIES
        assert summary["checks"] == {"passes": CHECKS_A_REPLY * LOAD_REPLIES, "fails": 0}
        assert summary["bytes_read"] == stock.served_bytes == LOAD_BYTES


async def test_the_load_would_notice_one_missing_byte() -> None:
    """When the pool is one byte short of the load, k6 says that it failed."""
    async with stocked_gateway(LOAD_BYTES - 1) as scarce:
        ended = await load(scarce)
        assert ended.code == THRESHOLD_CROSSED, ended
        assert json.loads(ended.stdout)["bytes_read"] == scarce.served_bytes < LOAD_BYTES
