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

from qrng_gateway.desk import Call, Desk
from qrng_gateway.dispenser import Demand
from qrng_gateway.fronts.calls import Context, Streams, check_readable, served_at_the_desk, tell_allowances
from qrng_gateway.pool.claims import Claimed, ReplyLabel
from qrng_grpc.compat import qr_entropy_pb2, qr_entropy_pb2_grpc, quantum_rng_pb2, quantum_rng_pb2_grpc

QR_ENTROPY = "qr_entropy.EntropyService"
QUANTUM_RNG = "qrng.QuantumRNG"
LEAST_CLASS = "qrng-least-class"
_NS_PER_US = 1000


class QrEntropyServicer(qr_entropy_pb2_grpc.EntropyServiceServicer):
    """What qr-sampler clients speak by default. At most `limit` bytes in one message."""

    def __init__(self, desk: Desk, streams: Streams, *, limit: int) -> None:
        self.desk = desk
        self._streams = streams
        self._limit = limit

    @served_at_the_desk(QR_ENTROPY)
    async def GetEntropy(
        self, request: qr_entropy_pb2.EntropyRequest, context: Context, call: Call
    ) -> qr_entropy_pb2.EntropyResponse:
        """Answer one request, its labels in the trailers."""
        check_readable(request)
        demand = Demand(request.bytes_needed)
        claimed = call.dispense_now(demand, limit=self._limit) or await call.dispense(
            demand, limit=self._limit, time_left_s=context.time_remaining()
        )
        context.set_trailing_metadata((*label_metadata(claimed.label), *call.scarce_allowances()))
        return _qr_entropy_reply(request, claimed)

    @served_at_the_desk(QR_ENTROPY)
    async def StreamEntropy(  # type: ignore[override]  # it writes; the stub has a generator
        self,
        requests: AsyncIterable[qr_entropy_pb2.EntropyRequest],
        context: Context,
        call: Call,
    ) -> None:
        """Answer each request in order, until the client half-closes."""
        promised = call.least_class
        async with self._streams.held(context, call, ((LEAST_CLASS, promised.value),)):
            async for request in requests:
                check_readable(request)
                await call.next_request()
                # Whatever the client's record says by now, what was promised stands.
                demand = Demand(request.bytes_needed, least_class=promised)
                claimed = call.dispense_now(demand, limit=self._limit) or await call.dispense_in_time(
                    demand, limit=self._limit, time_left_s=context.time_remaining()
                )
                await context.write(_qr_entropy_reply(request, claimed))
            tell_allowances(context, call)


class QuantumRngServicer(quantum_rng_pb2_grpc.QuantumRNGServicer):
    """What clients of the firefly-1 laboratory server speak. At most `limit` bytes in one message."""

    def __init__(self, desk: Desk, *, limit: int) -> None:
        self.desk = desk
        self._limit = limit

    @served_at_the_desk(QUANTUM_RNG)
    async def GetRandomBytes(
        self, request: quantum_rng_pb2.RandomRequest, context: Context, call: Call
    ) -> quantum_rng_pb2.RandomResponse:
        """Answer one request, its labels in the trailers."""
        check_readable(request)
        demand = Demand(request.num_bytes, "num_bytes")
        claimed = call.dispense_now(demand, limit=self._limit) or await call.dispense(
            demand, limit=self._limit, time_left_s=context.time_remaining()
        )
        context.set_trailing_metadata((*label_metadata(claimed.label), *call.scarce_allowances()))
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
