"""A long run is judged by its replies, its p99, and whether memory grew with the calls."""

from __future__ import annotations

from typing import Any

import pytest
from programs import Outcome
from sustained import RATE, Sample, growth, summary

MIB = 1 << 20
SECONDS = 600


def outcome(**changed: Any) -> Outcome:
    told = {"replies": RATE * SECONDS, "seconds": SECONDS, "generator_cpu_s": 1, "errors": 0, "short_replies": 0}
    times = {"p50_us": 500.0, "p99_us": 2000.0, "p99_9_us": 9000.0, "longest_us": 20_000.0}
    return Outcome(**{**told, **times, **changed})


def samples(resident: Any) -> list[Sample]:
    """Return looks at a memory that `resident` gives by calls, after each 2000 of 1.2 million."""
    return [(calls, int(resident(calls))) for calls in range(2000, 1_200_001, 2000)]


def verdict_of(changed: dict[str, Any]) -> str:
    found = summary({"gRPC": outcome(**changed)}, samples(lambda _: MIB), SECONDS, 60)
    verdict: str = found["fronts"]["gRPC"]["verdict"]
    return verdict


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "met"),
        ({"p99_us": 100_000.0}, "missed"),
        ({"replies": RATE * SECONDS - 1, "errors": 1}, "missed"),
        ({"short_replies": 1}, "missed"),
    ],
)
def test_verdict_of_a_front(changed: dict[str, Any], verdict: str) -> None:
    """A front did well when every reply came whole and 99 in 100 within 100 ms."""
    assert verdict_of(changed) == verdict


def test_flat_memory() -> None:
    """What an allocator takes at the beginning is no growth."""
    found = growth(samples(lambda calls: 100 * MIB if calls < 50_000 else 110 * MIB))
    assert (found["growth"], found["bytes_a_million"], found["verdict"]) == (1.0, 0, "met")


def test_leak() -> None:
    """Fifty bytes a call are found, at their size, and missed the target."""
    found = growth(samples(lambda calls: 100 * MIB + 50 * calls))
    assert found["bytes_a_million"] == pytest.approx(50_000_000, rel=0.01)
    assert found["verdict"] == "missed"


def test_no_verdict_before_a_million_calls() -> None:
    """A short run shows memory, and promises nothing."""
    assert growth([(calls, MIB) for calls in range(2000, 100_001, 2000)])["verdict"] == ""


def test_no_looks_no_growth() -> None:
    """A run that ended before the first look says nothing about memory."""
    assert growth([]) == {}
