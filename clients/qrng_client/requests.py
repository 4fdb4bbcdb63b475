"""What a client asks for: arguments checked, large reads split, messages numbered.

Idea: everything about a call that needs no network stands here once, for the client with threads and
the one with an event loop alike.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from numbers import Real
from typing import Any, TypedDict, TypeVar

from qrng_grpc.chunk import MAX_PROVENANCE_BYTES
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import Processing, SourceClass
from qrng_grpc.v1 import entropy_pb2
from qrng_grpc.wire import CLASSES, PROCESSINGS

MAX_REQUEST_BYTES = 1 << 20
"""The most bytes in one message: 1 MiB, as the gateway has it by default."""
MAX_GET_BYTES = 1 << 30
"""The most bytes of one `get`, which holds them all in memory: 1 GiB."""
TIMEOUT_S = 5.0
"""How long one answer may take, where nobody says."""
FRESH_TIMEOUT_S = 60.0
"""The same for bytes that are still to be captured, which is as long as a gateway waits for them by default."""
_MAX_TOTAL_BYTES = 2**63 - 1
_MAX_AGE_S = 1e9
_MAX_TIMEOUT_S = 3600

E = TypeVar("E", bound=Enum)


class Wanted(TypedDict, total=False):
    """What a caller may demand of bytes, as keyword arguments of `get` and `stream`."""

    least_class: SourceClass | str | None
    """The weakest class of source to accept, or its name in lower case. Default: the gateway's."""
    max_age_s: float | None
    """The greatest age of any byte, counted from its capture start; 0.001 to 1e9. Default: all the pool still holds."""
    processing: Processing | str | None
    """Only bytes of this processing, or of that with this name. Default: any."""
    span_lanes: bool
    """Let an answer be made of bytes of several classes and processings; its labels are then the weakest."""
    fresh: bool
    """Only bytes captured after the request arrived, for which the gateway waits."""
    provenance: bool
    """Tell the chunks and ranges the bytes came from, as `Entropy.provenance`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was demanded, checked; fields as in `Wanted`. Raises InvalidRequestError for an age out of range.

    `of` makes one of a caller's arguments, in which labels may be names.
    """

    least_class: SourceClass | None = None
    max_age_s: float | None = None
    processing: Processing | None = None
    span_lanes: bool = False
    fresh: bool = False
    provenance: bool = False

    def __post_init__(self) -> None:
        """Refuse an age out of range."""
        if self.max_age_s is not None and not _is_within(self.max_age_s, _MAX_AGE_S):
            raise InvalidRequestError("max_age_s must be 0.001 to 1e9 seconds", field="max_age_ms")

    @classmethod
    def of(cls, wanted: Wanted, method: str) -> Wish:
        """Return what the arguments of the public `method` demand.

        Raises TypeError for an argument that `Wanted` does not have, as Python does, and InvalidRequestError for a
        value that none of its kind can be.
        """
        for name in wanted:
            if name not in Wanted.__annotations__:
                hint = "; it is an argument of the client itself" if name == "timeout_s" else ""
                raise TypeError(f"{method}() got an unexpected keyword argument {name!r}{hint}")
        for name in ("span_lanes", "fresh", "provenance"):
            if not isinstance(wanted.get(name, False), bool):
                raise InvalidRequestError(f"{name} must be True or False", field=name)
        return cls(
            least_class=_member(SourceClass, wanted.get("least_class"), "least_class"),
            max_age_s=wanted.get("max_age_s"),
            processing=_member(Processing, wanted.get("processing"), "processing"),
            span_lanes=wanted.get("span_lanes", False),
            fresh=wanted.get("fresh", False),
            provenance=wanted.get("provenance", False),
        )

    @property
    def wire(self) -> dict[str, Any]:
        """The fields of a request that say so. Ages are rounded down; 0 and false leave it to the gateway."""
        return {
            "least_class": 0 if self.least_class is None else CLASSES.to_proto(self.least_class),
            "max_age_ms": 0 if self.max_age_s is None else int(self.max_age_s * 1000),
            "processing": 0 if self.processing is None else PROCESSINGS.to_proto(self.processing),
            "span_lanes": self.span_lanes,
            "fresh": self.fresh,
            "include_provenance": self.provenance,
        }


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
        each = self._most(wish)
        whole, rest = divmod(n, each)
        sizes = [each] * whole + [rest] * (rest > 0)
        return [self._get(size, wish) for size in sizes]

    def _most(self, wish: Wish) -> int:
        return min(self.max_request_bytes, MAX_PROVENANCE_BYTES) if wish.provenance else self.max_request_bytes

    def _get(self, size: int, wish: Wish) -> entropy_pb2.GetEntropyRequest:
        return entropy_pb2.GetEntropyRequest(bytes_needed=size, sequence_id=next(self._ids), **wish.wire)

    def subscription(self, bytes_per_message: int, total: int | None, wish: Wish) -> Subscription:
        """Return a stream's request and what its messages must be. Raises InvalidRequestError on sizes out of range."""
        checked_size(bytes_per_message, "bytes_per_message", self._most(wish))
        if total is not None:
            checked_size(total, "total", _MAX_TOTAL_BYTES)
        request = entropy_pb2.SubscribeEntropyRequest(
            bytes_per_message=bytes_per_message,
            sequence_id=next(self._ids),
            total_bytes=total or 0,
            **wish.wire,
        )
        return Subscription(request, total, wish)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A stream that was asked for: `total` bytes, or without end."""

    request: entropy_pb2.SubscribeEntropyRequest
    total: int | None
    wish: Wish

    def sizes(self) -> Iterator[int]:
        """Yield the size each message must have, in order."""
        each = self.request.bytes_per_message
        if self.total is None:
            yield from itertools.repeat(each)
            return
        for start in range(0, self.total, each):
            yield min(each, self.total - start)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one answer may take: `stated_s`, or 5 s without it, a minute where bytes are still to be captured.

    Raises InvalidRequestError unless it is 0.001 to 3600 seconds.
    """

    stated_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a time-out that could not be kept."""
        if self.stated_s is not None and not _is_within(self.stated_s, _MAX_TIMEOUT_S):
            raise InvalidRequestError(f"timeout_s must be 0.001 to {_MAX_TIMEOUT_S} seconds", field="timeout_s")

    def seconds(self, *, fresh: bool = False) -> float:
        """Return the time-out of a call."""
        if self.stated_s is not None:
            return self.stated_s
        return FRESH_TIMEOUT_S if fresh else TIMEOUT_S


def checked_size(size: int, name: str, most: int) -> None:
    """Refuse a `size` outside 1 to `most`. Raises InvalidRequestError that names the argument."""
    try:
        whole = operator.index(size)
    except TypeError:
        raise InvalidRequestError(f"{name} must be a whole number of bytes", field=name) from None
    if not 1 <= whole <= most:
        raise InvalidRequestError(f"{name} must be 1 to {most:,} bytes", field=name)


def _is_within(seconds: object, most: float) -> bool:
    return isinstance(seconds, Real) and 0.001 <= float(seconds) <= most


def _member(labels: type[E], value: object, name: str) -> E | None:
    """Return the label that `value` is or names. Raises InvalidRequestError when there is no such label."""
    if value is None or isinstance(value, labels):
        return value
    try:
        return labels(value)
    except ValueError:
        names = ", ".join(repr(label.value) for label in labels)
        raise InvalidRequestError(f"{name} must be one of {names}", field=name) from None
