"""A source served directly: a real server, real clients, and a source that keeps a ledger."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from qrng_client import AsyncEntropyClient, SourceUnavailableError, WeakerSourceError
from qrng_grpc.certs import Authority
from qrng_grpc.channel import Endpoint
from qrng_grpc.chunk import BlockLabel
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.error_details import PUSHBACK_KEY, error_from_trailers
from qrng_grpc.errors import (
    ConfigError,
    DrainingError,
    InvalidRequestError,
    LimitError,
    QrngError,
    SourceError,
    UnsupportedError,
)
from qrng_grpc.generic_codec import MessageShape
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.sources.grpc import GrpcMethod, GrpcSource
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing import LedgerSource, ManualClock
from qrng_grpc.testing.faults import ByteStream, stuck_byte
from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc
from qrng_source_server.app import SourceServer, serving_source
from qrng_source_server.config import SourceServerConfig
from qrng_source_server.public import SERVICES
from qrng_source_server.tap import Tap
from tests.integration.fronts import tries_twice_after
from tests.waiting import until

START_UP = 1024
KEY = "0123456789abcdef-0123456789"
LAB = BlockLabel(("lab-1",), SourceClass.HARDWARE, custody=Custody.REMOTE)
GET = "/qrng.v1.EntropyService/GetEntropy"
EMPTY = health_pb2.HealthCheckRequest()


class OutOfBoundsError(BaseException):
    """What no program foresees of a source: an error that is no Exception."""


class WatchedSource(LedgerSource):
    """A source that notes what it was asked for and when, takes its time, and can be held up or made to fail."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK, *, takes_s: float = 0.0) -> None:
        super().__init__(seed=7, label=LAB)
        self.asked: list[tuple[int, int]] = []
        """Size and time of each read after the start-up test."""
        self.failures: list[BaseException] = []
        self.faulty: ByteStream | None = None
        """What it delivers in place of its own bytes."""
        self.open = asyncio.Event()
        self.open.set()
        self.reading = asyncio.Event()
        self._clock = clock
        self._takes_s = takes_s

    async def read(self, size: int) -> bytes:
        tested = self.delivered_bytes >= START_UP
        if tested:
            self.asked.append((size, self._clock.now_ns()))
        if self.failures:
            raise self.failures.pop(0)
        if self.faulty is not None:
            return self.faulty.take(size)
        data = await super().read(size)
        if tested:
            self.reading.set()
            await self.open.wait()
        if isinstance(self._clock, ManualClock):
            self._clock.advance(self._takes_s)
        return data

    @property
    def sizes(self) -> list[int]:
        """What was asked for, after the start-up test."""
        return [size for size, _ in self.asked]


@asynccontextmanager
async def serving(source: Any, clock: Clock = SYSTEM_CLOCK, /, **settings: Any) -> AsyncIterator[SourceServer]:
    """Serve `source`, which has passed its start-up test when the block begins."""
    kind = {"kind": "mock", "start_up_size": START_UP}
    config = SourceServerConfig(**{"source": kind, "listen_address": "127.0.0.1:0", **settings})
    async with serving_source(config, source=source, clock=clock) as server:
        await server.tap.make_ready()
        yield server


@asynccontextmanager
async def stub_of(server: SourceServer) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield entropy_pb2_grpc.EntropyServiceStub(channel)


def get(size: int, **fields: Any) -> entropy_pb2.GetEntropyRequest:
    return entropy_pb2.GetEntropyRequest(bytes_needed=size, **fields)


async def refusal(call: Any) -> tuple[grpc.StatusCode, QrngError, grpc.aio.AioRpcError]:
    """Return how a call was refused: its status, the error in its trailers, and all of it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = error_from_trailers(caught.value.trailing_metadata() or (), caught.value.details() or "")
    assert error is not None
    return caught.value.code(), error, caught.value


def requests_of(*requests: Any) -> Iterator[Any]:
    return iter(requests)


async def in_line(server: SourceServer, count: int) -> None:
    """Wait until `count` requests have arrived and are not answered."""
    await until(lambda: server.tap.waiting == count)


async def test_replies_say_what_the_bytes_are() -> None:
    """Class and custody are the source's, the verdict is that of the tests, and no pool is pretended."""
    source = WatchedSource()
    async with serving(source) as server, AsyncEntropyClient(server.address, api_key=KEY) as client:
        entropy = await client.get(32)
        assert source.offset_of(entropy.data) == START_UP
        assert (entropy.source_class, entropy.custody) == (SourceClass.HARDWARE, Custody.REMOTE)
        assert (entropy.processing, entropy.health_verdict) == (Processing.NONE, HealthVerdict.PASSED)
        assert (entropy.device_id, entropy.collector_id) == ("lab-1", "")
        assert entropy.generation_timestamp_ns == entropy.capture_end_ns >= entropy.capture_start_ns
        status = await client.status()
        assert (status.state, status.pooled_bytes, status.accounting.served_bytes) == ("healthy", 0, 32)
        assert (status.accounting.stored_bytes, status.served_claims, status.collectors) == (32, 1, ())


async def test_the_command_asks_without_a_key() -> None:
    """A server that is named may be open: `qrng get` needs no key for it."""
    source = WatchedSource()
    async with serving(source) as server:
        command = [sys.executable, "-m", "qrng_cli.main", "get", "32", "--raw", "--address", server.address]
        process = await asyncio.create_subprocess_exec(
            *command, env={"PATH": os.environ["PATH"]}, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        assert source.offset_of(out) == START_UP


async def test_the_command_says_that_there_is_no_pool() -> None:
    """`qrng status` of a server without a pool shows no empty one, but that there is none, and what was served."""
    async with serving(WatchedSource()) as server:
        async with stub_of(server) as stub:
            await stub.GetEntropy(get(1000))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qrng_cli.main", "status", "--address", server.address),
            env={"PATH": os.environ["PATH"], "COLUMNS": "120"},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    facts = [" ".join(line.split()) for line in out.decode().splitlines()]
    assert facts[:4] == [
        "state healthy",
        "pool none: this server reads its source when somebody asks",
        "served 1,000 bytes in 1 request",
        "waiting 0 requests",
    ]
    assert "claims" not in out.decode()


async def test_all_three_services_in_every_mode() -> None:
    """Foreign clients, known by settings alone, get the bytes that were read for them, in order."""
    echo = MessageShape(request_echo_field=2, reply_echo_field=2)
    methods = [
        GrpcMethod("/qr_entropy.EntropyService/GetEntropy", shape=echo),
        GrpcMethod("/qr_entropy.EntropyService/StreamEntropy", "server_streaming", shape=echo),
        GrpcMethod("/qr_entropy.EntropyService/StreamEntropy", "bidi_streaming", shape=echo),
        GrpcMethod("/qrng.QuantumRNG/GetRandomBytes"),
        GrpcMethod(GET, shape=echo),
        GrpcMethod("/qrng.v1.EntropyService/StreamEntropy", "bidi_streaming", shape=echo),
    ]
    source = WatchedSource()
    async with serving(source) as server:
        for method in methods:
            client = GrpcSource(Endpoint(server.address), method, source_class=SourceClass.HARDWARE, device_id="lab-1")
            for _ in range(3):
                offset = source.delivered_bytes
                assert source.offset_of(await client.read(100)) == offset
            await client.close()


async def test_unary_calls_of_services_in_the_field_have_labels_beside_their_replies() -> None:
    """In trailing metadata, under the names that a gateway uses; a stream promises its class when it begins."""
    async with serving(WatchedSource()) as server, grpc.aio.insecure_channel(server.address) as channel:
        for path in ("/qr_entropy.EntropyService/GetEntropy", "/qrng.QuantumRNG/GetRandomBytes"):
            call: Any = channel.unary_unary(path, None, None)(b"\x08\x10")
            await call
            told = dict(await call.trailing_metadata())
            assert (told["qrng-source-class"], told["qrng-custody"]) == ("hardware", "remote")
            assert (told["qrng-processing"], told["qrng-health-verdict"]) == ("none", "passed")
            assert 0 < int(told["qrng-capture-start-ns"]) <= int(told["qrng-capture-end-ns"])
        stream: Any = channel.stream_stream("/qr_entropy.EntropyService/StreamEntropy", None, None)(iter([b"\x08\x10"]))
        assert dict(await stream.initial_metadata())["qrng-least-class"] == "hardware"
        assert len([reply async for reply in stream]) == 1


async def test_every_byte_is_measured_after_its_request() -> None:
    """The source is asked when a request comes and not before, for as many bytes as it needs, and replies say when."""
    clock = ManualClock()
    source = WatchedSource(clock, takes_s=0.25)
    async with serving(source, clock) as server, stub_of(server) as stub:
        for size in (32, 1, 5000):
            clock.advance(100)
            assert len(source.asked) == server.tap.served_requests  # nothing was read ahead
            arrived_ns = clock.now_ns()
            reply = await stub.GetEntropy(get(size))
            assert source.asked[-1] == (size, arrived_ns)
            assert reply.capture_start_ns == arrived_ns
            assert reply.generation_timestamp_ns == reply.capture_end_ns == arrived_ns + NS_PER_S // 4


async def test_streams_are_measured_message_by_message() -> None:
    """A conversation is read for each question when it is asked; a subscription for each message, and to its total."""
    source = WatchedSource()
    async with serving(source) as server, stub_of(server) as stub:
        conversation = stub.StreamEntropy()
        for number, size in enumerate((16, 700, 3), start=1):
            await conversation.write(entropy_pb2.StreamEntropyRequest(bytes_needed=size, sequence_id=-number))
            reply = await conversation.read()
            assert (len(reply.data), reply.sequence_id) == (size, -number)
            assert len(source.asked) == number
        await conversation.done_writing()
        assert await conversation.read() is grpc.aio.EOF
        request = entropy_pb2.SubscribeEntropyRequest(bytes_per_message=400, total_bytes=1000)
        assert [len(reply.data) async for reply in stub.SubscribeEntropy(request)] == [400, 400, 200]
        assert source.sizes == [16, 700, 3, 400, 400, 200]


async def test_no_byte_is_handed_out_twice() -> None:
    """Side by side, over calls of all kinds, each byte goes to one caller, and none that was read is left over."""
    source = WatchedSource()
    async with serving(source) as server, stub_of(server) as stub:

        async def conversation(size: int) -> list[bytes]:
            requests = requests_of(*[entropy_pb2.StreamEntropyRequest(bytes_needed=size)] * 5)
            return [reply.data async for reply in stub.StreamEntropy(requests)]

        async def single(size: int) -> list[bytes]:
            return [(await stub.GetEntropy(get(size))).data]

        async def subscription(size: int) -> list[bytes]:
            request = entropy_pb2.SubscribeEntropyRequest(bytes_per_message=size, total_bytes=5 * size)
            return [reply.data async for reply in stub.SubscribeEntropy(request)]

        kinds = (conversation, single, subscription)
        parts = await asyncio.gather(*[kinds[number % 3](16 + number) for number in range(30)])
        ranges = sorted((source.offset_of(data), len(data)) for part in parts for data in part)
        ends = [START_UP, *(at + size for at, size in ranges)]
        assert [at for at, _ in ranges] == ends[:-1]
        assert ends[-1] == source.delivered_bytes == START_UP + server.tap.served_bytes


async def test_requests_take_turns_as_they_came() -> None:
    """One is read for at a time, in the order of arrival."""
    source = WatchedSource()
    source.open.clear()
    async with serving(source) as server, stub_of(server) as stub:
        calls = []
        for number, size in enumerate((100, 300, 200, 400), start=1):
            calls.append(asyncio.ensure_future(stub.GetEntropy(get(size))))
            await in_line(server, number)
        await source.reading.wait()
        assert source.sizes == [100]
        source.open.set()
        replies = await asyncio.gather(*calls)
        assert source.sizes == [100, 300, 200, 400]
        assert [len(reply.data) for reply in replies] == source.sizes


async def test_the_line_is_bounded() -> None:
    """One more than may wait is sent away with a hint; those in line are served."""
    source = WatchedSource()
    source.open.clear()
    async with serving(source, max_waiting=2) as server, stub_of(server) as stub:
        calls = [asyncio.ensure_future(stub.GetEntropy(get(16))) for _ in range(2)]
        await in_line(server, 2)
        status, error, _ = await refusal(stub.GetEntropy(get(16)))
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error, LimitError)
        assert error.retry_after_s == 1
        source.open.set()
        assert [len(reply.data) for reply in await asyncio.gather(*calls)] == [16, 16]


async def test_who_leaves_takes_nothing_from_others() -> None:
    """A call that ends while it waits is not read for; one that ends while it is read for loses what was read."""
    source = WatchedSource()
    source.open.clear()
    async with serving(source) as server, stub_of(server) as stub:
        calls = []
        for number, size in enumerate((111, 222, 333), start=1):
            calls.append(stub.GetEntropy(get(size)))
            await in_line(server, number)
        first, second, third = calls
        await source.reading.wait()
        second.cancel()
        await in_line(server, 2)
        first.cancel()
        await in_line(server, 1)
        source.open.set()
        assert source.offset_of((await third).data) == START_UP + 111
        assert source.sizes == [111, 333]
        assert server.tap.served_bytes == 333


async def test_a_deadline_ends_waiting_and_reading() -> None:
    """A call whose deadline passes is over, and the next one is served."""
    source = WatchedSource()
    source.open.clear()
    async with serving(source) as server, stub_of(server) as stub:
        while not source.reading.is_set():  # else the deadline passed before the request had come
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetEntropy(get(64), timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await in_line(server, 0)
        source.open.set()
        lost = source.delivered_bytes
        assert source.offset_of((await stub.GetEntropy(get(64))).data) == lost


@pytest.mark.parametrize(
    "failure",
    [
        SourceError("words of a stranger", retry_after_s=7),
        ValueError("words of a stranger"),
        OutOfBoundsError("words of a stranger"),
    ],
)
async def test_a_source_that_fails_is_unavailable(failure: BaseException) -> None:
    """UNAVAILABLE with the time to stay away, in words of ours; the next bytes are the source's again."""
    clock = ManualClock()
    source = WatchedSource(clock)
    async with serving(source, clock) as server, stub_of(server) as stub:
        source.failures = [failure]
        status, error, raised = await refusal(stub.GetEntropy(get(32)))
        assert status is grpc.StatusCode.UNAVAILABLE
        assert isinstance(error, SourceUnavailableError)
        assert "stranger" not in str(raised.debug_error_string()) + str(raised.trailing_metadata()) + error.message
        assert dict(raised.trailing_metadata() or ())[PUSHBACK_KEY] == str(round((error.retry_after_s or 0) * 1000))
        assert (error.retry_after_s or 0) >= (7 if isinstance(failure, SourceError) else 0.4)
        asked = len(source.asked)
        await refusal(stub.GetEntropy(get(32)))  # it is left alone meanwhile
        assert len(source.asked) == asked
        clock.advance(8)
        assert len((await stub.GetEntropy(get(32))).data) == 32


async def test_an_error_of_any_class_does_not_end_the_looking_after() -> None:
    """A source that fails its first test by what is no Exception is tested again by itself, and served then."""
    clock = ManualClock()
    source = WatchedSource(clock)
    source.failures = [OutOfBoundsError("words of a stranger")]
    with capture_logs() as logs:
        async with serving(source, clock) as server, stub_of(server) as stub:
            assert not server.tap.ready
            clock.advance(8)
            await until(lambda: server.tap.ready)
            assert len((await stub.GetEntropy(get(32))).data) == 32
    assert [entry["reason"] for entry in logs if entry["event"] == "source_failed"] == [
        "the source failed in a way nobody foresaw (OutOfBoundsError)"
    ]


async def test_bytes_that_fail_their_tests_are_served_to_nobody() -> None:
    """They are discarded, the source is in quarantine, health says so, and a passed test brings it back."""
    clock = ManualClock()
    source = WatchedSource(clock)
    async with (
        serving(source, clock, quarantine_pause=60) as server,
        AsyncEntropyClient(server.address, api_key=KEY) as client,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        source.faulty = stuck_byte(0)
        with pytest.raises(SourceUnavailableError) as caught:
            await client.get(512)
        assert caught.value.retry_after_s == 60
        assert (await health.Check(EMPTY)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await client.status()).warnings == ("the source lab-1 is quarantined",)
        source.faulty = None
        clock.advance(61)
        await server.tap.make_ready()
        assert (await health.Check(EMPTY)).status == health_pb2.HealthCheckResponse.SERVING
        offset = source.delivered_bytes
        assert source.offset_of((await client.get(512)).data) == offset


async def test_a_source_that_fails_its_first_test_serves_nobody() -> None:
    """Until it passed, requests are told when to come again, and liveness alone is up."""
    source = WatchedSource()
    source.faulty = stuck_byte(0)
    async with serving(source) as server, stub_of(server) as stub, grpc.aio.insecure_channel(server.address) as channel:
        status, error, _ = await refusal(stub.GetEntropy(get(16)))
        assert (status, type(error)) == (grpc.StatusCode.UNAVAILABLE, SourceUnavailableError)
        health = health_pb2_grpc.HealthStub(channel)
        liveness = await health.Check(health_pb2.HealthCheckRequest(service="liveness"))
        assert liveness.status == health_pb2.HealthCheckResponse.SERVING
        assert (await health.Check(EMPTY)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.tap.served_bytes == 0


@pytest.mark.parametrize(
    ("fields", "status", "error", "field"),
    [
        ({"bytes_needed": 0}, "INVALID_ARGUMENT", InvalidRequestError, "bytes_needed"),
        ({"bytes_needed": -1}, "INVALID_ARGUMENT", InvalidRequestError, "bytes_needed"),
        ({"bytes_needed": 4097}, "INVALID_ARGUMENT", InvalidRequestError, "bytes_needed"),
        ({"bytes_needed": 2**31 - 1}, "INVALID_ARGUMENT", InvalidRequestError, "bytes_needed"),
        ({"bytes_needed": 1, "max_age_ms": -1}, "INVALID_ARGUMENT", InvalidRequestError, "max_age_ms"),
        ({"bytes_needed": 1, "least_class": 99}, "INVALID_ARGUMENT", InvalidRequestError, "least_class"),
        ({"bytes_needed": 1, "include_provenance": True}, "UNIMPLEMENTED", UnsupportedError, "include_provenance"),
        ({"bytes_needed": 1, "processing": 2}, "UNIMPLEMENTED", UnsupportedError, "processing"),
        ({"bytes_needed": 1, "least_class": 1}, "FAILED_PRECONDITION", WeakerSourceError, None),
    ],
)
async def test_what_cannot_be_had_is_refused(
    fields: dict[str, Any], status: str, error: type[QrngError], field: str | None
) -> None:
    """With the status and the field at fault, and without asking the source."""
    source = WatchedSource()
    async with serving(source, max_request_bytes=4096) as server, stub_of(server) as stub:
        code, refused, _ = await refusal(stub.GetEntropy(entropy_pb2.GetEntropyRequest(**fields)))
        assert (code.name, type(refused), refused.field) == (status, error, field)
        assert source.asked == []


async def test_streams_that_cannot_be_had_are_refused() -> None:
    """Before anything is measured: a total below nothing, messages of a wrong size, or one stream too many."""
    source = WatchedSource()
    async with serving(source, max_streams=1) as server, stub_of(server) as stub:
        for fields, field in (({"bytes_per_message": 1, "total_bytes": -1}, "total_bytes"), ({}, "bytes_per_message")):
            status, error, _ = await refusal(
                stub.SubscribeEntropy(entropy_pb2.SubscribeEntropyRequest(**fields)).read()
            )
            assert (status, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
        assert source.asked == []
        conversation = stub.StreamEntropy()
        await conversation.write(entropy_pb2.StreamEntropyRequest(bytes_needed=16))
        await conversation.read()
        status, error, _ = await refusal(stub.StreamEntropy().read())
        assert (status, type(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, LimitError)
        assert len((await stub.GetEntropy(get(16))).data) == 16  # calls that do not last have room of their own
        await conversation.done_writing()
        assert await conversation.read() is grpc.aio.EOF


async def test_a_recording_goes_on_where_the_last_run_left_it(tmp_path: Path) -> None:
    """With a state directory no byte of a file is served again after a restart; without one it is refused."""
    recording = tmp_path / "recording"
    content = SeededStream(5).take(8192)
    recording.write_bytes(content)
    entry = {"kind": "device", "path": recording, "source_class": "hardware", "device_id": "tape"}
    entry |= {"start_up_size": START_UP, "fetch_chunk_size": START_UP}
    with pytest.raises(ConfigError, match="source: path: is a file"):
        async with serving(None, source=entry):
            raise AssertionError
    served = []
    for _ in range(2):
        async with serving(None, source=entry, state_dir=tmp_path / "state") as server, stub_of(server) as stub:
            served.append((await stub.GetEntropy(get(1000))).data)
    # Each run begins with a start-up test, whose bytes nobody gets.
    places = [content.index(data) for data in served]
    assert places == [START_UP, 2 * START_UP + 1000]


async def test_calls_that_say_nothing_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without a message is refused once patience is over, so that it takes nobody's room for ever."""
    monkeypatch.setattr("qrng_source_server.calls.PATIENCE_S", 0.05)
    async with serving(WatchedSource()) as server, grpc.aio.insecure_channel(server.address) as channel:
        call: Any = channel.stream_unary(GET, None, None)()
        status, error, _ = await refusal(call)
        assert (status, error.message) == (grpc.StatusCode.INVALID_ARGUMENT, "no message came in time")


async def test_a_fault_of_ours_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw ends its call as INTERNAL, without its text; the log has its kind."""

    async def broken(_tap: object, _spec: object) -> None:
        raise ZeroDivisionError("inner words")

    async with serving(WatchedSource()) as server, stub_of(server) as stub:
        with monkeypatch.context() as patched, capture_logs() as logs:
            patched.setattr(Tap, "draw", broken)
            status, _, raised = await refusal(stub.GetEntropy(get(16)))
        assert status is grpc.StatusCode.INTERNAL
        assert "inner words" not in str(raised) + str(raised.trailing_metadata())
        assert [(line["event"], line["fault"]) for line in logs] == [("call_failed", "ZeroDivisionError")]
        assert len((await stub.GetEntropy(get(16))).data) == 16


async def test_health_knows_its_services() -> None:
    """What there is not is NOT_FOUND when asked for, and unknown when watched."""
    async with serving(WatchedSource()) as server, grpc.aio.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "qrng.v1.EntropyService", "liveness"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        stranger = health_pb2.HealthCheckRequest(service="stranger")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(stranger)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(stranger)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def test_bytes_that_took_too_long_are_refused() -> None:
    """A reply is never older than its request allows; what took longer to measure is lost."""
    clock = ManualClock()
    source = WatchedSource(clock, takes_s=2)
    async with serving(source, clock) as server, stub_of(server) as stub:
        status, _, _ = await refusal(stub.GetEntropy(get(16, max_age_ms=1999)))
        assert status is grpc.StatusCode.UNAVAILABLE
        reply = await stub.GetEntropy(get(16, max_age_ms=2000, fresh=True))
        assert source.offset_of(reply.data) == START_UP + 16


async def test_grpc_itself_may_try_a_refused_call_again() -> None:
    """A call with one reply that is refused had no headers before: they would tell a client's policy to give up."""
    clock = ManualClock()
    source = WatchedSource(clock, takes_s=2)
    options = (tries_twice_after("UNAVAILABLE"),)
    async with serving(source, clock) as server:
        async with grpc.aio.insecure_channel(server.address, options=options) as channel:
            await refusal(entropy_pb2_grpc.EntropyServiceStub(channel).GetEntropy(get(16, max_age_ms=1999)))
        assert source.sizes == [16, 16]


async def test_what_is_no_message_is_a_bad_argument() -> None:
    """A request that cannot be read, or none at all, is refused as such."""
    async with serving(WatchedSource()) as server, grpc.aio.insecure_channel(server.address) as channel:
        unary: Any = channel.unary_unary(GET, None, None)
        status, error, _ = await refusal(unary(b"\xff\xff"))
        assert (status, type(error)) == (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError)
        empty: Any = channel.stream_unary(GET, None, None)
        status, error, _ = await refusal(empty(iter(())))
        assert (status, type(error)) == (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError)


async def test_a_key_is_needed_where_there_are_any(tmp_path: Path) -> None:
    """Of all three services; the right one lets in, as metadata or bearer. Health and reflection need none."""
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(KEY + "\n")
    source = WatchedSource()
    async with serving(source, api_key_files=[file]) as server, grpc.aio.insecure_channel(server.address) as channel:
        wrong = [None, (("api-key", KEY[:-1]),), (("api-key", KEY), ("api-key", KEY)), (("authorization", KEY),)]
        for path in (GET, "/qr_entropy.EntropyService/GetEntropy", "/qrng.QuantumRNG/GetRandomBytes"):
            call: Any = channel.unary_unary(path, None, None)
            for metadata in wrong:
                status, _, _ = await refusal(call(b"\x08\x10", metadata=metadata))
                assert status is grpc.StatusCode.UNAUTHENTICATED
            assert source.asked == []
        right: Any = channel.unary_unary(GET, None, None)
        for metadata in ((("api-key", KEY),), (("authorization", f"Bearer {KEY}"),)):
            assert len(await right(b"\x08\x10", metadata=metadata)) > 16
        assert await health_pb2_grpc.HealthStub(channel).Check(EMPTY)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="*")])
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed = [
            service.name
            async for answer in reflection.ServerReflectionInfo(asked)
            for service in answer.list_services_response.service
        ]
        assert sorted(listed) == sorted(SERVICES)


async def test_over_tls_with_a_certificate_of_the_client(tmp_path: Path) -> None:
    """Beyond plaintext: the server shows its certificate and asks for the client's; without one nobody is let in."""
    authority = Authority.create("lab")
    ca_file, cert_file, key_file = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    ca_file.write_bytes(authority.issued.certificate)
    authority.server(["127.0.0.1"]).save(cert_file, key_file)
    settings = {"tls_cert_file": cert_file, "tls_key_file": key_file, "client_ca_file": ca_file}
    client = authority.client("spiffe://lab/reader")
    good = grpc.ssl_channel_credentials(authority.issued.certificate, client.key, client.certificate)
    nobody = grpc.ssl_channel_credentials(authority.issued.certificate)
    async with serving(WatchedSource(), **settings) as server:
        async with grpc.aio.secure_channel(server.address, good) as channel:
            stub: Any = entropy_pb2_grpc.EntropyServiceStub(channel)
            assert len((await stub.GetEntropy(get(16))).data) == 16
        async with grpc.aio.secure_channel(server.address, nobody) as channel:
            stub = entropy_pb2_grpc.EntropyServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetEntropy(get(16))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_end_is_polite() -> None:
    """Who watches health is told, streams end with a status that says reconnect, and what is read for is answered."""
    source = WatchedSource()
    context = serving(source)
    server = await context.__aenter__()
    async with stub_of(server) as stub, grpc.aio.insecure_channel(server.address) as channel:
        watch: Any = health_pb2_grpc.HealthStub(channel).Watch(EMPTY)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        conversation = stub.StreamEntropy()
        await conversation.write(entropy_pb2.StreamEntropyRequest(bytes_needed=16))
        assert len((await conversation.read()).data) == 16
        source.open.clear()
        source.reading.clear()
        running = asyncio.ensure_future(stub.GetEntropy(get(16)))
        await source.reading.wait()
        waiting = asyncio.ensure_future(stub.GetEntropy(get(16)))
        await in_line(server, 2)
        ending = asyncio.ensure_future(context.__aexit__(None, None, None))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        source.open.set()
        assert len((await running).data) == 16
        for call in (conversation.read(), waiting, watch.read()):
            status, error, _ = await refusal(call)
            assert (status, type(error)) == (grpc.StatusCode.UNAVAILABLE, DrainingError)
        await ending
    with pytest.raises(SourceError):
        await source.read(1)
