"""TLS on every listener and on pushes: who is let in, and that exchanging certificates disturbs nobody."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import secrets
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from structlog.testing import capture_logs

from qrng_client import AsyncEntropyClient
from qrng_collector.app import collecting
from qrng_collector.config import CollectorConfig, RetryPolicy
from qrng_grpc.certs import Authority, Issued, collector_uri
from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.errors import ServerUnreachableError
from qrng_grpc.labels import SourceClass
from qrng_grpc.serving import ConnectionAge, Grace, new_server, serving_grpc
from qrng_grpc.testing import LedgerSource, ScriptedSource
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.tls import ListenerTls, TlsFiles
from qrng_grpc.v1.push_pb2 import PushChunksRequest, PushChunksResponse
from qrng_grpc.v1.push_pb2_grpc import PushServiceStub
from qrng_grpc.wire import decode_chunk
from tests.waiting import until

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
"""Channels of one process otherwise share connections, and what fails is hidden by a retry."""
HOSTS = ("localhost", "127.0.0.1")
LONG_AGO = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=100)
LABEL = BlockLabel(("test-device",), SourceClass.OPERATING_SYSTEM)


@dataclass
class Site:
    """The certificates of one installation, in `directory`: a gateway's and a collector's, of two authorities."""

    directory: Path
    servers: Authority = field(default_factory=lambda: Authority.create("qrng private CA"))
    collectors: Authority = field(default_factory=lambda: Authority.create("qrng private CA", now=LONG_AGO))

    def __post_init__(self) -> None:
        self.new_server_certificate()
        self.new_client_certificate()
        self.trust_servers(self.servers)
        self.trust_collectors(self.collectors)

    def new_server_certificate(self) -> None:
        self.save("server", self.servers.server(HOSTS))

    def new_client_certificate(self) -> None:
        self.save("client", self.collectors.client(collector_uri("lab")))

    def trust_servers(self, *authorities: Authority) -> None:
        self._bundle("servers-ca.pem", authorities)

    def trust_collectors(self, *authorities: Authority) -> None:
        self._bundle("collectors-ca.pem", authorities)

    def save(self, name: str, issued: Issued) -> None:
        issued.save(self.directory / f"{name}.pem", self.directory / f"{name}.key", force=True)

    def _bundle(self, name: str, authorities: tuple[Authority, ...]) -> None:
        (self.directory / name).write_bytes(b"".join(one.issued.certificate for one in authorities))

    @property
    def ca_file(self) -> Path:
        """Whom clients and collectors trust."""
        return self.directory / "servers-ca.pem"

    @property
    def client_settings(self) -> dict[str, Path]:
        """TLS for clients."""
        return {"tls_cert_file": self.directory / "server.pem", "tls_key_file": self.directory / "server.key"}

    @property
    def push_settings(self) -> dict[str, Path]:
        """TLS for collectors."""
        return {
            "push_tls_cert_file": self.directory / "server.pem",
            "push_tls_key_file": self.directory / "server.key",
            "push_client_ca_file": self.directory / "collectors-ca.pem",
        }

    @property
    def collector_settings(self) -> dict[str, Path]:
        """TLS at the collector."""
        return {
            "push_ca_file": self.ca_file,
            "push_cert_file": self.directory / "client.pem",
            "push_key_file": self.directory / "client.key",
        }

    def credentials(self, shown: Issued | None = None) -> grpc.ChannelCredentials:
        """What a collector shows: by default the certificate in the files."""
        if shown is None:
            chain, key = ((self.directory / f"client.{kind}").read_bytes() for kind in ("pem", "key"))
        else:
            chain, key = shown.certificate, shown.key
        return grpc.ssl_channel_credentials(self.ca_file.read_bytes(), key, chain)

    def ssl_context(self) -> ssl.SSLContext:
        """What a client of REST trusts."""
        return ssl.create_default_context(cafile=self.ca_file)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "certs").mkdir()
    return Site(tmp_path / "certs")


@dataclass
class Pusher:
    """Pushes one chunk a call, each over a connection of its own."""

    gateway: RunningGateway
    sequence: int = 0

    async def push(self, credentials: grpc.ChannelCredentials) -> int:
        self.sequence += 1
        now_ns = self.gateway.clock.now_ns()
        identity = Identity(self.gateway.collector_id, self.gateway.pool_id, self.gateway.epoch, self.sequence)
        chunk = Chunk.bind(Block(os.urandom(1024), now_ns, now_ns, LABEL), identity)
        address = self.gateway.push_address
        async with grpc.aio.secure_channel(address, credentials, options=OWN_CONNECTION) as channel:
            stub: Any = PushServiceStub(channel)
            reply: PushChunksResponse = await stub.PushChunks(iter([self.gateway.signed(chunk)]))
        return reply.disposed_count


async def test_only_collectors_of_the_right_authority_may_push(site: Site) -> None:
    """No certificate, one of another authority, an expired one or a server's: no push. The right one: stored."""
    refused = {
        "none": grpc.ssl_channel_credentials(site.ca_file.read_bytes()),
        "foreign": site.credentials(Authority.create("qrng private CA").client(collector_uri("lab"))),
        "expired": site.credentials(site.collectors.client(collector_uri("lab"), days=1, now=LONG_AGO)),
        "server": site.credentials(site.collectors.server(HOSTS)),
        "clients' side": site.credentials(site.servers.client(collector_uri("lab"))),
    }
    async with running_gateway(**site.push_settings) as gateway:
        pusher = Pusher(gateway)
        for name, credentials in refused.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pusher.push(credentials)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, name
        assert gateway.gateway.accounting().stored == 0
        assert await pusher.push(site.credentials()) == 1
        assert gateway.gateway.accounting().stored == 1024


async def test_plaintext_finds_nobody_at_a_listener_with_tls(site: Site) -> None:
    """With TLS set, nothing is served without: not to clients, not to collectors, not over REST."""
    async with running_gateway(**site.client_settings, **site.push_settings) as gateway:
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.push(os.urandom(16))
        async with AsyncEntropyClient(gateway.client_address, api_key=gateway.api_key, timeout_s=10) as client:
            with pytest.raises(ServerUnreachableError):
                await client.get(16)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{gateway.gateway.rest_address}/health")


async def test_clients_read_over_tls(site: Site) -> None:
    """gRPC and REST serve over TLS whoever trusts the authority, and nobody who trusts another is deceived."""
    stranger = site.directory / "stranger.pem"
    stranger.write_bytes(Authority.create("qrng private CA").issued.certificate)
    async with running_gateway(**site.client_settings) as gateway:
        await gateway.push(os.urandom(64))
        address, key = gateway.client_address, gateway.api_key
        async with AsyncEntropyClient(address, api_key=key, ca_file=site.ca_file) as client:
            assert len(await client.get(32)) == 32
        async with AsyncEntropyClient(address, api_key=key, ca_file=stranger, timeout_s=10) as client:
            with pytest.raises(ServerUnreachableError):
                await client.get(32)
        assert gateway.rest_url.startswith("https://")
        assert len(bytes.fromhex(await rest_bytes(gateway, site.ssl_context()))) == 16
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await rest_bytes(gateway, ssl.create_default_context(cafile=stranger))


async def rest_bytes(gateway: RunningGateway, context: ssl.SSLContext) -> str:
    """Read 16 bytes over a new connection."""
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.get(f"{gateway.rest_url}/api/random?bytes=16", headers=headers) as response,
    ):
        assert response.status == 200
        return await response.text()


class Load:
    """Calls without a pause, all but the kept ones over new connections, until told to stop. A failure is raised."""

    def __init__(self, gateway: RunningGateway, site: Site) -> None:
        self.site = site
        self.calls = {"unary": 0, "kept": 0, "push": 0, "rest": 0}
        self._gateway = gateway
        self.pusher = Pusher(gateway)
        self._stopped = False

    async def more(self, count: int = 25) -> None:
        """Wait until `count` more calls of each kind have succeeded."""
        goal = {kind: done + count for kind, done in self.calls.items()}
        await until(lambda: all(self.calls[kind] >= goal[kind] for kind in goal))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make calls while the block runs. What fails is raised."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again("unary", self._read))
            tasks.create_task(self._keep_reading())
            tasks.create_task(self._again("push", self._push))
            tasks.create_task(self._again("rest", lambda: rest_bytes(self._gateway, self.site.ssl_context())))
            await self.more(2)
            yield
            self._stopped = True

    async def _again(self, kind: str, call: Callable[[], Awaitable[object]]) -> None:
        while not self._stopped:
            await call()
            self.calls[kind] += 1

    async def _keep_reading(self) -> None:
        """Read over one connection after the other as they come of age. Clients read whom to trust when they open."""
        while not self._stopped:
            trusted = self.site.ca_file.read_bytes()
            address, key = self._gateway.client_address, self._gateway.api_key
            async with AsyncEntropyClient(address, api_key=key, ca_file=self.site.ca_file) as client:
                while not self._stopped and self.site.ca_file.read_bytes() == trusted:
                    await client.get(16)
                    self.calls["kept"] += 1

    async def _read(self) -> None:
        credentials = grpc.ssl_channel_credentials(self.site.ca_file.read_bytes())
        address = self._gateway.client_address
        async with grpc.aio.secure_channel(address, credentials, options=OWN_CONNECTION) as channel:
            await AsyncEntropyClient(api_key=self._gateway.api_key, channel=channel).get(16)

    async def _push(self) -> None:
        assert await self.pusher.push(self.site.credentials()) == 1


async def test_certificates_are_exchanged_under_load(site: Site) -> None:
    """Certificates and authorities of both sides change while calls come: no call fails, no chunk is refused."""
    settings = {**site.client_settings, **site.push_settings, "max_connection_age": 1}
    async with running_gateway(**settings) as gateway:
        reload = gateway.gateway.reload
        load, old_servers, old_collectors = Load(gateway, site), site.servers, site.collectors
        async with load.running():
            for _ in range(3):  # the same authority
                site.new_server_certificate()
                reload()
                await load.more()

            site.servers = Authority.create("qrng private CA")  # another: first it is trusted, then it is used
            site.trust_servers(old_servers, site.servers)
            await load.more()
            site.new_server_certificate()
            reload()
            await load.more()

            site.collectors = Authority.create("qrng private CA")
            site.trust_collectors(old_collectors, site.collectors)
            reload()
            await load.more()
            old_client = site.credentials()
            site.new_client_certificate()
            await load.more()
            site.trust_collectors(site.collectors)
            reload()
            await load.more()
        with pytest.raises(grpc.aio.AioRpcError):
            await load.pusher.push(old_client)
        accounting = gateway.gateway.accounting()
    assert accounting.stored == 1024 * load.calls["push"]
    assert accounting.served == 16 * (load.calls["unary"] + load.calls["kept"] + load.calls["rest"])
    assert accounting.refused == {}


async def shown(gateway: RunningGateway) -> set[str]:
    """The certificates that the three listeners show to a new connection."""
    addresses = (gateway.client_address, gateway.push_address, gateway.gateway.rest_address)
    return {await asyncio.to_thread(certificate_at, address) for address in addresses}


def certificate_at(address: str) -> str:
    host, port = address.split(":")
    return ssl.get_server_certificate((host, int(port)))


async def test_changed_files_are_noticed(site: Site) -> None:
    """Nobody needs to tell the gateway: each listener shows a new certificate soon after its files changed."""
    async with running_gateway(**site.client_settings, **site.push_settings) as gateway:
        site.new_server_certificate()
        new = (site.directory / "server.pem").read_text()

        async def all_show_it() -> bool:
            return await shown(gateway) == {new}

        await until(all_show_it)


async def test_an_unusable_certificate_is_not_taken(site: Site) -> None:
    """Half a file, an expired certificate or a foreign key: the gateway says so and serves on with what it had."""
    spoilt: list[Callable[[], object]] = [
        lambda: (site.directory / "server.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB"),
        lambda: site.save("server", site.collectors.server(HOSTS, days=1, now=LONG_AGO)),
        lambda: (site.directory / "server.key").write_bytes(site.servers.issued.key),
        (site.directory / "server.pem").unlink,
    ]
    async with running_gateway(**site.client_settings, **site.push_settings) as gateway:
        before = await shown(gateway)
        for spoil in spoilt:
            with capture_logs() as logs:
                spoil()
                gateway.gateway.reload()
            assert [entry["event"] for entry in logs] == ["tls_not_reloaded"] * 2
            assert await shown(gateway) == before
        assert await Pusher(gateway).push(site.credentials()) == 1
        site.new_server_certificate()
        gateway.gateway.reload()
        assert (await shown(gateway)).isdisjoint(before)


def environment(site: Site) -> dict[str, str]:
    """What both programs need, with TLS."""
    shared = {
        "HMAC_SECRET_KEY": secrets.token_hex(32),
        "HMAC_KEY_ID": "key-1",
        "COLLECTOR_ID": "lab",
        "POOL_ID": "pool-1",
        "BEST_CLASS": "operating_system",
    }
    gateway = {
        **{name: "127.0.0.1:0" for name in ("LISTEN_ADDRESS", "PUSH_LISTEN_ADDRESS", "REST_LISTEN_ADDRESS")},
        **{name.upper(): path for name, path in {**site.client_settings, **site.push_settings}.items()},
        "API_KEYS": secrets.token_hex(16),
        "STATE_DIR": site.directory / "gateway",
    }
    collector = {
        **{name.upper(): path for name, path in site.collector_settings.items()},
        "PUSH_URL": "127.0.0.1:1",
        "FLUSH_TIMEOUT": 0,
        "STATE_DIR": site.directory / "collector",
    }
    ours = {f"QRNG_GATEWAY_{name}": str(value) for name, value in {**shared, **gateway}.items()}
    ours |= {f"QRNG_COLLECTOR_{name}": str(value) for name, value in {**shared, **collector}.items()}
    return {**os.environ, **ours}


async def start(name: str, environ: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qrng_cli.main", name), env=environ, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("name", ["gateway", "collector"])
async def test_an_expired_certificate_refuses_to_start(site: Site, name: str) -> None:
    """A program whose certificate has expired ends with exit code 2 and names the setting and the file."""
    site.save("server", site.collectors.server(HOSTS, days=1, now=LONG_AGO))
    site.save("client", site.collectors.client(collector_uri("lab"), days=1, now=LONG_AGO))
    process = await start(name, environment(site))
    _, said = await process.communicate()
    assert process.returncode == 2
    for setting in ("TLS_CERT_FILE", "PUSH_TLS_CERT_FILE") if name == "gateway" else ("PUSH_CERT_FILE",):
        told = rf"QRNG_{name.upper()}_{setting}: \S+\.pem: expired on"
        assert re.search(told, said.decode())


@pytest.mark.parametrize(("name", "started"), [("gateway", "gateway_serves"), ("collector", "collecting")])
async def test_sighup_reloads(site: Site, name: str, started: str) -> None:
    """On SIGHUP a program takes what its files hold, and goes on."""
    process = await start(name, environment(site))
    assert process.stderr is not None
    try:
        assert json.loads(await process.stderr.readline())["event"] == started
        site.new_server_certificate()
        site.new_client_certificate()
        process.send_signal(signal.SIGHUP)
        events: list[str] = []
        while "tls_reloaded" not in events:
            events.append(json.loads(await process.stderr.readline())["event"])
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def collector_config(site: Site, state_dir: Path, push_url: str, **settings: Any) -> CollectorConfig:
    values: dict[str, Any] = {
        "hmac_secret_key": "s" * 32,
        "hmac_key_id": "key-1",
        "collector_id": "lab",
        "pool_id": "pool-1",
        "best_class": SourceClass.SIMULATED,
        "source": "mock",
        "fetch_chunk_size": 64,
        "fetch_interval": 0.001,
        "push_interval": 0.01,
        "flush_timeout": 60,
        "retry_policy": RetryPolicy(initial_s=0.02, maximum_s=0.05),
        "buffer_size": 16 << 20,
        "state_dir": state_dir,
        "push_url": push_url,
        **site.collector_settings,
    }
    return CollectorConfig(**{**values, **settings})


async def test_a_collector_follows_every_exchange(site: Site, tmp_path: Path) -> None:
    """Certificates of both ends and both authorities change while a collector pushes: every byte arrives once."""
    settings = {"hmac_secret_key": "s" * 32, "hmac_key_id": "key-1", "collector_id": "lab", "pool_id": "pool-1"}
    source = LedgerSource()
    async with running_gateway(
        **site.push_settings, **settings, best_class=SourceClass.SIMULATED, max_connection_age=1
    ) as gateway:

        def stored() -> int:
            return gateway.gateway.accounting().stored

        config = collector_config(site, tmp_path / "collector", gateway.push_address)
        with capture_logs() as logs:
            async with collecting(config, sources=[source]) as collector:
                await until(lambda: stored() > 0)

                old = site.servers, site.collectors
                site.servers, site.collectors = (Authority.create("qrng private CA") for _ in range(2))
                site.trust_servers(old[0], site.servers)
                collector.reload()
                site.new_server_certificate()
                # At once, without overlap: the collector is shut out as soon as its connection comes of age.
                site.trust_collectors(site.collectors)
                gateway.gateway.reload()
                await until(lambda: "UNREACHABLE" in [entry.get("status") for entry in logs])

                before = stored()
                site.new_client_certificate()
                collector.reload()
                await until(lambda: stored() > before)
        counters = collector.counters
    assert (counters.in_doubt, counters.overflow, counters.expired, counters.dropped_at_shutdown) == (0, 0, 0, 0)
    assert stored() == counters.captured == source.delivered_bytes


class Forgetful:
    """A PushService that reads its first call whole, lets a certificate be exchanged, and then fails."""

    def __init__(self) -> None:
        self.exchange: Callable[[], None] = lambda: None
        self.calls: list[list[Chunk]] = []
        self.shown: list[bytes] = []

    async def push_chunks(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        chunks = []
        async for request in requests:
            chunk = decode_chunk(PushChunksRequest.FromString(request).signed_chunk.chunk)
            assert isinstance(chunk, Chunk)
            chunks.append(chunk)
        self.calls.append(chunks)
        (pem,) = context.auth_context()["x509_pem_cert"]
        self.shown.append(pem)
        if len(self.calls) == 1:
            self.exchange()
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        return PushChunksResponse(disposed_count=len(chunks)).SerializeToString()


async def test_a_chunk_that_may_have_arrived_keeps_its_identity(site: Site, tmp_path: Path) -> None:
    """What was sent under one certificate without an answer is sent again, unchanged, under the next."""
    service, source = Forgetful(), ScriptedSource([bytes([n]) * 64 for n in range(3)])
    server = new_server(max_message_bytes=1 << 20, max_streams=10, max_calls=10)
    handler = grpc.stream_unary_rpc_method_handler(service.push_chunks)
    methods = grpc.method_handlers_generic_handler("qrng.v1.PushService", {"PushChunks": handler})
    server.add_generic_rpc_handlers((methods,))
    listener = ListenerTls("push", TlsFiles("server", *site.push_settings.values()))
    async with (
        serving_grpc(server, "127.0.0.1:0", Grace(0), listener.grpc_credentials()) as address,
        collecting(collector_config(site, tmp_path / "c", address), sources=[source]) as collector,
    ):

        def exchange() -> None:
            site.new_client_certificate()
            collector.reload()

        service.exchange = exchange
        await until(lambda: collector.counters.disposed == 3 * 64)
    assert service.calls[1][0] == service.calls[0][0]
    assert service.shown[1] != service.shown[0]
    assert service.shown[1].strip() == (site.directory / "client.pem").read_bytes().strip()


@pytest.mark.parametrize("listener", ["clients", "push"])
async def test_connections_end_at_their_age(site: Site, listener: str) -> None:
    """So that whoever was let in shows a certificate again, and learns of the server's: at both listeners."""
    settings = {**site.client_settings, **site.push_settings, "max_connection_age": 1}
    async with running_gateway(**settings) as gateway, asyncio.timeout(30):
        address = gateway.client_address if listener == "clients" else gateway.push_address
        async with grpc.aio.secure_channel(address, site.credentials(), options=OWN_CONNECTION) as channel:
            await channel.channel_ready()
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


async def test_a_stream_does_not_outlive_its_connection(site: Site) -> None:
    """Where connections have an age with a grace, a stream that never ends is ended; without grace it goes on."""
    ended = asyncio.Event()

    async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await ended.wait()
        yield b"last"

    async def read(age: ConnectionAge) -> list[bytes]:
        server = new_server(max_message_bytes=1000, max_streams=10, max_calls=10, age=age)
        handler = grpc.unary_stream_rpc_method_handler(endless)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"M": handler}),))
        credentials = ListenerTls("push", TlsFiles("server", *site.push_settings.values())).grpc_credentials()
        async with (
            serving_grpc(server, "127.0.0.1:0", Grace(0), credentials) as address,
            grpc.aio.secure_channel(address, site.credentials(), options=OWN_CONNECTION) as channel,
        ):
            messages = aiter(channel.unary_stream("/s/M")(b""))
            await anext(messages)
            await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)
            if age.grace_s is None:
                ended.set()
            return [message async for message in messages]

    with pytest.raises(grpc.aio.AioRpcError):
        await read(ConnectionAge(0.1, 0.1))
    assert await read(ConnectionAge(0.1)) == [b"last"]
