"""A Quantis appliance over HTTPS: `GET /api/2.0/streambytes?size=N`, raw bytes back.

Idea: the appliance is asked for n bytes and believed only when it sends exactly n, from a server we
can name. Appliances usually carry a certificate of their own making, so there are three ways to know
them: the system's CAs, a CA bundle, or the SHA-256 fingerprint of the certificate itself. A
fingerprint is the strongest of them and replaces the other checks: it admits one certificate, whoever
issued it and whatever host name or dates it bears.

What an appliance answers besides its bytes is not passed on: errors name the kind of fault and a
status code, in words of ours. Redirects are not followed, proxies and `.netrc` of the environment not
used, cookies not kept.
"""

from __future__ import annotations

import email.utils
import ssl
from datetime import UTC
from pathlib import Path

import aiohttp
from yarl import URL

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.config import is_loopback
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device

STREAM_PATH = "api/2.0/streambytes"
MAX_RETRY_AFTER_S = 3600.0
"""An appliance cannot send us away for longer than an hour."""

_DOCUMENT_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/json"})
_FINGERPRINT_BYTES = 32
_BUFFER_BYTES = 65_536
_MAX_CONNECTIONS = 4


class HttpSource:
    """Bytes of a Quantis appliance, API 2.0.

    `url` is `https://HOST[:PORT]`, perhaps with a path the API lies under. Plain `http://` is taken for
    loopback addresses only, unless `allow_plaintext`. At most one of `ca_file` (PEM) and `fingerprint`
    (64 hexadecimal digits, colons allowed) may be given. `timeout_s` bounds a whole read, connecting
    included. Connections are kept and used again.

    Raises ValueError, without the value in its text, for arguments that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        source_class: SourceClass,
        device_id: str,
        custody: Custody = Custody.LOCAL,
        ca_file: Path | None = None,
        fingerprint: str | None = None,
        timeout_s: float = 10.0,
        allow_plaintext: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.label = one_device(device_id, source_class, custody)
        self._url = appliance_url(url, allow_plaintext=allow_plaintext) / STREAM_PATH
        self._trust = _trust(ca_file, fingerprint)
        if self._url.scheme == "http" and self._trust is not True:
            raise ValueError("a CA bundle or fingerprint checks nothing over plain http://; use https://")
        self._timeout_s = timeout_s
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def read(self, size: int) -> bytes:
        """Return `size` bytes of the appliance.

        Raises SourceError, with `retry_after_s` (0 to 3600) after a 429 or 503 that named a time.
        Cancelled, it drops its connection.
        """
        if self._closed:
            raise SourceError("the source is closed")
        try:
            async with self._opened().get(self._url, params={"size": str(size)}, allow_redirects=False) as reply:
                self._check_head(reply, size)
                return await _body(reply, size)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            fault = _fault(error)
        # Raised out here, the error does not carry the other one, whose text may be the appliance's.
        raise SourceError(fault)

    async def close(self) -> None:
        """Close the connections; running reads end with SourceError."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._trust, limit=_MAX_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                headers={"Accept": "application/octet-stream", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_BUFFER_BYTES,
                trust_env=False,
            )
        return self._session

    def _check_head(self, reply: aiohttp.ClientResponse, size: int) -> None:
        if reply.status in (429, 503):
            wait_s = retry_after_s(reply.headers.get("Retry-After", ""), self._clock.now_ns())
            raise SourceError(f"the appliance answered with status {reply.status}", retry_after_s=wait_s)
        if reply.status != 200:
            raise SourceError(f"the appliance answered with status {reply.status}")
        if reply.content_type in _DOCUMENT_TYPES or reply.headers.get("Content-Encoding", "identity") != "identity":
            raise SourceError("the appliance answered with a document, not with raw bytes")
        if reply.content_length not in (None, size):
            raise SourceError(f"the appliance announced {reply.content_length} bytes where {size} were asked for")


def appliance_url(text: str, *, allow_plaintext: bool = False) -> URL:
    """Return the address of an appliance as a URL.

    Raises ValueError when it is none, carries a user name, query or fragment, or is `http://` to a host
    beyond loopback without `allow_plaintext`.
    """
    try:
        url = URL(text)
    except ValueError:
        raise ValueError("not a URL") from None
    if url.scheme not in ("https", "http") or not url.host:
        raise ValueError("expected https://HOST[:PORT]")
    if url.user is not None or url.password is not None or url.query_string or url.fragment:
        raise ValueError("a user name, query or fragment does not belong into the address of an appliance")
    if url.scheme == "http" and not allow_plaintext and not is_loopback(f"{url.host_subcomponent}:{url.port}"):
        raise ValueError("plain http:// is for loopback addresses only; use https://")
    return url


def retry_after_s(header: str, now_ns: int) -> float | None:
    """Read a Retry-After header (RFC 9110, section 10.2.3): seconds or an HTTP date.

    Returns 0 to 3600 seconds, or None when it is neither.
    """
    if header.isascii() and header.isdecimal() and len(header) < 20:
        return min(float(header), MAX_RETRY_AFTER_S)
    try:
        date = email.utils.parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    wait_s = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now_ns / NS_PER_S
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


async def _body(reply: aiohttp.ClientResponse, size: int) -> bytes:
    """Return the body. Takes one byte more than `size` at most, which is enough to know."""
    body = bytearray()
    while len(body) <= size and (part := await reply.content.read(size + 1 - len(body))):
        body += part
    if len(body) != size:
        answered = f"only {len(body)}" if len(body) < size else "more"
        raise SourceError(f"the appliance sent {answered} where {size} bytes were asked for")
    return bytes(body)


def _trust(ca_file: Path | None, fingerprint: str | None) -> bool | ssl.SSLContext | aiohttp.Fingerprint:
    if ca_file is not None and fingerprint is not None:
        raise ValueError("give a CA bundle or a fingerprint, not both")
    if fingerprint is not None:
        return _pin(fingerprint)
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"the CA bundle cannot be used ({type(error).__name__})") from None


def _pin(fingerprint: str) -> aiohttp.Fingerprint:
    try:
        digest = bytes.fromhex(fingerprint.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) != _FINGERPRINT_BYTES:
        raise ValueError("a fingerprint is a SHA-256: 64 hexadecimal digits, colons allowed")
    return aiohttp.Fingerprint(digest)


_FAULTS: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "the appliance did not answer in time"),
    (aiohttp.ServerFingerprintMismatch, "the certificate of the appliance is not the one whose fingerprint is set"),
    (aiohttp.ClientConnectorCertificateError, "the certificate of the appliance cannot be verified"),
    (aiohttp.ClientSSLError, "no TLS connection to the appliance"),
    (aiohttp.ClientConnectorDNSError, "the name of the appliance cannot be resolved"),
    (aiohttp.ClientConnectorError, "no connection to the appliance"),
    (aiohttp.ClientPayloadError, "the answer of the appliance broke off"),
    (aiohttp.ClientConnectionError, "the connection to the appliance broke off"),
    (aiohttp.ClientError, "the answer of the appliance is not HTTP"),
    (OSError, "the connection to the appliance broke off"),
)
"""What to say of an error of the HTTP library: the first match counts."""


def _fault(error: BaseException) -> str:
    return next(text for kind, text in _FAULTS if isinstance(error, kind))
