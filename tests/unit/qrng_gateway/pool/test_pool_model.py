"""The pool against a plain model: a list of bytes with labels, searched from the front.

The model knows nothing of lanes, heads, views or compaction; it only says which bytes each operation
should yield. Hypothesis looks for a sequence of operations on which the two disagree.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qrng_gateway.pool.claims import ClaimSpec
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.errors import PoolShortError
from qrng_grpc.labels import BEST_FIRST, Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import CAPACITY, balanced, block, make_pool, put

TTL_S = 3600
PROCESSINGS = [Processing.NONE, Processing.MIXED]
classes = st.sampled_from(BEST_FIRST)
processings = st.sampled_from(PROCESSINGS)


@dataclass
class Entry:
    """What is left of one chunk."""

    data: bytes
    captured_ns: int
    source_class: SourceClass
    processing: Processing
    arrival: int


class PoolModel(RuleBasedStateMachine):
    """Runs every operation on both, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.pool = make_pool(self.clock)
        self.entries: list[Entry] = []
        self.arrivals = 0
        self.served = b""

    def _live(self) -> list[Entry]:
        oldest_ns = self.clock.now_ns() - TTL_S * NS_PER_S
        self.entries = [e for e in self.entries if e.data and e.captured_ns >= oldest_ns]
        return sorted(self.entries, key=lambda e: (e.captured_ns, e.arrival))

    @rule(
        size=st.sampled_from([1, 7, 1024, 4096, CAPACITY // 3]),
        source_class=classes,
        processing=processings,
        age_s=st.sampled_from([0, 0, 0, 1, 60, 3599]),
    )
    def store(self, size: int, source_class: SourceClass, processing: Processing, age_s: int) -> None:
        """Store a chunk, unless it would displace something (displacement has tests of its own)."""
        if sum(len(e.data) for e in self._live()) + size > CAPACITY:
            return
        one = block(size, self.clock, source_class=source_class, processing=processing, age_s=age_s)
        put(self.pool, one)
        self.arrivals += 1
        self.entries.append(Entry(one.data, one.capture_start_ns, source_class, processing, self.arrivals))

    @rule(seconds=st.sampled_from([0.5, 30, 1800]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    @rule(
        n=st.sampled_from([1, 3, 16, 1000, 5000, CAPACITY // 2]),
        least_class=classes,
        processing=st.none() | processings,
        max_age_s=st.none() | st.sampled_from([0.25, 10, 2000]),
        span_lanes=st.booleans(),
    )
    def claim(
        self,
        n: int,
        least_class: SourceClass,
        processing: Processing | None,
        max_age_s: float | None,
        span_lanes: bool,
    ) -> None:
        """Claim from both, and compare the bytes or the refusal."""
        spec = ClaimSpec(least_class, processing, max_age_s, None, span_lanes)
        expected = self._expect(n, spec)
        try:
            claimed = asyncio.run(self.pool.claim(n, spec, "client", 0))
        except PoolShortError:
            assert expected is None
            return
        assert claimed.data == expected
        self.served += claimed.data

    def _expect(self, n: int, spec: ClaimSpec) -> bytes | None:
        young_ns = 0 if spec.max_age_s is None else self.clock.now_ns() - int(spec.max_age_s * NS_PER_S)
        usable = [
            e
            for e in self._live()
            if BEST_FIRST.index(e.source_class) <= BEST_FIRST.index(spec.least_class)
            and spec.processing in (None, e.processing)
            and e.captured_ns >= young_ns
        ]
        lanes = [
            [e for e in usable if e.source_class is source_class and e.processing is processing]
            for source_class in reversed(BEST_FIRST)
            for processing in (Processing.MIXED, Processing.NONE)
        ]
        # Spanning uses up the weakest bytes first; otherwise the weakest lane that suffices serves alone.
        candidates = [[e for lane in lanes for e in lane]] if spec.span_lanes else lanes
        for entries in candidates:
            if sum(len(e.data) for e in entries) >= n:
                return _consume(entries, n)
        return None

    @invariant()
    def agrees(self) -> None:
        """Level and accounting hold after every step."""
        self.pool.expire()
        assert self.pool.level == sum(len(e.data) for e in self._live())
        assert balanced(self.pool)

    def teardown(self) -> None:
        """No 16-byte window of what was served occurs twice."""
        words = [self.served[i : i + 16] for i in range(0, len(self.served) - 15, 16)]
        assert len(words) == len(set(words))


def _consume(entries: list[Entry], n: int) -> bytes:
    out = b""
    for entry in entries:
        share = entry.data[: n - len(out)]
        out += share
        entry.data = entry.data[len(share) :]
        if len(out) == n:
            break
    return out


TestPoolModel = PoolModel.TestCase
TestPoolModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
