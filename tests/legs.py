"""A source of any stream, and a leg that reads and tests it."""

from __future__ import annotations

from typing import Any

from qrng_grpc.backoff import RetryPolicy
from qrng_grpc.chunk import BlockLabel
from qrng_grpc.errors import SourceError
from qrng_grpc.health_tests import Monitor, Quarantine
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.leg import Leg, Pace
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.faults import ByteStream

SIZE = 4096
START_UP = 1024
STEADY = RetryPolicy(initial_s=1, maximum_s=8, multiplier=2, jitter=0, open_after=4, open_s=60)
QUANTUM = BlockLabel(("q",), SourceClass.QUANTUM)
SYSTEM = BlockLabel(("s",), SourceClass.OPERATING_SYSTEM)


class StreamSource:
    """A source of whatever stream it is given, which can be made to fail, and says what it was asked for."""

    def __init__(self, stream: ByteStream, label: BlockLabel = QUANTUM) -> None:
        self.label = label
        self.stream = stream
        self.failures: list[SourceError] = []
        self.asked: list[int] = []
        self.closed = False

    async def read(self, size: int) -> bytes:
        self.asked.append(size)
        if self.failures:
            raise self.failures.pop(0)
        return self.stream.take(size)

    async def close(self) -> None:
        self.closed = True


def leg_of(source: EntropySource, clock: ManualClock, **pace: Any) -> Leg:
    return Leg(
        source,
        Pace(**{"size": SIZE, "interval_s": 1.0, "timeout_s": 5.0, **pace}),
        monitor=Monitor(8.0),
        quarantine=Quarantine(clock=clock),
        retry_policy=STEADY,
        start_up_bytes=START_UP,
        clock=clock,
    )
