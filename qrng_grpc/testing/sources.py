"""Sources for tests: one that follows a script, one that keeps a ledger."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from qrng_grpc.chunk import BlockLabel
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources.mock import SeededStream

SIMULATED = BlockLabel(("simulated",), SourceClass.SIMULATED)
"""The label of test sources that are given no other."""

Step = bytes | Exception | asyncio.Event


class ScriptedSource:
    """A source that does what its script says, one step a read.

    A step is the bytes to return, an exception to raise, or an event: the read then waits until the
    event is set and goes on to the next step. After the last step reads wait until the source is
    closed, and `over` is set, which is a point a test can wait for.

        opened = asyncio.Event()
        source = ScriptedSource([bytes(16), SourceError("unplugged"), opened, bytes(range(16))])
        await source.read(16)       # sixteen zero bytes
        await source.read(16)       # raises SourceError
        await source.read(16)       # waits for `opened.set()`, then returns 0 to 15

    A read whose size is not that of the scripted bytes raises ValueError: then the script is wrong.
    """

    def __init__(self, script: Iterable[Step], *, label: BlockLabel = SIMULATED) -> None:
        self.label = label
        self.over = asyncio.Event()
        self._script = deque(script)
        self._closed = asyncio.Event()

    async def read(self, size: int) -> bytes:
        """Take the next step. Cancelled while it waits for an event, it has taken that step."""
        while not self._closed.is_set() and self._script:
            step = self._script.popleft()
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
            elif len(step) != size:
                raise ValueError(f"the script has {len(step)} bytes where {size} are read")
            else:
                return step
        self.over.set()
        await self._closed.wait()
        raise SourceError("the source is closed")

    async def close(self) -> None:
        """End reads that wait past the script's end, and refuse later ones."""
        self._closed.set()


class LedgerSource:
    """A source of seeded bytes that remembers every one it gave, in order.

    The stream is that of `qrng_grpc.sources.mock`, in which any 16 bytes in a row are found once.

        source = LedgerSource(seed=7)
        data = await source.read(64)
        source.offset_of(data[16:32])       # 16
    """

    def __init__(self, seed: int = 0, *, label: BlockLabel = SIMULATED) -> None:
        self.label = label
        self._stream = SeededStream(seed)
        self._ledger = bytearray()
        self._closed = False

    @property
    def delivered(self) -> bytes:
        """Everything delivered so far: a copy."""
        return bytes(self._ledger)

    @property
    def delivered_bytes(self) -> int:
        """How many bytes were delivered so far."""
        return len(self._ledger)

    def offset_of(self, piece: bytes) -> int:
        """Return where in everything delivered `piece` begins. Raises ValueError when it was never delivered."""
        return self._ledger.index(piece)

    async def read(self, size: int) -> bytes:
        """Return the next `size` bytes and enter them in the ledger. Raises SourceError once closed."""
        if self._closed:
            raise SourceError("the source is closed")
        data = self._stream.take(size)
        self._ledger += data
        return data

    async def close(self) -> None:
        """Refuse later reads; the ledger stays."""
        self._closed = True
