"""Whatever bytes come in at an entrance: a status that is defined, nothing INTERNAL, nothing of ours that fails.

Idea: Hypothesis makes the bytes, from nothing and by damaging good ones, and a real gateway in this process takes them
over real connections. QRNG_FUZZ_EXAMPLES says how many each test tries.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import aiohttp
import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from yarl import URL

from qrng_grpc.chunk import Block, BlockLabel, Chunk, Heartbeat, Identity
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1.chunk_pb2 import SignedChunk
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, StreamEntropyRequest, SubscribeEntropyRequest
from qrng_grpc.v1.push_pb2 import PushChunksRequest
from qrng_grpc.wire import MalformedChunkError, decode_chunk, encode_chunk

EXAMPLES = int(os.environ.get("QRNG_FUZZ_EXAMPLES", "150"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SERVICE = "/qrng.v1.EntropyService/"
PUSH = "/qrng.v1.PushService/PushChunks"
MOST_BYTES = 64
"""What one request may have here, so that the pool lasts."""
MOST_REPLIES = 8
"""Replies after which a call goes well enough."""
DEFINED = {
    "OK",
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
}
"""Statuses that a client is told of; INTERNAL, UNKNOWN and UNIMPLEMENTED are none."""
HTTP_DEFINED = {200, 400, 401, 404, 405, 413, 422, 429, 503}

varints = st.integers(0, 2**64 - 1)
small = st.integers(1, MOST_BYTES)


def varint(number: int) -> bytes:
    """Return `number` as protobuf writes it."""
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*written, number))


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    """One field of any number and any type, well formed or with a lie about its length."""
    number, kind = draw(st.integers(0, 40)), draw(st.integers(0, 7))
    key = varint(number << 3 | kind)
    if kind == 0:
        return key + varint(draw(varints))
    if kind == 1:
        return key + draw(st.binary(min_size=8, max_size=8))
    if kind == 5:
        return key + draw(st.binary(min_size=4, max_size=4))
    payload = draw(st.binary(max_size=40))
    return key + varint(draw(st.one_of(st.just(len(payload)), varints))) + payload


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Some bytes of a good message changed, inserted or cut off."""
    message = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(message) - 1)))
        match draw(st.integers(0, 2)):
            case 0:
                message[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                message[place:place] = draw(st.binary(max_size=6))
            case _:
                del message[place:]
    return bytes(message)


def messages(*good: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, any fields, and damaged versions of `good`."""
    made_up = st.lists(fields(), max_size=8).map(b"".join)
    return st.one_of(st.binary(max_size=200), made_up, *(damaged(message) for message in good), *map(st.just, good))


@dataclass(eq=False)
class Target:
    """A gateway in a loop of its own, for tests that are no coroutines, as those of Hypothesis."""

    runner: asyncio.Runner
    gateway: RunningGateway
    clients: grpc.Channel
    collectors: grpc.Channel
    http: aiohttp.ClientSession

    def status(self, channel: grpc.Channel, path: str, requests: list[bytes], *, key: bool = True) -> str:
        """Send `requests` as they are in one call. Returns the status it ends with.

        grpc.aio's own client calls it INTERNAL when a call ends while it still writes, so this one is not of it.
        """
        return self.runner.run(asyncio.to_thread(self._status, channel, path, requests, key))

    def _status(self, channel: grpc.Channel, path: str, requests: list[bytes], key: bool) -> str:
        metadata = (("api-key", self.gateway.api_key),) if key else ()
        call: Any = channel.stream_stream(path)(iter(requests), metadata=metadata, timeout=10)
        try:
            for _ in islice(call, MOST_REPLIES):
                pass
            call.cancel()
        except grpc.RpcError:
            return str(call.code().name)
        return "OK"

    def get(self, path: str, query: str) -> int:
        """Ask over REST with `query` as it is. Returns the status."""
        return self.runner.run(self._get(path, query))

    async def _get(self, path: str, query: str) -> int:
        url = URL(f"{self.gateway.rest_url}{path}?{query}", encoded=True)
        async with self.http.get(url, headers={"api-key": self.gateway.api_key}, allow_redirects=False) as response:
            await response.read()
            return response.status


@contextmanager
def a_target() -> Iterator[Target]:
    with asyncio.Runner() as runner:
        opened, channels = AsyncExitStack(), ExitStack()

        async def open_all() -> Target:
            gateway = await opened.enter_async_context(running_gateway(max_wait=0, max_request_bytes=MOST_BYTES))
            await gateway.push(os.urandom(8 << 20))
            return Target(
                runner,
                gateway,
                channels.enter_context(grpc.insecure_channel(gateway.client_address)),
                channels.enter_context(grpc.insecure_channel(gateway.push_address)),
                await opened.enter_async_context(aiohttp.ClientSession()),
            )

        target = runner.run(open_all())
        try:
            yield target
        finally:
            channels.close()
            runner.run(opened.aclose())


@pytest.fixture
def target() -> Iterator[Target]:
    """A gateway that must not log one fault of its own, nor one of asyncio's."""
    with capture_logs() as logs, a_target() as opened:
        yield opened
    assert [event for event in logs if event["event"] in ("call_failed", "request_failed")] == []


UNARY = messages(
    GetEntropyRequest(bytes_needed=8, sequence_id=-1, least_class=1, fresh=True).SerializeToString(),
    GetEntropyRequest(bytes_needed=8, processing=1, max_age_ms=1000, include_provenance=True).SerializeToString(),
)


@fuzzed
@given(request=UNARY, method=st.sampled_from(["GetEntropy", "GetStatus"]), key=st.booleans())
def test_any_bytes_as_a_unary_request(target: Target, request: bytes, method: str, key: bool) -> None:
    """GetEntropy and GetStatus answer any bytes with a defined status, and no key with UNAUTHENTICATED or a limit."""
    status = target.status(target.clients, SERVICE + method, [request], key=key)
    assert status in (DEFINED if key else {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"})


@fuzzed
@given(
    request=messages(SubscribeEntropyRequest(bytes_per_message=8, total_bytes=16).SerializeToString()),
)
def test_any_bytes_as_a_subscription(target: Target, request: bytes) -> None:
    """SubscribeEntropy answers any bytes with a defined status; what would not end is ended by its deadline."""
    assert target.status(target.clients, SERVICE + "SubscribeEntropy", [request]) in DEFINED


@fuzzed
@given(
    requests=st.lists(
        messages(StreamEntropyRequest(bytes_needed=8, span_lanes=True).SerializeToString()), min_size=0, max_size=4
    ),
    path=st.sampled_from([SERVICE + "StreamEntropy", "/qr_entropy.EntropyService/StreamEntropy"]),
)
def test_any_bytes_on_a_stream(target: Target, requests: list[bytes], path: str) -> None:
    """StreamEntropy, ours and that of qr_entropy, answer any requests with a defined status."""
    assert target.status(target.clients, path, requests) in DEFINED


@fuzzed
@given(
    request=messages(b"\x08\x08\x10\x01"),
    path=st.sampled_from(["/qr_entropy.EntropyService/GetEntropy", "/qrng.QuantumRNG/GetRandomBytes"]),
)
def test_any_bytes_to_services_in_the_field(target: Target, request: bytes, path: str) -> None:
    """The compatible unary methods answer any bytes with a defined status."""
    assert target.status(target.clients, path, [request]) in DEFINED


@fuzzed
@given(data=st.data())
def test_any_bytes_as_a_push(target: Target, data: st.DataObject) -> None:
    """PushChunks answers any messages with a defined status, and none of them enters the pool."""
    record, before = target.gateway.key_record, target.gateway.gateway.accounting()
    good = PushChunksRequest(
        signed_chunk=SignedChunk(chunk=b"\x0a\x03lab", key_id=record.key_id, signature=bytes(32))
    ).SerializeToString()
    requests = data.draw(st.lists(messages(good), max_size=3))
    assert target.status(target.collectors, PUSH, requests, key=False) in DEFINED
    assert target.gateway.gateway.accounting().stored == before.stored


@fuzzed
@given(data=st.data())
def test_any_bytes_signed_well(target: Target, data: st.DataObject) -> None:
    """What a key holder signs, whatever it is, ends with a defined status."""
    record, gateway = target.gateway.key_record, target.gateway
    block = Block(b"12345678", 1, 1, BlockLabel(("test-device",), record.best_class))
    good = Chunk.bind(block, Identity(gateway.collector_id, gateway.pool_id, gateway.epoch, 1))
    body = data.draw(messages(encode_chunk(good)))
    signed = SignedChunk(chunk=body, key_id=record.key_id, signature=record.sign(body))
    request = PushChunksRequest(signed_chunk=signed).SerializeToString()
    assert target.status(target.collectors, PUSH, [request], key=False) in DEFINED


@fuzzed
@given(message=messages())
def test_any_bytes_as_a_chunk(message: bytes) -> None:
    """Any bytes are a chunk, a heartbeat, or malformed, and nothing else is raised."""
    try:
        decoded = decode_chunk(message)
    except MalformedChunkError:
        return
    assert isinstance(decoded, Chunk | Heartbeat)


escaped = st.one_of(
    st.text("0123456789abcdefxyzABCX+-._~!$'()*,;:@/?=&%", max_size=40),
    st.binary(max_size=12).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["nan", "inf", "1e9", "0x10", "1_0", "%201", "%D9%A3", "true", "", "-0", "+1"]),
)
pairs = st.tuples(
    st.sampled_from(["bytes", "encoding", "count", "min", "max", "iterations", "api_key", "x"]), escaped
).map("=".join)
PATHS = ["/api/random", "/api/integers", "/api/floats", "/api/uuid", "/api/status", "/health", "/metrics", "/nothing"]


@fuzzed
@given(path=st.sampled_from(PATHS), query=st.lists(st.one_of(pairs, escaped), max_size=5).map("&".join))
def test_any_query(target: Target, path: str, query: str) -> None:
    """REST answers any query with a defined status."""
    assert target.get(path, query) in HTTP_DEFINED
