from __future__ import annotations

from typing import Any, Unpack

import pytest

from qrng_client import (
    BadReplyError,
    ChunkRange,
    Custody,
    Entropy,
    HealthVerdict,
    Processing,
    SourceClass,
    Wanted,
)
from qrng_client.entropy import join, read_reply
from qrng_client.requests import Wish
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


def read(message: entropy_pb2.GetEntropyResponse | None, **wanted: Unpack[Wanted]) -> Entropy:
    return read_reply(message, size=8, sequence_id=7, wish=Wish.of(wanted, "get"))


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
    assert read(reply(), least_class=SourceClass.HARDWARE).source_class is SourceClass.HARDWARE
    with pytest.raises(BadReplyError, match="weaker"):
        read(reply(), least_class=SourceClass.QUANTUM)


def test_another_processing_than_asked() -> None:
    """A reply of another processing than asked for is refused; one that newer servers may know says nothing yet."""
    conditioned = reply(processing=labels_pb2.PROCESSING_SHA256)
    assert read(conditioned).processing is Processing.SHA256
    assert read(conditioned, processing=Processing.SHA256).processing is Processing.SHA256
    with pytest.raises(BadReplyError, match="processing"):
        read(conditioned, processing=Processing.NONE)
    with pytest.raises(BadReplyError, match="unknown"):
        read(reply(processing=99))


def place(offset: int, size: int) -> entropy_pb2.ChunkRange:
    return entropy_pb2.ChunkRange(collector_id="col-1", epoch=5, sequence=6, offset_bytes=offset, size_bytes=size)


def test_provenance() -> None:
    """Where bytes came from is told in their order, when it was asked for, and joined with them."""
    told = reply(provenance=[place(100, 3), place(0, 5)])
    ranges = (ChunkRange("col-1", 5, 6, 100, 3), ChunkRange("col-1", 5, 6, 0, 5))
    assert read(told).provenance == ()
    entropy = read(told, provenance=True)
    assert entropy.provenance == ranges
    assert join([entropy, entropy]).provenance == ranges * 2


@pytest.mark.parametrize(
    "ranges",
    [[], [place(0, 7)], [place(0, 9)], [place(0, 8), place(0, 0)], [place(-1, 8)], [place(0, 9), place(9, -1)]],
)
def test_provenance_of_other_bytes(ranges: list[entropy_pb2.ChunkRange]) -> None:
    """Ranges that are not those of the bytes make the reply one that is not believed."""
    with pytest.raises(BadReplyError, match="came from"):
        read(reply(provenance=ranges), provenance=True)


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


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("SHA256", "SHA256", Processing.SHA256),
        ("SHA256", "MIXED_SHA256", Processing.MIXED_SHA256),
        ("NONE", "MIXED", Processing.MIXED),
        ("XOR_OS", "XOR_OS", Processing.XOR_OS),
    ],
)
def test_join_keeps_what_a_gateway_did(first: str, second: str, joined: Processing) -> None:
    """What a gateway did to bytes is still told of them when they are joined."""
    parts = [read(reply(processing=labels_pb2.Processing.Value(f"PROCESSING_{name}"))) for name in (first, second)]
    assert join(parts).processing is joined


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


def test_status_of_a_newer_server() -> None:
    """A label this version does not know is None in a status, and a state "unknown"; what is not told is None."""
    told = entropy_pb2.GetStatusResponse(
        state=99,  # type: ignore[arg-type]
        lanes=[entropy_pb2.LaneStatus(source_class=99, processing=99)],  # type: ignore[arg-type]
        collectors=[entropy_pb2.CollectorStatus(collector_id="col-1")],
    )
    status = read_status(told)
    assert (status.state, status.forecast_s, status.collectors[0].clock_skew_s) == ("unknown", None, None)
    assert (status.lanes[0].source_class, status.lanes[0].processing) == (None, None)


def test_status_in_full() -> None:
    """Rates, forecast, skew and every term of the accounting are read; a zero that is told is no None."""
    told = entropy_pb2.GetStatusResponse(
        inflow_bytes_per_second=2,
        outflow_bytes_per_second=3,
        forecast_seconds_left=0,
        collectors=[entropy_pb2.CollectorStatus(collector_id="col-1", clock_skew_seconds=0)],
        accounting=entropy_pb2.Accounting(stored_bytes=9, set_aside_bytes=4, conditioned_bytes=5),
    )
    status = read_status(told)
    assert (status.inflow_bytes_per_s, status.outflow_bytes_per_s, status.forecast_s) == (2, 3, 0)
    assert status.collectors[0].clock_skew_s == 0
    assert (status.accounting.set_aside_bytes, status.accounting.conditioned_bytes) == (4, 5)


def test_no_message() -> None:
    """What grpc hands over in place of a message it cannot read is an error, not bytes and not a status."""
    with pytest.raises(BadReplyError):
        read(None)
    with pytest.raises(BadReplyError):
        read_status(None)
