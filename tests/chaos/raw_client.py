"""A client down to the frames: what it sends is HTTP/2 that a test wrote byte by byte.

Idea: a gRPC client library has manners, and keeps to what the server says. Here a client sends what it likes and
reads when it likes. Besides raw_gateway.py it needs the rest of the frames, and to know of an answer no more than
which frames came.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from qrng_grpc.config import host_and_port
from tests.chaos.raw_gateway import (
    ACK,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Header,
    frame,
    literals,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_UPDATE, CONTINUATION = 8, 9
INITIAL_WINDOW_SIZE = 4
GET_ENTROPY = "/qrng.v1.EntropyService/GetEntropy"
SUBSCRIBE = "/qrng.v1.EntropyService/SubscribeEntropy"
CHECK_HEALTH = "/grpc.health.v1.Health/Check"
STREAM = "/qrng.v1.EntropyService/StreamEntropy"
ENHANCE_YOUR_CALM = 11


def call(path: str, *more: Header, key: str = "") -> tuple[Header, ...]:
    """Return the header fields of a gRPC call."""
    named = (("api-key", key),) if key else ()
    return (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *named,
        *more,
    )


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(n.to_bytes(2, "big") + value.to_bytes(4, "big") for n, value in pairs))


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def unfinished_headers(stream: int, fields: Iterable[Header]) -> bytes:
    """Return a HEADERS frame that CONTINUATION frames follow."""
    return frame(HEADERS, 0, stream, literals(fields))


def continuation(stream: int, fields: Iterable[Header], *, last: bool = False) -> bytes:
    return frame(CONTINUATION, END_HEADERS if last else 0, stream, literals(fields))


def hpack_bomb(stream: int, name: str, value: str, times: int) -> bytes:
    """Return a call whose one large field enters the dynamic table and is then repeated by its index, a byte a time."""
    entered = b"\x40" + literals([(name, value)])[1:]
    block = literals(call(GET_ENTROPY)) + entered + b"\xbe" * times  # 0xbe: the youngest entry of the table
    return frame(HEADERS, END_HEADERS, stream, block)


@dataclass(eq=False)
class RawClient:
    """One connection. `seen` counts the frames that came, by type; GOAWAY's codes and the streams' ends apart."""

    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)
    seen: Counter[int] = field(default_factory=Counter)
    goaways: list[tuple[int, bytes]] = field(default_factory=list)
    resets: Counter[int] = field(default_factory=Counter)
    """RST_STREAM frames by their code."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server has closed the connection."""
    _pongs: int = 0
    _heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, frames: bytes) -> bool:
        """Send, as fast as the server reads. Returns False once it does not any more."""
        if self.ended.is_set():
            return False
        try:
            self.writer.write(frames)
            await self.writer.drain()
        except ConnectionError:
            return False
        return True

    async def answered(self) -> None:
        """Wait until the server has heard all that was sent so far: until it answers a ping, or has closed."""
        before = self._pongs
        await self.send(frame(PING, 0, 0, bytes(8)))
        while self._pongs == before and not self.ended.is_set():
            await self._heard.wait()

    async def had(self, kind: int) -> None:
        """Wait for the first frame of this type. Raises AssertionError when the connection ends before."""
        while not self.seen[kind]:
            assert not self.ended.is_set()
            await self._heard.wait()

    async def read(self) -> None:
        """Read until the server closes the connection, and answer what keeps it open."""
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self._note(head[3], head[4], payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
            self._heard.set()

    def _note(self, kind: int, flags: int, payload: bytes) -> None:
        self.seen[kind] += 1
        if kind == SETTINGS and not flags & ACK:
            self.writer.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.writer.write(frame(PING, ACK, 0, payload))
        elif kind == PING:
            self._pongs += 1
        elif kind == GOAWAY:
            self.goaways.append((int.from_bytes(payload[4:8], "big"), payload[8:]))
        elif kind == RST_STREAM:
            self.resets[int.from_bytes(payload, "big")] += 1
        self._heard.set()
        self._heard = asyncio.Event()


@asynccontextmanager
async def raw_client(
    address: str, *pairs: tuple[int, int], reads: bool = True, receive_buffer: int = 65_536
) -> AsyncIterator[RawClient]:
    """Connect, and say hello with the settings `pairs`. Without `reads` nothing that comes is read."""
    reader, writer = await asyncio.open_connection(*host_and_port(address), limit=receive_buffer)
    client = RawClient(reader, writer)
    reading = asyncio.create_task(client.read()) if reads else None
    try:
        await client.send(PREFACE + settings(*pairs))
        yield client
    finally:
        if reading is not None:
            reading.cancel()
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
