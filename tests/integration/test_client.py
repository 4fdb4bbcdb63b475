"""The client library against a real gateway, and against a server that breaks the contract."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qrng_client import (
    Allowance,
    AsyncEntropyClient,
    BadReplyError,
    ChunkRange,
    ClientClosedError,
    Entropy,
    EntropyClient,
    GatewayStatus,
    Processing,
    SourceClass,
)
from qrng_grpc.certs import Authority
from qrng_grpc.channel import Endpoint, open_async_channel, open_channel
from qrng_grpc.chunk import BlockLabel
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, Limits, changing_client_file, digest_of
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidRequestError,
    LimitError,
    PoolShortError,
    QrngError,
    ServerUnreachableError,
    WeakerSourceError,
)
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc, labels_pb2
from tests.waiting import in_time, until

MIB = 1 << 20


class SyncReader:
    """The client for threads, driven from a thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = EntropyClient(*args, **kwargs)

    async def get(self, *args: Any, **kwargs: Any) -> Entropy:
        return await asyncio.to_thread(self._client.get, *args, **kwargs)

    async def stream(self, *args: Any, most: int | None = None, **kwargs: Any) -> list[Entropy]:
        return await asyncio.to_thread(lambda: list(islice(self._client.stream(*args, **kwargs), most)))

    async def status(self) -> GatewayStatus:
        return await asyncio.to_thread(self._client.status)

    @property
    def allowance(self) -> Allowance | None:
        return self._client.allowance

    async def close(self) -> None:
        self._client.close()


class AsyncReader:
    """The client for asyncio, with the same calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = AsyncEntropyClient(*args, **kwargs)
        self.get = self._client.get
        self.status = self._client.status
        self.close = self._client.close

    @property
    def allowance(self) -> Allowance | None:
        return self._client.allowance

    async def stream(self, *args: Any, most: int | None = None, **kwargs: Any) -> list[Entropy]:
        messages: list[Entropy] = []
        stream = self._client.stream(*args, **kwargs)
        async for entropy in stream:
            messages.append(entropy)
            if len(messages) == most:
                break
        await stream.aclose()
        return messages


Reader = SyncReader | AsyncReader


@pytest.fixture(params=[AsyncReader, SyncReader], ids=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> type[Reader]:
    chosen: type[Reader] = request.param
    return chosen


@asynccontextmanager
async def reader(kind: type[Reader], *args: Any, **kwargs: Any) -> AsyncIterator[Reader]:
    opened = kind(*args, **kwargs)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with running_gateway(max_wait=0) as running:
        yield running


async def test_get(kind: type[Reader], gateway: RunningGateway) -> None:
    """A client gets exactly the bytes that were pushed, with their labels."""
    data = os.urandom(4096)
    await gateway.push(data, capture_start_ns=(captured := gateway.clock.now_ns()))
    async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
        first, second = await client.get(1000), await client.get(3096)
    assert first.data + second.data == data
    assert first.source_class is SourceClass.OPERATING_SYSTEM
    assert (first.device_id, first.collector_id) == ("test-device", gateway.collector_id)
    assert first.capture_start_ns == first.capture_end_ns == first.generation_timestamp_ns == captured


async def test_get_more_than_a_message(kind: type[Reader], gateway: RunningGateway) -> None:
    """More bytes than a message holds arrive in order, exactly."""
    data = os.urandom(2 * MIB + 5)
    await gateway.push(data)
    async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
        entropy = await client.get(2 * MIB + 5)
    assert entropy.data == data


async def test_stream(kind: type[Reader], gateway: RunningGateway) -> None:
    """A bounded stream holds its total, in messages of the size asked for."""
    data = os.urandom(1000)
    await gateway.push(data)
    async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
        messages = await client.stream(300, 1000)
    assert [len(message) for message in messages] == [300, 300, 300, 100]
    assert b"".join(map(bytes, messages)) == data


async def test_endless_stream(kind: type[Reader], gateway: RunningGateway) -> None:
    """An endless stream can be left at any time; the client stays usable."""
    data = os.urandom(MIB)
    await gateway.push(data)
    async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
        messages = await client.stream(100, most=3)
        assert (await client.status()).pool_id == gateway.pool_id
    assert b"".join(map(bytes, messages)) == data[:300]


async def test_status(kind: type[Reader], gateway: RunningGateway) -> None:
    """The status says where every byte went."""
    await gateway.push(os.urandom(500))
    async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
        await client.get(200)
        status = await client.status()
    assert (status.accounting.stored_bytes, status.accounting.served_bytes, status.pooled_bytes) == (500, 200, 300)
    assert (status.capacity_bytes, status.watermark) == (10_000_000, "low")
    assert [(lane.source_class, lane.pooled_bytes) for lane in status.lanes] == [(SourceClass.OPERATING_SYSTEM, 300)]
    assert [collector.collector_id for collector in status.collectors] == [gateway.collector_id]
    assert status.state in ("healthy", "degraded")


async def test_errors_of_the_gateway(kind: type[Reader], gateway: RunningGateway) -> None:
    """What the gateway refuses, the client raises by its class."""
    async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
        with pytest.raises(PoolShortError) as short:
            await client.get(32)
        with pytest.raises(WeakerSourceError):
            await client.get(32, least_class=SourceClass.QUANTUM)
        with pytest.raises(InvalidRequestError):
            await client.get(0)
        with pytest.raises(PoolShortError):
            await client.stream(32, 64)
    assert short.value.retry_after_s is not None


async def test_lower_maximum(kind: type[Reader]) -> None:
    """A server with a lower maximum refuses more; told of it, the client splits."""
    async with running_gateway(max_wait=0, max_request_bytes=100) as gateway:
        data = os.urandom(250)
        await gateway.push(data)
        async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
            with pytest.raises(InvalidRequestError) as refused:
                await client.get(250)
        async with reader(kind, gateway.client_address, api_key=gateway.api_key, max_request_bytes=100) as client:
            assert (await client.get(250)).data == data
    assert refused.value.field == "bytes_needed"


@pytest.mark.parametrize("key", ["another-key-of-16-characters", "", None])
async def test_wrong_key(kind: type[Reader], gateway: RunningGateway, key: str | None) -> None:
    """Without a right key there is nothing, and the error does not repeat the key."""
    async with reader(kind, gateway.client_address, api_key=key) as client:
        for call in (client.get(32), client.stream(32, 64), client.status()):
            with pytest.raises(AuthenticationError) as caught:
                await call
            assert not key or key not in str(caught.value)


async def test_nobody_there(kind: type[Reader]) -> None:
    """A server that is not there is an error of its own."""
    async with reader(kind, "127.0.0.1:1", timeout_s=5) as client:
        for call in (client.get(32), client.stream(32, 64), client.status()):
            with pytest.raises(ServerUnreachableError):
                await call


async def test_given_channel_stays_open(gateway: RunningGateway) -> None:
    """A channel passed in belongs to its owner: the client leaves it open."""
    await gateway.push(os.urandom(64))
    async with open_async_channel(Endpoint(gateway.client_address)) as channel:
        for _ in range(2):
            async with AsyncEntropyClient(channel=channel, api_key=gateway.api_key) as client:
                assert len(await client.get(16)) == 16

    def twice() -> None:
        with open_channel(Endpoint(gateway.client_address)) as channel:
            for _ in range(2):
                with EntropyClient(channel=channel, api_key=gateway.api_key) as client:
                    assert len(client.get(16)) == 16

    await asyncio.to_thread(twice)


async def test_after_close(kind: type[Reader], gateway: RunningGateway) -> None:
    """A client that was closed says so, whatever it is asked for, and can be closed again."""
    await gateway.push(os.urandom(64))
    client = kind(gateway.client_address, api_key=gateway.api_key)
    await client.get(8)
    for _ in range(2):
        await client.close()
    for call in (client.get(8), client.stream(8, 16), client.status()):
        with pytest.raises(ClientClosedError):
            await call
    assert gateway.gateway.pool.level == 56


async def test_from_env(gateway: RunningGateway) -> None:
    """A client made from the environment reads from the server it names."""
    await gateway.push(os.urandom(64))
    environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
    async with AsyncEntropyClient.from_env(environ) as client:
        assert len(await client.get(32)) == 32

    def read() -> int:
        with EntropyClient.from_env(environ) as client:
            return len(client.get(32))

    assert await asyncio.to_thread(read) == 32


async def test_key_header(kind: type[Reader]) -> None:
    """A key travels in the metadata that settings name, as a gateway that looks for it there needs it."""
    async with running_gateway(api_key_header="x-lab-key") as gateway:
        await gateway.push(os.urandom(64))
        async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
            with pytest.raises(AuthenticationError):
                await client.get(8)
        async with reader(kind, gateway.client_address, api_key=gateway.api_key, api_key_header="x-lab-key") as client:
            assert len(await client.get(8)) == 8
        environ = {
            "QR_GRPC_SERVER_ADDRESS": gateway.client_address,
            "QR_GRPC_API_KEY": gateway.api_key,
            "QR_GRPC_API_KEY_HEADER": "x-lab-key",
        }
        async with AsyncEntropyClient.from_env(environ) as asynchronous:
            assert len(await asynchronous.get(8)) == 8
        with EntropyClient.from_env(environ) as for_threads:
            assert len(await asyncio.to_thread(for_threads.get, 8)) == 8


FORKING = """
import os, sys
from qrng_client import EntropyClient, QrngError

client = EntropyClient.from_env(os.environ)
print(len(client.get(8)), flush=True)
if (pid := os.fork()) == 0:
    for call in (lambda: client.get(8), client.status, lambda: next(client.stream(8))):
        try:
            call()
        except QrngError as error:
            print(error, flush=True)
    client.close()
    with EntropyClient.from_env(os.environ) as own:
        print(len(own.get(8)), flush=True)
    os._exit(0)
print(os.waitpid(pid, 0)[1], len(client.get(8)))
client.close()
"""


async def test_a_client_is_of_one_process(gateway: RunningGateway) -> None:
    """In a forked child the parent's client says what to do; a new one works there, and the parent's goes on."""
    await gateway.push(os.urandom(64))
    environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKING),
        env={**{name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    stdout, _ = await program.communicate()
    refusal = "this client belongs to the parent process; make a new one after a fork"
    assert stdout.decode().splitlines() == ["8", refusal, refusal, refusal, "8", "0 8"]


# ---- What a caller may demand, and what it is told ----------------------------------------------------------


async def test_fresh(kind: type[Reader]) -> None:
    """Bytes that were there are not fresh: the call waits for a chunk captured after it came, as long as it takes."""
    async with (
        running_gateway(max_fresh_wait=60) as gateway,
        reader(kind, gateway.client_address, api_key=gateway.api_key) as client,
    ):
        await gateway.push(os.urandom(64))
        waiting = asyncio.create_task(client.get(32, fresh=True))
        await until(lambda: gateway.gateway.pool.waiting == 1)
        asked_ns, data = gateway.clock.now_ns(), os.urandom(32)
        await gateway.push(data)
        entropy = await waiting
    assert entropy.data == data
    assert entropy.capture_start_ns >= asked_ns


async def test_fresh_in_vain(kind: type[Reader]) -> None:
    """Fresh bytes that do not come are a short pool."""
    async with (
        running_gateway(max_fresh_wait=0) as gateway,
        reader(kind, gateway.client_address, api_key=gateway.api_key) as client,
    ):
        await gateway.push(os.urandom(64))
        for call in (client.get(32, fresh=True), client.stream(32, 64, fresh=True)):
            with pytest.raises(PoolShortError):
                await call


async def test_provenance(kind: type[Reader], gateway: RunningGateway) -> None:
    """Where bytes came from is told when asked for, range by range, over several messages too."""
    data = os.urandom(300)
    await gateway.push(data[:100])
    await gateway.push(data[100:])
    async with reader(kind, gateway.client_address, api_key=gateway.api_key, max_request_bytes=80) as client:
        entropy = await client.get(160, provenance=True)
        (message,) = await client.stream(40, 40, provenance=True)
        assert (await client.get(40)).provenance == ()
    first, second = (partial(ChunkRange, gateway.collector_id, gateway.epoch, number) for number in (1, 2))
    assert entropy.data == data[:160]
    assert entropy.provenance == (first(0, 80), first(80, 20), second(0, 60))
    assert message.provenance == (second(60, 40),)


async def test_processing(kind: type[Reader], gateway: RunningGateway) -> None:
    """Only bytes of the processing asked for come; those of several lanes only where that is allowed."""
    label = BlockLabel(("test-device",), SourceClass.OPERATING_SYSTEM)
    await gateway.push(b"n" * 32, label=label)
    await gateway.push(b"m" * 32, label=replace(label, processing=Processing.MIXED))
    async with reader(kind, gateway.client_address, api_key=gateway.api_key) as client:
        assert (await client.get(16, processing=Processing.NONE)).data == b"n" * 16
        with pytest.raises(PoolShortError):
            await client.get(48)
        both = await client.get(48, span_lanes=True)
    assert (sorted(both.data), both.processing) == (sorted(b"n" * 16 + b"m" * 32), Processing.MIXED)


KEY = "key-of-the-sampler"


@asynccontextmanager
async def limited(kind: type[Reader], directory: Path, **rights: Any) -> AsyncIterator[tuple[RunningGateway, Reader]]:
    """A gateway whose time stands still, and a reader whose record has `rights`."""
    file, clock = directory / "clients.yaml", ManualClock()
    with changing_client_file(file) as records:
        records.append(ClientRecord(Client("sampler", **rights), (KeyDigest(digest_of(KEY)),)))
    async with (
        running_gateway(clock=clock, max_wait=0, api_keys_file=file) as gateway,
        reader(kind, gateway.client_address, api_key=KEY) as client,
    ):
        clock.advance(1)
        await gateway.push(os.urandom(4096))
        yield gateway, client


async def test_what_is_left(kind: type[Reader], tmp_path: Path) -> None:
    """A client knows from the status, each refusal, and each answer once it is little, what it may still have."""
    limits = Limits(requests_per_s=10, bytes_per_day=1000)
    async with limited(kind, tmp_path, limits=limits) as (_, client):
        assert client.allowance is None
        await client.get(400)
        assert client.allowance is None
        await client.status()
        assert client.allowance == Allowance(requests=8, bytes_today=600)
        with pytest.raises(LimitError):
            await client.get(601)
        assert client.allowance == Allowance(requests=7, bytes_today=600)
        await client.stream(50, 150)
        assert client.allowance == Allowance(requests=6, bytes_today=450)


async def test_when_to_come_back(kind: type[Reader], tmp_path: Path) -> None:
    """A refusal for too many requests says when the next may come, and then it may."""
    async with limited(kind, tmp_path, limits=Limits(requests_per_s=0.25)) as (gateway, client):
        await client.get(8)
        with pytest.raises(LimitError, match="try again in") as over:
            await client.get(8)
        assert over.value.retry_after_s is not None
        gateway.clock.advance(over.value.retry_after_s)  # type: ignore[attr-defined]
        assert len(await client.get(8)) == 8


async def test_forbidden(kind: type[Reader], tmp_path: Path) -> None:
    """A good key for other methods is told apart from a wrong one."""
    allowed = frozenset(("qrng.v1.EntropyService/GetEntropy",))
    async with limited(kind, tmp_path, methods=allowed) as (_, client):
        assert len(await client.get(8)) == 8
        for call in (client.stream(8, 8), client.status()):
            with pytest.raises(ForbiddenError):
                await call


async def test_status_in_motion(kind: type[Reader], tmp_path: Path) -> None:
    """The status tells how fast bytes come and go, when that ends, and how far a collector's clock is off."""
    async with limited(kind, tmp_path) as (gateway, client):
        clock: ManualClock = gateway.clock  # type: ignore[assignment]
        clock.advance(300)
        gateway.gateway.pool.look_ahead()
        for _ in range(10):
            clock.advance(1)
            await client.get(200)
            gateway.gateway.pool.look_ahead()
        await gateway.push(os.urandom(8), capture_start_ns=clock.now_ns() - 2 * NS_PER_S)
        status = await client.status()
    assert status.outflow_bytes_per_s > status.inflow_bytes_per_s >= 0
    assert status.forecast_s is not None
    assert status.forecast_s > 0
    (collector,) = status.collectors
    assert collector.clock_skew_s is not None


# ---- A server that breaks the contract --------------------------------------------------------------------


@dataclass
class FakeService(entropy_pb2_grpc.EntropyServiceServicer):
    """An EntropyService that answers zeros, changed by `spoil`; ends streams after `most`, or falls silent."""

    spoil: dict[str, Any] = field(default_factory=dict)
    most: int = 1000
    silent: bool = False
    abort: str | None = None

    async def GetEntropy(self, request: Any, context: Any) -> Any:
        if self.abort is not None:
            await context.abort(grpc.StatusCode.INTERNAL, self.abort)
        return entropy_pb2.GetEntropyResponse(**self._whole(request.bytes_needed, request.sequence_id))

    async def SubscribeEntropy(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for _ in range(self.most):
            yield entropy_pb2.SubscribeEntropyResponse(**self._whole(request.bytes_per_message, request.sequence_id))
        if self.silent:
            await asyncio.Event().wait()

    def _whole(self, size: int, sequence_id: int) -> dict[str, Any]:
        whole = {
            "data": bytes(size),
            "sequence_id": sequence_id,
            "source_class": labels_pb2.SOURCE_CLASS_QUANTUM,
            "processing": labels_pb2.PROCESSING_NONE,
            "custody": labels_pb2.CUSTODY_LOCAL,
            "health_verdict": labels_pb2.HEALTH_VERDICT_PASSED,
        }
        return whole | self.spoil


@asynccontextmanager
async def serving(service: FakeService, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    entropy_pb2_grpc.add_EntropyServiceServicer_to_server(service, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.mark.parametrize(
    "spoil", [{"data": b"short"}, {"sequence_id": -1}, {"source_class": 0}, {"custody": 9}], ids=str
)
async def test_broken_reply(kind: type[Reader], spoil: dict[str, Any]) -> None:
    """A reply that is not exactly what was asked for is an error, on every kind of call."""
    async with serving(FakeService(spoil)) as address, reader(kind, address) as client:
        with pytest.raises(BadReplyError):
            await client.get(32)
        with pytest.raises(BadReplyError):
            await client.stream(32, 64)


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"<html>"], ids=str)
async def test_unreadable_reply(kind: type[Reader], raw: bytes) -> None:
    """A reply that is no message at all is an error of ours, on every kind of call."""

    async def answer(_request: bytes, _context: Any) -> bytes:
        return raw

    methods = {name: grpc.unary_unary_rpc_method_handler(answer) for name in ("GetEntropy", "GetStatus")}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("qrng.v1.EntropyService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with reader(kind, f"127.0.0.1:{port}") as client:
            for call in (lambda: client.get(32), client.status):
                with pytest.raises(QrngError):
                    await call()
    finally:
        await server.stop(0)


async def test_stream_cut_short(kind: type[Reader]) -> None:
    """A stream that ends well before its total is an error, not a smaller total."""
    async with serving(FakeService(most=2)) as address, reader(kind, address) as client:
        with pytest.raises(BadReplyError, match="before it was complete"):
            await client.stream(32, 96)


@pytest.mark.parametrize("end", [{"most": 1000}, {"most": 2}, {"most": 2, "silent": True}], ids=str)
async def test_what_comes_after_all_that_was_asked_for(kind: type[Reader], end: dict[str, Any]) -> None:
    """A stream that is complete ends well, whatever the server does then."""
    async with serving(FakeService(**end)) as address, reader(kind, address, timeout_s=0.1) as client:
        assert len(await in_time(lambda: client.stream(32, 64), ServerUnreachableError)) == 2


async def test_silent_stream(kind: type[Reader]) -> None:
    """A stream on which nothing comes ends in an error, not never."""
    async with serving(FakeService(most=1, silent=True)) as address, reader(kind, address, timeout_s=0.1) as client:
        with pytest.raises(ServerUnreachableError, match="in time"):
            await client.stream(32, 96)


async def test_text_of_a_stranger(kind: type[Reader]) -> None:
    """What a server writes into an error reaches nobody."""
    async with serving(FakeService(abort="evil\x1b[2J")) as address, reader(kind, address) as client:
        with pytest.raises(QrngError) as caught:
            await client.get(32)
    assert str(caught.value) == "the call failed (INTERNAL)"


# ---- TLS --------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[grpc.ServerCredentials, Path]:
    """A self-signed certificate for 127.0.0.1: what a server shows, and the file a client trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(pem)
    return grpc.ssl_server_credentials([(secret, pem)]), ca_file


async def test_tls(kind: type[Reader], certificate: tuple[grpc.ServerCredentials, Path]) -> None:
    """Over TLS a client believes the authority it was given, and no other."""
    credentials, ca_file = certificate
    async with serving(FakeService(), credentials) as address:
        async with reader(kind, address, ca_file=ca_file) as client:
            assert len(await client.get(32)) == 32
        async with reader(kind, address, tls=True) as client:
            with pytest.raises(ServerUnreachableError):
                await client.get(32)


async def test_certificate_of_the_client(kind: type[Reader], tmp_path: Path) -> None:
    """Where a gateway asks for certificates a client comes in with its own, without a key; without one, not at all."""
    uri, file = "spiffe://qrng/client/sampler", tmp_path / "clients.yaml"
    servers, clients = Authority.create("servers"), Authority.create("clients")
    for name, issued in (
        ("servers", servers.issued),
        ("clients", clients.issued),
        ("server", servers.server(["127.0.0.1"])),
        ("own", clients.client(uri)),
        ("foreign", servers.client(uri)),
        ("unlisted", clients.client(uri + "-unlisted")),
    ):
        issued.save(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    with changing_client_file(file) as records:
        records.append(ClientRecord(Client("sampler"), (), uri))
    settings = {
        "tls_cert_file": tmp_path / "server.pem",
        "tls_key_file": tmp_path / "server.key",
        "client_ca_file": tmp_path / "clients.pem",
        "api_keys_file": file,
    }
    reads = partial(reader, kind, ca_file=tmp_path / "servers.pem")
    async with running_gateway(max_wait=0, **settings) as gateway:
        await gateway.push(os.urandom(64))

        def showing(name: str) -> Any:
            return reads(gateway.client_address, cert_file=tmp_path / f"{name}.pem", key_file=tmp_path / f"{name}.key")

        async with showing("own") as client:
            assert len(await client.get(8)) == 8
        async with showing("unlisted") as client:
            with pytest.raises(AuthenticationError):
                await client.get(8)
        async with showing("foreign") as client:
            with pytest.raises(ServerUnreachableError):
                await client.get(8)
        async with reads(gateway.client_address, api_key=gateway.api_key) as client:
            with pytest.raises(ServerUnreachableError):
                await client.get(8)
