"""Whose connection it is, also behind a proxy.

Idea: limits by address need a name that a stranger cannot vary at will: an IPv4 address, or the /64 of an IPv6 one,
since whoever has one address of a /64 has all of them. Behind a reverse proxy every connection is the proxy's; it
says in `X-Forwarded-For` whom it serves. Each proxy writes its own peer at the right end of that list, and
everything further left is what that peer claims. So it is read from the right, for as long as the one who
wrote is a proxy of ours, and no further: what a stranger wrote is not even looked at.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import unquote

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_KEPT = 4096
"""Names that were read lately and need not be read again: reading takes longer than all that is done with them."""
_LONGEST = 100
"""Characters of the longest name that is worth reading."""
_IPV6_PREFIX_BITS = 64


def caller_address(peer: str, forwarded_for: str | None, trusted: tuple[Network, ...]) -> str:
    """Return the address that a call comes from: of `peer`, or of whom it serves if `peer` is a trusted proxy.

    `peer` is as grpc's `context.peer()` names it, or an IP address. `forwarded_for` are the `X-Forwarded-For`
    values of the call, joined with commas in their order. Where the last trusted proxy wrote no IP address, it is its
    own address that counts.
    """
    if not trusted or not forwarded_for or not _is_trusted(peer, trusted):
        return address_of(peer)
    proxy, rest = peer, forwarded_for
    while rest:
        rest, _, caller = rest.rpartition(",")
        caller = caller.strip()
        if len(caller) > _LONGEST or _ip_of(caller) is None:
            return address_of(proxy)
        if not _is_trusted(caller, trusted):
            return address_of(caller)
        proxy = caller
    return address_of(proxy)


def network_of(text: str) -> Network:
    """Return the network that a setting names, an address or a CIDR block. Raises ValueError for all the world too."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("expected IP addresses or networks without host bits, as in 10.0.0.0/8") from None
    if network.prefixlen == 0:
        raise ValueError("a network of everybody lets everybody choose his address")
    return network


@lru_cache(_KEPT)
def address_of(peer: str) -> str:
    """Return whose connection it is: an IPv4 address, the /64 of an IPv6 one, `peer` itself where it names neither."""
    address = _ip_of(peer)
    if address is None:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))


def _is_trusted(peer: str, trusted: tuple[Network, ...]) -> bool:
    address = _ip_of(peer)
    return address is not None and any(address in network for network in trusted)


@lru_cache(_KEPT)
def _ip_of(peer: str) -> Address | None:
    family, _, rest = peer.partition(":")
    if family in ("ipv4", "ipv6"):
        return _ip_address(unquote(rest).rpartition(":")[0].strip("[]"))
    return _ip_address(peer)


def _ip_address(text: str) -> Address | None:
    """Return the address that `text` is, IPv4 also where it is written as IPv6; None when it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
