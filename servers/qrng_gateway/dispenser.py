"""The one call behind gRPC, the services already in the field, and REST.

Idea: every front end says what it was asked for as a `Demand`; the dispenser checks it, adds what the
gateway itself insists on, decides how long waiting makes sense, and claims. Front ends translate and
hold no opinion about entropy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from qrng_gateway.pool.claims import Claimed, ClaimSpec, Pack, as_they_are
from qrng_gateway.pool.pool import Pool
from qrng_grpc.chunk import MAX_PROVENANCE_BYTES
from qrng_grpc.client_keys import Client
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import Processing, SourceClass, strictest_class

DEADLINE_MARGIN_S = 0.05
"""How long before a client's deadline an answer must be on its way."""
_KEPT_SPECS = 1024


class Demand(NamedTuple):
    """What a client asks for. `size_field` is what its request calls the size; `max_age_ms` 0 means any age."""

    size: int
    size_field: str = "bytes_needed"
    least_class: SourceClass | None = None
    processing: Processing | None = None
    max_age_ms: int = 0
    span_lanes: bool = False
    fresh: bool = False
    include_provenance: bool = False

    def check(self, limit: int, quota: int | None = None) -> None:
        """Refuse what can never be had: more than `limit` bytes, say, or than `quota`, those of a whole day.

        Raises InvalidRequestError.
        """
        if not 1 <= self.size <= limit:
            raise InvalidRequestError(f"expected 1 to {limit} bytes", field=self.size_field)
        if self.include_provenance and self.size > MAX_PROVENANCE_BYTES:
            raise InvalidRequestError(
                f"expected 1 to {MAX_PROVENANCE_BYTES} bytes with provenance", field=self.size_field
            )
        if quota is not None and self.size > quota:
            raise InvalidRequestError(f"this client may have {quota} bytes a day", field=self.size_field)
        if self.max_age_ms < 0:
            raise InvalidRequestError("an age is not negative", field="max_age_ms")


class Dispenser:
    """Claims from `pool` under this gateway's own conditions.

    `least_class` binds every demand. `max_wait_s` is the longest a claim waits in line, `max_fresh_wait_s` the longest
    one waits for bytes that are still to be captured, `clock_tolerance_s` how far collectors' clocks may be off.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        least_class: SourceClass,
        max_wait_s: float,
        max_fresh_wait_s: float,
        clock_tolerance_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._least_class = least_class
        self._pool = pool
        self._max_wait_s = max_wait_s
        self._max_fresh_wait_s = max_fresh_wait_s
        self._tolerance_ns = int(clock_tolerance_s * NS_PER_S)
        self._clock = clock
        self._lasting_spec = lru_cache(_KEPT_SPECS)(self._new_spec)

    def dispense_now(self, demand: Demand, client: Client, pack: Pack = as_they_are) -> Claimed | None:
        """Claim for `client` what `demand`, which has been checked, asks for, unless it had to be waited for.

        Raises whatever `Pool.claim_now` raises.
        """
        spec = self._spec(demand, client) if demand.fresh else self._lasting_spec(demand, client.least_class)
        return self._pool.claim_now(demand.size, spec, client.client_id, pack)

    async def dispense(
        self, demand: Demand, client: Client, time_left_s: float | None, pack: Pack = as_they_are
    ) -> Claimed:
        """Claim for `client` what `demand`, which has been checked, asks for.

        `time_left_s` is the time to the client's deadline, None without one. Raises whatever `Pool.claim`
        raises. Cancelled, it takes nothing.
        """
        patience_s = self._max_fresh_wait_s if demand.fresh else self._max_wait_s
        if time_left_s is not None:
            patience_s = max(0.0, min(patience_s, time_left_s - DEADLINE_MARGIN_S))
        spec = self._spec(demand, client)
        return await self._pool.claim(demand.size, spec, client.client_id, patience_s, weight=client.weight, pack=pack)

    def least_class_for(self, client: Client) -> SourceClass:
        """Return the weakest class that `client` is served, whatever it asks for."""
        return self._strictest(client.least_class, None)

    def _spec(self, demand: Demand, client: Client) -> ClaimSpec:
        spec = self._lasting_spec(demand, client.least_class)
        if demand.fresh:
            return spec._replace(captured_after_ns=self._clock.now_ns() + self._tolerance_ns)
        return spec

    def _new_spec(self, demand: Demand, least_class: SourceClass | None) -> ClaimSpec:
        """Return what is demanded of bytes for a client that is served `least_class`; at any time it is the same."""
        return ClaimSpec(
            least_class=self._strictest(demand.least_class, least_class),
            processing=demand.processing,
            max_age_s=demand.max_age_ms / 1000 if demand.max_age_ms else None,
            span_lanes=demand.span_lanes,
            provenance=demand.include_provenance,
        )

    def _strictest(self, *stated: SourceClass | None) -> SourceClass:
        return strictest_class((self._least_class, *filter(None, stated)))
