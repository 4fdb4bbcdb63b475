"""The real grpcurl, which knows nothing of this project but what reflection tells it.

Idea: its exit code is 64 plus the gRPC status, and with `-format-error` it writes the details of an
error as JSON, so both can be read as any script would.
"""

from __future__ import annotations

import asyncio
import base64
import json
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from qrng_grpc.errors import ERROR_DOMAIN
from tests.clients.programs import PROTOS, Outcome, program, rest_of, run, started
from tests.clients.stock import Stock, stocked_gateway

KEY = ("-H", "api-key: ${QR_GRPC_API_KEY}")
ERROR_DETAILS = (
    *("-import-path", str(Path(error_details_pb2.__file__).parents[2])),
    *("-proto", "google/rpc/error_details.proto"),
)
WITHOUT_REFLECTION = (*ERROR_DETAILS, "-import-path", str(PROTOS), "-proto", "qrng_grpc/v1/entropy.proto")
WITH_A_GATEWAY_GONE = (*ERROR_DETAILS, "-use-reflection")
"""For errors that say farewell: nobody is left to ask by reflection what they mean."""
GET = "qrng.v1.EntropyService/GetEntropy"
SUBSCRIBE = "qrng.v1.EntropyService/SubscribeEntropy"
STREAM = "qrng.v1.EntropyService/StreamEntropy"
QR_GET = "qr_entropy.EntropyService/GetEntropy"
QR_STREAM = "qr_entropy.EntropyService/StreamEntropy"
RANDOM = "qrng.QuantumRNG/GetRandomBytes"
CHECK = "grpc.health.v1.Health/Check"
WATCH = "grpc.health.v1.Health/Watch"

SIZE_FIELDS = {
    GET: "bytes_needed",
    SUBSCRIBE: "bytes_per_message",
    STREAM: "bytes_needed",
    QR_GET: "bytes_needed",
    QR_STREAM: "bytes_needed",
    RANDOM: "num_bytes",
}
INT64_EXTREMES = (-(1 << 63), (1 << 63) - 1)

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What grpcurl got: replies as JSON, the status code, and the details of an error by their type."""

    replies: list[Json]
    code: grpc.StatusCode
    details: dict[str, Json]

    @property
    def data(self) -> list[bytes]:
        return [base64.b64decode(reply["data"]) for reply in self.replies]

    @property
    def reason(self) -> str:
        info = self.details["google.rpc.ErrorInfo"]
        assert info["domain"] == ERROR_DOMAIN
        return info["reason"]


def command(stock: Stock, method: str, *options: str) -> tuple[str, ...]:
    """Return how to call `method` with requests from standard input."""
    address = stock.gateway.client_address
    return (
        program("grpcurl"),
        *("-plaintext", "-expand-headers", "-format-error", "-max-time", "30"),
        *(*options, "-d", "@", address, method),
    )


async def call(stock: Stock, method: str, *requests: Json, options: tuple[str, ...] = KEY) -> Answer:
    """Call `method` with `requests` and read all it answers."""
    stdin = "\n".join(map(json.dumps, requests))
    return answer(await run(*command(stock, method, *options), env=stock.env, stdin=stdin))


async def ask(process: Process, request: Json, *, last: bool = False) -> Json:
    """Give a running grpcurl one more request, perhaps the last, and read one reply."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    if last:
        process.stdin.write_eof()
    async with asyncio.timeout(20):
        (reply,) = documents((await process.stdout.readuntil(b"\n}\n")).decode())
    return reply


def answer(outcome: Outcome) -> Answer:
    code = status(outcome.code)
    if code is grpc.StatusCode.OK:
        return Answer(documents(outcome.stdout), code, {})
    (error,) = documents(outcome.stderr)
    assert status(64 + error["code"]) is code
    details = {detail["@type"].removeprefix("type.googleapis.com/"): detail for detail in error.get("details", [])}
    return Answer(documents(outcome.stdout), code, details)


def status(exit_code: int) -> grpc.StatusCode:
    number = exit_code - 64 if exit_code else 0
    return next(code for code in grpc.StatusCode if code.value[0] == number)


def documents(text: str) -> list[Json]:
    """Return the JSON documents that stand one after the other in `text`."""
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:].lstrip()
    return found


async def test_reflection_lists_every_service_without_a_key(stock: Stock) -> None:
    """A stranger learns by reflection what the client listener serves, and the push service is not there."""
    listed = await run(program("grpcurl"), "-plaintext", stock.gateway.client_address, "list", env={})
    assert listed.code == 0, listed
    assert listed.stdout.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "qr_entropy.EntropyService",
        "qrng.QuantumRNG",
        "qrng.v1.EntropyService",
    ]


@pytest.mark.parametrize(
    ("symbol", "line"),
    [
        (
            "qrng.v1.EntropyService",
            "rpc SubscribeEntropy ( .qrng.v1.SubscribeEntropyRequest )"
            " returns ( stream .qrng.v1.SubscribeEntropyResponse );",
        ),
        ("qrng.v1.GetEntropyRequest", "int32 bytes_needed = 1;"),
        ("qrng.v1.SourceClass", "SOURCE_CLASS_QUANTUM = 1;"),
        ("qr_entropy.EntropyRequest", "int64 sequence_id = 2;"),
        ("qrng.RandomRequest", "uint32 num_bytes = 1;"),
    ],
)
async def test_reflection_describes_methods_messages_and_enums(stock: Stock, symbol: str, line: str) -> None:
    """Whatever a client needs for a call can be asked for by name."""
    described = await run(program("grpcurl"), "-plaintext", stock.gateway.client_address, "describe", symbol, env={})
    assert described.code == 0, described
    assert line in [found.strip() for found in described.stdout.splitlines()]


@pytest.mark.parametrize("sequence_id", INT64_EXTREMES)
async def test_get_entropy_answers_exactly_with_honest_labels(stock: Stock, sequence_id: int) -> None:
    """A unary call returns the bytes asked for, the pool's oldest, with every label and any int64 echoed."""
    answered = await call(stock, GET, {"bytes_needed": 4096, "sequence_id": sequence_id})
    (reply,) = answered.replies
    assert answered.data == [stock.pushed[:4096]]
    captured = reply["capture_start_ns"]
    assert int(captured) > 0
    assert reply == {
        "data": reply["data"],
        "sequence_id": str(sequence_id),
        "generation_timestamp_ns": captured,
        "device_id": "test-device",
        "source_class": "SOURCE_CLASS_OPERATING_SYSTEM",
        "processing": "PROCESSING_NONE",
        "custody": "CUSTODY_LOCAL",
        "health_verdict": "HEALTH_VERDICT_UNTESTED",
        "collector_id": stock.gateway.collector_id,
        "capture_start_ns": captured,
        "capture_end_ns": captured,
    }
    assert stock.served_bytes == 4096


async def test_one_message_carries_a_mebibyte(stock: Stock) -> None:
    """The largest reply fits a client with default limits."""
    answered = await call(stock, GET, {"bytes_needed": 1 << 20})
    assert answered.data == [stock.pushed[: 1 << 20]]


async def test_bearer_opens_as_well(stock: Stock) -> None:
    """A key in `authorization: Bearer` is as good as one in `api-key`."""
    answered = await call(stock, GET, {"bytes_needed": 16}, options=("-H", "authorization: Bearer ${QR_GRPC_API_KEY}"))
    assert answered.data == [stock.pushed[:16]]


async def test_subscribe_entropy_sends_the_total_and_ends(stock: Stock) -> None:
    """A bounded subscription is whole messages and a shorter last one, together a piece of the pool without gaps."""
    answered = await call(
        stock, SUBSCRIBE, {"bytes_per_message": 1000, "total_bytes": 3500, "sequence_id": INT64_EXTREMES[0]}
    )
    assert [len(data) for data in answered.data] == [1000, 1000, 1000, 500]
    assert b"".join(answered.data) == stock.pushed[:3500]
    assert {reply["sequence_id"] for reply in answered.replies} == {str(INT64_EXTREMES[0])}
    assert {reply["collector_id"] for reply in answered.replies} == {stock.gateway.collector_id}
    assert stock.served_bytes == 3500


@pytest.mark.parametrize("method", [STREAM, QR_STREAM])
async def test_bidirectional_streams_answer_in_order(stock: Stock, method: str) -> None:
    """Each request on a stream gets its own reply, in order, whatever its number says."""
    wishes = [(1, INT64_EXTREMES[1]), (4096, INT64_EXTREMES[0]), (17, 7), (300, 6)]
    answered = await call(stock, method, *({"bytes_needed": size, "sequence_id": number} for size, number in wishes))
    told = [(len(data), int(reply["sequence_id"])) for data, reply in zip(answered.data, answered.replies, strict=True)]
    assert told == wishes
    assert b"".join(answered.data) == stock.pushed[: stock.served_bytes]


async def test_qr_entropy_answers_its_own_clients(stock: Stock) -> None:
    """`qr_entropy` is served as it is in the field: four fields, and the number echoed."""
    answered = await call(stock, QR_GET, {"bytes_needed": 20480, "sequence_id": INT64_EXTREMES[0]})
    (reply,) = answered.replies
    assert answered.data == [stock.pushed[:20480]]
    assert int(reply.pop("generation_timestamp_ns")) > 0
    assert reply == {"data": reply["data"], "sequence_id": str(INT64_EXTREMES[0]), "device_id": "test-device"}


async def test_qrng_answers_its_own_clients(stock: Stock) -> None:
    """`qrng.QuantumRNG` is served as it is in the field, its time in microseconds."""
    ours = await call(stock, GET, {"bytes_needed": 1})
    answered = await call(stock, RANDOM, {"num_bytes": 13312})
    (reply,) = answered.replies
    assert answered.data == [stock.pushed[1:13313]]
    assert int(reply["timestamp"]) == int(ours.replies[0]["generation_timestamp_ns"]) // 1000
    assert reply["device_id"] == "test-device"


async def test_get_status_accounts_for_what_was_served(stock: Stock) -> None:
    """The status names the pool and where every byte went."""
    await call(stock, GET, {"bytes_needed": 1000})
    answered = await call(stock, "qrng.v1.EntropyService/GetStatus", {})
    (reply,) = answered.replies
    assert reply["state"] == "STATE_HEALTHY"
    assert reply["pool_id"] == stock.gateway.pool_id
    assert reply["accounting"] == {
        "stored_bytes": str(len(stock.pushed)),
        "served_bytes": "1000",
        "pooled_bytes": str(len(stock.pushed) - 1000),
    }


@pytest.mark.parametrize("service", ["", "qrng.v1.EntropyService", "qrng.v1.PushService", "liveness"])
async def test_health_needs_no_key(stock: Stock, service: str) -> None:
    """Health is told to anyone, by service and overall."""
    answered = await call(stock, CHECK, {"service": service}, options=())
    assert answered.replies == [{"status": "SERVING"}]


async def test_an_empty_pool_serves_no_entropy_but_lives() -> None:
    """Without bytes the entropy service is down and liveness is not."""
    async with stocked_gateway(0) as empty:
        entropy = await call(empty, CHECK, {"service": "qrng.v1.EntropyService"}, options=())
        liveness = await call(empty, CHECK, {"service": "liveness"}, options=())
    assert (entropy.replies, liveness.replies) == ([{"status": "NOT_SERVING"}], [{"status": "SERVING"}])


async def test_health_of_an_unknown_service_is_not_found(stock: Stock) -> None:
    """A service that is not here is NOT_FOUND, as the health protocol has it."""
    assert (await call(stock, CHECK, {"service": "nobody"}, options=())).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", SIZE_FIELDS)
@pytest.mark.parametrize(
    "options",
    [(), ("-H", "api-key: "), ("-H", "api-key: not-the-right-key-at-all"), ("-H", "authorization: Bearer "), KEY * 2],
    ids=["none", "empty", "wrong", "empty bearer", "two"],
)
async def test_whoever_has_no_key_gets_nothing(stock: Stock, method: str, options: tuple[str, ...]) -> None:
    """Without exactly one right key every method says UNAUTHENTICATED, in the same words, and serves no byte."""
    answered = await call(stock, method, {SIZE_FIELDS[method]: 32}, options=options)
    assert (answered.code, answered.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_KEY")
    assert (answered.replies, stock.served_bytes) == ([], 0)


BAD_SIZES = [
    (method, size) for method in SIZE_FIELDS for size in (0, -1, (1 << 20) + 1) if size >= 0 or method != RANDOM
]


@pytest.mark.parametrize(("method", "size"), BAD_SIZES)
async def test_a_size_out_of_range_is_an_invalid_argument(stock: Stock, method: str, size: int) -> None:
    """0, negative and too large sizes are refused by every method, which names the field at fault."""
    field = SIZE_FIELDS[method]
    answered = await call(stock, method, {field: size})
    assert (answered.code, answered.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    (violation,) = answered.details["google.rpc.BadRequest"]["field_violations"]
    assert violation["field"] == field
    assert (answered.replies, stock.served_bytes) == ([], 0)


@pytest.mark.parametrize("method", SIZE_FIELDS)
async def test_a_short_pool_says_when_to_come_back(method: str) -> None:
    """Bytes that are not there are UNAVAILABLE with a hint, and those that are stay in the pool."""
    async with stocked_gateway(100) as scarce:
        answered = await call(scarce, method, {SIZE_FIELDS[method]: 101})
        assert (answered.code, answered.reason) == (grpc.StatusCode.UNAVAILABLE, "POOL_SHORT")
        assert answered.details["google.rpc.RetryInfo"]["retry_delay"].endswith("s")
        assert scarce.served_bytes == 0
        assert (await call(scarce, GET, {"bytes_needed": 100})).data == [scarce.pushed]


@pytest.mark.parametrize("method", [GET, SUBSCRIBE, STREAM])
async def test_weaker_sources_are_never_passed_off_as_better(stock: Stock, method: str) -> None:
    """A client that insists on a better class than the gateway has gets FAILED_PRECONDITION."""
    answered = await call(stock, method, {SIZE_FIELDS[method]: 32, "least_class": "SOURCE_CLASS_QUANTUM"})
    assert (answered.code, answered.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WEAKER_SOURCE")
    assert stock.served_bytes == 0


async def test_where_bytes_came_from_is_told_to_who_asks(stock: Stock) -> None:
    """With include_provenance a reply names the ranges of chunks that it holds; without, none."""
    told = await call(stock, GET, {"bytes_needed": 32, "include_provenance": True})
    assert sum(int(one["size_bytes"]) for one in told.replies[0]["provenance"]) == 32
    assert "provenance" not in (await call(stock, GET, {"bytes_needed": 32})).replies[0]


async def test_streams_beyond_the_bound_are_exhausted() -> None:
    """One stream more than the gateway holds is RESOURCE_EXHAUSTED with a hint, and the others go on."""
    options = (*KEY, *WITHOUT_REFLECTION)  # which is a stream itself
    async with (
        stocked_gateway(1000, max_streams=1) as narrow,
        started(*command(narrow, STREAM, *options), env=narrow.env) as first,
    ):
        assert await ask(first, {"bytes_needed": 10})
        second = await call(narrow, STREAM, {"bytes_needed": 10}, options=options)
        assert await ask(first, {"bytes_needed": 20}, last=True)
        ended = answer(await rest_of(first))
    assert (second.code, second.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert second.details["google.rpc.RetryInfo"]["retryDelay"].endswith("s")
    assert (ended.code, narrow.served_bytes) == (grpc.StatusCode.OK, 30)


async def test_a_draining_gateway_says_reconnect() -> None:
    """When the gateway ends, open streams end at once as DRAINING, and watchers are told before theirs does."""
    async with AsyncExitStack() as clients:
        async with stocked_gateway(1000) as ending:
            stream = command(ending, STREAM, *KEY, *WITH_A_GATEWAY_GONE)
            watch = command(ending, WATCH, *WITH_A_GATEWAY_GONE)
            streaming = await clients.enter_async_context(started(*stream, env=ending.env))
            watching = await clients.enter_async_context(started(*watch, env=ending.env))
            assert await ask(streaming, {"bytes_needed": 10})
            assert await ask(watching, {"service": "qrng.v1.EntropyService"}, last=True) == {"status": "SERVING"}
        streamed, watched = answer(await rest_of(streaming)), answer(await rest_of(watching))
    assert (streamed.code, streamed.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert watched.replies == [{"status": "NOT_SERVING"}]
    assert (watched.code, watched.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
