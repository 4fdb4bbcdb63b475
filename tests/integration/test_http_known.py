"""Requests that came before, but for what nobody heeds: they are not read again, and nothing else is different."""

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
from qrng_grpc.http_known import MAX_HEADERS
from qrng_grpc.http_replies import Again, Reply
from qrng_grpc.http_serving import IDLE_S, Site, serving_http
from tests.waiting import LetPass

REQUEST = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
OTHER = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
HEEDED = "X-Heeded"
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
        self.shown: list[tuple[str, str]] = []
        """The headers of the request that was read last, as they were shown."""

    async def answer(self, request: web.BaseRequest) -> Reply:
        self.shown = list(request.headers.items())
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
        await self.read_head()
        length = int(self.head.partition("Content-Length: ")[2].split("\r\n")[0])
        return (await self._reader.readexactly(length)).decode()

    async def read_head(self) -> None:
        """Read the head of the next reply."""
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        assert self.head.startswith("HTTP/1.")

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
    site = Site(teller.answer, heeds=(HEEDED,))
    async with serving_http(site, "127.0.0.1:0", **{"grace_s": 1.0, **settings}) as address:
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


def with_lines(request: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([request[:-4], *lines]) + request[-4:]


async def test_what_nobody_heeds_makes_no_other_request(tls: Tls) -> None:
    """Requests that differ in ids of traces and the like are known again, and their answers see none of it."""
    teller = Teller()
    async with served(teller, tls=tls.server) as address, connected(address, tls.client) as client:
        assert await client.ask(with_lines(REQUEST, b"X-Request-Id: 0", b"Accept: */*")) == "read /a"
        assert teller.shown == [("Host", "x")]
        for number in range(1, 4):
            assert await client.ask(with_lines(REQUEST, b"x-request-id: %d" % number)) == "again /a"
        assert await client.ask(REQUEST) == "again /a"


async def test_what_is_heeded_makes_another_request() -> None:
    """A header that an answer may depend on tells requests apart by its value, and by how often it is there."""
    teller = Teller()
    async with served(teller) as address, connected(address) as client:
        await client.ask(REQUEST)
        for lines in ([b"X-Heeded: 1"], [b"X-Heeded: 2"], [b"x-heeded: 2"], [b"X-Heeded: 1", b"X-Heeded: 2"]):
            assert await client.ask(with_lines(REQUEST, b"X-Id: 1", *lines)) == "read /a"
            assert teller.shown[1:] == [tuple(line.decode().split(": ")) for line in lines]
            assert await client.ask(with_lines(REQUEST, b"X-Id: 2", *lines)) == "again /a"


@pytest.mark.parametrize(
    "lines",
    [
        [b"X-Id: 1", b" and more"],
        [b"X-Id : 1"],
        [b"X-Id"],
        [b"X-Id: \0"],
        [b"X-Id: 1\rX: 2"],
        [b"X-Id: 1"] * MAX_HEADERS,
        [b"Host: x"],
        [b"User-Agent: a", b"User-Agent: b"],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: identity"],
        [b"Content-Length: +5"],
    ],
)
async def test_what_is_no_http_is_refused_however_well_the_rest_is_known(lines: list[bytes]) -> None:
    """A request that aiohttp does not take is not taken for one that it took."""
    async with served(Teller()) as address, connected(address) as client:
        assert await client.ask(REQUEST) == "read /a"
        assert await client.ask(with_lines(REQUEST, b"X-Id: 1")) == "again /a"
        assert "INVALID_ARGUMENT" in await client.ask(with_lines(REQUEST, *lines))
        assert await client.end() == b""


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
            assert "Connection: close" in client.head
        assert await client.end() == b""
        await ending
    assert teller.left.is_set() != answers


async def test_the_last_reply_says_that_the_connection_ends() -> None:
    """Nobody sends another request to a server that ends, because the reply to the one before kept quiet about it."""
    teller = Teller()
    serving = served(teller, grace_s=10.0)
    async with connected(await serving.__aenter__()) as client:
        client.send(REQUEST.replace(b"/a", b"/slow"))
        await teller.reading.wait()
        ending = asyncio.create_task(serving.__aexit__(None, None, None))
        await taken_in()
        teller.slow.set()
        assert await client.reply() == "read /slow"
        assert "Connection: close" in client.head
        assert await client.end() == b""
        await ending


async def test_a_reply_without_a_body_is_not_given_one_when_it_is_known() -> None:
    """What follows the head of a reply to HEAD is the next reply, however often it was asked for."""
    async with served(Teller()) as address, connected(address) as client:
        for _ in range(3):
            client.send(REQUEST.replace(b"GET", b"HEAD"))
            await client.read_head()
        assert await client.ask(OTHER) == "read /b"


async def test_a_connection_is_kept_while_requests_come(let_pass: LetPass) -> None:
    """Requests that are known count as much as others; when none comes the connection is closed."""
    async with served(Teller(), idle_s=1000) as address, connected(address) as client:
        await client.ask(REQUEST)
        for _ in range(4):
            let_pass(800)
            assert await client.ask(REQUEST) == "again /a"
        let_pass(1001)
        assert await client.end() == b""


async def test_a_connection_is_kept_while_a_request_is_answered(let_pass: LetPass) -> None:
    """However long that takes, also when it came before the reply to one that is known."""
    teller = Teller()
    async with served(teller, idle_s=1000) as address, connected(address) as client:
        await client.ask(REQUEST)
        teller.open.clear()
        client.send(REQUEST)
        await teller.waiting.wait()
        client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await teller.reading.wait()
        teller.open.set()
        assert await client.reply() == "again /a"
        let_pass(4000)
        await taken_in()  # whoever looks at the time has looked
        teller.slow.set()
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


async def test_a_client_that_does_not_read_is_closed(let_pass: LetPass) -> None:
    """A reply that nobody takes holds a connection no longer than a request that nobody sends."""
    async with served(Teller(), idle_s=1000, max_connections=1) as address, connected(address) as client:
        await client.ask(LARGE)
        client.send(LARGE)
        await client.read_head()
        let_pass(1001)
        while True:  # one connection is all there is, and it is taken until the server has had enough
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                async with connected(address) as other:
                    assert await other.ask(REQUEST) == "read /a"
                    break
