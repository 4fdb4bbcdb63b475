"""What a client asks for: arguments checked, large reads split, messages numbered.

Idea: everything about a call that needs no network stands here once, for the client with threads and
the one with an event loop alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import SourceClass
from qrng_grpc.v1 import entropy_pb2
from qrng_grpc.wire import CLASSES

MAX_REQUEST_BYTES = 1 << 20
"""The most bytes in one message: 1 MiB, as the gateway has it by default."""
MAX_GET_BYTES = 1 << 30
"""The most bytes of one `get`, which holds them all in memory: 1 GiB."""
_MAX_TOTAL_BYTES = 2**63 - 1
_MAX_AGE_S = 1e9
_MAX_TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True)
class Wish:
    """What bytes must be to be welcome: a least class, and an age in seconds (0.001 to 1e9) not exceeded."""

    least_class: SourceClass | None = None
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse an age out of range. Raises InvalidRequestError."""
        if self.max_age_s is not None and not 0.001 <= self.max_age_s <= _MAX_AGE_S:
            raise InvalidRequestError("max_age_s must be 0.001 to 1e9 seconds", field="max_age_ms")

    @property
    def wire_class(self) -> int:
        """The least class on the wire; 0 leaves it to the gateway."""
        return CLASSES.to_proto(self.least_class) if self.least_class is not None else 0

    @property
    def wire_age_ms(self) -> int:
        """The age limit on the wire, rounded down; 0 is none."""
        return int(self.max_age_s * 1000) if self.max_age_s is not None else 0


@dataclass(slots=True)
class RequestBook:
    """Makes requests, each with a sequence id of its own, which its reply must repeat."""

    max_request_bytes: int = MAX_REQUEST_BYTES
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    def __post_init__(self) -> None:
        """Refuse a maximum that no message can have. Raises InvalidRequestError."""
        checked_size(self.max_request_bytes, "max_request_bytes", MAX_REQUEST_BYTES)

    def gets(self, n: int, wish: Wish) -> list[entropy_pb2.GetEntropyRequest]:
        """Return the requests that together ask for `n` bytes. Raises InvalidRequestError unless `n` is 1 to 1 GiB."""
        checked_size(n, "n", MAX_GET_BYTES)
        whole, rest = divmod(n, self.max_request_bytes)
        sizes = [self.max_request_bytes] * whole + [rest] * (rest > 0)
        return [self._get(size, wish) for size in sizes]

    def _get(self, size: int, wish: Wish) -> entropy_pb2.GetEntropyRequest:
        return entropy_pb2.GetEntropyRequest(
            bytes_needed=size,
            sequence_id=next(self._ids),
            least_class=wish.wire_class,  # type: ignore[arg-type]
            max_age_ms=wish.wire_age_ms,
        )

    def subscription(self, bytes_per_message: int, total: int | None, wish: Wish) -> Subscription:
        """Return a stream's request and what its messages must be. Raises InvalidRequestError on sizes out of range."""
        checked_size(bytes_per_message, "bytes_per_message", self.max_request_bytes)
        if total is not None:
            checked_size(total, "total", _MAX_TOTAL_BYTES)
        request = entropy_pb2.SubscribeEntropyRequest(
            bytes_per_message=bytes_per_message,
            sequence_id=next(self._ids),
            least_class=wish.wire_class,  # type: ignore[arg-type]
            max_age_ms=wish.wire_age_ms,
            total_bytes=total or 0,
        )
        return Subscription(request, total)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A stream that was asked for: `total` bytes, or without end."""

    request: entropy_pb2.SubscribeEntropyRequest
    total: int | None

    def sizes(self) -> Iterator[int]:
        """Yield the size each message must have, in order."""
        each = self.request.bytes_per_message
        if self.total is None:
            yield from itertools.repeat(each)
            return
        for start in range(0, self.total, each):
            yield min(each, self.total - start)


def checked_timeout(timeout_s: float) -> float:
    """Return `timeout_s`. Raises InvalidRequestError unless it is 0.001 to 3600 seconds."""
    if not 0.001 <= timeout_s <= _MAX_TIMEOUT_S:
        raise InvalidRequestError(f"timeout_s must be 0.001 to {_MAX_TIMEOUT_S} seconds", field="timeout_s")
    return timeout_s


def checked_size(size: int, name: str, most: int) -> None:
    """Refuse a `size` outside 1 to `most`. Raises InvalidRequestError that names the argument."""
    if not 1 <= size <= most:
        raise InvalidRequestError(f"{name} must be 1 to {most:,} bytes", field=name)
