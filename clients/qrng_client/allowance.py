"""What a client has left, as the gateway tells beside its answers.

Idea: trailers say how many requests are left at once and how many bytes today: those of a refusal always, those of an
answer once less than half of either is left. A client keeps what it was told last. Other servers say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

REQUESTS_LEFT = "qrng-requests-left"
BYTES_LEFT_TODAY = "qrng-bytes-left-today"

_NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What was left for a client after its last call. None: without limit, or not told."""

    requests: int | None = None
    """Requests that may follow at once; more come back with every second."""
    bytes_today: int | None = None
    """Bytes of the daily quota, which begins anew at midnight UTC."""


def read_allowance(trailers: Iterable[tuple[str, str | bytes]] | None) -> Allowance | None:
    """Return what `trailers` tell; None when they tell nothing."""
    told = dict(trailers or ())
    requests, left = _number(told.get(REQUESTS_LEFT)), _number(told.get(BYTES_LEFT_TODAY))
    return None if requests is None and left is None else Allowance(requests, left)


def _number(text: str | bytes | None) -> int | None:
    return int(text) if isinstance(text, str) and _NUMBER.fullmatch(text) else None
