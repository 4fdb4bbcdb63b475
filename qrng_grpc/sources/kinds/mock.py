"""The settings of a seeded generator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qrng_grpc.labels import SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.kinds.settings import SourceSettings, Surroundings
from qrng_grpc.sources.mock import DEVICE_ID, MockSource


class MockSettings(SourceSettings):
    """A seeded generator."""

    kind: Literal["mock"] = Field(description="A seeded generator, for tests and demonstrations.")
    seed: int = Field(0, ge=0, lt=1 << 64, description="Its seed; equal seeds, equal bytes.")

    @property
    def label_class(self) -> SourceClass:
        """SIMULATED."""
        return SourceClass.SIMULATED

    @property
    def label_device_id(self) -> str:
        """What `MockSource` says."""
        return DEVICE_ID

    def open(self, given: Surroundings) -> EntropySource:
        """Return the source."""
        return MockSource(self.seed)
