"""The gateway, put together.

Idea: `serving_gateway` names every part once. Start order is reading order, and leaving the nested
blocks is the shutdown order: everyone is told first (health goes down, streams and waiting claims
end), then REST and the gRPC listeners finish what runs, then what was disposed of becomes durable,
and last the pool is wiped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server as add_health
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server as add_reflection

from qrng_gateway.admission.access import Access
from qrng_gateway.admission.audit import AuditLog
from qrng_gateway.admission.guard import Guard
from qrng_gateway.admission.limits import Limiter
from qrng_gateway.admission.promises import Promises
from qrng_gateway.config import GatewayConfig, best_of
from qrng_gateway.desk import Desk
from qrng_gateway.dispenser import Dispenser
from qrng_gateway.engines import new_engine
from qrng_gateway.fronts.calls import MAX_UNREAD, Streams, Unread, register
from qrng_gateway.fronts.compat import QrEntropyServicer, QuantumRngServicer
from qrng_gateway.fronts.health import MAX_WATCHERS, HealthBoard, HealthServicer
from qrng_gateway.fronts.reflection import MAX_REFLECTIONS, ReflectionServicer
from qrng_gateway.fronts.rest import RestApi
from qrng_gateway.fronts.service import EntropyServicer
from qrng_gateway.link.ingest import Ingest
from qrng_gateway.link.push_service import PATIENCE_S, PushServicer
from qrng_gateway.link.signing_keys import SigningKeys
from qrng_gateway.memory import keep_heaps_few, keep_pauses_short
from qrng_gateway.observation.metrics import CallCounts, Metrics
from qrng_gateway.observation.status import Accounting, Observer
from qrng_gateway.pool.conditioning import conditioner
from qrng_gateway.pool.intake import Intake
from qrng_gateway.pool.pool import Pool
from qrng_gateway.pool.reservoir import Reservoir
from qrng_gateway.protection import Protection
from qrng_gateway.quality.on_demand import QualityTests
from qrng_gateway.scheduling import let_threads_finish
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.compat.qr_entropy_pb2_grpc import add_EntropyServiceServicer_to_server as add_qr_entropy
from qrng_grpc.compat.quantum_rng_pb2_grpc import add_QuantumRNGServicer_to_server as add_quantum_rng
from qrng_grpc.hardening import harden
from qrng_grpc.http_serving import serving_http
from qrng_grpc.keys import KeyRing
from qrng_grpc.labels import SourceClass
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
from qrng_grpc.state import state_directory
from qrng_grpc.v1.entropy_pb2_grpc import add_EntropyServiceServicer_to_server as add_entropy
from qrng_grpc.v1.push_pb2_grpc import add_PushServiceServicer_to_server as add_push
from qrng_grpc.wire import MAX_SIGNED_CHUNK_BYTES

TICK_S = 1.0
MAX_REQUEST_BYTES = 16_384
"""The largest request message of a client; every real one has a few dozen bytes."""
MAX_PUSH_CALLS = 64
_ENVELOPE_BYTES = 4096
_NO_LIMIT = 1e6
"""Requests a second, more than there can be."""
_SHORT_CALLS = 256
"""Calls beyond streams and waiting claims that may run at once: health, status, claims being answered."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many calls of each kind may be open, and how many of all kinds each gRPC listener admits."""

    streams: Streams
    pushes: Streams
    reflections: Streams
    watchers: Streams
    unread_calls: Unread
    unread_pushes: Unread
    quiet_pushes: Unread
    client_calls: int
    push_calls: int

    @classmethod
    def of(cls, config: GatewayConfig) -> Bounds:
        """Return what `config` allows."""
        lasting = MAX_WATCHERS + MAX_UNREAD + _SHORT_CALLS
        return cls(
            streams=Streams(config.max_streams),
            pushes=Streams(MAX_PUSH_CALLS),
            reflections=Streams(MAX_REFLECTIONS),
            watchers=Streams(MAX_WATCHERS),
            unread_calls=Unread(),
            unread_pushes=Unread(),
            quiet_pushes=Unread(MAX_PUSH_CALLS, PATIENCE_S),
            client_calls=config.max_streams + config.max_waiting + MAX_REFLECTIONS + lasting,
            push_calls=MAX_PUSH_CALLS + lasting,
        )

    def look(self) -> None:
        """End calls that said nothing for too long."""
        self.unread_calls.look()
        self.unread_pushes.look()
        self.quiet_pushes.look()

    def drain(self) -> None:
        """End what is open; those who watch health end by themselves, once they were told."""
        for open_calls in (self.streams, self.pushes, self.reflections, self.unread_calls, self.unread_pushes):
            open_calls.drain()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that serves. Addresses are HOST:PORT with the real ports."""

    client_address: str
    push_address: str
    rest_address: str
    pool: Pool
    ingest: Ingest
    observer: Observer
    reload: Callable[[], None]
    """Takes what changed in files at once. Nothing running is disturbed, and what is unusable is left out."""

    def accounting(self) -> Accounting:
        """Say where every byte went; final once the gateway has ended."""
        return self.observer.accounting()


def main(config: GatewayConfig) -> None:
    """Be the gateway process: logs to standard error, reload with SIGHUP, end with SIGTERM or SIGINT.

    Raises ConfigError when memory must be locked and cannot be, else as `serving_gateway`.
    """
    keep_heaps_few()
    let_threads_finish()
    configure_logs(config.log_level, "gateway")
    harden(config.lock_memory)
    run_to_end(run(config))


async def run(config: GatewayConfig) -> None:
    """Serve until a signal asks the gateway to stop, then say where every byte went."""
    log = get_log()
    stop = stop_event_on_signals()
    async with serving_gateway(config) as gateway:
        keep_pauses_short()
        on_hangup(gateway.reload)
        log.info("gateway_serves", clients=gateway.client_address, push=gateway.push_address, rest=gateway.rest_address)
        await stop.wait()
        log.info("gateway_drains")
    log.info("accounting", **asdict(gateway.accounting()))


@asynccontextmanager
async def serving_gateway(config: GatewayConfig, *, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Gateway]:
    """Serve while the block runs. Raises StateError or ConfigError when that cannot be."""
    reservoir = Reservoir(config.quality_reservoir_size, ttl_s=config.buffer_ttl, clock=clock)
    pool = _new_pool(config, reservoir, clock)
    with state_directory(config.state_dir) as state_dir, _wiping(pool), ExitStack() as at_the_end:
        ingest = _new_ingest(config, pool, state_dir, clock)
        keys = SigningKeys(config, ingest)
        access = _new_access(config, clock)
        tls = Protection(config)
        audit = AuditLog(config.audit_log_file, clock)
        limiter = _new_limiter(config, state_dir, clock)
        at_the_end.callback(limiter.settle)
        promises = Promises(access.clients, config.buffer_size, best_of(config.key_records))
        observer = _new_observer(config, pool, ingest, clock, _Warnings(access, promises, tls, audit, limiter))
        board = HealthBoard(lambda: observer.ready)
        bounds = Bounds.of(config)
        health = HealthServicer(board, bounds.watchers)
        desk = _new_desk(config, access, pool, limiter, audit, clock)
        clients = _Clients(access, pool, desk, config.served_class, clock)
        push_server = _push_server(config, ingest, health, bounds, tls.push_age)
        client_server = _client_server(config, desk, observer, health, bounds, tls.client_age)
        metrics = at_the_end.enter_context(_metrics(config, observer, ingest, desk, clock))
        rest = _new_rest(config, desk, observer, QualityTests(reservoir), metrics).site()
        grace = Grace(config.drain_timeout)

        def tick() -> None:
            pool.expire()
            pool.look_ahead()
            observer.tick()
            board.refresh()
            tls.look()
            keys.look()
            clients.look()

        def reload() -> None:
            tls.reload()
            keys.reload()
            clients.reload()
            audit.reopen()

        def drain() -> None:
            grace.begin()
            observer.drain()
            board.drain()
            bounds.drain()
            ingest.drain()
            pool.drain()

        async with (
            _bare(ingest.running()),
            audit.running(),
            serving_grpc(
                push_server,
                config.push_listen_address,
                grace,
                tls.push_credentials(),
                setting="push_listen_address",
            ) as push_address,
            serving_grpc(
                client_server,
                config.listen_address,
                grace,
                tls.client_credentials(),
                setting="listen_address",
            ) as client_address,
            serving_http(
                rest,
                config.rest_listen_address,
                grace_s=config.drain_timeout,
                max_connections=config.max_connections,
                tls=tls.rest_context(),
                max_age_s=tls.rest_age_s,
                setting="rest_listen_address",
            ) as rest_address,
            _every(TICK_S, tick),
            _every(TICK_S, bounds.look),
        ):
            try:
                yield Gateway(client_address, push_address, rest_address, pool, ingest, observer, reload)
            finally:
                drain()


def _new_pool(config: GatewayConfig, reservoir: Reservoir, clock: Clock) -> Pool:
    return Pool(
        config.buffer_size,
        ttl_s=config.buffer_ttl,
        overflow=config.overflow,
        best_class=best_of(config.key_records),
        max_waiting=config.max_waiting,
        intake=Intake(reservoir, conditioner(config.post_processing, config.entropy_per_byte)),
        clock=clock,
    )


def _new_ingest(config: GatewayConfig, pool: Pool, state_dir: Path, clock: Clock) -> Ingest:
    return Ingest(
        KeyRing(config.key_records),
        pool,
        config.pool_id,
        state_dir,
        clock_tolerance_s=config.clock_tolerance,
        ttl_s=config.buffer_ttl,
        clock=clock,
    )


def _new_access(config: GatewayConfig, clock: Clock) -> Access:
    return Access(
        (key.get_secret_value() for key in config.api_keys),
        file=config.api_keys_file,
        key_name=config.api_key_header,
        certificates=config.client_ca_file is not None,
        clock=clock,
    )


def _new_limiter(config: GatewayConfig, state_dir: Path, clock: Clock) -> Limiter:
    return Limiter(
        state_dir,
        rate_limit=config.rate_limit,
        address_rate_limit=config.address_rate_limit or (config.rate_limit if config.limits_addresses else _NO_LIMIT),
        streams=max(1, config.max_streams // 2),
        clock=clock,
    )


@dataclass(frozen=True, slots=True)
class _Warnings:
    """What the parts that the observer does not know have to say."""

    access: Access
    promises: Promises
    tls: Protection
    audit: AuditLog
    limiter: Limiter

    def __call__(self) -> Iterator[str]:
        yield from self.access.warnings()
        yield from self.promises.warnings()
        yield from self.tls.warnings()
        yield from self.audit.mistakes
        if self.limiter.failing:
            yield "counts of the day cannot be written; clients with a daily quota are refused"


def _new_observer(
    config: GatewayConfig, pool: Pool, ingest: Ingest, clock: Clock, more_warnings: Callable[[], Iterator[str]]
) -> Observer:
    return Observer(
        pool,
        ingest,
        pool_id=config.pool_id,
        least_class=config.served_class,
        ready_bytes=config.ready_bytes,
        ready_bytes_per_s=config.ready_bytes_per_second,
        more_warnings=more_warnings,
        clock=clock,
    )


def _new_desk(
    config: GatewayConfig, access: Access, pool: Pool, limiter: Limiter, audit: AuditLog, clock: Clock
) -> Desk:
    dispenser = Dispenser(
        pool,
        least_class=config.served_class,
        max_wait_s=config.max_wait,
        max_fresh_wait_s=config.max_fresh_wait,
        clock_tolerance_s=config.clock_tolerance,
        clock=clock,
    )
    guard = Guard(clock, mistakes="wrong keys")
    return Desk(
        access,
        dispenser,
        limiter,
        guard,
        CallCounts(),
        audit,
        trusted_proxies=config.trusted_proxies,
        clock=clock,
    )


@contextmanager
def _metrics(
    config: GatewayConfig, observer: Observer, ingest: Ingest, desk: Desk, clock: Clock
) -> Iterator[Metrics | None]:
    """Have metrics while the block runs, where they are switched on."""
    if not config.metrics_enabled:
        yield None
        return
    metrics = Metrics(observer, ingest, desk.counts, desk.audit, clock=clock)
    try:
        yield metrics
    finally:
        metrics.close()


def _new_rest(
    config: GatewayConfig,
    desk: Desk,
    observer: Observer,
    quality: QualityTests,
    metrics: Metrics | None,
) -> RestApi:
    return RestApi(
        desk,
        observer,
        quality,
        limit=config.max_rest_bytes,
        key_in_query=config.allow_api_key_in_query,
        metrics=metrics,
        allowed_origins=config.cors_allowed_origins,
    )


class _Clients:
    """Follows the records of clients: keeps for each what its own says, and ends the calls of who is served no more."""

    def __init__(self, access: Access, pool: Pool, desk: Desk, least_class: SourceClass, clock: Clock) -> None:
        self._access = access
        self._pool = pool
        self._desk = desk
        self._least_class = least_class
        self._clock = clock
        self._kept: dict[str, tuple[int, SourceClass]] = {}
        self._keep()

    def look(self) -> None:
        """Take a change that has stood still since the last look, and the end of somebody's time."""
        self._access.look()
        self._keep()
        self._desk.end_withdrawn()

    def reload(self) -> None:
        """Take what the records are now."""
        self._access.reload()
        self._keep()
        self._desk.end_withdrawn()

    def _keep(self) -> None:
        now_ns = self._clock.now_ns()
        wanted = {
            client.client_id: (client.reserved_bytes, client.least_class or self._least_class)
            for client in self._access.clients()
            if client.reserved_bytes and (client.not_after_ns is None or client.not_after_ns > now_ns)
        }
        if wanted != self._kept:
            self._kept = wanted
            self._pool.keep_for(wanted)


def _push_server(
    config: GatewayConfig, ingest: Ingest, health: HealthServicer, bounds: Bounds, age: ConnectionAge | None
) -> grpc.aio.Server:
    server = new_server(
        max_message_bytes=MAX_SIGNED_CHUNK_BYTES + _ENVELOPE_BYTES,
        max_streams=bounds.push_calls,
        max_calls=bounds.push_calls,
        max_connections=config.max_connections,
        age=age,
    )
    unread = bounds.unread_pushes
    register(add_push, PushServicer(ingest, bounds.pushes, unread, bounds.quiet_pushes), server)
    register(add_health, health, server, unread)
    return server


def _client_server(
    config: GatewayConfig,
    desk: Desk,
    observer: Observer,
    health: HealthServicer,
    bounds: Bounds,
    age: ConnectionAge | None,
) -> grpc.aio.Server:
    server = new_engine(
        config.engine,
        max_message_bytes=MAX_REQUEST_BYTES,
        max_streams=bounds.client_calls,
        max_calls=bounds.client_calls,
        max_connections=config.max_connections,
        age=age,
    )
    limit, unread = config.max_request_bytes, bounds.unread_calls
    register(add_entropy, EntropyServicer(desk, observer, bounds.streams, limit=limit), server, unread)
    register(add_qr_entropy, QrEntropyServicer(desk, bounds.streams, limit=limit), server, unread)
    register(add_quantum_rng, QuantumRngServicer(desk, limit=limit), server, unread)
    register(add_health, health, server, unread)
    register(add_reflection, ReflectionServicer(bounds.reflections, unread), server, unread)
    return server


@contextmanager
def _wiping(pool: Pool) -> Iterator[None]:
    """Overwrite and count what the pool still holds at the end."""
    try:
        yield
    finally:
        pool.wipe()


@asynccontextmanager
async def _bare(group: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
    """Run the block in a task group's context, and let what the block raises out as it is, not in a group."""
    raised: Exception | None = None
    try:
        async with group:
            try:
                yield
            except Exception as error:  # only looked at: it goes on
                raised = error
                raise
    except BaseExceptionGroup:
        if raised is not None:
            raise raised from None
        raise


@asynccontextmanager
async def _every(interval_s: float, act: Callable[[], None]) -> AsyncIterator[None]:
    """Do `act` every `interval_s` seconds while the block runs."""
    loop = asyncio.get_running_loop()
    bell: asyncio.TimerHandle

    def ring() -> None:
        nonlocal bell
        bell = loop.call_later(interval_s, ring)  # first of all, so that a fault of `act` is logged and not the last
        act()

    bell = loop.call_later(interval_s, ring)
    try:
        yield
    finally:
        bell.cancel()
