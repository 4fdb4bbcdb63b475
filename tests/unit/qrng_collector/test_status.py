"""What a collector says of itself on its own machine."""

from __future__ import annotations

import json

from qrng_collector.queue import ChunkQueue
from qrng_collector.status import RATE_WINDOW_S, Observer, Watched
from qrng_grpc.chunk import Block, BlockLabel
from qrng_grpc.labels import Condition, SourceClass
from qrng_grpc.sources.leg import SourceView
from qrng_grpc.testing import ManualClock

LABEL = BlockLabel(("q",), SourceClass.QUANTUM)


class Laboratory:
    """A collector without pools, whose source does what a test says."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.condition = Condition.DELIVERING
        self.fetched = 0
        self.queue = ChunkQueue("lab", (), epoch=9, capacity=100, ttl_ns=10**9)
        self.observer = Observer(Watched("lab", 9, 100, self.queue, (), self.views), self.clock)

    def views(self) -> list[SourceView]:
        return [SourceView("q", SourceClass.QUANTUM, self.condition, self.fetched, 3)]

    def rate(self) -> float:
        rate: float = self.observer.status()["sources"][0]["bytes_per_second"]
        return rate


def test_a_snapshot_is_plain_json() -> None:
    """Numbers and names alone, whatever has happened so far."""
    lab = Laboratory()
    lab.queue.offer(Block(bytes(60), 1, 2, LABEL), 0)
    lab.clock.advance(5)
    status = json.loads(json.dumps(lab.observer.status()))
    assert (status["collector_id"], status["epoch"], status["uptime_seconds"]) == ("lab", 9, 5)
    assert status["queue"] == {"queued_bytes": 60, "capacity_bytes": 100}
    assert status["sources"] == [
        {
            "device_id": "q",
            "source_class": "quantum",
            "condition": "delivering",
            "fetched_bytes": 0,
            "discarded_bytes": 3,
            "bytes_per_second": 0,
        }
    ]
    assert status["last_push_seconds"] is None
    assert status["accounting"]["captured"] == 60


def test_rates_are_those_of_the_last_minute() -> None:
    """What was fetched long ago does not count, nor does time before the start; no time means no rate."""
    lab = Laboratory()
    assert lab.rate() == 0
    for _ in range(30):
        lab.fetched += 100
        lab.clock.advance(1)
        lab.observer.tick()
        assert lab.rate() == 100
    for _ in range(RATE_WINDOW_S + 1):
        lab.clock.advance(1)
        lab.observer.tick()
    assert lab.rate() == 0


def test_the_first_moment_is_no_flood() -> None:
    """What was fetched in the first tenth of a second is not taken for a tenth of what a second brings."""
    lab = Laboratory()
    lab.fetched += 100
    lab.clock.advance(0.1)
    assert lab.rate() == 100


def test_ready_needs_a_source_and_a_pool() -> None:
    """A failing source, or nowhere to push to, is no good health."""
    lab = Laboratory()
    assert not lab.observer.ready
    lab.condition = Condition.FAILING
    assert not lab.observer.ready
