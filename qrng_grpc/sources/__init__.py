"""Sources: where random bytes come from, one module per kind.

Idea: a source does one thing, it answers "give me n bytes" with exactly n bytes or with a
`SourceError`. It never fills up from elsewhere, never repeats a byte, and says of itself, in its
constant `label`, what its bytes are. Pace, retries, tests and mixing are for those who read it.

    system.py   the operating system's generator
    http.py     any provider over HTTP, by default a Quantis appliance; presets.py has the providers we know
    grpc.py     any gRPC server
    device.py   a character device or a file
    jitter.py   the timing of this processor
    mock.py     a seeded generator, for tests and demonstrations
    mixing.py   several sources as one
"""

from __future__ import annotations

from typing import Protocol

from qrng_grpc.chunk import BlockLabel, is_id
from qrng_grpc.labels import Custody, Processing, SourceClass


class EntropySource(Protocol):
    """Something that yields random bytes."""

    @property
    def label(self) -> BlockLabel:
        """What the bytes are. Constant for the life of the source."""
        ...

    async def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, at least 1, that were never returned before.

        Raises SourceError, with `retry_after_s` where the source named a time. A cancelled read
        loses what it had already taken from the source; the source stays usable.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and descriptors. Closing twice does no harm; a later read raises SourceError."""
        ...


def one_device(device_id: str, source_class: SourceClass, custody: Custody) -> BlockLabel:
    """Return the label of unprocessed, untested bytes of one device. Raises ValueError for an id that is none."""
    if not is_id(device_id):
        raise ValueError("a device id takes 1 to 64 characters from A-Z a-z 0-9 . _ -")
    return BlockLabel((device_id,), source_class, Processing.NONE, custody)
