"""Clients in the field ping without calls: they are left alone."""

from __future__ import annotations

import asyncio
import os

import grpc
import grpc.aio
import pytest

from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest
from qrng_grpc.v1.entropy_pb2_grpc import EntropyServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HABIT = (
    ("grpc.keepalive_time_ms", 11_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
"""Theirs is 30 s; the shortest that is tolerated is 10 s."""
QUIET_S = 60


async def test_pings_without_calls_are_tolerated() -> None:
    """A client that pings every 11 s and has no call keeps its connection, and its next call is answered on it."""
    async with (
        running_gateway() as gateway,
        grpc.aio.insecure_channel(gateway.client_address, options=HABIT) as channel,
    ):
        await gateway.push(os.urandom(64))
        await ask(channel, gateway.api_key)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await ask(channel, gateway.api_key)
        assert channel.get_state() is grpc.ChannelConnectivity.READY


async def ask(channel: grpc.aio.Channel, key: str) -> None:
    request = GetEntropyRequest(bytes_needed=8)
    reply = await EntropyServiceStub(channel).GetEntropy(request, metadata=(("api-key", key),))
    assert len(reply.data) == 8
