"""/api/status leaves out nothing that the gateway knows of itself."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from enum import Enum
from typing import Any

import pytest

from qrng_gateway.fronts.rest.openapi import described
from qrng_gateway.fronts.rest.status_body import status_body
from qrng_gateway.observation.status import (
    Accounting,
    CollectorStatus,
    GatewayStatus,
    KeyStatus,
    LaneStatus,
    State,
    Watermark,
)
from qrng_grpc.chunk import Heartbeat, Identity, SourceState
from qrng_grpc.keys import Algorithm, KeyState
from qrng_grpc.labels import Condition, Processing, SourceClass

ACCOUNTING = Accounting(**{field.name: {} if field.name == "refused" else 1 for field in fields(Accounting)})
LANE = LaneStatus(SourceClass.QUANTUM, Processing.NONE, 4, 0.5)
SOURCE = SourceState("dev-1", SourceClass.HARDWARE, Condition.DELIVERING, 4)
HEARTBEAT = Heartbeat(Identity("c-1", "p-1", 1, 1), 1, (SOURCE,), queued=5, overflow=1, expired=2, in_doubt=3)
COLLECTOR = CollectorStatus("c-1", 1, 2, 3.0, HEARTBEAT, 4, 0.25)
KEY = KeyStatus("k-1", "c-1", Algorithm.ED25519, KeyState.VALID, 5, None)
STATUS = GatewayStatus(
    state=State.HEALTHY,
    pool_id="p-1",
    uptime_s=1.0,
    version="1",
    capacity=1 << 20,
    watermark=Watermark.LOW,
    lanes=(LANE,),
    collectors=(COLLECTOR,),
    keys=(KEY,),
    accounting=ACCOUNTING,
    served_claims=1,
    waiting_claims=0,
    claims_per_s=1.0,
    inflow=2.0,
    outflow=1.0,
    reserved=7,
    seconds_left=None,
    last_arrival_ns=1,
    freshness_s=0.5,
    warnings=(),
)
PARTS: list[tuple[str, Any]] = [("lanes", LANE), ("collectors", COLLECTOR), ("keys", KEY)]


def another(value: Any) -> Any:
    """Return a value of the same kind that is not the same."""
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, tuple):
        return () if value else ("a warning",)
    if isinstance(value, str):
        return value + "-other"
    if isinstance(value, dict):
        return {"bad_crc": 1}
    if value is None or isinstance(value, Heartbeat):
        return 86_400_000_000_000 if value is None else None
    return replace(value, stored=2) if isinstance(value, Accounting) else value + 86_400_000_000_000


@pytest.mark.parametrize("name", [field.name for field in fields(GatewayStatus)])
def test_every_field_of_the_status_is_told(name: str) -> None:
    """Whatever changes in the gateway's state changes the body."""
    assert status_body(replace(STATUS, **{name: another(getattr(STATUS, name))})) != status_body(STATUS)


@pytest.mark.parametrize(
    ("place", "part", "name"), [(place, part, f.name) for place, part in PARTS for f in fields(part)]
)
def test_every_field_of_its_parts_is_told(place: str, part: Any, name: str) -> None:
    """So it does for each lane, collector and key."""
    changed = replace(part, **{name: another(getattr(part, name))})
    assert status_body(replace(STATUS, **{place: (changed,)})) != status_body(STATUS)


@pytest.mark.parametrize("name", [field.name for field in fields(Accounting)])
def test_every_term_of_the_accounting_is_told(name: str) -> None:
    """So it does for each way that bytes can go."""
    changed = replace(ACCOUNTING, **{name: another(getattr(ACCOUNTING, name))})
    assert status_body(replace(STATUS, accounting=changed)) != status_body(STATUS)


def test_the_body_is_the_one_that_is_described() -> None:
    """Its names are those of the OpenAPI document, and it is JSON."""
    document = described(limit=1, key_header="api-key", key_in_query=False, has_metrics=False)
    reply = document["paths"]["/api/status"]["get"]["responses"]["200"]
    schema = reply["content"]["application/json"]["schema"]
    body = json.loads(json.dumps(status_body(STATUS), allow_nan=False))
    assert set(schema["required"]) == set(body)
