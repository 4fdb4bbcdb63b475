"""When a heartbeat is due, what it says, and that it overtakes nothing."""

from __future__ import annotations

from qrng_collector.heartbeat import Pulse
from qrng_collector.queue import ChunkQueue
from qrng_grpc.chunk import MAX_SOURCE_STATES, Block, BlockLabel, Identity, SourceState
from qrng_grpc.labels import Condition, SourceClass
from qrng_grpc.testing import ManualClock

QUANTUM = SourceClass.QUANTUM
LABEL = BlockLabel(("q",), QUANTUM)


class Laboratory:
    """A queue and sources whose condition a test sets."""

    def __init__(self, sources: int = 1) -> None:
        self.clock = ManualClock()
        self.conditions = [Condition.DELIVERING] * sources
        self.fetched = 0
        self.queue = ChunkQueue("lab", ("pool",), epoch=9, capacity=100, ttl_ns=10**9)
        self.pulse = Pulse(self.queue, self.states, 10, self.clock)

    def states(self) -> tuple[SourceState, ...]:
        return tuple(SourceState(f"q{n}", QUANTUM, c, self.fetched) for n, c in enumerate(self.conditions))

    def identity(self) -> Identity:
        identity = self.queue.take_sequence("pool")
        assert identity is not None
        return identity


def test_an_interval() -> None:
    """A heartbeat is due an interval after the last, not before, and again an interval later."""
    lab = Laboratory()
    lab.clock.advance(9.9)
    assert not lab.pulse.due
    lab.clock.advance(0.1)
    assert lab.pulse.due
    lab.pulse.beat(lab.identity())
    assert not lab.pulse.due
    lab.clock.advance(10)
    assert lab.pulse.due


def test_a_changed_condition() -> None:
    """It is due at once, and until a heartbeat that says so has arrived; how much was fetched is no such news."""
    lab = Laboratory(sources=2)
    lab.fetched += 1
    assert not lab.pulse.due
    lab.conditions[1] = Condition.QUARANTINED
    assert lab.pulse.due
    heartbeat = lab.pulse.beat(lab.identity())
    assert lab.pulse.due
    lab.pulse.heard(heartbeat)
    assert not lab.pulse.due


def test_news_while_a_heartbeat_travels() -> None:
    """What changes after a heartbeat was made is not taken for told."""
    lab = Laboratory()
    lab.conditions[0] = Condition.FAILING
    heartbeat = lab.pulse.beat(lab.identity())
    lab.conditions[0] = Condition.QUARANTINED
    lab.pulse.heard(heartbeat)
    assert lab.pulse.due


def test_what_it_says() -> None:
    """The moment, every source's state, the queue's level and what was lost so far."""
    lab = Laboratory()
    lab.queue.offer(Block(bytes(60), 1, 2, LABEL), 0)
    lab.queue.offer(Block(bytes(70), 1, 2, LABEL), 0)
    heartbeat = lab.pulse.beat(lab.identity())
    assert heartbeat.identity == Identity("lab", "pool", 9, 1)
    assert heartbeat.capture_end_ns == lab.clock.now_ns()
    assert heartbeat.sources == lab.states()
    assert (heartbeat.queued, heartbeat.overflow, heartbeat.expired, heartbeat.in_doubt) == (70, 60, 0, 0)


def test_more_sources_than_fit() -> None:
    """It tells of the first ones, and of their changes alone, so that it is not due for ever."""
    lab = Laboratory(sources=MAX_SOURCE_STATES + 1)
    lab.conditions[MAX_SOURCE_STATES] = Condition.FAILING
    assert not lab.pulse.due
    assert len(lab.pulse.beat(lab.identity()).sources) == MAX_SOURCE_STATES


def test_a_heartbeat_overtakes_nothing() -> None:
    """It gets no sequence while a chunk is still to be sent again: the gateway would take that for a duplicate."""
    queue = Laboratory().queue
    for _ in range(2):
        queue.offer(Block(bytes(10), 1, 2, LABEL), 0)
    queue.call_started("pool")
    assert queue.next_chunk("pool", within=1 << 20) is not None
    assert queue.next_chunk("pool", within=1 << 20) is not None
    queue.call_ended("pool", 0)
    assert queue.take_sequence("pool") is None
    queue.call_started("pool")
    assert queue.next_chunk("pool", within=1 << 20) is not None
    assert queue.take_sequence("pool") is None
    assert queue.next_chunk("pool", within=1 << 20) is not None
    assert queue.take_sequence("pool") == Identity("lab", "pool", 9, 3)
    queue.call_ended("pool", 2)
    assert queue.take_sequence("pool") == Identity("lab", "pool", 9, 4)
