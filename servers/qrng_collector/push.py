"""Pushing: sending chunks to one pool until its gateway has disposed of them.

Idea: a call sends chunks and ends with a status and, if that is OK, with the number of chunks disposed
of. That number and the status code are all we take from the gateway: the reply is read by a parser of
our own that knows nothing else; texts and metadata stay inside grpc, are kept small there, and are
neither logged nor raised. Whatever is not counted stays bound and is sent again under its identity.

A gateway that fails gets less: after a call without a count the next carries half the bytes, and until
a call is disposed of in full, no new block is bound, except one when there is nothing to send again. It
is also left alone for longer and longer, up to the policy's maximum. That is this link's circuit breaker:
a failure opens it, a call of one chunk after the wait is the probe, and a call disposed of in full closes
it. Pushers of several pools share one queue; since one whose pool is not READY, or whose breaker is open,
binds nothing, a dead pool keeps no byte from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import grpc

from qrng_collector.config import CollectorConfig
from qrng_collector.heartbeat import Pulse
from qrng_collector.link import PushLink
from qrng_collector.queue import ChunkQueue, wire_size
from qrng_collector.signing import SigningKeys
from qrng_grpc.backoff import Backoff
from qrng_grpc.chunk import Chunk, Heartbeat
from qrng_grpc.clock import Clock
from qrng_grpc.keys import KeyRecord
from qrng_grpc.logs import get_log
from qrng_grpc.v1 import chunk_pb2, push_pb2
from qrng_grpc.wire import encode_chunk, encode_heartbeat

MAX_CALL_BYTES = 8 << 20
"""The most bytes of chunks in one call: 8 MiB, a constant of the protocol. Any one chunk fits."""

_LOOK_AGAIN_S = 0.05


@dataclass(slots=True)
class _Load:
    """What a call has carried so far."""

    chunks: int = 0
    wire_bytes: int = 0
    heartbeat: Heartbeat | None = None
    """Behind the chunks, if there is one."""

    @property
    def messages(self) -> int:
        """What the gateway counts."""
        return self.chunks + (self.heartbeat is not None)


@dataclass(slots=True)
class PushCounters:
    """What one pool was sent since start, in chunks; heartbeats are none."""

    pushed: int = 0
    """Sent for the first time."""
    resent: int = 0
    """Sent once more."""
    disposed: int = 0
    """Counted by the gateway."""
    heartbeats: int = 0
    """Sent, whether they arrived or not."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a call ended: the name of its status, and how many chunks it disposed of (None: it did not say)."""

    status: str
    disposed: int | None = None


class Pusher:
    """Pushes to one pool. One call is in flight at a time."""

    def __init__(
        self,
        queue: ChunkQueue,
        link: PushLink,
        pulse: Pulse,
        keys: SigningKeys,
        pool_id: str,
        config: CollectorConfig,
        clock: Clock,
    ) -> None:
        self.pool_id = pool_id
        self.counters = PushCounters()
        self.status = ""
        """How the last call ended, or why there is none: the name of a status code, PARTIAL, UNREACHABLE or nothing."""
        self.disposed_ns: int | None = None
        """When a call was last disposed of, in part at least, by the monotonic clock."""
        self._queue = queue
        self._link = link
        self._pulse = pulse
        self._keys = keys
        self._interval_s = config.push_interval
        self._timeout_s = config.push_timeout
        self._backoff = Backoff(config.retry_policy)
        self._clock = clock
        self._flushing = asyncio.Event()
        self._trusted = False
        """Whether the last call was disposed of in full, so that new blocks may be bound."""
        self._call_bytes = MAX_CALL_BYTES
        self._last_sequence = 0
        self._log = get_log().bind(pool_id=pool_id)

    @property
    def failures(self) -> int:
        """Calls that were not disposed of in full, since the last that was."""
        return self._backoff.failures

    def flush(self) -> None:
        """Push without waiting for the interval, and end when nothing is left."""
        self._flushing.set()

    async def run(self) -> None:
        """Push until `flush` was called and nothing is left. When cancelled, a running call's chunks stay bound."""
        now_s = asyncio.get_running_loop().time
        while self._wanted or not self._flushing.is_set():
            started_s, failure_wait_s = now_s(), 0.0
            if self._wanted and await self._connected():
                started_s, failure_wait_s = now_s(), await self._push()
            await self._pause(started_s + self._interval_s - now_s(), failure_wait_s)

    @property
    def _wanted(self) -> bool:
        """Whether there is anything to say to this pool. At the end heartbeats are not waited for."""
        return self._queue.has_work(self.pool_id) or (self._pulse.due and not self._flushing.is_set())

    async def _connected(self) -> bool:
        """Wait until the channel is READY, with the certificates in force, and have it try again and again.

        False when there is no need any more, since another pool has taken what there was.

        Looked at, not waited for: grpc tells of no change when a channel is back in its old state by the time
        it compares. One that connects to a gateway which hangs up at once would then stay idle for ever.
        """
        await self._link.renew()
        while (state := self._link.channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._note("UNREACHABLE")
            await asyncio.sleep(_LOOK_AGAIN_S)
            if not self._wanted:
                return False
            await self._link.renew()
        return True

    async def _pause(self, interval_left_s: float, failure_wait_s: float) -> None:
        """Wait for the next call. A flush that begins ends the wait; during one only failures are waited for."""
        if self._flushing.is_set():
            await asyncio.sleep(failure_wait_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(interval_left_s, failure_wait_s)):
                await self._flushing.wait()

    async def _push(self) -> float:
        """Make one call and learn from how it ended. Return the seconds to wait after a failure, or 0."""
        load = _Load()
        ending = await self._call(load)
        if not load.messages:
            return 0.0
        complete = ending.disposed == load.messages
        self._note("PARTIAL" if ending.disposed is not None and not complete else ending.status)
        self._trusted = complete
        if ending.disposed:
            self._backoff.succeeded()  # A gateway that takes something is not left alone for longer and longer.
            self.disposed_ns = self._clock.monotonic_ns()
        if complete:
            self._call_bytes = min(self._call_bytes * 2, MAX_CALL_BYTES)
            if load.heartbeat is not None:
                self._pulse.heard(load.heartbeat)
            return 0.0
        if ending.disposed is None and load.chunks:
            self._call_bytes = load.wire_bytes // 2
        return self._backoff.failed()

    async def _call(self, load: _Load) -> _Ending:
        """Make one call, unless there is nothing to send. Writing goes on beside: it may end early, even well."""
        disposed, ending = 0, _Ending(grpc.StatusCode.OK.name)
        self._queue.call_started(self.pool_id)
        try:
            first = self._next_request(load)
            if first is None:
                return ending
            async with asyncio.TaskGroup() as tasks:
                call = self._link.push_chunks(timeout=self._timeout_s)
                writing = tasks.create_task(self._write(call, first, load))
                ending = await _ending_of(call)
                writing.cancel()
            if ending.disposed is not None and ending.disposed > load.messages:
                ending = _Ending(grpc.StatusCode.UNAVAILABLE.name)
            disposed = min(ending.disposed or 0, load.chunks)
        finally:
            self._queue.call_ended(self.pool_id, disposed)
        self.counters.disposed += disposed
        return ending

    async def _write(self, call: Any, first: bytes, load: _Load) -> None:
        request: bytes | None = first
        try:
            while request is not None:
                await call.write(request)
                request = self._next_request(load)
            await call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return  # The call has ended; how, the call itself tells.

    def _next_request(self, load: _Load) -> bytes | None:
        """Return the call's next message: chunks first, behind them a heartbeat if one is due."""
        if load.heartbeat is not None:
            return None
        chunk = self._next_chunk(load)
        if chunk is not None:
            return _request(encode_chunk(chunk), self._keys.current())
        load.heartbeat = self._next_heartbeat()
        return None if load.heartbeat is None else _request(encode_heartbeat(load.heartbeat), self._keys.current())

    def _next_chunk(self, load: _Load) -> Chunk | None:
        first = load.chunks == 0
        within = MAX_CALL_BYTES if first else self._call_bytes - load.wire_bytes
        chunk = self._queue.next_chunk(self.pool_id, within=within, bind=self._trusted or first)
        if chunk is not None:
            load.chunks += 1
            load.wire_bytes += wire_size(chunk.block)
            self._count(chunk)
        return chunk

    def _next_heartbeat(self) -> Heartbeat | None:
        identity = self._queue.take_sequence(self.pool_id) if self._pulse.due else None
        if identity is None:
            return None
        self.counters.heartbeats += 1
        return self._pulse.beat(identity)

    def _count(self, chunk: Chunk) -> None:
        if chunk.identity.sequence > self._last_sequence:
            self._last_sequence = chunk.identity.sequence
            self.counters.pushed += 1
        else:
            self.counters.resent += 1

    def _note(self, status: str) -> None:
        """Log a status that differs from the last."""
        if status != self.status:
            self.status = status
            (self._log.info if status == "OK" else self._log.warning)("push_status", status=status)


async def _ending_of(call: Any) -> _Ending:
    try:
        disposed = await call
    except grpc.aio.AioRpcError as error:
        return _Ending(error.code().name)
    return _Ending(grpc.StatusCode.UNAVAILABLE.name if disposed is None else grpc.StatusCode.OK.name, disposed)


def _request(serialised: bytes, key: KeyRecord) -> bytes:
    """Return the message that carries a chunk or heartbeat, signed now."""
    signed = chunk_pb2.SignedChunk(chunk=serialised, key_id=key.key_id, signature=key.sign(serialised))
    return push_pb2.PushChunksRequest(signed_chunk=signed).SerializeToString()
