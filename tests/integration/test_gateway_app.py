"""The gateway as a program, and the parts every handler relies on."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from structlog.testing import capture_logs

from qrng_gateway.fronts.calls import MALFORMED, Streams, register, telling_errors
from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.config import host_and_port
from qrng_grpc.errors import ConfigError, DrainingError, StateError
from qrng_grpc.serving import Grace, new_server, serving_grpc
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1 import push_pb2, push_pb2_grpc
from tests.integration.fronts import Front, refused
from tests.waiting import until

PROGRAM = """
import os, sys
from qrng_gateway.app import main
from qrng_gateway.config import ENV_PREFIX, GatewayConfig
from qrng_grpc.config import load
main(load(GatewayConfig, prefix=ENV_PREFIX, environ=os.environ))
"""


def environment(state_dir: Path) -> dict[str, str]:
    settings = {
        "LISTEN_ADDRESS": "127.0.0.1:0",
        "PUSH_LISTEN_ADDRESS": "127.0.0.1:0",
        "REST_LISTEN_ADDRESS": "127.0.0.1:0",
        "API_KEYS": secrets.token_urlsafe(24),
        "HMAC_SECRET_KEY": secrets.token_urlsafe(48),
        "HMAC_KEY_ID": "key-1",
        "COLLECTOR_ID": "collector-1",
        "POOL_ID": "pool-1",
        "BEST_CLASS": "operating_system",
        "STATE_DIR": str(state_dir),
    }
    return {**os.environ, **{f"QRNG_GATEWAY_{name}": value for name, value in settings.items()}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_program_with_0_and_an_accounting(tmp_path: Path, number: signal.Signals) -> None:
    """Asked to end, the gateway ends politely, says where every byte went, and reports no failure."""
    environ = environment(tmp_path / "state")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, env=environ, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    serving = json.loads(await process.stderr.readline())
    assert serving["event"] == "gateway_serves"
    process.send_signal(number)
    events = [json.loads(line) async for line in process.stderr]
    assert await process.wait() == 0
    assert [event["event"] for event in events] == ["gateway_drains", "accounting"]
    names = {"stored", "served", "pooled", "expired", "overflow", "purged", "dropped_at_shutdown", "refused"}
    assert names | {"duplicates"} <= set(events[-1])
    shown = json.dumps([serving, *events])
    assert environ["QRNG_GATEWAY_API_KEYS"] not in shown
    assert environ["QRNG_GATEWAY_HMAC_SECRET_KEY"] not in shown


async def test_an_address_in_use_is_named(front: Front) -> None:
    """A listener that cannot be opened is a mistake of the configuration, and frees what was opened before."""
    for name in ("listen_address", "push_listen_address"):
        with pytest.raises(ConfigError, match=front.gateway.client_address):
            async with running_gateway(**{name: front.gateway.client_address}):
                raise AssertionError("it listens where another does")


async def test_a_state_directory_belongs_to_one_gateway(tmp_path: Path) -> None:
    """A second gateway on the same state is refused, and the first is not disturbed."""
    async with running_gateway(state_dir=tmp_path / "state") as first:
        with pytest.raises(StateError):
            async with running_gateway(state_dir=tmp_path / "state"):
                raise AssertionError("two gateways share their marks")
        assert await first.push(os.urandom(10)) == 1
    async with running_gateway(state_dir=tmp_path / "state"):
        pass


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    """A test that fails inside a running gateway fails with its own exception."""
    with pytest.raises(ZeroDivisionError):
        async with running_gateway():
            raise ZeroDivisionError


async def test_the_end_wipes_the_pool_and_counts_it() -> None:
    """Bytes that nobody claimed are dropped at the end, and nothing is left over."""
    async with running_gateway() as gateway:
        await gateway.push(os.urandom(1000))
    accounting = gateway.gateway.accounting()
    assert (accounting.stored, accounting.pooled, accounting.dropped_at_shutdown) == (1000, 0, 1000)


async def test_the_age_limit_is_kept_without_anyone_asking() -> None:
    """Once a second what is too old is destroyed, though no client and no collector comes."""
    clock = ManualClock()
    async with running_gateway(clock=clock, buffer_ttl=10) as gateway:
        clock.advance(1)
        await gateway.push(os.urandom(1000))
        clock.advance(10.5)
        await until(lambda: gateway.gateway.pool.counters.expired == 1000)


async def test_the_double_pushes_what_a_collector_would(front: Front) -> None:
    """Data of any size is cut into signed chunks of at most 1 MiB and stored whole."""
    data = os.urandom(8 * MAX_CHUNK_BYTES + 1)
    assert await front.gateway.push(data) == 9
    accounting = front.gateway.gateway.accounting()
    assert accounting.stored == len(data)
    assert await front.gateway.push(b"") == 0
    assert front.gateway.key_record.secret.decode() not in repr(front.gateway)
    assert front.gateway.api_key not in repr(front.gateway)


class Faulty(push_pb2_grpc.PushServiceServicer):
    """A servicer of our own for what the real ones never do."""

    @telling_errors
    async def PushChunks(self, requests: Any, context: Any) -> push_pb2.PushChunksResponse:
        async for request in requests:
            if request is MALFORMED:
                raise ZeroDivisionError("a text that must not travel")
        return push_pb2.PushChunksResponse(disposed_count=1)


@asynccontextmanager
async def faulty_server() -> AsyncIterator[grpc.aio.Channel]:
    server = new_server(max_message_bytes=1000, max_streams=10, max_calls=10)
    register(push_pb2_grpc.add_PushServiceServicer_to_server, Faulty(), server)
    async with serving_grpc(server, "127.0.0.1:0", Grace(1)) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


async def test_a_fault_of_ours_tells_nothing() -> None:
    """An unforeseen exception is INTERNAL without its text, and one log line with its class only."""
    with capture_logs() as logs:
        async with faulty_server() as channel:
            call = channel.stream_unary("/qrng.v1.PushService/PushChunks")
            refusal = await refused(call(iter([b"\xff"])))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "must not travel" not in refusal.message
    assert logs == [
        {"event": "call_failed", "method": "Faulty.PushChunks", "fault": "ZeroDivisionError", "log_level": "error"}
    ]
    assert repr(MALFORMED) == "MALFORMED"


async def test_streams_refuse_newcomers_once_draining() -> None:
    """A server that ends opens no stream."""
    streams = Streams(limit=1)
    streams.drain()
    with pytest.raises(DrainingError):
        async with streams.held(None):  # type: ignore[arg-type]
            raise AssertionError("it opened")
    assert len(streams) == 0


async def test_grace_runs_from_its_beginning_and_is_shared() -> None:
    """All of it is left before it begins; afterwards it only shrinks, and beginning again gives nothing back."""
    grace = Grace(0)
    assert Grace(5).left_s == 5
    grace.begin()
    grace.begin()
    assert grace.left_s == 0


@pytest.mark.parametrize("listener", ["client_address", "push_address", "rest_address"])
async def test_connections_are_bounded(listener: str) -> None:
    """One connection too many, which needs no key, is closed at once, and those that are open stay."""
    most = 20
    async with running_gateway(max_connections=most) as gateway:
        host, port = host_and_port(getattr(gateway.gateway, listener))
        streams = [await asyncio.open_connection(host, port) for _ in range(most + 1)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in streams]
        closed, open_ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert (len(closed), len(open_)) == (1, most)
        for _, writer in streams:
            writer.close()
        await asyncio.wait(ends)
