"""A gateway down to the frames: what it answers is HTTP/2 that a test wrote byte by byte.

Idea: a gRPC server library has manners. An attacker who has taken the gateway over has none, so here a
reply is whatever frames a test makes; the rest is as little of HTTP/2 (RFC 9113) and HPACK (RFC 7541,
literals only) as a gRPC client needs to send a call and hear the end of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

Reply = Callable[[int], bytes]
"""The frames that answer the call on a stream."""
Header = tuple[str, str]
MayAnswer = Callable[[], Awaitable[object]]

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4

_PREFACE_BYTES = 24
_BEGIN = (":status", "200"), ("content-type", "application/grpc")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def headers(stream: int, fields: Iterable[Header], *, end: bool) -> bytes:
    """Return a HEADERS frame with `fields`, none of them compressed or remembered."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, literals(fields))


def literals(fields: Iterable[Header]) -> bytes:
    """Return a block of `fields`, none of them compressed or remembered."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def message(stream: int, payload: bytes) -> bytes:
    """Return a DATA frame with one gRPC message."""
    return frame(DATA, 0, stream, b"\x00" + len(payload).to_bytes(4, "big") + payload)


def refusal(status: int, *more: Header) -> Reply:
    """Return trailers alone: this status, and `more`."""
    return lambda stream: headers(stream, (*_BEGIN, ("grpc-status", str(status)), *more), end=True)


def answer(payload: bytes | None, status: int, first: Iterable[Header] = (), last: Iterable[Header] = ()) -> Reply:
    """Return metadata `first`, a message if there is one, and trailers `last` with `status`."""

    def frames(stream: int) -> bytes:
        body = b"" if payload is None else message(stream, payload)
        trailers = headers(stream, (("grpc-status", str(status)), *last), end=True)
        return headers(stream, (*_BEGIN, *first), end=False) + body + trailers

    return frames


def goaway(code: int, text: bytes) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, code) + text)


def reset(code: int) -> Reply:
    return lambda stream: frame(RST_STREAM, 0, stream, struct.pack(">I", code))


_TURNS_TO_ACCEPT = 10
"""Turns of the event loop, more than asyncio needs from a readable listener to a connection."""


@asynccontextmanager
async def raw_gateway(reply: Reply, may_answer: MayAnswer) -> AsyncIterator[str]:
    """Answer every call so, once it was heard to its end and `may_answer`; yields HOST:PORT."""

    writers: set[asyncio.StreamWriter] = set()
    async with asyncio.TaskGroup() as connections:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await _serve(reader, writer, reply, may_answer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            writers.discard(writer)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Know the connection from its first moment, so that none outlives the server."""
            if server.is_serving():
                writers.add(writer)
                connections.create_task(serve(reader, writer))
            else:
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            for _ in range(_TURNS_TO_ACCEPT):  # A server that closes forgets connections it has only half accepted.
                await asyncio.sleep(0)
            server.close()
            for writer in writers:
                writer.transport.abort()


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply, may_answer: MayAnswer
) -> None:
    await reader.readexactly(_PREFACE_BYTES)
    writer.write(frame(SETTINGS, 0, 0, b""))
    while True:
        head = await reader.readexactly(9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind == SETTINGS and not flags & ACK:
            writer.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            writer.write(frame(PING, ACK, 0, payload))
        elif kind == DATA and flags & END_STREAM:
            await may_answer()
            writer.write(reply(stream))
        await writer.drain()


def _text(text: str) -> bytes:
    """Return a string literal without Huffman coding."""
    raw = text.encode("latin-1")
    length, prefix = len(raw), bytearray()
    if length < 127:
        return bytes((length,)) + raw
    prefix.append(127)
    length -= 127
    while length >= 128:
        prefix.append(length % 128 | 128)
        length //= 128
    prefix.append(length)
    return bytes(prefix) + raw
