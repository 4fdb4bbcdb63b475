"""A Node client with @grpc/grpc-js, its protos loaded from `protos/`."""

from __future__ import annotations

import re

from tests.clients.programs import NODE_TESTS, PROTOS, Outcome, node, run
from tests.clients.stock import Stock, stocked_gateway

TESTS = NODE_TESTS / "gateway.test.js"


async def run_tests(stock: Stock) -> Outcome:
    env = {**stock.env, "PROTOS": str(PROTOS), "COLLECTOR_ID": stock.gateway.collector_id}
    return await run(node(), "--test", "--test-reporter=tap", TESTS, env=env)


def told(outcome: Outcome, what: str) -> int:
    """Return a number from the summary that Node's test runner writes."""
    found = re.search(rf"^# {what} (\d+)$", outcome.stdout, re.MULTILINE)
    assert found, outcome
    return int(found[1])


async def test_node_reads_all_three_kinds(stock: Stock) -> None:
    """Every test that gateway.test.js declares runs and passes."""
    ended = await run_tests(stock)
    assert ended.code == 0, ended
    declared = len(re.findall(r"\btest\(", TESTS.read_text()))
    in_a_loop_over_two = 1
    assert told(ended, "pass") == declared + in_a_loop_over_two
    assert (told(ended, "fail"), told(ended, "skipped"), told(ended, "todo")) == (0, 0, 0)


async def test_the_node_tests_would_notice_an_empty_pool() -> None:
    """Without bytes to read, the same tests fail."""
    async with stocked_gateway(0) as empty:
        ended = await run_tests(empty)
    assert ended.code == 1, ended
    assert told(ended, "fail") > 0
