"""Clients come and go while the gateway runs: keys from a file, certificates, both; over gRPC and REST."""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from qrng_client import AsyncEntropyClient
from qrng_grpc.certs import Authority, Issued
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, changing_client_file, digest_of
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.compat.qr_entropy_pb2 import EntropyRequest
from qrng_grpc.compat.qr_entropy_pb2_grpc import EntropyServiceStub as QrEntropyStub
from qrng_grpc.compat.quantum_rng_pb2 import RandomRequest
from qrng_grpc.compat.quantum_rng_pb2_grpc import QuantumRNGStub
from qrng_grpc.errors import AuthenticationError
from qrng_grpc.testing.clock import ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, GetStatusRequest, StreamEntropyRequest, SubscribeEntropyRequest
from qrng_grpc.v1.entropy_pb2_grpc import EntropyServiceStub
from tests.waiting import LetPass, until

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
URI = "spiffe://qrng/client/sampler"
HOSTS = ("localhost", "127.0.0.1")


def put(file: Path, *records: ClientRecord) -> None:
    with changing_client_file(file) as listed:
        listed[:] = records


def move(source: Path, target: Path) -> None:
    source.replace(target)


def record(client_id: str, key: str | None = None, uri: str | None = None, *, revoked: bool = False) -> ClientRecord:
    keys = () if key is None else (KeyDigest(digest_of(key)),)
    return ClientRecord(Client(client_id), keys, uri, revoked)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.yaml"
    put(path, record("sampler", "key-of-sampler", URI), record("other", "key-of-other", URI + "-other"))
    return path


async def opens(gateway: RunningGateway, key: str) -> bool:
    """Say whether gRPC and REST both let a key in, and give it bytes."""
    await gateway.push(os.urandom(32))
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        AsyncEntropyClient(gateway.client_address, api_key=key) as client,
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.rest_url}/api/random?bytes=16", headers=headers) as response,
    ):
        try:
            assert len((await client.get(16)).data) == 16
        except AuthenticationError:
            assert response.status == 401
            return False
    assert response.status == 200
    return True


async def test_keys_come_and_go_without_a_restart(file: Path) -> None:
    """A key that is added opens, one whose client is revoked or gone does not; those of the settings stay."""
    async with running_gateway(api_keys_file=file) as gateway:
        reload, fixed = gateway.gateway.reload, gateway.api_key
        assert await opens(gateway, "key-of-sampler")
        assert not await opens(gateway, "key-of-new")
        put(file, record("sampler", "key-of-sampler", revoked=True), record("new", "key-of-new"))
        reload()
        assert not await opens(gateway, "key-of-sampler")
        assert not await opens(gateway, "key-of-other")
        assert await opens(gateway, "key-of-new")
        assert await opens(gateway, fixed)


async def test_what_a_leaked_key_opened_ends_with_it(file: Path) -> None:
    """Once its key is rotated away an idle stream ends, as does a call that waits; what another key opened goes on."""
    leaked, other = (KeyDigest(digest_of(key)) for key in ("key-that-leaked", "key-of-sampler"))
    put(file, ClientRecord(Client("sampler"), (leaked, other)))
    async with (
        running_gateway(api_keys_file=file) as gateway,
        grpc.aio.insecure_channel(gateway.client_address, options=OWN_CONNECTION) as channel,
        aiohttp.ClientSession() as session,
    ):
        stub: Any = EntropyServiceStub(channel)
        await gateway.push(os.urandom(3))
        idle, goes_on = [
            stub.StreamEntropy(metadata=(("api-key", key),)) for key in ("key-that-leaked", "key-of-sampler")
        ]
        for stream in (idle, goes_on):
            await stream.write(StreamEntropyRequest(bytes_needed=1))
            assert len((await stream.read()).data) == 1
        fresh = stub.GetEntropy(
            GetEntropyRequest(bytes_needed=1, fresh=True), metadata=(("api-key", "key-that-leaked"),)
        )
        url = f"{gateway.rest_url}/api/random?bytes=1&fresh=true&api_key=key-that-leaked"
        over_rest = asyncio.create_task(session.get(url))
        await until(lambda: gateway.gateway.pool.waiting == 2)
        put(file, ClientRecord(Client("sampler"), (other,)))
        gateway.gateway.reload()
        for call in (idle.read(), fresh):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (await over_rest).status == 401
        await goes_on.write(StreamEntropyRequest(bytes_needed=1))
        assert len((await goes_on.read()).data) == 1
        assert gateway.gateway.pool.level == 0


async def test_an_idle_stream_ends_when_the_time_of_its_key_is_over(file: Path) -> None:
    """Nobody reloads anything: the gateway looks for itself, and the client's other key still opens."""
    clock = ManualClock()
    ending = KeyDigest(digest_of("ending-key"), clock.now_ns() + 60 * NS_PER_S)
    put(file, ClientRecord(Client("sampler"), (ending, KeyDigest(digest_of("key-of-sampler")))))
    async with (
        running_gateway(api_keys_file=file, clock=clock) as gateway,
        grpc.aio.insecure_channel(gateway.client_address, options=OWN_CONNECTION) as channel,
    ):
        stub: Any = EntropyServiceStub(channel)
        clock.advance(1)
        await gateway.push(os.urandom(1))
        stream = stub.StreamEntropy(metadata=(("api-key", "ending-key"),))
        await stream.write(StreamEntropyRequest(bytes_needed=1))
        assert len((await stream.read()).data) == 1
        clock.advance(60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await opens(gateway, "key-of-sampler")


async def test_the_file_alone_is_enough(file: Path) -> None:
    """A gateway needs no keys in its settings when it has a file."""
    async with running_gateway(api_keys=(), api_keys_file=file) as gateway:
        assert await opens(gateway, "key-of-other")


async def test_the_command_lets_somebody_in_and_out(file: Path) -> None:
    """What `qrng keys` does to the file a running gateway takes by itself, within seconds."""

    async def qrng(*arguments: str) -> str:
        command = (sys.executable, "-m", "qrng_cli.main", "keys", *arguments, "--file", str(file))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err
        return out.decode().strip()

    def reloads() -> int:
        return sum(log["event"] == "client_keys_reloaded" for log in logs)

    with capture_logs() as logs:
        async with running_gateway(api_keys_file=file) as gateway:
            first = await qrng("create", "late", "--label", "came late")
            await until(lambda: reloads() == 1)
            assert await opens(gateway, first)
            second = await qrng("rotate", "late", "--overlap", "0s")
            await until(lambda: reloads() == 2)
            assert not await opens(gateway, first)
            assert await opens(gateway, second)
            await qrng("revoke", "late")
            await until(lambda: reloads() == 3)
            assert not await opens(gateway, second)


async def test_a_file_that_vanishes_leaves_the_keys_in_force(file: Path) -> None:
    """The old keys stay, an error is logged once, and status warns, over gRPC and REST, until the file is back."""
    moved_away = file.with_suffix(".away")
    warning = "the file of client keys cannot be used; the last usable records stay in force"
    async with (
        running_gateway(api_keys_file=file) as gateway,
        AsyncEntropyClient(gateway.client_address, api_key="key-of-sampler") as client,
        aiohttp.ClientSession(headers={"Authorization": "Bearer key-of-sampler"}) as session,
    ):

        async def warned() -> bool:
            async with session.get(f"{gateway.rest_url}/api/status") as response:
                over_rest = warning in (await response.json())["warnings"]
            return over_rest and warning in (await client.status()).warnings

        assert not await warned()
        with capture_logs() as logs:
            move(file, moved_away)
            await until(lambda: any(log["event"] == "client_keys_not_reloaded" for log in logs))
            assert await warned()
            assert await opens(gateway, "key-of-sampler")
        move(moved_away, file)
        gateway.gateway.reload()
        assert not await warned()
    assert [log["log_level"] for log in logs if log["event"] == "client_keys_not_reloaded"] == ["error"]


async def test_the_header_has_the_name_that_was_set(file: Path) -> None:
    """A key under the name of the settings opens over gRPC and REST; under the usual name it is none."""
    async with running_gateway(api_keys_file=file, api_key_header="x-lab-key") as gateway:
        async with grpc.aio.insecure_channel(gateway.client_address, options=OWN_CONNECTION) as channel:
            stub: Any = EntropyServiceStub(channel)
            await stub.GetStatus(GetStatusRequest(), metadata=(("x-lab-key", "key-of-sampler"),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetStatus(GetStatusRequest(), metadata=(("api-key", "key-of-sampler"),))
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        async with aiohttp.ClientSession() as session:
            for name, status in (("X-Lab-Key", 200), ("api-key", 401)):
                async with session.get(f"{gateway.rest_url}/api/status", headers={name: "key-of-sampler"}) as response:
                    assert response.status == status


class Site:
    """The certificates of a gateway that asks its clients for theirs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers = Authority.create("servers")
        self.clients = Authority.create("clients")
        self.servers.server(HOSTS).save(directory / "server.pem", directory / "server.key")
        self.trust(self.clients)

    def trust(self, *authorities: Authority) -> None:
        (self.directory / "clients-ca.pem").write_bytes(b"".join(one.issued.certificate for one in authorities))

    @property
    def settings(self) -> dict[str, Path]:
        return {
            "tls_cert_file": self.directory / "server.pem",
            "tls_key_file": self.directory / "server.key",
            "client_ca_file": self.directory / "clients-ca.pem",
        }

    def channel(self, gateway: RunningGateway, shown: Issued | None) -> grpc.aio.Channel:
        own = (None, None) if shown is None else (shown.key, shown.certificate)
        credentials = grpc.ssl_channel_credentials(self.servers.issued.certificate, *own)
        return grpc.aio.secure_channel(gateway.client_address, credentials, options=OWN_CONNECTION)

    def session(self, shown: Issued | None) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cadata=self.servers.issued.certificate.decode())
        if shown is not None:
            files = [self.directory / f"{secrets.token_hex(4)}.{kind}" for kind in ("pem", "key")]
            shown.save(*files)
            context.load_cert_chain(*files)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, keepalive_timeout=3600))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@asynccontextmanager
async def certified(file: Path, site: Site) -> AsyncIterator[RunningGateway]:
    async with running_gateway(api_keys_file=file, **site.settings) as gateway:
        await gateway.push(os.urandom(4096))
        yield gateway


async def answers(gateway: RunningGateway, site: Site, shown: Issued | None, key: str | None) -> tuple[str, int | None]:
    """The status of a gRPC call, and that of a REST request; None when there was no connection."""
    metadata = () if key is None else (("api-key", key),)
    async with site.channel(gateway, shown) as channel, site.session(shown) as session:
        stub: Any = EntropyServiceStub(channel)
        try:
            await stub.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=metadata)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        headers = dict(metadata)
        try:
            async with session.get(f"{gateway.rest_url}/api/random?bytes=16", headers=headers) as response:
                return code, response.status
        except aiohttp.ClientError:
            return code, None


async def test_a_certificate_is_an_identity(file: Path, site: Site) -> None:
    """Its URI lets a client in without a key; a key beside it must be the same client's; nothing else names anybody."""
    by_uri = site.clients.client(URI)
    nameless = site.clients.client("urn:of-nobody")
    server_side = site.servers.client(URI)
    refused, let_in, no_connection = ("UNAUTHENTICATED", 401), ("OK", 200), ("UNAVAILABLE", None)
    async with certified(file, site) as gateway:
        for shown, key, expected in (
            (by_uri, None, let_in),
            (by_uri, "key-of-sampler", let_in),
            (by_uri, "key-of-other", refused),
            (by_uri, gateway.api_key, refused),
            (by_uri, "unknown", refused),
            (by_uri, "", refused),
            (nameless, None, refused),
            (nameless, "key-of-sampler", refused),
            (None, "key-of-sampler", no_connection),
            (server_side, "key-of-sampler", no_connection),
        ):
            assert await answers(gateway, site, shown, key) == expected, (shown, key)
        put(file, record("sampler", "key-of-sampler", URI, revoked=True))
        gateway.gateway.reload()
        assert await answers(gateway, site, by_uri, None) == refused


async def test_every_method_knows_the_certificate(file: Path, site: Site) -> None:
    """All RPCs, those of services already in the field too, take the certificate for an identity."""
    async with certified(file, site) as gateway, site.channel(gateway, site.clients.client(URI)) as channel:
        entropy: Any = EntropyServiceStub(channel)
        qr_entropy: Any = QrEntropyStub(channel)
        quantum_rng: Any = QuantumRNGStub(channel)
        await entropy.GetStatus(GetStatusRequest())
        subscribed = entropy.SubscribeEntropy(SubscribeEntropyRequest(bytes_per_message=8, total_bytes=8))
        assert len((await subscribed.read()).data) == 8
        streamed = entropy.StreamEntropy(iter([StreamEntropyRequest(bytes_needed=8)]))
        assert len((await streamed.read()).data) == 8
        assert len((await qr_entropy.GetEntropy(EntropyRequest(bytes_needed=8))).data) == 8
        assert len((await qr_entropy.StreamEntropy(iter([EntropyRequest(bytes_needed=8)])).read()).data) == 8
        assert len((await quantum_rng.GetRandomBytes(RandomRequest(num_bytes=8))).data) == 8


async def test_authorities_of_clients_are_exchanged(file: Path, site: Site) -> None:
    """Both are trusted while clients change over; then the old one opens neither listener any more."""
    old, other = site.clients.client(URI), Authority.create("clients")
    new = other.client(URI)
    async with certified(file, site) as gateway:
        assert await answers(gateway, site, new, None) == ("UNAVAILABLE", None)
        site.trust(site.clients, other)
        gateway.gateway.reload()
        for shown in (old, new):
            assert await answers(gateway, site, shown, None) == ("OK", 200)
        site.trust(other)
        gateway.gateway.reload()
        assert await answers(gateway, site, old, None) == ("UNAVAILABLE", None)
        assert await answers(gateway, site, new, None) == ("OK", 200)


async def test_a_rest_connection_has_an_age(file: Path, site: Site, let_pass: LetPass) -> None:
    """It ends with the first reply after `max_connection_age`, so that certificates are shown again; until then not."""
    async with (
        running_gateway(api_keys_file=file, max_connection_age=60, **site.settings) as gateway,
        site.session(site.clients.client(URI)) as session,
    ):

        async def ends() -> bool:
            async with session.get(f"{gateway.rest_url}/api/status") as response:
                assert response.status == 200
                return response.headers.get("Connection") == "close"

        assert not await ends()
        let_pass(60)
        assert await ends()
        assert not await ends()


async def test_a_rest_connection_does_not_outlive_its_authority(file: Path, site: Site) -> None:
    """A connection that is kept open ends with its next reply once the authorities changed; no other is made."""
    async with certified(file, site) as gateway, site.session(site.clients.client(URI)) as session:

        async def read() -> str | None:
            async with session.get(f"{gateway.rest_url}/api/random?bytes=16") as response:
                assert response.status == 200
                return response.headers.get("Connection")

        assert await read() is None
        site.trust(Authority.create("clients"))
        gateway.gateway.reload()
        assert await read() == "close"
        with pytest.raises(aiohttp.ClientError):
            await read()
