"""Real gateways and collectors, each a process of its own, for tests that end them roughly.

Idea: a `Laboratory` is what one gateway and one collector share and keep from run to run: keys, ids,
ports, state directories. A `Program` is one run of `qrng gateway` or `qrng collector` in it; it is
known by what it logs, and ended by its process id.

    lab = Laboratory(tmp_path)
    async with lab.gateway() as gateway, lab.collector(mock_seed=7) as collector:
        async with lab.client() as client:
            entropy = await client.get(32)
        assert await collector.end() == 0
        await gateway.kill()

The collector reads the simulated source, whose whole stream follows from its seed: that is the ledger.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qrng_client import AsyncEntropyClient
from qrng_client.status import Accounting
from qrng_collector import config as collector_config
from qrng_gateway import config as gateway_config
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel, Chunk, Identity
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.state import NumbersFile
from qrng_grpc.v1.chunk_pb2 import SignedChunk
from qrng_grpc.v1.push_pb2 import PushChunksRequest, PushChunksResponse
from qrng_grpc.wire import encode_chunk
from tests.waiting import until

PUSH_METHOD = "/qrng.v1.PushService/PushChunks"
CHUNK_BYTES = 1024
"""What a collector fetches at a time here, and so the size of its chunks."""

_OURS = (gateway_config.ENV_PREFIX, collector_config.ENV_PREFIX, "QR_")
_PORTS = range(20_000, 32_000)
"""Below those the system gives away by itself, so that a port is still free when its program returns."""
_SHARES = 8
"""Test workers that may run side by side, each with ports of its own."""


def _ports() -> Iterator[int]:
    """Yield the ports of this test worker, from a random one on, and all others before one comes again."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
    ours = _PORTS[worker::_SHARES]
    start = secrets.randbelow(len(ours))
    return cycle([*ours[start:], *ours[:start]])


_next_ports = _ports()


class Program:
    """One run of a program."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self.events: list[dict[str, Any]] = []
        """What it logged so far."""
        self.words: list[str] = []
        """Lines that are no log events: what it told a person."""
        self._process = process
        self._listening = asyncio.create_task(self._listen())

    async def event(self, name: str) -> dict[str, Any]:
        """Wait until it has logged `name`, and return the first such event."""
        found: list[dict[str, Any]] = []

        def is_logged() -> bool:
            ended = self._listening.done()
            found.extend(event for event in self.events if event["event"] == name)
            assert found or not ended, f"the {self.name} ended without {name}: {self.events} {self.words}"
            return bool(found)

        await until(is_logged)
        return found[0]

    @property
    def accounting(self) -> dict[str, Any]:
        """Its one accounting line."""
        (line,) = [event for event in self.events if event["event"] == "accounting"]
        return line

    async def ended(self) -> int:
        """Wait until it has ended and all it logged is read. Returns its exit code."""
        code = await self._process.wait()
        await self._listening
        return code

    def ask_to_end(self) -> None:
        """Send it SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    async def end(self) -> int:
        """Send it SIGTERM, and wait. Returns its exit code."""
        self.ask_to_end()
        return await self.ended()

    async def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process.returncode is None:
            self._process.kill()
        await self.ended()

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            if line.startswith(b"{"):
                self.events.append(json.loads(line))
            else:
                self.words.append(line.decode())


@asynccontextmanager
async def running(*arguments: str, environ: Mapping[str, str]) -> AsyncIterator[Program]:
    """Run `qrng` with `arguments` while the block runs; then kill it, unless it has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "qrng_cli.main", *arguments),
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    program = Program(arguments[0], process)
    try:
        yield program
    finally:
        await program.kill()


def free_address() -> str:
    """Return a loopback address nobody listens at, and which was given to nobody else here lately."""
    for port in _next_ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{port}"
    raise AssertionError("the ports never end")


@dataclass(eq=False)
class Laboratory:
    """Keys, ids, ports and state of one gateway and one collector, all made up.

    `gateway_state` and `collector_state` are their state directories, which a test may damage.
    """

    directory: Path
    client_address: str = field(default_factory=free_address)
    push_address: str = field(default_factory=free_address)
    rest_address: str = field(default_factory=free_address)
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    record: KeyRecord = field(
        default_factory=lambda: KeyRecord(
            key_id="key-1",
            secret=secrets.token_urlsafe(48).encode(),
            collector_id="lab",
            pool_ids=frozenset(("pool-1",)),
            best_class=SourceClass.SIMULATED,
        )
    )

    @property
    def pool_id(self) -> str:
        (pool_id,) = self.record.pool_ids
        return pool_id

    @property
    def gateway_state(self) -> Path:
        return self.directory / "gateway"

    @property
    def collector_state(self) -> Path:
        return self.directory / "collector"

    def delete_gateway_state(self) -> None:
        """Lose the gateway's marks."""
        shutil.rmtree(self.gateway_state)

    def put_epoch(self, epoch: int) -> None:
        """Let the collector's last epoch be `epoch`."""
        self.collector_state.mkdir(mode=0o700, exist_ok=True)
        self._epoch_file.write(epoch)

    def delete_epoch(self) -> None:
        """Lose the collector's epoch."""
        (self.collector_state / "epoch").unlink()

    @property
    def last_epoch(self) -> int:
        """The collector's last epoch."""
        (epoch,) = self._epoch_file.read() or (0,)
        return epoch

    @property
    def _epoch_file(self) -> NumbersFile:
        return NumbersFile(self.collector_state / "epoch", 1)

    @asynccontextmanager
    async def gateway(self, **settings: Any) -> AsyncIterator[Program]:
        """Run the gateway; the block begins when it takes pushes and answers clients."""
        async with running("gateway", environ=self.gateway_environ(**settings)) as program:
            await program.event("gateway_serves")
            assert await health(self.push_address, "qrng.v1.PushService") == "SERVING"
            assert await health(self.client_address, "liveness") == "SERVING"
            yield program

    @asynccontextmanager
    async def collector(self, **settings: Any) -> AsyncIterator[Program]:
        """Run the collector; the block begins when it collects."""
        async with running("collector", environ=self.collector_environ(**settings)) as program:
            await program.event("collecting")
            yield program

    def gateway_environ(self, **settings: Any) -> dict[str, str]:
        """Return the gateway's environment, `settings` over those of this laboratory."""
        common = {
            **self._shared,
            "listen_address": self.client_address,
            "push_listen_address": self.push_address,
            "rest_listen_address": self.rest_address,
            "buffer_size": 1 << 20,
            "clock_tolerance": 0,
            "rate_limit": 1_000_000,
            "quality_reservoir_size": 0,
            "api_keys": self.api_key,
            "state_dir": self.gateway_state,
        }
        return _environ(gateway_config.ENV_PREFIX, common | settings)

    def collector_environ(self, **settings: Any) -> dict[str, str]:
        """Return the collector's environment, `settings` over those of this laboratory. It fetches and pushes fast."""
        common = {
            **self._shared,
            "source": "mock",
            "fetch_chunk_size": CHUNK_BYTES,
            "fetch_interval": 0.002,
            "push_url": self.push_address,
            "push_interval": 0.02,
            "push_timeout": 10,
            "retry_policy__initial_s": 0.02,
            "retry_policy__maximum_s": 0.1,
            "state_dir": self.collector_state,
        }
        return _environ(collector_config.ENV_PREFIX, common | settings)

    @property
    def clean_environ(self) -> dict[str, str]:
        """This process's environment without any settings of ours."""
        return _environ("", {})

    @property
    def _shared(self) -> dict[str, Any]:
        return {
            "hmac_secret_key": self.record.secret.decode(),
            "hmac_key_id": self.record.key_id,
            "collector_id": self.record.collector_id,
            "pool_id": self.pool_id,
            "best_class": self.record.best_class.value,
        }

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncEntropyClient]:
        """Open a client of the gateway, over a connection of its own.

        Channels of one process otherwise share theirs, and with it the wait before it is tried again.
        """
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(self.client_address, options=options) as channel:
            yield AsyncEntropyClient(api_key=self.api_key, channel=channel)

    async def accounting(self) -> Accounting:
        """Ask the gateway where its bytes are."""
        async with self.client() as client:
            return (await client.status()).accounting

    async def settled(self, condition: Callable[[Accounting], bool]) -> Accounting:
        """Ask the gateway for its accounting until `condition` holds of it; the test's time limit bounds that."""
        looks: list[Accounting] = []
        async with self.client() as client:

            async def holds() -> bool:
                looks.append((await client.status()).accounting)
                return condition(looks[-1])

            await until(holds)
        return looks[-1]

    async def read_all(self) -> bytes:
        """Read whatever the pool holds, until it is empty."""
        parts = []
        async with self.client() as client:
            while pooled := (await client.status()).pooled_bytes:
                parts.append((await client.get(min(pooled, MAX_CHUNK_BYTES))).data)
        return b"".join(parts)

    def signed(self, data: bytes, *, epoch: int, sequence: int, captured_ns: int | None = None) -> bytes:
        """Return the push request of one chunk, captured now unless said otherwise."""
        captured_ns = time.time_ns() if captured_ns is None else captured_ns
        block = Block(data, captured_ns, captured_ns, BlockLabel(("simulated",), self.record.best_class))
        identity = Identity(self.record.collector_id, self.pool_id, epoch, sequence)
        serialised = encode_chunk(Chunk.bind(block, identity))
        signature = self.record.sign(serialised)
        signed = SignedChunk(chunk=serialised, key_id=self.record.key_id, signature=signature)
        return PushChunksRequest(signed_chunk=signed).SerializeToString()

    async def push(self, requests: list[bytes]) -> int:
        """Make one push call of serialised requests. Returns how many chunks were disposed of.

        Raises grpc.aio.AioRpcError when the call ended with a status.
        """
        async with grpc.aio.insecure_channel(self.push_address) as channel:
            push: Any = channel.stream_unary(PUSH_METHOD)
            return disposed_count(await push(iter(requests)))


def disposed_count(reply: Any) -> int:
    """Return the number in a serialised PushChunksResponse."""
    return PushChunksResponse.FromString(reply).disposed_count


async def health(address: str, service: str) -> str:
    """Ask for the health of `service` once somebody listens at `address`."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def _environ(prefix: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return this process's environment, with our own settings replaced by `settings`; None stands for no setting."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return foreign | {prefix + name.upper(): str(value) for name, value in settings.items() if value is not None}
