"""qrng.v1.EntropyService over grpc.aio.

Idea: a servicer only translates. A message becomes a `Demand`, what was claimed becomes a message;
the three kinds of call differ in who sets the pace. Nothing here is per-call book-keeping: no task,
no lock, no log line.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import grpc.aio

from qrng_gateway.desk import Call, Desk
from qrng_gateway.dispenser import Demand
from qrng_gateway.fronts.calls import Codec, Context, Streams, check_readable, served_at_the_desk, tell_allowances
from qrng_gateway.fronts.messages import Asked, Reader, demand_of, packing, with_provenance
from qrng_gateway.observation.status import (
    Accounting,
    CollectorStatus,
    GatewayStatus,
    KeyStatus,
    LaneStatus,
    Observer,
    State,
    Watermark,
)
from qrng_gateway.pool.claims import Claimed, Pack
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.keys import ALGORITHM_NAMES, KeyState
from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc
from qrng_grpc.wire import CLASSES, PROCESSINGS, source_message

SERVICE = "qrng.v1.EntropyService"


class EntropyServicer(entropy_pb2_grpc.EntropyServiceServicer):
    """Hands out bytes, at most `limit` in one message."""

    codecs: Mapping[str, Codec] = {
        "GetEntropy": Codec(Reader(entropy_pb2.GetEntropyRequest.FromString, "bytes_needed"), None),
        "StreamEntropy": Codec(Reader(entropy_pb2.StreamEntropyRequest.FromString, "bytes_needed"), None),
        "SubscribeEntropy": Codec(entropy_pb2.SubscribeEntropyRequest.FromString, None),
    }

    def __init__(self, desk: Desk, observer: Observer, streams: Streams, *, limit: int) -> None:
        self.desk = desk
        self._observer = observer
        self._streams = streams
        self._limit = limit

    @served_at_the_desk(SERVICE)
    async def GetEntropy(  # type: ignore[override]  # its codec has no messages
        self, request: Asked, context: Context, call: Call
    ) -> bytes:
        """Answer one request. A client that leaves while its call waits takes nothing."""
        check_readable(request)
        demand, sequence_id = request
        pack = packing(sequence_id)
        claimed = call.dispense_now(demand, limit=self._limit, pack=pack) or await call.dispense(
            demand, limit=self._limit, time_left_s=context.time_remaining(), pack=pack
        )
        tell_allowances(context, call)
        return with_provenance(claimed)

    @served_at_the_desk(SERVICE)
    async def SubscribeEntropy(  # type: ignore[override]  # it writes; the stub has a generator
        self,
        request: entropy_pb2.SubscribeEntropyRequest,
        context: Context,
        call: Call,
    ) -> None:
        """Send messages until `total_bytes` are sent, or without end, claiming only once the last was taken."""
        check_readable(request)
        if request.total_bytes < 0:
            raise InvalidRequestError("a total is not negative", field="total_bytes")
        demand = demand_of(request, request.bytes_per_message, "bytes_per_message")
        demand.check(self._limit)
        pack = packing(request.sequence_id)
        left = request.total_bytes or inf
        async with self._streams.held(context, call):
            while left > 0:
                if left < demand.size:
                    demand = demand._replace(size=int(left))
                claimed = call.dispense_now(demand, limit=self._limit, pack=pack) or await self._in_time(
                    demand, context, call, pack
                )
                await context.write(with_provenance(claimed))
                left -= demand.size
            tell_allowances(context, call)

    @served_at_the_desk(SERVICE)
    async def StreamEntropy(  # type: ignore[override]  # it writes; the stub has a generator
        self,
        _requests: object,
        context: Context,
        call: Call,
    ) -> None:
        """Answer each request in order, until the client half-closes."""
        async with self._streams.held(context, call):
            # An iteration over the requests does the same, by way of two coroutines and a generator for each.
            while (request := await context.read()) is not grpc.aio.EOF:
                check_readable(request)
                await call.next_request()
                demand, sequence_id = request
                pack = packing(sequence_id)
                claimed = call.dispense_now(demand, limit=self._limit, pack=pack) or await self._in_time(
                    demand, context, call, pack
                )
                await context.write(with_provenance(claimed))
            tell_allowances(context, call)

    @served_at_the_desk(SERVICE)
    async def GetStatus(
        self, request: entropy_pb2.GetStatusRequest, context: Context, call: Call
    ) -> entropy_pb2.GetStatusResponse:
        """Describe the gateway."""
        check_readable(request)
        context.set_trailing_metadata(call.allowances())
        return _status_reply(self._observer.status())

    async def _in_time(self, demand: Demand, context: Context, call: Call, pack: Pack) -> Claimed:
        return await call.dispense_in_time(demand, limit=self._limit, time_left_s=context.time_remaining(), pack=pack)


_STATES = {
    State.HEALTHY: entropy_pb2.GetStatusResponse.STATE_HEALTHY,
    State.DEGRADED: entropy_pb2.GetStatusResponse.STATE_DEGRADED,
    State.UNHEALTHY: entropy_pb2.GetStatusResponse.STATE_UNHEALTHY,
}
_WATERMARKS = {
    Watermark.LOW: entropy_pb2.GetStatusResponse.WATERMARK_LOW,
    Watermark.MEDIUM: entropy_pb2.GetStatusResponse.WATERMARK_MEDIUM,
    Watermark.HIGH: entropy_pb2.GetStatusResponse.WATERMARK_HIGH,
    Watermark.CRITICAL: entropy_pb2.GetStatusResponse.WATERMARK_CRITICAL,
}


_KEY_STATES = {
    KeyState.VALID: entropy_pb2.KeyStatus.STATE_VALID,
    KeyState.NOT_YET_VALID: entropy_pb2.KeyStatus.STATE_NOT_YET_VALID,
    KeyState.EXPIRED: entropy_pb2.KeyStatus.STATE_EXPIRED,
    KeyState.REVOKED: entropy_pb2.KeyStatus.STATE_REVOKED,
}


def _status_reply(status: GatewayStatus) -> entropy_pb2.GetStatusResponse:
    return entropy_pb2.GetStatusResponse(
        state=_STATES[status.state],
        pool_id=status.pool_id,
        uptime_seconds=status.uptime_s,
        version=status.version,
        capacity_bytes=status.capacity,
        pooled_bytes=status.accounting.pooled,
        watermark=_WATERMARKS[status.watermark],
        lanes=[_lane_message(lane) for lane in status.lanes],
        collectors=[_collector_message(collector) for collector in status.collectors],
        keys=[_key_message(key) for key in status.keys],
        accounting=_accounting_message(status.accounting),
        served_claims=status.served_claims,
        waiting_claims=status.waiting_claims,
        warnings=status.warnings,
        inflow_bytes_per_second=status.inflow,
        outflow_bytes_per_second=status.outflow,
        forecast_seconds_left=status.seconds_left,
        reserved_bytes=status.reserved,
    )


def _lane_message(lane: LaneStatus) -> entropy_pb2.LaneStatus:
    return entropy_pb2.LaneStatus(
        source_class=CLASSES.to_proto(lane.source_class),
        processing=PROCESSINGS.to_proto(lane.processing),
        pooled_bytes=lane.pooled,
        oldest_age_seconds=lane.oldest_age_s,
    )


def _collector_message(collector: CollectorStatus) -> entropy_pb2.CollectorStatus:
    message = entropy_pb2.CollectorStatus(
        collector_id=collector.collector_id,
        epoch=collector.epoch,
        sequence=collector.sequence,
        silent_seconds=collector.silent_s,
        clock_skew_seconds=collector.clock_skew_s,
    )
    if collector.heartbeat is not None:
        told = collector.heartbeat
        message.last_heartbeat_ns = collector.last_heartbeat_ns or 0
        message.queued_bytes = told.queued
        message.overflow_bytes = told.overflow
        message.expired_bytes = told.expired
        message.in_doubt_bytes = told.in_doubt
        message.sources.extend(map(source_message, told.sources))
    return message


def _key_message(key: KeyStatus) -> entropy_pb2.KeyStatus:
    return entropy_pb2.KeyStatus(
        key_id=key.key_id,
        collector_id=key.collector_id,
        algorithm=ALGORITHM_NAMES[key.algorithm],
        state=_KEY_STATES[key.state],
        last_used_ns=key.last_used_ns or 0,
        not_after_ns=key.not_after_ns or 0,
    )


def _accounting_message(accounting: Accounting) -> entropy_pb2.Accounting:
    return entropy_pb2.Accounting(
        stored_bytes=accounting.stored,
        served_bytes=accounting.served,
        pooled_bytes=accounting.pooled,
        expired_bytes=accounting.expired,
        overflow_bytes=accounting.overflow,
        purged_bytes=accounting.purged,
        dropped_at_shutdown_bytes=accounting.dropped_at_shutdown,
        refused=[
            entropy_pb2.RefusedBytes(reason=reason, refused_bytes=n) for reason, n in sorted(accounting.refused.items())
        ],
        duplicate_chunks=accounting.duplicates,
        set_aside_bytes=accounting.set_aside,
        conditioned_bytes=accounting.conditioned,
    )
