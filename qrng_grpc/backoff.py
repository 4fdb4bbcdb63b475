"""Waiting longer the more often something failed.

Idea: the first failure waits `initial_s`, each further one `multiplier` times as long, never more than
`maximum_s`, and each wait is shortened by chance, so that many who wait do not return in step. After
`open_after` failures in a row something may be probed only, every `open_s` seconds.
"""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

_CHANCE = random.SystemRandom()

Seconds = Annotated[float, Field(allow_inf_nan=False)]


class RetryPolicy(BaseModel):
    """How long to wait after failures."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    initial_s: Seconds = Field(0.5, gt=0, le=3600, description="Seconds to wait after the first failure.")
    maximum_s: Seconds = Field(
        30, gt=0, le=3600, validate_default=True, description="The longest wait in seconds; at least initial_s."
    )
    multiplier: Seconds = Field(2, ge=1, le=10, description="How much longer each further wait is; 1 to 10.")
    jitter: Seconds = Field(0.2, ge=0, le=1, description="The share of each wait that chance may take away; 0 to 1.")
    open_after: int = Field(
        8, ge=1, le=1000, description="Failures in a row of a source after which it is only probed now and then."
    )
    open_s: Seconds = Field(60, ge=0, le=3600, description="Least seconds between two such probes.")

    @field_validator("maximum_s")
    @classmethod
    def _not_below_initial(cls, maximum: float, info: ValidationInfo) -> float:
        if maximum < info.data.get("initial_s", 0):
            raise ValueError("must be at least initial_s")
        return maximum

    def delay_s(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after `failures` (from 1) in a row; `chance` (0 to 1) picks within the jitter."""
        # Beyond 64 steps every growing wait has reached its maximum, and the power would overflow.
        grown = self.initial_s * self.multiplier ** min(failures - 1, 64)
        return min(self.maximum_s, grown) * (1 - self.jitter * chance)


class Backoff:
    """How long to wait, by the number of failures in a row."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.failures = 0
        """Failures since the last success."""

    def failed(self, at_least_s: float = 0.0) -> float:
        """Count a failure. Return the seconds to wait, not fewer than `at_least_s`."""
        self.failures += 1
        return max(at_least_s, self._policy.delay_s(self.failures, _CHANCE.random()))

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
