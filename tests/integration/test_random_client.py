"""The clients of any server: every mode, every shape, both kinds of client, and a server that misbehaves on command."""

from __future__ import annotations

import asyncio
import itertools
import logging
import traceback
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from qrng_client import (
    AuthenticationError,
    BadReplyError,
    ClientClosedError,
    ConfigValidationError,
    FallbackWarning,
    ForbiddenError,
    InvalidRequestError,
    LimitError,
    QrngError,
    RandomClient,
    ServerUnreachableError,
    SourceClass,
    UnsupportedError,
    WeakerSourceError,
    client_settings,
)
from qrng_grpc.certs import Authority
from qrng_grpc.generic_codec import MessageShape
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.testing.grpc_source import WORDS, GrpcEntropyServer, GrpcMisbehaviour
from tests.integration.entropy_shapes import KEY, SHAPES, StockServer
from tests.integration.random_readers import KINDS, AsyncReader, Reader, SyncReader, reader
from tests.programs import free_address
from tests.waiting import in_time, until

MODES = ("unary", "server_streaming", "bidi_streaming")
ECHOING = MessageShape(request_echo_field=2, reply_echo_field=2)
QR_ENTROPY = {"QR_GRPC_SERVICE": "qr_entropy"}
PLAIN: dict[str, str] = {}
QUICK = {"grpc_timeout_ms": 300, "grpc_retry_count": 0, "cb_max_consecutive_failures": 99}
"""Soon tired of a server, but never of asking it anew."""

every_kind = pytest.mark.parametrize("kind", KINDS, ids=["sync", "async"])
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
async def server() -> AsyncIterator[GrpcEntropyServer]:
    async with GrpcEntropyServer(ECHOING, seed=1) as running:
        yield running


async def failure_of(client: Reader, n: int = 64) -> QrngError:
    with pytest.raises(QrngError) as failure:
        await client.read(n)
    return failure.value


@every_kind
@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name in SHAPES for mode in MODES if SHAPES[name].stream or mode == "unary"]
)
async def test_reads_are_exact(kind: type[Reader], name: str, mode: str) -> None:
    """Of a stock server of every shape, in every mode it has, reads are the very bytes it made, however large."""
    shape = SHAPES[name]
    async with (
        StockServer(shape) as stock,
        reader(
            kind, stock.address, shape.settings, grpc_mode=mode, grpc_api_key=KEY, grpc_max_request_bytes=1000
        ) as client,
    ):
        pieces = [await client.read(n) for n in (8, 1000, 2500)]
        assert [len(piece) for piece in pieces] == [8, 1000, 2500]
        assert b"".join(pieces) == stock.served
        assert stock.asked == [8, 1000, 1000, 1000, 500]


@every_kind
async def test_fewest_bytes_a_request(kind: type[Reader]) -> None:
    """A server that gives no fewer than 8 bytes is asked for 8, and a read of 3 returns three of them."""
    shape = SHAPES["KMS"]
    async with StockServer(shape) as stock, reader(kind, stock.address, shape.settings, grpc_api_key=KEY) as client:
        assert await client.read(3) == stock.served[:3]
        assert stock.asked == [8]
        assert stock.requests[0].location == "projects/p/locations/europe-west3"


@every_kind
@every_mode
async def test_gateway(kind: type[Reader], mode: str) -> None:
    """A gateway of ours is one server among others: its replies state their class, and the least class is asked for."""
    async with running_gateway(max_wait=0) as gateway:
        await gateway.push(data := SeededStream(3).take(4096))
        known = {"QR_GRPC_SERVICE": "qrng.v1", "QR_GRPC_API_KEY": gateway.api_key, "QR_GRPC_MODE": mode}
        async with reader(kind, gateway.client_address, known, least_class="operating_system") as client:
            draw = await client.draw(1000)
            assert draw.data == data[:1000]
            assert draw.source_class is SourceClass.OPERATING_SYSTEM
        async with reader(kind, gateway.client_address, known, least_class="quantum", grpc_retry_count=0) as client:
            assert isinstance(await failure_of(client), WeakerSourceError)


@every_kind
@every_mode
async def test_concurrent_reads_do_not_mix(server: GrpcEntropyServer, kind: type[Reader], mode: str) -> None:
    """Of many reads at a time each gets its own bytes, exactly as many as it asked for."""
    sizes = [16 + n for n in range(40)]
    async with reader(kind, server.address, QR_ENTROPY, grpc_mode=mode) as client:
        pieces = await asyncio.gather(*(client.read(size) for size in sizes))
    assert [len(piece) for piece in pieces] == sizes
    assert all(piece in server.served for piece in pieces)
    assert len(set(pieces)) == 40


@pytest.mark.parametrize("settings", [QR_ENTROPY, PLAIN], ids=["by number", "by order"])
async def test_800_calls_of_4_threads_on_one_call(settings: dict[str, str]) -> None:
    """800 reads of 4 threads over one bidirectional call are 800 exact replies, no byte of which comes twice."""
    shape = SHAPES["qr_entropy"]
    async with (
        StockServer(shape) as stock,
        reader(SyncReader, stock.address, settings, grpc_mode="bidi_streaming", grpc_api_key=KEY) as client,
    ):
        sizes = [100 + n % 200 for n in range(800)]
        with ThreadPoolExecutor(4) as threads:
            loop = asyncio.get_running_loop()
            pieces = await asyncio.gather(*(loop.run_in_executor(threads, client.client.read, n) for n in sizes))
        assert [len(piece) for piece in pieces] == sizes
        assert Counter(stock.asked) == Counter(sizes)
        at = sorted((stock.served.index(piece), len(piece)) for piece in pieces)
        assert [start for start, _ in at] == [sum(size for _, size in at[:n]) for n in range(800)]


@every_kind
@every_mode
@pytest.mark.parametrize(
    ("kind_of_reply", "text"),
    [
        ("short", "63 bytes where 64 were asked for; QR_GRPC_DATA_FIELD"),
        ("long", "65 bytes where 64 were asked for"),
        ("empty", "0 bytes where 64"),
        ("truncated", "ends within"),
        ("wrong_wire_type", "of another type than expected; QR_GRPC_DATA_FIELD"),
        ("group", "a group"),
        ("wrong_echo", "another number than that of the request; QR_GRPC_REPLY_ECHO_FIELD"),
        ("oversize", "larger than any"),
    ],
)
async def test_wrong_replies_are_errors_and_no_bytes(
    server: GrpcEntropyServer, kind: type[Reader], mode: str, kind_of_reply: GrpcMisbehaviour, text: str
) -> None:
    """A reply that is wrong in any way is an error that names a setting; the next read succeeds and repeats nothing."""
    async with reader(kind, server.address, QR_ENTROPY, grpc_mode=mode) as client:
        server.fail_next(kind_of_reply)
        failure = await failure_of(client)
        spoilt = len(server.served)
        assert await client.read(64) == server.served[spoilt:]
    assert isinstance(failure, BadReplyError)
    assert text in str(failure)
    assert server.address in str(failure)
    assert len(server.requests) == 2


@every_kind
@every_mode
@pytest.mark.parametrize("settings", [QR_ENTROPY, PLAIN], ids=["by number", "by order"])
@pytest.mark.parametrize("kind_of_reply", ["late", "silent"])
async def test_a_late_reply_is_never_the_next_one(
    kind: type[Reader], mode: str, settings: dict[str, str], kind_of_reply: GrpcMisbehaviour
) -> None:
    """A read that took too long is an error that names the time-out; its reply, should it come, is nobody's."""
    shape = ECHOING if settings else MessageShape()
    async with (
        GrpcEntropyServer(shape) as server,
        reader(kind, server.address, settings, grpc_mode=mode, **QUICK) as client,
    ):
        await in_time(lambda: client.read(1), ServerUnreachableError)
        server.fail_next(kind_of_reply, times=100)
        failure = await failure_of(client)
        server.fail_no_more()
        server.answer_late()
        spoilt = len(server.served)
        assert await in_time(lambda: client.read(64), ServerUnreachableError) in server.served[spoilt:]
    assert isinstance(failure, ServerUnreachableError)
    assert "QR_GRPC_TIMEOUT_MS" in str(failure)


@every_kind
@every_mode
@pytest.mark.parametrize("settings", [QR_ENTROPY, PLAIN], ids=["by number", "by order"])
async def test_a_reply_that_comes_twice_is_drawn_once(kind: type[Reader], mode: str, settings: dict[str, str]) -> None:
    """However often a server repeats a reply, no two draws have the same bytes."""
    shape = ECHOING if settings else MessageShape()
    async with (
        GrpcEntropyServer(shape) as server,
        reader(kind, server.address, settings, grpc_mode=mode, grpc_timeout_ms=500) as client,
    ):
        drawn = []
        for number in range(12):
            if number % 3 == 0:
                server.fail_next("twice")
            try:
                drawn.append(await client.read(64))
            except QrngError as error:
                assert isinstance(error, BadReplyError | ServerUnreachableError)
    assert len(set(drawn)) == len(drawn) >= 4
    assert all(piece in server.served for piece in drawn)


@every_kind
async def test_a_source_that_is_stuck_is_found_out(kind: type[Reader]) -> None:
    """A server that gives the same bytes again and again is not believed."""
    shape = SHAPES["qr_entropy"]
    async with StockServer(shape) as stock, reader(kind, stock.address, QR_ENTROPY, grpc_api_key=KEY) as client:
        await client.read(64)
        constant = bytes(range(64))

        async def repeat(request: Any, _context: Any) -> Any:
            return shape.reply(request, constant)

        stock.answer = repeat
        assert await client.read(64) == constant
        assert "repeats one that came before" in str(await failure_of(client))


@every_kind
@pytest.mark.parametrize("size", [8, 64])
async def test_replies_played_back_by_turns_are_found_out(kind: type[Reader], size: int) -> None:
    """Replies that come again are not believed, also after others, and when they are as short as 8 bytes."""
    shape = SHAPES["qr_entropy"]
    tape = [bytes([n]) * size for n in range(3)]
    async with StockServer(shape) as stock, reader(kind, stock.address, QR_ENTROPY, grpc_api_key=KEY) as client:
        played = itertools.cycle(tape)

        async def play(request: Any, _context: Any) -> Any:
            return shape.reply(request, next(played))

        stock.answer = play
        assert [await client.read(size) for _ in tape] == tape
        for _ in range(3):
            assert "repeats one that came before" in str(await failure_of(client, size))


@every_kind
@every_mode
@pytest.mark.parametrize("kind_of_reply", ["extra_fields", "duplicate_fields", "reply_and_end"])
async def test_unusual_but_right(
    server: GrpcEntropyServer, kind: type[Reader], mode: str, kind_of_reply: GrpcMisbehaviour
) -> None:
    """Unknown fields, repeated fields and a call that ends after its reply are no faults."""
    server.fail_next(kind_of_reply, times=2)
    async with reader(kind, server.address, QR_ENTROPY, grpc_mode=mode, grpc_retry_count=0) as client:
        pieces = [await client.read(64) for _ in range(3)]
    assert all(piece in server.served for piece in pieces)
    assert len(set(pieces)) == 3


@every_kind
@every_mode
@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError, "QR_GRPC_MAX_REQUEST_BYTES"),
        (grpc.StatusCode.UNAUTHENTICATED, AuthenticationError, "QR_GRPC_API_KEY"),
        (grpc.StatusCode.PERMISSION_DENIED, ForbiddenError, "not for this call"),
        (grpc.StatusCode.UNIMPLEMENTED, UnsupportedError, "METHOD_PATH"),
        (grpc.StatusCode.FAILED_PRECONDITION, QrngError, "the call failed"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, LimitError, "quota"),
    ],
    ids=lambda value: value.name if isinstance(value, grpc.StatusCode) else "",
)
async def test_refusals_are_not_asked_again(
    server: GrpcEntropyServer, kind: type[Reader], mode: str, status: grpc.StatusCode, error: type[QrngError], text: str
) -> None:
    """What asking again cannot change is told at once, in words of ours that name the setting; one request was made."""
    server.refuse_next(status)
    async with reader(kind, server.address, QR_ENTROPY, grpc_mode=mode) as client:
        failure = await failure_of(client)
        assert type(failure) is error
        assert text in str(failure)
        assert WORDS not in "".join(traceback.format_exception(failure))
        assert len(server.requests) == 1
        assert client.health_check()["servers"][0]["breaker"] == "closed"


@every_kind
@every_mode
@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
async def test_troubles_are_asked_again(
    server: GrpcEntropyServer, kind: type[Reader], mode: str, status: grpc.StatusCode
) -> None:
    """What may pass is asked again as often as is set, and no more often."""
    async with reader(kind, server.address, QR_ENTROPY, grpc_mode=mode) as client:
        server.refuse_next(status, times=2)
        assert await client.read(64) == server.served
        assert client.health_check()["retries"] == 2
        server.refuse_next(status, times=3)
        await failure_of(client)
    assert len(server.requests) == 6


@every_kind
@pytest.mark.parametrize(("pushback_ms", "requests"), [("20", 2), ("3600000", 1), ("-1", 1), (None, 1)])
async def test_limits_are_asked_again_when_the_server_says(
    server: GrpcEntropyServer, kind: type[Reader], pushback_ms: str | None, requests: int
) -> None:
    """Over a limit a request is made again after the time the server names, if that is soon; otherwise not at all."""
    server.pushback_ms = pushback_ms
    server.refuse_next(grpc.StatusCode.RESOURCE_EXHAUSTED)
    async with reader(kind, server.address, QR_ENTROPY) as client:
        if requests == 2:
            assert await client.read(64) == server.served
        else:
            failure = await failure_of(client)
            assert failure.retry_after_s == (3600.0 if pushback_ms == "3600000" else None)
    assert len(server.requests) == requests


@every_kind
@every_mode
@pytest.mark.parametrize("pushback_ms", ["-1", "never", ""])
async def test_a_server_may_forbid_retries(
    server: GrpcEntropyServer, kind: type[Reader], mode: str, pushback_ms: str
) -> None:
    """A time to wait that is negative, or none at all, means that nobody should try again (gRFC A6): one request."""
    server.pushback_ms = pushback_ms
    server.refuse_next(grpc.StatusCode.UNAVAILABLE)
    async with reader(kind, server.address, QR_ENTROPY, grpc_mode=mode) as client:
        assert isinstance(await failure_of(client), ServerUnreachableError)
    assert len(server.requests) == 1


@every_kind
@every_mode
async def test_fail_over(server: GrpcEntropyServer, kind: type[Reader], mode: str) -> None:
    """With several addresses the first that works answers; one that is down is soon left alone."""
    down = free_address()
    addresses = f"{down}, {server.address}"
    async with reader(kind, addresses, QR_ENTROPY, grpc_mode=mode, cb_recovery_window_s=3600) as client:
        pieces = [await client.read(64) for _ in range(5)]
        servers = client.health_check()["servers"]
    assert b"".join(pieces) == server.served
    assert [(one["breaker"], one["failures"], one["answers"]) for one in servers] == [("open", 3, 0), ("closed", 0, 5)]


@every_kind
async def test_wrong_replies_are_asked_for_elsewhere(server: GrpcEntropyServer, kind: type[Reader]) -> None:
    """A reply that is not believed is not asked for again where it came from, but at the next server."""
    async with GrpcEntropyServer(ECHOING, seed=2) as other:
        server.fail_next("short")
        async with reader(kind, f"{server.address},{other.address}", QR_ENTROPY) as client:
            assert await client.read(64) == other.served
    assert (len(server.requests), len(other.requests)) == (1, 1)


@every_kind
async def test_every_server_left_alone(kind: type[Reader]) -> None:
    """After enough failures nothing is sent any more for a while, and the error says for how long."""
    async with reader(kind, free_address(), grpc_retry_count=0, cb_recovery_window_s=3600) as client:
        for _ in range(3):
            assert "nothing listens there" in str(await failure_of(client))
        failure = await failure_of(client)
        assert "left alone" in str(failure)
        assert 2800 < (failure.retry_after_s or 0) <= 3600
        health = client.health_check()
        assert not health["healthy"]
        assert health["servers"][0]["failures"] == 3


@every_kind
async def test_no_fall_back_unless_asked_for(kind: type[Reader]) -> None:
    """When the server fails, so does the read: nothing takes its place by default."""
    async with reader(kind, free_address(), grpc_retry_count=0) as client:
        failure = await failure_of(client)
        assert isinstance(failure, ServerUnreachableError)
        assert client.health_check()["fallbacks"] == 0


@every_kind
async def test_fall_back_says_so(
    server: GrpcEntropyServer, kind: type[Reader], caplog: pytest.LogCaptureFixture
) -> None:
    """A fall-back that was asked for is labelled, counted and warned of, at the first, second and fourth time."""
    async with reader(
        kind, server.address, QR_ENTROPY, fallback_mode="system", grpc_retry_count=0, cb_max_consecutive_failures=99
    ) as client:
        first = await client.draw(16)
        assert (first.from_fallback, first.source, first.fallbacks, first.draws) == (False, "quantum_grpc", 0, 1)
        server.refuse_next(grpc.StatusCode.UNAVAILABLE, times=5)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            draws = [await client.draw(16) for _ in range(5)]
        last = await client.draw(16)
    assert [(draw.from_fallback, draw.source, draw.source_class, draw.fallbacks, draw.draws) for draw in draws] == [
        (True, "system", SourceClass.OPERATING_SYSTEM, number, number + 1) for number in range(1, 6)
    ]
    assert (last.from_fallback, last.fallbacks, last.draws) == (False, 5, 7)
    assert [warning.category for warning in told] == [FallbackWarning] * 3
    if kind is AsyncReader:  # the other one is called by a thread of asyncio's
        assert {warning.filename for warning in told} == {__file__}
    assert str(told[-1].message).startswith("4 of 5 draws came from the fall-back system (QR_FALLBACK_MODE)")
    assert [record.name for record in caplog.records] == ["qrng_client"] * 3


@every_kind
@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT])
async def test_a_fall_back_hides_no_mistake(
    server: GrpcEntropyServer, kind: type[Reader], status: grpc.StatusCode
) -> None:
    """A wrong key or a wrong size stays an error, with a fall-back too."""
    server.refuse_next(status)
    async with reader(kind, server.address, QR_ENTROPY, fallback_mode="system") as client:
        await failure_of(client)
        assert client.health_check()["failed_draws"] == 1


@every_kind
async def test_class_is_stated_or_unknown(server: GrpcEntropyServer, kind: type[Reader]) -> None:
    """The class of a draw is the one replies or settings state, and None without."""
    async with reader(kind, server.address, QR_ENTROPY) as client:
        assert (await client.draw(8)).source_class is None
    async with reader(kind, server.address, QR_ENTROPY, grpc_source_class="quantum", least_class="quantum") as client:
        assert (await client.draw(8)).source_class is SourceClass.QUANTUM
    shape = SHAPES["qrng.v1"]
    async with StockServer(shape) as stock:
        async with reader(kind, stock.address, shape.settings, grpc_api_key=KEY, least_class="hardware") as client:
            assert (await client.draw(8)).source_class is SourceClass.HARDWARE
            assert stock.requests[0].least_class == 2
        async with reader(kind, stock.address, shape.settings, grpc_api_key=KEY, least_class="quantum") as client:
            assert "QR_LEAST_CLASS" in str(await failure_of(client, 8))


@every_kind
@every_mode
async def test_page_on_the_port(kind: type[Reader], mode: str) -> None:
    """What speaks HTTP and no gRPC is told so, by setting, and its words stay with it."""

    async def answer(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stream.read(1024)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>" + WORDS.encode())
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with reader(kind, address, QR_ENTROPY, grpc_mode=mode, grpc_retry_count=0) as client:
        failure = await failure_of(client)
    listener.close()
    await listener.wait_closed()
    assert isinstance(failure, ServerUnreachableError)
    assert "does not speak gRPC" in str(failure)
    assert "QR_GRPC_SERVER_ADDRESS" in str(failure)
    assert WORDS not in "".join(traceback.format_exception(failure))


@every_kind
@every_mode
async def test_address_that_does_not_resolve(kind: type[Reader], mode: str) -> None:
    """A name that nobody knows is told as such, by setting."""
    async with reader(
        kind,
        "no-such-host.invalid:50051",
        grpc_mode=mode,
        grpc_retry_count=0,
        grpc_allow_plaintext_beyond_loopback="yes",
    ) as client:
        failure = await failure_of(client)
    assert "does not resolve" in str(failure)
    assert "QR_GRPC_SERVER_ADDRESS" in str(failure)


@every_kind
async def test_message_of_another_type(kind: type[Reader]) -> None:
    """A valid message of another service is no bytes, and the error names where they were looked for."""
    async with (
        StockServer(SHAPES["unheard of"]) as stock,
        reader(kind, stock.address, SHAPES["unheard of"].settings, grpc_api_key=KEY, grpc_data_field=1) as client,
    ):
        failure = await failure_of(client)
    assert isinstance(failure, BadReplyError)
    assert "QR_GRPC_DATA_FIELD" in str(failure)


@every_kind
async def test_method_the_server_lacks(kind: type[Reader]) -> None:
    """A mode or a path that the server does not have is told by setting."""
    shape = SHAPES["qrng"]
    async with StockServer(shape) as stock:
        async with reader(kind, stock.address, grpc_api_key=KEY, grpc_mode="bidi_streaming") as client:
            assert "QR_GRPC_STREAM_METHOD_PATH" in str(await failure_of(client))
        async with reader(kind, stock.address, grpc_api_key=KEY) as client:
            assert "QR_GRPC_METHOD_PATH" in str(await failure_of(client))


@every_kind
@every_mode
async def test_key_is_in_every_call_and_nowhere_else(
    kind: type[Reader], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The key opens the server, and shows in no repr, error, log or health report."""
    caplog.set_level(logging.DEBUG)
    async with GrpcEntropyServer(ECHOING, api_key=KEY, api_key_header="x-lab.key") as locked:
        settings = {**QR_ENTROPY, "QR_GRPC_API_KEY_HEADER": "x-lab.key", "QR_GRPC_MODE": mode}
        async with reader(kind, locked.address, settings, grpc_api_key=KEY, grpc_retry_count=0) as client:
            for _ in range(3):
                assert len(await client.read(8)) == 8
            locked.refuse_next(grpc.StatusCode.INTERNAL)
            told = "".join(traceback.format_exception(await failure_of(client)))
            health = client.health_check()
            assert health["authenticated"] is True
            assert KEY not in told + repr(client.client) + repr(health) + repr(client.client._settings) + caplog.text
        for wrong in ("", "another"):
            async with reader(kind, locked.address, settings, grpc_api_key=wrong) as client:
                assert isinstance(await failure_of(client), AuthenticationError)
                assert client.health_check()["authenticated"] is bool(wrong)


@every_kind
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix"])
async def test_addresses(tmp_path: Path, kind: type[Reader], listen: str) -> None:
    """Names, IPv6 and Unix sockets are addresses like any other, with and without dns:."""
    shape = SHAPES["qr_entropy"]
    async with StockServer(shape, listen=f"unix:{tmp_path}/entropy.sock" if listen == "unix" else listen) as stock:
        port = stock.address.rpartition(":")[2]
        forms = {
            "127.0.0.1:0": [stock.address, f"localhost:{port}", f"dns:///localhost:{port}", f"dns:127.0.0.1:{port}"],
            "[::1]:0": [stock.address, f"dns:///{stock.address}"],
            "unix": [stock.address, f"unix://{tmp_path}/entropy.sock"],
        }
        for address in forms[listen]:
            for mode in MODES:
                async with reader(kind, address, QR_ENTROPY, grpc_api_key=KEY, grpc_mode=mode) as client:
                    assert len(await client.read(100)) == 100


@every_kind
@every_mode
async def test_tls_and_mutual_tls(tmp_path: Path, kind: type[Reader], mode: str) -> None:
    """A server that asks for a certificate is reached with one; without, the error names settings."""
    authority = Authority.create("here")
    own = authority.server(["127.0.0.1"])
    own.save(tmp_path / "server.pem", tmp_path / "server.key")
    authority.client("spiffe://qrng/client/sampler").save(tmp_path / "own.pem", tmp_path / "own.key")
    (tmp_path / "ca.pem").write_bytes(authority.issued.certificate)
    pair = [((tmp_path / "server.key").read_bytes(), (tmp_path / "server.pem").read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, authority.issued.certificate, require_client_auth=True)
    ca, pair_of_ours = (
        {"QR_GRPC_CA_FILE": str(tmp_path / "ca.pem")},
        {
            "QR_GRPC_CERT_FILE": str(tmp_path / "own.pem"),
            "QR_GRPC_KEY_FILE": str(tmp_path / "own.key"),
        },
    )
    common = {**QR_ENTROPY, "QR_GRPC_MODE": mode, "QR_GRPC_API_KEY": KEY, "QR_GRPC_RETRY_COUNT": "0"}
    async with StockServer(SHAPES["qr_entropy"], credentials) as stock:
        async with reader(kind, stock.address, common, ca, pair_of_ours) as client:
            assert await client.read(64) == stock.served
            assert client.health_check()["encrypted"] is True
        for settings in (ca, pair_of_ours, PLAIN):
            async with reader(kind, stock.address, common, settings) as client:
                failure = await failure_of(client)
                assert isinstance(failure, ServerUnreachableError)
                assert "QR_GRPC_" in str(failure)
        assert len(stock.asked) == 1


@every_kind
@every_mode
async def test_close_ends_running_reads(server: GrpcEntropyServer, kind: type[Reader], mode: str) -> None:
    """Reads that wait for a silent server, or for their turn, end when the client is closed; no later one begins."""
    server.fail_next("silent", times=2)
    async with reader(kind, server.address, QR_ENTROPY, grpc_mode=mode, fallback_mode="system") as client:
        reads = [asyncio.create_task(client.read(64)) for _ in range(2)]
        await server.holding.wait()
        await client.close()
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
        outcomes.append(await failure_of(client))
        await client.close()
    assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * 3


@every_kind
@pytest.mark.parametrize("settings", [QR_ENTROPY, PLAIN], ids=["by number", "by order"])
async def test_a_kept_call_that_ended_is_replaced(kind: type[Reader], settings: dict[str, str]) -> None:
    """A call that the server ended while nobody asked costs nothing but another call, also without retries."""
    shape = ECHOING if settings else MessageShape()
    common = {"QR_GRPC_MODE": "bidi_streaming", "QR_GRPC_RETRY_COUNT": "0"}
    async with GrpcEntropyServer(shape) as server, reader(kind, server.address, settings, common) as client:
        for ended in range(1, 4):
            server.fail_next("reply_and_end")
            await client.read(64)
            await until(lambda ended=ended: server.calls_ended == ended)
        await client.read(64)
    assert len(server.methods) == 4


@every_mode
async def test_cancelled_read_leaves_the_next_its_own(server: GrpcEntropyServer, mode: str) -> None:
    """A cancelled read of the client for asyncio drops its call, and its reply is nobody's."""
    async with reader(AsyncReader, server.address, QR_ENTROPY, grpc_mode=mode) as client:
        server.fail_next("late")
        reading = asyncio.ensure_future(client.read(64))
        await server.holding.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        server.answer_late()
        spoilt = len(server.served)
        assert await client.read(64) == server.served[spoilt:]


@every_kind
async def test_local_mixing(kind: type[Reader]) -> None:
    """Mixed bytes are none of the server's, though as many as asked for; 40 of them go into 32."""
    shape = SHAPES["qrng.v1"]
    async with (
        StockServer(shape) as stock,
        reader(kind, stock.address, shape.settings, grpc_api_key=KEY, local_mixing="true") as client,
    ):
        draw = await client.draw(33)
        assert (len(draw.data), draw.mixed, draw.source_class) == (33, True, SourceClass.HARDWARE)
        assert stock.asked == [80]
        assert draw.data[:8] not in stock.served


@every_kind
async def test_prefetched_bytes_say_so(kind: type[Reader]) -> None:
    """Bytes fetched before they were asked for are labelled, bounded in number, given once and in their order."""
    shape = SHAPES["qr_entropy"]
    async with (
        StockServer(shape) as stock,
        reader(kind, stock.address, QR_ENTROPY, grpc_api_key=KEY, prefetch_bytes=400) as client,
    ):
        first = await client.draw(16)
        assert not first.prefetched
        await until(lambda: client.health_check()["prefetched_bytes"] == 400)
        assert len(stock.served) == 416
        draws = [await client.draw(30) for _ in range(10)]
        assert all(draw.prefetched for draw in draws)
        stocked = b"".join(draw.data for draw in draws)
        assert bytes(stock.served).replace(first.data, b"").startswith(stocked)
        assert not (await client.draw(401)).prefetched


@every_kind
async def test_no_server_is_needed(kind: type[Reader]) -> None:
    """By default bytes come from this machine; the others of its kind say what they are."""
    for source, source_class in [
        ("system", "operating_system"),
        ("timing_noise", "operating_system"),
        ("mock_uniform", "simulated"),
    ]:
        async with reader(kind, free_address(), entropy_source_type=source, mock_seed=5) as client:
            draw = await client.draw(100)
            assert (len(draw), draw.source, draw.source_class) == (100, source, SourceClass(source_class))
            if source == "mock_uniform":
                assert draw.data == SeededStream(5).take(100)
            assert client.health_check()["healthy"]


@every_kind
@pytest.mark.parametrize("source", ["system", "quantum_grpc"])
async def test_a_closed_client_is_not_healthy(kind: type[Reader], source: str) -> None:
    """Once closed, a client says so, whatever its source."""
    async with reader(kind, free_address(), entropy_source_type=source) as client:
        health = client.health_check()
        assert (health["healthy"], health["closed"]) == (True, False)
    health = client.health_check()
    assert (health["healthy"], health["closed"]) == (False, True)


@every_kind
@pytest.mark.parametrize("n", [0, -1, (1 << 30) + 1, 1.5, "32"])
async def test_sizes_out_of_range(kind: type[Reader], n: Any) -> None:
    """A read is of 1 byte to 1 GiB, and of nothing else."""
    async with reader(kind, "localhost:1", entropy_source_type="system") as client:
        assert isinstance(await failure_of(client, n), InvalidRequestError)


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"grpc_server_address": "10.0.0.115:50051"}, "QR_GRPC_ALLOW_PLAINTEXT_BEYOND_LOOPBACK"),
        ({"grpc_ca_file": "no-such.pem"}, "QR_GRPC_CA_FILE: CA file no-such.pem: cannot be read"),
        (
            {"grpc_cert_file": "x.pem", "grpc_key_file": "x.key"},
            "QR_GRPC_CERT_FILE: certificate file x.pem: cannot be read",
        ),
        ({"grpc_mode": "server_streaming", "grpc_stream_method_path": ""}, "QR_GRPC_STREAM_METHOD_PATH: empty"),
        ({"grpc_mode": "bidi_streaming", "grpc_service": "qrng"}, "QR_GRPC_STREAM_METHOD_PATH: empty"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_construction(settings: dict[str, str], mistake: str) -> None:
    """What no call could be made with is told before any is made, by setting."""
    environ = {f"QR_{name.upper()}": value for name, value in settings.items()}
    with pytest.raises(ConfigValidationError, match=mistake):
        RandomClient(client_settings({"QR_ENTROPY_SOURCE_TYPE": "quantum_grpc", **environ}))
