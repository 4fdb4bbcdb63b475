"""A source of random bytes, to copy. What is yours to change is numbered.

Idea: two small classes. `TemplateSource` reads the device; `TemplateSettings` says how it is configured and what is
known of it before it is read. Tests, pace, retries, labels on the wire and access are the business of who reads the
source.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import Field

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import EntropySource, one_device
from qrng_grpc.sources.kinds import SourceSettings, Surroundings

# 1. What the bytes are. QUANTUM is a measured quantum process, HARDWARE another physical one; no program can check
#    what you say here, and every reply repeats it. LOCAL means that nobody else could read the bytes on their way to
#    this program.
SOURCE_CLASS = SourceClass.OPERATING_SYSTEM
CUSTODY = Custody.LOCAL
DEVICE_ID = "template-1"


class TemplateSource:
    """Bytes of the device at `path`. Nothing is opened before the first read."""

    def __init__(self, path: Path) -> None:
        self.label = one_device(DEVICE_ID, SOURCE_CLASS, CUSTODY)
        self._path = path
        # One thread, so that a read that was cancelled is over before the next begins; what it brings goes to nobody.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=DEVICE_ID)
        self._closed = False

    async def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, measured after this call and never returned before. Raises SourceError."""
        if self._closed:
            raise SourceError("the source is closed")
        try:
            data = await asyncio.get_running_loop().run_in_executor(self._worker, self._measure, size)
        except OSError as error:
            # 2. What can go wrong with your device becomes a SourceError, in words of yours. Give `retry_after_s` where
            #    the device says when it will be ready. Never fill up from somewhere else.
            raise SourceError(f"the device cannot be read ({type(error).__name__})") from None
        if len(data) != size:
            raise SourceError(f"the device delivered {len(data)} bytes where {size} were asked for")
        return data

    async def close(self) -> None:
        """Refuse later reads."""
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _measure(self, size: int) -> bytes:
        # 3. Your device. This may block: it has a thread of its own.
        with self._path.open("rb", buffering=0) as device:
            return device.read(size)


class TemplateSettings(SourceSettings):
    """How the source is configured. Unknown names and wrong values are refused before anything is read."""

    # 4. The kind, as in pyproject.toml, and your settings: each with a type, a range and a description.
    kind: Literal["template"] = Field(description="The template's device.")
    path: Path = Field(Path("/dev/urandom"), description="Where the device is.")

    @property
    def label_class(self) -> SourceClass:
        """The class that the source's label will have."""
        return SOURCE_CLASS

    @property
    def label_device_id(self) -> str:
        """The id that the source's label will have."""
        return DEVICE_ID

    @property
    def most_bytes(self) -> int:
        """The most bytes to ask the device for at once."""
        return 65_536

    def open(self, given: Surroundings) -> EntropySource:
        """Return the source."""
        # 5. `given` has a time limit, a clock, and a directory for what must survive a restart, where there is one.
        return TemplateSource(self.path)
