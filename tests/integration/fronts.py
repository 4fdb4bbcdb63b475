"""Clients of a running gateway, as strangers with generated stubs see it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from qrng_grpc.chunk import Heartbeat
from qrng_grpc.compat.qr_entropy_pb2_grpc import EntropyServiceStub as QrEntropyStub
from qrng_grpc.compat.quantum_rng_pb2_grpc import QuantumRNGStub
from qrng_grpc.error_details import STATUS_KEY
from qrng_grpc.testing.gateway import EVERYWHERE, RunningGateway
from qrng_grpc.v1.chunk_pb2 import SignedChunk
from qrng_grpc.v1.entropy_pb2_grpc import EntropyServiceStub
from qrng_grpc.v1.push_pb2 import PushChunksRequest
from qrng_grpc.wire import encode_heartbeat


@dataclass(frozen=True)
class Front:
    """A gateway, an open channel to it, and the metadata that opens it."""

    gateway: RunningGateway
    channel: grpc.aio.Channel

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        return (("api-key", self.gateway.api_key),)

    @property
    def entropy(self) -> Any:
        return EntropyServiceStub(self.channel)

    @property
    def qr_entropy(self) -> Any:
        return QrEntropyStub(self.channel)

    @property
    def quantum_rng(self) -> Any:
        return QuantumRNGStub(self.channel)


@asynccontextmanager
async def open_front(gateway: RunningGateway, options: tuple[tuple[str, int | str], ...] = ()) -> AsyncIterator[Front]:
    """Open a channel to `gateway`, with a connection of its own: channels in one process otherwise share them."""
    options = (("grpc.use_local_subchannel_pool", 1), *options)
    async with grpc.aio.insecure_channel(gateway.client_address, options=options) as channel:
        yield Front(gateway, channel)


def tries_twice_after(status: str) -> tuple[str, str]:
    """Return the option of a channel by which grpc itself tries calls that end with `status` once more (gRFC A6)."""
    policy = {
        "maxAttempts": 2,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": [status],
    }
    return ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]}))


@dataclass(frozen=True)
class Refusal:
    """What a client learns from an error."""

    code: grpc.StatusCode
    reason: str
    domain: str
    field: str | None
    retry_s: float | None
    pushback_ms: str | None
    message: str


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """Read an error as a client does that knows nothing of us but google.rpc.Status."""
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailers[STATUS_KEY])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    unpacked = {type(m).__name__ for m in (info, bad, retry) for detail in status.details if detail.Unpack(m)}
    return Refusal(
        error.code(),
        info.reason,
        info.domain,
        bad.field_violations[0].field if "BadRequest" in unpacked else None,
        retry.retry_delay.ToTimedelta().total_seconds() if "RetryInfo" in unpacked else None,
        trailers.get("grpc-retry-pushback-ms"),
        str(error.details()),
    )


async def refused(call: Any) -> Refusal:
    """Await a call, or read a stream to its end, and return how it was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    return refusal_of(caught.value)


async def refused_in_time(begin: Callable[[], Any]) -> Refusal:
    """Return how a call was refused before its deadline; begun again where this machine let the deadline pass."""
    while True:
        try:
            await begin()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                return refusal_of(error)


def pushback_beside(retry_s: float, *, passed_on: bool = False) -> str | None:
    """Return the push-back trailer of a refusal that says to come back in `retry_s`.

    The native engine sends no trailers of gRPC's own names; calls that it passes on to grpcio have them.
    """
    if EVERYWHERE.get("engine") == "native" and not passed_on:
        return None
    return str(round(retry_s * 1000))


def signed_heartbeat(gateway: RunningGateway, heartbeat: Heartbeat) -> PushChunksRequest:
    """Sign `heartbeat` with the gateway's key."""
    serialised, record = encode_heartbeat(heartbeat), gateway.key_record
    return PushChunksRequest(
        signed_chunk=SignedChunk(chunk=serialised, key_id=record.key_id, signature=record.sign(serialised))
    )
