"""Addresses: one name for all that a stranger can vary, and proxies believed only where they are ours."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_gateway.admission.addresses import address_of, caller_address

PROXY = "ipv4:10.0.0.1:4000"
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:5000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:5000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::9]:5001", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:5000", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::/64"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
        ("unix:", "unix:"),
        ("ipv4:nonsense", "ipv4:nonsense"),
        ("ipv6:%5Bnonsense%5D:1", "ipv6:%5Bnonsense%5D:1"),
        ("", ""),
    ],
)
def test_a_peer_is_known_by_its_address(peer: str, address: str) -> None:
    """The port does not matter, nor which address of a /64 it is, nor how IPv4 is written."""
    assert address_of(peer) == address


@pytest.mark.parametrize(
    ("forwarded_for", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("203.0.113.1, 192.0.2.7", "192.0.2.7"),
        ("203.0.113.1,192.0.2.7 , 10.0.0.2,fd00::3", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, ::ffff:10.0.0.2", "192.0.2.7"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("nonsense, 192.0.2.7", "192.0.2.7"),
    ],
)
def test_a_trusted_proxy_says_whom_it_serves(forwarded_for: str, address: str) -> None:
    """It is the rightmost address that is no proxy of ours; if all are, the first proxy itself calls."""
    assert caller_address(PROXY, forwarded_for, TRUSTED) == address
    assert caller_address("ipv6:%5Bfd00::9%5D:1", forwarded_for, TRUSTED) == address
    assert caller_address("10.9.9.9", forwarded_for, TRUSTED) == address


@pytest.mark.parametrize("forwarded_for", ["203.0.113.1", "10.0.0.1", "10.0.0.1, 203.0.113.1", "nonsense"])
def test_nobody_else_is_believed(forwarded_for: str) -> None:
    """A stranger who sends the header, or anybody while no proxy is trusted, is named by his connection."""
    assert caller_address("ipv4:192.0.2.7:5", forwarded_for, TRUSTED) == "192.0.2.7"
    assert caller_address("unix:", forwarded_for, TRUSTED) == "unix:"
    assert caller_address(PROXY, forwarded_for, ()) == "10.0.0.1"


@pytest.mark.parametrize("forwarded_for", [None, "", " ", ",", "unknown", "192.0.2.7,", "192.0.2.7:80", "1" * 200])
def test_a_proxy_that_names_nobody_is_the_caller(forwarded_for: str | None) -> None:
    """A missing or malformed list leaves the call to the address of the proxy."""
    assert caller_address(PROXY, forwarded_for, TRUSTED) == "10.0.0.1"


def test_an_inner_proxy_that_names_nobody_is_the_caller() -> None:
    """Each proxy of ours is believed about the one before it, down to the one that wrote no address."""
    assert caller_address(PROXY, "192.0.2.7, unknown, 10.0.0.2", TRUSTED) == "10.0.0.2"


@given(claimed=st.text(max_size=60))
def test_what_a_stranger_claims_changes_nothing(claimed: str) -> None:
    """Whatever stands left of the address our proxy wrote, the caller is that address."""
    assert caller_address(PROXY, f"{claimed},192.0.2.7", TRUSTED) == "192.0.2.7"


@given(forwarded_for=st.text(alphabet="0123456789abcdef.:, []%", max_size=60))
def test_any_list_can_be_read(forwarded_for: str) -> None:
    """No list is so malformed that there is no name for the caller."""
    assert caller_address(PROXY, forwarded_for, TRUSTED)
