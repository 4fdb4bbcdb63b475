"""The intake: what becomes of a chunk between its verification and its lane.

Idea: two things may make it smaller. The *reservoir* cuts off its end for tests of quality, and *conditioning* makes
fewer bytes of the rest. Each takes from the one chunk in place, so that no byte is ever in two places, and the pool
counts the difference.
"""

from __future__ import annotations

from functools import lru_cache

from qrng_gateway.pool.conditioning import Conditioner
from qrng_gateway.pool.lane import Origin, Stored
from qrng_gateway.pool.reservoir import Reservoir
from qrng_grpc.labels import Processing

_KEPT_ORIGINS = 1024
_AS_THEY_CAME = (Processing.MIXED, Processing.NONE)


class Intake:
    """Takes chunks in. Without a `conditioner` bytes stay as they came."""

    def __init__(self, reservoir: Reservoir, conditioner: Conditioner | None = None) -> None:
        self.reservoir = reservoir
        self._conditioner = conditioner
        self._origin_after = lru_cache(_KEPT_ORIGINS)(self._relabelled)

    @property
    def processings(self) -> tuple[Processing, ...]:
        """What may have been done to bytes that were taken in; what collectors mixed first."""
        labels = self._conditioner.labels if self._conditioner is not None else {}
        return tuple(labels.get(processing, processing) for processing in _AS_THEY_CAME)

    def set_aside(self, chunk: Stored) -> int:
        """Cut the end of `chunk` off for the reservoir. Returns how many bytes."""
        return self.reservoir.skim(chunk)

    def condition(self, chunk: Stored) -> int:
        """Condition what is left of `chunk`. Returns how many bytes that used up."""
        if self._conditioner is None:
            return 0
        before = len(chunk)
        view = chunk.front(before)
        conditioned = self._conditioner(view)
        view.release()
        chunk.replace(conditioned, self._origin_after(chunk.origin))
        return before - len(chunk)

    def _relabelled(self, origin: Origin) -> Origin:
        assert self._conditioner is not None, "only called to condition"  # noqa: S101
        return origin.with_processing(self._conditioner.labels[origin.label.processing])
