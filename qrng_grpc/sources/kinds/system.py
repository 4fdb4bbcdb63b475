"""The settings of the operating system's generator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qrng_grpc.labels import SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.kinds.settings import SourceSettings, Surroundings
from qrng_grpc.sources.system import DEVICE_ID, SystemSource


class SystemSettings(SourceSettings):
    """The operating system's generator."""

    kind: Literal["system"] = Field(description="The operating system's generator, os.urandom.")

    @property
    def label_class(self) -> SourceClass:
        """OPERATING_SYSTEM."""
        return SourceClass.OPERATING_SYSTEM

    @property
    def label_device_id(self) -> str:
        """What `SystemSource` says."""
        return DEVICE_ID

    def open(self, given: Surroundings) -> EntropySource:
        """Return the source."""
        return SystemSource()
