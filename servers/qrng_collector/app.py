"""The collector as a program: what runs, and in which order it ends.

Idea: leaving `collecting` is the shutdown, in reading order: fetching stops, what is queued is pushed
for at most `flush_timeout`, the rest is destroyed (or stays in the spool) and counted, and one
`accounting` line says what became of every byte.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from qrng_collector.config import CollectorConfig
from qrng_collector.epoch import next_epoch
from qrng_collector.fetch import Fetcher
from qrng_collector.health import serving_health
from qrng_collector.heartbeat import Pulse
from qrng_collector.link import PushLink, push_link, push_watch
from qrng_collector.push import Pusher
from qrng_collector.queue import ChunkQueue, Counters
from qrng_collector.reader import BlockReader
from qrng_collector.signing import SigningKeys
from qrng_collector.sources import make_readers, plain_readers
from qrng_collector.spool import Spool, open_spool
from qrng_collector.status import Observer, Watched
from qrng_collector.target import PoolTarget
from qrng_grpc.chunk import SourceState
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import StateError
from qrng_grpc.files import LOOK_S
from qrng_grpc.foreign_text import keep_foreign_text_out
from qrng_grpc.hardening import harden
from qrng_grpc.logs import configure_logs, get_log
from qrng_grpc.serving import on_hangup, run_to_end, stop_event_on_signals
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.leg import SourceView
from qrng_grpc.state import state_directory
from qrng_grpc.tls import TlsWatch

TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Collector:
    """A running collector, to look at."""

    epoch: int
    queue: ChunkQueue
    observer: Observer
    pushers: Sequence[Pusher]
    health_address: str | None
    """HOST:PORT of `/health` and `/status`, with the real port; None without."""
    readers: Sequence[BlockReader]
    """What blocks are read from."""
    _files: Sequence[TlsWatch | SigningKeys]

    @property
    def counters(self) -> Counters:
        """What became of the bytes so far."""
        return self.queue.counters

    def reload(self) -> None:
        """Take what changed in files at once. A running call is not disturbed, and what is unusable is left out."""
        for watch in self._files:
            watch.reload()

    def test_sources(self) -> None:
        """Have every source tested before its next block, also those that wait for the operator."""
        get_log().info("tests_demanded", sources=sum([reader.test_anew() for reader in self.readers]))


def main(config: CollectorConfig) -> None:
    """Be the collector process. Raises ConfigError when memory must be locked and cannot be, else as `run`."""
    configure_logs(config.log_level, "collector")
    harden(config.lock_memory)
    run_to_end(run(config))


async def run(config: CollectorConfig) -> None:
    """Collect until SIGTERM or SIGINT; then flush and return.

    SIGHUP reloads keys and certificates, SIGUSR1 has every source tested on demand.

    Logs go to standard error. Raises StateError when the state directory or the spool cannot be used, or not any
    more, and an exception group when a part of the collector fails for a reason nobody foresaw.
    """
    configure_logs(config.log_level, "collector")
    keep_foreign_text_out()
    try:
        await _collect_until_asked(config)
    except ExceptionGroup as group:
        raise _foreseen(group) from None


async def _collect_until_asked(config: CollectorConfig) -> None:
    stop = stop_event_on_signals()
    async with collecting(config) as collector:
        on_hangup(collector.reload)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, collector.test_sources)
        push_urls = [target.push_url for target in config.targets]
        devices = [view.device_id for reader in collector.readers for view in reader.states()]
        get_log().info("collecting", sources=devices, push_urls=push_urls, epoch=collector.epoch)
        await stop.wait()


def _foreseen(failed: ExceptionGroup[Exception]) -> Exception:
    """Return the StateError that ended a group of tasks, or the group when there was none."""
    cause: Exception | None = failed.subgroup(StateError)
    while isinstance(cause, ExceptionGroup):
        cause = cause.exceptions[0]
    return cause or failed


@asynccontextmanager
async def collecting(
    config: CollectorConfig, *, sources: Sequence[EntropySource] | None = None, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[Collector]:
    """Collect while the body runs; then flush and count what is left.

    `sources` given here stay open; without them those of `config` are opened, and closed at the end.
    When the body raises or is cancelled, nothing is flushed. Raises StateError when the state
    directory cannot be used, and ConfigError when TLS files or the address for health cannot.
    """
    with state_directory(config.state_dir) as state, _spool(config, state, clock) as spool:
        epoch = next_epoch(state, clock.now_ns()) if spool is None else spool.epoch
        keys = SigningKeys(config, clock)
        queue = _queue(config, epoch, spool)
        try:
            async with AsyncExitStack() as opened:
                if sources is None:
                    readers = [_closed_with(opened, reader) for reader in make_readers(config, state, clock)]
                else:
                    readers = plain_readers(sources, config, clock)
                links = [await opened.enter_async_context(_link(target, config)) for target in config.targets]
                states = partial(_states, readers)
                pushers = [
                    Pusher(
                        queue,
                        link,
                        Pulse(queue, states, config.heartbeat_interval, clock),
                        keys,
                        pool_id,
                        config,
                        clock,
                    )
                    for pool_id, link in links
                ]
                files: list[TlsWatch | SigningKeys] = [keys, *(link.tls for _, link in links if link.tls is not None)]
                watched = Watched(
                    config.collector_id, epoch, config.buffer_size, queue, pushers, partial(_views, readers)
                )
                observer = Observer(watched, clock)
                health_address = await opened.enter_async_context(
                    serving_health(observer, config.health_listen_address)
                )
                async with asyncio.TaskGroup() as tasks:
                    pushing = [tasks.create_task(pusher.run()) for pusher in pushers]
                    maintaining = [
                        tasks.create_task(_expire(queue, config, clock)),
                        tasks.create_task(_look(files)),
                        tasks.create_task(_tick(observer)),
                    ]
                    fetching = [tasks.create_task(Fetcher(reader, queue, config, clock).run()) for reader in readers]
                    yield Collector(epoch, queue, observer, pushers, health_address, readers, files)
                    await _end(fetching)
                    await _flush(pushers, pushing, config.flush_timeout)
                    await _end([*pushing, *maintaining])
        finally:
            queue.drop_all()
            get_log().info("accounting", epoch=epoch, queued=queue.queued, **asdict(queue.counters))


def _views(readers: Sequence[BlockReader]) -> list[SourceView]:
    return [view for reader in readers for view in reader.states()]


def _states(readers: Sequence[BlockReader]) -> tuple[SourceState, ...]:
    return tuple(
        SourceState(view.device_id, view.source_class, view.condition, view.fetched_bytes) for view in _views(readers)
    )


def _closed_with(stack: AsyncExitStack, reader: BlockReader) -> BlockReader:
    stack.push_async_callback(reader.close)
    return reader


@asynccontextmanager
async def _link(target: PoolTarget, config: CollectorConfig) -> AsyncIterator[tuple[str, PushLink]]:
    async with push_link(target.push_url, config.retry_policy, push_watch(target.push_tls_files)) as link:
        yield target.pool_id, link


def _spool(config: CollectorConfig, state_dir: Path, clock: Clock) -> AbstractContextManager[Spool | None]:
    if config.spool_dir is None or config.spool_key_file is None:
        return nullcontext()
    return open_spool(
        config.spool_dir,
        config.spool_key_file,
        size=config.spool_size,
        collector_id=config.collector_id,
        state_dir=state_dir,
        clock=clock,
    )


def _queue(config: CollectorConfig, epoch: int, spool: Spool | None) -> ChunkQueue:
    return ChunkQueue(
        config.collector_id,
        [target.pool_id for target in config.targets],
        epoch=epoch,
        capacity=config.buffer_size,
        ttl_ns=round(config.buffer_ttl * NS_PER_S),
        drop_oldest=config.overflow == "drop_oldest",
        spool=spool,
    )


async def _expire(queue: ChunkQueue, config: CollectorConfig, clock: Clock) -> NoReturn:
    """Destroy what is too old, at most a second late."""
    while True:
        await asyncio.sleep(min(1.0, config.buffer_ttl / 4))
        queue.expire(clock.monotonic_ns())


async def _look(files: Sequence[TlsWatch | SigningKeys]) -> None:
    """Look for exchanged certificates, which pushers then use from their next calls on."""
    while True:
        await asyncio.sleep(LOOK_S)
        for watch in files:
            watch.look()


async def _tick(observer: Observer) -> NoReturn:
    """Have the observer note what it needs for rates."""
    while True:
        await asyncio.sleep(TICK_S)
        observer.tick()


async def _flush(pushers: Sequence[Pusher], pushing: Sequence[asyncio.Task[None]], timeout_s: float) -> None:
    """Let all pushers go on side by side until nothing is left, for at most `timeout_s` seconds."""
    for pusher in pushers:
        pusher.flush()
    await asyncio.wait(pushing, timeout=timeout_s)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended. What one of them raised is left to its group."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
