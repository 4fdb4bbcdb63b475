"""Providers: how to ask somebody for random bytes over HTTP, as data.

Idea: providers differ in what they are asked, not in how: a URL and headers with a few places to fill
in, a size counted in their own units, and a reader for the answer. So a provider is a value, a preset
is such a value with a name, and one source speaks to all of them. Everything here is pure: from a size
to the requests that bring it, and from an answer's body to bytes.

Places to fill in, anywhere in `url`, `headers` and `body`:

    {base}       where the provider is, as in https://192.0.2.7, without a slash at its end
    {bytes}      how many bytes this request is for
    {units}      the same, in units of `unit_bytes`
    {challenge}  64 hexadecimal digits, new for each request
    {key}        the operator's key or token; not in the URL, since URLs end up in logs

Class and custody of a preset are limits. The operator may state a weaker class, never a better one. All
presets are REMOTE: only the operator knows whether an appliance or a Vault is his own, and says so.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources.readers import check_challenge, reader_named

MAX_REQUESTS = 64
"""The most requests one read may take."""

_PLACE = re.compile(r"\{(base|bytes|units|challenge|key)\}")
_ANY_PLACE = re.compile(r"\{[^}]*\}")
_LIKE_A_PLACE = re.compile(r"\{[A-Za-z_]+\}")
"""What is meant as a place where braces may stand for themselves, as in JSON."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_KEY = re.compile(r"[!#-\[\]-~]+")
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_ROOM_FOR_JSON_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request and what its answer must hold. Its URL and headers may carry what is not to be shown."""

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes | None = field(repr=False)
    size: int
    """Bytes that must be in the answer."""
    max_body_bytes: int
    """A longer body is no answer to this request."""
    challenge: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Provider:
    """How to ask one kind of provider. Raises ValueError for templates, readers or sizes that cannot be used."""

    name: str
    url: str
    reader: str
    """The name of a reader, as in `qrng_grpc.sources.readers`."""
    best_class: SourceClass
    """The best class its bytes may be labelled with."""
    base: str | None = None
    """Where the provider is, unless the operator says otherwise; None: the operator must say."""
    method: Literal["GET", "POST"] = "GET"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: str | None = field(default=None, repr=False)
    unit_bytes: int = 1
    """Requests bring multiples of this."""
    max_units: int = MAX_CHUNK_BYTES
    """The most units one request may bring."""
    custody: Custody = Custody.REMOTE
    """What holds unless the operator vouches for better."""
    proves_challenge: bool = False
    """Whether the first line of the answer must be the SHA-512 of the challenge."""

    def __post_init__(self) -> None:
        """Refuse what could not be sent or read."""
        reader_named(self.reader)
        if not self.url.startswith(("{base}", "https://", "http://")):
            raise ValueError("a URL template begins with {base}, https:// or http://")
        if "{key}" in self.url or set(_ANY_PLACE.findall(self.url)) != {f"{{{p}}}" for p in _PLACE.findall(self.url)}:
            raise ValueError("a URL template may hold {base}, {bytes}, {units} and {challenge}")
        if not all(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value) for name, value in self.headers):
            raise ValueError("a header needs a name and a value of printable ASCII")
        for text in self._beside_the_url:
            if not all(_PLACE.fullmatch(place) for place in _LIKE_A_PLACE.findall(text)):
                raise ValueError("a header or body may hold {base}, {bytes}, {units}, {challenge} and {key}")
        if self.max_units > 1 and not self._says_how_many:
            raise ValueError("a request says {bytes} or {units} somewhere, unless max_units is 1")
        if self.unit_bytes < 1 or self.max_units < 1:
            raise ValueError("units have at least one byte, and a request at least one unit")
        if self.proves_challenge and "{challenge}" not in self.url:
            raise ValueError("a challenge that is not sent cannot be answered")

    @property
    def needs_base(self) -> bool:
        """Whether the operator must say where the provider is."""
        return self.base is None and "{base}" in self.url

    @property
    def needs_key(self) -> bool:
        """Whether a key belongs into the requests."""
        return any("{key}" in text for text in self._beside_the_url)

    @property
    def max_request_bytes(self) -> int:
        """The most bytes a read may ask for that is to be one request, at most 1 MiB."""
        return min(self.max_units * self.unit_bytes, MAX_CHUNK_BYTES)

    @property
    def max_read_bytes(self) -> int:
        """The most bytes one read may ask for, at most 1 MiB."""
        return min(MAX_REQUESTS * self.max_units * self.unit_bytes, MAX_CHUNK_BYTES)

    @property
    def accepts(self) -> str:
        """The Accept header that goes with the reader."""
        if self.reader == "raw":
            return "application/octet-stream"
        return "application/json" if self._reads_json else "text/plain"

    @property
    def refused_types(self) -> frozenset[str]:
        """Media types of answers that hold no random bytes, whatever their body looks like."""
        return _PAGES if self._reads_json else _PAGES | {"application/json"}

    @property
    def _beside_the_url(self) -> tuple[str, ...]:
        return (self.body or "", *(value for _, value in self.headers))

    @property
    def _says_how_many(self) -> bool:
        return any(place in text for place in ("{bytes}", "{units}") for text in (self.url, *self._beside_the_url))

    @property
    def _reads_json(self) -> bool:
        return self.reader.startswith("json")

    def requests(
        self,
        size: int,
        *,
        base: str | None = None,
        key: str | None = None,
        new_challenge: Callable[[], str] = lambda: secrets.token_hex(32),
    ) -> tuple[Request, ...]:
        """Return the requests that together bring at least `size` bytes, and less than one unit more.

        Raises SourceError when they would be more than `MAX_REQUESTS`, and ValueError, without the value in
        its text, for a base or key that is missing, not wanted or not usable.
        """
        base, key = self._checked_base(base), self._checked_key(key)
        units = -(-size // self.unit_bytes)
        if not 1 <= units <= MAX_REQUESTS * self.max_units:
            raise SourceError(f"the provider brings 1 to {self.max_read_bytes} bytes a read")
        full, rest = divmod(units, self.max_units)
        shares = [self.max_units] * full + [rest] * (rest > 0)
        return tuple(self._request(share, base, key, new_challenge()) for share in shares)

    def read(self, request: Request, body: bytes) -> bytes:
        """Return the `request.size` bytes in the body of its answer. Raises SourceError."""
        if len(body) > request.max_body_bytes:
            raise SourceError("the answer is longer than any answer to this request")
        if self.proves_challenge:
            check_challenge(body, request.challenge)
        return reader_named(self.reader)(body, request.size)

    def _request(self, units: int, base: str, key: str, challenge: str) -> Request:
        size = units * self.unit_bytes
        values = {"base": base, "bytes": str(size), "units": str(units), "challenge": challenge, "key": key}
        headers = tuple((name, _filled(value, values)) for name, value in self.headers)
        return Request(
            method=self.method,
            url=_filled(self.url, values),
            headers=(("Accept", self.accepts), *headers),
            body=None if self.body is None else _filled(self.body, values).encode(),
            size=size,
            max_body_bytes=self._max_body_bytes(size),
            challenge=challenge,
        )

    def _max_body_bytes(self, size: int) -> int:
        """Bound the body: no packing takes more than eight characters a byte, and documents say a little more."""
        return size if self.reader == "raw" else 8 * size + _ROOM_FOR_JSON_BYTES

    def _checked_base(self, base: str | None) -> str:
        if base is not None and "{base}" not in self.url:
            raise ValueError("the provider has a fixed URL")
        if base is None and self.needs_base:
            raise ValueError("the provider needs the URL it is reached under")
        return (base or self.base or "").rstrip("/")

    def _checked_key(self, key: str | None) -> str:
        if (key is not None) != self.needs_key:
            raise ValueError("the provider needs a key" if self.needs_key else "the provider takes no key")
        if key is not None and not _KEY.fullmatch(key):
            raise ValueError("a key has printable ASCII characters, without spaces, quotation marks and backslashes")
        return key or ""


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: values[place[1]], template)


_PRESETS = (
    # A laboratory's appliance, API 2.0; its certificate is usually of its own making.
    Provider("quantis", "{base}/api/2.0/streambytes?size={bytes}", "raw", SourceClass.QUANTUM),
    # The Australian National University. A block of `size` words of 16 bits is one entry: here 16 bytes.
    Provider(
        "anu",
        "{base}/?length={units}&type=hex16&size=8",
        "json-array:data:hex",
        SourceClass.QUANTUM,
        base="https://api.quantumnumbers.anu.edu.au",
        headers=(("x-api-key", "{key}"),),
        unit_bytes=16,
        max_units=1024,
    ),
    Provider(
        "lfd",
        "{base}/qrng_api/qrng?length={bytes}&format=HEX",
        "json:qrn:hex",
        SourceClass.QUANTUM,
        base="https://lfdr.de",
        max_units=1024,
    ),
    # Entries of 1 KiB, of which a request may ask for 512.
    Provider(
        "qrypt",
        "{base}/api/v1/quantum-entropy?size={units}",
        "json-array:random:base64",
        SourceClass.QUANTUM,
        base="https://api-eus.qrypt.com",
        headers=(("Authorization", "Bearer {key}"),),
        unit_bytes=1024,
        max_units=512,
    ),
    # Vault and OpenBao hand out the randomness of their operating system, at most 128 KiB a request.
    Provider(
        "vault",
        "{base}/v1/sys/tools/random/{bytes}",
        "json:data.random_bytes:hex",
        SourceClass.OPERATING_SYSTEM,
        method="POST",
        headers=(("X-Vault-Token", "{key}"), ("Content-Type", "application/json")),
        body='{"format":"hex"}',
        max_units=131_072,
    ),
    # One SHA-512 over the challenge and what the server read from its random device.
    Provider(
        "pollen",
        "{base}/?challenge={challenge}",
        "line:2:hex",
        SourceClass.OPERATING_SYSTEM,
        unit_bytes=64,
        max_units=1,
        proves_challenge=True,
    ),
)
PRESETS: Mapping[str, Provider] = {provider.name: provider for provider in _PRESETS}
"""The providers we know, by name."""
