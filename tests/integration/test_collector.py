"""The collector against a gateway that says what a test wants it to say, over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from qrng_collector.app import collecting
from qrng_collector.config import ENV_PREFIX, CollectorConfig, RetryPolicy
from qrng_collector.link import disposed_count
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Chunk, Heartbeat
from qrng_grpc.errors import StateError
from qrng_grpc.keys import KeyRing
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing import LedgerSource, ScriptedSource
from qrng_grpc.v1 import push_pb2
from qrng_grpc.wire import decode_chunk
from tests.programs import free_address
from tests.waiting import until

SECRET = "0123456789abcdef0123456789abcdef"
SIZE = 64
HOSTILE = "HOSTILE-TEXT-OF-THE-PEER"
OWN_EVENTS = {"signing_with", "source_trusted", "collecting", "push_status", "source_accounting", "accounting"}

Call = AsyncIterator[Chunk | Heartbeat]
Context = grpc.aio.ServicerContext[bytes, bytes]
Behaviour = Callable[[Call, Context], Awaitable[bytes]]


def reply(count: int) -> bytes:
    return push_pb2.PushChunksResponse(disposed_count=count).SerializeToString()


async def take_all(call: Call, _context: Context) -> bytes:
    """Dispose of every chunk."""
    return reply(len([chunk async for chunk in call]))


def hold_at(count: int) -> Behaviour:
    """Dispose of `count` chunks, hold the next, and end the call OK without reading on."""

    async def behave(call: Call, _context: Context) -> bytes:
        for _ in range(count + 1):
            await anext(call)
        return reply(count)

    return behave


def end_with(code: grpc.StatusCode, details: str = "", metadata: tuple[tuple[str, str], ...] = ()) -> Behaviour:
    """Read everything, then end with a status: the caller cannot know what became of its chunks."""

    async def behave(call: Call, context: Context) -> bytes:
        await take_all(call, context)
        await context.abort(code, details, metadata)
        raise AssertionError

    return behave


def answer(raw: bytes) -> Behaviour:
    """Read everything, then answer with these bytes."""

    async def behave(call: Call, context: Context) -> bytes:
        await take_all(call, context)
        return raw

    return behave


async def over_count(call: Call, context: Context) -> bytes:
    """Claim one chunk more than there was."""
    return reply(len([chunk async for chunk in call]) + 1)


def after(event: asyncio.Event, behave: Behaviour) -> Behaviour:
    """Behave so, but only once something has happened."""

    async def wait_and_behave(call: Call, context: Context) -> bytes:
        await event.wait()
        return await behave(call, context)

    return wait_and_behave


async def hang(call: Call, context: Context) -> bytes:
    """Read everything, then say nothing until the caller gives up."""
    await take_all(call, context)
    await asyncio.Event().wait()
    raise AssertionError


class FakeGateway:
    """A PushService that behaves as scripted, one behaviour a call, then disposes of everything.

    It keeps what it read, call by call, and checks every signature.
    """

    def __init__(self, script: Iterable[Behaviour]) -> None:
        self.calls: list[list[Chunk]] = []
        self.heartbeats: list[Heartbeat] = []
        self.address = ""
        self.after_script = asyncio.Event()
        """Set when a call came for which nothing was scripted."""
        self.call_came = asyncio.Event()
        self._script = deque(script)
        self._keys = KeyRing([config(Path(), "127.0.0.1:1").key_records[0]])

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for call in self.calls for chunk in call]

    @property
    def first_of_each(self) -> dict[int, Chunk]:
        """Chunks by sequence."""
        return {chunk.identity.sequence: chunk for chunk in reversed(self.chunks)}

    async def push_chunks(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        carried: list[Chunk] = []
        self.calls.append(carried)
        self.call_came.set()
        behave = self._script.popleft() if self._script else None
        response = await (behave or take_all)(self._read(requests, carried), context)
        if behave is None:
            self.after_script.set()
        return response

    async def _read(self, requests: AsyncIterator[bytes], carried: list[Chunk]) -> Call:
        async for request in requests:
            signed = push_pb2.PushChunksRequest.FromString(request).signed_chunk
            self._keys.verified_by(signed.key_id, signed.chunk, signed.signature, 0)
            chunk = decode_chunk(signed.chunk)
            if isinstance(chunk, Chunk):
                assert chunk.intact
                carried.append(chunk)
            else:
                self.heartbeats.append(chunk)
            yield chunk


@asynccontextmanager
async def gateway(*script: Behaviour, address: str = "127.0.0.1:0") -> AsyncIterator[FakeGateway]:
    fake = FakeGateway(script)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.stream_unary_rpc_method_handler(fake.push_chunks)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("qrng.v1.PushService", {"PushChunks": handler}),)
    )
    fake.address = f"127.0.0.1:{server.add_insecure_port(address)}"
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)


def config(state_dir: Path, push_url: str, **settings: object) -> CollectorConfig:
    values: dict[str, object] = {
        "hmac_secret_key": SECRET,
        "hmac_key_id": "k1",
        "collector_id": "lab",
        "pool_id": "pool",
        "best_class": SourceClass.OPERATING_SYSTEM,
        "state_dir": state_dir,
        "push_url": push_url,
        "fetch_chunk_size": SIZE,
        "fetch_interval": 0.001,
        "push_interval": 0.02,
        "flush_timeout": 60,
        "retry_policy": RetryPolicy(initial_s=0.02, maximum_s=0.02),
        **settings,
    }
    return CollectorConfig(**values)


def blocks(count: int, size: int = SIZE) -> list[bytes]:
    """Blocks that differ."""
    return [n.to_bytes(4, "big") * (size // 4) for n in range(1, count + 1)]


def script_of(count: int, size: int = SIZE) -> ScriptedSource:
    return ScriptedSource(blocks(count, size))


async def collected(fake: FakeGateway, source: ScriptedSource, settings: CollectorConfig) -> dict[str, int]:
    """Collect until the source's script is over and the gateway's too; return the bytes' fates after the end."""
    async with collecting(settings, sources=[source]) as collector:
        await source.over.wait()
        await fake.after_script.wait()
    counters = collector.counters
    assert counters.captured == counters.gone
    assert collector.queue.queued == 0
    fates = ("captured", "disposed", "expired", "overflow", "in_doubt", "dropped_at_shutdown")
    return {fate: getattr(counters, fate) for fate in fates if getattr(counters, fate)}


async def test_what_a_source_delivers_arrives_once_and_in_order(tmp_path: Path) -> None:
    """Every block becomes one signed chunk, sequences run from 1, and all of it is disposed of."""
    async with gateway() as fake:
        fates = await collected(fake, script_of(50), config(tmp_path, fake.address))
    assert [chunk.identity.sequence for chunk in fake.chunks] == list(range(1, 51))
    assert [chunk.block.data for chunk in fake.chunks] == blocks(50)
    assert fates == {"captured": 50 * SIZE, "disposed": 50 * SIZE}


@pytest.mark.parametrize("failure", [
    end_with(grpc.StatusCode.UNAVAILABLE),
    end_with(grpc.StatusCode.UNAUTHENTICATED),
    end_with(grpc.StatusCode.RESOURCE_EXHAUSTED),
    end_with(grpc.StatusCode.INTERNAL),
    end_with(grpc.StatusCode.UNAVAILABLE, metadata=(("padding", "x" * 4096),)),
    over_count,
    answer(b"\xff\xff\xff"),
    answer(b"\x08"),
    answer(bytes(1000)),
    hang,
], ids=["unavailable", "unauthenticated", "exhausted", "internal", "metadata", "over-count", "garbage", "short",
        "huge-reply", "hang"])  # fmt: skip
async def test_a_call_without_a_count_is_sent_again_under_the_same_identity(tmp_path: Path, failure: Behaviour) -> None:
    """Whatever kept the count away, the chunks come again unchanged, until they are disposed of."""
    async with gateway(take_all, failure, failure) as fake:
        fates = await collected(fake, script_of(40), config(tmp_path, fake.address, push_timeout=0.5))
    # Where this machine was slow, a call was over before it had brought anything.
    _, second, third, *_ = filter(None, fake.calls)
    assert third[0] == second[0]
    assert all(fake.first_of_each[chunk.identity.sequence] == chunk for chunk in fake.chunks)
    assert sorted(fake.first_of_each) == list(range(1, 41))
    assert fates == {"captured": 40 * SIZE, "disposed": 40 * SIZE}


async def test_a_held_chunk_and_all_behind_it_are_sent_again(tmp_path: Path) -> None:
    """An OK that comes early counts: what it disposed of is not sent again, the rest is, in order."""
    source, size = script_of(60, 16_384), 16_384
    async with gateway(hold_at(0), after(source.over, take_all), hold_at(2)) as fake:
        fates = await collected(fake, source, config(tmp_path, fake.address, fetch_chunk_size=size))
    first, second, third, fourth = fake.calls[:4]
    assert second[0] == first[0]
    assert len(third) >= 3
    assert fourth[0] == third[2]
    assert sorted(fake.first_of_each) == list(range(1, 61))
    assert fates == {"captured": 60 * size, "disposed": 60 * size}


async def test_after_failures_a_call_carries_less(tmp_path: Path) -> None:
    """Half the bytes after a call without a count, at least one chunk, and nothing new bound while calls fail."""
    source, fail = script_of(64, 16_384), end_with(grpc.StatusCode.UNAVAILABLE)
    async with gateway(after(source.over, take_all), fail, fail, fail, fail, fail, fail, fail) as fake:
        await collected(fake, source, config(tmp_path, fake.address, fetch_chunk_size=16_384))
    # One chunk until the gateway is known to answer, then all of them, then ever fewer.
    assert [len(call) for call in fake.calls[:9]] == [1, 63, 31, 15, 7, 3, 1, 1, 1]
    # A call of one chunk succeeded, and the next may carry the double of what the last was allowed.
    assert [call[0].identity.sequence for call in fake.calls[1:9]] == [2] * 8


async def test_a_gateway_that_fails_from_the_start_gets_one_chunk(tmp_path: Path) -> None:
    """Only one block is bound to a pool that never answered; the others stay free."""
    fail = end_with(grpc.StatusCode.UNAVAILABLE)
    source = script_of(10)
    async with gateway(after(source.over, fail), fail, fail) as fake:
        await collected(fake, source, config(tmp_path, fake.address))
    assert [len(call) for call in fake.calls[:4]] == [1, 1, 1, 1]


async def test_a_call_carries_at_most_eight_mebibytes(tmp_path: Path) -> None:
    """What exceeds a call goes into the next; the largest chunk passes."""
    source = script_of(20, MAX_CHUNK_BYTES)
    settings = {"fetch_chunk_size": MAX_CHUNK_BYTES, "buffer_size": 32 << 20}
    async with gateway(after(source.over, take_all)) as fake:
        fates = await collected(fake, source, config(tmp_path, fake.address, **settings))
    assert max(sum(len(chunk.block) for chunk in call) for call in fake.calls) == 7 << 20
    assert fates == {"captured": 20 << 20, "disposed": 20 << 20}


async def test_a_gateway_that_comes_late_gets_everything(tmp_path: Path) -> None:
    """Without a connection nothing is bound, and nothing is in doubt when it comes."""
    address, source = free_address(), script_of(10)
    with capture_logs() as logs:
        async with collecting(config(tmp_path, address), sources=[source]) as collector:
            await source.over.wait()
            assert collector.queue.queued == 10 * SIZE
            async with gateway(address=address) as fake:
                await fake.after_script.wait()
                await until(lambda: collector.counters.disposed == 10 * SIZE)
    assert collector.counters.in_doubt == 0
    statuses = [entry["status"] for entry in logs if entry["event"] == "push_status"]
    assert statuses[-1] == "OK"


async def test_status_changes_are_logged_once(tmp_path: Path) -> None:
    """Code names, once each time they change, and nothing else of the reply."""
    fail = end_with(grpc.StatusCode.PERMISSION_DENIED, HOSTILE)
    with capture_logs() as logs:
        async with gateway(take_all, fail, fail, fail, hold_at(0)) as fake:
            await collected(fake, script_of(40), config(tmp_path, fake.address))
    statuses = [entry["status"] for entry in logs if entry["event"] == "push_status"]
    assert statuses == ["OK", "PERMISSION_DENIED", "PARTIAL", "OK"]
    assert HOSTILE not in repr(logs)


async def test_what_cannot_be_flushed_is_counted(tmp_path: Path) -> None:
    """At the end a running call gets flush_timeout; then sent chunks are in doubt, the others dropped."""
    source = script_of(10)
    async with gateway(after(source.over, hang)) as fake:
        settings = config(tmp_path, fake.address, flush_timeout=0.05)
        async with collecting(settings, sources=[source]) as collector:
            await source.over.wait()
            await fake.call_came.wait()
    counters = collector.counters
    assert (counters.in_doubt, counters.dropped_at_shutdown) == (SIZE, 9 * SIZE)
    assert counters.captured == counters.gone


async def test_the_flush_waits_for_no_interval(tmp_path: Path) -> None:
    """What is queued when the end comes is pushed at once, after failures too."""
    source, fail = script_of(20), end_with(grpc.StatusCode.UNAVAILABLE)
    async with (
        gateway(after(source.over, take_all), fail) as fake,
        collecting(config(tmp_path, fake.address, push_interval=3600.0), sources=[source]) as collector,
    ):
        await source.over.wait()
    assert collector.counters.disposed == 20 * SIZE


async def test_a_flush_without_a_gateway_ends_in_time(tmp_path: Path) -> None:
    """Never-sent bytes are dropped at shutdown, and nothing waits for ever."""
    source = script_of(10)
    async with collecting(config(tmp_path, free_address(), flush_timeout=0.05), sources=[source]) as c:
        await source.over.wait()
    assert c.counters.dropped_at_shutdown == c.counters.captured == 10 * SIZE


async def test_bytes_too_old_to_send_are_destroyed(tmp_path: Path) -> None:
    """At buffer_ttl never-sent chunks expire."""
    source = script_of(10)
    settings = config(tmp_path, free_address(), buffer_ttl=0.05, flush_timeout=0.0)
    async with collecting(settings, sources=[source]) as collector:
        await source.over.wait()
        await until(lambda: collector.queue.queued == 0)
    assert collector.counters.expired == 10 * SIZE


async def test_several_sources_share_one_queue(tmp_path: Path) -> None:
    """Each has its own loop; together they account for every byte they delivered."""
    sources = [LedgerSource(seed=1), LedgerSource(seed=2)]
    async with gateway() as fake, collecting(config(tmp_path, fake.address), sources=sources) as collector:
        await until(lambda: collector.counters.disposed >= 50 * SIZE)
    delivered = sum(source.delivered_bytes for source in sources)
    assert collector.counters.captured == collector.counters.disposed == delivered
    assert sorted(bytes(chunk.block.data) for chunk in fake.first_of_each.values()) == sorted(
        source.delivered[at : at + SIZE] for source in sources for at in range(0, source.delivered_bytes, SIZE)
    )


async def test_given_sources_stay_open_and_own_ones_are_closed(tmp_path: Path) -> None:
    """Who opens a source closes it."""
    source = LedgerSource()
    settings = config(tmp_path, free_address(), flush_timeout=0.0)
    async with collecting(settings, sources=[source]):
        await until(lambda: source.delivered_bytes > 0)
    assert len(await source.read(1)) == 1
    async with collecting(settings) as collector:
        await until(lambda: collector.counters.captured > 0)


async def test_a_fault_in_a_source_does_not_end_the_collector(tmp_path: Path) -> None:
    """A source that breaks in a way nobody foresaw breaks alone: the others go on, and so does the collector."""
    sound = ScriptedSource([bytes(SIZE)] * 20)
    broken = ScriptedSource([ZeroDivisionError(), LookupError(), bytes(SIZE)])
    settings = config(tmp_path, free_address(), flush_timeout=0.0)
    async with collecting(settings, sources=[broken, sound]) as collector:
        await broken.over.wait()
        await sound.over.wait()
    assert collector.counters.captured == 21 * SIZE


async def test_epochs_grow_from_run_to_run_and_the_state_belongs_to_one(tmp_path: Path) -> None:
    """Each run has a later epoch; two at once cannot share a state directory."""
    settings = config(tmp_path / "state", free_address(), flush_timeout=0.0)
    epochs = []
    for _ in range(3):
        async with collecting(settings, sources=[]) as collector:
            epochs.append(collector.epoch)
            with pytest.raises(StateError, match="held by another process"):
                async with collecting(settings, sources=[]):
                    pass
    assert epochs == sorted(set(epochs))


def test_a_reply_without_bytes_counts_nothing() -> None:
    """Parsing the reply never raises: grpc would log what it could not read."""
    assert (disposed_count(None), disposed_count(b""), disposed_count(reply(3)), disposed_count(b"\x08")) == (
        0,
        0,
        3,
        None,
    )


PROGRAM = """
import asyncio, os
from pathlib import Path
from qrng_collector.app import run
from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_grpc.config import load
asyncio.run(run(load(CollectorConfig, prefix=ENV_PREFIX, environ=os.environ)))
"""


PROGRAM_WITH_A_LOST_FAILURE = f"""
import asyncio, os
from qrng_collector.app import run
from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_grpc.config import load

def fail():
    raise ValueError("{HOSTILE}")

async def main():
    collecting = asyncio.create_task(run(load(CollectorConfig, prefix=ENV_PREFIX, environ=os.environ)))
    asyncio.get_running_loop().call_later(0, asyncio.get_running_loop().call_soon, fail)
    await collecting

asyncio.run(main())
"""


@asynccontextmanager
async def program(
    state_dir: Path, address: str, *, code: str = PROGRAM, also: Mapping[str, str] | None = None, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the collector as a process of its own; kill it if it is still there at the end.

    `also` is added to its environment.
    """
    values = {
        "HMAC_SECRET_KEY": SECRET,
        "HMAC_KEY_ID": "k1",
        "COLLECTOR_ID": "lab",
        "POOL_ID": "pool",
        "BEST_CLASS": "operating_system",
        "PUSH_URL": address,
        "STATE_DIR": str(state_dir),
        "FETCH_INTERVAL": "0.005",
        "PUSH_INTERVAL": "0.01",
        "RETRY_POLICY__INITIAL_S": "0.01",
        "RETRY_POLICY__MAXIMUM_S": "0.01",
        "LOG_LEVEL": "debug",
        **settings,
    }
    named = {ENV_PREFIX + name: value for name, value in values.items()}
    environ = {**os.environ, **named, "GRPC_VERBOSITY": "DEBUG", **(also or {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-W", "ignore", "-c", code, env=environ, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def while_alive(process: asyncio.subprocess.Process, event: asyncio.Event) -> None:
    """Wait for an event that needs the process to run."""
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(process.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    assert process.returncode is None, f"ended with {process.returncode}"


async def ended(process: asyncio.subprocess.Process) -> str:
    """Ask the process to end; return what it wrote to standard error."""
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    return errors.decode()


async def test_sigterm_flushes_and_exits_with_0(tmp_path: Path) -> None:
    """The last line accounts for every byte, and all of them are disposed of."""
    async with gateway() as fake, program(tmp_path, fake.address) as process:
        await while_alive(process, fake.after_script)
        errors = await ended(process)
        assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    accounting = lines[-1]
    assert (accounting["event"], accounting["program"]) == ("accounting", "collector")
    received = sum(len(chunk.block) for chunk in fake.first_of_each.values())
    assert accounting["captured"] == accounting["disposed"] == received > 0
    assert {chunk.block.label.source_class for chunk in fake.chunks} == {SourceClass.OPERATING_SYSTEM}


async def test_kill_and_restart_begin_a_later_epoch(tmp_path: Path) -> None:
    """After kill -9 the lock is free again and no identity comes twice."""
    async with gateway() as fake:
        async with program(tmp_path, fake.address) as process:
            await while_alive(process, fake.after_script)
            process.kill()
            await process.wait()
        before, fake.calls = fake.chunks, []
        fake.after_script.clear()
        async with program(tmp_path, fake.address) as process:
            await while_alive(process, fake.after_script)
            await ended(process)
    assert max(chunk.identity.epoch for chunk in before) < min(chunk.identity.epoch for chunk in fake.chunks)


async def test_no_text_of_the_gateway_comes_in(tmp_path: Path) -> None:
    """Details and metadata reach neither logs nor standard error, at the loudest settings."""
    hostile = end_with(grpc.StatusCode.PERMISSION_DENIED, HOSTILE, (("x-text", HOSTILE), ("retry-delay", HOSTILE)))
    garbage = answer(HOSTILE.encode())
    async with gateway(hostile, garbage, hostile, garbage) as fake, program(tmp_path, fake.address) as process:
        await while_alive(process, fake.after_script)
        errors = await ended(process)
        assert process.returncode == 0
    assert HOSTILE not in errors
    assert {json.loads(line)["event"] for line in errors.splitlines()} == OWN_EVENTS


async def test_no_text_of_a_closing_connection_comes_in(tmp_path: Path) -> None:
    """What a peer says in an HTTP/2 GOAWAY does not reach standard error, and the collector comes back all the same."""
    connections = 0
    came_back = asyncio.Event()

    async def say_goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 2:
            came_back.set()
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readexactly(24)
        writer.write(http2_frame(4, b"") + http2_frame(7, struct.pack(">II", 0, 0xB) + HOSTILE.encode()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(say_goodbye, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, program(tmp_path, f"127.0.0.1:{port}", FLUSH_TIMEOUT="0") as process:
        await while_alive(process, came_back)
        errors = await ended(process)
        assert process.returncode == 0
    assert HOSTILE not in errors
    assert {json.loads(line)["event"] for line in errors.splitlines()} <= OWN_EVENTS


async def test_no_text_that_asyncio_would_print_comes_in(tmp_path: Path) -> None:
    """Of a failure nobody takes, which may quote a peer, standard error gets a line of ours with its kind."""
    async with gateway() as fake, program(tmp_path, fake.address, code=PROGRAM_WITH_A_LOST_FAILURE) as process:
        await while_alive(process, fake.after_script)
        errors = await ended(process)
        assert process.returncode == 0
    assert HOSTILE not in errors
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["kind"] for line in lines if line["event"] == "unhandled"] == ["ValueError"]


async def test_proxies_of_the_environment_are_not_used(tmp_path: Path) -> None:
    """Chunks go to the gateway of the settings, whatever the environment says about proxies."""
    nowhere = f"http://{free_address()}"
    proxies = dict.fromkeys(("grpc_proxy", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
    async with gateway() as fake, program(tmp_path, fake.address, also=proxies) as process:
        await while_alive(process, fake.after_script)
        await ended(process)
    assert fake.chunks


async def test_a_program_whose_state_is_damaged_does_not_start(tmp_path: Path) -> None:
    """It exits with an error instead of guessing an epoch."""
    (tmp_path / "epoch").write_bytes(b"")
    async with program(tmp_path, "127.0.0.1:1") as process:
        _, errors = await process.communicate()
        assert process.returncode == 1
    assert b"damaged" in errors


def http2_frame(kind: int, payload: bytes) -> bytes:
    """Return a frame without flags on stream 0."""
    return len(payload).to_bytes(3, "big") + bytes((kind, 0)) + bytes(4) + payload
