"""Health and reflection, which need no key."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from qrng_gateway.fronts.health import HealthBoard
from qrng_gateway.fronts.reflection import MAX_REFLECTIONS
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1.entropy_pb2 import SubscribeEntropyRequest
from tests.integration.fronts import Front, open_front, refused

pytestmark = pytest.mark.usefixtures("engine")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
ENTROPY, PUSH, LIVENESS, OVERALL = "qrng.v1.EntropyService", "qrng.v1.PushService", "liveness", ""


async def states(channel: grpc.aio.Channel) -> dict[str, int]:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return {
        name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
        for name in (OVERALL, ENTROPY, PUSH, LIVENESS)
    }


async def test_an_empty_pool_is_alive_and_takes_pushes_but_serves_nobody(front: Front) -> None:
    """Only what clients would get depends on the pool; both listeners say the same."""
    expected = {OVERALL: NOT_SERVING, ENTROPY: NOT_SERVING, PUSH: SERVING, LIVENESS: SERVING}
    assert await states(front.channel) == expected
    async with grpc.aio.insecure_channel(front.gateway.push_address) as channel:
        assert await states(channel) == expected


async def test_bytes_make_it_serve(front: Front) -> None:
    """As soon as bytes can be claimed every name serves."""
    await front.gateway.push(os.urandom(100))
    assert set((await states(front.channel)).values()) == {SERVING}


async def test_an_unknown_name_is_not_found(front: Front) -> None:
    """A misspelt probe does not pass."""
    stub: Any = health_pb2_grpc.HealthStub(front.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_garbage_is_a_bad_argument(front: Front, method: str) -> None:
    """A health request that is no protobuf is refused as such."""
    call = front.channel.unary_stream(f"/grpc.health.v1.Health/{method}")(b"\xff")
    assert (await refused(call)).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watcher_sees_changes_and_then_the_end() -> None:
    """Watch tells the state now, each change, NOT_SERVING when the gateway ends, and ends with "reconnect"."""
    async with running_gateway() as gateway:
        channel = grpc.aio.insecure_channel(gateway.client_address)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=ENTROPY))
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert (await watch.read()).status == NOT_SERVING
        assert (await unknown.read()).status == SERVICE_UNKNOWN
        await gateway.push(os.urandom(100))
        assert (await watch.read()).status == SERVING
        ending = asyncio.create_task(read_on(watch))
    async with channel:
        assert await ending == [NOT_SERVING]
        assert (await refused(watch)).reason == "DRAINING"


async def read_on(watch: Any) -> list[int]:
    """Read to the end, whatever it is."""
    seen = []
    try:
        while (response := await watch.read()) is not grpc.aio.EOF:
            seen.append(response.status)
    except grpc.aio.AioRpcError:
        pass
    return seen


async def test_the_board_stays_down_once_it_drains() -> None:
    """Nothing turns an ending gateway back on, and it stays alive to the last."""
    board = HealthBoard(lambda: True)
    assert board.serving(ENTROPY)
    board.drain()
    board.refresh()
    assert [board.serving(name) for name in (OVERALL, ENTROPY, PUSH, LIVENESS)] == [False, False, False, True]
    assert board.serving("nobody") is None


async def test_reflection_lists_and_describes_every_service(front: Front) -> None:
    """grpcurl needs no proto file for any service of the client listener."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(front.channel)
    request = reflection_pb2.ServerReflectionRequest
    names = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "qr_entropy.EntropyService",
        "qrng.QuantumRNG",
        "qrng.v1.EntropyService",
    ]
    questions = [request(list_services=""), *(request(file_containing_symbol=name) for name in names)]
    listing, *files = [answer async for answer in stub.ServerReflectionInfo(iter(questions))]
    assert sorted(service.name for service in listing.list_services_response.service) == names
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in files)


async def test_reflection_refuses_garbage(front: Front) -> None:
    """A question that is no protobuf is refused as such."""
    call = front.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    assert (await refused(call(iter([b"\xff"])))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_uses_up_no_streams_of_those_who_have_a_key() -> None:
    """Reflection needs no key, so its streams are bounded on their own."""
    async with running_gateway(max_streams=1) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(8))
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(front.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        calls = [stub.ServerReflectionInfo() for _ in range(MAX_REFLECTIONS)]
        for call in calls:
            await call.write(question)
            await call.read()
        assert (await refused(stub.ServerReflectionInfo(iter([question])))).reason == "LIMIT_EXCEEDED"
        request = SubscribeEntropyRequest(bytes_per_message=8, total_bytes=8)
        assert len([reply async for reply in front.entropy.SubscribeEntropy(request, metadata=front.key)]) == 1
