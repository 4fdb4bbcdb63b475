"""Promises: what a record says that the gateway cannot do is told."""

from __future__ import annotations

from qrng_gateway.admission.promises import Promises
from qrng_grpc.client_keys import Client
from qrng_grpc.labels import SourceClass

HARDWARE = SourceClass.HARDWARE


def warnings(*clients: Client) -> tuple[str, ...]:
    return Promises(lambda: clients, 1000, HARDWARE).warnings()


def test_what_can_be_kept_is_not_worth_a_word() -> None:
    """Half of the pool may be reserved, and the best class that a key may claim asked for."""
    assert warnings(Client("a", reserved_bytes=300, least_class=HARDWARE), Client("b", reserved_bytes=200)) == ()


def test_more_than_half_of_the_pool_reserved_is_told() -> None:
    """The sum over all clients counts, and both numbers are named."""
    (warning,) = warnings(Client("a", reserved_bytes=300), Client("b", reserved_bytes=201))
    assert warning.startswith("501 bytes are reserved")
    assert "500" in warning


def test_a_class_that_nobody_may_claim_is_told() -> None:
    """A client that can never be served is named, and how many more there are."""
    strict = [Client(name, least_class=SourceClass.QUANTUM) for name in ("a", "b", "c")]
    assert warnings(strict[0])[0].startswith("client a can never be served")
    assert warnings(*strict)[0].startswith("client a and 2 more can never be served")


def test_a_change_of_records_counts_at_once() -> None:
    """Warnings are those of the records as they are now."""
    records: tuple[Client, ...] = (Client("a", reserved_bytes=501),)
    promises = Promises(lambda: records, 1000, HARDWARE)
    assert len(promises.warnings()) == len(promises.warnings()) == 1
    records = (Client("a"),)
    assert promises.warnings() == ()
