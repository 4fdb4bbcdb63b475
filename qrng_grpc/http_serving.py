"""Small HTTP servers on aiohttp's: bounded, silent about their clients, and with little between request and reply.

Idea: what REST of a gateway and health of a collector have in common. Connections, lines, headers and the
patience with clients that send or read slowly are bounded, errors are one JSON shape, nothing may be kept by a
cache, and nothing of a request is logged, since its address may hold a key.

aiohttp keeps the connections and reads the requests. What it has on top of that, an application with its router,
middlewares and signals, a dozen fixed addresses do not need: there is one function from a request to a `Reply`. And
since most clients ask for the same again and again, a request is first looked up among those that came before
(`http_known`); one that is found there is not read again. Needs the extra `qrng-grpc[server]`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any, NamedTuple, TypeVar, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from qrng_grpc.config import host_and_port
from qrng_grpc.errors import InvalidRequestError, QrngError
from qrng_grpc.http_known import MAX_HEADERS, MAX_LINE, Heeds, Known
from qrng_grpc.http_replies import Reply, error_reply, refused
from qrng_grpc.serving import MAX_CONNECTIONS, cannot_listen
from qrng_grpc.tls import RenewedContext
from qrng_grpc.wording import reason_of

T = TypeVar("T")

IDLE_S = 75.0

_LINGERING_S = 2.0
"""How long the rest of a body that nobody wants is read and thrown away, so that its sender sees the reply."""
_NEVER_S = 1e9

# What aiohttp itself would say of a broken request quotes it.
_silent = logging.getLogger("qrng_grpc.http_serving.silent")
_silent.disabled = True

Handler = Callable[[web.BaseRequest], Awaitable[Reply]]


class Site(NamedTuple):
    """What is served: who answers, and never raises, and how many bytes the body of a request may have.

    `heeds` are the headers, besides those of HTTP itself, that an answer may depend on; it is not shown others.
    """

    answer: Handler
    max_body_bytes: int = 1
    heeds: tuple[str, ...] = ()


def found(routes: Mapping[str, Mapping[str, T]], request: web.BaseRequest) -> T:
    """Return what `routes` have for the path and method of `request`. Raises HTTPException where that is nothing."""
    methods = routes.get(request.rel_url.path_safe)
    if methods is None:
        raise web.HTTPNotFound
    if request.method not in methods:
        raise web.HTTPMethodNotAllowed(request.method, methods)
    return methods[request.method]


@asynccontextmanager
async def serving_http(
    site: Site,
    address: str,
    *,
    grace_s: float,
    idle_s: float = IDLE_S,
    max_connections: int = MAX_CONNECTIONS,
    tls: ssl.SSLContext | None = None,
    max_age_s: float | None = None,
    setting: str = "",
) -> AsyncIterator[str]:
    """Serve `site` at `address`, as HTTPS with `tls`; yields HOST:PORT with the real port.

    Connections beyond `max_connections` are closed at once, others when they bring no whole request for
    `idle_s` seconds, or leave a reply unread for as long; with TLS, which waits for its own end, 30 s longer. Leaving
    takes at most `grace_s` seconds: half of them for running requests to finish, half for those that do not, to be
    told and to leave. When `tls` is renewed, connections that were made before end with their next reply, as do those
    older than `max_age_s`.
    Raises ConfigError when it cannot listen there, with the `setting` that says where.
    """
    host, port = host_and_port(address)
    heeds = Heeds(site.heeds)
    server, known = _server(site, heeds), Known(heeds)
    runner = web.ServerRunner(
        server,
        shutdown_timeout=grace_s / 2,  # aiohttp waits twice: for the handler, then for its cancelled rest
    )
    await runner.setup()

    def admit() -> asyncio.Protocol:
        if len(server.connections) >= max_connections:
            return _TurnedAway()
        return _Connection(server, known, idle_s, inf if max_age_s is None else max_age_s, tls)

    try:
        try:
            listener = await asyncio.get_running_loop().create_server(admit, host, port, ssl=tls, reuse_port=False)
        except OSError as error:
            raise cannot_listen(address, setting, reason_of(error)) from None
        bound = listener.sockets[0].getsockname()[1]
        try:
            yield f"{address.rpartition(':')[0]}:{bound}"
        finally:
            listener.close()
    finally:
        await runner.cleanup()


def _server(site: Site, heeds: Heeds) -> web.Server:
    loop = asyncio.get_running_loop()

    def request_of(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        heeded = heeds.of(message)
        return web.BaseRequest(heeded, payload, protocol, writer, task, loop, client_max_size=site.max_body_bytes)

    async def answer(request: web.BaseRequest) -> Reply:
        if request.version < HttpVersion10:
            return refused(InvalidRequestError("HTTP/1.0 or later is required"))
        connection = _connection_of(request)
        connection.wait_for_us()
        if hdrs.EXPECT in request.headers:
            await connection.let_continue(request)
        return await site.answer(request)

    # A `Reply` is all that aiohttp needs of a response, but not the class it names.
    return web.Server(cast(Any, answer), request_factory=request_of, handler_cancellation=True)


def peer_of(request: web.BaseRequest) -> str:
    """Return whose connection a request came by, as grpc would name it."""
    return _connection_of(request).peer


def _connection_of(request: web.BaseRequest) -> _Connection:
    return cast(_Connection, request.protocol)


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class _Connection(web.RequestHandler):
    """A connection, on which requests that are `known` are answered without aiohttp.

    It is to end with its next reply when it is older than `max_age_s`, `tls` was renewed, or the server ends. It ends
    when its client brings no whole request for `idle_s`, or reads nothing for as long, while aiohttp would wait for
    ever. Broken requests are refused in our words; aiohttp's own quote them.
    """

    # A request is known by what came in one piece while the connection was *quiet*: all before was answered, and ended
    # where a request ends. A connection that sends in other pieces, or what cannot be known, or does not wait for
    # replies, is not quiet again.

    __slots__ = (
        "_answering",
        "_idle_s",
        "_known",
        "_max_age_s",
        "_quiet",
        "_since_s",
        "_tag",
        "_tls",
        "_unread",
        "_until_s",
        "_watch",
        "peer",
    )

    peer: str
    """Whose it is, as grpc would name it."""
    _since_s: float
    _tag: bytes | None
    """What the request that came last is known by, unless more came since."""
    _watch: asyncio.TimerHandle

    def __init__(
        self, server: web.Server, known: Known, idle_s: float, max_age_s: float, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=cast(Any, None),
            logger=_silent,
            keepalive_timeout=_NEVER_S,  # it would not know of what we answer
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            lingering_time=_LINGERING_S,
            auto_decompress=False,
        )
        self._known = known
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._tls = tls if isinstance(tls, RenewedContext) else None
        self._answering: asyncio.Task[None] | None = None
        self._tag = None
        self._quiet = self._unread = False
        self._until_s = inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. What the system does not take at once counts as unread."""
        self._since_s = self._loop.time()
        self.peer = _name_of(transport.get_extra_info("peername"))
        # Whom a certificate names is no part of what is sent.
        self._quiet = not transport.get_extra_info("peercert")
        # Not 0: with TLS nothing is as much as that, and nobody would be told that all was taken.
        cast(asyncio.WriteTransport, transport).set_write_buffer_limits(1)
        super().connection_made(transport)
        self._wait_for_client()
        self._watch = self._loop.call_later(self._idle_s, self._look)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End. Whoever is served takes nothing any more."""
        self._watch.cancel()
        if self._answering is not None:
            self._answering.cancel()
        super().connection_lost(exc)

    # Requests

    def data_received(self, data: bytes) -> None:
        """Take in what came: answer it if it came before, else have it read."""
        self._tag = tag = self._known.tag(data) if self._quiet else None
        self._quiet = False
        again = None if tag is None else self._known.find(tag)
        answering = None if again is None else again.begin(self.peer)
        if again is not None and answering is not None:
            self.wait_for_us()
            self._answering = self._loop.create_task(self._answer(answering, again.fields))
        else:
            super().data_received(data)

    async def _answer(self, answering: Coroutine[Any, Any, Reply], fields: str) -> None:
        try:
            reply = await answering
        finally:
            self._answering = None
        if self.transport is None:
            return
        reply.fields += fields
        reply.keep_alive = not self._is_over
        self.transport.write(reply.written())
        if not reply.keep_alive:
            self.transport.close()
        self._finish(self._tag is not None)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a reply, after those to requests that came before; remember how to answer this one again."""
        await self._settled()
        reply = cast(Reply, resp)
        if self._is_over:
            reply.keep_alive = False
        sent = await super().finish_response(request, resp, start_time)
        whole = self._tag is not None and _is_plain(request)
        if self._tag is not None and whole and reply.again is not None:
            self._known.keep(self._tag, reply.again)
        self._finish(whole)
        return sent

    def _finish(self, whole: bool) -> None:
        self._quiet = whole and not self._unread
        self._tag = None
        if self._current_request is None:  # aiohttp may be at one that came before this reply
            self._wait_for_client()

    async def _settled(self) -> None:
        """Wait for the reply to a request that came before and is not answered yet."""
        if self._answering is not None:
            await asyncio.wait((self._answering,))

    async def let_continue(self, request: web.BaseRequest) -> None:
        """Tell a client that waits for it to send its body. What else it expects is ignored, as RFC 9110 allows."""
        if request.headers[hdrs.EXPECT].lower() == "100-continue":
            await self._settled()
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the reply has not begun

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
            reply = error_reply(status, "INVALID_ARGUMENT", "the request is not valid HTTP")
        else:
            reply = error_reply(status, QrngError.reason, "an internal fault")
        reply.keep_alive = False
        return cast(web.StreamResponse, reply)

    # Patience

    @property
    def _is_over(self) -> bool:
        """Whether it is to end with its next reply."""
        if self._close:  # the server ends
            return True
        if self._loop.time() - self._since_s >= self._max_age_s:
            return True
        if self._tls is None or self.transport is None:
            return False
        made = self.transport.get_extra_info("ssl_object")
        return made is not None and not self._tls.made(made)

    def wait_for_us(self) -> None:
        """Note that a whole request is there."""
        self._until_s = inf

    def _wait_for_client(self) -> None:
        self._until_s = self._loop.time() + self._idle_s

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._unread = True
        self._wait_for_client()

    def resume_writing(self) -> None:
        """Go on, since everything was read."""
        super().resume_writing()
        self._unread = False

    def _look(self) -> None:
        """End when the client has had its time."""
        left_s = self._until_s - self._loop.time()
        if left_s > 0:
            self._watch = self._loop.call_later(min(left_s, self._idle_s), self._look)
        elif self.transport is not None and self._unread:
            self.transport.abort()
        else:
            self.force_close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """End within `timeout` seconds, with the reply to a request that is being answered."""
        if self._answering is not None:
            await asyncio.wait((self._answering,), timeout=timeout)
        await super().shutdown(timeout)


def _is_plain(request: web.BaseRequest) -> bool:
    """Say whether `request` is no more than its head, of a kind that is answered alike when it comes again."""
    return (
        request.version == HttpVersion11
        and request.method != hdrs.METH_HEAD  # whose replies have no body; those to what is known have theirs
        and request.keep_alive
        and not request.body_exists
        and hdrs.EXPECT not in request.headers
    )


def _name_of(peername: Any) -> str:
    if not peername:
        return "unix:"
    host, port = peername[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
