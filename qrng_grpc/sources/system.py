"""The operating system's generator: getrandom(2) by way of `os.urandom`.

Idea: what every machine has. It is OPERATING_SYSTEM and says so; it is never a stand-in for a better
source.
"""

from __future__ import annotations

import os

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device

DEVICE_ID = "os-urandom"


class SystemSource:
    """Bytes of `os.urandom`. A mebibyte takes a few milliseconds, so it is read where it is asked for."""

    def __init__(self) -> None:
        self.label = one_device(DEVICE_ID, SourceClass.OPERATING_SYSTEM, Custody.LOCAL)
        self._closed = False

    async def read(self, size: int) -> bytes:
        """Return `size` bytes. Raises SourceError once closed."""
        if self._closed:
            raise SourceError("the source is closed")
        return os.urandom(size)

    async def close(self) -> None:
        """Refuse later reads."""
        self._closed = True
