"""Services already in the field over a tap: `qr_entropy.EntropyService` and `qrng.QuantumRNG`.

Idea: thin translations, for clients that will not change. Their replies have no room for what the bytes are, so it
travels beside them, under the names that a gateway uses: in the trailing metadata of unary calls, and, since a source's
label is constant, as a promise in the initial metadata of streams, `qrng-least-class`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from qrng_grpc.chunk import Block
from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_source_server.calls import Context, Method, Requests, Room
from qrng_source_server.tap import DrawSpec, Tap

QR_ENTROPY = "qr_entropy.EntropyService"
QUANTUM_RNG = "qrng.QuantumRNG"
LEAST_CLASS = "qrng-least-class"
_NS_PER_US = 1000


class QrEntropyService:
    """What qr-sampler clients speak by default."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def methods(self, short: Room, lasting: Room) -> Mapping[str, Method[Any]]:
        """Return the methods, those that may go on for ever in `lasting`."""
        parse = qr_entropy_pb2.EntropyRequest.FromString
        headers = ((LEAST_CLASS, self._tap.label.source_class.value),)
        return {
            "GetEntropy": Method(parse, self.get, short),
            "StreamEntropy": Method(parse, self.stream, lasting, headers=headers),
        }

    async def get(
        self, requests: Requests[qr_entropy_pb2.EntropyRequest], context: Context
    ) -> AsyncIterator[qr_entropy_pb2.EntropyResponse]:
        """Answer one request, its labels in the trailers."""
        request = await requests.first()
        block = await self._tap.draw(DrawSpec(request.bytes_needed))
        context.set_trailing_metadata(label_metadata(block))
        yield _qr_entropy_reply(request, block)

    async def stream(
        self, requests: Requests[qr_entropy_pb2.EntropyRequest], _context: Context
    ) -> AsyncIterator[qr_entropy_pb2.EntropyResponse]:
        """Answer each request in order, until the client half-closes."""
        async for request in requests.each():
            yield _qr_entropy_reply(request, await self._tap.draw(DrawSpec(request.bytes_needed)))


class QuantumRngService:
    """What clients of the firefly-1 laboratory server speak."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def methods(self, short: Room) -> Mapping[str, Method[Any]]:
        """Return the one method."""
        return {"GetRandomBytes": Method(quantum_rng_pb2.RandomRequest.FromString, self.get, short)}

    async def get(
        self, requests: Requests[quantum_rng_pb2.RandomRequest], context: Context
    ) -> AsyncIterator[quantum_rng_pb2.RandomResponse]:
        """Answer one request, its labels in the trailers."""
        request = await requests.first()
        block = await self._tap.draw(DrawSpec(request.num_bytes, "num_bytes"))
        context.set_trailing_metadata(label_metadata(block))
        yield quantum_rng_pb2.RandomResponse(
            data=bytes(block.data),
            timestamp=block.capture_end_ns // _NS_PER_US,
            device_id=",".join(block.label.device_ids),
        )


def label_metadata(block: Block) -> tuple[tuple[str, str], ...]:
    """Return what the bytes are, as metadata for replies that cannot say it."""
    label = block.label
    return (
        ("qrng-source-class", label.source_class.value),
        ("qrng-processing", label.processing.value),
        ("qrng-custody", label.custody.value),
        ("qrng-health-verdict", label.health_verdict.value),
        ("qrng-capture-start-ns", str(block.capture_start_ns)),
        ("qrng-capture-end-ns", str(block.capture_end_ns)),
    )


def _qr_entropy_reply(request: qr_entropy_pb2.EntropyRequest, block: Block) -> qr_entropy_pb2.EntropyResponse:
    return qr_entropy_pb2.EntropyResponse(
        data=bytes(block.data),
        sequence_id=request.sequence_id,
        generation_timestamp_ns=block.capture_end_ns,
        device_id=",".join(block.label.device_ids),
    )
