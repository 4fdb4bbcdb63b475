"""Buckets: never more than the rate allows, and no wait longer than it takes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_gateway.admission.buckets import Rate
from qrng_grpc.clock import NS_PER_S

LARGEST = 1 << 20

byte_rates = st.integers(1, 1 << 50)
request_rates = st.floats(1e-3, 1e6)
pauses = st.one_of(st.integers(0, 1000), st.integers(0, 10 * NS_PER_S))
takings = st.lists(st.tuples(pauses, st.integers(1, LARGEST)), min_size=1, max_size=60)


class Bucket:
    """A bucket in use: notes when how much was taken."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.now_ns = self.full_at_ns = 0
        self.taken: list[tuple[int, int]] = []

    def wait_ns(self, n: int) -> int:
        return self.rate.wait_ns(self.rate.after(self.full_at_ns, self.now_ns, n), self.now_ns)

    def take(self, n: int) -> bool:
        if self.wait_ns(n) > 0:
            return False
        self.full_at_ns = self.rate.after(self.full_at_ns, self.now_ns, n)
        self.taken.append((self.now_ns, n))
        return True

    def check(self, per_s: float, burst: float) -> None:
        """In each window between two takings no more was taken than `burst` and what flowed back."""
        for first in range(len(self.taken)):
            total = itertools.accumulate(n for _, n in self.taken[first:])
            for (at_ns, _), n in zip(self.taken[first:], total, strict=True):
                assert n <= burst + per_s * (at_ns - self.taken[first][0]) / NS_PER_S * (1 + 1e-12) + 1e-9


@given(per_s=byte_rates, steps=takings)
def test_no_window_has_more_bytes_than_burst_and_rate(per_s: int, steps: list[tuple[int, int]]) -> None:
    """However takings are spread, any window of t seconds has at most burst + rate * t bytes."""
    bucket = Bucket(Rate.of_bytes(per_s, LARGEST))
    for pause_ns, n in steps:
        bucket.now_ns += pause_ns
        bucket.take(n)
    bucket.check(per_s, max(per_s, LARGEST))


@given(per_s=request_rates, steps=st.lists(pauses, min_size=1, max_size=200))
def test_no_window_has_more_requests_than_burst_and_rate(per_s: float, steps: list[int]) -> None:
    """However requests are spread, any window of t seconds has at most burst + rate * t of them."""
    bucket = Bucket(Rate.of_requests(per_s))
    for pause_ns in steps:
        bucket.now_ns += pause_ns
        bucket.take(1)
    bucket.check(per_s, max(1, int(per_s)))


@given(per_s=byte_rates, steps=takings, n=st.integers(1, LARGEST))
def test_a_wait_is_enough_and_no_longer_than_needed(per_s: int, steps: list[tuple[int, int]], n: int) -> None:
    """After the wait the taking succeeds, and one nanosecond before it would not have."""
    bucket = Bucket(Rate.of_bytes(per_s, LARGEST))
    for pause_ns, size in steps:
        bucket.now_ns += pause_ns
        bucket.take(size)
    wait_ns = bucket.wait_ns(n)
    if wait_ns > 0:
        bucket.now_ns += wait_ns - 1
        assert not bucket.take(n)
        bucket.now_ns += 1
    assert bucket.take(n)


@given(per_s=byte_rates, steps=takings, n=st.integers(1, LARGEST), later_ns=pauses)
def test_putting_back_undoes_taking(per_s: int, steps: list[tuple[int, int]], n: int, later_ns: int) -> None:
    """What was taken and put back, sooner or later, leaves the bucket as if it had not been."""
    bucket = Bucket(Rate.of_bytes(per_s, LARGEST))
    for pause_ns, size in steps:
        bucket.now_ns += pause_ns
        bucket.take(size)
    rate, now_ns = bucket.rate, bucket.now_ns
    after_ns = rate.after(bucket.full_at_ns, now_ns, n)
    now_ns += later_ns
    back = rate.before(after_ns, now_ns, n, after_ns)
    for size in (1, n):
        assert rate.after(back, now_ns, size) == rate.after(bucket.full_at_ns, now_ns, size)


@given(per_s=byte_rates, steps=st.lists(st.tuples(pauses, st.integers(1, LARGEST), st.booleans()), max_size=60))
def test_what_was_not_put_back_stays_below_the_rate(per_s: int, steps: list[tuple[int, int, bool]]) -> None:
    """Takings less what is put back are at most burst + rate * t from the beginning, whenever it is put back."""
    bucket, net = Bucket(Rate.of_bytes(per_s, LARGEST)), 0
    owed: list[tuple[int, int]] = []
    for pause_ns, n, puts_back in steps:
        bucket.now_ns += pause_ns
        if puts_back and owed:
            size, after_ns = owed.pop()
            bucket.full_at_ns = bucket.rate.before(bucket.full_at_ns, bucket.now_ns, size, after_ns)
            net -= size
        elif bucket.take(n):
            owed.append((n, bucket.full_at_ns))
            net += n
        assert net <= max(per_s, LARGEST) + per_s * bucket.now_ns / NS_PER_S * (1 + 1e-12) + 1e-9


@pytest.mark.parametrize(("per_s", "burst"), [(100.0, 100), (3.0, 3), (2.5, 2), (1.0, 1), (0.1, 1), (1e6, 1_000_000)])
def test_a_full_bucket_lets_one_seconds_worth_of_requests_through(per_s: float, burst: int) -> None:
    """A burst is exactly one second's worth, and one request where that is less; what is left is told on the way."""
    rate, full_at_ns = Rate.of_requests(per_s), 0
    assert rate.left(full_at_ns, 0) == burst
    full_at_ns = rate.after(full_at_ns, 0, burst)
    assert rate.wait_ns(full_at_ns, 0) <= 0 == rate.left(full_at_ns, 0)
    assert rate.wait_ns(rate.after(full_at_ns, 0, 1), 0) == rate.unit_ns
    assert rate.left(full_at_ns, rate.unit_ns) == 1


@pytest.mark.parametrize("per_s", [100.0, 7.0, 0.3, 333_333.0])
def test_requests_flow_at_their_rate(per_s: float) -> None:
    """Whoever asks all the time gets what the rate says, within a thousandth."""
    bucket = Bucket(Rate.of_requests(per_s))
    bucket.full_at_ns = bucket.rate.depth_ns
    for _ in range(2000):
        bucket.now_ns += bucket.wait_ns(1)
        assert bucket.take(1)
    assert bucket.now_ns == pytest.approx(2000 / per_s * NS_PER_S, rel=1e-3)


@pytest.mark.parametrize("per_s", [1, 1000, LARGEST, 10 * LARGEST])
def test_the_largest_taking_always_fits(per_s: int) -> None:
    """A full bucket lets the largest legal taking pass, however low the rate."""
    bucket = Bucket(Rate.of_bytes(per_s, LARGEST))
    assert bucket.take(LARGEST)
    assert bucket.rate.left(bucket.full_at_ns, 0) == max(per_s, LARGEST) - LARGEST


def test_an_extremely_low_rate_is_a_rate() -> None:
    """A rate that nobody lives to see again still lets one request through, and only one."""
    bucket = Bucket(Rate.of_requests(1e-300))
    assert bucket.take(1)
    assert not bucket.take(1)


def test_a_bucket_keeps_its_meaning_when_the_rate_changes() -> None:
    """An empty bucket is empty under another rate too, and is full again a second later."""
    fast, slow = Rate.of_requests(1000), Rate.of_requests(10)
    full_at_ns = fast.after(0, 0, 1000)
    assert slow.left(full_at_ns, 0) == 0
    assert slow.left(full_at_ns, NS_PER_S) == 10
