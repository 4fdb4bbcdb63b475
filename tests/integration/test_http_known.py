"""Requests that came before, to the letter: they are not read again, and nothing else is different for anybody."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from qrng_grpc.certs import Authority
from qrng_grpc.config import host_and_port
from qrng_grpc.http_replies import Again, Reply
from qrng_grpc.http_serving import IDLE_S, LONGEST_KNOWN, MAX_KNOWN, Known, Site, serving_http

REQUEST = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
OTHER = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
"""Is answered with more than the system takes, the second time."""


class Teller:
    """Answers with the path and how it came to know the request: `read`, or `again`."""

    def __init__(self) -> None:
        self.forgets = False
        """Whether requests must be read after all."""
        self.open = asyncio.Event()
        """Whether requests that came before are answered; else they wait."""
        self.open.set()
        self.waiting = asyncio.Event()
        self.left = asyncio.Event()
        self.reading = asyncio.Event()
        self.slow = asyncio.Event()
        """Until then a request for /slow that is read waits."""

    async def answer(self, request: web.BaseRequest) -> Reply:
        if request.path == "/slow":
            self.reading.set()
            await self.slow.wait()
        reply = Reply(f"read {request.path}".encode())
        reply.again = Again(lambda _peer: None if self.forgets else self.again(request.path), "X-Again: yes\r\n")
        return reply

    async def again(self, path: str) -> Reply:
        try:
            if not self.open.is_set():
                self.waiting.set()
                await self.open.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return Reply(f"again {path}".encode() if path != "/large" else bytes(64_000_000))


class Client:
    """Sends bytes as they are, and reads replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.send = writer.write
        self.leave = writer.transport.abort

    async def reply(self) -> str:
        """Return the body of the next reply."""
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        length = int(self.head.partition("Content-Length: ")[2].split("\r\n")[0])
        return (await self._reader.readexactly(length)).decode()

    async def ask(self, request: bytes) -> str:
        self.send(request)
        return await self.reply()

    async def end(self) -> bytes:
        """Return what still comes until the server closes the connection."""
        return await self._reader.read()


async def taken_in() -> None:
    """Let the server, which shares our loop, take in what was sent as a piece of its own."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def served(teller: Teller, **settings: Any) -> AsyncIterator[str]:
    async with serving_http(Site(teller.answer), "127.0.0.1:0", **{"grace_s": 1.0, **settings}) as address:
        yield address


@asynccontextmanager
async def connected(address: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(*host_and_port(address), ssl=tls))
    try:
        yield client
    finally:
        client.leave()


class Tls:
    """What a server shows, and clients believe; nothing, where there is no TLS."""

    def __init__(self, directory: Path | None) -> None:
        self.server = self.client = None
        if directory is not None:
            authority = Authority.create("qrng test CA")
            authority.server(["127.0.0.1"]).save(directory / "server.pem", directory / "server.key", force=True)
            self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.server.load_cert_chain(directory / "server.pem", directory / "server.key")
            self.client = ssl.create_default_context(cadata=authority.issued.certificate.decode())


@pytest.fixture(params=["HTTP", "HTTPS"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Tls:
    """A test that uses this runs without TLS and with it."""
    return Tls(tmp_path if request.param == "HTTPS" else None)


async def test_a_request_is_read_once(tls: Tls) -> None:
    """The second time it is known, on any connection, and another one is not."""
    async with served(Teller(), tls=tls.server) as address:
        async with connected(address, tls.client) as client:
            assert [await client.ask(REQUEST) for _ in range(3)] == ["read /a", "again /a", "again /a"]
            assert "X-Again: yes" in client.head
            assert "Cache-Control: no-store" in client.head
            assert [await client.ask(OTHER) for _ in range(2)] == ["read /b", "again /b"]
        async with connected(address, tls.client) as client:
            assert await client.ask(REQUEST) == "again /a"


async def test_what_cannot_be_answered_again_is_read() -> None:
    """It is read as if it had never come, and known again from then on."""
    teller = Teller()
    async with served(teller) as address, connected(address) as client:
        await client.ask(REQUEST)
        teller.forgets = True
        assert await client.ask(REQUEST) == "read /a"
        teller.forgets = False
        assert await client.ask(REQUEST) == "again /a"


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n") + b"\r\n\r\n",
        REQUEST.replace(b"\r\n\r\n", b"\r\nExpect: nothing\r\n\r\n"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nX-Long: %s\r\nX-More: %s\r\n\r\n" % (b"x" * 3000, b"x" * 3000)),
    ],
    ids=["HTTP/1.0", "with a body", "with an expectation", "long"],
)
async def test_only_plain_requests_are_known(request_: bytes) -> None:
    """What asks for more than a reply, or is long, is read each time."""
    async with served(Teller()) as address, connected(address) as client:
        assert [await client.ask(request_) for _ in range(3)] == ["read /a"] * 3


async def test_a_request_within_another_is_none() -> None:
    """What stands in a header or a body is no request, however well it is known."""
    async with served(Teller()) as address:
        async with connected(address) as client:
            await client.ask(REQUEST)
        async with connected(address) as client:
            client.send(b"GET /b HTTP/1.1\r\nX-Part: ")
            await taken_in()
            assert await client.ask(REQUEST) == "read /b"
            assert await client.ask(REQUEST) == "read /a"
        async with connected(address) as client:
            client.send(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * len(REQUEST)))
            assert await client.reply() == "read /b"
            await taken_in()
            client.send(REQUEST)
            await taken_in()
            client.send(REQUEST)
            assert await client.ask(OTHER) == "read /b"


async def test_replies_come_in_the_order_of_requests() -> None:
    """Requests that are sent without waiting are answered one after the other, those that are known too."""
    teller = Teller()
    async with served(teller) as address, connected(address) as client:
        await client.ask(REQUEST)
        teller.open.clear()
        client.send(REQUEST)
        await teller.waiting.wait()
        client.send(OTHER + REQUEST)
        await taken_in()
        client.send(b"no HTTP\r\n\r\n")
        await taken_in()
        teller.open.set()
        assert [await client.reply() for _ in range(3)] == ["again /a", "read /b", "read /a"]
        assert "INVALID_ARGUMENT" in await client.reply()
        assert await client.end() == b""


async def test_a_client_that_leaves_ends_what_it_waits_for() -> None:
    """Whoever closes the connection is not served any more."""
    teller = Teller()
    async with served(teller) as address, connected(address) as client:
        await client.ask(REQUEST)
        teller.open.clear()
        client.send(REQUEST)
        await teller.waiting.wait()
        client.leave()
        await teller.left.wait()


@pytest.mark.parametrize("answers", [True, False])
async def test_the_end_of_the_server_is_polite(answers: bool) -> None:
    """What is being answered still is, for half of the grace; what takes longer is ended."""
    teller = Teller()
    serving = served(teller, grace_s=0.2 if not answers else 10.0)
    async with connected(await serving.__aenter__()) as client:
        await client.ask(REQUEST)
        teller.open.clear()
        client.send(REQUEST)
        await teller.waiting.wait()
        ending = asyncio.create_task(serving.__aexit__(None, None, None))
        await taken_in()
        if answers:
            teller.open.set()
            assert await client.reply() == "again /a"
        assert await client.end() == b""
        await ending
    assert teller.left.is_set() != answers


async def test_a_connection_is_kept_while_requests_come() -> None:
    """Requests that are known count as much as others; when none comes the connection is closed."""
    loop = asyncio.get_running_loop()
    async with served(Teller(), idle_s=0.2) as address, connected(address) as client:
        until_s = loop.time() + 0.6
        await client.ask(REQUEST)
        while loop.time() < until_s:
            assert await client.ask(REQUEST) == "again /a"
            await asyncio.sleep(0.02)
        assert await client.end() == b""


async def test_a_connection_is_kept_while_a_request_is_answered() -> None:
    """However long that takes, also when it came before the reply to one that is known."""
    teller = Teller()
    async with served(teller, idle_s=0.1) as address, connected(address) as client:
        await client.ask(REQUEST)
        teller.open.clear()
        client.send(REQUEST)
        await teller.waiting.wait()
        client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await teller.reading.wait()
        teller.open.set()
        assert await client.reply() == "again /a"
        asyncio.get_running_loop().call_later(0.4, teller.slow.set)
        assert await client.reply() == "read /slow"


async def test_an_old_connection_ends_with_its_reply(tls: Tls) -> None:
    """Whether a request is known or not, the reply says so and the connection is closed."""
    async with served(Teller(), max_age_s=0.0, tls=tls.server) as address:
        for expected in ("read /a", "again /a"):
            async with connected(address, tls.client) as client:
                assert await client.ask(REQUEST) == expected
                assert "Connection: close" in client.head
                async with asyncio.timeout(IDLE_S / 2):
                    assert await client.end() == b""


async def test_a_connection_without_a_request_delays_no_end(tls: Tls) -> None:
    """The end of the server waits for what is being answered, and for nothing else."""
    serving = served(Teller(), grace_s=60.0, tls=tls.server)
    async with connected(await serving.__aenter__(), tls.client) as client:
        assert await client.ask(REQUEST) == "read /a"
        async with asyncio.timeout(20):
            await serving.__aexit__(None, None, None)
        assert await client.end() == b""


async def test_a_client_that_does_not_read_is_closed() -> None:
    """A reply that nobody takes holds a connection no longer than a request that nobody sends."""
    async with served(Teller(), idle_s=0.2, max_connections=1) as address, connected(address) as client:
        await client.ask(LARGE)
        client.send(LARGE)
        while True:  # one connection is all there is, and it is taken until the server has had enough
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                async with connected(address) as other:
                    assert await other.ask(REQUEST) == "read /a"
                    break


async def test_so_many_requests_are_known() -> None:
    """The oldest is forgotten first, and nothing that was sent is kept."""
    known = Known()
    again = Again(lambda _peer: None)
    for number in range(MAX_KNOWN + 1):
        known.keep(b"request %d" % number, again)
    assert known.find(b"request 0") is None
    assert known.find(b"request 1") is known.find(b"request %d" % MAX_KNOWN) is again
    assert b"request" not in b"".join(known._requests)
    known.keep(bytes(LONGEST_KNOWN + 1), again)
    assert known.find(bytes(LONGEST_KNOWN + 1)) is None
