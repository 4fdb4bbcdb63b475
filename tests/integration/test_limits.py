"""Limits that a client meets, whichever front it comes in by: a real gateway, over real gRPC and REST."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from qrng_grpc.chunk import BlockLabel
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, Limits, changing_client_file, digest_of
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.compat.qr_entropy_pb2 import EntropyRequest
from qrng_grpc.compat.quantum_rng_pb2 import RandomRequest
from qrng_grpc.labels import SourceClass
from qrng_grpc.serving import MAX_STREAMS_A_CONNECTION
from qrng_grpc.testing import ManualClock
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest, GetStatusRequest, StreamEntropyRequest, SubscribeEntropyRequest
from qrng_grpc.v1.labels_pb2 import SOURCE_CLASS_QUANTUM
from tests.integration.fronts import Front, open_front, pushback_beside, refusal_of, refused, tries_twice_after
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("engine")

KEY = "key-of-the-sampler"
MIB = 1 << 20
DAY_S = 86_400
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    """What came of one call: its status as its front names it, and what the reply told besides."""

    status: str
    data: bytes = field(default=b"", repr=False)
    reason: str | None = None
    retry_s: float | None = None
    requests_left: int | None = None
    bytes_left: int | None = None
    source_class: str | None = None

    @property
    def ok(self) -> bool:
        return self.status in ("OK", "200")


@dataclass(frozen=True)
class Site:
    """A gateway with one client in its file, and that client's way to it by gRPC and by REST."""

    front: Front
    http: aiohttp.ClientSession
    file: Path
    clock: ManualClock

    @property
    def gateway(self) -> RunningGateway:
        return self.front.gateway

    def change(self, client: Client, *, revoked: bool = False) -> None:
        """Change the client's record, and have it taken."""
        put(self.file, client, revoked=revoked)
        self.gateway.gateway.reload()


def put(file: Path, client: Client, *, revoked: bool = False) -> None:
    with changing_client_file(file) as records:
        records[:] = [ClientRecord(client, (KeyDigest(digest_of(KEY)),), revoked=revoked)]


@asynccontextmanager
async def serving(client: Client, directory: Path, clock: ManualClock, **settings: Any) -> AsyncIterator[Site]:
    """Run a gateway for `client`. Its time stands still, so that what buckets hold is known to the token."""
    file = directory / "clients.yaml"
    put(file, client)
    common = {"max_wait": 0, "api_keys_file": file, "state_dir": directory / "state"}
    async with (
        running_gateway(clock=clock, **{**common, **settings}) as gateway,
        open_front(gateway) as front,
        aiohttp.ClientSession() as http,
    ):
        clock.advance(1)
        yield Site(front, http, file, clock)


# Every front that hands out bytes at once


Ask = Callable[..., Awaitable[Answer]]


def key_of(key: str, forwarded: str | None) -> Metadata:
    return (("api-key", key), *((("x-forwarded-for", forwarded),) if forwarded else ()))


async def answer_of(call: Any) -> Answer:
    """Await a unary gRPC call."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        if refusal.retry_s is not None:
            assert refusal.pushback_ms == pushback_beside(refusal.retry_s)
        told: dict[str, Any] = dict(error.trailing_metadata() or ())
        return Answer(refusal.code.name, b"", refusal.reason, refusal.retry_s, *left_of(told))
    trailers: dict[str, Any] = dict(await call.trailing_metadata())
    return Answer("OK", getattr(reply, "data", b""), None, None, *left_of(trailers))


def left_of(told: Mapping[str, str], prefix: str = "qrng-") -> tuple[int | None, int | None]:
    requests, left = (told.get(prefix + name) for name in ("requests-left", "bytes-left-today"))
    return None if requests is None else int(requests), None if left is None else int(left)


async def get_entropy(site: Site, size: int = 16, key: str = KEY, forwarded: str | None = None) -> Answer:
    request = GetEntropyRequest(bytes_needed=size)
    return await answer_of(site.front.entropy.GetEntropy(request, metadata=key_of(key, forwarded)))


async def qr_entropy(site: Site, size: int = 16, key: str = KEY, forwarded: str | None = None) -> Answer:
    request = EntropyRequest(bytes_needed=size)
    return await answer_of(site.front.qr_entropy.GetEntropy(request, metadata=key_of(key, forwarded)))


async def quantum_rng(site: Site, size: int = 16, key: str = KEY, forwarded: str | None = None) -> Answer:
    request = RandomRequest(num_bytes=size)
    return await answer_of(site.front.quantum_rng.GetRandomBytes(request, metadata=key_of(key, forwarded)))


async def rest(
    site: Site, size: int = 16, key: str = KEY, forwarded: str | None = None, path: str = "/api/random"
) -> Answer:
    query = {"bytes": str(size), "encoding": "raw"} if path == "/api/random" else {"count": "1"}
    headers = dict(key_of(key, forwarded))
    async with site.http.get(site.gateway.rest_url + path, params=query, headers=headers) as response:
        body = await response.read()
        left = left_of({name.lower(): value for name, value in response.headers.items()}, "x-qrng-")
        if response.status == 200:
            return Answer("200", body, None, None, *left)
        error = json.loads(body)["error"]
        retry = response.headers.get("Retry-After")
        assert error.get("retry_after_seconds") == (None if retry is None else int(retry))
        return Answer(str(response.status), b"", error["reason"], None if retry is None else int(retry), *left)


async def rest_uuid(site: Site, size: int = 16, key: str = KEY, forwarded: str | None = None) -> Answer:
    assert size == 16
    return await rest(site, size, key, forwarded, "/api/uuid")


AT_ONCE: dict[str, Ask] = {
    "qrng.v1.EntropyService/GetEntropy": get_entropy,
    "qr_entropy.EntropyService/GetEntropy": qr_entropy,
    "qrng.QuantumRNG/GetRandomBytes": quantum_rng,
    "GET /api/random": rest,
    "GET /api/uuid": rest_uuid,
}
ANY_SIZE = (get_entropy, qr_entropy, quantum_rng, rest)
FIVE = tuple(AT_ONCE.values())


def is_limit(answer: Answer) -> bool:
    return answer.status in ("RESOURCE_EXHAUSTED", "429") and answer.reason == "LIMIT_EXCEEDED"


# Streams


def subscription(site: Site, size: int, total: int = 0, key: str = KEY) -> Any:
    request = SubscribeEntropyRequest(bytes_per_message=size, total_bytes=total)
    return site.front.entropy.SubscribeEntropy(request, metadata=(("api-key", key),))


def stream(site: Site, *sizes: int, key: str = KEY) -> Any:
    requests = [StreamEntropyRequest(bytes_needed=size) for size in sizes]
    return site.front.entropy.StreamEntropy(iter(requests), metadata=(("api-key", key),))


def qr_stream(site: Site, *sizes: int, key: str = KEY) -> Any:
    requests = [EntropyRequest(bytes_needed=size) for size in sizes]
    return site.front.qr_entropy.StreamEntropy(iter(requests), metadata=(("api-key", key),))


STREAMS: dict[str, Callable[[Site], Any]] = {
    "qrng.v1.EntropyService/SubscribeEntropy": lambda site: subscription(site, 16, 16),
    "qrng.v1.EntropyService/StreamEntropy": lambda site: stream(site, 16),
    "qr_entropy.EntropyService/StreamEntropy": lambda site: qr_stream(site, 16),
}


async def read_all(call: Any) -> tuple[list[bytes], str]:
    """Read a stream to its end. Returns its messages, and how it ended."""
    messages: list[bytes] = []
    try:
        while (reply := await call.read()) is not grpc.aio.EOF:
            messages.append(reply.data)
    except grpc.aio.AioRpcError as error:
        return messages, error.code().name
    return messages, "OK"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_requests_beyond_the_rate_are_refused_on_every_front(tmp_path: Path, clock: ManualClock) -> None:
    """A second's worth of requests passes, whichever front each comes by; then all refuse until one has come back."""
    client = Client("sampler", limits=Limits(requests_per_s=5))
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        answers = [await ask(site) for ask in FIVE]
        assert [answer.ok for answer in answers] == [True] * 5
        # REST says it always, gRPC once less than half is left.
        assert [answer.requests_left for answer in answers if answer.requests_left is not None][-2:] == [1, 0]
        for ask in FIVE:
            answer = await ask(site)
            assert is_limit(answer)
            assert answer.retry_s == (0.2 if answer.status == "RESOURCE_EXHAUSTED" else 1)
            assert answer.requests_left == 0
            assert not answer.data
        assert site.gateway.gateway.accounting().served == 5 * 16
        clock.advance(0.2)
        assert (await get_entropy(site)).ok
        assert is_limit(await rest(site))


async def test_a_stream_is_one_request_and_each_further_one_waits_for_its_turn(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Opening a stream is refused like any request; what is asked for on it waits, and is never lost."""
    client = Client("sampler", limits=Limits(requests_per_s=4))
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        call = stream(site, *[16] * 5)
        for _ in range(4):
            assert len((await call.read()).data) == 16

        async def the_fifth_is_counted() -> bool:
            return (await get_entropy(site)).retry_s == 0.5

        await until(the_fifth_is_counted)
        for open_another in STREAMS.values():
            refusal = await refused(open_another(site))
            assert (refusal.code, refusal.retry_s) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0.5)  # behind the stream
        clock.advance(0.25)
        assert len((await call.read()).data) == 16
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("ask", ANY_SIZE)
async def test_bytes_beyond_the_rate_are_refused(tmp_path: Path, clock: ManualClock, ask: Ask) -> None:
    """A call that the byte rate has no room for is refused, and served when it was told to come back."""
    client = Client("sampler", limits=Limits(bytes_per_s=1 << 17))
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(2 * MIB))
        assert (await get_entropy(site, MIB)).ok
        answer = await ask(site, 1 << 15)
        assert is_limit(answer)
        assert answer.retry_s == (0.25 if answer.status == "RESOURCE_EXHAUSTED" else 1)
        assert site.gateway.gateway.accounting().served == MIB
        clock.advance(0.25)
        assert len((await ask(site, 1 << 15)).data) == 1 << 15


@pytest.mark.parametrize("open_stream", [stream, qr_stream])
async def test_a_byte_rate_paces_a_stream(tmp_path: Path, clock: ManualClock, open_stream: Callable[..., Any]) -> None:
    """A stream beyond its byte rate goes on, no sooner than the rate allows; unary calls wait for its debt."""
    client = Client("sampler", limits=Limits(bytes_per_s=1 << 20))
    loop = asyncio.get_running_loop()
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(2 * MIB))
        began_s = loop.time()
        messages, status = await read_all(open_stream(site, MIB, MIB // 4))
        assert (list(map(len, messages)), status) == ([MIB, MIB // 4], "OK")
        assert loop.time() - began_s >= 0.25
        answer = await get_entropy(site, 1024)
        assert is_limit(answer)
        assert answer.retry_s == pytest.approx(0.25 + 1024 / MIB, abs=0.001)


async def test_a_subscription_is_paced_and_leaves_without_its_bytes(tmp_path: Path, clock: ManualClock) -> None:
    """A subscription that is cancelled while it is paced is given back what it had not had yet."""
    client = Client("sampler", limits=Limits(bytes_per_s=1 << 16))
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(3 * MIB))
        call = subscription(site, MIB)
        assert len((await call.read()).data) == MIB

        async def the_next_is_charged() -> bool:
            return ((await get_entropy(site, 1)).retry_s or 0) > 16

        async def has_a_whole_bucket() -> bool:
            return (await get_entropy(site, MIB)).ok

        await until(the_next_is_charged)  # it is 16 s away; only from then on may time pass
        call.cancel()
        clock.advance(16)
        await until(has_a_whole_bucket)  # the gateway hears of the cancel in its own time
        assert site.gateway.gateway.accounting().served == 2 * MIB


async def test_a_quota_of_the_day_holds_on_every_front_and_over_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    """Replies count the quota down; beyond it unary calls are refused, streams end; a restart grants nothing anew."""
    client = Client("sampler", limits=Limits(bytes_per_day=1000))
    clock.advance(DAY_S - clock.now_ns() / NS_PER_S % DAY_S + 43_200)  # noon
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        left = [(await ask(site, 100)).bytes_left for ask in ANY_SIZE]
        assert [n for n in left if n is not None] == [600]  # REST says it always, gRPC once less than half is left
        for ask in ANY_SIZE:
            answer = await ask(site, 601)
            assert is_limit(answer)
            assert answer.bytes_left == 600
            assert answer.retry_s == 43_199
        messages, status = await read_all(stream(site, 100, 300, 201))
        assert (list(map(len, messages)), status) == ([100, 300], "RESOURCE_EXHAUSTED")
        messages, status = await read_all(subscription(site, 80))
        assert (list(map(len, messages)), status) == ([80, 80], "RESOURCE_EXHAUSTED")
        assert (await rest(site, 40)).bytes_left == 0
        assert site.gateway.gateway.accounting().served == 1000
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        for ask in ANY_SIZE:
            answer = await ask(site, 1)
            assert is_limit(answer)
            assert answer.bytes_left == 0
        assert await read_all(qr_stream(site, 1)) == ([], "RESOURCE_EXHAUSTED")
        assert not site.gateway.gateway.accounting().served
        clock.advance(43_200)
        await site.gateway.push(os.urandom(4096))
        assert (await rest(site, 1000)).bytes_left == 0


async def test_streams_of_a_client_are_bounded(tmp_path: Path, clock: ManualClock) -> None:
    """Of the streams of one client, of all kinds together, one more than its record says is refused until one ends."""
    client = Client("sampler", limits=Limits(streams=1))
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(1 << 19))  # more than what a client that does not read on is sent
        held = stream(site, 16)
        assert len((await held.read()).data) == 16
        assert await held.read() is grpc.aio.EOF
        held = subscription(site, 16)
        assert len((await held.read()).data) == 16
        for open_another in STREAMS.values():
            refusal = await refused(open_another(site))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
            assert refusal.retry_s == 1
        assert (await get_entropy(site)).ok
        assert (await rest(site)).ok
        another = site.front.entropy.StreamEntropy(
            iter([StreamEntropyRequest(bytes_needed=16)]), metadata=site.front.key
        )
        assert await read_all(another) != ([], "RESOURCE_EXHAUSTED"), "one client's streams were charged to another"
        held.cancel()

        async def opens() -> bool:
            return (await read_all(stream(site)))[1] == "OK"

        await until(opens)  # the gateway hears of the cancel in its own time


@pytest.mark.parametrize("kind", STREAMS)
async def test_grpc_itself_may_try_a_stream_too_many_again(tmp_path: Path, clock: ManualClock, kind: str) -> None:
    """A stream that its client has no room for is refused without headers: they would tell a policy to give up."""
    client = Client("sampler", limits=Limits(streams=1))
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        held = site.front.entropy.StreamEntropy(metadata=(("api-key", KEY),))
        await held.write(StreamEntropyRequest(bytes_needed=16))
        assert len((await held.read()).data) == 16
        async with open_front(site.gateway, (tries_twice_after("RESOURCE_EXHAUSTED"),)) as front:
            assert await read_all(STREAMS[kind](replace(site, front=front))) == ([], "RESOURCE_EXHAUSTED")
        assert (await counted(site))[kind, "RESOURCE_EXHAUSTED"] == 2


async def test_what_a_record_does_not_allow_is_forbidden(tmp_path: Path, clock: ManualClock) -> None:
    """Each method alone may be allowed; every other is refused with PERMISSION_DENIED or 403, and takes nothing."""
    async with serving(Client("sampler"), tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        for allowed in (*AT_ONCE, *STREAMS):
            site.change(Client("sampler", methods=frozenset((allowed,))))
            served = site.gateway.gateway.accounting().served
            opened = [name for name, ask in AT_ONCE.items() if (await forbidden_or_ok(ask, site)).ok]
            for name, open_stream in STREAMS.items():
                messages, status = await read_all(open_stream(site))
                assert (len(messages), status) == ((1, "OK") if name == allowed else (0, "PERMISSION_DENIED"))
                opened += [name] * len(messages)
            assert opened == [allowed]
            assert site.gateway.gateway.accounting().served == served + 16
            status_call = site.front.entropy.GetStatus(GetStatusRequest(), metadata=(("api-key", KEY),))
            assert (await refused(status_call)).code is grpc.StatusCode.PERMISSION_DENIED


async def forbidden_or_ok(ask: Ask, site: Site) -> Answer:
    answer = await ask(site)
    assert answer.ok or (answer.status, answer.reason) in (("PERMISSION_DENIED", "FORBIDDEN"), ("403", "FORBIDDEN"))
    return answer


async def test_the_least_class_of_a_record_binds_on_every_front(tmp_path: Path, clock: ManualClock) -> None:
    """A client that is to have quantum bytes has them by every front, or none: never the weaker ones that are there."""
    weak = BlockLabel(("weak",), SourceClass.OPERATING_SYSTEM)
    client = Client("sampler", least_class=SourceClass.QUANTUM)
    classes = {"best_class": SourceClass.QUANTUM, "least_class": SourceClass.SIMULATED}
    good = os.urandom(16 * (len(FIVE) + len(STREAMS)))
    async with serving(client, tmp_path, clock, **classes) as site:
        await site.gateway.push(os.urandom(4096), label=weak)
        for ask in FIVE:
            answer = await ask(site)
            assert answer.reason == "POOL_SHORT"
        for open_stream in STREAMS.values():
            assert await read_all(open_stream(site)) == ([], "UNAVAILABLE")
        await site.gateway.push(good, label=BlockLabel(("good",), SourceClass.QUANTUM))
        assert [(await ask(site)).ok for ask in FIVE] == [True] * len(FIVE)
        for open_stream in STREAMS.values():
            messages, _ = await read_all(open_stream(site))
            assert messages
            assert messages[0] in good
        everybody = site.front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=4096), metadata=site.front.key)
        assert (await everybody).source_class != SOURCE_CLASS_QUANTUM
        site.change(Client("sampler"))
        promised = qr_stream(site, 16)
        assert dict(await promised.initial_metadata())["qrng-least-class"] == "simulated"
        site.change(client)
        promised = qr_stream(site, 16)
        assert dict(await promised.initial_metadata())["qrng-least-class"] == "quantum"


async def test_a_client_whose_time_is_over_is_nobody(tmp_path: Path, clock: ManualClock) -> None:
    """From the moment in its record on, a client is refused like an unknown one, in the same words; its stream ends."""
    client = Client("sampler", not_after_ns=clock.now_ns() + 10 * NS_PER_S)
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        opened = site.front.entropy.StreamEntropy(metadata=(("api-key", KEY),))
        await opened.write(StreamEntropyRequest(bytes_needed=16))
        assert len((await opened.read()).data) == 16
        assert all([(await ask(site)).ok for ask in FIVE])
        clock.advance(10)
        unknown = await refused(
            site.front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=(("api-key", "unknown"),))
        )
        over = await refused(
            site.front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=16), metadata=(("api-key", KEY),))
        )
        assert over == unknown
        for ask in FIVE:
            answer = await ask(site)
            assert answer.status in ("UNAUTHENTICATED", "401")
            assert answer.requests_left is None
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # the gateway may have seen before who is open
            await opened.write(StreamEntropyRequest(bytes_needed=16))
        assert await read_all(opened) == ([], "UNAUTHENTICATED")


@pytest.mark.parametrize("ask", ANY_SIZE)
async def test_what_a_failed_claim_was_charged_is_given_back(tmp_path: Path, clock: ManualClock, ask: Ask) -> None:
    """When the pool is short nothing is taken from the quota or the byte rate, and the whole quota can be had later."""
    client = Client("sampler", limits=Limits(bytes_per_day=40_000, bytes_per_s=1))
    async with serving(client, tmp_path, clock) as site:
        for _ in range(30):  # more than the bucket of 1 MiB has
            answer = await ask(site, 40_000)
            assert (answer.reason, answer.bytes_left) == ("POOL_SHORT", 40_000)
        await site.gateway.push(os.urandom(40_000))
        assert (await ask(site, 40_000)).bytes_left == 0


async def test_a_claim_that_is_cancelled_in_line_is_given_back(tmp_path: Path, clock: ManualClock) -> None:
    """A client that leaves while its call, its request on a stream or its subscription waits keeps its quota."""
    client = Client("sampler", limits=Limits(bytes_per_day=1000))
    async with serving(client, tmp_path, clock, max_wait=60) as site:
        pool = site.gateway.gateway.pool

        def unary() -> Any:
            return site.front.entropy.GetEntropy(GetEntropyRequest(bytes_needed=900), metadata=(("api-key", KEY),))

        for begin in (unary, lambda: subscription(site, 900), lambda: stream(site, 900), lambda: qr_stream(site, 900)):
            call = begin()
            await until(lambda: pool.waiting == 1)
            call.cancel()
            await until(lambda: pool.waiting == 0)
        async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
            leaving = group.create_task(
                session.get(f"{site.gateway.rest_url}/api/random?bytes=900", headers={"api-key": KEY}).__aenter__()
            )
            await until(lambda: pool.waiting == 1)
            leaving.cancel()
            await until(lambda: pool.waiting == 0)
        await site.gateway.push(os.urandom(1000))
        assert (await get_entropy(site, 1000)).bytes_left == 0


@pytest.mark.parametrize("ask", FIVE)
async def test_unknown_callers_are_refused_before_any_work(tmp_path: Path, clock: ManualClock, ask: Ask) -> None:
    """After sixteen wrong keys from an address its calls are not even looked at; connections known before go on."""
    async with serving(Client("sampler"), tmp_path, clock) as site, open_front(site.gateway) as stranger:
        await site.gateway.push(os.urandom(4096))
        strange = Site(stranger, site.http, site.file, clock)
        assert (await get_entropy(site)).ok
        for _ in range(16):
            answer = await ask(strange, key="a-wrong-key")
            assert (answer.status in ("UNAUTHENTICATED", "401"), answer.reason) == (True, "INVALID_KEY")
            assert answer.requests_left is None
        for key in ("a-wrong-key", "another", KEY) if ask not in (rest, rest_uuid) else ("a-wrong-key", "another"):
            answer = await ask(strange, key=key)
            assert is_limit(answer)
            assert answer.retry_s == 1
            assert answer.requests_left is None
        assert (await get_entropy(site)).ok
        clock.advance(1)
        assert (await ask(strange)).ok


async def test_an_address_has_a_limit_of_its_own(tmp_path: Path, clock: ManualClock) -> None:
    """The requests of all clients from one address share its limit, over gRPC and REST; a proxy of ours none of it."""
    settings = {"address_rate_limit": 3, "trusted_proxies": ("127.0.0.1", "10.1.0.0/16")}
    async with serving(Client("sampler"), tmp_path, clock, **settings) as site:
        await site.gateway.push(os.urandom(4096))
        fixed = site.gateway.api_key
        for address in ("192.0.2.1", "2001:db8:1::1"):
            assert (await get_entropy(site, forwarded=address)).ok
            assert (await rest(site, forwarded=f"198.51.100.9, {address}, 10.1.2.3")).ok
            assert (await rest(site, key=fixed, forwarded=address)).ok
            for ask in FIVE:
                for key in (KEY, fixed):
                    answer = await ask(site, key=key, forwarded=address)
                    assert is_limit(answer)
                    assert answer.retry_s == (0.334 if answer.status == "RESOURCE_EXHAUSTED" else 1)
        assert is_limit(await get_entropy(site, forwarded="2001:db8:1::2"))
        assert (await get_entropy(site, forwarded="2001:db8:2::2")).ok


async def test_nobody_but_a_proxy_of_ours_says_whom_he_serves(tmp_path: Path, clock: ManualClock) -> None:
    """Of a caller that is no trusted proxy the header changes nothing, so nobody gets around an address's limit."""
    settings = {"address_rate_limit": 3, "trusted_proxies": ("10.1.0.0/16",)}
    async with serving(Client("sampler"), tmp_path, clock, **settings) as site:
        await site.gateway.push(os.urandom(4096))
        answers = [await ask(site, forwarded=f"192.0.2.{i}") for i, ask in enumerate(FIVE)]
        assert [answer.ok for answer in answers] == [True, True, True, False, False]


async def test_a_changed_record_counts_from_the_next_call_on(tmp_path: Path, clock: ManualClock) -> None:
    """New limits are in force without a restart, for streams that are open too; what was taken stays taken."""
    async with serving(Client("sampler", limits=Limits(bytes_per_day=1000)), tmp_path, clock) as site:
        await site.gateway.push(os.urandom(MIB))
        opened = site.front.entropy.StreamEntropy(metadata=(("api-key", KEY),))
        await opened.write(StreamEntropyRequest(bytes_needed=600))
        assert len((await opened.read()).data) == 600
        assert is_limit(await get_entropy(site, 600))
        site.change(Client("sampler", limits=Limits(bytes_per_day=5000)))
        await opened.write(StreamEntropyRequest(bytes_needed=900))
        assert len((await opened.read()).data) == 900
        assert (await get_entropy(site, 1000)).bytes_left is None
        assert (await get_entropy(site, 500)).bytes_left == 2000
        site.change(Client("sampler", limits=Limits(requests_per_s=1, bytes_per_day=2000)))
        assert is_limit(await rest(site, 1))
        clock.advance(1)
        assert (await rest(site, 1)).reason == "LIMIT_EXCEEDED"
        site.change(Client("sampler"))
        clock.advance(1)
        answer = await rest(site, 1000)
        assert (answer.status, answer.bytes_left) == ("200", None)
        site.change(Client("sampler"), revoked=True)
        assert await read_all(opened) == ([], "UNAUTHENTICATED")


async def test_a_request_on_an_open_stream_is_counted_by_the_record_as_it_is_now(
    tmp_path: Path, clock: ManualClock
) -> None:
    """After a rate was raised nobody waits by the old one, and a client that was revoked is told so at once."""
    slow = Client("sampler", limits=Limits(requests_per_s=0.001))
    for changed, revoked, ended in ((Client("sampler"), False, "OK"), (slow, True, "UNAUTHENTICATED")):
        async with serving(slow, tmp_path, clock) as site:
            await site.gateway.push(os.urandom(64))
            opened = site.front.entropy.StreamEntropy(metadata=(("api-key", KEY),))
            await opened.write(StreamEntropyRequest(bytes_needed=16))
            assert len((await opened.read()).data) == 16
            site.change(changed, revoked=revoked)
            assert not (await rest(site)).ok  # the bucket is empty, and fills at the new rate from now on
            clock.advance(1)
            if not revoked:  # else it has ended already
                await opened.write(StreamEntropyRequest(bytes_needed=16))
                await opened.done_writing()
            messages, status = await read_all(opened)
            assert (len(messages), status) == (0 if revoked else 1, ended)


async def test_the_audit_log_has_every_call_and_never_a_key_or_a_byte(tmp_path: Path, clock: ManualClock) -> None:
    """Served, refused and unknown calls and both ends of streams leave a line each, with sizes and ids, no secret."""
    audit = tmp_path / "audit.jsonl"
    pushed = os.urandom(4096)
    client = Client("sampler", limits=Limits(bytes_per_day=1000), methods=frozenset(("*",)))
    handed_out: list[bytes] = []
    async with serving(client, tmp_path, clock, audit_log_file=audit) as site:
        await site.gateway.push(pushed)
        for ask in ANY_SIZE:
            answer = await ask(site, 100)
            handed_out.append(answer.data)
            assert answer.ok
            assert is_limit(await ask(site, 1000))
            assert (await ask(site, 1, key="a-wrong-key-of-somebody")).status in ("UNAUTHENTICATED", "401")
        messages, status = await read_all(subscription(site, 50, 100))
        assert (len(messages), status) == (2, "OK")
        handed_out += messages
        site.change(Client("sampler", methods=frozenset(("GET /api/random",))))
        assert (await get_entropy(site)).status == "PERMISSION_DENIED"
        assert (await read_all(stream(site, 16)))[1] == "PERMISSION_DENIED"
        async with site.http.get(f"{site.gateway.rest_url}/health") as response:
            assert response.status == 200
    text = audit.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    events = Counter((line["event"], line["client_id"], line["method"], line["status"]) for line in lines)
    of_grpc = [name for name in AT_ONCE if not name.startswith("GET")]
    assert events == Counter(
        [
            *(("call", "sampler", name, "OK") for name in of_grpc),
            *(("call", "sampler", name, "RESOURCE_EXHAUSTED") for name in of_grpc),
            *(("call", None, name, "UNAUTHENTICATED") for name in of_grpc),
            ("call", "sampler", "GET /api/random", "200"),
            ("call", "sampler", "GET /api/random", "429"),
            ("call", None, "GET /api/random", "401"),
            ("opened", "sampler", "qrng.v1.EntropyService/SubscribeEntropy", None),
            ("ended", "sampler", "qrng.v1.EntropyService/SubscribeEntropy", "OK"),
            ("call", "sampler", "qrng.v1.EntropyService/GetEntropy", "PERMISSION_DENIED"),
            ("call", "sampler", "qrng.v1.EntropyService/StreamEntropy", "PERMISSION_DENIED"),
        ]
    )
    assert sum(line["bytes"] for line in lines if line["event"] != "opened") == 4 * 100 + 100
    (ended,) = [line for line in lines if line["event"] == "ended"]
    (opened,) = [line for line in lines if line["event"] == "opened"]
    assert (ended["bytes"], ended["messages"], ended["stream"]) == (100, 2, opened["stream"])
    assert ended["source_class"] == "operating_system"
    for secret in (KEY, "a-wrong-key-of-somebody", digest_of(KEY).hex(), KEY[:8]):
        assert secret not in text
    for data in handed_out:
        assert data in pushed
        assert data[:8].hex() not in text.lower()


_SAMPLE = re.compile(r'qrng_calls_total\{method="([^"]*)",status="([^"]*)"\} (\S+)')


async def counted(site: Site) -> dict[tuple[str, str], int]:
    """Return how many calls of which method ended with which status, as the gateway counts them."""
    async with site.http.get(f"{site.gateway.rest_url}/metrics") as response:
        text = await response.text()
    return {(m.group(1), m.group(2)): int(float(m.group(3))) for m in _SAMPLE.finditer(text)}


async def test_calls_are_counted_by_method_and_status(tmp_path: Path, clock: ManualClock) -> None:
    """Every call of every front is counted once, by how it ended; what was served adds up with what clients had."""
    client = Client("sampler", limits=Limits(requests_per_s=8))
    async with serving(client, tmp_path, clock) as site:
        await site.gateway.push(os.urandom(4096))
        expected: Counter[tuple[str, str]] = Counter()
        received = 0
        for _ in range(2):
            for name, ask in AT_ONCE.items():
                answer = await ask(site)
                expected[name, answer.status] += 1
                received += 16 * answer.ok
                answer = await ask(site, key="a-wrong-key")
                expected[name, answer.status] += 1
        for name, open_stream in STREAMS.items():
            clock.advance(1)
            messages, status = await read_all(open_stream(site))
            expected[name, status] += 1
            received += sum(map(len, messages))
        assert {status for _, status in expected} >= {"OK", "200", "UNAUTHENTICATED", "401", "429"}
        assert await counted(site) == expected
        assert site.gateway.gateway.accounting().served == received


async def test_whoever_has_more_calls_to_make_than_a_connection_takes_gets_every_answer() -> None:
    """Calls beyond those that a connection may carry wait at the client, and none is refused for coming right after."""
    calls = 6 * MAX_STREAMS_A_CONNECTION
    async with running_gateway(rate_limit=10 * calls, max_wait=0) as gateway, open_front(gateway) as front:
        await gateway.push(os.urandom(16 * calls))
        request = GetEntropyRequest(bytes_needed=16)
        replies = await asyncio.gather(*(front.entropy.GetEntropy(request, metadata=front.key) for _ in range(calls)))
        assert len({reply.data for reply in replies}) == calls
