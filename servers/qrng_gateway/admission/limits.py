"""How much a client may take: requests and bytes a second, bytes a day, streams at once.

Idea: each client has a bucket of requests and, where its record says so, one of bytes and a count of the day; each
address has a bucket of requests. A call passes all of them or takes from none. Bytes are charged before they
are claimed, and what a charge took is in its receipt, so that a claim that fails gives it back, less what time
has given back by then. A rate refuses a unary call and tells it when to return. A stream it paces: the bytes or the
request are charged at once, in debt if need be, and the stream waits until the debt is paid, so that streams of one
client take turns. An address, which others may share, is never in debt: streams only queue up for its bucket.

The `Client` that comes with a call is the truth about its limits; what is kept here is only what it took.
A bounded number of names is kept, the least recently used forgotten first, if possible one whose buckets are full
again: that loses nothing. Nothing here waits, and nothing is known of gRPC.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from qrng_gateway.admission.buckets import Rate
from qrng_gateway.admission.daily import DailyCounts, DayCount
from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.client_keys import Client, Limits
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import LimitError

MAX_NAMES = 16_384
"""Clients whose state is kept, and addresses: more than there may be records."""
STREAM_RETRY_S = 1.0
_LONGEST_TURN_NS = NS_PER_S
"""How far the last in the queue of an address is beyond the first at the most, since who leaves is not taken out."""
_LOOKED_AT = 8
_DIRECTORY = "quota"

V = TypeVar("V")


class Charge(NamedTuple):
    """A receipt: what `Limiter.refund` gives back, and how long a stream waits before it claims."""

    n: int
    day: int
    wait_s: float
    full_ns: int = 0
    """When the bucket was to be full, once this was taken from it."""
    scarce: bool = False
    """Whether less than half of the quota of the day is left."""


class Remaining(NamedTuple):
    """What a client has left."""

    requests: int
    """Requests it may send at once now."""
    requests_whole_s: float
    """Seconds until it may send a full burst again."""
    bytes_today: int | None
    """None without a daily quota."""
    day_left_s: float | None
    """Seconds until the daily quota is whole again; None without one."""


_NOTHING = Charge(0, 0, 0.0)


class Limiter:
    """What clients and addresses took lately.

    `rate_limit` is the requests a second of a client whose record names none, `address_rate_limit` those of an
    address, by default as many, `streams` what a client whose record names none may have open, by default any
    number. No size above `largest` bytes may be charged, and each up to it passes at some time: a bucket of bytes
    holds one second's worth, but at least that. Counts of the day lie in `state_dir`, which belongs to this process.
    Raises StateError when they are damaged.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        rate_limit: float,
        address_rate_limit: float | None = None,
        streams: int | None = None,
        largest: int = MAX_CHUNK_BYTES,
        max_names: int = MAX_NAMES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._monotonic_ns = clock.monotonic_ns
        self._rate_limit = rate_limit
        self._address_rate = Rate.of_requests(address_rate_limit or rate_limit)
        self._largest = largest
        self._max_names = max_names
        self._daily = DailyCounts(state_dir / _DIRECTORY, clock)
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        # When the bucket of each address will be full again: an address without an entry has a full one.
        self._addresses: OrderedDict[str, int] = OrderedDict()
        # When the last stream in the queue of an address has its turn.
        self._turns: OrderedDict[str, int] = OrderedDict()
        self._most_streams = streams
        self._streams: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._accounts) + len(self._addresses)

    @property
    def failing(self) -> bool:
        """Whether daily counts cannot be written, so that clients with a quota are refused."""
        return self._daily.failing

    def settle(self) -> None:
        """Write the counts of the day exactly. For the end, when nothing is given out any more."""
        self._daily.settle()

    def admit(self, client: Client, address: str) -> bool:
        """Count one request of `client` from `address`. Raises LimitError, and counts nothing then.

        Returns whether less than half of what the client may send at once is left.
        """
        account = self._account_of(client)
        now_ns = self._monotonic_ns()
        if not self._request(account, address, now_ns):
            wait_ns = account.requests.wait_ns(account.requests.after(account.requests_full_ns, now_ns, 1), now_ns)
            rate = self._address_rate
            address_wait_ns = rate.wait_ns(rate.after(self._addresses.get(address, 0), now_ns, 1), now_ns)
            whose = "client" if wait_ns >= address_wait_ns else "address"
            raise _refusal(f"too many requests from this {whose}", max(wait_ns, address_wait_ns))
        return account.is_scarce(now_ns)

    def is_scarce(self, client: Client) -> bool:
        """Say whether less than half of what `client` may send at once is left."""
        return self._account_of(client).is_scarce(self._monotonic_ns())

    def admit_more(self, client: Client, address: str) -> bool:
        """Count one more request of a stream, if there is room for it now; else count nothing and return False."""
        return self._request(self._account_of(client), address, self._monotonic_ns())

    def pace_request(self, client: Client) -> Charge:
        """Charge one more request of a stream of `client`, to be read on after `wait_s` of the receipt.

        Whoever leaves meanwhile gives it back with `refund_request`. The address is asked when the wait is over.
        """
        account = self._account_of(client)
        now_ns = self._monotonic_ns()
        after_ns = account.requests_full_ns = account.requests.after(account.requests_full_ns, now_ns, 1)
        wait_ns = account.requests.wait_ns(after_ns, now_ns)
        return Charge(1, 0, wait_ns / NS_PER_S if wait_ns > 0 else 0.0, after_ns)

    def refund_request(self, client: Client, charge: Charge) -> None:
        """Give back a request that was charged by `pace_request` and not read on. Once for each receipt."""
        account = self._account_of(client)
        account.requests_full_ns = account.requests.before(
            account.requests_full_ns, self._monotonic_ns(), charge.n, charge.full_ns
        )

    def turn_s(self, address: str) -> float:
        """Count a request of a stream from `address` and return 0, or return after how many seconds to ask again.

        Those who wait are told times one after the other, so that they do not all ask for one token.
        """
        rate, now_ns = self._address_rate, self._monotonic_ns()
        after_ns = rate.after(self._addresses.get(address, 0), now_ns, 1)
        wait_ns = rate.wait_ns(after_ns, now_ns)
        if wait_ns <= 0:
            self._note(self._addresses, address, after_ns, now_ns)
            return 0.0
        first_ns = now_ns + wait_ns
        turn_ns = max(first_ns, min(self._turns.get(address, 0) + rate.unit_ns, first_ns + _LONGEST_TURN_NS))
        self._note(self._turns, address, turn_ns, now_ns)
        return (turn_ns - now_ns) / NS_PER_S

    def charge(self, client: Client, n: int, *, paced: bool = False) -> Charge:
        """Charge `n` bytes to be claimed now; where it is `paced`, by a stream, after `wait_s` of the receipt.

        A stream that is cancelled meanwhile refunds them. Raises LimitError, and charges nothing then: for a stream
        when the quota of the day is used up, else also when the rate has no room. Raises ValueError for a size that
        should have been refused before, StateError when the count of the day cannot be written.
        """
        if not 0 < n <= self._largest:
            raise ValueError(f"expected 1 to {self._largest} bytes")
        account = self._account_of(client)
        rate, count = account.bytes, account.count
        if rate is None and count is None:
            return _NOTHING
        after_ns = wait_ns = 0
        if rate is not None:
            now_ns = self._monotonic_ns()
            after_ns = rate.after(account.bytes_full_ns, now_ns, n)
            if after_ns - now_ns > rate.depth_ns:
                wait_ns = rate.wait_ns(after_ns, now_ns)
            if wait_ns and not paced:
                raise _refusal("too many bytes a second for this client", wait_ns)
        if count is not None and not count.take(n, account.quota):
            _, whole_in_s = count.left(account.quota)
            raise LimitError("less than that is left of today's quota of this client", retry_after_s=whole_in_s)
        account.bytes_full_ns = after_ns
        if count is None:
            return Charge(n, 0, wait_ns / NS_PER_S, after_ns)
        return Charge(n, count.day, wait_ns / NS_PER_S, after_ns, count.used * 2 > account.quota)

    def refund(self, client: Client, charge: Charge) -> None:
        """Give back what was charged for a claim that failed. Once for each receipt."""
        if not charge.n:
            return
        account = self._account_of(client)
        if account.bytes is not None:
            account.bytes_full_ns = account.bytes.before(
                account.bytes_full_ns, self._monotonic_ns(), charge.n, charge.full_ns
            )
        if account.count is not None:
            account.count.give_back(charge.n, charge.day)

    def check_stream(self, client: Client) -> None:
        """Refuse a stream of `client` when too many are open. Raises LimitError."""
        most = self._most_streams if client.limits.streams is None else client.limits.streams
        if most is not None and self._streams.get(client.client_id, 0) >= most:
            raise LimitError("too many streams of this client are open", retry_after_s=STREAM_RETRY_S)

    @contextmanager
    def stream(self, client: Client) -> Iterator[None]:
        """Count a stream of `client` as open until the block is left. Raises LimitError when too many are."""
        self.check_stream(client)
        name = client.client_id
        self._streams[name] = self._streams.get(name, 0) + 1
        try:
            yield
        finally:
            self._streams[name] -= 1
            if not self._streams[name]:
                del self._streams[name]

    def remaining(self, client: Client) -> Remaining:
        """Return what is left to `client`."""
        account = self._account_of(client)
        now_ns = self._monotonic_ns()
        full_ns = account.requests_full_ns
        requests = account.requests.left(full_ns, now_ns)
        whole_s = (full_ns - now_ns) / NS_PER_S if full_ns > now_ns else 0.0
        if account.count is None:
            return Remaining(requests, whole_s, None, None)
        return Remaining(requests, whole_s, *account.count.left(account.quota))

    def _request(self, account: _Account, address: str, now_ns: int) -> bool:
        """Take a request out of both buckets, if both have one."""
        requests, rate, addresses = account.requests, self._address_rate, self._addresses
        full_ns, address_full_ns = account.requests_full_ns, addresses.get(address, 0)
        # What `Rate.after` returns for one request, whose unit is 1, without two calls.
        after_ns = (full_ns if full_ns > now_ns else now_ns) + requests.unit_ns
        address_after_ns = (address_full_ns if address_full_ns > now_ns else now_ns) + rate.unit_ns
        if after_ns - now_ns > requests.depth_ns or address_after_ns - now_ns > rate.depth_ns:
            return False
        account.requests_full_ns = after_ns
        self._note(addresses, address, address_after_ns, now_ns)
        return True

    def _note(self, moments: OrderedDict[str, int], address: str, moment_ns: int, now_ns: int) -> None:
        moments[address] = moment_ns
        moments.move_to_end(address)
        if len(moments) > self._max_names:
            _forget_one(moments, lambda at_ns: at_ns <= now_ns)

    def _account_of(self, client: Client) -> _Account:
        name = client.client_id
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = _Account()
            if len(self._accounts) > self._max_names:
                now_ns = self._monotonic_ns()
                _forget_one(self._accounts, lambda account: account.is_full(now_ns))
        else:
            self._accounts.move_to_end(name)
        if account.limits is not client.limits:
            self._set_limits(account, client)
        return account

    def _set_limits(self, account: _Account, client: Client) -> None:
        limits = account.limits = client.limits
        now_ns, bytes_before = self._monotonic_ns(), account.bytes
        account.requests = Rate.of_requests(limits.requests_per_s or self._rate_limit)
        account.requests_full_ns = account.requests.at_least_empty(account.requests_full_ns, now_ns)
        account.bytes = None if limits.bytes_per_s is None else Rate.of_bytes(limits.bytes_per_s, self._largest)
        if account.bytes is not None and account.bytes != bytes_before:
            account.bytes_full_ns = account.bytes.at_least_empty(account.bytes_full_ns, now_ns)
        account.quota = limits.bytes_per_day or 0
        account.count = None if limits.bytes_per_day is None else self._daily.of(client.client_id)


class _Account:
    """What one client took, and its limits as they were last seen."""

    __slots__ = ("bytes", "bytes_full_ns", "count", "limits", "quota", "requests", "requests_full_ns")

    requests: Rate
    bytes: Rate | None
    count: DayCount | None
    quota: int

    def __init__(self) -> None:
        self.limits: Limits | None = None
        self.bytes = None
        self.requests_full_ns = 0
        self.bytes_full_ns = 0

    def is_scarce(self, now_ns: int) -> bool:
        return self.requests_full_ns - now_ns > self.requests.depth_ns >> 1

    def is_full(self, now_ns: int) -> bool:
        return self.requests_full_ns <= now_ns and self.bytes_full_ns <= now_ns


def _refusal(why: str, wait_ns: int) -> LimitError:
    return LimitError(why, retry_after_s=wait_ns / NS_PER_S)


def _forget_one(names: OrderedDict[str, V], is_full: Callable[[V], bool]) -> None:
    """Forget one of the least recently used: the first that is full again, else the oldest. Never the youngest."""
    oldest = list(islice(names, min(_LOOKED_AT, len(names) - 1)))
    del names[next((name for name in oldest if is_full(names[name])), oldest[0])]
