"""docs/api.md has every call, every status and every reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qrng_gateway.fronts.rest.labels import ALLOWANCES, LABEL_HEADERS
from qrng_gateway.fronts.rest.openapi import described
from qrng_gateway.observation.metrics import METHODS
from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_grpc.errors import ERRORS_BY_REASON
from qrng_grpc.v1 import entropy_pb2, errors_pb2, push_pb2

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
DOCUMENT = described(limit=65_536, key_header="api-key", key_in_query=True, has_metrics=True)
OPERATIONS = [
    (f"{verb.upper()} {path}", operation)
    for path, verbs in DOCUMENT["paths"].items()
    for verb, operation in verbs.items()
]
CALLS = [
    f"{service.full_name}/{method.name}"
    for module in (entropy_pb2, push_pb2, qr_entropy_pb2, quantum_rng_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
REASONS = [name.removeprefix("ERROR_REASON_") for name, number in errors_pb2.ErrorReason.items() if number]
REST_REASONS = DOCUMENT["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["reason"]["enum"]


@pytest.mark.parametrize("call", CALLS)
def test_every_rpc_is_there(call: str) -> None:
    """By the name that records and metrics have for it."""
    assert f"`{call}`" in TEXT
    assert call in METHODS


@pytest.mark.parametrize("name", [name for name, _ in OPERATIONS])
def test_every_endpoint_is_there(name: str) -> None:
    """By verb and path, and metrics count it under that name."""
    assert f"`{name}`" in TEXT
    assert name in METHODS


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_there_with_its_status(reason: str) -> None:
    """A row has the gRPC status and the reason, and says what to do."""
    rows = re.findall(rf"^\| ([A-Z_]+) \| `{reason}` \| \S.* \|$", TEXT, re.MULTILINE)
    assert ERRORS_BY_REASON[reason].grpc_status in rows


@pytest.mark.parametrize("reason", REST_REASONS)
def test_every_reason_of_rest_is_there_with_its_status(reason: str) -> None:
    """A row has the HTTP status and the reason, and says what to do."""
    rows = re.findall(rf"^\| (\d+) \| `{reason}` \| \S.* \|$", TEXT, re.MULTILINE)
    assert rows
    if reason in ERRORS_BY_REASON:
        assert rows == [str(ERRORS_BY_REASON[reason].http_status)]


def test_every_status_of_rest_is_there() -> None:
    """Those of the OpenAPI document."""
    for name, operation in OPERATIONS:
        for status in set(operation["responses"]) - {"200"}:
            assert re.search(rf"^\| {status} \| ", TEXT, re.MULTILINE), (name, status)


def test_every_parameter_and_header_is_there() -> None:
    """By name."""
    for name, operation in OPERATIONS:
        for parameter in operation.get("parameters", ()):
            assert f"`{parameter['name']}`" in TEXT, (name, parameter["name"])
    for header in (*LABEL_HEADERS, *ALLOWANCES, *ALLOWANCES.values()):
        assert f"`{header}`" in TEXT
