"""The collector as a program: what runs, and in which order it ends.

Idea: leaving `collecting` is the shutdown, in reading order: fetching stops, what is queued is pushed
for at most `flush_timeout`, the rest is destroyed and counted, and one `accounting` line says what
became of every byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from qrng_collector.config import CollectorConfig
from qrng_collector.epoch import next_epoch
from qrng_collector.fetch import Fetcher
from qrng_collector.link import push_link, push_watch
from qrng_collector.push import Pusher
from qrng_collector.queue import ChunkQueue, Counters
from qrng_collector.sources import make_sources
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.logs import configure_logs, get_log
from qrng_grpc.serving import on_hangup, stop_event_on_signals
from qrng_grpc.sources import EntropySource
from qrng_grpc.state import state_directory
from qrng_grpc.tls import LOOK_S, TlsWatch


@dataclass(frozen=True, slots=True)
class Collector:
    """A running collector, to look at."""

    epoch: int
    queue: ChunkQueue
    _tls: TlsWatch | None

    @property
    def counters(self) -> Counters:
        """What became of the bytes so far."""
        return self.queue.counters

    def reload(self) -> None:
        """Take what changed in files at once. A running call is not disturbed, and what is unusable is left out."""
        if self._tls is not None:
            self._tls.reload()


async def run(config: CollectorConfig) -> None:
    """Collect until SIGTERM or SIGINT; then flush and return. SIGHUP reloads certificates.

    Logs go to standard error. Raises StateError when the state directory cannot be used, and an
    exception group when a part of the collector fails for a reason nobody foresaw.
    """
    configure_logs(config.log_level, "collector")
    keep_foreign_text_out()
    stop = stop_event_on_signals()
    async with collecting(config) as collector:
        on_hangup(collector.reload)
        get_log().info("collecting", source=config.source, push_url=config.push_url, epoch=collector.epoch)
        await stop.wait()


@asynccontextmanager
async def collecting(
    config: CollectorConfig, *, sources: Sequence[EntropySource] | None = None, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[Collector]:
    """Collect while the body runs; then flush and count what is left.

    `sources` given here stay open; without them those of `config` are opened, and closed at the end.
    When the body raises or is cancelled, nothing is flushed. Raises StateError when the state
    directory cannot be used.
    """
    with state_directory(config.state_dir) as state:
        epoch = next_epoch(state, clock.now_ns())
        queue = _queue(config, epoch)
        tls = push_watch(config.push_tls_files)
        try:
            async with (
                AsyncExitStack() as opened,
                push_link(config.push_url, config.retry_policy, tls) as link,
                asyncio.TaskGroup() as tasks,
            ):
                if sources is None:
                    sources = [_closed_with(opened, source) for source in make_sources(config, state)]
                pusher = Pusher(queue, link, config)
                pushing = tasks.create_task(pusher.run())
                maintaining = [tasks.create_task(_expire(queue, config, clock)), tasks.create_task(_look(tls))]
                fetching = [tasks.create_task(Fetcher(source, queue, config, clock).run()) for source in sources]
                yield Collector(epoch, queue, tls)
                await _end(fetching)
                pusher.flush()
                await asyncio.wait([pushing], timeout=config.flush_timeout)
                await _end([pushing, *maintaining])
        finally:
            queue.drop_all()
            get_log().info("accounting", epoch=epoch, queued=queue.queued, **asdict(queue.counters))


def keep_foreign_text_out() -> None:
    """See to it that nothing a peer says is logged by libraries on its own accord.

    grpc's and asyncio's messages may quote an exception that quotes the peer. Of what asyncio cannot
    hand to anyone, the kind of exception is logged.
    """
    for name in ("grpc", "asyncio"):
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False
    asyncio.get_running_loop().set_exception_handler(_log_kind)


def _log_kind(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    get_log().error("unhandled", kind=type(context.get("exception")).__name__)


def _closed_with(stack: AsyncExitStack, source: EntropySource) -> EntropySource:
    stack.push_async_callback(source.close)
    return source


def _queue(config: CollectorConfig, epoch: int) -> ChunkQueue:
    return ChunkQueue(
        config.collector_id,
        (config.pool_id,),
        epoch=epoch,
        capacity=config.buffer_size,
        ttl_ns=round(config.buffer_ttl * NS_PER_S),
        drop_oldest=config.overflow == "drop_oldest",
    )


async def _expire(queue: ChunkQueue, config: CollectorConfig, clock: Clock) -> NoReturn:
    """Destroy what is too old, at most a second late."""
    while True:
        await asyncio.sleep(min(1.0, config.buffer_ttl / 4))
        queue.expire(clock.monotonic_ns())


async def _look(tls: TlsWatch | None) -> None:
    """Look for exchanged certificates, which the pusher then uses from its next call on."""
    while tls is not None:
        await asyncio.sleep(LOOK_S)
        tls.look()


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended. What one of them raised is left to its group."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
