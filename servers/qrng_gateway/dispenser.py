"""The one call behind gRPC, the services already in the field, and REST.

Idea: every front end says what it was asked for as a `Demand`; the dispenser checks it, adds what the
gateway itself insists on, decides how long waiting makes sense, and claims. Front ends translate and
hold no opinion about entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

from qrng_gateway.pool import Claimed, ClaimSpec, Pool
from qrng_grpc.errors import InvalidRequestError, UnsupportedError
from qrng_grpc.labels import Processing, SourceClass, strictest_class

DEADLINE_MARGIN_S = 0.05
"""How long before a client's deadline an answer must be on its way."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a client asks for. `size_field` is what its request calls the size; `max_age_ms` 0 means any age."""

    size: int
    size_field: str = "bytes_needed"
    least_class: SourceClass | None = None
    processing: Processing | None = None
    max_age_ms: int = 0
    span_lanes: bool = False
    fresh: bool = False
    include_provenance: bool = False

    def check(self, limit: int) -> None:
        """Refuse what cannot be asked for. Raises InvalidRequestError or UnsupportedError."""
        if not 1 <= self.size <= limit:
            raise InvalidRequestError(f"expected 1 to {limit} bytes", field=self.size_field)
        if self.max_age_ms < 0:
            raise InvalidRequestError("an age is not negative", field="max_age_ms")
        if self.fresh:
            raise UnsupportedError("fresh is not supported yet", field="fresh")
        if self.include_provenance:
            raise UnsupportedError("include_provenance is not supported yet", field="include_provenance")


class Dispenser:
    """Claims from `pool` under this gateway's own conditions.

    `least_class` binds every demand; `max_wait_s` is the longest a claim waits in line, in seconds.
    """

    def __init__(self, pool: Pool, *, least_class: SourceClass, max_wait_s: float) -> None:
        self.least_class = least_class
        self._pool = pool
        self._max_wait_s = max_wait_s

    async def dispense(self, demand: Demand, *, limit: int, client: str, time_left_s: float | None) -> Claimed:
        """Claim what `demand` asks for, at most `limit` bytes, for `client`.

        `time_left_s` is the time to the client's deadline, None without one. Raises
        InvalidRequestError, UnsupportedError and whatever `Pool.claim` raises. Cancelled, it takes nothing.
        """
        demand.check(limit)
        return await self._pool.claim(demand.size, self._spec(demand), client, self._patience_s(time_left_s))

    def _spec(self, demand: Demand) -> ClaimSpec:
        stated = demand.least_class
        return ClaimSpec(
            least_class=strictest_class((stated, self.least_class)) if stated else self.least_class,
            processing=demand.processing,
            max_age_s=demand.max_age_ms / 1000 if demand.max_age_ms else None,
            span_lanes=demand.span_lanes,
        )

    def _patience_s(self, time_left_s: float | None) -> float:
        if time_left_s is None:
            return self._max_wait_s
        return max(0.0, min(self._max_wait_s, time_left_s - DEADLINE_MARGIN_S))
