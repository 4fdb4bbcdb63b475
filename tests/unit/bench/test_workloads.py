"""Workloads ask what they are called for, and no more than a full pool can answer."""

from __future__ import annotations

import pytest
from comparison import CPU, P99
from report import ORDER, TUNED
from workloads import BARE, BARE_TUNED, BARE_UVLOOP, CPP, GATEWAY, MOST_BYTES, NATIVE, PEERS, SECTIONS, Workload

from qrng_grpc.v1 import entropy_pb2

WORKLOADS = [workload for some in SECTIONS.values() for workload in some]


def test_names_are_unique() -> None:
    """No two workloads have one name, by which results are told apart."""
    names = [workload.name for workload in WORKLOADS]
    assert len({*names}) == len(names)


def test_every_section_is_shown() -> None:
    """The report knows every section of workloads."""
    assert {*SECTIONS} <= {*ORDER}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_only_who_takes_part_is_asked_about(workload: Workload) -> None:
    """Every ratio is of two servers of the workload; the gateway comes first; each peer has a file."""
    assert workload.servers[0] == GATEWAY
    assert {name for asked in workload.asked for name in (asked.server, asked.measure)} <= {*workload.servers}
    assert {*workload.servers} <= {GATEWAY, NATIVE, *PEERS}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_run_fits_the_pool(workload: Workload) -> None:
    """Whatever is wished for, all calls of a run have as many replies, and a pool holds their bytes."""
    for wanted in (0, 1, 100, 10**9):
        replies = workload.replies(wanted)
        assert replies >= workload.in_flight and replies % workload.in_flight == 0
        assert (replies - workload.in_flight) * workload.size <= MOST_BYTES


def test_both_bare_servers_are_the_measure() -> None:
    """gRPC is held to the bare server, on asyncio and on the loop that the gateway has."""
    judged = {asked.measure: asked.most for asked in Workload("unary", 32, 64).asked if asked.most}
    assert judged == {BARE: 1.10, BARE_UVLOOP: 1.10}


def test_tuned_server_has_a_table_of_its_own() -> None:
    """The bare server that is tuned as the gateway is compared, and shown, without a target."""
    assert BARE_TUNED == TUNED
    assert {asked.most for asked in Workload("unary", 32, 64).asked if asked.measure == TUNED} == {None}


@pytest.mark.parametrize(("in_flight", "most"), [(16, 2.5), (1, 2.0), (64, None)])
def test_native_engine_is_held_to_cpp(in_flight: int, most: float | None) -> None:
    """The native engine's measure is the C++ server, at 16 calls in flight and at one."""
    asked = {(one.server, one.measure): one.most for one in Workload("unary", 32, in_flight).asked}
    assert asked[NATIVE, CPP] == most


def test_at_a_rate_the_p99_counts() -> None:
    """At a share of saturation replies are judged by their p99, else by what they cost."""
    assert {one.quantity for one in Workload("unary", 32, 64, load=0.5).asked} == {P99}
    assert {one.quantity for one in Workload("unary", 32, 64).asked} == {CPU}


def test_requests_ask_for_the_size() -> None:
    """What goes over the wire asks for the bytes that the workload is named after."""
    unary = entropy_pb2.GetEntropyRequest.FromString(Workload("unary", 1024, 1).request(7))
    assert unary.bytes_needed == 1024
    subscription = entropy_pb2.SubscribeEntropyRequest.FromString(Workload("subscribe", 1 << 20, 2).request(6))
    assert (subscription.bytes_per_message, subscription.total_bytes) == (1 << 20, 3 << 20)
    assert Workload("rest", 32, 1).path.endswith("bytes=32")
