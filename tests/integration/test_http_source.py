"""The HTTP source against a simulated appliance, over real TLS, in all its moods."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from qrng_grpc.certs import Authority, collector_uri
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources.http import HttpSource
from qrng_grpc.sources.presets import PRESETS
from qrng_grpc.testing import ManualClock, Misbehaviour, QuantisAppliance
from tests.programs import free_address


@pytest.fixture
async def appliance() -> AsyncIterator[QuantisAppliance]:
    async with QuantisAppliance(seed=1) as running:
        yield running


def source_of(appliance: QuantisAppliance, **arguments: Any) -> HttpSource:
    if "fingerprint" not in arguments:
        arguments.setdefault("ca_file", appliance.ca_file)
    return HttpSource(appliance.url, source_class=SourceClass.QUANTUM, device_id="quantis-0", **arguments)


@pytest.fixture
async def source(appliance: QuantisAppliance) -> AsyncIterator[HttpSource]:
    opened = source_of(appliance)
    yield opened
    await opened.close()


async def failure_of(source: HttpSource, size: int = 64) -> SourceError:
    with pytest.raises(SourceError) as refusal:
        await source.read(size)
    return refusal.value


async def test_label_is_as_stated(appliance: QuantisAppliance) -> None:
    """Class, device id and custody are the operator's statement."""
    label = source_of(appliance, custody=Custody.REMOTE).label
    assert (label.source_class, label.device_ids, label.custody) == (
        SourceClass.QUANTUM,
        ("quantis-0",),
        Custody.REMOTE,
    )


@pytest.mark.parametrize("size", [1, 1024, 65_537, 1 << 20])
async def test_reads_are_exact(appliance: QuantisAppliance, source: HttpSource, size: int) -> None:
    """A read returns the very bytes the appliance served, as many as were asked for."""
    data = await source.read(size)
    assert len(data) == size
    assert data == appliance.served


async def test_connection_is_used_again(appliance: QuantisAppliance, source: HttpSource) -> None:
    """Reads one after another share one connection and repeat nothing."""
    pieces = [await source.read(100) for _ in range(20)]
    assert b"".join(pieces) == appliance.served
    assert appliance.connections == 1


async def test_fingerprint_admits_the_pinned_certificate(appliance: QuantisAppliance) -> None:
    """A pin in either notation admits the certificate, whatever its issuer and host name."""
    digits = appliance.fingerprint
    colons = ":".join(digits[at : at + 2] for at in range(0, 64, 2)).upper()
    for fingerprint in (digits, colons):
        source = source_of(appliance, fingerprint=fingerprint)
        assert len(await source.read(16)) == 16
        await source.close()


async def test_other_certificate_is_refused(appliance: QuantisAppliance) -> None:
    """With a foreign pin, a foreign CA bundle or the system's CAs, no request leaves us."""
    async with QuantisAppliance() as other:
        trusts: list[dict[str, Any]] = [
            {"fingerprint": other.fingerprint},
            {"ca_file": other.ca_file},
            {"ca_file": None},
        ]
        texts = []
        for trust in trusts:
            source = source_of(appliance, **trust)
            texts.append(str(await failure_of(source)))
            await source.close()
    assert "fingerprint" in texts[0]
    assert texts[1] == texts[2] == "the certificate of the source cannot be verified"
    assert appliance.requests == 0


async def test_host_name_is_checked(appliance: QuantisAppliance) -> None:
    """A certificate that a trusted CA gave to another host is refused."""
    elsewhere = appliance.url.replace("127.0.0.1", "127.0.0.2")
    server = await asyncio.start_server(_relay_to(appliance.url), "127.0.0.2", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"{elsewhere.rsplit(':', 1)[0]}:{port}"
    source = HttpSource(url, source_class=SourceClass.QUANTUM, device_id="q", ca_file=appliance.ca_file)
    assert "cannot be verified" in str(await failure_of(source))
    await source.close()
    server.close()
    await server.wait_closed()
    assert appliance.requests == 0


def _relay_to(url: str) -> Any:
    """Return a handler that passes raw bytes to and fro."""
    host, port = url.removeprefix("https://").split(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    return handle


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("html", "a document, not with random bytes"),
        ("short", "holds 32 bytes where 64"),
        ("long", "longer than any answer"),
        ("status_429", "status 429"),
        ("status_503", "status 503"),
        ("reset", "broke off"),
    ],
)
async def test_misbehaviour_is_an_error_and_no_bytes(
    appliance: QuantisAppliance, source: HttpSource, kind: Misbehaviour, text: str
) -> None:
    """A spoilt answer is a SourceError of ours; the next read succeeds and repeats nothing."""
    appliance.fail_next(kind)
    assert text in str(await failure_of(source))
    spoilt = len(appliance.served)
    assert await source.read(64) == appliance.served[spoilt:]


async def test_silence_ends_at_the_time_limit(appliance: QuantisAppliance) -> None:
    """An appliance that stops in the middle of an answer holds a read no longer than the limit."""
    source = source_of(appliance, timeout_s=0.2)
    appliance.fail_next("stall", times=100)
    while not appliance.stalling.is_set():  # else the limit passed before there was a connection
        assert "did not answer in time" in str(await failure_of(source))
    await source.close()


async def test_cancelled_read_leaves_the_source_usable(appliance: QuantisAppliance, source: HttpSource) -> None:
    """A read that is cancelled within an answer gives up its connection; the next one has a new one."""
    appliance.fail_next("stall")
    read = asyncio.create_task(source.read(64))
    await appliance.stalling.wait()
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    spoilt = len(appliance.served)
    assert await source.read(64) == appliance.served[spoilt:]
    assert appliance.connections == 2


@pytest.mark.parametrize("kind", ["status_429", "status_503"])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("99999", 3600.0), ("Wed, 01 Jan 2025 00:01:00 GMT", 60.0), ("whenever", None), (None, None)],
)
async def test_retry_after(
    appliance: QuantisAppliance, kind: Misbehaviour, header: str | None, seconds: float | None
) -> None:
    """A busy appliance is asked again when it says, within an hour."""
    source = source_of(appliance, clock=ManualClock())
    appliance.retry_after = header
    appliance.fail_next(kind)
    assert (await failure_of(source)).retry_after_s == seconds
    await source.close()


async def test_nothing_of_the_answer_is_passed_on(
    appliance: QuantisAppliance, source: HttpSource, tmp_path: Path
) -> None:
    """No error, cause or context of one holds words of the appliance."""
    for kind in ("html", "status_503"):
        appliance.fail_next(kind)
    for _ in range(2):
        told = "".join(traceback.format_exception(await failure_of(source)))
        assert "busy" not in told
        assert "session" not in told
    garbled = HttpSource(await _answering(b"NOT HTTP AT ALL\r\n\r\n"), source_class=SourceClass.QUANTUM, device_id="q")
    failure = await failure_of(garbled)
    await garbled.close()
    assert str(failure) == "the answer of the source is not HTTP"
    assert failure.__context__ is None


_SERVERS: list[asyncio.Server] = []


@pytest.fixture(autouse=True)
async def _servers_end() -> AsyncIterator[None]:
    yield
    while _SERVERS:
        server = _SERVERS.pop()
        server.close()
        await server.wait_closed()


async def _answering(answer: bytes) -> str:
    """Start a plain server that gives every request `answer` and closes. Returns its URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    _SERVERS.append(server)
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 206 Partial\r\nContent-Length: 4\r\n\r\nabcd", "status 206"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", "document"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n[1 ]", "document"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde", "announced a longer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "broke off"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "holds 3 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "holds 0 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nabcde", "longer"),
        (b"", "broke off"),
    ],
)
async def test_answers_that_are_not_the_bytes(answer: bytes, text: str) -> None:
    """Whatever is not status 200 with exactly the bytes asked for is refused; redirects are not followed."""
    source = HttpSource(await _answering(answer), source_class=SourceClass.QUANTUM, device_id="q")
    assert text in str(await failure_of(source, 4))
    await source.close()


async def test_nobody_listens() -> None:
    """A refused connection is a SourceError."""
    source = HttpSource(f"https://{free_address()}", source_class=SourceClass.QUANTUM, device_id="q")
    assert str(await failure_of(source)) == "no connection to the source"
    await source.close()


async def test_plain_server_behind_https() -> None:
    """A server that does not speak TLS is a SourceError."""
    url = (await _answering(b"HTTP/1.1 200 OK\r\n\r\n")).replace("http:", "https:")
    source = HttpSource(url, source_class=SourceClass.QUANTUM, device_id="q")
    assert str(await failure_of(source)) == "no TLS connection to the source"
    await source.close()


async def test_proxies_of_the_environment_are_not_used(
    appliance: QuantisAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path to the appliance is the operator's setting, not the environment's."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    source = source_of(appliance)
    assert len(await source.read(8)) == 8
    await source.close()


async def test_path_before_the_api_is_kept() -> None:
    """An appliance behind a path of a gateway is asked there."""
    source = HttpSource(
        await _answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd") + "/quantis/",
        source_class=SourceClass.QUANTUM,
        device_id="q",
    )
    assert await source.read(4) == b"abcd"
    await source.close()


async def test_closed_is_closed(source: HttpSource) -> None:
    """A closed source refuses to read; closing it again does no harm."""
    await source.read(1)
    await source.close()
    await source.close()
    assert "closed" in str(await failure_of(source))


async def test_close_ends_running_reads(appliance: QuantisAppliance) -> None:
    """A read that waits for a silent appliance ends with SourceError when the source is closed."""
    source = source_of(appliance)
    appliance.fail_next("stall")
    read = asyncio.create_task(source.read(64))
    await appliance.stalling.wait()
    await source.close()
    with pytest.raises(SourceError):
        await read


async def test_appliance_identifies_itself(appliance: QuantisAppliance) -> None:
    """The simulated appliance says that it is one, and refuses sizes that are none."""
    pin = aiohttp.Fingerprint(bytes.fromhex(appliance.fingerprint))
    async with aiohttp.ClientSession(appliance.url) as session:
        for path in ("systeminfo", "firmwareinfo"):
            async with session.get(f"/api/2.0/{path}", ssl=pin) as reply:
                assert "simulated" in (await reply.json()).values()
        for query in ("", "?size=0", "?size=x", "?size=999999999"):
            async with session.get(f"/api/2.0/streambytes{query}", ssl=pin) as reply:
                assert reply.status == 400
    assert appliance.served == b""
    with pytest.raises(ValueError, match="unknown misbehaviour"):
        appliance.fail_next("explode")  # type: ignore[arg-type]


async def test_certificate_ends_with_the_appliance() -> None:
    """An appliance that is gone leaves nothing on disk."""
    async with QuantisAppliance() as appliance:
        assert appliance.ca_file.exists()
        assert [path.name for path in appliance.ca_file.parent.iterdir()] == ["certificate.pem"]
    assert not appliance.ca_file.parent.exists()


async def _providing(answer: Callable[[web.Request], web.StreamResponse], **site: Any) -> str:
    """Serve `answer` to every request until the test ends. Returns the base URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    _RUNNERS.append(runner)
    await web.TCPSite(runner, "127.0.0.1", 0, **site).start()
    scheme = "https" if site else "http"
    return f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"


_RUNNERS: list[web.AppRunner] = []


@pytest.fixture(autouse=True)
async def _providers_end() -> AsyncIterator[None]:
    yield
    while _RUNNERS:
        await _RUNNERS.pop().cleanup()


async def test_vault_is_asked_as_it_wants() -> None:
    """A preset's method, path, headers, key and body arrive, and its JSON is read."""
    asked: list[Any] = []

    def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.method, request.path, request.headers["X-Vault-Token"], request.headers["Accept"]))
        size = int(request.path.rsplit("/", 1)[1])
        return web.json_response({"data": {"random_bytes": bytes(range(size)).hex()}})

    source = HttpSource(
        await _providing(answer),
        source_class=SourceClass.OPERATING_SYSTEM,
        device_id="vault",
        provider=PRESETS["vault"],
        key=SecretStr("s.token"),
    )
    assert await source.read(32) == bytes(range(32))
    assert asked == [("POST", "/v1/sys/tools/random/32", "s.token", "application/json")]
    await source.close()


async def test_a_read_takes_as_many_requests_as_it_needs() -> None:
    """pollen gives 64 bytes a request, each to a challenge of its own; what is over is dropped."""
    challenges: list[str] = []

    def answer(request: web.Request) -> web.StreamResponse:
        challenge = request.query["challenge"]
        challenges.append(challenge)
        proof = hashlib.sha512(challenge.encode()).hexdigest()
        return web.Response(text=f"{proof}\n{bytes([len(challenges)] * 64).hex()}\n")

    source = HttpSource(
        await _providing(answer),
        source_class=SourceClass.OPERATING_SYSTEM,
        device_id="pollen",
        provider=PRESETS["pollen"],
    )
    assert await source.read(100) == b"\x01" * 64 + b"\x02" * 36
    assert len(set(challenges)) == 2
    assert "1 to 4096 bytes a read" in str(await failure_of(source, 4097))
    await source.close()


async def test_the_time_limit_is_for_the_whole_read() -> None:
    """Requests that each stay within it, and bytes that drip, do not add up to more than the limit."""
    async with QuantisAppliance() as appliance:
        source = source_of(appliance, timeout_s=0.3)
        appliance.fail_next("slow_drip")
        assert "did not answer in time" in str(await failure_of(source))
        await source.close()


async def test_endless_answers_are_not_read_to_their_end() -> None:
    """Of a document that goes on and on no more is taken than any answer could have."""
    endless = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b'{"qrn":"' + b"0" * 200_000
    source = HttpSource(
        await _answering(endless),
        source_class=SourceClass.QUANTUM,
        device_id="lfd",
        provider=dataclasses.replace(PRESETS["lfd"], url="{base}/{bytes}", base=None),
    )
    assert "longer than any answer" in str(await failure_of(source, 16))
    await source.close()


async def test_an_answer_without_an_end_is_left_where_it_is_too_long() -> None:
    """An answer that never ends is given up once it is longer than any, and not when time is over."""
    given_up = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"0" * 4096)
                await writer.drain()
        given_up.set()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    _SERVERS.append(server)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    source = HttpSource(url, source_class=SourceClass.QUANTUM, device_id="q", timeout_s=20)
    assert "longer than any answer" in str(await failure_of(source, 16))
    await given_up.wait()
    await source.close()


async def test_an_expired_certificate_is_refused_unless_pinned() -> None:
    """A CA bundle admits nothing that has run out; a fingerprint replaces dates, as documented."""
    async with QuantisAppliance(expired=True) as appliance:
        checked, pinned = source_of(appliance), source_of(appliance, fingerprint=appliance.fingerprint)
        assert "cannot be verified" in str(await failure_of(checked))
        assert len(await pinned.read(16)) == 16
        await checked.close()
        await pinned.close()


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    """A provider that asks for a certificate sees ours, and turns away who shows none."""
    authority, ours = Authority.create("providers"), Authority.create("laboratory")
    (tmp_path / "ca.pem").write_bytes(authority.issued.certificate)
    (tmp_path / "ours.pem").write_bytes(ours.issued.certificate)
    authority.server(["127.0.0.1"]).save(tmp_path / "server.pem", tmp_path / "server.key")
    ours.client(collector_uri("lab")).save(tmp_path / "client.pem", tmp_path / "client.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ours.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    url = await _providing(lambda request: web.Response(body=bytes(int(request.query["size"]))), ssl_context=context)
    common: dict[str, Any] = {"source_class": SourceClass.QUANTUM, "device_id": "q", "ca_file": tmp_path / "ca.pem"}
    shown: dict[str, Any] = {"client_cert_file": tmp_path / "client.pem", "client_key_file": tmp_path / "client.key"}
    known, unknown = HttpSource(url, **common, **shown), HttpSource(url, **common)
    assert await known.read(8) == bytes(8)
    await failure_of(unknown)
    await known.close()
    await unknown.close()
    with pytest.raises(ValueError, match="give no fingerprint"):
        HttpSource(url, source_class=SourceClass.QUANTUM, device_id="q", fingerprint="00" * 32, **shown)
