"""The guard: a flood of bad signatures, or of wrong keys, from one address is not worth the work.

Idea: finding out that a signature is bad costs a hash over the whole chunk, and a wrong key a comparison with all that
are known. So every address has a *bucket* of such mistakes: each takes one, one comes back every second. While
the bucket is empty, what comes from there is refused before any work is done for it. An address is an IPv4 address
or the /64 of an IPv6 one, since whoever has one address of a /64 has all of them.

Someone honest may sit behind the same address as a flood. What is good costs the bucket nothing, and once a
*connection* has shown it, it has a bucket of its own, which the flood cannot reach. Until then its calls compete
with the flood's for what comes back, and one gets through sooner or later.

A bounded number of buckets is kept; the least recently used is forgotten first, and a forgotten bucket is a
full one. On the push listener key ids that are unknown cost no hash, and so are not counted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

from qrng_gateway.admission.addresses import address_of
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import LimitError

V = TypeVar("V")

BURST = 16
"""Mistakes an address may make at once."""
REFILL_S = 1.0
"""Seconds until it may make another."""
MAX_BUCKETS = 4096


class Guard:
    """Who has made `mistakes` lately: the words for them, as they stand in the refusal.

    A peer is named as by grpc's `context.peer()`, or as by `caller_address` where a proxy speaks for it.
    """

    def __init__(
        self, clock: Clock = SYSTEM_CLOCK, *, mistakes: str = "bad signatures", max_buckets: int = MAX_BUCKETS
    ) -> None:
        self._clock = clock
        self._mistakes = mistakes
        self._refill_ns = int(REFILL_S * NS_PER_S)
        self._max_buckets = max_buckets
        # When each bucket will be full again: a name without an entry has a full one.
        self._full_at_ns: OrderedDict[str, int] = OrderedDict()
        self._trusted: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at_ns) + len(self._trusted)

    def check(self, peer: str) -> None:
        """Refuse a peer whose bucket is empty. Raises LimitError."""
        if not self._full_at_ns:
            return
        missing_ns = self._full_at_ns.get(self._bucket_of(peer), 0) - self._clock.monotonic_ns()
        if missing_ns > (BURST - 1) * self._refill_ns:
            raise LimitError(f"too many {self._mistakes} came from this address", retry_after_s=REFILL_S)

    def blame(self, peer: str) -> None:
        """Note a mistake."""
        name, now_ns = self._bucket_of(peer), self._clock.monotonic_ns()
        self._full_at_ns[name] = max(now_ns, self._full_at_ns.get(name, 0)) + self._refill_ns
        _keep_young(self._full_at_ns, name, self._max_buckets)

    def trust(self, peer: str) -> None:
        """Note that what it showed was good."""
        trusted = self._trusted
        trusted[peer] = None
        trusted.move_to_end(peer)
        if len(trusted) > self._max_buckets:
            trusted.popitem(last=False)

    def _bucket_of(self, peer: str) -> str:
        return peer if peer in self._trusted else address_of(peer)


def _keep_young(entries: OrderedDict[str, V], name: str, most: int) -> None:
    entries.move_to_end(name)
    if len(entries) > most:
        entries.popitem(last=False)
