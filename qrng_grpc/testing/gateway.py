"""A whole gateway in process: real listeners on loopback ports of the system's choice, real signatures.

    async with running_gateway() as gateway:
        await gateway.push(os.urandom(4096))
        async with grpc.aio.insecure_channel(gateway.client_address) as channel:
            stub = EntropyServiceStub(channel)
            reply = await stub.GetEntropy(
                GetEntropyRequest(bytes_needed=32), metadata=(("api-key", gateway.api_key),)
            )

Keys and ids are made up for each gateway, its state lies in a temporary directory, and any setting of
`qrng_gateway.config.GatewayConfig` can be given by name. `clock_tolerance` is 0, so that bytes may be
pushed from the first moment, `rate_limit` so high that no test meets it by accident, and nothing is set
aside for tests of quality.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from qrng_gateway.app import Gateway, serving_gateway
from qrng_gateway.config import GatewayConfig
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel, Chunk, Identity
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.v1.chunk_pb2 import SignedChunk
from qrng_grpc.v1.push_pb2 import PushChunksRequest, PushChunksResponse
from qrng_grpc.v1.push_pb2_grpc import PushServiceStub
from qrng_grpc.wire import encode_chunk

_CHUNKS_PER_CALL = 7
"""A push call carries at most 8 MiB; seven of the largest chunks stay below."""


@dataclass(eq=False)
class RunningGateway:
    """A gateway to test against. `config` holds all its settings; `gateway` its parts."""

    config: GatewayConfig
    gateway: Gateway
    clock: Clock
    epoch: int
    """The epoch under which `push` sends; assign another to play a restarted collector."""
    _channel: grpc.aio.Channel = field(repr=False)
    _sequence: Iterator[int] = field(default_factory=lambda: count(1), repr=False)

    @property
    def client_address(self) -> str:
        """HOST:PORT of gRPC for clients."""
        return self.gateway.client_address

    @property
    def push_address(self) -> str:
        """HOST:PORT of gRPC for collectors."""
        return self.gateway.push_address

    @property
    def rest_url(self) -> str:
        """Where REST begins, without a slash at the end."""
        scheme = "http" if self.config.tls_files is None else "https"
        return f"{scheme}://{self.gateway.rest_address}"

    @property
    def api_key(self) -> str:
        """A key that opens the gateway."""
        return self.config.api_keys[0].get_secret_value()

    @property
    def key_record(self) -> KeyRecord:
        """The key that `push` signs with: of several the first."""
        return self.gateway.ingest.keys.records[0]

    @property
    def pool_id(self) -> str:
        """The pool that chunks must be meant for."""
        return self.config.pool_id

    @property
    def collector_id(self) -> str:
        """The collector that chunks must come from."""
        return self.key_record.collector_id

    async def push(self, data: bytes, *, label: BlockLabel | None = None, capture_start_ns: int | None = None) -> int:
        """Sign `data` and push it as a collector does, in chunks of at most 1 MiB.

        `label` is by default that of one device, "test-device", of the key's best class; captures start
        at `capture_start_ns`, by default now, and take no time. Returns how many chunks were disposed
        of; raises grpc.aio.AioRpcError when the first of a call was held.
        """
        label = label or BlockLabel(("test-device",), self.key_record.best_class)
        blocks = [data[start : start + MAX_CHUNK_BYTES] for start in range(0, len(data), MAX_CHUNK_BYTES)]
        requests = [self.signed(self._chunk(block, label, capture_start_ns)) for block in blocks]
        disposed = 0
        for start in range(0, len(requests), _CHUNKS_PER_CALL):
            disposed += await self.push_signed(requests[start : start + _CHUNKS_PER_CALL])
        return disposed

    async def push_signed(self, requests: list[PushChunksRequest]) -> int:
        """Push `requests` in one call, whatever they hold. Returns and raises as `push`."""
        response: PushChunksResponse = await PushServiceStub(self._channel).PushChunks(iter(requests))
        return response.disposed_count

    def signed(self, chunk: Chunk) -> PushChunksRequest:
        """Sign `chunk` with the gateway's key."""
        serialised = encode_chunk(chunk)
        record = self.key_record
        return PushChunksRequest(
            signed_chunk=SignedChunk(chunk=serialised, key_id=record.key_id, signature=record.sign(serialised))
        )

    def _chunk(self, data: bytes, label: BlockLabel, capture_start_ns: int | None) -> Chunk:
        captured_ns = self.clock.now_ns() if capture_start_ns is None else capture_start_ns
        identity = Identity(self.collector_id, self.pool_id, self.epoch, next(self._sequence))
        return Chunk.bind(Block(data, captured_ns, captured_ns, label), identity)


@asynccontextmanager
async def running_gateway(
    *, clock: Clock = SYSTEM_CLOCK, push_credentials: grpc.ChannelCredentials | None = None, **settings: Any
) -> AsyncIterator[RunningGateway]:
    """Run a gateway while the block runs. `settings` are those of GatewayConfig. Raises what `serving_gateway` does.

    `push` goes over TLS with `push_credentials`, which the gateway's `push_tls_cert_file` takes, else in plaintext.
    With a clock that stands still, let some time pass before the first push: what was captured
    before the gateway started, or in its first instant, is refused.
    """
    with tempfile.TemporaryDirectory(prefix="qrng-gateway-") as directory:
        config = _config(Path(directory), settings)
        async with (
            serving_gateway(config, clock=clock) as gateway,
            _push_channel(gateway.push_address, push_credentials) as channel,
        ):
            yield RunningGateway(config, gateway, clock, max(1, clock.now_ns()), channel)


def _push_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)


EVERYWHERE: dict[str, Any] = {}
"""Settings of every gateway here that does not name its own; for a test suite that runs over several engines."""


def _config(directory: Path, settings: dict[str, Any]) -> GatewayConfig:
    made_up = EVERYWHERE | {
        "listen_address": "127.0.0.1:0",
        "push_listen_address": "127.0.0.1:0",
        "rest_listen_address": "127.0.0.1:0",
        "clock_tolerance": 0,
        "rate_limit": 1_000_000,
        "quality_reservoir_size": 0,
        "ready_bytes": 1,
        "ready_bytes_per_second": 0,
        "api_keys": [secrets.token_urlsafe(24)],
        "hmac_secret_key": secrets.token_urlsafe(48),
        "hmac_key_id": f"key-{secrets.token_hex(4)}",
        "collector_id": f"collector-{secrets.token_hex(4)}",
        "pool_id": f"pool-{secrets.token_hex(4)}",
        "best_class": SourceClass.OPERATING_SYSTEM,
        "state_dir": directory / "state",
    }
    if "signing_keys_file" in settings:
        for name in ("hmac_secret_key", "hmac_key_id", "collector_id", "best_class"):
            del made_up[name]
    return GatewayConfig(**{**made_up, **settings})
