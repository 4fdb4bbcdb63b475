"""Ingest: what becomes of a chunk that arrives.

Idea: a collector's chunks are numbered, and the gateway remembers the highest number it took, its
*mark*. A chunk above the mark is new, any other has been here before; so a replay never enters, and a
collector may send again whatever it had no answer for. The mark is durable before a chunk can be
served: a crash may lose bytes, never repeat them.

The checks run in a fixed order (key, signature, the key's rights, mark, times, size, CRC, inspection,
room), and each has one outcome: *stored*, *duplicate*, *finally refused* (the three that dispose of a
chunk), or *held* (HeldError: it stays with its collector). What disposes of a chunk joins the open *group*
of its collector; groups are written one after the other, each with one fdatasync, while the next fills,
and take effect only then. A group fills for a moment, or until somebody waits for it: a write and the
change of threads around it cost as much as taking a whole chunk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from qrng_gateway.admission.guard import Guard
from qrng_gateway.link.inspection import Inspection
from qrng_gateway.link.skew import Skew
from qrng_gateway.pool.lane import Stored
from qrng_gateway.pool.pool import Pool
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, Chunk, Heartbeat
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import (
    DrainingError,
    EpochBelowMarkError,
    ForeignChunkError,
    FutureChunkError,
    MarkNotWrittenError,
    PoolFullError,
    SupersededError,
    UnverifiedChunkError,
)
from qrng_grpc.keys import KeyRecord, KeyRing
from qrng_grpc.logs import get_log
from qrng_grpc.state import NumbersFile
from qrng_grpc.wire import MalformedChunkError, decode_chunk

GATHER_S = 0.02
"""How long a group fills at most before it is written."""

Mark = tuple[int, int]
"""The highest (epoch, sequence) taken from a collector for this pool."""


@dataclass(frozen=True, slots=True)
class CollectorView:
    """What status shows of a collector that has been heard since start."""

    collector_id: str
    epoch: int
    sequence: int
    last_heard_monotonic_ns: int
    heartbeat: Heartbeat | None = None
    """The last that was taken since start."""
    heartbeat_monotonic_ns: int = 0
    """When it was."""
    clock_skew_s: float | None = None
    """How far its clock seems to be behind ours, in seconds; None before a chunk has arrived."""


@dataclass(slots=True)
class _Group:
    """Chunks that take effect together, once their mark is durable."""

    mark: Mark
    durable: asyncio.Future[bool]
    bell: asyncio.TimerHandle
    """Rings when the group has filled long enough."""
    admitted: list[tuple[Stored, KeyRecord]] = field(default_factory=list)
    displaced: list[Block] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    heartbeat: Heartbeat | None = None
    heartbeats: int = 0

    def hear(self, heartbeat: Heartbeat) -> None:
        """Count a heartbeat, and keep what the newest one says."""
        self.heartbeat = heartbeat
        self.heartbeats += 1


class Ingest:
    """Takes chunks from all collectors into one pool.

    `clock_tolerance_s`: how far collectors' clocks may be ahead, in seconds. Raises StateError when a
    mark on disk is damaged.
    """

    def __init__(
        self,
        keys: KeyRing,
        pool: Pool,
        pool_id: str,
        state_dir: Path,
        *,
        clock_tolerance_s: float,
        ttl_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.pool = pool
        self.clock = clock
        self.pool_id = pool_id
        self.tolerance_ns = int(clock_tolerance_s * NS_PER_S)
        self.ttl_ns = int(ttl_s * NS_PER_S)
        self.refused: Counter[str] = Counter()
        """Bytes finally refused, by reason."""
        self.held: Counter[str] = Counter()
        """Times a chunk was held, by reason."""
        self.duplicates = 0
        self.heartbeats = 0
        self.keys = keys
        """Whom it believes. To be changed with `replace_keys` only."""
        self.keys_stale = False
        """Whether newer keys were given that could not be used."""
        self._guard = Guard(clock)
        self.inspection = Inspection()
        """Looks at chunks whose CRC is right."""
        self._started_ns = clock.monotonic_ns()
        self.draining = False
        self._calls = 0
        self._state_dir = state_dir
        self._writers: asyncio.TaskGroup | None = None
        self._writing: list[asyncio.Task[None]] = []
        self._collectors: dict[str, _CollectorIngest] = {}
        self.prepare(keys.records)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write marks while the block runs; at its end, let writes under way finish."""
        async with asyncio.TaskGroup() as writers:
            self._writers = writers
            self._writing = [writers.create_task(collector.write_groups()) for collector in self._collectors.values()]
            yield
            self._writers = None
            for collector in self._collectors.values():
                await collector.idle()
            for task in self._writing:
                task.cancel()

    def prepare(self, records: Iterable[KeyRecord]) -> None:
        """Make ready for the collectors of `records`. Raises StateError when a mark on disk is damaged."""
        for collector_id in {record.collector_id for record in records} - self._collectors.keys():
            file = NumbersFile(self._state_dir / f"{collector_id}@{self.pool_id}.mark", 3)
            collector = self._collectors[collector_id] = _CollectorIngest(collector_id, self, file)
            if self._writers is not None:
                self._writing.append(self._writers.create_task(collector.write_groups()))

    def replace_keys(self, records: Sequence[KeyRecord]) -> int:
        """Believe `records` and no others from now on. Returns the bytes purged from the pool.

        Those are what a key vouched for that is revoked, gone, or has lost a right; what such a key vouched for in
        groups under way is purged when they take effect. Raises StateError as `prepare`, and changes nothing then.
        """
        self.prepare(records)
        return sum(self.pool.purge(key_id) for key_id in self.keys.replace(records))

    @property
    def earliest_capture_ns(self) -> int:
        """Capture start up to which a chunk is refused where its mark was not known when this gateway started."""
        uptime_ns = self.clock.monotonic_ns() - self._started_ns
        return self.clock.now_ns() - uptime_ns + self.tolerance_ns

    def collectors(self) -> list[CollectorView]:
        """Return the collectors heard since start."""
        return [view for collector in self._collectors.values() if (view := collector.view()) is not None]

    def drain(self) -> None:
        """Hold every chunk from now on."""
        self.draining = True

    def open_call(self, peer: str = "") -> PushCall:
        """Begin a push call of `peer`, as grpc names it."""
        self._calls += 1
        return PushCall(self, self._calls, peer)

    def verify(self, key_id: str, serialised: bytes | memoryview, signature: bytes, peer: str) -> KeyRecord:
        """Return the key that vouches for a chunk.

        Raises UnverifiedChunkError, or LimitError when too many bad signatures came from the address of `peer`.
        """
        known = key_id in self.keys
        if known:
            self._guard.check(peer)
        try:
            record = self.keys.verified_by(key_id, serialised, signature, self.clock.now_ns(), self.tolerance_ns)
        except UnverifiedChunkError:
            if known:
                self._guard.blame(peer)
            raise
        self._guard.trust(peer)
        return record

    def of_collector(self, record: KeyRecord) -> _CollectorIngest:
        """Return the ingest of the collector a key belongs to."""
        return self._collectors[record.collector_id]

    def hold(self, reason: str) -> None:
        """Count a held chunk. The 1st, 10th, 100th ... of each reason is logged, so that a flood is not."""
        self.held[reason] += 1
        times = self.held[reason]
        if times == 10 ** (len(str(times)) - 1):
            get_log().warning("chunk_held", reason=reason, times=times)


class PushCall:
    """One push call, and how many of its chunks are disposed of."""

    def __init__(self, ingest: Ingest, number: int, peer: str) -> None:
        self.number = number
        """Later calls have greater numbers."""
        self._peer = peer
        self.failures = 0
        """Write failures its collector had seen when the call began."""
        self.count = 0
        self._ingest = ingest
        self._collector: _CollectorIngest | None = None

    async def offer(self, serialised: bytes | memoryview, key_id: str, signature: bytes) -> None:
        """Dispose of the call's next chunk. Raises HeldError, LimitError or DrainingError when it must be held."""
        record = self._ingest.verify(key_id, serialised, signature, self._peer)
        try:
            chunk = decode_chunk(serialised)
        except MalformedChunkError:
            # Its signer can only repeat it, and it has no identity that a mark could remember.
            self._ingest.refused["malformed"] += len(serialised)
        else:
            self._check_rights(record, chunk)
            await self._join(record).take(chunk, record, self)
        self.count += 1

    async def settle(self) -> int:
        """Return how many chunks are disposed of, once that is durable.

        Raises MarkNotWrittenError when it could not be made so; the call then carries no count.
        Cancelled, it leaves the write to finish.
        """
        if self._collector is not None:
            await self._collector.settle(self)
        return self.count

    def _check_rights(self, record: KeyRecord, chunk: Chunk | Heartbeat) -> None:
        record.check_rights(chunk.identity, chunk.block.label.source_class if isinstance(chunk, Chunk) else None)
        if chunk.identity.pool_id != self._ingest.pool_id:
            # The key may serve several gateways; what was meant for another must not enter here as well.
            raise ForeignChunkError("the chunk is meant for another pool")

    def _join(self, record: KeyRecord) -> _CollectorIngest:
        if self._collector is None:
            self._collector = self._ingest.of_collector(record)
            self.failures = self._collector.failures
        if self._collector.collector_id != record.collector_id:
            raise ForeignChunkError("a call carries the chunks of one collector")
        return self._collector


class _CollectorIngest:
    """The chunks of one collector: owns its mark, and the only task that writes it."""

    def __init__(self, collector_id: str, ingest: Ingest, file: NumbersFile) -> None:
        self.collector_id = collector_id
        self.failures = 0
        self._ingest = ingest
        self._file = file
        numbers = file.read()
        self._durable = self._mark = None if numbers is None else (numbers[0], numbers[1])
        self._first_mark_ns = None if numbers is None else numbers[2]
        self._holder = 0
        self._last_heard_ns: int | None = None
        self._heartbeat: Heartbeat | None = None
        self._heartbeat_ns = 0
        self._skew = Skew()
        self._open: _Group | None = None
        self._tail: asyncio.Future[bool] | None = None
        self._work = asyncio.Event()

    def view(self) -> CollectorView | None:
        if self._last_heard_ns is None:
            return None
        epoch, sequence = self._mark or (0, 0)
        return CollectorView(
            self.collector_id,
            epoch,
            sequence,
            self._last_heard_ns,
            self._heartbeat,
            self._heartbeat_ns,
            self._skew.seconds,
        )

    async def take(self, chunk: Chunk | Heartbeat, record: KeyRecord, call: PushCall) -> None:
        """Dispose of a chunk that `record` vouches for. Raises HeldError or DrainingError."""
        if self._dispose(chunk, record, call) is None:
            return
        # Bytes of groups under way cannot be displaced yet; once they are in the pool, they can.
        await self.settle(call)
        homeless = self._dispose(chunk, record, call)
        if homeless is None:
            return
        if self._ingest.pool.presses_back:
            raise PoolFullError("the pool is full")
        self._group_at(_mark_of(chunk)).displaced.append(homeless)

    async def settle(self, call: PushCall) -> None:
        """Wait until all that was disposed of so far is durable. Raises MarkNotWrittenError."""
        await self.idle()
        self._check_failures(call)

    async def idle(self) -> None:
        """Have the newest group, as of now, written at once, and wait until it is or has failed."""
        if self._tail is not None and not self._tail.done():
            self._work.set()
            await asyncio.wait((self._tail,))

    def _dispose(self, chunk: Chunk | Heartbeat, record: KeyRecord, call: PushCall) -> Block | None:
        """Dispose of `chunk`, or return its block when there is no room for it. Raises HeldError or DrainingError."""
        self._check_failures(call)
        mark = _mark_of(chunk)
        if self._seen(mark):
            return None
        captured = _capture(chunk)
        if self._unplaceable(chunk, captured[0]):
            return None
        self._fence(call)
        ingest = self._ingest
        now_ns = ingest.clock.now_ns()
        self._last_heard_ns = ingest.clock.monotonic_ns()  # by what is new: a replay keeps nobody alive
        ingest.keys.used(record, now_ns)
        self._skew.note(captured[1], now_ns)
        reason = self._refusal(chunk, captured, now_ns)
        if reason is not None:
            self._group_at(mark).refused[reason] += _size(chunk)
        elif isinstance(chunk, Heartbeat):
            self._group_at(mark).hear(chunk)
        else:
            admitted = ingest.pool.admit(chunk.block, self.collector_id, record.key_id, *mark)
            if admitted is None:
                return chunk.block
            self._group_at(mark).admitted.append((admitted, record))
        return None

    def _check_failures(self, call: PushCall) -> None:
        """Stop a call some of whose chunks fell out of the mark: to go on would skip them for ever."""
        if call.failures != self.failures:
            raise MarkNotWrittenError("the mark could not be written; resend")

    def _seen(self, mark: Mark) -> bool:
        if self._mark is None or mark > self._mark:
            return False
        if mark[0] < self._mark[0]:
            raise EpochBelowMarkError("the epoch is below the mark")
        self._ingest.duplicates += 1
        return True

    def _unplaceable(self, chunk: Chunk | Heartbeat, capture_start_ns: int) -> bool:
        """Refuse what was captured before the gateway started that made the mark.

        An earlier mark may have been lost, and a recording cannot be told from news then: not even by a higher
        epoch, since a collector's epochs may have gone back too. No mark is made of it, or the rest would pass.
        """
        if capture_start_ns > self._earliest_capture_ns:
            return False
        self._ingest.refused["before_start"] += _size(chunk)
        return True

    @property
    def _earliest_capture_ns(self) -> int:
        """Capture start up to which an earlier mark may have been lost: told by the mark on disk, if there was one."""
        return self._ingest.earliest_capture_ns if self._first_mark_ns is None else self._first_mark_ns

    def _fence(self, call: PushCall) -> None:
        """Let the newest call that brings something new own the collector; an older one must stop."""
        if self._ingest.draining:
            raise DrainingError("the gateway is ending; resend later")
        if call.number < self._holder:
            raise SupersededError("a newer call of this collector took over")
        self._holder = call.number

    def _refusal(self, chunk: Chunk | Heartbeat, captured: tuple[int, int], now_ns: int) -> str | None:
        """Return why `chunk` is finally refused, None when it is not. Raises FutureChunkError."""
        capture_start_ns, capture_end_ns = captured
        if capture_end_ns > now_ns + self._ingest.tolerance_ns:
            raise FutureChunkError("captured ahead of the gateway's clock")
        if capture_start_ns < now_ns - self._ingest.ttl_ns:
            return "too_old"
        if isinstance(chunk, Heartbeat):
            return None
        if len(chunk.block) > MAX_CHUNK_BYTES:
            return "too_large"
        return self._ingest.inspection.fault(chunk) if chunk.intact else "bad_crc"

    def _group_at(self, mark: Mark) -> _Group:
        """Advance the mark in memory, and return the open group, which will make it durable."""
        if self._open is None:
            loop = asyncio.get_running_loop()
            self._open = _Group(mark, loop.create_future(), loop.call_later(GATHER_S, self._work.set))
            self._tail = self._open.durable
        self._open.mark = self._mark = mark
        return self._open

    async def write_groups(self) -> None:
        """Make one group after the other durable and let it take effect."""
        while True:
            await self._work.wait()
            self._work.clear()
            group, self._open = self._open, None
            if group is None:
                continue
            group.bell.cancel()
            try:
                await asyncio.to_thread(self._file.write, *group.mark, self._earliest_capture_ns)
            except OSError as error:
                get_log().error("mark_not_written", collector_id=self.collector_id, error=type(error).__name__)
                self._abandon(group)
            else:
                self._take_effect(group)

    def _take_effect(self, group: _Group) -> None:
        pool = self._ingest.pool
        self._durable = group.mark
        pool.store_all(self._vouched_for(group))
        for block in group.displaced:
            pool.refuse_overflow(block)
        self._ingest.refused.update(group.refused)
        if group.heartbeat is not None:
            self._heartbeat, self._heartbeat_ns = group.heartbeat, self._ingest.clock.monotonic_ns()
        self._ingest.heartbeats += group.heartbeats
        group.durable.set_result(True)

    def _vouched_for(self, group: _Group) -> Iterator[Stored]:
        """Yield what is to be stored. What is not vouched for any more, since its key was withdrawn, is purged."""
        for chunk, record in group.admitted:
            if self._ingest.keys.upholds(record):
                yield chunk
            else:
                self._ingest.pool.refuse_purged(chunk)

    def _abandon(self, failed: _Group) -> None:
        """Return to the last durable mark. The group that filled meanwhile stands on this one and falls with it."""
        self.failures += 1
        self._mark = self._durable
        for group in (failed, self._open):
            if group is not None:
                for chunk, _ in group.admitted:
                    self._ingest.pool.abandon(chunk)
                group.durable.set_result(False)
        self._open = None


def _mark_of(chunk: Chunk | Heartbeat) -> Mark:
    return chunk.identity.epoch, chunk.identity.sequence


def _capture(chunk: Chunk | Heartbeat) -> tuple[int, int]:
    """Return capture start and end; a heartbeat's are the moment it was made."""
    if isinstance(chunk, Heartbeat):
        return chunk.capture_end_ns, chunk.capture_end_ns
    return chunk.block.capture_start_ns, chunk.block.capture_end_ns


def _size(chunk: Chunk | Heartbeat) -> int:
    return len(chunk.block) if isinstance(chunk, Chunk) else 0
