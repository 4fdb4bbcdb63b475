"""Pushing: sending chunks to one pool until its gateway has disposed of them.

Idea: a call sends chunks and ends with a status and, if that is OK, with the number of chunks disposed
of. That number and the status code are all we take from the gateway: the reply is read by a parser of
our own that knows nothing else; texts and metadata stay inside grpc, are kept small there, and are
neither logged nor raised. Whatever is not counted stays bound and is sent again under its identity.

A gateway that fails gets less: after a call without a count the next carries half the bytes, and until
a call is disposed of in full, no new block is bound, except one when there is nothing to send again.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import grpc

from qrng_collector.backoff import Backoff
from qrng_collector.config import CollectorConfig
from qrng_collector.link import PushLink
from qrng_collector.queue import ChunkQueue, wire_size
from qrng_grpc.chunk import Chunk
from qrng_grpc.keys import KeyRecord
from qrng_grpc.logs import get_log
from qrng_grpc.v1 import chunk_pb2, push_pb2
from qrng_grpc.wire import encode_chunk

MAX_CALL_BYTES = 8 << 20
"""The most bytes of chunks in one call: 8 MiB, a constant of the protocol. Any one chunk fits."""

_LOOK_AGAIN_S = 0.05


@dataclass(slots=True)
class _Load:
    """What a call has carried so far."""

    chunks: int = 0
    wire_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a call ended: the name of its status, and how many chunks it disposed of (None: it did not say)."""

    status: str
    disposed: int | None = None


class Pusher:
    """Pushes to one pool. One call is in flight at a time."""

    def __init__(self, queue: ChunkQueue, link: PushLink, config: CollectorConfig) -> None:
        self._queue = queue
        self._link = link
        self._pool_id = config.pool_id
        self._key = config.key_record
        self._interval_s = config.push_interval
        self._timeout_s = config.push_timeout
        self._backoff = Backoff(config.retry_policy)
        self._flushing = asyncio.Event()
        self._trusted = False
        """Whether the last call was disposed of in full, so that new blocks may be bound."""
        self._call_bytes = MAX_CALL_BYTES
        self._status = ""
        self._log = get_log().bind(pool_id=self._pool_id)

    def flush(self) -> None:
        """Push without waiting for the interval, and end when nothing is left."""
        self._flushing.set()

    async def run(self) -> None:
        """Push until `flush` was called and nothing is left. When cancelled, a running call's chunks stay bound."""
        now_s = asyncio.get_running_loop().time
        while self._queue.has_work(self._pool_id) or not self._flushing.is_set():
            started_s, failure_wait_s = now_s(), 0.0
            if self._queue.has_work(self._pool_id):
                await self._connected()
                started_s, failure_wait_s = now_s(), await self._push()
            await self._pause(started_s + self._interval_s - now_s(), failure_wait_s)

    async def _connected(self) -> None:
        """Wait until the channel is READY, with the certificates in force, and have it try again and again.

        Looked at, not waited for: grpc tells of no change when a channel is back in its old state by the time
        it compares. One that connects to a gateway which hangs up at once would then stay idle for ever.
        """
        await self._link.renew()
        while (state := self._link.channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._note("UNREACHABLE")
            await asyncio.sleep(_LOOK_AGAIN_S)
            await self._link.renew()

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
        complete = load.chunks > 0 and ending.disposed == load.chunks
        self._note("PARTIAL" if ending.disposed is not None and not complete else ending.status)
        self._trusted = complete
        if complete:
            self._call_bytes = min(self._call_bytes * 2, MAX_CALL_BYTES)
            self._backoff.succeeded()
            return 0.0
        if ending.disposed is None and load.chunks:
            self._call_bytes = load.wire_bytes // 2
        if ending.disposed:
            self._backoff.succeeded()  # A gateway that takes something is not left alone for longer and longer.
        return self._backoff.failed()

    async def _call(self, load: _Load) -> _Ending:
        """Make one call, writing beside it: it may end before all is written, and even well."""
        disposed = 0
        self._queue.call_started(self._pool_id)
        try:
            async with asyncio.TaskGroup() as tasks:
                call = self._link.push_chunks(timeout=self._timeout_s)
                writing = tasks.create_task(self._write(call, load))
                ending = await _ending_of(call)
                writing.cancel()
            if ending.disposed is not None and ending.disposed > load.chunks:
                ending = _Ending(grpc.StatusCode.UNAVAILABLE.name)
            disposed = ending.disposed or 0
        finally:
            self._queue.call_ended(self._pool_id, disposed)
        return ending

    async def _write(self, call: Any, load: _Load) -> None:
        try:
            while chunk := self._next_chunk(load):
                await call.write(_request(chunk, self._key))
            await call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            return  # The call has ended; how, the call itself tells.

    def _next_chunk(self, load: _Load) -> Chunk | None:
        first = load.chunks == 0
        within = MAX_CALL_BYTES if first else self._call_bytes - load.wire_bytes
        chunk = self._queue.next_chunk(self._pool_id, within=within, bind=self._trusted or first)
        if chunk is not None:
            load.chunks += 1
            load.wire_bytes += wire_size(chunk.block)
        return chunk

    def _note(self, status: str) -> None:
        """Log a status that differs from the last."""
        if status != self._status:
            self._status = status
            (self._log.info if status == "OK" else self._log.warning)("push_status", status=status)


async def _ending_of(call: Any) -> _Ending:
    try:
        disposed = await call
    except grpc.aio.AioRpcError as error:
        return _Ending(error.code().name)
    return _Ending(grpc.StatusCode.UNAVAILABLE.name if disposed is None else grpc.StatusCode.OK.name, disposed)


def _request(chunk: Chunk, key: KeyRecord) -> bytes:
    """Return the message that carries `chunk`, signed now."""
    serialised = encode_chunk(chunk)
    signed = chunk_pb2.SignedChunk(chunk=serialised, key_id=key.key_id, signature=key.sign(serialised))
    return push_pb2.PushChunksRequest(signed_chunk=signed).SerializeToString()
