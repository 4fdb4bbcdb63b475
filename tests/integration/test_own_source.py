"""A source of one's own: the examples as their README says, the template as a package that is built and installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qrng_client import AsyncEntropyClient
from qrng_grpc.errors import QrngError
from qrng_grpc.labels import HealthVerdict, SourceClass
from tests.programs import Program, free_address, health, running

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples" / "source"
KEY = "0123456789abcdef-0123456789"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the template, build it and install it into a folder of its own, without any network."""
    copy, target = tmp_path_factory.mktemp("copy") / "template", tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLES / "template", copy, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def environ(*folders: Path, **settings: str) -> dict[str, str]:
    """Return an environment in which `folders` are on Python's path, without settings of ours."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith(("QR_", "QRNG_"))}
    return foreign | {"PYTHONPATH": os.pathsep.join(map(str, folders))} | settings


@asynccontextmanager
async def serving(kind: str, *arguments: str, environment: Mapping[str, str]) -> AsyncIterator[tuple[Program, str]]:
    """Run `qrng serve-source`; the block begins when the source has passed its start-up test."""
    address = free_address()
    async with running("serve-source", kind, "--listen", address, *arguments, environ=environment) as program:
        await program.event("source_trusted")
        await _ready(address)
        yield program, address


async def _ready(address: str) -> None:
    """Wait until a server's source has passed its start-up test; the test's time limit bounds that."""
    while await health(address, "") != "SERVING":
        pass


async def test_the_template_is_served_by_its_kind(installed: Path) -> None:
    """Installed, it is known by its entry point; its bytes are served under its label; SIGTERM ends it well."""
    async with serving("template", "--set", "path=/dev/urandom", environment=environ(installed)) as (program, address):
        async with AsyncEntropyClient(address, api_key=KEY) as client:
            entropy = await client.get(1000)
        assert (entropy.device_id, entropy.source_class) == ("template-1", SourceClass.OPERATING_SYSTEM)
        assert entropy.health_verdict is HealthVerdict.PASSED
        assert await program.end() == 0
        books = program.accounting
        assert (books["served"], books["lost"]) == (1000, 0)
        assert books["fetched"] == books["served"] + books["discarded"]


def test_the_template_is_listed_with_its_package(installed: Path) -> None:
    """`--list` names every kind and where it comes from."""
    command = [sys.executable, "-m", "qrng_cli.main", "serve-source", "--list"]
    listed = subprocess.run(command, env=environ(installed), check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in listed.splitlines()]
    assert ["template", "qrng-template-source"] in lines
    assert ["system", "qrng-grpc"] in lines


def test_the_template_passes_its_own_tests(installed: Path) -> None:
    """Those that are copied with it."""
    tests = EXAMPLES / "template" / "tests"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tests)]
    done = subprocess.run(command, env=environ(installed), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_the_template_is_collected_from(installed: Path, tmp_path: Path) -> None:
    """A collector takes it by its kind, beside one of ours, and its start-up test passes."""
    config = tmp_path / "collector.yaml"
    config.write_text("sources: [{kind: template, assessed_entropy: 7.5}, {kind: mock}]\n")
    settings = {
        "HMAC_SECRET_KEY": "0123456789abcdef0123456789abcdef",
        "HMAC_KEY_ID": "k1",
        "COLLECTOR_ID": "lab",
        "POOL_ID": "pool",
        "BEST_CLASS": "operating_system",
        "PUSH_URL": "127.0.0.1:50052",
        "STATE_DIR": str(tmp_path / "state"),
    }
    environment = environ(installed, **{f"QRNG_COLLECTOR_{name}": value for name, value in settings.items()})
    command = [sys.executable, "-m", "qrng_cli.main", "test", "--config", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "template-1: passed: 65,536 bytes\nmock: passed: 65,536 bytes\n", done.stderr


@pytest.mark.parametrize(
    ("example", "device_id"),
    [("serve_urandom.py", "os-urandom"), ("serve_timing_noise.py", "cpu-jitter")],
)
async def test_example_servers(example: str, device_id: str) -> None:
    """Each serves at the address it is given, under an honest label, to a client that reads one reply and a stream."""
    address = free_address()
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / example, address, env=environ(), stdout=quiet, stderr=quiet
    )
    try:
        await _ready(address)
        async with AsyncEntropyClient(address, api_key=KEY) as client:
            entropy = await client.get(32)
            assert (entropy.device_id, entropy.source_class) == (device_id, SourceClass.OPERATING_SYSTEM)
            assert [len(part) async for part in client.stream(64, total=160)] == [64, 64, 32]
        server.terminate()
        assert await server.wait() == 0
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def test_keys_and_mistakes_on_the_command_line(tmp_path: Path) -> None:
    """A key in a file opens the server, a wrong one does not."""
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(KEY)
    async with serving("mock", "--set", "seed=7", "--api-key-file", str(file), environment=environ()) as (_, address):
        async with AsyncEntropyClient(address, api_key=KEY) as client:
            assert len((await client.get(32)).data) == 32
        async with AsyncEntropyClient(address, api_key=KEY + "x") as client:
            with pytest.raises(QrngError, match="did not accept the API key"):
                await client.get(32)


async def test_a_port_that_is_taken_is_told_by_its_option() -> None:
    """Where to listen is what --listen says, so that is named when nobody can; a server that never was has no books."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qrng_cli.main", "serve-source", "mock", "--listen", address),
            env=environ(),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await server.communicate()
    assert server.returncode == 2
    mistake = f"  - --listen: {address}: cannot listen there (is it in use?)"
    assert said.decode().splitlines()[-2:] == ["Error: the configuration cannot be used:", mistake]
    assert b'"event": "accounting"' not in said
