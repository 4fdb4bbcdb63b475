"""qrng.v1.EntropyService, called as strangers call it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from qrng_grpc.chunk import BlockLabel, Heartbeat, Identity, SourceState
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.compat.qr_entropy_pb2 import EntropyRequest
from qrng_grpc.labels import Condition, Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import running_gateway
from qrng_grpc.v1.entropy_pb2 import (
    GetEntropyRequest,
    GetStatusRequest,
    GetStatusResponse,
    StreamEntropyRequest,
    SubscribeEntropyRequest,
)
from qrng_grpc.v1.labels_pb2 import (
    CUSTODY_REMOTE,
    HEALTH_VERDICT_PASSED,
    PROCESSING_MIXED,
    PROCESSING_SHA256,
    SOURCE_CLASS_HARDWARE,
    SOURCE_CLASS_QUANTUM,
    SOURCE_CLASS_SIMULATED,
)
from tests.integration.fronts import (
    Front,
    open_front,
    pushback_beside,
    refused,
    refused_in_time,
    signed_heartbeat,
)
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("engine")

NO_KEYS = [
    (),
    (("api-key", ""),),
    (("api-key", "not-a-key-of-this-gateway"),),
    (("authorization", "Bearer not-a-key-of-this-gateway"),),
    (("authorization", "Basic bm90LWEta2V5"),),
]


def calls_of(front: Front, metadata: Any, **fields: Any) -> dict[str, Any]:
    """Begin one call of each kind that hands out bytes, with the same demand."""
    size = fields.pop("size", 16)
    return {
        "GetEntropy": front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=size, **fields), metadata=metadata),
        "SubscribeEntropy": front.entropy.SubscribeEntropy(
            SubscribeEntropyRequest(bytes_per_message=size, **fields), metadata=metadata
        ),
        "StreamEntropy": front.entropy.StreamEntropy(
            iter([StreamEntropyRequest(bytes_needed=size, **fields)]), metadata=metadata
        ),
    }


async def test_a_call_gets_the_next_bytes_and_what_they_are(front: Front) -> None:
    """A reply holds exactly the bytes asked for, oldest first, with every label of their own."""
    data = os.urandom(100)
    label = BlockLabel(
        ("dev-a", "dev-b"), SourceClass.OPERATING_SYSTEM, Processing.MIXED, Custody.REMOTE, HealthVerdict.PASSED
    )
    await front.gateway.push(data, label=label)
    for start, sequence_id in ((0, -(2**63)), (40, 2**63 - 1)):
        reply = await front.entropy.GetEntropy(
            GetEntropyRequest(bytes_needed=40, sequence_id=sequence_id), metadata=front.key
        )
        assert reply.data == data[start : start + 40]
        assert reply.sequence_id == sequence_id
        assert reply.device_id == "dev-a,dev-b"
        assert reply.collector_id == front.gateway.collector_id
        assert reply.processing == PROCESSING_MIXED
        assert reply.custody == CUSTODY_REMOTE
        assert reply.health_verdict == HEALTH_VERDICT_PASSED
        assert reply.generation_timestamp_ns == reply.capture_end_ns >= reply.capture_start_ns > 0


async def test_every_form_of_the_key_opens(front: Front) -> None:
    """`api-key` and `authorization: Bearer`, in any case of the scheme, are one."""
    await front.gateway.push(os.urandom(100))
    for metadata in (
        front.key,
        (("authorization", f"Bearer {front.gateway.api_key}"),),
        (("authorization", f"bearer {front.gateway.api_key}"),),
    ):
        reply = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=4), metadata=metadata)
        assert len(reply.data) == 4


@pytest.mark.parametrize("metadata", NO_KEYS)
async def test_without_a_right_key_nothing_is_given_or_told(front: Front, metadata: Any) -> None:
    """Every method refuses a missing, empty, wrong or odd key with the same words, before it looks at the rest."""
    await front.gateway.push(os.urandom(100))
    calls = calls_of(front, metadata, size=-1)
    calls["GetStatus"] = front.entropy.GetStatus(GetStatusRequest(), metadata=metadata)
    for call in calls.values():
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
        assert (refusal.reason, refusal.domain) == ("INVALID_KEY", "qrng")
        assert refusal.message == "a valid API key is required"
    assert front.gateway.gateway.pool.level == 100


async def test_several_keys_are_as_good_as_none(front: Front) -> None:
    """A call that presents two keys is refused even when one of them, or both, are right."""
    for metadata in (
        (*front.key, *front.key),
        (*front.key, ("authorization", f"Bearer {front.gateway.api_key}")),
    ):
        refusal = await refused(front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=1), metadata=metadata))
        assert refusal.reason == "INVALID_KEY"


@pytest.mark.parametrize("size", [0, -1, -(2**31), 1_048_577, 2**31 - 1])
async def test_a_size_out_of_range_names_its_field(front: Front, size: int) -> None:
    """Zero, negative and oversized requests are bad arguments in every kind of call, and take nothing."""
    await front.gateway.push(os.urandom(2_000_000))
    for name, call in calls_of(front, front.key, size=size).items():
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.reason == "INVALID_ARGUMENT"
        assert refusal.field == ("bytes_per_message" if name == "SubscribeEntropy" else "bytes_needed")
        assert refusal.retry_s is None
    assert front.gateway.gateway.pool.level == 2_000_000


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"max_age_ms": -1}, grpc.StatusCode.INVALID_ARGUMENT, "max_age_ms"),
        ({"least_class": 77}, grpc.StatusCode.INVALID_ARGUMENT, "least_class"),
        ({"processing": 77}, grpc.StatusCode.INVALID_ARGUMENT, "processing"),
        ({"processing": PROCESSING_SHA256}, grpc.StatusCode.INVALID_ARGUMENT, "processing"),
    ],
)
async def test_a_field_that_cannot_be_met_is_named(
    front: Front, fields: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    """Unknown enumeration values, negative ages and what is not built yet are refused, never ignored."""
    await front.gateway.push(os.urandom(100))
    for call in calls_of(front, front.key, **fields).values():
        refusal = await refused(call)
        assert (refusal.code, refusal.field) == (code, field)


async def test_a_negative_total_is_refused(front: Front) -> None:
    """A subscription cannot end before it begins."""
    request = SubscribeEntropyRequest(bytes_per_message=1, total_bytes=-1)
    refusal = await refused(front.entropy.SubscribeEntropy(request, metadata=front.key))
    assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "total_bytes")


async def test_a_short_pool_says_when_to_come_back(front: Front) -> None:
    """All or nothing: a claim the pool cannot meet takes no byte, and carries the retry hint twice."""
    await front.gateway.push(os.urandom(15))
    for name, call in calls_of(front, front.key).items():
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "POOL_SHORT")
        assert refusal.retry_s is not None
        assert refusal.pushback_ms == pushback_beside(refusal.retry_s, passed_on=name == "StreamEntropy")
    assert front.gateway.gateway.pool.level == 15


async def test_only_weaker_sources_is_told_at_once(front: Front) -> None:
    """A class no key here may claim fails without waiting, and takes nothing weaker."""
    await front.gateway.push(os.urandom(100))
    for call in calls_of(front, front.key, least_class=SOURCE_CLASS_QUANTUM).values():
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WEAKER_SOURCE")
    assert front.gateway.gateway.pool.level == 100


async def test_the_gateways_least_class_binds() -> None:
    """What is weaker than the gateway's least class is served to nobody, whatever they accept."""
    async with running_gateway(best_class="quantum", least_class="hardware", max_wait=0) as gateway:
        await gateway.push(os.urandom(100), label=BlockLabel(("sim",), SourceClass.SIMULATED))
        async with open_front(gateway) as front:
            request = GetEntropyRequest(bytes_needed=1, least_class=SOURCE_CLASS_SIMULATED)
            assert (await refused(front.entropy.GetEntropy(request, metadata=front.key))).reason == "POOL_SHORT"
            await gateway.push(os.urandom(100), label=BlockLabel(("trng",), SourceClass.HARDWARE))
            reply = await front.entropy.GetEntropy(request, metadata=front.key)
            assert reply.source_class == SOURCE_CLASS_HARDWARE


async def test_the_age_is_judged_when_bytes_are_claimed() -> None:
    """Bytes older than a client accepts are passed over, and those past the age limit are gone for everybody."""
    clock = ManualClock()
    async with running_gateway(clock=clock, max_wait=0, buffer_ttl=60) as gateway, open_front(gateway) as front:
        clock.advance(1)
        await gateway.push(os.urandom(100))
        clock.advance(2)
        young = GetEntropyRequest(bytes_needed=10, max_age_ms=1999)
        assert (await refused(front.entropy.GetEntropy(young, metadata=front.key))).reason == "POOL_SHORT"
        old_enough = GetEntropyRequest(bytes_needed=10, max_age_ms=2000)
        reply = await front.entropy.GetEntropy(old_enough, metadata=front.key)
        assert reply.capture_start_ns == clock.now_ns() - 2 * NS_PER_S
        clock.advance(60)
        anything = GetEntropyRequest(bytes_needed=10)
        assert (await refused(front.entropy.GetEntropy(anything, metadata=front.key))).reason == "POOL_SHORT"
        assert gateway.gateway.accounting().expired == 90


async def test_a_call_that_waits_is_served_when_bytes_arrive() -> None:
    """Waiting in line is not an error: the bytes that arrive go to who waits."""
    async with running_gateway(max_wait=60) as gateway, open_front(gateway) as front:
        call = front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=front.key)
        await until(lambda: gateway.gateway.pool.waiting == 1)
        data = os.urandom(16)
        await gateway.push(data)
        assert (await call).data == data


async def test_a_deadline_ends_the_wait_in_time_to_say_why() -> None:
    """A call that waits is answered before its deadline, with the reason, and not by the deadline."""
    async with running_gateway(max_wait=60) as gateway, open_front(gateway) as front:
        request = GetEntropyRequest(bytes_needed=16)
        refusal = await refused_in_time(lambda: front.entropy.GetEntropy(request, metadata=front.key, timeout=1))
        assert refusal.reason == "POOL_SHORT"


async def test_a_client_that_leaves_while_waiting_takes_nothing() -> None:
    """Bytes that arrive after a waiting client has gone stay for the others."""
    async with running_gateway(max_wait=60) as gateway, open_front(gateway) as front:
        pool = gateway.gateway.pool
        calls = calls_of(front, front.key).values()
        await until(lambda: pool.waiting == len(calls))
        for call in calls:
            call.cancel()
        await until(lambda: pool.waiting == 0)
        await gateway.push(os.urandom(16))
        assert (pool.level, pool.counters.served) == (16, 0)


async def test_a_full_line_turns_others_away() -> None:
    """Waiters are bounded; one too many learns that it is a limit and when to come back."""
    async with running_gateway(max_wait=60, max_waiting=1) as gateway, open_front(gateway) as front:
        first = front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=front.key)
        await until(lambda: gateway.gateway.pool.waiting == 1)
        refusal = await refused(front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=front.key))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert refusal.retry_s
        first.cancel()


async def test_a_bounded_subscription_ends_after_its_total(front: Front) -> None:
    """Messages are of the size asked for, the last of what is left, and the stream ends OK."""
    data = os.urandom(250)
    await front.gateway.push(data)
    request = SubscribeEntropyRequest(bytes_per_message=100, total_bytes=250, sequence_id=7)
    call = front.entropy.SubscribeEntropy(request, metadata=front.key)
    replies = [reply async for reply in call]
    assert [len(reply.data) for reply in replies] == [100, 100, 50]
    assert b"".join(reply.data for reply in replies) == data
    assert {reply.sequence_id for reply in replies} == {7}
    assert await call.code() is grpc.StatusCode.OK


async def test_a_total_below_one_message_is_sent_in_one(front: Front) -> None:
    """A subscription to less than a message gets just that."""
    await front.gateway.push(os.urandom(100))
    request = SubscribeEntropyRequest(bytes_per_message=100, total_bytes=30)
    replies = [reply async for reply in front.entropy.SubscribeEntropy(request, metadata=front.key)]
    assert [len(reply.data) for reply in replies] == [30]


async def test_the_end_of_a_call_says_what_is_left_when_it_is_little() -> None:
    """Trailers tell of requests once less than half is left: of unary calls and streams; those of status always do."""
    clock = ManualClock()
    async with running_gateway(clock=clock, rate_limit=14) as gateway, open_front(gateway) as front:
        clock.advance(1)
        await gateway.push(os.urandom(100))
        entropy, key = front.entropy, front.key
        subscription = SubscribeEntropyRequest(bytes_per_message=8, total_bytes=8)

        async def left(call: Any) -> str | None:
            if hasattr(call, "read"):
                assert [len(reply.data) async for reply in call] == [8]
            assert await call.code() is grpc.StatusCode.OK
            return dict(await call.trailing_metadata()).get("qrng-requests-left")

        calls = (
            lambda: entropy.GetEntropy(GetEntropyRequest(bytes_needed=8), metadata=key),
            lambda: entropy.SubscribeEntropy(subscription, metadata=key),
            lambda: entropy.StreamEntropy(iter([StreamEntropyRequest(bytes_needed=8)]), metadata=key),
            lambda: front.qr_entropy.StreamEntropy(iter([EntropyRequest(bytes_needed=8)]), metadata=key),
            lambda: entropy.GetStatus(GetStatusRequest(), metadata=key),
        )
        assert [await left(call()) for call in calls] == [None, None, None, None, "9"]
        assert [await left(calls[-1]()) for _ in range(3)] == ["8", "7", "6"]
        assert [await left(call()) for call in calls] == ["5", "4", "3", "2", "1"]


async def test_requests_of_a_stream_count_for_what_its_end_says() -> None:
    """Its requests count as calls do: when they took more than half, its end says so."""
    clock = ManualClock()
    async with running_gateway(clock=clock, rate_limit=14) as gateway, open_front(gateway) as front:
        clock.advance(1)
        await gateway.push(os.urandom(100))
        call = front.entropy.StreamEntropy(iter([StreamEntropyRequest(bytes_needed=8)] * 8), metadata=front.key)
        assert [len(reply.data) async for reply in call] == [8] * 8
        assert dict(await call.trailing_metadata())["qrng-requests-left"] == "6"


async def test_an_endless_subscription_goes_on_until_the_pool_is_short(front: Front) -> None:
    """What was received before the end is the client's; the end says why."""
    await front.gateway.push(os.urandom(64 * 5))
    call = front.entropy.SubscribeEntropy(SubscribeEntropyRequest(bytes_per_message=64), metadata=front.key)
    received = [await call.read() for _ in range(5)]
    assert sum(len(reply.data) for reply in received) == 320
    assert (await refused(call)).reason == "POOL_SHORT"


async def test_a_stalled_reader_costs_no_more_than_the_transport_holds() -> None:
    """A subscriber that stops reading stops claiming: most of the pool stays for the others."""
    async with running_gateway(buffer_size=32 << 20) as gateway:
        small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
        async with open_front(gateway, small_window) as front:
            await gateway.push(os.urandom(32 << 20))
            request = SubscribeEntropyRequest(bytes_per_message=65_536)
            call = front.entropy.SubscribeEntropy(request, metadata=front.key)
            await call.read()
            # A second client is served meanwhile; by then the first has claimed all it will.
            async with open_front(gateway) as other:
                for _ in range(200):
                    await other.entropy.GetEntropy(GetEntropyRequest(bytes_needed=1024), metadata=front.key)
            assert gateway.gateway.pool.counters.served - 200 * 1024 <= 4 << 20
            call.cancel()


async def test_a_stream_is_answered_in_order_one_reply_for_each_request(front: Front) -> None:
    """A burst of requests is answered in the order of the requests, each with its own size and number."""
    data = os.urandom(5050)
    await front.gateway.push(data)
    requests = [StreamEntropyRequest(bytes_needed=n, sequence_id=1000 - n) for n in range(1, 101)]
    replies = [r async for r in front.entropy.StreamEntropy(iter(requests), metadata=front.key)]
    assert [(len(r.data), r.sequence_id) for r in replies] == [(n, 1000 - n) for n in range(1, 101)]
    assert b"".join(r.data for r in replies) == data


async def test_one_request_read_then_cancelled_is_served(front: Front) -> None:
    """Clients in the field open the bidirectional method for one answer and cancel; that is no fault."""
    await front.gateway.push(os.urandom(100))
    for _ in range(3):
        call = front.entropy.StreamEntropy(metadata=front.key)
        await call.write(StreamEntropyRequest(bytes_needed=8))
        assert len((await call.read()).data) == 8
        call.cancel()
    await until(lambda: front.gateway.gateway.pool.counters.served == 24)


async def test_the_first_request_that_cannot_be_met_ends_the_stream(front: Front) -> None:
    """Answers before it stand; requests after it are not looked at."""
    await front.gateway.push(os.urandom(100))
    call = front.entropy.StreamEntropy(
        iter([StreamEntropyRequest(bytes_needed=n) for n in (10, 0, 10)]), metadata=front.key
    )
    assert len((await call.read()).data) == 10
    assert (await refused(call)).field == "bytes_needed"
    assert front.gateway.gateway.pool.level == 90


async def test_streams_are_bounded() -> None:
    """One stream too many is a limit with a retry hint; when another ends there is room again."""
    async with running_gateway(max_streams=1) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(100))
        call = front.entropy.StreamEntropy(metadata=front.key)
        await call.write(StreamEntropyRequest(bytes_needed=8))
        await call.read()
        second = front.entropy.StreamEntropy(iter([StreamEntropyRequest(bytes_needed=8)]), metadata=front.key)
        refusal = await refused(second)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        third = front.entropy.StreamEntropy(iter([StreamEntropyRequest(bytes_needed=8)]), metadata=front.key)
        assert len([reply async for reply in third]) == 1


@pytest.mark.parametrize("garbage", [b"\x08", b"\x0a\xff", b"\xff" * 20, b"<html>"])
@pytest.mark.parametrize(
    "method",
    [
        "qrng.v1.EntropyService/GetEntropy",
        "qrng.v1.EntropyService/SubscribeEntropy",
        "qrng.v1.EntropyService/StreamEntropy",
        "qrng.v1.EntropyService/GetStatus",
        "qr_entropy.EntropyService/GetEntropy",
        "qr_entropy.EntropyService/StreamEntropy",
        "qrng.QuantumRNG/GetRandomBytes",
    ],
)
async def test_what_is_no_protobuf_is_a_bad_argument(front: Front, method: str, garbage: bytes) -> None:
    """A truncated message is the client's mistake in every method, and the connection lives on."""
    await front.gateway.push(os.urandom(100))
    kind = front.channel.stream_stream if "Stream" in method else front.channel.unary_stream
    call = kind(f"/{method}")(iter([garbage]) if "Stream" in method else garbage, metadata=front.key)
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    reply = await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=1), metadata=front.key)
    assert len(reply.data) == 1


async def test_an_oversized_request_is_not_read(front: Front) -> None:
    """A request message beyond 16 KiB is refused by the transport."""
    call = front.channel.unary_unary("/qrng.v1.EntropyService/GetEntropy")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\x00" * 20_000, metadata=front.key)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_largest_message_reaches_a_default_client(front: Front) -> None:
    """1 MiB at once, and to a client that changed no setting."""
    await front.gateway.push(os.urandom(3 << 20))
    request = GetEntropyRequest(bytes_needed=1 << 20)
    async with grpc.aio.insecure_channel(front.gateway.client_address) as channel:
        reply = await Front(front.gateway, channel).entropy.GetEntropy(request, metadata=front.key)
    assert len(reply.data) == 1 << 20


async def test_no_byte_is_given_twice_to_clients_of_every_kind(front: Front) -> None:
    """Concurrent calls of all kinds together receive each pushed byte once."""
    words = [os.urandom(6) + n.to_bytes(2, "big") for n in range(4096)]
    await front.gateway.push(b"".join(words))

    async def unary() -> list[bytes]:
        request = GetEntropyRequest(bytes_needed=64)
        return [(await front.entropy.GetEntropy(request, metadata=front.key)).data for _ in range(100)]

    async def stream() -> list[bytes]:
        async def requests() -> AsyncIterator[StreamEntropyRequest]:
            for _ in range(100):
                yield StreamEntropyRequest(bytes_needed=80)

        return [reply.data async for reply in front.entropy.StreamEntropy(requests(), metadata=front.key)]

    async def subscription() -> list[bytes]:
        request = SubscribeEntropyRequest(bytes_per_message=96, total_bytes=9600)
        return [reply.data async for reply in front.entropy.SubscribeEntropy(request, metadata=front.key)]

    parts = await asyncio.gather(unary(), stream(), subscription())
    received = [data[i : i + 8] for part in parts for data in part for i in range(0, len(data), 8)]
    assert len(received) == len(set(received)) == 3000
    assert set(received) == set(words[:3000])


async def test_status_says_what_is_there_and_where_the_rest_went(front: Front) -> None:
    """GetStatus describes pool, lanes, collectors and accounting, and holds no entropy."""
    await front.gateway.push(os.urandom(5_000_000))
    await front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=1000), metadata=front.key)
    status = await front.entropy.GetStatus(GetStatusRequest(), metadata=front.key)
    assert status.state == GetStatusResponse.STATE_HEALTHY
    assert status.watermark == GetStatusResponse.WATERMARK_MEDIUM
    assert (status.pool_id, status.version) == (front.gateway.pool_id, "0.1.0")
    assert (status.capacity_bytes, status.pooled_bytes) == (10_000_000, 4_999_000)
    assert (status.served_claims, status.waiting_claims) == (1, 0)
    assert [lane.pooled_bytes for lane in status.lanes] == [4_999_000]
    assert [c.collector_id for c in status.collectors] == [front.gateway.collector_id]
    assert (status.accounting.stored_bytes, status.accounting.served_bytes) == (5_000_000, 1000)
    assert not status.warnings


async def test_status_shows_the_heartbeats_of_collectors(front: Front) -> None:
    """What a collector says of itself reaches GetStatus as it was signed."""
    gateway = front.gateway
    await gateway.push(os.urandom(100))
    status = await front.entropy.GetStatus(GetStatusRequest(), metadata=front.key)
    assert status.collectors[0].last_heartbeat_ns == 0
    states = tuple(SourceState(f"dev-{n}", SourceClass.HARDWARE, condition, n) for n, condition in enumerate(Condition))
    identity = Identity(gateway.collector_id, gateway.pool_id, gateway.epoch, 9)
    told = Heartbeat(identity, time.time_ns(), states, queued=1, overflow=2, expired=3, in_doubt=4)
    assert await gateway.push_signed([signed_heartbeat(gateway, told)]) == 1
    status = await front.entropy.GetStatus(GetStatusRequest(), metadata=front.key)
    (collector,) = status.collectors
    numbers = (collector.queued_bytes, collector.overflow_bytes, collector.expired_bytes, collector.in_doubt_bytes)
    assert numbers == (1, 2, 3, 4)
    assert [(s.device_id, s.source_class, s.condition, s.fetched_bytes) for s in collector.sources] == [
        ("dev-0", 2, 1, 0),
        ("dev-1", 2, 2, 1),
        ("dev-2", 2, 3, 2),
    ]
    assert 0 <= time.time_ns() - collector.last_heartbeat_ns < 60e9
    assert f"source dev-2 of collector {gateway.collector_id} is in quarantine" in status.warnings


async def test_status_tells_refused_bytes_by_reason(front: Front) -> None:
    """What never entered the pool is counted by reason; an empty pool is unhealthy and says so."""
    await front.gateway.push(os.urandom(10), capture_start_ns=1)
    status = await front.entropy.GetStatus(GetStatusRequest(), metadata=front.key)
    assert [(r.reason, r.refused_bytes) for r in status.accounting.refused] == [("before_start", 10)]
    assert status.state == GetStatusResponse.STATE_UNHEALTHY
    assert "the pool is empty" in status.warnings
