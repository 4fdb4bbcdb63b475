"""REST by clients without manners: nobody else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from qrng_grpc.config import host_and_port
from tests.chaos.siege import ANSWERS, Attack, Siege

MUCH = 10 << 20
PIECE = 1 << 14
MANY = 100


async def slow_loris(siege: Siege) -> None:
    """A hundred requests that come byte by byte and never end."""
    async with many(siege, MANY) as connections:
        for byte in f"GET /api/random?bytes=8 HTTP/1.1\r\nHost: x\r\nX-Slow: {'s' * ANSWERS}".encode():
            for _, writer in connections:
                writer.write(bytes((byte,)))
            await siege.rest()


async def header_of_ten_megabytes(siege: Siege) -> None:
    """One header field, and many of them, of 10 MB: refused long before its end."""
    for line in (b"s" * PIECE, b"X-More: " + b"s" * 1000 + b"\r\n"):
        answer = await answer_to(siege, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Much: ", (line,) * (MUCH // len(line)))
        assert status_of(answer) in (None, 400, 431)


async def address_of_ten_megabytes(siege: Siege) -> None:
    """A query of 10 MB is refused long before its end."""
    answer = await answer_to(siege, b"GET /api/random?bytes=", (b"8" * PIECE,) * (MUCH // PIECE))
    assert status_of(answer) in (None, 400, 414)


async def bodies_without_an_end(siege: Siege) -> None:
    """A body is not awaited where none is read, of any length, announced or in pieces."""
    key = f"Api-Key: {siege.lab.api_key}\r\n".encode()
    for method in (b"GET", b"POST"):
        start = method + b" /api/random?bytes=8 HTTP/1.1\r\nHost: x\r\n" + key
        length = b"Content-Length: 1000000000\r\n\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        await answer_to(siege, start + length, (bytes(PIECE),) * (MUCH // PIECE))
        await answer_to(siege, start + chunked, (b"4000\r\n" + bytes(0x4000) + b"\r\n",) * (MUCH // PIECE))


async def wrong_content_types(siege: Siege) -> None:
    """What is said of a body that nobody reads has no effect."""
    key = {"api-key": siege.lab.api_key}
    url = f"http://{siege.lab.rest_address}/api/random?bytes=8"
    for kind in ("application/json", "multipart/form-data", "text/html; charset=utf-7", ";;;", "a/b; boundary=\x7f"):
        headers = {**key, "Content-Type": kind}
        with suppress(ValueError):  # what the client refuses to send
            async with siege.http.get(url, headers=headers, data=b"{") as response:
                assert response.status in (200, 400)


async def queries_that_are_no_text(siege: Siege) -> None:
    """Bytes that are no UTF-8 in a query are a bad request, as they are or escaped."""
    key = f"Api-Key: {siege.lab.api_key}\r\n".encode()
    for query in (
        b"bytes=\xff\xfe",
        b"bytes=%ff%fe",
        b"bytes=8&encoding=%c3%28",
        b"\xc3\x28=8",
        b"%00=%00",
        b"bytes=%",
    ):
        start = b"GET /api/random?" + query + b" HTTP/1.1\r\nHost: x\r\n" + key + b"Connection: close\r\n\r\n"
        assert status_of(await answer_to(siege, start, ())) == 400, query


async def pipelining(siege: Siege) -> None:
    """Requests sent without waiting are answered in order while there is somebody who reads, and none is lost."""
    request = f"GET /api/random?bytes=8 HTTP/1.1\r\nHost: x\r\nApi-Key: {siege.lab.api_key}\r\n\r\n".encode()
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = await answer_to(siege, request * (MANY - 1) + last, ())
    assert answer.count(b"HTTP/1.1 200") == MANY
    async with many(siege, 5) as connections:  # And such that nobody reads.
        for _, writer in connections:
            writer.write(request * 5000)
        for _ in range(ANSWERS):
            await siege.rest()


async def nonsense(siege: Siege) -> None:
    """What is no HTTP is refused, and the connection closed."""
    for words in (b"\x16\x03\x01" + bytes(600), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 5000, b"GET\r\n\r\n"):
        answer = await answer_to(siege, words, ())
        assert status_of(answer) in (None, 400)


@pytest.mark.parametrize(
    "attack",
    [
        slow_loris,
        header_of_ten_megabytes,
        address_of_ten_megabytes,
        bodies_without_an_end,
        wrong_content_types,
        queries_that_are_no_text,
        pipelining,
        nonsense,
    ],
)
async def test_an_abuse_of_rest_disturbs_nobody_else(siege: Siege, attack: Attack) -> None:
    """Whatever one client does with requests, honest clients get every answer, and memory stays bounded."""
    await siege.withstands(attack)


async def answer_to(siege: Siege, start: bytes, more: Iterable[bytes]) -> bytes:
    """Send, as far as the gateway reads, and read what it answers until it closes the connection.

    A reset, which takes what was not read yet with it, counts as the end.
    """
    reader, writer = await asyncio.open_connection(*host_and_port(siege.lab.rest_address))

    async def send() -> None:
        with suppress(ConnectionError):
            for piece in (start, *more):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    answer = b""
    try:
        while part := await reader.read(PIECE):
            answer += part
            if more and sending.done():
                break
    except ConnectionError:
        pass
    finally:
        sending.cancel()
        writer.transport.abort()
    return answer


def status_of(answer: bytes) -> int | None:
    """Return the status; None when the connection was closed without an answer, or the end of it was lost."""
    return int(answer.split()[1]) if answer else None


@asynccontextmanager
async def many(siege: Siege, n: int) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """Open `n` connections while the block runs."""
    connections = [await asyncio.open_connection(*host_and_port(siege.lab.rest_address)) for _ in range(n)]
    try:
        yield connections
    finally:
        for _, writer in connections:
            writer.transport.abort()
