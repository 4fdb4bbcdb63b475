"""Replies over HTTP: a body and a head of plain text, errors in one JSON shape, and none that a cache may keep.

Idea: the responses of aiohttp are made of dictionaries and signals, and take longer than all that a gateway does for a
request. A `Reply` is written once, as one piece of bytes. It may say how the same request is answered when it comes
again, so that it need not be read again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import ceil
from time import time
from typing import Any, Final, NamedTuple, ParamSpec

from aiohttp import HttpVersion, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from qrng_grpc.errors import AuthenticationError, PoolShortError, QrngError
from qrng_grpc.logs import get_log

P = ParamSpec("P")

JSON: Final = "application/json; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"

_RETRY_S = 10.0
"""After how long to come back when a server is unavailable and nobody knows better."""
_REASONS = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "TIMEOUT",
    413: "TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}
_STATUSES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

log = get_log()


class Again(NamedTuple):
    """How a request is answered that came before.

    `begin` takes the name of the connection it came by. It returns None, having done nothing, when the request must be
    read after all; what it returns never raises. `fields` are what the reply's head has then besides.
    """

    begin: Callable[[str], Coroutine[Any, Any, Reply] | None]
    fields: str = ""


class Reply:
    """What a request is answered with, once. `fields` are more lines of its head, as `field_lines` makes them."""

    # What aiohttp asks of a response: `prepare` and `write_eof`, in this order, and then `keep_alive`.

    __slots__ = ("_text", "_writer", "again", "body", "content_type", "fields", "keep_alive", "status")

    _text: bytes
    _writer: AbstractStreamWriter

    def __init__(self, body: bytes, content_type: str = TEXT, *, status: int = 200, fields: str = "") -> None:
        self.body = body
        self.content_type = content_type
        self.status = status
        self.fields = fields
        self.keep_alive = True
        """Whether the connection stays open, as far as it is up to us."""
        self.again: Again | None = None

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write it down for the client that sent `request`."""
        self.keep_alive = self.keep_alive and request.keep_alive
        self._text = self.written(request.version, with_body=request.method != hdrs.METH_HEAD)
        self._writer = request.writer

    async def write_eof(self) -> None:
        """Send it, and wait for a client that reads too slowly. Raises ConnectionError when it has left."""
        await self._writer.write_eof(self._text)

    def written(self, version: HttpVersion = HttpVersion11, *, with_body: bool = True) -> bytes:
        """Return it as it travels."""
        content = ""
        if self.status != HTTPStatus.NO_CONTENT:
            content = f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
        head = (
            f"HTTP/{version.major}.{version.minor} {_STATUSES[self.status]}\r\n{_common_lines(int(time()))}"
            f"{self.fields}{content}{self._connection_line(version)}\r\n"
        ).encode()
        return head + self.body if with_body else head

    def _connection_line(self, version: HttpVersion) -> str:
        """Return what the client is told of its connection, where its version of HTTP takes something else for it."""
        if version == HttpVersion11:
            return "" if self.keep_alive else "Connection: close\r\n"
        return "Connection: keep-alive\r\n" if self.keep_alive else ""


def field_lines(fields: Mapping[str, object]) -> str:
    """Return lines of the head of a reply. Raises ValueError for a value that would end its line."""
    lines = [f"{name}: {value}" for name, value in fields.items()]
    if any(map(_CONTROL.search, lines)):
        raise ValueError("a field of a head is one line of text")
    return "".join(f"{line}\r\n" for line in lines)


@lru_cache(maxsize=1)
def _common_lines(unix_s: int) -> str:
    return field_lines(
        {
            hdrs.DATE: formatdate(unix_s, usegmt=True),
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.SERVER: "qrng",
            hdrs.ACCEPT_RANGES: "none",
            "X-Content-Type-Options": "nosniff",
        }
    )


def json_reply(body: Any, *, status: int = 200, fields: str = "") -> Reply:
    """Return a reply of JSON. Raises ValueError for what JSON has no number for."""
    return Reply(json.dumps(body, allow_nan=False).encode(), JSON, status=status, fields=fields)


def telling_errors(handler: Callable[P, Awaitable[Reply]]) -> Callable[P, Awaitable[Reply]]:
    """Answer every error of `handler` as JSON, in one shape."""

    async def answer(*arguments: P.args, **named: P.kwargs) -> Reply:
        try:
            return await handler(*arguments, **named)
        except QrngError as error:
            return refused(error)
        except web.HTTPException as error:
            return _in_our_words(error)
        except Exception as fault:  # the boundary: nothing of a fault of ours may travel, not even its text
            log.error("request_failed", fault=type(fault).__name__)
            return error_reply(500, QrngError.reason, "an internal fault; the server's log has the rest")

    return answer


def refused(error: QrngError) -> Reply:
    """Return the reply that tells `error`."""
    return error_reply(error.http_status, error.reason, error.message, error.retry_after_s, error.field)


def _in_our_words(error: web.HTTPException) -> Reply:
    reply = error_reply(error.status, _REASONS.get(error.status, "INVALID_ARGUMENT"), error.reason)
    if hdrs.ALLOW in error.headers:
        reply.fields += field_lines({hdrs.ALLOW: error.headers[hdrs.ALLOW]})
    return reply


def error_reply(
    status: int, reason: str, message: str, retry_after_s: float | None = None, field: str | None = None
) -> Reply:
    """Return the reply for an error, in the one shape that all have."""
    error: dict[str, str | int] = {"reason": reason, "message": message}
    if field is not None:
        error["field"] = field
    fields: dict[str, object] = {}
    if retry_after_s is None and status == PoolShortError.http_status:
        retry_after_s = _RETRY_S
    if retry_after_s is not None:
        error["retry_after_seconds"] = fields[hdrs.RETRY_AFTER] = ceil(retry_after_s)
    if status == AuthenticationError.http_status:
        fields[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return json_reply({"error": error}, status=status, fields=field_lines(fields))
