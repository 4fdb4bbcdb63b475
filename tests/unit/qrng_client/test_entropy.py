from __future__ import annotations

from typing import Any

import pytest

from qrng_client import BadReplyError, Custody, Entropy, HealthVerdict, Processing, SourceClass
from qrng_client.entropy import join, read_reply
from qrng_client.status import read_status
from qrng_grpc.v1 import entropy_pb2, labels_pb2


def reply(**changes: Any) -> entropy_pb2.GetEntropyResponse:
    whole: dict[str, Any] = {
        "data": b"\x5a" * 8,
        "sequence_id": 7,
        "generation_timestamp_ns": 20,
        "device_id": "dev-1",
        "source_class": labels_pb2.SOURCE_CLASS_HARDWARE,
        "processing": labels_pb2.PROCESSING_NONE,
        "custody": labels_pb2.CUSTODY_LOCAL,
        "health_verdict": labels_pb2.HEALTH_VERDICT_PASSED,
        "collector_id": "col-1",
        "capture_start_ns": 10,
        "capture_end_ns": 30,
    }
    return entropy_pb2.GetEntropyResponse(**whole | changes)


def read(message: entropy_pb2.GetEntropyResponse | None, least: SourceClass | None = None) -> Entropy:
    return read_reply(message, size=8, sequence_id=7, least_class=least)


def test_whole_reply() -> None:
    """A reply that is whole becomes its bytes and all of its labels."""
    assert read(reply()) == Entropy(
        data=b"\x5a" * 8,
        source_class=SourceClass.HARDWARE,
        processing=Processing.NONE,
        custody=Custody.LOCAL,
        health_verdict=HealthVerdict.PASSED,
        device_id="dev-1",
        collector_id="col-1",
        capture_start_ns=10,
        capture_end_ns=30,
        generation_timestamp_ns=20,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"data": b"\x5a" * 7},
        {"data": b"\x5a" * 9},
        {"data": b""},
        {"sequence_id": 8},
        {"source_class": 0},
        {"source_class": 99},
        {"processing": 0},
        {"custody": 0},
        {"health_verdict": 0},
    ],
    ids=str,
)
def test_reply_not_whole(changes: dict[str, Any]) -> None:
    """Bytes short or over, another request's echo, or a label that says nothing: an error, and no bytes."""
    with pytest.raises(BadReplyError):
        read(reply(**changes))


def test_weaker_than_asked() -> None:
    """A reply of a weaker class than asked for is refused, whatever the server thinks."""
    assert read(reply(), SourceClass.HARDWARE).source_class is SourceClass.HARDWARE
    with pytest.raises(BadReplyError, match="weaker"):
        read(reply(), SourceClass.QUANTUM)


def test_no_bytes_in_repr() -> None:
    """The bytes never show in repr or in the text of an error."""
    entropy = read(reply(data=b"SECRETS!"))
    assert "SECRETS!" not in repr(entropy)
    assert bytes(entropy) == b"SECRETS!"
    assert len(entropy) == 8
    with pytest.raises(BadReplyError) as caught:
        read(reply(data=b"SECRETS"))
    assert "SECRETS" not in str(caught.value)


def test_join_takes_the_weakest() -> None:
    """Joined bytes keep their order, and carry the weakest label each of them has."""
    better = read(reply(source_class=labels_pb2.SOURCE_CLASS_QUANTUM))
    weaker = read(
        reply(
            data=b"\xa5" * 8,
            source_class=labels_pb2.SOURCE_CLASS_OPERATING_SYSTEM,
            processing=labels_pb2.PROCESSING_MIXED,
            custody=labels_pb2.CUSTODY_REMOTE,
            health_verdict=labels_pb2.HEALTH_VERDICT_UNTESTED,
            device_id="dev-2,dev-1",
            collector_id="col-2",
            generation_timestamp_ns=15,
            capture_start_ns=5,
            capture_end_ns=25,
        )
    )
    assert join([better, weaker]) == Entropy(
        data=b"\x5a" * 8 + b"\xa5" * 8,
        source_class=SourceClass.OPERATING_SYSTEM,
        processing=Processing.MIXED,
        custody=Custody.REMOTE,
        health_verdict=HealthVerdict.UNTESTED,
        device_id="dev-1,dev-2",
        collector_id="col-1,col-2",
        capture_start_ns=5,
        capture_end_ns=30,
        generation_timestamp_ns=15,
    )


def test_join_of_one() -> None:
    """One part is itself."""
    entropy = read(reply())
    assert join([entropy]) is entropy


def test_join_bounds_names() -> None:
    """Names of devices are bounded when joined; that some were left out is kept."""
    many = [read(reply(device_id=f"dev-{number}")) for number in range(17)]
    assert join(many).device_id == ",".join([f"dev-{number}" for number in range(16)] + ["..."])
    already = [read(reply(device_id="dev-1,...")), read(reply(device_id="dev-2"))]
    assert join(already).device_id == "dev-1,dev-2,..."


def test_no_message() -> None:
    """What grpc hands over in place of a message it cannot read is an error, not bytes and not a status."""
    with pytest.raises(BadReplyError):
        read(None)
    with pytest.raises(BadReplyError):
        read_status(None)
