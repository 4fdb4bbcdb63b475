"""The settings of timing jitter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.health_tests import START_UP_SAMPLES
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.jitter import DEVICE_ID, JitterSource
from qrng_grpc.sources.kinds.settings import Seconds, SourceSettings, Surroundings


class JitterSettings(SourceSettings):
    """The timing of this processor."""

    kind: Literal["jitter"] = Field(description="The timing jitter of this machine's processor.")
    assessed_entropy: Seconds = Field(
        1, gt=0, le=8, description="Bits of entropy in a byte of the source, by your assessment; above 0, at most 8."
    )
    start_up_size: int = Field(
        4096,
        ge=START_UP_SAMPLES,
        le=MAX_CHUNK_BYTES,
        description="Bytes a start-up test takes, which are used for nothing else; 1024 to 1048576.",
    )

    @property
    def label_class(self) -> SourceClass:
        """OPERATING_SYSTEM, and never better."""
        return SourceClass.OPERATING_SYSTEM

    @property
    def label_device_id(self) -> str:
        """What `JitterSource` says."""
        return DEVICE_ID

    @property
    def most_bytes(self) -> int:
        """Few, as it is slow."""
        return 1024

    def open(self, given: Surroundings) -> EntropySource:
        """Return the source."""
        return JitterSource()
