"""Each profile that is shipped, run as its README says, with simulators in the place of the outside world."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from aiohttp import web
from click.testing import CliRunner
from dotenv import dotenv_values

from qrng_cli.group import cli
from qrng_client import (
    AuthenticationError,
    InvalidRequestError,
    RandomClient,
    ServerUnreachableError,
    SourceClass,
    WeakerSourceError,
)
from qrng_client.draws import Draw
from qrng_client.settings import ConfigValidationError, client_settings
from qrng_grpc.certs import Authority, collector_uri
from qrng_grpc.compat import quantum_rng_pb2, quantum_rng_pb2_grpc
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing import QuantisAppliance
from tests.programs import Laboratory, free_address, running

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
GATEWAY, COLLECTOR = "QRNG_GATEWAY_", "QRNG_COLLECTOR_"
KEY = "the-key-of-a-client-0123"
QUICK = {
    f"{COLLECTOR}PUSH_INTERVAL": "0.02",
    f"{COLLECTOR}FETCH_INTERVAL": "0.02",
    f"{COLLECTOR}RETRY_POLICY__INITIAL_S": "0.05",
    f"{COLLECTOR}RETRY_POLICY__MAXIMUM_S": "0.2",
    f"{GATEWAY}CLOCK_TOLERANCE": "0",
    f"{GATEWAY}MAX_WAIT": "30",
    f"{GATEWAY}LOCK_MEMORY": "try",
    f"{COLLECTOR}LOCK_MEMORY": "try",
}
"""What a test has no time for, and what a machine for tests may not grant."""
SHARED = {"HMAC_SECRET_KEY": "s" * 32, "HMAC_KEY_ID": "key-1", "COLLECTOR_ID": "lab-1", "POOL_ID": "pool-1"}


@dataclass
class Site:
    """A directory to use a profile in, with ports nobody uses: what a README calls the folder above deployments/."""

    profile: str
    clean: Mapping[str, str]
    own: dict[str, str] = field(default_factory=dict)
    """What is this site's alone."""

    def __post_init__(self) -> None:
        listening = [free_address() for _ in range(3)]
        self.own |= {
            f"{GATEWAY}{name}LISTEN_ADDRESS": address
            for name, address in zip(("", "PUSH_", "REST_"), listening, strict=True)
        }
        self.own |= {
            f"{COLLECTOR}PUSH_URL": listening[1],
            "QR_GRPC_SERVER_ADDRESS": listening[0],
            "QR_GRPC_TIMEOUT_MS": "30000",
        }

    @property
    def environ(self) -> dict[str, str]:
        return {**self.clean, **QUICK, **self.own}

    @property
    def lines(self) -> Mapping[str, str | None]:
        """What the profile says."""
        return dotenv_values(DEPLOYMENTS / self.profile / ".env", interpolate=False)

    def signs_with(self, **shared: str) -> None:
        """Give both programs a signing key and what belongs to it."""
        self.own |= {f"{prefix}{name}": value for name, value in shared.items() for prefix in (GATEWAY, COLLECTOR)}

    def qrng(self, *arguments: str) -> str:
        """Run a command that needs no server, and return what it printed."""
        done = CliRunner().invoke(cli, ["--profile", self.profile, *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    @asynccontextmanager
    async def programs(self) -> AsyncIterator[None]:
        """Run a gateway and a collector with the profile."""
        async with (
            running("gateway", "--profile", self.profile, environ=self.environ) as gateway,
            running("collector", "--profile", self.profile, environ=self.environ) as collector,
        ):
            await gateway.event("gateway_serves")
            await collector.event("collecting")
            yield
            collector.ask_to_end()
            assert await collector.ended() == 0
            assert await gateway.end() == 0

    async def draw(self, size: int, **settings: str) -> Draw:
        """Draw with the any-server client, from the profile and what is this site's alone, and `settings` above."""
        above = {name: value for name, value in self.own.items() if name.startswith("QR_")} | settings
        return await asyncio.to_thread(_draw, size, above, self.profile)


def _draw(size: int, environ: Mapping[str, str], profile: str) -> Draw:
    with RandomClient.from_environment(environ, env_files=[Path("deployments", profile, ".env")]) as client:
        return client.draw(size)


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    """Be in a directory of one's own with the profiles that are shipped, and nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    Path("deployments").symlink_to(DEPLOYMENTS)
    Path("var").mkdir(mode=0o700)
    laboratory = Laboratory(tmp_path)
    for name in set(os.environ) - set(laboratory.clean_environ):
        monkeypatch.delenv(name)
    return laboratory


def make_certificates() -> None:
    """Make what `qrng certs` makes, for this machine."""
    made = {who: (Path("certs", who), Authority.create(who)) for who in ("servers", "collectors", "clients")}
    for directory, authority in made.values():
        directory.mkdir(parents=True)
        authority.issued.save(directory / "ca.pem", directory / "ca.key")
    directory, authority = made["servers"]
    authority.server(["127.0.0.1", "localhost"]).save(directory / "server.pem", directory / "server.key")
    directory, authority = made["collectors"]
    authority.client(collector_uri("lab-1")).save(directory / "lab-1.pem", directory / "lab-1.key")
    directory, authority = made["clients"]
    authority.client("spiffe://qrng/client/sampler").save(directory / "sampler.pem", directory / "sampler.key")


def private(path: str, text: str) -> None:
    """Write a file of mode 0600."""
    Path(path).touch(mode=0o600)
    Path(path).write_text(text)


def audited_clients() -> set[str]:
    """Return whose calls are in the audit log."""
    return {json.loads(line)["client_id"] for line in Path("var/audit.jsonl").read_text().splitlines()}


async def test_urandom(laboratory: Laboratory) -> None:
    """`qrng --profile urandom up`, and a client with that profile and var/demo.env draws bytes of its gateway."""
    site = Site("urandom", laboratory.clean_environ)
    del site.own["QR_GRPC_SERVER_ADDRESS"], site.own[f"{COLLECTOR}PUSH_URL"]
    async with running("--profile", "urandom", "up", environ=site.environ) as up:
        await up.event("collecting")
        files = [Path("deployments/urandom/.env"), Path("var/demo.env")]
        with RandomClient.from_environment({"QR_GRPC_TIMEOUT_MS": "30000"}, env_files=files) as client:
            draw = await asyncio.to_thread(client.draw, 100_000)
            assert client.health_check()["authenticated"] is True
        assert (len(draw), draw.source_class) == (100_000, SourceClass.OPERATING_SYSTEM)
        up.ask_to_end()
        assert await up.ended() == 0


class Firefly(quantum_rng_pb2_grpc.QuantumRNGServicer):
    """A stock server of firefly-1's proto: it wants the key, and gives at most 13312 bytes at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._stream = SeededStream(1)

    async def GetRandomBytes(self, request: Any, context: Any) -> Any:
        """Answer, or refuse as the laboratory's does."""
        self.sizes.append(request.num_bytes)
        if ("api-key", KEY) not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid API key")
        if not 1 <= request.num_bytes <= 13_312:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "num_bytes must be 1 to 13312")
        data = self._stream.take(request.num_bytes)
        return quantum_rng_pb2.RandomResponse(data=data, timestamp=1_763_000_000_000_000, device_id="firefly-1")


@asynccontextmanager
async def firefly() -> AsyncIterator[tuple[Firefly, str]]:
    """Serve, and yield the servicer and where it is."""
    servicer, server = Firefly(), grpc.aio.server()
    quantum_rng_pb2_grpc.add_QuantumRNGServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_firefly_1(laboratory: Laboratory) -> None:
    """Against a stock server of its proto: exact bytes, the key in the metadata, no request above 13312 bytes."""
    async with firefly() as (server, address):
        site = Site("firefly-1", laboratory.clean_environ)
        site.own |= {"QR_GRPC_SERVER_ADDRESS": address, "QR_GRPC_API_KEY": KEY}
        expected = SeededStream(1).take(32 + 30_000)
        one, many = await site.draw(32), await site.draw(30_000)
        assert bytes(one) + bytes(many) == expected
        assert server.sizes == [32, 13_312, 13_312, 30_000 - 2 * 13_312]
        assert many.source_class is SourceClass.QUANTUM

        server.sizes.clear()
        with pytest.raises(AuthenticationError):
            await site.draw(32, QR_GRPC_API_KEY="the-key-of-somebody-else")
        with pytest.raises(InvalidRequestError):
            await site.draw(13_313, QR_GRPC_MAX_REQUEST_BYTES="20000")
        assert server.sizes == [32, 13_313], "what cannot succeed is not tried again"


async def test_firefly_1_from_the_command_line(laboratory: Laboratory) -> None:
    """`qrng get --profile firefly-1`, with the key in a file of mode 0600, prints its bytes and says what they are."""
    async with firefly() as (_, address):
        private("var/firefly-1.env", f"QR_GRPC_API_KEY={KEY}\nQR_GRPC_SERVER_ADDRESS={address}\n")
        site = Site("firefly-1", laboratory.clean_environ)
        said = await asyncio.to_thread(site.qrng, "get", "32", "--env-file", "var/firefly-1.env")
        assert bytes.fromhex(said) == SeededStream(1).take(32)


async def test_firefly_1_has_no_status(laboratory: Laboratory) -> None:
    """`qrng status` of a server that has none says for which there is one."""
    async with firefly() as (_, address):
        private("var/firefly-1.env", f"QR_GRPC_API_KEY={KEY}\nQR_GRPC_SERVER_ADDRESS={address}\n")
        asked = ["--profile", "firefly-1", "status", "--env-file", "var/firefly-1.env"]
        done = await asyncio.to_thread(CliRunner().invoke, cli, asked)
    assert done.exit_code == 5
    assert "only gateways and `qrng serve-source` have a status" in done.stderr


def test_firefly_1_has_no_stream(laboratory: Laboratory) -> None:
    """A streaming mode is refused when settings are read, and the placeholder of its key too; both are named."""
    files = [Path("deployments/firefly-1/.env")]
    with pytest.raises(ConfigValidationError) as refusal:
        client_settings({"QR_GRPC_MODE": "bidi_streaming"}, env_files=files)
    assert [mistake.split(":")[0] for mistake in refusal.value.mistakes] == [
        "QR_GRPC_API_KEY",
        "QR_GRPC_STREAM_METHOD_PATH",
    ]


async def test_quantis(laboratory: Laboratory) -> None:
    """Appliance, collector and gateway, over TLS all the way: a client gets the appliance's bytes, called quantum."""
    make_certificates()
    site = Site("quantis", laboratory.clean_environ)
    site.signs_with(HMAC_SECRET_KEY="s" * 32)
    site.own["QR_GRPC_API_KEY"] = site.qrng("keys", "create", "sampler").strip()
    async with QuantisAppliance() as appliance:
        site.own |= {
            f"{COLLECTOR}APPLIANCE_URL": appliance.url,
            f"{COLLECTOR}APPLIANCE_FINGERPRINT": appliance.fingerprint,
        }
        async with site.programs():
            draw = await site.draw(1000)
        assert bytes(draw) in appliance.served
    assert draw.source_class is SourceClass.QUANTUM


class Anu:
    """ANU's service as a collector meets it: JSON of blocks in hexadecimal, for those with a key."""

    def __init__(self) -> None:
        self.served = bytearray()
        self.url = ""
        self._stream = SeededStream(2)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Anu]:
        """Serve on loopback."""
        application = web.Application()
        application.router.add_get("/", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        count, words = int(request.query["length"]), int(request.query["size"])
        if request.headers.get("x-api-key") != KEY or request.query["type"] != "hex16" or not 1 <= count <= 1024:
            return web.json_response({"success": False, "message": "Forbidden"}, status=403)
        blocks = [self._stream.take(2 * words) for _ in range(count)]
        self.served += b"".join(blocks)
        data = [block.hex() for block in blocks]
        return web.json_response({"success": True, "type": "hex16", "length": str(count), "data": data})


async def test_anu(laboratory: Laboratory) -> None:
    """Its numbers come with the key from its file, at most 1024 blocks a request, and are called quantum and remote."""
    private("var/anu.key", KEY)
    site = Site("anu", laboratory.clean_environ)
    site.signs_with(**SHARED)
    site.own |= {
        f"{GATEWAY}API_KEYS": KEY,
        f"{GATEWAY}STATE_DIR": "var/gateway",
        f"{COLLECTOR}STATE_DIR": "var/collector",
        "QR_GRPC_API_KEY": KEY,
    }
    async with Anu().serving() as anu:
        (source,) = json.loads(site.lines[f"{COLLECTOR}SOURCES"] or "")
        here = source | {"url": anu.url, "fetch_interval": 0.02, "request_interval": 0}
        site.own[f"{COLLECTOR}SOURCES"] = json.dumps([here])
        async with site.programs():
            draw = await site.draw(20_000)
        assert bytes(draw) in anu.served
    assert draw.source_class is SourceClass.QUANTUM


async def test_high_security(laboratory: Laboratory) -> None:
    """Mutual TLS at both listeners, Ed25519 chunks, no key: a client with its certificate is served, mixed in place."""
    make_certificates()
    site = Site("high-security", laboratory.clean_environ)
    ed25519 = ("keygen", "--kind", "ed25519", "--id", "lab-1-a", "--collector", "lab-1", "--pool", "secure")
    public = site.qrng(*ed25519, "--best-class", "quantum", "--out", "var/lab-1-a.yaml")
    private("var/signing-keys.yaml", "keys:\n" + public)
    site.qrng("keys", "create", "sampler", "--no-key", "--uri", "spiffe://qrng/client/sampler")
    async with QuantisAppliance() as appliance:
        site.own |= {
            f"{COLLECTOR}APPLIANCE_URL": appliance.url,
            f"{COLLECTOR}APPLIANCE_FINGERPRINT": appliance.fingerprint,
        }
        async with site.programs():
            draw = await site.draw(32)
            bare = await site.draw(64, QR_LOCAL_MIXING="false")
            with pytest.raises(ServerUnreachableError):
                await site.draw(32, QR_GRPC_CERT_FILE="", QR_GRPC_KEY_FILE="", QR_GRPC_TIMEOUT_MS="2000")
        assert bytes(bare) in appliance.served
        assert bytes(draw) not in appliance.served
    assert (draw.mixed, draw.source_class) == (True, SourceClass.QUANTUM)
    assert audited_clients() == {"sampler"}


async def test_high_throughput(laboratory: Laboratory) -> None:
    """The native engine serves megabytes a request, as what they are."""
    site = Site("high-throughput", laboratory.clean_environ)
    site.signs_with(**SHARED)
    site.own |= {
        f"{GATEWAY}API_KEYS": KEY,
        f"{GATEWAY}STATE_DIR": "var/gateway",
        f"{COLLECTOR}STATE_DIR": "var/collector",
        "QR_GRPC_API_KEY": KEY,
    }
    async with site.programs():
        draw = await site.draw(3 << 20)
        assert (len(draw), draw.source_class) == (3 << 20, SourceClass.OPERATING_SYSTEM)
        with pytest.raises(WeakerSourceError):
            await site.draw(32, QR_LEAST_CLASS="quantum")
