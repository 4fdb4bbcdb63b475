"""The guard: a flood of bad signatures from one address is not worth hashing.

Idea: finding out that a signature is bad costs a hash over the whole chunk. So every address has a *bucket* of
such hashes: a bad signature takes one, one comes back every second. While the bucket is empty, what
comes from there is refused before it is hashed. An address is an IPv4 address or the /64 of an IPv6 one,
since whoever has one address of a /64 has all of them.

A good collector may sit behind the same address as a flood. Its signature costs the bucket nothing, and
once it has shown one, its *connection* has a bucket of its own, which the flood cannot reach. Until then its
calls compete with the flood's for the hashes that come back, and one gets through sooner or later.

A bounded number of buckets is kept; the least recently used is forgotten first, and a forgotten bucket is a
full one. Key ids that are unknown cost no hash, and so are not counted.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TypeVar
from urllib.parse import unquote

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import LimitError

V = TypeVar("V")

BURST = 16
"""Bad signatures an address may bring at once."""
REFILL_S = 1.0
"""Seconds until it may bring another."""
MAX_BUCKETS = 4096
_IPV6_PREFIX_BITS = 64


class Guard:
    """Who has brought bad signatures lately. A peer is named as by grpc's `context.peer()`."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK, *, max_buckets: int = MAX_BUCKETS) -> None:
        self._clock = clock
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
            raise LimitError("too many bad signatures came from this address", retry_after_s=REFILL_S)

    def blame(self, peer: str) -> None:
        """Note a bad signature."""
        name, now_ns = self._bucket_of(peer), self._clock.monotonic_ns()
        self._full_at_ns[name] = max(now_ns, self._full_at_ns.get(name, 0)) + self._refill_ns
        _keep_young(self._full_at_ns, name, self._max_buckets)

    def trust(self, peer: str) -> None:
        """Note a good signature."""
        self._trusted[peer] = None
        _keep_young(self._trusted, peer, self._max_buckets)

    def _bucket_of(self, peer: str) -> str:
        return peer if peer in self._trusted else address_of(peer)


def address_of(peer: str) -> str:
    """Return whose connection it is: an IPv4 address, the /64 of an IPv6 one, `peer` itself where it names neither."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return peer
    host = unquote(rest).rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))


def _keep_young(entries: OrderedDict[str, V], name: str, most: int) -> None:
    entries.move_to_end(name)
    if len(entries) > most:
        entries.popitem(last=False)
