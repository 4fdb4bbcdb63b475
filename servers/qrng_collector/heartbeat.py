"""Heartbeats: how a gateway hears how a collector does, also when it has no bytes to send.

Idea: a gateway that hears nothing cannot tell a quiet source from a cut wire, and one that hears bytes does
not know what was lost on the other side. So every now and then, and whenever the condition of a source has
changed, a pool is sent a chunk without data that says how the collector does. It is a chunk like any other,
signed and with a sequence of its own, but what it says ages: it is never sent again. When one fails to arrive, a
later one says what is true by then.
"""

from __future__ import annotations

from collections.abc import Callable

from qrng_collector.queue import ChunkQueue
from qrng_grpc.chunk import MAX_SOURCE_STATES, Heartbeat, Identity, SourceState
from qrng_grpc.clock import NS_PER_S, Clock
from qrng_grpc.labels import Condition

States = Callable[[], tuple[SourceState, ...]]


class Pulse:
    """When one pool is due a heartbeat, and what it says. `interval_s` is the time in seconds from one to the next."""

    def __init__(self, queue: ChunkQueue, states: States, interval_s: float, clock: Clock) -> None:
        self._queue = queue
        self._states = states
        self._interval_ns = round(interval_s * NS_PER_S)
        self._clock = clock
        self._beat_ns = clock.monotonic_ns()
        self._told = _conditions(states())

    @property
    def due(self) -> bool:
        """Whether the last one is old enough, or the condition of a source is not what was told last."""
        old_ns = self._clock.monotonic_ns() - self._beat_ns
        return old_ns >= self._interval_ns or _conditions(self._states()) != self._told

    def beat(self, identity: Identity) -> Heartbeat:
        """Make a heartbeat of this moment. The interval to the next one begins here, whatever becomes of it."""
        self._beat_ns = self._clock.monotonic_ns()
        counters = self._queue.counters
        return Heartbeat(
            identity,
            self._clock.now_ns(),
            self._states()[:MAX_SOURCE_STATES],
            queued=self._queue.queued,
            overflow=counters.overflow,
            expired=counters.expired,
            in_doubt=counters.in_doubt,
        )

    def heard(self, heartbeat: Heartbeat) -> None:
        """Take what `heartbeat` says for known: it has arrived."""
        self._told = _conditions(heartbeat.sources)


def _conditions(states: tuple[SourceState, ...]) -> tuple[tuple[str, Condition], ...]:
    return tuple((state.device_id, state.condition) for state in states[:MAX_SOURCE_STATES])
