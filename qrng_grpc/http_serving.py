"""Small HTTP servers with aiohttp: bounded, and silent about their clients.

Idea: what REST of a gateway and health of a collector have in common. Connections, lines, headers and the
patience with clients that send or read slowly are bounded, errors are one JSON shape, nothing may be kept by a
cache, and nothing of a request is logged, since its address may hold a key. Needs the extra `qrng-grpc[server]`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import ceil
from typing import cast

from aiohttp import HttpVersion10, hdrs, web

from qrng_grpc.config import host_and_port
from qrng_grpc.errors import AuthenticationError, ConfigError, InvalidRequestError, PoolShortError, QrngError
from qrng_grpc.logs import get_log
from qrng_grpc.serving import MAX_CONNECTIONS
from qrng_grpc.tls import RenewedContext

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

IDLE_S = 75.0

_MAX_LINE = 4096
_MAX_HEADERS = 64
"""Lines of headers in a request, each of at most `_MAX_LINE` bytes: 256 KiB in all."""
_LINGERING_S = 2.0
"""How long the rest of a body that nobody wants is read and thrown away, so that its sender sees the reply."""
_RETRY_S = 10.0
"""After how long to come back when a server is unavailable and nobody knows better."""
_REASONS = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "TIMEOUT",
    413: "TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}

log = get_log()
# What aiohttp itself would say of a broken request quotes it.
_silent = logging.getLogger("qrng_grpc.http_serving.silent")
_silent.disabled = True


@asynccontextmanager
async def serving_http(
    app: web.Application,
    address: str,
    *,
    grace_s: float,
    idle_s: float = IDLE_S,
    max_connections: int = MAX_CONNECTIONS,
    tls: ssl.SSLContext | None = None,
    max_age_s: float | None = None,
) -> AsyncIterator[str]:
    """Serve `app` at `address`, as HTTPS with `tls`; yields HOST:PORT with the real port.

    Connections beyond `max_connections` are closed at once, others when they bring no whole request for
    `idle_s` seconds, or leave a reply unread for as long. Leaving takes at most `grace_s` seconds: half of them
    for running requests to finish, half for those that do not, to be told and to leave. When `tls` is renewed,
    connections that were made before end with their next reply, as do those older than `max_age_s`.
    Raises ConfigError when it cannot listen there.
    """
    host, port = host_and_port(address)
    if isinstance(tls, RenewedContext):
        app.on_response_prepare.append(_ending_outdated(tls))
    if max_age_s is not None:
        app.on_response_prepare.append(_ending_aged(max_age_s))
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        shutdown_timeout=grace_s / 2,  # aiohttp waits twice: for the handler, then for its cancelled rest
    )
    await runner.setup()
    try:
        try:
            listener = await asyncio.get_running_loop().create_server(
                _admitting(runner, max_connections, idle_s), host, port, ssl=tls, reuse_port=False
            )
        except OSError as error:
            raise ConfigError([f"{address}: cannot listen there ({error.strerror or type(error).__name__})"]) from None
        bound = listener.sockets[0].getsockname()[1]
        try:
            yield f"{address.rpartition(':')[0]}:{bound}"
        finally:
            listener.close()
    finally:
        await runner.cleanup()


def _ending_outdated(tls: RenewedContext) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def end(request: web.Request, response: web.StreamResponse) -> None:
        connection = request.get_extra_info("ssl_object")
        if connection is not None and not tls.made(connection):
            _end_with(response)

    return end


def _ending_aged(max_age_s: float) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def end(request: web.Request, response: web.StreamResponse) -> None:
        if cast(_Discreet, request.protocol).age_s >= max_age_s:
            _end_with(response)

    return end


def _end_with(response: web.StreamResponse) -> None:
    response.force_close()
    response.headers[hdrs.CONNECTION] = "close"


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class _Discreet(web.RequestHandler):
    """A connection whose broken requests are refused in our words; aiohttp's own quote the request.

    It ends when its client reads nothing for as long as it may be idle: aiohttp would wait for ever.
    """

    __slots__ = ("_impatience", "_since_s")

    _impatience: asyncio.TimerHandle | None
    _since_s: float

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. What the system does not take at once counts as unread."""
        self._impatience = None
        self._since_s = self._loop.time()
        cast(asyncio.WriteTransport, transport).set_write_buffer_limits(0)  # uvloop's are one without saying so
        super().connection_made(transport)

    @property
    def age_s(self) -> float:
        """How long it has been open."""
        return self._loop.time() - self._since_s

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._be_patient()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        if self.transport is not None:
            self._impatience = self._loop.call_later(self.keepalive_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, since everything was read."""
        self._be_patient()
        super().resume_writing()

    def _be_patient(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a reply. What is refused before there is a handler, such as an expectation, is so in our words too."""
        if isinstance(resp, web.HTTPException):
            resp = _in_our_words(resp)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse what is no HTTP, and close the connection. `exc` and `message` hold what the client sent."""
        if request.writer.output_size > 0:
            raise ConnectionError("a reply has begun already")
        if status < 500:
            response = _error_response(status, "INVALID_ARGUMENT", "the request is not valid HTTP")
        else:
            response = _error_response(status, QrngError.reason, "an internal fault")
        _add_common_headers(response)
        response.force_close()
        return response


def _admitting(runner: web.AppRunner, max_connections: int, idle_s: float) -> Callable[[], asyncio.Protocol]:
    """Return what makes a protocol for each new connection: ours while there is room."""
    server = runner.server
    assert server is not None, "a runner that is set up has a server"  # noqa: S101
    loop = asyncio.get_running_loop()

    def admit() -> asyncio.Protocol:
        if len(server.connections) >= max_connections:
            return _TurnedAway()
        return _Discreet(
            server,
            loop=loop,
            access_log=_silent,
            logger=_silent,
            keepalive_timeout=idle_s,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_HEADERS,
            lingering_time=_LINGERING_S,
            auto_decompress=False,
        )

    return admit


@web.middleware
async def telling_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as JSON, in one shape."""
    try:
        if request.version < HttpVersion10:
            raise InvalidRequestError("HTTP/1.0 or later is required")
        return await handler(request)
    except QrngError as error:
        return _error_response(error.http_status, error.reason, error.message, error.retry_after_s, error.field)
    except web.HTTPException as error:
        return _in_our_words(error)
    except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
        log.error("request_failed", fault=type(fault).__name__)
        return _error_response(500, QrngError.reason, "an internal fault; the server's log has the rest")


def _in_our_words(error: web.HTTPException) -> web.Response:
    response = _error_response(error.status, _REASONS.get(error.status, "INVALID_ARGUMENT"), error.reason)
    if hdrs.ALLOW in error.headers:
        response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return response


def with_common_headers(app: web.Application) -> None:
    """Have every reply of `app` carry what all of ours do."""
    app.on_response_prepare.append(_set_common_headers)


async def _set_common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    _add_common_headers(response)


def _add_common_headers(response: web.StreamResponse) -> None:
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[hdrs.SERVER] = "qrng"
    response.headers[hdrs.ACCEPT_RANGES] = "none"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _error_response(
    status: int, reason: str, message: str, retry_after_s: float | None = None, field: str | None = None
) -> web.Response:
    error: dict[str, str | int] = {"reason": reason, "message": message}
    if field is not None:
        error["field"] = field
    headers = {}
    if retry_after_s is None and status == PoolShortError.http_status:
        retry_after_s = _RETRY_S
    if retry_after_s is not None:
        error["retry_after_seconds"] = ceil(retry_after_s)
        headers[hdrs.RETRY_AFTER] = str(ceil(retry_after_s))
    if status == AuthenticationError.http_status:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return web.json_response({"error": error}, status=status, headers=headers)
