"""The source server, put together.

Idea: `serving_source` names every part once; leaving it is the shutdown order: health goes down and streams end, then
running calls finish, then the source is closed. At last one `accounting` line says what became of every byte it gave.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpc_reflection.v1alpha import reflection

from qrng_grpc.backoff import RetryPolicy
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.errors import ConfigError
from qrng_grpc.files import LOOK_S
from qrng_grpc.foreign_text import keep_foreign_text_out
from qrng_grpc.hardening import harden
from qrng_grpc.health_tests import Monitor, Quarantine
from qrng_grpc.logs import configure_logs, get_log
from qrng_grpc.serving import (
    ConnectionAge,
    Grace,
    new_server,
    on_hangup,
    run_to_end,
    serving_grpc,
    stop_event_on_signals,
)
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.kinds import SourceSettings, Surroundings, open_source
from qrng_grpc.sources.leg import Leg, Pace
from qrng_grpc.state import state_directory
from qrng_grpc.tls import ListenerTls
from qrng_source_server.calls import Calls, Keys, Room
from qrng_source_server.compat import QR_ENTROPY, QUANTUM_RNG, QrEntropyService, QuantumRngService
from qrng_source_server.config import SourceServerConfig
from qrng_source_server.public import HEALTH, Board, HealthService, ReflectionService
from qrng_source_server.service import SERVICE, EntropyService
from qrng_source_server.tap import Tap

DEFAULT_TIMEOUT_S = 10.0
"""How long a source may take over one request, where its settings have no `fetch_timeout`."""
TEST_CHUNK_BYTES = 4096
"""How much of a start-up test is asked for at once, where its settings have no `fetch_chunk_size`."""
MAX_REQUEST_MESSAGE_BYTES = 16_384
MAX_CONNECTION_AGE_S = 3600.0
CERTIFIED_GRACE_S = 60.0
"""How long calls may outlast the age of their connection where a certificate let them in."""
_WATCHERS, _REFLECTIONS, _SHORT_CALLS = 64, 16, 256


@dataclass(frozen=True, slots=True)
class SourceServer:
    """A server that serves. `address` is HOST:PORT with the real port."""

    address: str
    tap: Tap
    reload: Callable[[], None]
    """Takes exchanged TLS files at once."""


def main(config: SourceServerConfig) -> None:
    """Be the process: logs to standard error, reload with SIGHUP, end with SIGTERM or SIGINT.

    Raises ConfigError when memory must be locked and cannot be, else as `serving_source`.
    """
    configure_logs(config.log_level, "source-server")
    harden(config.lock_memory)
    run_to_end(run(config))


async def run(config: SourceServerConfig) -> None:
    """Serve until a signal asks the server to stop; SIGUSR1 has the source tested before it is next read."""
    keep_foreign_text_out()
    stop = stop_event_on_signals()
    async with serving_source(config) as server:
        on_hangup(server.reload)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, server.tap.test_anew)
        get_log().info("source_serves", address=server.address, kind=config.source.kind)
        await stop.wait()
    _log_accounting(server.tap)


@asynccontextmanager
async def serving_source(
    config: SourceServerConfig, *, source: EntropySource | None = None, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[SourceServer]:
    """Serve while the block runs.

    A `source` given here is served in place of the one that the settings describe, and closed at the end as that would
    be. Raises ConfigError or StateError when it cannot be served.
    """
    with _state(config.state_dir) as state_dir:
        leg = _new_leg(config, source or _opened(config.source, state_dir, clock), clock)
        tap = Tap(leg, limit=config.max_request_bytes, max_waiting=config.max_waiting, clock=clock)
        try:
            async with _serving(config, tap) as server:
                yield server
        finally:
            await leg.close()


@asynccontextmanager
async def _serving(config: SourceServerConfig, tap: Tap) -> AsyncIterator[SourceServer]:
    tls = None if config.tls_files is None else ListenerTls("clients", config.tls_files)
    board = Board(lambda: tap.ready)
    short = Room(config.max_waiting + _SHORT_CALLS)
    lasting, watchers, reflections = Room(config.max_streams), Room(_WATCHERS), Room(_REFLECTIONS)
    checks = Room(_WATCHERS)  # apart from calls that need a key, whose room they must not use up
    rooms = (short, lasting, watchers, reflections, checks)
    grpc_server = new_server(
        max_message_bytes=MAX_REQUEST_MESSAGE_BYTES,
        max_streams=sum(room.limit for room in rooms),
        max_calls=sum(room.limit for room in rooms),
        age=_age(config),
    )
    calls = Calls(Keys(key.get_secret_value() for key in config.api_keys))
    calls.register(grpc_server, SERVICE, EntropyService(tap).methods(short, lasting))
    calls.register(grpc_server, QR_ENTROPY, QrEntropyService(tap).methods(short, lasting))
    calls.register(grpc_server, QUANTUM_RNG, QuantumRngService(tap).methods(short))
    calls.register(grpc_server, HEALTH, HealthService(board).methods(checks, watchers))
    calls.register(grpc_server, reflection.SERVICE_NAME, ReflectionService().methods(reflections))
    grace = Grace(config.drain_timeout)

    def drain() -> None:
        grace.begin()
        board.drain()
        tap.drain()
        lasting.drain()
        reflections.drain()

    credentials = None if tls is None else tls.grpc_credentials()
    serving = serving_grpc(grpc_server, config.listen_address, grace, credentials, setting="listen_address")
    async with serving as address:
        looking = asyncio.create_task(_look(tap, board, tls))
        try:
            yield SourceServer(address, tap, (lambda: None) if tls is None else tls.reload)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            drain()


async def _look(tap: Tap, board: Board, tls: ListenerTls | None) -> None:
    """See to it that the source is tested when it may be, that health is told, and exchanged certificates are taken."""
    while True:
        await tap.make_ready()
        board.refresh()
        if tls is not None:
            tls.look()
        await asyncio.sleep(LOOK_S)


@contextmanager
def _state(path: Path | None) -> Iterator[Path | None]:
    if path is None:
        yield None
    else:
        with state_directory(path) as held:
            yield held


def _opened(settings: SourceSettings, state_dir: Path | None, clock: Clock) -> EntropySource:
    try:
        return open_source(settings, Surroundings(settings.fetch_timeout or DEFAULT_TIMEOUT_S, state_dir, clock))
    except ValueError as error:
        raise ConfigError([f"source: {error}"]) from None


def _new_leg(config: SourceServerConfig, source: EntropySource, clock: Clock) -> Leg:
    settings = config.source
    pace = Pace(
        size=settings.fetch_chunk_size or TEST_CHUNK_BYTES,
        interval_s=0.0,
        timeout_s=settings.fetch_timeout or DEFAULT_TIMEOUT_S,
        most=min(settings.most_bytes, settings.fetch_chunk_size or settings.most_bytes),
        request_interval_s=settings.request_interval,
    )
    return Leg(
        source,
        pace,
        monitor=Monitor(settings.assessed_entropy),
        quarantine=Quarantine(pause_s=config.quarantine_pause, clock=clock),
        retry_policy=RetryPolicy(),
        start_up_bytes=settings.start_up_size,
        clock=clock,
    )


def _age(config: SourceServerConfig) -> ConnectionAge | None:
    if config.tls_files is None:
        return None
    return ConnectionAge(MAX_CONNECTION_AGE_S, None if config.client_ca_file is None else CERTIFIED_GRACE_S)


def _log_accounting(tap: Tap) -> None:
    """Say what became of what the source gave: served, discarded by tests, or lost with calls that ended before."""
    fetched, discarded = tap.source.fetched_bytes, tap.source.discarded_bytes
    lost = fetched - discarded - tap.served_bytes
    get_log().info("accounting", fetched=fetched, served=tap.served_bytes, discarded=discarded, lost=lost)
