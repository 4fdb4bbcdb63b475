"""Which server is asked next: breakers, deadlines and retries, with a clock of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client.route import Breaker, Deadline, Route
from qrng_client.settings import client_settings
from qrng_grpc.errors import LimitError, QrngError, ServerUnreachableError
from qrng_grpc.exchange import GrpcStatusError
from qrng_grpc.generic_codec import MalformedReplyError

DOWN = GrpcStatusError("UNAVAILABLE")
REST_S = 10.0


def route(addresses: str = "localhost:1", **settings: object) -> Route:
    environ = {f"QR_{name.upper()}": str(value) for name, value in settings.items()}
    return Route(client_settings({"QR_GRPC_SERVER_ADDRESS": addresses, **environ}), now_s=lambda: 0.0)


def test_breaker_opens_after_failures_in_a_row() -> None:
    """A success between failures starts the count anew; enough in a row leave the server alone."""
    breaker = Breaker(3, REST_S)
    for failing in (True, True, False, True, True):
        (breaker.failed(0) if failing else breaker.answered())  # type: ignore[func-returns-value]
        assert breaker.closed
    breaker.failed(0)
    assert not breaker.admits(0)
    assert breaker.state(0) == "open"
    assert 0.8 * REST_S <= breaker.rest_s(0) <= REST_S


def test_breaker_lets_one_try() -> None:
    """After the rest one request tries; the others wait, also when nothing is heard of it."""
    breaker = Breaker(1, REST_S)
    breaker.failed(0)
    assert [breaker.admits(REST_S), breaker.admits(REST_S)] == [True, False]
    assert breaker.state(REST_S) == "half_open"
    assert breaker.admits(2 * REST_S)
    breaker.answered()
    assert [breaker.admits(2 * REST_S) for _ in range(3)] == [True] * 3


def test_breaker_rests_longer_each_time_up_to_eight_times() -> None:
    """Each try that fails doubles the rest, up to eight times; failures of before its opening do not."""
    breaker = Breaker(1, REST_S)
    now_s, rests = 0.0, []
    breaker.failed(now_s)
    for _ in range(6):
        breaker.failed(now_s)  # begun before it opened
        rests.append(breaker.rest_s(now_s))
        now_s += breaker.rest_s(now_s)
        assert breaker.admits(now_s)
        breaker.failed(now_s)
    for rest_s, factor in zip(rests, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.8 * factor * REST_S <= rest_s <= factor * REST_S


def test_deadline_is_fixed() -> None:
    """However quick the answers, the deadline stays, unless it was asked to follow them."""
    deadline = Deadline(client_settings({"QR_GRPC_TIMEOUT_MS": "700"}))
    for _ in range(200):
        deadline.took(0.001)
    assert deadline.seconds() == 0.7


def test_adaptive_deadline_has_bounds() -> None:
    """A deadline that follows the latency is never below 50 ms nor above the fixed one; time-outs let it grow again."""
    deadline = Deadline(client_settings({"QR_CB_ADAPTIVE_TIMEOUT": "true", "QR_CB_MIN_TIMEOUT_MS": "5"}))
    assert deadline.seconds() == 5.0
    for _ in range(100):
        deadline.took(0.001)
    assert deadline.seconds() == 0.05
    for expected in (0.075, 0.1125):
        deadline.took(deadline.seconds())
        deadline.took(deadline.seconds())
        assert deadline.seconds() == pytest.approx(expected)
    for _ in range(100):
        deadline.took(60)
    assert deadline.seconds() == 5.0


@given(st.lists(st.floats(0.001, 10), min_size=10, max_size=60))
def test_adaptive_deadline_is_of_the_last_answers(latencies_s: list[float]) -> None:
    """The deadline that is kept up with each answer is the percentile of the last ones, sorted anew."""
    deadline = Deadline(client_settings({"QR_CB_ADAPTIVE_TIMEOUT": "true", "QR_CB_WINDOW_SIZE": "25"}))
    for number, latency_s in enumerate(latencies_s, 1):
        deadline.took(latency_s)
        if number >= 10:
            last = sorted(latencies_s[max(0, number - 25) : number])
            slow_s = last[-(-len(last) * 99 // 100) - 1]
            assert deadline.seconds() == min(5.0, max(0.05, 1.5 * slow_s))


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"])
def test_a_server_may_forbid_retries(status: str) -> None:
    """What the server says nobody should try again is final, with other servers too."""
    servers = route("localhost:1,localhost:2")
    with pytest.raises(QrngError, match=status):
        servers.attempts().failed(servers.first(), GrpcStatusError(status, forbids_retry=True), 0)


def test_other_servers_first() -> None:
    """A failure goes to the next server at once, and back to the first one after a wait; then it is told."""
    servers = route("localhost:1,localhost:2")
    first = servers.first()
    attempts = servers.attempts()
    second, wait_s = attempts.failed(first, DOWN, 0)
    assert (second.address, wait_s) == ("localhost:2", 0.0)
    third, wait_s = attempts.failed(second, DOWN, 0)
    assert (third, wait_s) == (first, 0.0)
    with pytest.raises(ServerUnreachableError, match="localhost:1"):
        attempts.failed(third, DOWN, 0)
    assert servers.retried == 2


def test_the_same_server_after_a_wait() -> None:
    """A server without another beside it is asked again after growing waits."""
    servers = route(grpc_retry_count=3, cb_max_consecutive_failures=9)
    attempts = servers.attempts()
    waits = [attempts.failed(servers.first(), DOWN, 0)[1] for _ in range(3)]
    for wait_s, longest_s in zip(waits, (0.05, 0.1, 0.2), strict=True):
        assert longest_s / 2 <= wait_s <= longest_s


def test_no_retries() -> None:
    """With no retry the first failure is told."""
    servers = route(grpc_retry_count=0)
    with pytest.raises(ServerUnreachableError):
        servers.attempts().failed(servers.first(), DOWN, 0)


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"])
def test_refusals_are_final(status: str) -> None:
    """A refusal is told at once, even with other servers, and counts against nobody."""
    servers = route("localhost:1,localhost:2")
    with pytest.raises(QrngError, match=status):
        servers.attempts().failed(servers.first(), GrpcStatusError(status), 0)
    assert servers.servers[0].breaker.failures == 0


def test_limits_wait_for_the_servers_word() -> None:
    """Over a limit the same server is asked when it says, if that is within the deadline; never another one."""
    servers = route("localhost:1,localhost:2")
    first = servers.first()
    assert servers.attempts().failed(first, GrpcStatusError("RESOURCE_EXHAUSTED", retry_after_s=2), 0) == (first, 2)
    for hint_s in (None, 6.0):
        with pytest.raises(LimitError) as failure:
            servers.attempts().failed(first, GrpcStatusError("RESOURCE_EXHAUSTED", retry_after_s=hint_s), 0)
        assert failure.value.retry_after_s == hint_s


def test_replies_not_believed_are_asked_for_elsewhere() -> None:
    """A wrong reply is not asked for again where it came from."""
    servers = route("localhost:1,localhost:2")
    attempts = servers.attempts()
    second, _ = attempts.failed(servers.first(), MalformedReplyError("wrong"), 0)
    assert second.address == "localhost:2"
    with pytest.raises(QrngError, match="wrong"):
        attempts.failed(second, MalformedReplyError("wrong"), 0)


def test_nobody_is_left() -> None:
    """While every server is left alone nothing is asked, and the error says for how long."""
    servers = route(grpc_retry_count=0)
    for _ in range(3):
        with pytest.raises(ServerUnreachableError):
            servers.attempts().failed(servers.first(), DOWN, 0)
    with pytest.raises(ServerUnreachableError, match="left alone") as failure:
        servers.first()
    assert 8 <= (failure.value.retry_after_s or 0) <= 10
