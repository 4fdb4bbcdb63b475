"""A round: what every contender does in it, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from compare import round_of
from comparison import CPU, PER_S, Comparison, Run
from workloads import BARE, GATEWAY, ONE_CALL, Workload

PACED = Workload("unary", 32, 64, load=0.5)
SATURATED = 7000.0


@dataclass
class Fake:
    """A contender that works, or fails."""

    fails: bool = False

    def run(self, _workload: Workload, rate: float = 0) -> Run:
        if self.fails:
            raise RuntimeError("not every reply came whole")
        return {CPU: 1.0, PER_S: rate or SATURATED}


def contenders(failing: str = "") -> dict[str, Any]:
    return {name: Fake(name == failing) for name in (GATEWAY, BARE)}


@pytest.fixture
def comparison() -> Comparison:
    return Comparison("a name", "GetEntropy", (), 32)


def test_a_round_has_a_run_of_each(comparison: Comparison) -> None:
    """What each contender did is in it, under a rate that is a share of what the gateway could do just before."""
    for workload, per_s in ((ONE_CALL, SATURATED), (PACED, SATURATED / 2)):
        run = {CPU: 1.0, PER_S: per_s}
        assert round_of(contenders(), workload, comparison) == {GATEWAY: run, BARE: run}
    assert comparison.left_out == []


def test_a_round_in_which_a_peer_fails_under_a_rate_is_left_out_and_told(comparison: Comparison) -> None:
    """It counts for nobody, so that all have as many."""
    assert round_of(contenders(BARE), PACED, comparison) == {}
    assert comparison.left_out == [f"{BARE}: not every reply came whole"]


@pytest.mark.parametrize(("failing", "workload"), [(GATEWAY, PACED), (BARE, ONE_CALL)])
def test_a_gateway_that_fails_and_a_peer_with_all_the_time_it_likes_end_the_section(
    failing: str, workload: Workload, comparison: Comparison
) -> None:
    """What is ours to stand is never left out."""
    with pytest.raises(RuntimeError):
        round_of(contenders(failing), workload, comparison)
