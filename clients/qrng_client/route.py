"""Which server is asked next, and after what failure not at all.

Idea: no network here. A `Route` knows the servers of a client in their order and how each did, and names the one to
ask; an `Attempts` is told of each failure of a request, and answers with the next server and a wait, or with the
error that ends it. Threads and event loops drive it alike.

    breaker     after so many failures in a row a server is left alone; then one request tries it, and the next no
                sooner than after another such while, which grows each time the try fails
    deadline    fixed; on demand it follows the latency, within bounds
    retries     at another server at once, at the same one after a wait

A server that answers with a refusal is not down: only what it did not answer, or not believably, counts against it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from qrng_client.diagnosis import Course, course_of, explained, server_is_down
from qrng_client.settings import LEAST_ADAPTIVE_TIMEOUT_MS, ClientSettings
from qrng_grpc.backoff import Backoff, RetryPolicy
from qrng_grpc.errors import LimitError, QrngError, ServerUnreachableError

_RETRIES = RetryPolicy(initial_s=0.05, maximum_s=1.0, multiplier=2, jitter=0.5)
"""The waits before the same server is asked again."""
_LONGEST_REST = 8
"""The rest of a server that stays down grows up to so many times the first."""
_FEWEST_LATENCIES = 10

BreakerState = Literal["closed", "open", "half_open"]


class Breaker:
    """Leaves alone, for a growing while, what failed several times in a row. Times are those of one monotonic clock."""

    def __init__(self, open_after: int, rest_s: float) -> None:
        self._open_after = open_after
        self._backoff = Backoff(RetryPolicy(initial_s=rest_s, maximum_s=min(3600.0, _LONGEST_REST * rest_s)))
        self._rest_s = rest_s
        self._rests_until_s: float | None = None
        self._trying = False
        self._lock = threading.Lock()
        self.failures = 0
        """Failures since the last success."""

    @property
    def closed(self) -> bool:
        """Whether every request may be made."""
        return self._rests_until_s is None

    def admits(self, now_s: float) -> bool:
        """Say whether a request may be made; one that may although the rest has begun is the one that tries."""
        if self._rests_until_s is None:
            return True
        with self._lock:
            if self._rests_until_s is None:
                return True
            if now_s < self._rests_until_s:
                return False
            # Whatever becomes of this one, even nothing, the next may try after another rest.
            self._rests_until_s = now_s + self._rest_s
            self._trying = True
            return True

    def state(self, now_s: float) -> BreakerState:
        """How it stands."""
        if self._rests_until_s is None:
            return "closed"
        return "open" if now_s < self._rests_until_s and not self._trying else "half_open"

    def rest_s(self, now_s: float) -> float:
        """Return for how long no request may be made, from now on."""
        return 0.0 if self._rests_until_s is None else max(0.0, self._rests_until_s - now_s)

    def failed(self, now_s: float) -> None:
        """Count a failure."""
        with self._lock:
            self.failures += 1
            opens = self.failures >= self._open_after and self._rests_until_s is None
            if opens or self._trying:
                self._rest_s = self._backoff.failed()
                self._rests_until_s = now_s + self._rest_s
                self._trying = False

    def answered(self) -> None:
        """Forget the failures."""
        if self.failures:
            with self._lock:
                self.failures = 0
                self._rests_until_s = None
                self._trying = False
                self._backoff.succeeded()


class Deadline:
    """How long one answer may take."""

    def __init__(self, settings: ClientSettings) -> None:
        self._most_s = settings.answer_timeout_s
        self._least_s = max(settings.cb_min_timeout_ms, LEAST_ADAPTIVE_TIMEOUT_MS) / 1000
        self._multiplier = settings.cb_timeout_multiplier
        self.adaptive = settings.cb_adaptive_timeout
        """Whether it follows the latency, and so must be told of it."""
        self._window = settings.cb_window_size
        self._latencies_s: deque[float] = deque()
        self._ordered_s: list[float] = []
        """The same, the shortest first: kept in order, since sorting them for each exchange would cost more than it."""
        self._seconds = self._most_s
        self._lock = threading.Lock()

    def seconds(self) -> float:
        """Return the time-out of the next exchange."""
        return self._seconds

    def took(self, latency_s: float) -> None:
        """Note how long an exchange took; one that was given up too, or the deadline could never grow again."""
        if self.adaptive:
            with self._lock:
                self._note(latency_s)

    def _note(self, latency_s: float) -> None:
        ordered_s = self._ordered_s
        if len(ordered_s) == self._window:
            del ordered_s[bisect_left(ordered_s, self._latencies_s.popleft())]
        self._latencies_s.append(latency_s)
        insort(ordered_s, latency_s)
        if len(ordered_s) >= _FEWEST_LATENCIES:
            slow_s = ordered_s[-(-len(ordered_s) * 99 // 100) - 1]
            self._seconds = min(self._most_s, max(self._least_s, slow_s * self._multiplier))


class Server:
    """One server, and how it did."""

    def __init__(self, number: int, address: str, breaker: Breaker) -> None:
        self.number = number
        """Its place in the order."""
        self.address = address
        self.breaker = breaker
        self.answers = 0
        self.failures = 0


class Route:
    """The servers of a client, and the way of its requests through them."""

    def __init__(self, settings: ClientSettings, now_s: Callable[[], float] = time.monotonic) -> None:
        self._retries = settings.grpc_retry_count
        self._mode = settings.grpc_mode
        self._now_s = now_s
        self.deadline = Deadline(settings)
        self.retried = 0
        """How many requests were made again."""
        self.servers: Sequence[Server] = tuple(
            Server(number, address, Breaker(settings.cb_max_consecutive_failures, settings.cb_recovery_window_s))
            for number, address in enumerate(settings.addresses)
        )

    def first(self) -> Server:
        """Return whom to ask first. Raises ServerUnreachableError while every server is left alone."""
        preferred = self.servers[0]
        if preferred.breaker.closed:
            return preferred
        now_s = self._now_s()
        for server in self.servers:
            if server.breaker.admits(now_s):
                return server
        rest_s = min(server.breaker.rest_s(now_s) for server in self.servers)
        addresses = ", ".join(server.address for server in self.servers)
        raise ServerUnreachableError(
            f"{addresses}: left alone after failures, for another {rest_s:.1f} s (QR_CB_RECOVERY_WINDOW_S)",
            retry_after_s=rest_s,
        )

    def attempts(self) -> Attempts:
        """Return what becomes of a request whose first attempt failed."""
        return Attempts(self, self._retries)

    def answered(self, server: Server, latency_s: float) -> None:
        """Note that `server` answered after so long."""
        server.answers += 1
        if server.breaker.failures:
            server.breaker.answered()
        if self.deadline.adaptive:
            self.deadline.took(latency_s)

    def failed(self, server: Server, failure: QrngError, latency_s: float) -> QrngError:
        """Note that `server` failed. Return the failure as its caller is to see it."""
        server.failures += 1
        self.deadline.took(latency_s)
        if server_is_down(failure):
            server.breaker.failed(self._now_s())
        else:
            server.breaker.answered()
        return explained(failure, server.address, self._mode)

    def next_after(self, server: Server, avoided: set[Server]) -> Server | None:
        """Return the server to ask after `server` failed, of those not `avoided`: another one first."""
        now_s = self._now_s()
        others = [other for other in self.servers if other is not server]
        for candidate in (*others, server):
            if candidate not in avoided and candidate.breaker.admits(now_s):
                return candidate
        return None


class Attempts:
    """A request on its way, once it has failed."""

    def __init__(self, route: Route, retries: int) -> None:
        self._route = route
        self._left = retries
        self._avoided: set[Server] = set()
        self._waits = Backoff(_RETRIES)

    def failed(self, server: Server, failure: QrngError, latency_s: float) -> tuple[Server, float]:
        """Note that `server` failed. Return whom to ask next, and after how many seconds.

        Raises the failure, in words that name the settings to look at, when nothing is left to be done.
        """
        told = self._route.failed(server, failure, latency_s)
        course = course_of(failure)
        if course is Course.FINAL or not self._left:
            raise told
        following = self._following(server, told, course)
        if following is None:
            raise told
        self._left -= 1
        self._route.retried += 1
        return following

    def _following(self, failed: Server, told: QrngError, course: Course) -> tuple[Server, float] | None:
        """Choose the next server, and the wait before it; None when there is none to choose."""
        hint_s = told.retry_after_s
        too_long = hint_s is not None and hint_s > self._route.deadline.seconds()
        if isinstance(told, LimitError):  # A limit is mostly the key's, and the same at every server.
            return None if hint_s is None or too_long else (failed, hint_s)
        if course is Course.ELSEWHERE or too_long:
            self._avoided.add(failed)
        chosen = self._route.next_after(failed, self._avoided)
        if chosen is None:
            return None
        return (chosen, self._waits.failed(at_least_s=hint_s or 0.0) if chosen is failed else 0.0)
