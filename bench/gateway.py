"""The gateway of a comparison: the real program, with everything at work that a deployment has, and bytes to give.

Idea: it is started as an operator does, with a file of clients whose limits never bind but are
kept count of, and an audit log. Its pool is filled through the push port, by a signer, before each run; that time
is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

import grpc
import yaml
from programs import API_KEY, Cores, MissingError, Server, Tls, process

from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, Limits, changing_client_file, digest_of
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.v1.chunk_pb2 import SignedChunk
from qrng_grpc.v1.push_pb2 import PushChunksRequest
from qrng_grpc.v1.push_pb2_grpc import PushServiceStub
from qrng_grpc.wire import encode_chunk

CHUNK_BYTES = 65_536
CHUNKS_A_CALL = 100
POOL_BYTES = 1 << 29
USABLE = 0.98
"""Of what is pushed, and of what a pool can hold: the gateway keeps up to a hundredth apart for tests."""
NEVER_BINDS = 1 << 50
SUPPLY = os.urandom(1 << 24)
STEP_BYTES = 1021
MODULES = {"grpcio": "grpc", "native": "pygrpc_native"}
"""What each engine of the gateway needs."""
KEY = KeyRecord("bench", API_KEY.encode(), "bench", frozenset(("bench",)), SourceClass.SIMULATED)
LABEL = BlockLabel(("bench",), SourceClass.SIMULATED)


@dataclass
class StockedGateway(Server):
    """A gateway, and who fills its pool."""

    capacity: int = POOL_BYTES
    level: int = 0
    stub: PushServiceStub | None = None
    epoch: int = field(default_factory=time.time_ns)
    sequences: Iterator[int] = field(default_factory=lambda: count(1))

    def prepare(self, size: int) -> None:
        """Fill the pool up, so that it holds `size` bytes, and take them for handed out."""
        if size > self.capacity * USABLE:
            raise ValueError("a run may not need more bytes than the pool holds")
        if self.level < size:
            self.stock(size if self.capacity == POOL_BYTES else int(self.capacity * USABLE))
        self.level -= size

    def stock(self, size: int) -> None:
        """Push until the pool holds `size` bytes, or a little more."""
        while self.level < size:
            chunks = min(CHUNKS_A_CALL, ceil((size - self.level) / USABLE / CHUNK_BYTES))
            self.push(chunks)
            self.level += int(chunks * CHUNK_BYTES * USABLE)

    def push(self, chunks: int) -> None:
        """Push so many chunks in one call."""
        assert self.stub is not None
        disposed = self.stub.PushChunks(iter([self._signed() for _ in range(chunks)])).disposed_count
        if disposed != chunks:
            raise RuntimeError(f"{disposed} of {chunks} chunks were taken")

    def _signed(self) -> PushChunksRequest:
        now_ns = time.time_ns()
        sequence = next(self.sequences)
        block = Block(_data(sequence), now_ns, now_ns, LABEL)
        text = encode_chunk(Chunk.bind(block, Identity("bench", "bench", self.epoch, sequence)))
        return PushChunksRequest(signed_chunk=SignedChunk(chunk=text, key_id="bench", signature=KEY.sign(text)))


def _data(sequence: int) -> bytes:
    """Return the bytes of a chunk, unlike those of the thousands before it, and sooner than fresh ones would come."""
    start = sequence * STEP_BYTES % (len(SUPPLY) - CHUNK_BYTES)
    return SUPPLY[start : start + CHUNK_BYTES]


@contextmanager
def gateway(
    cores: Cores, tls: Tls | None = None, *, capacity: int = POOL_BYTES, engine: str = "grpcio"
) -> Iterator[StockedGateway]:
    """Run a gateway whose pool holds `capacity` bytes, full. Raises MissingError where its engine is not installed."""
    if find_spec(MODULES[engine]) is None:
        raise MissingError(f"the package {MODULES[engine]}, for `engine: {engine}`")
    with tempfile.TemporaryDirectory() as directory:
        config = _written_config(Path(directory), tls, capacity, engine)
        program = Path(sys.executable).with_name("qrng")
        # It ends as a deployment's does when this process ends: the pipe that is its standard input closes.
        command = [program, "gateway", "--config", config, "--end-with-fd", "0"]
        log = Path(directory) / "log"
        with (
            log.open("w") as errors,
            process(command, cores.server, stderr=errors) as started,
        ):
            serves = _first_event(started, log, "gateway_serves")
            with grpc.insecure_channel(serves["push"]) as channel:
                stocked = StockedGateway(
                    started, serves["clients"], serves["rest"], tls, capacity, 0, PushServiceStub(channel)
                )
                if capacity != POOL_BYTES:
                    stocked.stock(int(capacity * USABLE))
                yield stocked


def _written_config(directory: Path, tls: Tls | None, capacity: int, engine: str) -> Path:
    limits = Limits(requests_per_s=1_000_000, bytes_per_s=NEVER_BINDS, bytes_per_day=NEVER_BINDS, streams=10_000)
    with changing_client_file(directory / "clients.yaml") as records:
        records.append(ClientRecord(Client("bench", limits=limits), (KeyDigest(digest_of(API_KEY)),)))
    settings: dict[str, Any] = {
        "listen_address": "127.0.0.1:0",
        "push_listen_address": "127.0.0.1:0",
        "rest_listen_address": "127.0.0.1:0",
        "buffer_size": capacity,
        "buffer_ttl": 604_800,
        "clock_tolerance": 0,
        "api_keys_file": str(directory / "clients.yaml"),
        "rate_limit": 1_000_000,
        "address_rate_limit": 1_000_000,
        "max_connections": 20_000,
        "collector_id": "bench",
        "pool_id": "bench",
        "hmac_key_id": "bench",
        "hmac_secret_key": API_KEY,
        "best_class": SourceClass.SIMULATED.value,
        "state_dir": str(directory / "state"),
        "audit_log_file": str(directory / "audit.log"),
    }
    if engine == "native":
        settings |= {"engine": engine}
        del settings["address_rate_limit"]  # it sees no addresses
    if tls is not None:
        settings |= {"tls_cert_file": str(tls.cert), "tls_key_file": str(tls.key)}
    path = directory / "gateway.yaml"
    path.touch(0o600)
    path.write_text(yaml.safe_dump(settings))
    return path


def _first_event(started: subprocess.Popen[str], log: Path, name: str) -> dict[str, Any]:
    """Wait until the program logs the event `name`. Raises RuntimeError with its log when it ends before."""
    while started.poll() is None:
        for line in log.read_text().splitlines():
            if f'"{name}"' in line:
                return json.loads(line)
        time.sleep(0.05)
    raise RuntimeError(f"the gateway did not start: {log.read_text()}")
