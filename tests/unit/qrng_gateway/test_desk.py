"""The desk: what decides over a call, in which order, and what is remembered of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qrng_gateway.admission.access import Pass
from qrng_gateway.admission.addresses import network_of
from qrng_gateway.admission.audit import AuditLog
from qrng_gateway.admission.guard import BURST, Guard
from qrng_gateway.admission.limits import Limiter
from qrng_gateway.desk import Call, Desk
from qrng_gateway.dispenser import Demand, Dispenser
from qrng_gateway.observation.metrics import CallCounts
from qrng_grpc.client_keys import Client, Limits
from qrng_grpc.errors import AuthenticationError, ForbiddenError, LimitError, PoolShortError
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.clock import ManualClock
from tests.unit.qrng_gateway.blocks import block, make_pool, put

METHOD = "qrng.v1.EntropyService/GetEntropy"
PEER = "ipv4:192.0.2.7:40000"
ANYBODY = Client("anybody")


class Setting:
    """A desk before a pool, on a clock that stands still."""

    def __init__(self, directory: Path, rate_limit: float = 100, log: bool = False, max_wait_s: float = 0) -> None:
        self.clock = ManualClock()
        self.pool = make_pool(self.clock)
        self.limiter = Limiter(directory, rate_limit=rate_limit, clock=self.clock)
        self.counts = CallCounts()
        self.log_file = directory / "audit.log" if log else None
        self.audit = AuditLog(self.log_file, self.clock)
        self.known: set[str] = {ANYBODY.client_id}
        self.desk = Desk(
            self,
            Dispenser(
                self.pool,
                least_class=SourceClass.SIMULATED,
                max_wait_s=max_wait_s,
                max_fresh_wait_s=0,
                clock_tolerance_s=0,
                clock=self.clock,
            ),
            self.limiter,
            Guard(self.clock, mistakes="wrong keys"),
            self.counts,
            self.audit,
            trusted_proxies=(network_of("10.0.0.0/8"),),
            clock=self.clock,
        )

    def current(self, passed: Pass) -> Pass:
        if passed.client.client_id not in self.known:
            raise AuthenticationError("no")
        return passed

    def admitted(self, client: Client = ANYBODY, peer: str = PEER) -> Call:
        call = self.desk.open(METHOD, peer)
        call.admit(lambda: Pass(client))
        return call

    def lines(self) -> list[dict[str, object]]:
        assert self.log_file is not None
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


def refuse() -> Pass:
    raise AuthenticationError("no")


def never() -> Pass:
    raise AssertionError("was looked at")


def test_who_guesses_keys_is_refused_before_any_work(tmp_path: Path) -> None:
    """After so many wrong keys from an address nothing that comes from there is even looked at; others are."""
    setting = Setting(tmp_path)
    for _ in range(BURST):
        with pytest.raises(AuthenticationError):
            setting.desk.open(METHOD, PEER).admit(refuse)
    with pytest.raises(LimitError):
        setting.desk.open(METHOD, PEER).admit(never)
    setting.admitted(peer="ipv4:192.0.2.8:1")


def test_a_connection_that_showed_a_key_outlives_a_flood_beside_it(tmp_path: Path) -> None:
    """Guesses from the same address do not shut out a connection whose key was good."""
    setting = Setting(tmp_path)
    setting.admitted()
    for port in range(BURST + 5):
        with pytest.raises((AuthenticationError, LimitError)):
            setting.desk.open(METHOD, f"ipv4:192.0.2.7:{port + 1}").admit(refuse)
    setting.admitted()


def test_behind_a_trusted_proxy_callers_are_told_apart(tmp_path: Path) -> None:
    """One caller's guesses behind a proxy leave the others alone."""
    setting = Setting(tmp_path)
    proxy = "ipv4:10.0.0.1:999"
    for _ in range(BURST):
        with pytest.raises(AuthenticationError):
            setting.desk.open(METHOD, proxy).admit(refuse, "198.51.100.1")
    with pytest.raises(LimitError):
        setting.desk.open(METHOD, proxy).admit(never, "198.51.100.1")
    setting.desk.open(METHOD, proxy).admit(lambda: Pass(ANYBODY), "198.51.100.2")


def test_a_method_that_is_not_the_clients_is_forbidden(tmp_path: Path) -> None:
    """A good key opens what its record names; what it does not costs a request too, so that nobody asks without end."""
    setting = Setting(tmp_path, rate_limit=3)
    narrow = Client("narrow", methods=frozenset({"GET /api/random"}))
    for _ in range(2):
        with pytest.raises(ForbiddenError):
            setting.admitted(narrow)
    setting.desk.open("GET /api/random", PEER).admit(lambda: Pass(narrow))
    with pytest.raises(LimitError):
        setting.admitted(narrow)


async def test_a_claim_that_fails_costs_nothing(tmp_path: Path) -> None:
    """What was charged for bytes that did not come is given back, in unary calls and on streams."""
    setting = Setting(tmp_path)
    client = Client("quota", limits=Limits(bytes_per_day=100))
    setting.known.add("quota")
    call = setting.admitted(client)
    dispense: Callable[..., object]
    for dispense in (call.dispense, call.dispense_in_time):
        with pytest.raises(PoolShortError):
            await dispense(Demand(60), limit=1000, time_left_s=None)
    assert setting.limiter.remaining(client).bytes_today == 100
    put(setting.pool, block(100, setting.clock))
    await call.dispense(Demand(60), limit=1000, time_left_s=None)
    assert setting.limiter.remaining(client).bytes_today == 40


async def test_what_need_not_be_waited_for_is_had_at_once_and_charged(tmp_path: Path) -> None:
    """A claim that can be met now needs no waiting; one that cannot takes nothing and costs nothing."""
    setting = Setting(tmp_path)
    client = Client("quota", limits=Limits(bytes_per_day=100))
    setting.known.add("quota")
    call = setting.admitted(client)
    assert call.dispense_now(Demand(60), limit=1000) is None
    assert setting.limiter.remaining(client).bytes_today == 100
    put(setting.pool, block(100, setting.clock))
    claimed = call.dispense_now(Demand(60), limit=1000)
    assert claimed is not None
    assert (len(claimed.data), setting.limiter.remaining(client).bytes_today) == (60, 40)
    with pytest.raises(LimitError):
        call.dispense_now(Demand(60), limit=1000)
    assert setting.pool.level == 40


async def test_a_stream_in_debt_has_nothing_at_once_and_owes_no_more_for_asking(tmp_path: Path) -> None:
    """An open stream waits for a rate where another call is refused, and asking whether it must costs nothing."""
    setting = Setting(tmp_path)
    slow = Client("slow", limits=Limits(bytes_per_s=1_000_000, bytes_per_day=3_000_000))
    setting.known.add("slow")
    put(setting.pool, block(100, setting.clock))
    call = setting.admitted(slow)
    with call.streaming():
        setting.limiter.charge(slow, 1 << 20, paced=True)
        debt_s = setting.limiter.charge(slow, 10_000, paced=True).wait_s
        left = setting.limiter.remaining(slow).bytes_today
        assert [call.dispense_now(Demand(10), limit=1000) for _ in range(5)] == [None] * 5
        assert setting.limiter.remaining(slow).bytes_today == left
        setting.clock.advance(debt_s + 0.001)
        claimed = call.dispense_now(Demand(10), limit=1000)
        assert claimed is not None
        assert len(claimed.data) == 10
        setting.known.discard("slow")
        with pytest.raises(AuthenticationError):
            call.dispense_now(Demand(10), limit=1000)
    setting.limiter.charge(slow, 1 << 20, paced=True)
    with pytest.raises(LimitError):
        setting.admitted(slow).dispense_now(Demand(10), limit=1000)


async def test_a_stream_ends_when_its_client_is_revoked(tmp_path: Path) -> None:
    """A client that came in is asked for again with each message of a stream."""
    setting = Setting(tmp_path)
    put(setting.pool, block(100, setting.clock))
    call = setting.admitted()
    await call.dispense_in_time(Demand(10), limit=1000, time_left_s=None)
    setting.known.clear()
    with pytest.raises(AuthenticationError):
        await call.dispense_in_time(Demand(10), limit=1000, time_left_s=None)
    assert setting.pool.level == 90


async def test_a_client_withdrawn_while_its_stream_is_paced_gets_nothing(tmp_path: Path) -> None:
    """Who is not to be served any more after a stream's pause gets nothing then, and what was charged is given back."""
    setting = Setting(tmp_path)
    slow = Client("slow", limits=Limits(bytes_per_s=1_000_000, bytes_per_day=3_000_000))
    setting.known.add("slow")
    put(setting.pool, block(100, setting.clock))
    call = setting.admitted(slow)
    setting.limiter.charge(slow, 1 << 20, paced=True)
    setting.limiter.charge(slow, 10_000, paced=True)
    left = setting.limiter.remaining(slow).bytes_today
    paced = asyncio.create_task(call.dispense_in_time(Demand(10), limit=1000, time_left_s=None))
    await asyncio.sleep(0)
    setting.known.discard("slow")
    with pytest.raises(AuthenticationError):
        await paced
    assert setting.pool.level == 100
    assert setting.limiter.remaining(slow).bytes_today == left


@pytest.mark.parametrize("kind", ["stream", "claim"])
async def test_whoever_is_withdrawn_waits_no_longer(tmp_path: Path, kind: str) -> None:
    """A stream that is open, and a claim that waits, end as refused once their client is not served; others go on."""
    setting = Setting(tmp_path, max_wait_s=60)
    other = Client("other")
    setting.known.add("other")

    async def last(call: Call) -> int:
        if kind == "claim":
            return len((await call.dispense(Demand(10), limit=1000, time_left_s=None)).data)
        with call.streaming():
            return len((await call.dispense_in_time(Demand(10), limit=1000, time_left_s=None)).data)

    ended, goes_on = (asyncio.create_task(last(setting.admitted(client))) for client in (ANYBODY, other))
    await asyncio.sleep(0)
    setting.desk.end_withdrawn()
    setting.known.discard(ANYBODY.client_id)
    setting.desk.end_withdrawn()
    setting.desk.end_withdrawn()
    with pytest.raises(AuthenticationError):
        await ended
    assert not ended.cancelling()
    put(setting.pool, block(10, setting.clock))
    assert await goes_on == 10
    assert not setting.desk.lasting


async def test_who_leaves_while_withdrawn_has_left(tmp_path: Path) -> None:
    """A call that is cancelled from outside stays cancelled, though its client is withdrawn in the same moment."""
    setting = Setting(tmp_path, max_wait_s=60)
    call = setting.admitted()
    waits = asyncio.create_task(call.dispense(Demand(10), limit=1000, time_left_s=None))
    await asyncio.sleep(0)
    setting.known.clear()
    setting.desk.end_withdrawn()
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits


async def test_requests_on_a_stream_count_and_wait(tmp_path: Path) -> None:
    """Each request of a stream is one of the client's; the first was counted when the stream was opened."""
    setting = Setting(tmp_path, rate_limit=2)
    call = setting.admitted()
    await call.next_request()
    await call.next_request()
    third = asyncio.create_task(call.next_request())
    await asyncio.sleep(0)
    assert not third.done()
    setting.clock.advance(1)
    await third


async def test_what_became_of_calls_is_written_down(tmp_path: Path) -> None:
    """A line for each call, two for a stream, one for a refusal; none for what the guard refused."""
    setting = Setting(tmp_path, log=True)
    put(setting.pool, block(100, setting.clock))
    async with setting.audit.running():
        call = setting.admitted()
        await call.dispense(Demand(10), limit=1000, time_left_s=None)
        call.close("OK")
        stream = setting.admitted()
        with stream.streaming():
            for _ in range(2):
                await stream.dispense_in_time(Demand(5), limit=1000, time_left_s=None)
        stream.close("CANCELLED")
        for _ in range(BURST + 3):
            refused = setting.desk.open(METHOD, PEER + "1")
            with pytest.raises((AuthenticationError, LimitError)):
                refused.admit(refuse)
            refused.close("refused")
    lines = setting.lines()
    assert [line["event"] for line in lines[:3]] == ["call", "opened", "ended"]
    assert [line["bytes"] for line in lines[:3]] == [10, 0, 10]
    assert lines[0]["client_id"] == "anybody"
    assert len(lines) == 3 + BURST


def test_calls_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    """Every call that is opened and closed counts once, admitted or not."""
    setting = Setting(tmp_path)
    setting.admitted().close("OK")
    setting.desk.open(METHOD, PEER).close("UNAUTHENTICATED")
    (row,) = [row for row in setting.counts.rows() if row.method == METHOD]
    assert row.statuses == {"OK": 1, "UNAUTHENTICATED": 1}


def test_a_client_learns_what_it_has_left(tmp_path: Path) -> None:
    """Requests always, bytes where there is a quota; whoever was not let in learns nothing."""
    setting = Setting(tmp_path, rate_limit=5)
    assert setting.desk.open(METHOD, PEER).allowances() == ()
    assert setting.admitted().allowances() == (("qrng-requests-left", "4"),)
    limited = Client("limited", limits=Limits(bytes_per_day=7))
    assert dict(setting.admitted(limited).allowances())["qrng-bytes-left-today"] == "7"
