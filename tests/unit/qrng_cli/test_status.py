"""What `qrng status` shows a person."""

from __future__ import annotations

import re

import pytest

from qrng_cli.status import table
from qrng_client.allowance import Allowance
from qrng_client.status import GatewayStatus, read_status
from qrng_grpc.v1 import chunk_pb2, entropy_pb2, labels_pb2

QUANTUM = labels_pb2.SOURCE_CLASS_QUANTUM


def status(number: int, *, capacity: int = 1 << 20) -> GatewayStatus:
    """Return the status of a server of which everything that is counted is `number`."""
    source = chunk_pb2.SourceState(
        device_id="q", source_class=QUANTUM, condition="CONDITION_DELIVERING", fetched_bytes=number
    )
    told = {f"{name}_bytes": number for name in ("queued", "overflow", "expired", "in_doubt")}
    collector = entropy_pb2.CollectorStatus(collector_id="lab", last_heartbeat_ns=1, sources=[source], **told)
    fates = ("stored", "served", "expired", "overflow", "purged", "set_aside", "conditioned", "dropped_at_shutdown")
    refused = [entropy_pb2.RefusedBytes(reason="too_old", refused_bytes=number)]
    return read_status(
        entropy_pb2.GetStatusResponse(
            capacity_bytes=capacity,
            pooled_bytes=number,
            served_claims=number,
            waiting_claims=number,
            inflow_bytes_per_second=number,
            outflow_bytes_per_second=number,
            lanes=[entropy_pb2.LaneStatus(source_class=QUANTUM, pooled_bytes=number)],
            collectors=[collector],
            accounting=entropy_pb2.Accounting(refused=refused, **{f"{fate}_bytes": number for fate in fates}),
        )
    )


def words(shown: GatewayStatus, left: Allowance | None = None) -> str:
    return "\n".join(str(cell) for column in table(shown, left).columns for cell in column.cells)


@pytest.mark.parametrize("capacity", [1 << 20, 0], ids=["gateway", "source server"])
def test_one_is_singular(capacity: int) -> None:
    """Of whatever there is one of, it is told in the singular, and in the plural of what there are two of."""
    assert re.findall(r"\b1 \w+s\b", words(status(1, capacity=capacity), Allowance(1, 1))) == []
    assert re.findall(r"\b2 (?:byte|claim|request)\b", words(status(2, capacity=capacity), Allowance(2, 2))) == []


def test_a_gateway_may_say_anything() -> None:
    """A rate without end is shown as one."""
    endless = entropy_pb2.GetStatusResponse(capacity_bytes=1, inflow_bytes_per_second=float("inf"))
    assert "inf bytes/s in, 0 bytes/s out" in words(read_status(endless))
