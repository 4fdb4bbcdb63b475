"""What bytes are, and what their client has left, in the headers of a reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from qrng_gateway.pool.claims import ReplyLabel
from qrng_grpc.http_replies import field_lines
from qrng_grpc.labels import BEST_FIRST, Custody, HealthVerdict, Processing


class Header(NamedTuple):
    """A header: what it says, its JSON schema, and how it is read off a label."""

    description: str
    schema: dict[str, Any]
    read: Callable[[ReplyLabel], str | int]


_NAMES = {"type": "string"}
_MOMENT = {"type": "integer", "minimum": 0}

LABEL_HEADERS = {
    "X-QRNG-Source-Class": Header(
        "Class of the weakest byte.",
        {"enum": [source_class.value for source_class in BEST_FIRST]},
        lambda label: label.source_class.value,
    ),
    "X-QRNG-Processing": Header(
        "What was done to the bytes since a source delivered them.",
        {"enum": [processing.value for processing in Processing]},
        lambda label: label.processing.value,
    ),
    "X-QRNG-Custody": Header(
        "remote if a third party could have seen any of the bytes.",
        {"enum": [custody.value for custody in Custody]},
        lambda label: label.custody.value,
    ),
    "X-QRNG-Health-Verdict": Header(
        "passed if output monitoring passed all of the bytes.",
        {"enum": [verdict.value for verdict in HealthVerdict]},
        lambda label: label.health_verdict.value,
    ),
    "X-QRNG-Device-Id": Header(
        "The devices the bytes came from, joined by commas; after 16 of them `...`.",
        _NAMES,
        lambda label: label.device_id,
    ),
    "X-QRNG-Collector-Id": Header(
        "The collectors the bytes came through, joined by commas; after 16 of them `...`.",
        _NAMES,
        lambda label: label.collector_id,
    ),
    "X-QRNG-Generation-Timestamp-Ns": Header(
        "Capture end of the oldest byte, nanoseconds of Unix time by the collector's clock.",
        _MOMENT,
        lambda label: label.generation_ns,
    ),
    "X-QRNG-Capture-Start-Ns": Header(
        "Earliest capture start of any byte, likewise.", _MOMENT, lambda label: label.capture_start_ns
    ),
    "X-QRNG-Capture-End-Ns": Header(
        "Latest capture end of any byte, likewise.", _MOMENT, lambda label: label.capture_end_ns
    ),
}

ALLOWANCES = {"qrng-requests-left": "X-QRNG-Requests-Left", "qrng-bytes-left-today": "X-QRNG-Bytes-Left-Today"}
"""What a client has left: the header for each name that gRPC trailers have for it."""


@lru_cache(maxsize=64)  # replies come out of one chunk for a while, and so have one label
def label_lines(label: ReplyLabel) -> str:
    """Return the lines of a head that say what bytes are."""
    return field_lines({name: header.read(label) for name, header in LABEL_HEADERS.items()})


def allowance_lines(allowances: Iterable[tuple[str, str]]) -> str:
    """Return the lines of a head that say what a client has left."""
    return "".join([f"{ALLOWANCES[name]}: {value}\r\n" for name, value in allowances])
