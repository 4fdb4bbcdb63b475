"""What our gRPC servers have in common: options, a context manager, signals, the event loop.

Idea: a server is a context manager. Entering it binds and starts, leaving it stops with grace; who
serves what is decided before, and everybody who should know that the end has come is told before it
is left. Several servers share one `Grace`, so that the end takes as long as one of them at most.
"""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from qrng_grpc.errors import ConfigError

MAX_METADATA_BYTES = 16_384
MAX_CONNECTIONS = 320
"""Connections of one listener by default; they need no key. A gateway's three stay below the usual 1024 open files."""
MAX_STREAMS_A_CONNECTION = 512
"""No connection alone may have all the calls there are."""
_PING_INTERVAL_MS = 10_000
_HANDSHAKE_MS = 10_000
QUIET_MS, NO_ACK_MS = 60_000, 20_000
"""After which quiet a connection is pinged, and how long it may take to answer."""
_MAX_UNBEGUN_CALLS = 3000


class Grace:
    """How long running calls may still take. The time runs from `begin`."""

    def __init__(self, total_s: float) -> None:
        self._total_s = total_s
        self._end_s: float | None = None

    def begin(self) -> None:
        """Let the time run, if it does not yet."""
        if self._end_s is None:
            self._end_s = time.monotonic() + self._total_s

    @property
    def left_s(self) -> float:
        """Seconds that are left; all of them before `begin`, 0 when they have passed."""
        return self._total_s if self._end_s is None else max(0.0, self._end_s - time.monotonic())


@dataclass(frozen=True, slots=True)
class ConnectionAge:
    """How old a connection may become, in seconds: then its client is asked to reconnect.

    Calls on it may go on for `grace_s` and are then ended; None lets them run to their own end.
    """

    limit_s: float
    grace_s: float | None = None


def new_server(
    *,
    max_message_bytes: int,
    max_streams: int,
    max_calls: int,
    max_connections: int = MAX_CONNECTIONS,
    age: ConnectionAge | None = None,
) -> grpc.aio.Server:
    """Make a server that reads messages of at most `max_message_bytes`.

    `max_streams`, and MAX_STREAMS_A_CONNECTION, bound the calls of one connection, beyond which a client's wait at the
    client; `max_calls` those of all together, beyond which they are refused; `age` how long a connection lives.
    Connections beyond `max_connections` are closed at once; so are those that do not speak HTTP/2 within 10 s, and
    those that were quiet for a minute and then do not answer a ping in 20 s. Clients may ping every 10 s, also without
    calls: those in the field do, every 30 s. One that pings more is told too_many_pings, and to go.
    """
    options = (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", min(max_streams, MAX_STREAMS_A_CONNECTION)),
        # Otherwise calls that are over but not yet tidied away count too, and where a client has as many calls to make
        # as it may, after a stall of a quarter of a second, say, some of those that follow are refused.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", QUIET_MS),
        ("grpc.keepalive_timeout_ms", NO_ACK_MS),
        # Fewer would be refused at random once a thousand wait for us, whoever's they are.
        ("grpc.server.max_pending_requests", _MAX_UNBEGUN_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_UNBEGUN_CALLS),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),
    )
    return grpc.aio.server(options=(*options, *_age_options(age)), maximum_concurrent_rpcs=max_calls)


def _age_options(age: ConnectionAge | None) -> Iterator[tuple[str, int]]:
    if age is not None:
        yield "grpc.max_connection_age_ms", round(age.limit_s * 1000)
        if age.grace_s is not None:
            yield "grpc.max_connection_age_grace_ms", round(age.grace_s * 1000)


@asynccontextmanager
async def serving_grpc(
    server: grpc.aio.Server,
    address: str,
    grace: Grace,
    credentials: grpc.ServerCredentials | None = None,
    *,
    setting: str = "",
) -> AsyncIterator[str]:
    """Serve at `address` (HOST:PORT, port 0 for a free one, or unix:PATH); yields it with the real port.

    Without `credentials` in plaintext. Leaving, it lets running calls finish while `grace` lasts and then
    ends them. Raises ConfigError when it cannot listen there, with the `setting` that says where.
    """
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        doubt = "is it in use, or its directory missing?" if address.startswith("unix:") else "is it in use?"
        raise cannot_listen(address, setting, doubt) from None
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(grace.left_s)


def cannot_listen(address: str, setting: str, why: str) -> ConfigError:
    """Return the mistake that nobody can listen at `address`, by the `setting` that says where; "" for none."""
    named = f"{setting}: " if setting else ""
    return ConfigError([f"{named}{address}: cannot listen there ({why})"])


def stop_event_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set, for as long as the running loop lives."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def on_hangup(act: Callable[[], None]) -> None:
    """Do `act` at every SIGHUP, for as long as the running loop lives."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, act)


def run_to_end(program: Coroutine[Any, Any, None]) -> None:
    """Run `program` in an event loop of its own: uvloop's where that is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(program)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop  # noqa: PLC0415 - where installed

    return uvloop.new_event_loop
