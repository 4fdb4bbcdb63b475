"""qrng.v1.EntropyService over a tap.

Idea: translation and nothing else. What a gateway would say of its pool is left out, since there is none: no collector,
no lane, no provenance. All bytes are fresh by their nature.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from math import inf
from time import monotonic
from typing import Any, TypeVar

from qrng_grpc import __version__
from qrng_grpc.chunk import Block
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import Condition
from qrng_grpc.v1 import entropy_pb2
from qrng_grpc.wire import CLASSES, CUSTODIES, PROCESSINGS, VERDICTS, Labels
from qrng_source_server.calls import Context, Method, Requests, Room
from qrng_source_server.tap import DrawSpec, Tap

SERVICE = "qrng.v1.EntropyService"

_Get, _Subscribe, _Stream = (
    entropy_pb2.GetEntropyRequest,
    entropy_pb2.SubscribeEntropyRequest,
    entropy_pb2.StreamEntropyRequest,
)
Reply = TypeVar(
    "Reply",
    entropy_pb2.GetEntropyResponse,
    entropy_pb2.SubscribeEntropyResponse,
    entropy_pb2.StreamEntropyResponse,
)


class EntropyService:
    """Hands out what `tap` has, and tells how it does."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._began_s = monotonic()

    def methods(self, short: Room, lasting: Room) -> Mapping[str, Method[Any]]:
        """Return the methods, those that may go on for ever in `lasting`."""
        return {
            "GetEntropy": Method(_Get.FromString, self.get, short),
            "SubscribeEntropy": Method(_Subscribe.FromString, self.subscribe, lasting, headers=()),
            "StreamEntropy": Method(_Stream.FromString, self.stream, lasting, headers=()),
            "GetStatus": Method(entropy_pb2.GetStatusRequest.FromString, self.status, short),
        }

    async def get(
        self, requests: Requests[entropy_pb2.GetEntropyRequest], _context: Context
    ) -> AsyncIterator[entropy_pb2.GetEntropyResponse]:
        """Answer one request."""
        request = await requests.first()
        block = await self._tap.draw(_spec_of(request, request.bytes_needed))
        yield _reply(entropy_pb2.GetEntropyResponse, request.sequence_id, block)

    async def subscribe(
        self, requests: Requests[entropy_pb2.SubscribeEntropyRequest], _context: Context
    ) -> AsyncIterator[entropy_pb2.SubscribeEntropyResponse]:
        """Send messages until `total_bytes` are sent, or without end, each measured once the last was taken."""
        request = await requests.first()
        if request.total_bytes < 0:
            raise InvalidRequestError("a total is not negative", field="total_bytes")
        spec = _spec_of(request, request.bytes_per_message, "bytes_per_message")
        self._tap.check(spec)
        left = request.total_bytes or inf
        while left > 0:
            if left < spec.size:
                spec = spec._replace(size=int(left))
            block = await self._tap.draw(spec)
            yield _reply(entropy_pb2.SubscribeEntropyResponse, request.sequence_id, block)
            left -= spec.size

    async def stream(
        self, requests: Requests[entropy_pb2.StreamEntropyRequest], _context: Context
    ) -> AsyncIterator[entropy_pb2.StreamEntropyResponse]:
        """Answer each request in order, until the client half-closes."""
        async for request in requests.each():
            block = await self._tap.draw(_spec_of(request, request.bytes_needed))
            yield _reply(entropy_pb2.StreamEntropyResponse, request.sequence_id, block)

    async def status(
        self, requests: Requests[entropy_pb2.GetStatusRequest], _context: Context
    ) -> AsyncIterator[entropy_pb2.GetStatusResponse]:
        """Describe the server, as far as there is something to describe without a pool."""
        await requests.first()
        tap, source = self._tap, self._tap.source
        state = entropy_pb2.GetStatusResponse
        warnings = [] if source.condition is Condition.DELIVERING else [_warning(source.device_id, source.condition)]
        yield entropy_pb2.GetStatusResponse(
            state=state.STATE_HEALTHY if tap.ready else state.STATE_UNHEALTHY,
            uptime_seconds=monotonic() - self._began_s,
            version=__version__,
            accounting=entropy_pb2.Accounting(stored_bytes=tap.served_bytes, served_bytes=tap.served_bytes),
            served_claims=tap.served_requests,
            waiting_claims=tap.waiting,
            warnings=warnings,
        )


def _warning(device_id: str, condition: Condition) -> str:
    return f"the source {device_id} is {condition.value}"


def _spec_of(request: Any, size: int, size_field: str = "bytes_needed") -> DrawSpec:
    return DrawSpec(
        size,
        size_field,
        least_class=_stated(CLASSES, request.least_class, "least_class"),
        processing=_stated(PROCESSINGS, request.processing, "processing"),
        max_age_ms=request.max_age_ms,
        include_provenance=request.include_provenance,
    )


def _stated(labels: Labels[Any], number: int, field: str) -> Any:
    """Return the label that a request states, None where it states none. Raises InvalidRequestError."""
    stated = labels.from_proto(number)
    if number and stated is None:
        raise InvalidRequestError("a value this server does not know", field=field)
    return stated


def _reply(message: type[Reply], sequence_id: int, block: Block) -> Reply:
    label = block.label
    return message(
        data=bytes(block.data),
        sequence_id=sequence_id,
        generation_timestamp_ns=block.capture_end_ns,
        device_id=",".join(label.device_ids),
        source_class=CLASSES.to_proto(label.source_class),
        processing=PROCESSINGS.to_proto(label.processing),
        custody=CUSTODIES.to_proto(label.custody),
        health_verdict=VERDICTS.to_proto(label.health_verdict),
        capture_start_ns=block.capture_start_ns,
        capture_end_ns=block.capture_end_ns,
    )
