"""What is taken of a call that failed."""

from __future__ import annotations

import grpc
import pytest

from qrng_client.diagnosis import explained
from qrng_client.failures import error_of_call
from qrng_grpc.channel import Endpoint
from qrng_grpc.exchange import GrpcStatusError, Symptom, failure_of_call, symptom_in

_NOBODY = "failed to connect to all addresses; last error: "
ADDRESS = "10.0.0.115:50051"
TEXTS = [
    (
        "UNKNOWN: ipv4:10.0.0.115:50051: Failed to connect to remote host: getsockopt(SO_ERROR):"
        " Network is unreachable",
        Symptom.UNROUTED,
    ),
    (
        "FAILED_PRECONDITION: ipv4:10.0.0.115:50051: connect failed: addr: ipv4:10.0.0.115:50051"
        " error: Network is unreachable",
        Symptom.UNROUTED,
    ),
    (
        "UNKNOWN: ipv6:%5B2001:db8::1%5D:50051: Failed to connect to remote host: getsockopt(SO_ERROR):"
        " No route to host",
        Symptom.UNROUTED,
    ),
    ("INTERNAL: ipv6:%5B2001:db8::1%5D:50051: socket: Address family not supported by protocol", Symptom.UNROUTED),
    ("UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused", Symptom.REFUSED),
    (
        "FAILED_PRECONDITION: unix:/tmp/nowhere: connect failed: addr: unix:/tmp/nowhere"
        " error: No such file or directory",
        Symptom.REFUSED,
    ),
]
"""What grpcio 1.85 says where a connection cannot be made, as it was seen."""


@pytest.mark.parametrize(("text", "symptom"), TEXTS)
def test_symptoms_of_connections(text: str, symptom: Symptom) -> None:
    """An address that no route leads to is told from one at which nothing listens, by gRPC's own words."""
    failure = failure_of_call(grpc.StatusCode.UNAVAILABLE, None, _NOBODY + text)
    assert isinstance(failure, GrpcStatusError)
    assert failure.symptom is symptom
    told = str(explained(failure, ADDRESS, "unary"))
    assert told.startswith(f"{ADDRESS}: {symptom.value} (UNAVAILABLE); ")
    assert "QR_GRPC_SERVER_ADDRESS" in told
    assert "ipv" not in told


def test_no_symptom() -> None:
    """What says nothing of the connection, or nothing at all, shows none."""
    assert symptom_in(None) is None
    assert symptom_in("the pool did not hold enough bytes in time") is None


def test_clients_of_a_gateway_name_the_setting_too() -> None:
    """Where no route leads there, or the name does not resolve, a client of a gateway says so and not a word of TLS."""
    for text in (TEXTS[0][0], "DNS resolution failed for gateway:50051"):
        told = str(error_of_call(grpc.StatusCode.UNAVAILABLE, None, Endpoint(ADDRESS), _NOBODY + text))
        assert ADDRESS in told
        assert "QR_GRPC_SERVER_ADDRESS" in told
        assert "TLS" not in told
