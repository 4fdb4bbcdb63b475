"""The native engine where it is not like grpcio. What is alike runs over both: see the fixture `engine`."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from qrng_gateway.engines.native import MAX_WAITING_THREADS
from qrng_grpc.errors import ConfigError
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1.entropy_pb2 import (
    GetEntropyRequest,
    GetStatusRequest,
    StreamEntropyRequest,
    SubscribeEntropyRequest,
)
from tests.integration.fronts import Front, open_front, refused
from tests.waiting import until

GET_ENTROPY = "/qrng.v1.EntropyService/GetEntropy"
NATIVE: dict[str, Any] = {"engine": "native", "max_wait": 0}


async def test_a_unix_socket_serves_calls_of_every_kind(tmp_path: Path) -> None:
    """A proxy may reach the gateway by a Unix socket; what it says of a caller counts for calls of every kind."""
    audit, clock = tmp_path / "audit.log", ManualClock()
    address = f"unix:{tmp_path}/grpc.sock"
    settings = {"listen_address": address, "trusted_proxies": ("127.0.0.1",), "address_rate_limit": 3}
    settings |= {"audit_log_file": audit, "clock": clock}
    async with running_gateway(**settings, **NATIVE) as gateway, open_front(gateway) as front:
        clock.advance(1)
        assert gateway.client_address == address
        await gateway.push(os.urandom(1000))
        metadata = (*front.key, ("x-forwarded-for", "192.0.2.7"))
        assert len((await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=metadata)).data) == 8
        subscription = SubscribeEntropyRequest(bytes_per_message=8, total_bytes=16)
        assert len([one async for one in front.entropy.SubscribeEntropy(subscription, metadata=metadata)]) == 2
        requests = [StreamEntropyRequest(bytes_needed=8)]
        assert len([one async for one in front.entropy.StreamEntropy(iter(requests), metadata=metadata)]) == 1
        refusal = await refused(front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=metadata))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = (*front.key, ("x-forwarded-for", "192.0.2.8"))
        assert len((await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=other)).data) == 8
    assert audit.read_text().count("ipv4:127.0.0.1:") >= 4


async def test_without_a_proxy_that_names_callers_no_address_is_limited() -> None:
    """Everybody comes from this machine, so that only keys have rates."""
    clock = ManualClock()
    async with running_gateway(**NATIVE, rate_limit=2, clock=clock) as gateway, open_front(gateway) as front:
        clock.advance(1)
        await gateway.push(os.urandom(100))
        request = GetEntropyRequest(bytes_needed=8)
        for _ in range(2):
            await front.entropy.GetEntropy(request, metadata=front.key)
        refusal = await refused(front.entropy.GetEntropy(request, metadata=front.key))
        assert "from this client" in refusal.message


async def test_calls_that_never_send_their_request_stop_nobody() -> None:
    """They are not seen, wait in the engine until their connection ends, and take no place of those who send theirs."""
    async with running_gateway(**NATIVE) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(100))
        async with grpc.aio.insecure_channel(gateway.client_address) as channel:
            silent: list[Any] = [channel.stream_unary(GET_ENTROPY)(metadata=front.key) for _ in range(300)]
            await silent[-1].wait_for_connection()
            reply = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=front.key)
            assert len(reply.data) == 8
            assert not any(call.done() for call in silent)


async def test_a_call_without_a_request_is_an_internal_error() -> None:
    """A client that half-closes without a message is told by the engine, in its words."""
    async with running_gateway(**NATIVE) as gateway, open_front(gateway) as front:
        call: Any = front.channel.stream_unary(GET_ENTROPY)(iter(()), metadata=front.key)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_readers_that_stall_slow_nobody_else_down_for_long() -> None:
    """More streams than there are threads to wait for them may stand still: others flow, and the end is in time."""
    async with running_gateway(**NATIVE, buffer_size=96 << 20, drain_timeout=0.2) as gateway:
        await gateway.push(os.urandom(96 << 20))
        small = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
        async with open_front(gateway, small) as lazy, open_front(gateway) as keen:
            stalled = [subscription(lazy, 1 << 20) for _ in range(MAX_WAITING_THREADS + 4)]
            for call in stalled:
                await call.read()
            received = sum([len(one.data) async for one in subscription(keen, 65_536, 4 << 20)])
            assert received == 4 << 20
            reply = await keen.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=keen.key)
            assert len(reply.data) == 8
            await asyncio.to_thread(time.monotonic)  # the loop's own threads are free


async def test_a_client_that_leaves_a_waiting_call_takes_nothing() -> None:
    """The engine tells of a client that left, and its claim leaves the line; so it does at a deadline."""
    async with running_gateway(engine="native", max_wait=60) as gateway, open_front(gateway) as front:
        request = GetEntropyRequest(bytes_needed=8)
        left = front.entropy.GetEntropy(request, metadata=front.key)
        await until(lambda: gateway.gateway.pool.waiting == 1)
        left.cancel()
        await until(lambda: gateway.gateway.pool.waiting == 0)
        late = front.entropy.GetEntropy(request, metadata=front.key, timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError):
            await late
        await until(lambda: gateway.gateway.pool.waiting == 0)
        await gateway.push(os.urandom(8))
        assert gateway.gateway.pool.level == 8


async def test_calls_that_wait_for_bytes_hold_nobody_up() -> None:
    """More may wait than there are tasks kept for calls: others are served meanwhile, and they when bytes come."""
    async with running_gateway(engine="native", max_wait=60) as gateway, open_front(gateway) as front:
        for _ in range(2):
            calls = [front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=front.key) for _ in range(40)]
            await until(lambda: gateway.gateway.pool.waiting == 40)
            status = await front.entropy.GetStatus(GetStatusRequest(), metadata=front.key)
            assert status.waiting_claims == 40
            await gateway.push(os.urandom(40 * 8))
            assert len({(await call).data for call in calls}) == 40


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix:{}/grpc.sock"])
async def test_two_gateways_do_not_listen_at_one_address(tmp_path: Path, address: str) -> None:
    """A second one refuses to start, says where it could not listen, and leaves the first one's clients alone."""
    async with running_gateway(listen_address=address.format(tmp_path), **NATIVE) as gateway:
        with pytest.raises(ConfigError, match=f"{gateway.client_address}: cannot listen there"):
            await start_and_end(listen_address=gateway.client_address, **NATIVE)
        await gateway.push(os.urandom(8))
        async with open_front(gateway) as front:
            reply = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=front.key)
            assert len(reply.data) == 8


async def test_a_socket_that_a_gateway_left_behind_is_taken_over(tmp_path: Path) -> None:
    """After a kill the next start needs nobody's help."""
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with running_gateway(listen_address=f"unix:{path}", **NATIVE) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(8))
        reply = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=front.key)
        assert len(reply.data) == 8


async def start_and_end(**settings: Any) -> None:
    async with running_gateway(**settings):
        pass


def subscription(front: Front, size: int, total: int = 0) -> Any:
    request = SubscribeEntropyRequest(bytes_per_message=size, total_bytes=total)
    return front.entropy.SubscribeEntropy(request, metadata=front.key)


async def test_nothing_of_the_engine_is_left_when_it_has_ended(tmp_path: Path) -> None:
    """Its socket for passed-on calls lies in a directory that nobody else may enter, and goes with it."""
    async with running_gateway(**NATIVE):
        home = directory_of_the_engine()
        assert home.stat().st_mode & 0o077 == 0
    assert not home.exists()


def directory_of_the_engine() -> Path:
    """Find the directory by the Unix socket that this process listens at; others may run gateways, too."""
    ours = {str(held.readlink()) for held in Path("/proc/self/fd").iterdir() if held.is_socket()}
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if "qrng-engine-" in line]
    (home,) = {Path(path).parent for *_, inode, path in sockets if f"socket:[{inode}]" in ours}
    return home
