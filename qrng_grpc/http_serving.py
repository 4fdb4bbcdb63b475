"""Small HTTP servers with aiohttp: bounded, and silent about their clients.

Idea: what REST of a gateway and health of a collector have in common. Connections and lines are bounded,
errors are one JSON shape, nothing may be kept by a cache, and nothing of a request is logged, since its
address may hold a key. Needs the extra `qrng-grpc[server]`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import ceil

from aiohttp import HttpVersion10, hdrs, web

from qrng_grpc.config import host_and_port
from qrng_grpc.errors import AuthenticationError, ConfigError, InvalidRequestError, QrngError
from qrng_grpc.logs import get_log
from qrng_grpc.serving import MAX_CONNECTIONS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

IDLE_S = 75.0

_MAX_LINE = 4096
_REASONS = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "TOO_LARGE"}

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
) -> AsyncIterator[str]:
    """Serve `app` at `address`, as HTTPS with `tls`; yields HOST:PORT with the real port.

    Connections beyond `max_connections` are closed at once, others when they bring no whole request for
    `idle_s` seconds. Leaving takes at most `grace_s` seconds: half of them for running requests to finish,
    half for those that do not, to be told and to leave. Raises ConfigError when it cannot listen there.
    """
    host, port = host_and_port(address)
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


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class _Discreet(web.RequestHandler):
    """A connection whose broken requests are refused in our words; aiohttp's own quote the request."""

    __slots__ = ()

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
            server, loop=loop, access_log=_silent, logger=_silent, keepalive_timeout=idle_s, max_line_size=_MAX_LINE
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
        return _error_response(error.http_status, error.reason, error.message, error.retry_after_s)
    except web.HTTPException as error:
        response = _error_response(error.status, _REASONS.get(error.status, "INVALID_ARGUMENT"), error.reason)
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response
    except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
        log.error("request_failed", fault=type(fault).__name__)
        return _error_response(500, QrngError.reason, "an internal fault; the server's log has the rest")


def with_common_headers(app: web.Application) -> None:
    """Have every reply of `app` carry what all of ours do."""
    app.on_response_prepare.append(_set_common_headers)


async def _set_common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    _add_common_headers(response)


def _add_common_headers(response: web.StreamResponse) -> None:
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[hdrs.SERVER] = "qrng"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _error_response(status: int, reason: str, message: str, retry_after_s: float | None = None) -> web.Response:
    error: dict[str, str | int] = {"reason": reason, "message": message}
    headers = {}
    if retry_after_s is not None:
        error["retry_after_seconds"] = ceil(retry_after_s)
        headers[hdrs.RETRY_AFTER] = str(ceil(retry_after_s))
    if status == AuthenticationError.http_status:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return web.json_response({"error": error}, status=status, headers=headers)
