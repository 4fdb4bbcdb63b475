"""Both clients of any server behind one face, so that each test of behaviour is put to both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from qrng_client import AsyncRandomClient, Draw, RandomClient, client_settings


class SyncReader:
    """The client for threads, driven from a thread."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.client = RandomClient(client_settings(environ))
        self.health_check = self.client.health_check

    async def read(self, n: int) -> bytes:
        return await asyncio.to_thread(self.client.read, n)

    async def draw(self, n: int) -> Draw:
        return await asyncio.to_thread(self.client.draw, n)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


class AsyncReader:
    """The client for asyncio."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.client = AsyncRandomClient(client_settings(environ))
        self.read, self.draw, self.close = self.client.read, self.client.draw, self.client.close
        self.health_check = self.client.health_check


Reader = SyncReader | AsyncReader
KINDS = (SyncReader, AsyncReader)


@asynccontextmanager
async def reader(kind: type[Reader], address: str, *shapes: dict[str, str], **settings: Any) -> AsyncIterator[Reader]:
    """Open a reader of the server at `address`; settings are given without QR_, in lower case."""
    environ = {"QR_ENTROPY_SOURCE_TYPE": "quantum_grpc", "QR_GRPC_SERVER_ADDRESS": address}
    for shape in shapes:
        environ |= shape
    opened = kind(environ | {f"QR_{name.upper()}": str(value) for name, value in settings.items()})
    try:
        yield opened
    finally:
        await opened.close()
