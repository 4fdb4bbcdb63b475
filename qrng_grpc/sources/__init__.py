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
    leg.py      a source behind its tests, its quarantine and a pace of its own
    kinds/      the settings of each kind, and how packages of others add theirs

`EntropySource` is public: whatever has its three members is a source, and needs no base class. What it promises does
not change in a way that breaks those who keep to it. docs/sources.md shows how to write one.
"""

from __future__ import annotations

from typing import Protocol

from qrng_grpc.chunk import BlockLabel, is_id
from qrng_grpc.labels import Custody, Processing, SourceClass


class EntropySource(Protocol):
    """Something that yields random bytes.

    All three are called on one event loop. Reads are not made side by side by the programs of this project; a source
    that cannot bear that still says so by waiting its turn, not by mixing up bytes. What blocks belongs in a thread
    (`asyncio.to_thread`), since a read that holds up the loop holds up everything.
    """

    @property
    def label(self) -> BlockLabel:
        """What the bytes are. Constant for the life of the source.

        One device id, the honest class of the process behind it, processing NONE and verdict UNTESTED, as
        `one_device` makes it: what becomes of the bytes afterwards is for others to say.
        """
        ...

    async def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, at least 1, that were never returned before, measured after the call.

        Raises SourceError, in words of our own and without bytes in them, with `retry_after_s` where the source
        named a time. A cancelled read loses what it had already taken from the source; the source stays usable.
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
