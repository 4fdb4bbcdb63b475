"""Ratios are made within rounds, and judged only where they may be."""

from __future__ import annotations

import json

import pytest
from comparison import CPU, Asked, Comparison

PAIRS = 12
OURS, BARE = "gateway", "bare"


def comparison(most: float | None = 1.5, pairs: int = PAIRS) -> Comparison:
    """Return one whose machine became slower with every round, and where we always cost a fifth more."""
    speeds = [1.0 + number for number in range(pairs)]
    runs = {BARE: [{CPU: 100 * speed} for speed in speeds], OURS: [{CPU: 120 * speed} for speed in speeds]}
    return Comparison("calls", "GetEntropy", (Asked(OURS, BARE, most), Asked(OURS, "absent", 1.0)), 32, runs)


def test_ratio_survives_what_disturbs_whole_rounds() -> None:
    """However the machine's speed changes between rounds, the ratio within each is what it is."""
    found = comparison()
    ratio = found.ratio(found.asked[0])
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.2, 1.2, 1.2))


@pytest.mark.parametrize(("most", "verdict"), [(1.5, "met"), (1.1, "missed"), (None, "")])
def test_verdict(most: float | None, verdict: str) -> None:
    """A ratio is judged by its target, and not at all without one."""
    (told,) = comparison(most).content(judged=True)["ratios"]
    assert told["verdict"] == verdict


def test_no_verdict_on_a_busy_machine() -> None:
    """Where the machine was not left to us there are intervals, and no verdict."""
    (told,) = comparison().content(judged=False)["ratios"]
    assert told["verdict"] == "" and told["ratio"] == pytest.approx((1.2, 1.2, 1.2))


def test_no_verdict_of_few_pairs() -> None:
    """Nine pairs do not suffice for a verdict."""
    (told,) = comparison(pairs=9).content(judged=True)["ratios"]
    assert told["verdict"] == ""


def test_content_keeps_the_rounds_in_order() -> None:
    """The file has each server's runs in the order of rounds, so that whoever doubts a ratio can make it anew."""
    content = json.loads(json.dumps(comparison().content(judged=True)))
    pairs = zip(content["runs"][OURS], content["runs"][BARE], strict=True)
    assert [one[CPU] / other[CPU] for one, other in pairs] == pytest.approx([1.2] * PAIRS)
    assert content["rounds"] == PAIRS


def test_who_is_absent_is_in_no_ratio() -> None:
    """A server that did not take part is named with the reason, and in no ratio."""
    found = comparison()
    found.skipped["absent"] = "a compiler"
    content = found.content(judged=True)
    assert [ratio["measure"] for ratio in content["ratios"]] == [BARE]
    assert content["skipped"] == {"absent": "a compiler"}
