"""The gRPC source against real servers: a simulated one in all its moods, and a stock one it has never heard of."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import textwrap
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from pydantic import SecretStr

from qrng_grpc.channel import Endpoint
from qrng_grpc.errors import SourceError
from qrng_grpc.generic_codec import MalformedReplyError, MessageShape, bytes_field
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources.grpc import GrpcCaller, GrpcMethod, GrpcSource, GrpcStatusError, Mode, pushback_s
from qrng_grpc.testing.grpc_source import WORDS, GrpcEntropyServer, GrpcMisbehaviour
from tests.programs import free_address
from tests.waiting import until

PATH = "/lab.v7.Entropy/Draw"
KEY = "a-key-that-nobody-may-see"
ECHOING = MessageShape(request_echo_field=2, reply_echo_field=2)
MODES: tuple[Mode, ...] = ("unary", "server_streaming", "bidi_streaming")
PATIENCE_S = 60.0
"""For exchanges that must succeed beside those that are to be late."""

every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
async def server() -> AsyncIterator[GrpcEntropyServer]:
    async with GrpcEntropyServer(ECHOING, seed=1) as running:
        yield running


@asynccontextmanager
async def source_at(
    address: str,
    *,
    mode: Mode = "unary",
    path: str = PATH,
    shape: MessageShape = ECHOING,
    max_request_bytes: int = 1 << 20,
    ca_file: Path | None = None,
    **arguments: Any,
) -> AsyncIterator[GrpcSource]:
    """Open a source, and close it again."""
    method = GrpcMethod(path, mode=mode, shape=shape, max_request_bytes=max_request_bytes)
    source = GrpcSource(
        Endpoint(address, ca_file=ca_file),
        method,
        source_class=SourceClass.QUANTUM,
        device_id="lab-0",
        **arguments,
    )
    try:
        yield source
    finally:
        await source.close()


async def failure_of(source: GrpcSource, size: int = 64) -> SourceError:
    with pytest.raises(SourceError) as refusal:
        await source.read(size)
    return refusal.value


async def test_label_is_as_stated() -> None:
    """Class, device id and custody are the operator's statement."""
    async with source_at("localhost:1", custody=Custody.REMOTE) as source:
        label = source.label
    assert (label.source_class, label.device_ids, label.custody) == (
        SourceClass.QUANTUM,
        ("lab-0",),
        Custody.REMOTE,
    )


@every_mode
async def test_reads_are_exact(server: GrpcEntropyServer, mode: Mode) -> None:
    """Reads return the very bytes the server made, as many as were asked for, none twice."""
    async with source_at(server.address, mode=mode) as source:
        pieces = [await source.read(size) for size in (1, 1024, 65_537, 1 << 20)]
    assert [len(piece) for piece in pieces] == [1, 1024, 65_537, 1 << 20]
    assert b"".join(pieces) == server.served
    assert server.connections == 1
    assert len(server.methods) == (1 if mode == "bidi_streaming" else 4)
    assert set(server.methods) == {PATH}


@every_mode
async def test_concurrent_reads_do_not_mix(server: GrpcEntropyServer, mode: Mode) -> None:
    """Of many reads at a time each gets its own bytes, exactly as many as it asked for."""
    sizes = [16 + n for n in range(50)]
    async with source_at(server.address, mode=mode) as source:
        pieces = await asyncio.gather(*(source.read(size) for size in sizes))
    assert [len(piece) for piece in pieces] == sizes
    assert all(piece in server.served for piece in pieces)
    assert len(set(pieces)) == len(server.requests) == 50


@every_mode
async def test_large_reads_are_split(mode: Mode) -> None:
    """No request asks for more than the server gives at once; the parts are put together in order."""
    shape = MessageShape()
    async with (
        GrpcEntropyServer(shape) as plain,
        source_at(plain.address, mode=mode, shape=shape, max_request_bytes=13_312) as source,
    ):
        assert await source.read(2 * 13_312 + 1) == plain.served
        assert [request.hex(" ") for request in plain.requests] == ["08 80 68", "08 80 68", "08 01"]


@every_mode
@pytest.mark.parametrize("kind", ["extra_fields", "duplicate_fields", "reply_and_end"])
async def test_unusual_but_right(server: GrpcEntropyServer, mode: Mode, kind: GrpcMisbehaviour) -> None:
    """Unknown fields, repeated fields and a call that ends after its reply are no faults."""
    server.fail_next(kind, times=2)
    async with source_at(server.address, mode=mode) as source:
        pieces = [await source.read(64) for _ in range(3)]
    assert all(piece in server.served for piece in pieces)
    assert len(set(pieces)) == 3


@every_mode
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("short", "63 bytes where 64"),
        ("long", "65 bytes where 64"),
        ("empty", "0 bytes where 64"),
        ("truncated", "ends within"),
        ("wrong_wire_type", "another type"),
        ("group", "a group"),
        ("field_zero", "number that is none"),
        ("huge_length", "ends within a field"),
        ("wrong_echo", "another number"),
    ],
)
async def test_wrong_replies_are_errors_and_no_bytes(
    server: GrpcEntropyServer, mode: Mode, kind: GrpcMisbehaviour, text: str
) -> None:
    """A reply that is wrong in any way is a SourceError of ours; the next read succeeds and repeats nothing."""
    async with source_at(server.address, mode=mode) as source:
        server.fail_next(kind)
        failure = await failure_of(source)
        spoilt = len(server.served)
        assert await source.read(64) == server.served[spoilt:]
    assert isinstance(failure, MalformedReplyError)
    assert text in failure.message
    assert failure.__context__ is None
    assert failure.retry_after_s is None


@every_mode
@pytest.mark.parametrize("kind", ["no_reply", "oversize", "cut"])
async def test_calls_without_a_usable_reply(server: GrpcEntropyServer, mode: Mode, kind: GrpcMisbehaviour) -> None:
    """A call that ends without a reply, brings one of enormous size or breaks off fails that read only."""
    async with source_at(server.address, mode=mode) as source:
        await source.read(1)
        server.fail_next(kind, times=2 if (mode, kind) == ("bidi_streaming", "no_reply") else 1)
        await failure_of(source)
        spoilt = len(server.served)
        data = await _first_success(source)
    assert data == server.served[spoilt:]


async def _first_success(source: GrpcSource) -> bytes:
    """Read until it works: a connection that was reset takes a moment to be replaced."""
    while True:
        try:
            return await source.read(64)
        except GrpcStatusError as error:
            assert error.status == "UNAVAILABLE"
            await asyncio.sleep(0.01)


@every_mode
@pytest.mark.parametrize("kind", ["silent", "late", "drip"])
async def test_waiting_ends_at_the_time_limit(server: GrpcEntropyServer, mode: Mode, kind: GrpcMisbehaviour) -> None:
    """A server that says nothing, or not enough, holds a read up to the limit; the next read gets its own bytes."""
    async with source_at(server.address, mode=mode, timeout_s=0.4) as source:
        patiently = partial(source._caller.exchange, timeout_s=PATIENCE_S)
        await patiently(1)
        server.fail_next(kind, times=100)
        failure = await failure_of(source)
        server.fail_no_more()
        server.answer_late()
        spoilt = len(server.served)
        assert await patiently(64) in server.served[spoilt:]
    assert isinstance(failure, GrpcStatusError)
    assert failure.status == "DEADLINE_EXCEEDED"
    assert failure.__context__ is None


@every_mode
async def test_late_reply_after_a_cancelled_read_is_nobodys(mode: Mode) -> None:
    """What a cancelled read had asked for is never taken for the answer to the next one, even of the same size."""
    shape = MessageShape()
    async with GrpcEntropyServer(shape) as plain, source_at(plain.address, mode=mode, shape=shape) as source:
        plain.fail_next("late")
        read = asyncio.create_task(source.read(64))
        await plain.holding.wait()
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        plain.answer_late()
        assert await source.read(64) == plain.served[64:]


async def test_second_reply_is_nobodys(server: GrpcEntropyServer) -> None:
    """A reply that comes twice on a call is never the answer to the next request."""
    async with source_at(server.address, mode="bidi_streaming") as source:
        server.fail_next("twice")
        first = await source.read(64)
        second = await _first_exact(source)
    assert first == server.served[:64]
    assert second == server.served[-64:]
    assert first != second


async def _first_exact(source: GrpcSource) -> bytes:
    """Read; where the second copy comes only now, the echo has it refused, and the next read is on a new call."""
    try:
        return await source.read(64)
    except MalformedReplyError:
        return await source.read(64)


async def test_second_reply_that_has_arrived_ends_the_call() -> None:
    """Without an echo, a reply nobody asked for is seen before the next request, which goes out on a new call."""
    shape = MessageShape()
    async with (
        GrpcEntropyServer(shape) as plain,
        source_at(plain.address, mode="bidi_streaming", shape=shape) as source,
    ):
        plain.fail_next("twice")
        first = await source.read(64)
        await _quiet(source)
        assert await source.read(64) == plain.served[64:]
        assert first == plain.served[:64]
        assert len(plain.methods) == 2


async def _quiet(source: GrpcSource) -> None:
    """Wait until the kept call has brought something, or has ended."""
    kept = source._caller._kept
    await until(lambda: kept is None or not kept.ready)


async def test_kept_call_is_replaced_when_the_server_ends_it(server: GrpcEntropyServer) -> None:
    """A call that the server ends between reads costs no read."""
    async with source_at(server.address, mode="bidi_streaming") as source:
        for _ in range(3):
            server.fail_next("reply_and_end")
            assert len(await source.read(64)) == 64
    assert len(server.requests) == 3


async def test_one_shot_calls_are_ended(server: GrpcEntropyServer) -> None:
    """In server_streaming mode no call outlives its exchange."""
    async with source_at(server.address, mode="server_streaming") as source:
        for _ in range(3):
            await source.read(8)
        await until(lambda: server.calls_ended == 3)


@every_mode
@pytest.mark.parametrize("status", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_refusals_are_told_by_name_only(server: GrpcEntropyServer, mode: Mode, status: grpc.StatusCode) -> None:
    """Of a refusal we tell the status code's name; no text of the server is in the error, its causes or its state."""
    async with source_at(server.address, mode=mode) as source:
        server.refuse_next(status)
        failure = await failure_of(source)
        assert len(await source.read(8)) == 8
    assert isinstance(failure, GrpcStatusError)
    assert failure.status == status.name
    assert failure.message == f"the call to the source ended with status {status.name}"
    assert failure.__context__ is None
    assert WORDS not in "".join(traceback.format_exception(failure)) + repr(vars(failure))


@every_mode
@pytest.mark.parametrize(
    ("status", "pushback_ms", "seconds"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "1500", 1.5),
        (grpc.StatusCode.UNAVAILABLE, "250", 0.25),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "999999999999", 3600.0),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, None),
        (grpc.StatusCode.PERMISSION_DENIED, "1500", None),
    ],
)
async def test_server_names_a_time(
    server: GrpcEntropyServer, mode: Mode, status: grpc.StatusCode, pushback_ms: str | None, seconds: float | None
) -> None:
    """A server that is busy is asked again when it says, within an hour."""
    server.pushback_ms = pushback_ms
    server.refuse_next(status)
    async with source_at(server.address, mode=mode) as source:
        assert (await failure_of(source)).retry_after_s == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), (b"20", 0.02), ("-1", None), ("1.5", None), ("", None), ("\u0664", None), ("9" * 5000, 3600.0)],
)
def test_pushback_is_a_number_or_nothing(value: str | bytes, seconds: float | None) -> None:
    """A push-back is read as plain digits; anything else names no time."""
    assert pushback_s([("other", "7"), ("grpc-retry-pushback-ms", value)]) == seconds


@every_mode
async def test_key_is_in_every_call_and_nowhere_else(mode: Mode) -> None:
    """The key opens the server, and shows in no repr and no error."""
    async with GrpcEntropyServer(ECHOING, api_key=KEY) as locked:
        async with source_at(locked.address, mode=mode, api_key=SecretStr(KEY)) as source:
            assert len(await source.read(8)) == 8
            locked.refuse_next(grpc.StatusCode.INTERNAL)
            told = "".join(traceback.format_exception(await failure_of(source)))
            assert KEY not in told + repr(source) + repr(source._caller)
        for wrong in (None, SecretStr("another")):
            async with source_at(locked.address, mode=mode, api_key=wrong) as source:
                assert "UNAUTHENTICATED" in (await failure_of(source)).message


async def test_key_travels_under_the_name_set() -> None:
    """The name of the key's metadata is a setting."""
    async with GrpcEntropyServer(api_key=KEY, api_key_header="x-lab.key") as locked:
        caller = GrpcCaller(
            Endpoint(locked.address), GrpcMethod(PATH, api_key_header="x-lab.key"), api_key=SecretStr(KEY)
        )
        assert len(await caller.exchange(8, timeout_s=5)) == 8
        await caller.close()


@every_mode
async def test_tls_with_a_ca_file(mode: Mode) -> None:
    """A CA file admits its server; with gRPC's own CAs the same server is refused and hears no request."""
    async with GrpcEntropyServer(ECHOING, tls=True) as secure:
        async with source_at(secure.address, mode=mode, ca_file=secure.ca_file) as source:
            assert await source.read(64) == secure.served
        method = GrpcMethod(PATH, mode=mode, shape=ECHOING)
        caller = GrpcCaller(Endpoint(secure.address, tls=True), method)
        with pytest.raises(GrpcStatusError) as refusal:
            await caller.exchange(64, timeout_s=5)
        await caller.close()
        assert refusal.value.status == "UNAVAILABLE"
        assert len(secure.requests) == 1


@every_mode
async def test_echo_of_the_callers_choice(server: GrpcEntropyServer, mode: Mode) -> None:
    """Any 64-bit number may be sent for the reply to repeat."""
    caller = GrpcCaller(Endpoint(server.address), GrpcMethod(PATH, mode=mode, shape=ECHOING))
    for echo in (0, 1, -1, (1 << 63) - 1, -(1 << 63)):
        assert len(await caller.exchange(8, timeout_s=5, echo=echo)) == 8
    await caller.close()


@every_mode
async def test_nobody_listens(mode: Mode) -> None:
    """A refused connection is UNAVAILABLE."""
    async with source_at(free_address(), mode=mode) as source:
        failure = await failure_of(source)
    assert isinstance(failure, GrpcStatusError)
    assert failure.status == "UNAVAILABLE"


@every_mode
async def test_page_on_the_port(mode: Mode) -> None:
    """A server that speaks something else is UNAVAILABLE, and its words stay with it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>" + WORDS.encode())
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with source_at(f"127.0.0.1:{port}", mode=mode) as source:
        failure = await failure_of(source)
    listener.close()
    await listener.wait_closed()
    assert isinstance(failure, GrpcStatusError)
    assert WORDS not in "".join(traceback.format_exception(failure))


@every_mode
async def test_closed_is_closed(server: GrpcEntropyServer, mode: Mode) -> None:
    """A closed source refuses to read; closing it again, or before its first read, does no harm."""
    async with source_at(server.address, mode=mode) as source:
        await source.read(1)
        await source.close()
        assert "closed" in (await failure_of(source)).message
    async with source_at(server.address, mode=mode) as unread:
        await unread.close()
        assert "closed" in (await failure_of(unread)).message
    assert len(server.requests) == 1


@every_mode
async def test_close_ends_running_reads(server: GrpcEntropyServer, mode: Mode) -> None:
    """Reads that wait for a silent server, or for their turn, end with SourceError when the source is closed."""
    server.fail_next("silent", times=2)
    async with source_at(server.address, mode=mode) as source:
        reads = [asyncio.create_task(source.read(64)) for _ in range(2)]
        await server.holding.wait()
        await source.close()
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the source is closed"] * 2


@every_mode
async def test_nothing_is_left_to_be_printed(
    server: GrpcEntropyServer, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals while nobody waits, dropped calls and a server that goes away leave nothing for asyncio to log."""
    with caplog.at_level(logging.DEBUG):
        async with source_at(server.address, mode=mode, timeout_s=0.2) as source:
            patiently = partial(source._caller.exchange, timeout_s=PATIENCE_S)
            await patiently(1)
            server.fail_next("late", times=100)
            await failure_of(source)
            server.fail_no_more()
            server.refuse_next(grpc.StatusCode.INTERNAL, times=100)
            with pytest.raises(SourceError):
                await patiently(64)
            server.fail_no_more()
            await patiently(1)
            server.cut()
            await _quiet(source)
        gc.collect()
        await asyncio.sleep(0)
    assert WORDS not in caplog.text
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("somewhere", "HOST:PORT"),
        ("::1:50051", "brackets"),
        ("10.0.0.115:50051", "plaintext"),
        ("dns:///qrng.example:50051", "plaintext"),
        ("dns:qrng.example:50051", "plaintext"),
        ("dns://8.8.8.8/localhost:50051", "plaintext"),
    ],
)
def test_addresses_that_cannot_be_used(address: str, text: str) -> None:
    """An address that is none, or plaintext to another machine, is refused before anything is opened."""
    with pytest.raises(ValueError, match=text) as refusal:
        GrpcCaller(Endpoint(address), GrpcMethod(PATH))
    assert address not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ({"path": "qrng.QuantumRNG/GetRandomBytes"}, "path"),
        ({"path": "/GetRandomBytes"}, "path"),
        ({"path": "/a/b/c"}, "path"),
        ({"path": "/a/b\n"}, "path"),
        ({"mode": "duplex"}, "mode"),
        ({"max_request_bytes": 0}, "max_request_bytes"),
        ({"max_request_bytes": (16 << 20) + 1}, "max_request_bytes"),
        ({"api_key_header": "Api-Key"}, "api_key_header"),
        ({"api_key_header": "grpc-key"}, "api_key_header"),
        ({"api_key_header": "key-bin"}, "api_key_header"),
        ({"api_key_header": ""}, "api_key_header"),
    ],
)
def test_methods_that_cannot_work_are_refused(arguments: dict[str, Any], setting: str) -> None:
    """A method that no server could have names the setting at fault."""
    with pytest.raises(ValueError, match=setting):
        GrpcMethod(**{"path": PATH} | arguments)


@pytest.mark.parametrize("key", ["", " secret", "secret ", "sec\nret", "s\u00e9cret", "secret" * 200])
def test_keys_that_cannot_travel_are_refused(key: str) -> None:
    """A key that is empty or could not stand in metadata is refused, unseen."""
    with pytest.raises(ValueError, match="api_key") as refusal:
        GrpcCaller(Endpoint("localhost:1"), GrpcMethod(PATH), api_key=SecretStr(key))
    assert "secret" not in str(refusal.value)


async def test_sizes_out_of_range_are_the_callers_mistake() -> None:
    """An exchange is for 1 byte to as many as the server gives at once."""
    caller = GrpcCaller(Endpoint("localhost:1"), GrpcMethod(PATH, max_request_bytes=100))
    for size in (0, -1, 101):
        with pytest.raises(ValueError, match="size"):
            await caller.exchange(size, timeout_s=1)
    await caller.close()


PROTO = """
syntax = "proto3";
package acme.vault.v2;
message Tenant { string name = 1; }
message DrawRequest { Tenant tenant = 3; uint64 how_many = 700; sint32 level = 4; }
message DrawReply {
  repeated fixed32 spectrum = 1; double bias = 2; map<string, string> tags = 8; bytes octets = 19; fixed64 serial = 21;
}
service Vault {
  rpc Draw (DrawRequest) returns (DrawReply);
  rpc Pour (stream DrawRequest) returns (stream DrawReply);
}
"""

SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc, vault_pb2, vault_pb2_grpc

def reply(request, context):
    if request.tenant.name != "physics" or ("x-token", "sesame-and-more") not in list(context.invocation_metadata()):
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "go away")
    octets = bytes((7 * n) % 256 for n in range(request.how_many))
    return vault_pb2.DrawReply(spectrum=[1, 2, 3], bias=0.5, tags={"a": "b"}, octets=octets, serial=9)

class Vault(vault_pb2_grpc.VaultServicer):
    def Draw(self, request, context):
        return reply(request, context)
    def Pour(self, requests, context):
        for request in requests:
            yield reply(request, context)

server = grpc.server(ThreadPoolExecutor(8))
vault_pb2_grpc.add_VaultServicer_to_server(Vault(), server)
port = server.add_insecure_port("localhost:0")
server.add_insecure_port("unix:" + sys.argv[1])
six = server.add_insecure_port("[::1]:0")
server.start()
print(port, six, flush=True)
sys.stdin.read()
server.stop(None).wait()
"""


@asynccontextmanager
async def stock_server(directory: Path) -> AsyncIterator[dict[str, str]]:
    """Run a stock grpcio server of a proto made here, in a process of its own. Yields its addresses."""
    (directory / "vault.proto").write_text(PROTO)
    (directory / "serve.py").write_text(textwrap.dedent(SERVER))
    stubs = ("-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=.", "vault.proto")
    protoc = await asyncio.create_subprocess_exec(sys.executable, *stubs, cwd=directory)
    assert await protoc.wait() == 0
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "serve.py", "vault.sock"),
        cwd=directory,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    port, six = (await process.stdout.readline()).split()
    try:
        yield {
            "host": f"localhost:{int(port)}",
            "dns": f"dns:///localhost:{int(port)}",
            "dns without slashes": f"dns:localhost:{int(port)}",
            "IPv6": f"[::1]:{int(six)}",
            "unix": f"unix:{directory}/vault.sock",
            "unix with slashes": f"unix://{directory}/vault.sock",
        }
    finally:
        process.stdin.close()
        await process.wait()


async def test_stock_server_with_a_foreign_proto(tmp_path: Path) -> None:
    """A server nobody here has heard of is a source by settings alone, in every mode and at every kind of address."""
    shape = MessageShape(count_field=700, data_field=19, prefix=bytes_field(3, bytes_field(1, b"physics")))
    expected = bytes((7 * n) % 256 for n in range(5000))
    async with stock_server(tmp_path) as addresses:
        for address in addresses.values():
            for mode in MODES:
                path = "/acme.vault.v2.Vault/Draw" if mode == "unary" else "/acme.vault.v2.Vault/Pour"
                method = GrpcMethod(path, mode=mode, shape=shape, api_key_header="x-token")
                caller = GrpcCaller(Endpoint(address), method, api_key=SecretStr("sesame-and-more"))
                for _ in range(3):
                    assert await caller.exchange(5000, timeout_s=10) == expected
                await caller.close()
        async with source_at(addresses["host"], path="/acme.vault.v2.Vault/Draw", shape=shape) as source:
            assert "PERMISSION_DENIED" in (await failure_of(source)).message
        async with source_at(addresses["host"], path="/acme.vault.v2.Vault/Other", shape=shape) as source:
            assert "UNIMPLEMENTED" in (await failure_of(source)).message
