"""How the collector does: one snapshot, for whoever looks at it on this machine.

Idea: nobody reports to the observer; it looks at numbers that sources, queue and pushers keep anyway, and
once a second `tick` notes how far they have come, which is enough for rates. Of a gateway it shows the
name of the last status and counts of our own; of sources what we measured. Nothing a peer wrote is in it,
and nothing secret.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qrng_collector.push import Pusher
from qrng_collector.queue import ChunkQueue
from qrng_grpc import __version__
from qrng_grpc.clock import NS_PER_S, Clock
from qrng_grpc.labels import Condition
from qrng_grpc.sources.leg import SourceView

RATE_WINDOW_S = 60
"""Over how long rates are averaged."""

_Noted = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Watched:
    """What the observer looks at. `capacity` in bytes."""

    collector_id: str
    epoch: int
    capacity: int
    queue: ChunkQueue
    pushers: Sequence[Pusher]
    sources: Callable[[], Sequence[SourceView]]


class Observer:
    """Looks at a running collector."""

    def __init__(self, watched: Watched, clock: Clock) -> None:
        self._watched = watched
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._noted: deque[_Noted] = deque([self._progress()])

    def tick(self) -> None:
        """Note how far the numbers have come. Called once a second."""
        now = self._progress()
        if now[0] - self._noted[-1][0] >= NS_PER_S // 2:
            self._noted.append(now)
        while now[0] - self._noted[0][0] > RATE_WINDOW_S * NS_PER_S and len(self._noted) > 1:
            self._noted.popleft()

    @property
    def ready(self) -> bool:
        """Whether bytes flow as they should: a source delivers, and a pool takes what it is sent.

        A pool that was sent nothing yet is not held against it.
        """
        delivering = any(view.condition is Condition.DELIVERING for view in self._watched.sources())
        return delivering and any(pusher.status in {"", "OK"} for pusher in self._watched.pushers)

    def status(self) -> dict[str, Any]:
        """Return the snapshot, as plain values for JSON. Bytes and chunks since start, ages in seconds."""
        watched, counters = self._watched, self._watched.queue.counters
        rates = self._rates()
        fetched = [self._source(view, rate) for view, rate in zip(watched.sources(), rates[1:], strict=False)]
        return {
            "ready": self.ready,
            "collector_id": watched.collector_id,
            "epoch": watched.epoch,
            "version": __version__,
            "uptime_seconds": self._seconds_since(self._started_ns),
            "sources": fetched,
            "queue": {"queued_bytes": watched.queue.queued, "capacity_bytes": watched.capacity},
            "pools": [self._pool(pusher) for pusher in watched.pushers],
            "last_push_seconds": self._last_push(),
            "disposed_bytes_per_second": rates[0],
            "accounting": asdict(counters),
        }

    def _source(self, view: SourceView, rate: float) -> dict[str, Any]:
        return {
            "device_id": view.device_id,
            "source_class": view.source_class.value,
            "condition": view.condition.value,
            "fetched_bytes": view.fetched_bytes,
            "discarded_bytes": view.discarded_bytes,
            "bytes_per_second": rate,
        }

    def _pool(self, pusher: Pusher) -> dict[str, Any]:
        return {
            "pool_id": pusher.pool_id,
            "status": pusher.status or None,
            "failures_in_a_row": pusher.failures,
            "last_push_seconds": self._seconds_since(pusher.disposed_ns),
            "chunks": asdict(pusher.counters),
        }

    def _last_push(self) -> float | None:
        return self._seconds_since(max((p.disposed_ns for p in self._watched.pushers if p.disposed_ns), default=None))

    def _rates(self) -> list[float]:
        """Return what was disposed of, then what each source delivered, in bytes a second."""
        (then_ns, then), (now_ns, now) = self._noted[0], self._progress()
        passed_s = max(1.0, (now_ns - then_ns) / NS_PER_S)  # in the first moment a single block would be a flood
        return [round((new - old) / passed_s, 3) for old, new in zip(then, now, strict=False)]

    def _progress(self) -> _Noted:
        fetched = (view.fetched_bytes for view in self._watched.sources())
        return self._clock.monotonic_ns(), (self._watched.queue.counters.disposed, *fetched)

    def _seconds_since(self, monotonic_ns: int | None) -> float | None:
        return None if monotonic_ns is None else (self._clock.monotonic_ns() - monotonic_ns) / NS_PER_S
