"""Limits: what a client may take, to the request and the byte, and what a refusal promises."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_gateway.admission.limits import STREAM_RETRY_S, Limiter, Remaining
from qrng_grpc.client_keys import Client, Limits
from qrng_grpc.errors import LimitError
from qrng_grpc.testing.clock import ManualClock

HERE = "192.0.2.1"
MIB = 1 << 20
DAY_S = 86_400


def client(name: str = "lab", **limits: float) -> Client:
    return Client(name, limits=Limits(**limits))  # type: ignore[arg-type]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limiter(tmp_path: Path, clock: ManualClock) -> Limiter:
    """Hundred requests a second for a client, a thousand for an address."""
    return Limiter(tmp_path, rate_limit=100, address_rate_limit=1000, clock=clock)


def admitted(limiter: Limiter, who: Client, address: str = HERE) -> int:
    """Send requests until one is refused; return how many were not."""
    times = 0
    while refusal(limiter, who, address) is None:
        times += 1
    return times


def refusal(limiter: Limiter, who: Client, address: str = HERE) -> LimitError | None:
    try:
        limiter.admit(who, address)
    except LimitError as error:
        return error
    return None


def told_s(error: LimitError | None) -> float:
    assert error is not None
    assert error.retry_after_s is not None
    return error.retry_after_s


def test_a_client_has_one_seconds_worth_at_once_and_then_its_rate(limiter: Limiter, clock: ManualClock) -> None:
    """A hundred requests pass at once, then one every ten milliseconds, and the wait is told."""
    who = client()
    assert admitted(limiter, who) == 100
    assert told_s(refusal(limiter, who)) == 0.01
    clock.advance(0.01)
    assert admitted(limiter, who) == 1
    clock.advance(3600)
    assert admitted(limiter, who) == 100


def test_a_record_says_how_many_requests(limiter: Limiter) -> None:
    """The number in a client's record stands in place of the gateway's, and other clients have theirs."""
    assert admitted(limiter, client("fast", requests_per_s=500)) == 500
    assert admitted(limiter, client("slow", requests_per_s=0.5)) == 1
    assert admitted(limiter, client("plain")) == 100


def test_an_address_has_a_limit_for_all_its_clients(limiter: Limiter, clock: ManualClock) -> None:
    """Many clients behind one address share its rate; elsewhere they are free; a refusal says which limit it was."""
    assert sum(admitted(limiter, client(f"c-{n}")) for n in range(20)) == 1000
    fresh = client("fresh")
    error = refusal(limiter, fresh)
    assert "address" in str(error)
    assert told_s(error) == 0.001
    assert admitted(limiter, fresh, "192.0.2.2") == 100
    assert "client" in str(refusal(limiter, fresh, "192.0.2.2"))


def test_a_refused_request_costs_nothing(limiter: Limiter, clock: ManualClock) -> None:
    """Neither the client's bucket nor the address's is charged for what was refused by the other."""
    greedy, modest = client("greedy"), client("modest", requests_per_s=1000)
    admitted(limiter, greedy)
    for _ in range(5000):
        assert refusal(limiter, greedy) is not None
    assert admitted(limiter, modest) == 900


def test_the_address_rate_is_the_client_rate_by_default(tmp_path: Path, clock: ManualClock) -> None:
    """Where nothing else is set, an address may do what one client may."""
    limiter = Limiter(tmp_path, rate_limit=10, clock=clock)
    assert admitted(limiter, client("fast", requests_per_s=500)) == 10


def test_a_change_of_limits_counts_from_the_next_call(limiter: Limiter, clock: ManualClock) -> None:
    """The record that comes with a call is the truth; what was taken before stays taken."""
    assert admitted(limiter, client()) == 100
    assert admitted(limiter, client(requests_per_s=200)) == 0
    clock.advance(0.5)
    assert admitted(limiter, client(requests_per_s=200)) == 100
    limiter.charge(client(), MIB)
    limiter.charge(client(bytes_per_s=1), MIB)
    with pytest.raises(LimitError):
        limiter.charge(client(bytes_per_s=1), 1)
    limiter.charge(client(), MIB)


def test_whoever_emptied_a_bucket_at_a_low_rate_has_the_higher_one_once_it_is_raised(
    limiter: Limiter, clock: ManualClock
) -> None:
    """After a second at the new rate there is a second's worth, however long the old rate would have taken."""
    limiter.admit(client(requests_per_s=0.001), HERE)
    limiter.charge(client(bytes_per_s=1), MIB)
    raised = client(requests_per_s=10, bytes_per_s=MIB)
    assert told_s(refusal(limiter, raised)) == pytest.approx(0.1)
    with pytest.raises(LimitError) as caught:
        limiter.charge(raised, MIB)
    assert caught.value.retry_after_s == pytest.approx(1)
    clock.advance(1)
    assert admitted(limiter, raised) == 10
    assert limiter.charge(raised, MIB).wait_s == 0


def test_a_byte_rate_refuses_a_unary_call_and_says_when_to_return(limiter: Limiter, clock: ManualClock) -> None:
    """The largest message passes at once, however low the rate; what follows waits for its bytes, and no longer."""
    who = client(bytes_per_s=1000)
    limiter.charge(who, MIB)
    with pytest.raises(LimitError, match="bytes a second") as caught:
        limiter.charge(who, 500)
    assert caught.value.retry_after_s == 0.5
    clock.advance(0.499)
    with pytest.raises(LimitError):
        limiter.charge(who, 500)
    clock.advance(0.001)
    limiter.charge(who, 500)


def test_a_byte_rate_paces_streams_in_turn(limiter: Limiter, clock: ManualClock) -> None:
    """Streams of one client are charged at once and wait for their turn: together they have the rate."""
    who = client(bytes_per_s=MIB)
    assert [limiter.charge(who, MIB // 2, paced=True).wait_s for _ in range(6)] == [0, 0, 0.5, 1, 1.5, 2]
    clock.advance(1)
    assert limiter.charge(who, MIB, paced=True).wait_s == 2


def test_a_stream_that_leaves_while_it_waits_shortens_the_wait_of_the_next(limiter: Limiter) -> None:
    """What is refunded is there for the next one."""
    who = client(bytes_per_s=MIB)
    limiter.charge(who, MIB)
    left = limiter.charge(who, MIB, paced=True)
    limiter.refund(who, left)
    assert limiter.charge(who, MIB, paced=True).wait_s == left.wait_s == 1


def test_the_quota_of_the_day_ends_calls_and_streams(limiter: Limiter, clock: ManualClock) -> None:
    """Past the quota either is refused until midnight UTC; less than what is left still passes."""
    who = client(bytes_per_day=1000)
    clock.advance(DAY_S - 100)
    limiter.charge(who, 600)
    for paced in (False, True):
        with pytest.raises(LimitError, match="today's quota") as caught:
            limiter.charge(who, 401, paced=paced)
        assert caught.value.retry_after_s == 100
    limiter.charge(who, 400, paced=True)
    clock.advance(100)
    limiter.charge(who, 1000)


def test_what_one_limit_refuses_is_charged_to_no_other(limiter: Limiter, clock: ManualClock) -> None:
    """A call over its byte rate takes nothing of the day, one over the day takes nothing of the rate."""
    who = client(bytes_per_s=MIB, bytes_per_day=MIB + 10)
    limiter.charge(who, MIB)
    with pytest.raises(LimitError, match="bytes a second"):
        limiter.charge(who, 10)
    clock.advance(1)
    with pytest.raises(LimitError, match="quota"):
        limiter.charge(who, MIB)
    assert limiter.charge(who, 10, paced=True).wait_s == 0
    assert limiter.remaining(who).bytes_today == 0


@settings(max_examples=25, deadline=None)  # each writes to the disk
@given(
    sizes=st.lists(st.integers(1, MIB), max_size=5),
    size=st.integers(1, MIB),
    paced=st.booleans(),
    later_s=st.floats(0, 10),
)
def test_a_refund_restores(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], size: int, paced: bool, later_s: float
) -> None:
    """A claim that failed leaves client, rate and day as if it had never been asked for."""
    states = []
    for fails in (False, True):
        clock = ManualClock()
        limiter = Limiter(tmp_path_factory.mktemp("state"), rate_limit=100, clock=clock)
        who = client(bytes_per_s=100_000, bytes_per_day=40 * MIB)
        for earlier in sizes:
            limiter.charge(who, earlier, paced=True)
        charge = None
        if fails:
            try:
                charge = limiter.charge(who, size, paced=paced)
            except LimitError:
                charge = None
        clock.advance(later_s)
        if charge is not None:
            limiter.refund(who, charge)
        states.append((limiter.remaining(who), limiter.charge(who, 1, paced=True).wait_s))
    assert states[0] == states[1]


def test_a_client_without_byte_limits_is_not_counted(limiter: Limiter) -> None:
    """What has no limit is never refused, and giving it back changes nothing."""
    who = client()
    for _ in range(100):
        limiter.refund(who, limiter.charge(who, MIB))
        assert limiter.charge(who, MIB, paced=True).wait_s == 0
    assert limiter.remaining(who) == Remaining(100, 0.0, None, None)


@pytest.mark.parametrize("size", [-1, 0, MIB + 1])
def test_a_size_out_of_range_is_a_fault_of_ours(limiter: Limiter, size: int) -> None:
    """Sizes are checked before they are charged, so that nobody gains by a negative one."""
    with pytest.raises(ValueError, match="expected 1 to"):
        limiter.charge(client(), size)


def test_streams_of_a_client_are_limited(limiter: Limiter) -> None:
    """As many as its record says may be open; one that ends, however it ends, makes room; others are not affected."""
    who = client(streams=2)
    with ExitStack() as first:
        first.enter_context(limiter.stream(who))
        with limiter.stream(who):
            with pytest.raises(LimitError, match="streams") as caught, limiter.stream(who):
                pass
            assert caught.value.retry_after_s == STREAM_RETRY_S
            with limiter.stream(client("other")):
                pass
        with pytest.raises(KeyError), limiter.stream(who):
            raise KeyError
        with limiter.stream(who):
            pass


def test_streams_without_a_limit_are_counted_for_when_there_is_one(limiter: Limiter) -> None:
    """A limit that is set while streams are open counts them."""
    with limiter.stream(client()), pytest.raises(LimitError), limiter.stream(client(streams=1)):
        pass


def test_what_remains_is_told(limiter: Limiter, clock: ManualClock) -> None:
    """Requests left now and when all are back, bytes left today and when the day ends."""
    who = client(bytes_per_day=1000)
    limiter.admit(who, HERE)
    limiter.charge(who, 100)
    assert limiter.remaining(who) == Remaining(99, 0.01, 900, DAY_S)
    clock.advance(0.005)
    assert limiter.remaining(who) == Remaining(99, 0.005, 900, DAY_S - 0.005)
    clock.advance(DAY_S)
    assert limiter.remaining(who) == Remaining(100, 0, 1000, DAY_S - 0.005)


def test_the_day_survives_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    """A gateway that ended politely knows to the byte what a client had, one that was killed errs on the safe side."""
    who = client(bytes_per_day=1000)
    first = Limiter(tmp_path, rate_limit=100, clock=clock)
    first.charge(who, 995)
    first.settle()
    second = Limiter(tmp_path, rate_limit=100, clock=clock)
    assert second.remaining(who).bytes_today == 5
    second.charge(who, 1)
    third = Limiter(tmp_path, rate_limit=100, clock=clock)
    assert third.remaining(who).bytes_today == 0
    assert not third.failing


def test_limits_hold_exactly_under_load(limiter: Limiter, clock: ManualClock) -> None:
    """Over ten seconds of many greedy clients each gets what its bucket allows, within one percent."""
    greedy = [client(f"greedy-{n}", requests_per_s=rate) for n, rate in enumerate((7, 33, 100, 150))]
    served = dict.fromkeys(greedy, 0)
    for _ in range(10_000):
        clock.advance(0.001)
        for who in greedy:
            served[who] += refusal(limiter, who) is None
    for who, count in served.items():
        rate = who.limits.requests_per_s or 0
        assert rate * 11 * 0.99 - 1 <= count <= rate * 11


def test_waiting_as_told_is_enough(limiter: Limiter, clock: ManualClock) -> None:
    """Whoever comes back when he was told to is served, and has lost nothing of his rate."""
    who, started_ns = client(bytes_per_s=333_333), clock.monotonic_ns()
    total = 0
    for _ in range(200):
        try:
            limiter.charge(who, 65_536)
        except LimitError as error:
            clock.advance(told_s(error))
            limiter.charge(who, 65_536)
        total += 65_536
    elapsed_s = (clock.monotonic_ns() - started_ns) / 1e9
    assert total - MIB == pytest.approx(333_333 * elapsed_s, rel=0.01)


def test_what_is_remembered_is_bounded(tmp_path: Path, clock: ManualClock) -> None:
    """A flood of names costs no more memory than was set; a bucket that is full again goes before one that is not."""
    limiter = Limiter(tmp_path, rate_limit=10, max_names=8, clock=clock)
    busy = client("busy")
    admitted(limiter, busy)
    limiter.admit(client("idle"), "192.0.2.2")
    clock.advance(0.5)
    for n in range(3, 10):
        limiter.admit(client(f"c-{n}"), f"192.0.2.{n}")
    assert len(limiter) == 16
    assert limiter.remaining(busy).requests == 5
    assert admitted(limiter, client("other"), HERE) == 5
    for n in range(100):
        limiter.admit(client(f"d-{n}"), f"203.0.113.{n}")
    assert len(limiter) == 16


def test_claims_that_were_charged_long_ago_bank_no_burst(limiter: Limiter, clock: ManualClock) -> None:
    """Bytes charged over a minute, and given back at once, pass as one bucket: time gave them back already."""
    who = client(bytes_per_s=MIB)
    pending = []
    for _ in range(60):
        pending.append(limiter.charge(who, MIB))
        clock.advance(1)
    taken = 0
    for charge in reversed(pending):
        limiter.refund(who, charge)
        with suppress(LimitError):
            limiter.charge(who, MIB)
            taken += 1
    assert taken == 1


def test_a_charge_before_there_was_a_rate_gives_nothing_back(limiter: Limiter) -> None:
    """A refund puts nothing into a bucket from which it was not taken."""
    without = client(bytes_per_day=10 * MIB)
    charge = limiter.charge(without, MIB)
    limited = client(bytes_per_s=MIB, bytes_per_day=10 * MIB)
    limiter.charge(limited, MIB)
    limiter.refund(limited, charge)
    with pytest.raises(LimitError, match="bytes a second"):
        limiter.charge(limited, 1)


def test_requests_of_streams_take_turns(tmp_path: Path, clock: ManualClock) -> None:
    """Each is charged at once, waits for one token more than the one before, and leaves the address alone."""
    limiter = Limiter(tmp_path, rate_limit=10, address_rate_limit=1000, clock=clock)
    who = client()
    assert admitted(limiter, who) == 10
    assert [limiter.pace_request(who).wait_s for _ in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert told_s(refusal(limiter, who)) == pytest.approx(0.6)
    assert limiter.remaining(who).requests == 0
    clock.advance(0.5)
    assert refusal(limiter, who) is not None
    clock.advance(0.1)
    assert admitted(limiter, who) == 1
    assert admitted(limiter, client("other", requests_per_s=2000)) == 1000 - 1


def test_a_request_that_waited_and_left_is_given_back(tmp_path: Path, clock: ManualClock) -> None:
    """Streams that end while they wait leave no debt, and those that end late save no burst up."""
    limiter = Limiter(tmp_path, rate_limit=10, address_rate_limit=1000, clock=clock)
    who = client()
    admitted(limiter, who)
    waiting = [limiter.pace_request(who) for _ in range(500)]
    for charge in waiting:
        limiter.refund_request(who, charge)
    assert limiter.pace_request(who).wait_s == pytest.approx(0.1)
    clock.advance(1000)
    early = limiter.pace_request(who)
    clock.advance(1)
    assert admitted(limiter, who) == 10
    limiter.refund_request(who, early)
    assert admitted(limiter, who) == 0


def test_streams_queue_for_a_token_of_their_address(tmp_path: Path, clock: ManualClock) -> None:
    """Those who wait for an address come one after the other, and owe it nothing; the queue is bounded in time."""
    limiter = Limiter(tmp_path, rate_limit=1000, address_rate_limit=10, max_names=4, clock=clock)
    assert [limiter.turn_s(HERE) for _ in range(10)] == [0.0] * 10
    waits = [limiter.turn_s(HERE) for _ in range(100)]
    assert waits[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert max(waits) == pytest.approx(1.1)
    clock.advance(0.1)
    assert limiter.turn_s(HERE) == 0.0
    clock.advance(1)
    assert admitted(limiter, client()) == 10
    for n in range(100):
        while not limiter.turn_s(f"203.0.113.{n}"):
            pass
    assert len(limiter) <= 12


def test_streams_of_a_client_whose_record_names_none_are_limited(tmp_path: Path) -> None:
    """What the gateway allows each client stands, unless its record says more or less."""
    limiter = Limiter(tmp_path, rate_limit=100, streams=2)
    with limiter.stream(client()), limiter.stream(client()):
        with pytest.raises(LimitError, match="streams"), limiter.stream(client()):
            pass
        with limiter.stream(client(streams=3)):
            pass
        with limiter.stream(client("other")):
            pass


def test_the_least_recently_used_are_forgotten_first(tmp_path: Path, clock: ManualClock) -> None:
    """Where no bucket is full, the name that was used longest ago goes: a client and an address alike."""
    limiter = Limiter(tmp_path, rate_limit=2, address_rate_limit=2, max_names=2, clock=clock)
    one, two, three = client("one"), client("two"), client("three")
    for who, address in ((one, "192.0.2.1"), (two, "192.0.2.2")):
        limiter.admit(who, address)
    limiter.admit(one, "192.0.2.1")
    limiter.admit(three, "192.0.2.3")
    assert refusal(limiter, one, "192.0.2.9") is not None
    assert refusal(limiter, client("four"), "192.0.2.1") is not None


def test_whatever_is_asked_of_a_client_counts_as_use(tmp_path: Path, clock: ManualClock) -> None:
    """A client that was looked at last is not the least recently used, even if it came first."""
    limiter = Limiter(tmp_path, rate_limit=1, max_names=2, clock=clock)
    one = client("one", bytes_per_s=1)
    limiter.charge(one, MIB)
    limiter.admit(client("two"), "192.0.2.2")
    limiter.remaining(one)
    limiter.admit(client("three"), "192.0.2.3")
    with pytest.raises(LimitError):
        limiter.charge(one, 1)
