"""The settings of a character device or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from qrng_grpc.labels import Custody
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.device import DeviceSource
from qrng_grpc.sources.kinds.settings import StatedSettings, Surroundings


class DeviceSettings(StatedSettings):
    """A character device or a file."""

    kind: Literal["device"] = Field(description="A character device or a file.")
    path: Path = Field(description="What to read.")
    custody: Custody = Field(
        Custody.LOCAL, description="remote when a third party could see the bytes on their way, else local."
    )

    @property
    def origin(self) -> tuple[object, ...]:
        """The file."""
        return (self.path.resolve(),)

    def open(self, given: Surroundings) -> EntropySource:
        """Return the source; in the state directory it keeps how far a file was read.

        Raises ValueError for a file without one: the next run would hand out its bytes again.
        """
        if given.state_dir is None and self.path.is_file():
            raise ValueError("path: is a file, of which no byte must be read twice; that takes a state directory")
        return DeviceSource(self.path, self.source_class, self.device_id, self.custody, progress_dir=given.state_dir)
