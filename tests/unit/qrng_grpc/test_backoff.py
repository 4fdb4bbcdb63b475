"""Waits after failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qrng_grpc.backoff import Backoff, RetryPolicy


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_waits_stay_within_the_policy(failures: int, chance: float) -> None:
    """No wait is longer than the maximum, or shorter than its step less the jitter."""
    policy = RetryPolicy(initial_s=0.5, maximum_s=30, multiplier=2, jitter=0.2)
    step = min(30.0, 0.5 * 2.0 ** min(failures - 1, 60))
    assert step * 0.8 <= policy.delay_s(failures, chance) <= step


def test_waits_grow_until_a_success() -> None:
    """Without jitter: initial, times multiplier, up to the maximum; and from the start again."""
    backoff = Backoff(RetryPolicy(initial_s=1, maximum_s=5, multiplier=2, jitter=0))
    assert [backoff.failed() for _ in range(4)] == [1, 2, 4, 5]
    assert backoff.failed(at_least_s=9) == 9
    backoff.succeeded()
    assert backoff.failed() == 1


def test_a_policy_is_checked_alone_too() -> None:
    """A maximum below the initial wait is refused, as a default as well."""
    with pytest.raises(ValidationError):
        RetryPolicy(initial_s=60)
