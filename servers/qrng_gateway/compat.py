"""Services already in the field: `qr_entropy.EntropyService` and `qrng.QuantumRNG`.

Idea: thin translations onto the same dispenser, for clients that will not change. Their replies have
no room for what the bytes are, so it travels beside them, in trailing metadata of unary calls:
`qrng-source-class`, `qrng-processing`, `qrng-custody`, `qrng-health-verdict`, `qrng-collector-id`,
`qrng-capture-start-ns`, `qrng-capture-end-ns`. (Trailers leave in one piece with the reply; headers
of our own would cost another trip through the transport, see DESIGN section 6.) A stream, whose replies
may differ, promises in its initial metadata, `qrng-least-class`, that none is weaker.
"""

from __future__ import annotations

from collections.abc import AsyncIterable

from qrng_gateway.access import Access
from qrng_gateway.calls import Context, Streams, check_readable, telling_errors
from qrng_gateway.dispenser import Demand, Dispenser
from qrng_gateway.pool import Claimed, ReplyLabel
from qrng_grpc.compat import qr_entropy_pb2, qr_entropy_pb2_grpc, quantum_rng_pb2, quantum_rng_pb2_grpc

LEAST_CLASS = "qrng-least-class"
_NS_PER_US = 1000


class QrEntropyServicer(qr_entropy_pb2_grpc.EntropyServiceServicer):
    """What qr-sampler clients speak by default. At most `limit` bytes in one message."""

    def __init__(self, access: Access, dispenser: Dispenser, streams: Streams, *, limit: int) -> None:
        self._access = access
        self._dispenser = dispenser
        self._streams = streams
        self._limit = limit

    @telling_errors
    async def GetEntropy(
        self, request: qr_entropy_pb2.EntropyRequest, context: Context
    ) -> qr_entropy_pb2.EntropyResponse:
        """Answer one request, its labels in the trailers."""
        client = self._access.client_of(context.invocation_metadata())
        claimed = await self._claim(request, client, context)
        context.set_trailing_metadata(label_metadata(claimed.label))
        return _qr_entropy_reply(request, claimed)

    @telling_errors
    async def StreamEntropy(  # type: ignore[override]  # it writes; the stub has a generator
        self,
        requests: AsyncIterable[qr_entropy_pb2.EntropyRequest],
        context: Context,
    ) -> None:
        """Answer each request in order, until the client half-closes."""
        client = self._access.client_of(context.invocation_metadata())
        async with self._streams.held(context):
            await context.send_initial_metadata(((LEAST_CLASS, self._dispenser.least_class.value),))
            async for request in requests:
                claimed = await self._claim(request, client, context)
                await context.write(_qr_entropy_reply(request, claimed))

    async def _claim(self, request: qr_entropy_pb2.EntropyRequest, client: str, context: Context) -> Claimed:
        check_readable(request)
        return await self._dispenser.dispense(
            Demand(request.bytes_needed), limit=self._limit, client=client, time_left_s=context.time_remaining()
        )


class QuantumRngServicer(quantum_rng_pb2_grpc.QuantumRNGServicer):
    """What clients of the firefly-1 laboratory server speak. At most `limit` bytes in one message."""

    def __init__(self, access: Access, dispenser: Dispenser, *, limit: int) -> None:
        self._access = access
        self._dispenser = dispenser
        self._limit = limit

    @telling_errors
    async def GetRandomBytes(
        self, request: quantum_rng_pb2.RandomRequest, context: Context
    ) -> quantum_rng_pb2.RandomResponse:
        """Answer one request, its labels in the trailers."""
        client = self._access.client_of(context.invocation_metadata())
        check_readable(request)
        claimed = await self._dispenser.dispense(
            Demand(request.num_bytes, "num_bytes"),
            limit=self._limit,
            client=client,
            time_left_s=context.time_remaining(),
        )
        context.set_trailing_metadata(label_metadata(claimed.label))
        return quantum_rng_pb2.RandomResponse(
            data=claimed.data,
            timestamp=claimed.label.generation_ns // _NS_PER_US,
            device_id=claimed.label.device_id,
        )


def label_metadata(label: ReplyLabel) -> tuple[tuple[str, str], ...]:
    """Return what the bytes are, as metadata for replies that cannot say it."""
    return (
        ("qrng-source-class", label.source_class.value),
        ("qrng-processing", label.processing.value),
        ("qrng-custody", label.custody.value),
        ("qrng-health-verdict", label.health_verdict.value),
        ("qrng-collector-id", label.collector_id),
        ("qrng-capture-start-ns", str(label.capture_start_ns)),
        ("qrng-capture-end-ns", str(label.capture_end_ns)),
    )


def _qr_entropy_reply(request: qr_entropy_pb2.EntropyRequest, claimed: Claimed) -> qr_entropy_pb2.EntropyResponse:
    return qr_entropy_pb2.EntropyResponse(
        data=claimed.data,
        sequence_id=request.sequence_id,
        generation_timestamp_ns=claimed.label.generation_ns,
        device_id=claimed.label.device_id,
    )
