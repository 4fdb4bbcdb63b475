"""Any provider of random bytes over HTTP: an appliance in the laboratory, a service, a Vault.

Idea: a `Provider` of `qrng_grpc.sources.presets` says what is asked and how the answer is read; this source
carries it there and back. The answer is believed only when it is exactly what was asked for, from a server we
can name. Appliances usually carry a certificate of their own making, so there are three ways to know
them: the system's CAs, a CA bundle, or the SHA-256 fingerprint of the certificate itself. A
fingerprint is the strongest of them and replaces the other checks: it admits one certificate, whoever
issued it and whatever host name or dates it bears.

What a provider answers besides its bytes is not passed on: errors name the kind of fault and a
status code, in words of ours. Redirects are not followed, proxies and `.netrc` of the environment not
used, cookies not kept. A body is read no further than any right answer could go.
"""

from __future__ import annotations

import asyncio
import email.utils
import ssl
from collections.abc import Callable
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp
from pydantic import SecretStr
from yarl import URL

from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.config import is_loopback
from qrng_grpc.errors import SourceError
from qrng_grpc.files import shown_path
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import one_device
from qrng_grpc.sources.presets import PRESETS, Provider, Request
from qrng_grpc.tls import read_chain, read_key

MAX_RETRY_AFTER_S = 3600.0
"""A provider cannot send us away for longer than an hour."""

T = TypeVar("T")

_FINGERPRINT_BYTES = 32
_BUFFER_BYTES = 65_536
_MAX_CONNECTIONS = 4


class HttpSource:
    """Bytes of a provider, by default of a Quantis appliance, API 2.0.

    `url` is where the provider is, `https://HOST[:PORT]`, perhaps with a path its API lies under; None when the
    provider says so itself. Plain `http://` is taken for loopback addresses only, unless `allow_plaintext`.
    `key` is what the provider knows us by, where it wants one.

    At most one of `ca_file` (PEM) and `fingerprint` (64 hexadecimal digits, colons allowed) may be given.
    `client_cert_file` and `client_key_file` (mode 0600), in PEM, are what we show; not together with a
    fingerprint. `timeout_s` bounds a whole read, connecting included, however many requests it takes.
    Connections are kept and used again.

    Raises ValueError, without the value in its text, for arguments that cannot be used, and for a class that is
    better than the provider's.
    """

    def __init__(
        self,
        url: str | None,
        *,
        source_class: SourceClass,
        device_id: str,
        provider: Provider = PRESETS["quantis"],
        key: SecretStr | None = None,
        custody: Custody = Custody.LOCAL,
        ca_file: Path | None = None,
        fingerprint: str | None = None,
        client_cert_file: Path | None = None,
        client_key_file: Path | None = None,
        timeout_s: float = 10.0,
        allow_plaintext: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.label = one_device(device_id, source_class, custody)
        check_class(provider, source_class)
        self._provider = provider
        self._base = None if url is None else str(appliance_url(url, allow_plaintext=allow_plaintext))
        self._key = key
        self._trust = _trust(ca_file, fingerprint, client_cert_file, client_key_file)
        (asked, *_) = self._requests(1)
        if _checked(asked.url, allow_plaintext=allow_plaintext).scheme == "http" and self._trust is not True:
            raise ValueError("a CA bundle, fingerprint or client certificate does nothing over http://; use https://")
        self._timeout_s = timeout_s
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def read(self, size: int) -> bytes:
        """Return `size` bytes of the provider, at most its `max_read_bytes`.

        Raises SourceError, with `retry_after_s` (0 to 3600) after a 429 or 503 that named a time.
        What the provider gives beyond `size` is dropped. Cancelled, it drops its connection.
        """
        if self._closed:
            raise SourceError("the source is closed")
        requests = self._requests(size)
        try:
            async with asyncio.timeout(self._timeout_s):
                parts = [await self._answer(request) for request in requests]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            fault = _fault(error)
        else:
            return b"".join(parts)[:size]
        # Raised out here, the error does not carry the other one, whose text may be the provider's.
        raise SourceError(fault)

    async def close(self) -> None:
        """Close the connections; running reads end with SourceError."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _requests(self, size: int) -> tuple[Request, ...]:
        key = None if self._key is None else self._key.get_secret_value()
        return self._provider.requests(size, base=self._base, key=key)

    async def _answer(self, request: Request) -> bytes:
        async with self._opened().request(
            request.method,
            URL(request.url),
            headers=request.headers,
            data=request.body,
            allow_redirects=False,
        ) as reply:
            self._check_head(reply, request)
            return self._provider.read(request, await _body(reply, request.max_body_bytes))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._trust, limit=_MAX_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_BUFFER_BYTES,
                trust_env=False,
            )
        return self._session

    def _check_head(self, reply: aiohttp.ClientResponse, request: Request) -> None:
        if reply.status in (429, 503):
            wait_s = retry_after_s(reply.headers.get("Retry-After", ""), self._clock.now_ns())
            raise SourceError(f"the source answered with status {reply.status}", retry_after_s=wait_s)
        if reply.status != 200:
            raise SourceError(f"the source answered with status {reply.status}")
        encoded = reply.headers.get("Content-Encoding", "identity") != "identity"
        if encoded or reply.content_type in self._provider.refused_types:
            raise SourceError("the source answered with a document, not with random bytes")
        if reply.content_length is not None and reply.content_length > request.max_body_bytes:
            raise SourceError("the source announced a longer answer than any to this request")


def check_class(provider: Provider, source_class: SourceClass) -> None:
    """Raise ValueError when `source_class` is better than what the provider's bytes may be called."""
    if not provider.best_class.at_least(source_class):
        raise ValueError(f"bytes of {provider.name} are {provider.best_class.value} at best")


def appliance_url(text: str, *, allow_plaintext: bool = False) -> URL:
    """Return the address of a provider as a URL.

    Raises ValueError when it is none, carries a user name, query or fragment, or is `http://` to a host
    beyond loopback without `allow_plaintext`.
    """
    url = _checked(text, allow_plaintext=allow_plaintext)
    if url.query_string or url.fragment:
        raise ValueError("a user name, query or fragment does not belong into the address of a source")
    return url


def _checked(text: str, *, allow_plaintext: bool) -> URL:
    try:
        url = URL(text)
        # As it will be looked up: without empty labels, and none of more than 63 characters.
        (url.raw_host or "").encode("idna")
    except ValueError:  # UnicodeError is one
        raise ValueError("not a URL, or its host is none that can be looked up") from None
    if url.scheme not in ("https", "http") or not url.raw_host:
        raise ValueError("expected https://HOST[:PORT]")
    if url.user is not None or url.password is not None:
        raise ValueError("a user name, query or fragment does not belong into the address of a source")
    if url.scheme == "http" and not allow_plaintext and not is_loopback(f"{url.host_subcomponent}:{url.port}"):
        raise ValueError("plain http:// is for loopback addresses only; use https://")
    return url


def retry_after_s(header: str, now_ns: int) -> float | None:
    """Read a Retry-After header (RFC 9110, section 10.2.3): seconds or an HTTP date.

    Returns 0 to 3600 seconds, or None when it is neither.
    """
    if header.isascii() and header.isdecimal():
        return min(float(header), MAX_RETRY_AFTER_S)
    try:
        date = email.utils.parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    wait_s = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now_ns / NS_PER_S
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


async def _body(reply: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body. Takes one byte more than `most` at most, which is enough to know."""
    body = bytearray()
    while len(body) <= most and (part := await reply.content.read(most + 1 - len(body))):
        body += part
    return bytes(body)


def _trust(
    ca_file: Path | None, fingerprint: str | None, cert_file: Path | None, key_file: Path | None
) -> bool | ssl.SSLContext | aiohttp.Fingerprint:
    if (cert_file is None) != (key_file is None):
        raise ValueError("a client certificate and its key go together")
    if fingerprint is not None:
        if ca_file is not None:
            raise ValueError("give a CA bundle or a fingerprint, not both")
        if cert_file is not None:
            raise ValueError("a client certificate is shown to servers that CAs vouch for; give no fingerprint")
        return _pin(fingerprint)
    if ca_file is None and cert_file is None:
        return True
    context = _using("the CA bundle", ca_file, lambda: ssl.create_default_context(cafile=ca_file))
    if cert_file is not None and key_file is not None:
        read_key(key_file, read_chain(cert_file, "client"))
        load = partial(context.load_cert_chain, cert_file, key_file, password=_no_password)
        _using("the client certificate", cert_file, load)
    return context


def _using(what: str, path: Path | None, load: Callable[[], T]) -> T:
    try:
        return load()
    except ssl.SSLError as error:
        reason = error.reason or type(error).__name__
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ValueError(f"{what} cannot be used: {shown_path(path or '')} ({reason})")


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    return ""


def _pin(fingerprint: str) -> aiohttp.Fingerprint:
    try:
        digest = bytes.fromhex(fingerprint.replace(":", ""))
    except ValueError:
        digest = b""
    if len(digest) != _FINGERPRINT_BYTES:
        raise ValueError("a fingerprint is a SHA-256: 64 hexadecimal digits, colons allowed")
    return aiohttp.Fingerprint(digest)


_FAULTS: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "the source did not answer in time"),
    (aiohttp.ServerFingerprintMismatch, "the certificate of the source is not the one whose fingerprint is set"),
    (aiohttp.ClientConnectorCertificateError, "the certificate of the source cannot be verified"),
    (aiohttp.ClientSSLError, "no TLS connection to the source"),
    (aiohttp.ClientConnectorDNSError, "the name of the source cannot be resolved"),
    (aiohttp.ClientConnectorError, "no connection to the source"),
    (aiohttp.ClientPayloadError, "the answer of the source broke off"),
    (aiohttp.ClientConnectionError, "the connection to the source broke off"),
    (aiohttp.ClientError, "the answer of the source is not HTTP"),
    (OSError, "the connection to the source broke off"),
)
"""What to say of an error of the HTTP library: the first match counts."""


def _fault(error: BaseException) -> str:
    return next(text for kind, text in _FAULTS if isinstance(error, kind))
