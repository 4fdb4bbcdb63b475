"""The real `pollen`, Debian's entropy server, as a source of a real collector, by settings alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from qrng_collector.app import collecting
from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_grpc.config import host_and_port, load
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1 import entropy_pb2, labels_pb2
from qrng_grpc.v1.entropy_pb2_grpc import EntropyServiceStub
from tests.clients.programs import started
from tests.programs import free_address
from tests.waiting import until

SYSTEM_LOGS = tuple(Path(path) for path in ("/dev/log", "/var/run/syslog", "/var/run/log"))
"""Where a program of Go looks for the system's log. pollen ends when there is none."""


@pytest.fixture
async def system_log() -> AsyncIterator[None]:
    """Lend the machine a log, where it has none, that forgets what is written to it."""
    if any(path.is_socket() for path in SYSTEM_LOGS):
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        try:
            log.bind(str(SYSTEM_LOGS[0]))
        except PermissionError:
            pytest.skip("pollen needs a system log; there is none here, and only root may make one")
        log.setblocking(False)
        asyncio.get_running_loop().add_reader(log, log.recv, 65_536)
        try:
            yield
        finally:
            asyncio.get_running_loop().remove_reader(log)
            SYSTEM_LOGS[0].unlink()


@pytest.fixture
def installed() -> str:
    """Return pollen's path. It is a package of Debian's and of its kin alone, so elsewhere its test is skipped."""
    return shutil.which("pollen") or pytest.skip("pollen is not installed: `apt-get install pollen`")


@asynccontextmanager
async def pollen(path: str) -> AsyncIterator[str]:
    """Run pollen on urandom. Yields its URL."""
    address = free_address()  # pollen does not tell which port it would pick
    host, port = host_and_port(address)
    arguments = ("-http-port", str(port), "-https-port", "", "-device", "/dev/urandom")
    async with started(path, *arguments, env={}) as process:

        async def listens() -> bool:
            assert process.returncode is None, "pollen ended"
            try:
                _, writer = await asyncio.open_connection(host, port)
            except ConnectionRefusedError:
                return False
            writer.close()
            return True

        await until(listens)
        yield f"http://{address}"


def config_of(gateway: RunningGateway, state_dir: Path, url: str) -> CollectorConfig:
    """Return the settings of a collector whose only source is the pollen at `url`."""
    record = gateway.key_record
    source = {
        "kind": "http",
        "preset": "pollen",
        "url": url,
        "source_class": "operating_system",
        "device_id": "pollen-1",
        "start_up_size": 4096,
    }
    values = {
        "HMAC_SECRET_KEY": record.secret.decode(),
        "HMAC_KEY_ID": record.key_id,
        "COLLECTOR_ID": record.collector_id,
        "POOL_ID": gateway.pool_id,
        "BEST_CLASS": record.best_class.value,
        "PUSH_URL": gateway.push_address,
        "STATE_DIR": str(state_dir),
        "SOURCES": json.dumps([source]),
        "PUSH_INTERVAL": "0.05",
    }
    environ = {ENV_PREFIX + name: value for name, value in values.items()}
    return load(CollectorConfig, prefix=ENV_PREFIX, environ=environ)


@pytest.mark.usefixtures("system_log")
async def test_pollen_is_a_source(installed: str, tmp_path: Path) -> None:
    """What pollen hands out, each answer proved to be to our challenge, is tested, pushed and served."""
    async with (
        pollen(installed) as url,
        running_gateway(best_class=SourceClass.OPERATING_SYSTEM, max_wait=60) as gateway,
        collecting(config_of(gateway, tmp_path, url)),
        grpc.aio.insecure_channel(gateway.client_address) as channel,
    ):
        reply = await EntropyServiceStub(channel).GetEntropy(
            entropy_pb2.GetEntropyRequest(bytes_needed=512), metadata=(("api-key", gateway.api_key),)
        )
    assert (len(reply.data), reply.device_id) == (512, "pollen-1")
    assert reply.source_class == labels_pb2.SOURCE_CLASS_OPERATING_SYSTEM
    assert reply.custody == labels_pb2.CUSTODY_REMOTE
    assert reply.health_verdict == labels_pb2.HEALTH_VERDICT_PASSED
