"""Who may have entropy, as records in a file.

Idea: a client is known by an id that its keys and its certificate stand for, so that keys come and go and the
client, its limits and its share stay. The file holds the SHA-256 of each key and never a key: whoever reads it
can open nothing, since keys are made of 256 random bits. Whoever can change it can let himself in, so a file
that others may write to is refused. It is read strictly, with every mistake at once, and written as a
whole by `qrng keys`.

What a file with a mistake grants counts for nothing. What it takes away may be the very reason why it was
written, in haste, so that counts wherever it can be made out: `withdrawn_by`.

    clients:
      - id: lab-sampler                      # in logs, counters and the line; never a secret
        label: the sampler in room 3         # for people
        keys:                                # up to 16, each by the SHA-256 of its text
          - sha256: "9f86d0..."
            not_after: 2027-01-01T00:00:00Z  # until when this key opens; without it, for ever
        uri: spiffe://qrng/client/sampler    # the URI in its certificate
        not_after: 2028-01-01T00:00:00Z      # until when the client is served; without it, for ever
        revoked: false
        least_class: quantum                 # the weakest class of source it is served
        methods: [qrng.v1.EntropyService/*, GET /api/random]    # without it, all
        weight: 1                            # its share in the line, 1 to 1000
        reserved_bytes: 0                    # bytes of the pool that are kept for it
        limits:                              # each without a number: the gateway's default
          requests_per_s: 100
          bytes_per_s: 1000000
          bytes_per_day: 100000000
          streams: 4
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from qrng_grpc.chunk import checked_id
from qrng_grpc.errors import StateError
from qrng_grpc.files import refuse_foreign, replace_whole
from qrng_grpc.labels import SourceClass
from qrng_grpc.moments import Moment, rfc_3339
from qrng_grpc.record_files import Part, RecordFiles, RecordPart, doubled
from qrng_grpc.wording import reason_of

API_KEY = "api-key"
AUTHORIZATION = "authorization"
MAX_RECORDS = 10_000
MAX_KEYS = 16
"""The most keys of one client."""
MAX_WEIGHT = 1000
KEY_BYTES = 32
"""Random bytes in a key that `new_key` makes."""

_NEW_FILE_MODE = 0o640
_BEARER = "bearer"
_FINGERPRINT_DIGITS = 12
_MAX_BYTES = 1 << 50
_MIN_RATE, _MAX_RATE = 0.001, 1_000_000.0
_MAX_STREAMS = 1_000_000
_MAX_URI = 1024
_MAX_LABEL = 200
_HEADER = "# Written by `qrng keys`, which keeps no comments. It holds no key, only their SHA-256.\n"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
# A gRPC method with its service, or an HTTP method with a path; or the beginning of either, and a star.
_METHOD = re.compile(
    r"(?:[A-Z]+ /[!-)+-~]*|[A-Za-z_][\w.]*/\w+)|(?:[A-Z]+ (?:/[!-)+-~]*)?|[A-Za-z_][\w.]*(?:/\w*)?)?\*", re.A
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. None stands for the gateway's default."""

    requests_per_s: float | None = None
    bytes_per_s: int | None = None
    bytes_per_day: int | None = None
    streams: int | None = None
    """Streams that it may have open at once."""


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody who is served. `client_id` is safe to log, to count and to queue by."""

    client_id: str
    label: str = ""
    limits: Limits = Limits()
    least_class: SourceClass | None = None
    """The weakest class of source it is served; None leaves it to the gateway and the request."""
    methods: frozenset[str] | None = None
    """What it may call, as `allows` reads it; None is everything."""
    weight: int = 1
    """Its share of scarce bytes, 1 to 1000."""
    reserved_bytes: int = 0
    not_after_ns: int | None = None
    """When it stops being served, in nanoseconds of Unix time; None is never."""

    def allows(self, method: str) -> bool:
        """Say whether it may call `method`, such as `qrng.v1.EntropyService/GetEntropy` or `GET /api/random`."""
        if self.methods is None or method in self.methods:
            return True
        return any(name[-1] == "*" and method.startswith(name[:-1]) for name in self.methods)


@dataclass(frozen=True, slots=True)
class KeyDigest:
    """A key as a record has it: the SHA-256 of its text, and when it ends (None is never)."""

    digest: bytes = field(repr=False)
    not_after_ns: int | None = None

    @property
    def fingerprint(self) -> str:
        """Digits that tell keys apart for people."""
        return self.digest.hex()[:_FINGERPRINT_DIGITS]


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client and what it is known by: its keys, the URI in its certificate, or both."""

    client: Client
    keys: tuple[KeyDigest, ...] = ()
    uri: str | None = None
    revoked: bool = False

    def narrowed_to(self, other: ClientRecord) -> ClientRecord:
        """Return this record without the keys, the URI and the time that `other` does not give the client too."""
        ends = {key.digest: key.not_after_ns for key in other.keys}
        keys = tuple(
            replace(key, not_after_ns=_earlier(key.not_after_ns, ends[key.digest]))
            for key in self.keys
            if key.digest in ends
        )
        client = replace(self.client, not_after_ns=_earlier(self.client.not_after_ns, other.client.not_after_ns))
        uri = self.uri if self.uri == other.uri else None
        return ClientRecord(client, keys, uri, self.revoked or other.revoked)


def _earlier(one_ns: int | None, other_ns: int | None) -> int | None:
    """Return the earlier of two ends, of which None is never."""
    return min((end_ns for end_ns in (one_ns, other_ns) if end_ns is not None), default=None)


def new_key() -> str:
    """Make a key of 256 bits, in letters, digits, `-` and `_`."""
    return secrets.token_urlsafe(KEY_BYTES)


def presented_keys(metadata: Iterable[tuple[str, str | bytes]] | None, key_name: str = API_KEY) -> list[str]:
    """Return the keys in the metadata of a gRPC call, which go by `key_name` or are in an `authorization`."""
    keys = []
    for name, value in metadata or ():
        if name == key_name:
            keys.append(str(value))
        elif name == AUTHORIZATION:
            keys.append(bearer_key(str(value)))
    return keys


def bearer_key(authorization: str) -> str:
    """Return the key in an `authorization` value of the form `Bearer KEY`; empty when it has another form."""
    scheme, _, key = authorization.partition(" ")
    return key.strip(" ") if scheme.lower() == _BEARER else ""


def digest_of(key: str) -> bytes:
    """Return what a record has of `key`."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_uri(text: str) -> bool:
    """Say whether `text` can be the URI of a record and of a certificate: ASCII, at most 1024 characters."""
    return len(text) <= _MAX_URI and _URI.fullmatch(text) is not None


def read_client_file(path: Path) -> tuple[ClientRecord, ...]:
    """Return the records of a file, which may be none when it says so: `clients: []`.

    Raises ConfigError with every mistake.
    """
    return _FILES.records_in(_FILES.content_of(path, refuse_foreign), path)


def withdrawn_by(path: Path, records: Sequence[ClientRecord]) -> tuple[ClientRecord, ...]:
    """Return `records` without what a file takes from them that is not usable as a whole; nothing is granted.

    As `RecordFiles.withdrawn_by` has it.
    """
    return _FILES.withdrawn_by(path, records)


def revoke_in_unusable_file(client_id: str, path: Path) -> bool:
    """Set `revoked: true` in the records of a client, in a file that has mistakes, and leave all else as it is.

    Say whether there is such a record and the file is now so. Raises ConfigError when the file is no list of records,
    or one that others can change, StateError when it cannot be written.
    """
    with _turn_in(path.resolve().parent):
        content = _FILES.content_of(path, refuse_foreign)
        listed = content.get("clients")
        entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        theirs = [entry for entry in entries if entry.get("id") == client_id]
        for entry in theirs:
            entry["revoked"] = True
        if theirs:
            _write(path, content)
        return bool(theirs)


@contextmanager
def changing_client_file(path: Path) -> Iterator[list[ClientRecord]]:
    """Yield the records of a file for the block to change, none where there is no file; then write it, if it changed.

    Blocks that change files of one directory take turns. Raises ConfigError when the file is not usable, or would
    not be with the change, StateError when it cannot be written. If the block raises, nothing is written.
    """
    with _turn_in(path.resolve().parent):
        before = read_client_file(path) if path.exists() else ()
        records = list(before)
        yield records
        if tuple(records) == before and path.exists():
            return
        content = {"clients": [_entry_of(record) for record in records]}
        _FILES.records_in(content, path)
        _write(path, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        replace_whole(path, _text_of(content).encode(), new_mode=_NEW_FILE_MODE)
    except OSError as error:
        raise StateError(f"{path} cannot be written ({reason_of(error)}); it is as it was") from None


@contextmanager
def _turn_in(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory; a file's own would go with the file that is replaced."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"{directory} cannot be used ({reason_of(error)})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _text_of(content: dict[str, Any]) -> str:
    return _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _checked_sha256(text: str) -> str:
    if not _SHA256.fullmatch(text.lower()):
        raise ValueError("expected 64 hexadecimal digits, the SHA-256 of a key")
    return text.lower()


def _checked_uri(text: str) -> str:
    if not is_uri(text):
        raise ValueError("expected a URI in ASCII, as in spiffe://qrng/client/lab-1")
    return text


def _checked_method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        raise ValueError("expected a method, as in qrng.v1.EntropyService/GetEntropy or GET /api/random; * ends some")
    return text


def _checked_label(text: str) -> str:
    if not text.isprintable() or len(text) > _MAX_LABEL:
        raise ValueError(f"expected at most {_MAX_LABEL} printable characters")
    return text


def _some(methods: tuple[str, ...]) -> tuple[str, ...]:
    if not methods:
        raise ValueError("expected at least one, or no such line for everything")
    return methods


_Method = Annotated[str, AfterValidator(_checked_method)]
_Bytes = Annotated[int, Field(strict=True, ge=1, le=_MAX_BYTES)]


class _KeyPart(Part):
    sha256: Annotated[str, AfterValidator(_checked_sha256)]
    not_after: Moment = None


class _LimitsPart(Part):
    requests_per_s: Annotated[float, Field(strict=True, ge=_MIN_RATE, le=_MAX_RATE, allow_inf_nan=False)] | None = None
    bytes_per_s: _Bytes | None = None
    bytes_per_day: _Bytes | None = None
    streams: Annotated[int, Field(strict=True, ge=1, le=_MAX_STREAMS)] | None = None


class _ClientPart(RecordPart[ClientRecord]):
    id: Annotated[str, AfterValidator(checked_id)]
    label: Annotated[str, AfterValidator(_checked_label)] = ""
    keys: Annotated[tuple[_KeyPart, ...], Field(max_length=MAX_KEYS)] = ()
    uri: Annotated[str, AfterValidator(_checked_uri)] | None = None
    not_after: Moment = None
    revoked: Annotated[bool, Field(strict=True)] = False
    least_class: SourceClass | None = None
    methods: Annotated[tuple[_Method, ...], AfterValidator(_some)] | None = None
    weight: Annotated[int, Field(strict=True, ge=1, le=MAX_WEIGHT)] = 1
    reserved_bytes: Annotated[int, Field(strict=True, ge=0, le=_MAX_BYTES)] = 0
    limits: _LimitsPart = _LimitsPart()

    def record(self) -> ClientRecord:
        """Return the record. Raises ValueError when its parts do not go together."""
        if not self.keys and self.uri is None:
            raise ValueError("expected keys, a uri, or both: nobody could be this client")
        client = Client(
            client_id=self.id,
            label=self.label,
            limits=Limits(**self.limits.model_dump()),
            least_class=self.least_class,
            methods=None if self.methods is None else frozenset(self.methods),
            weight=self.weight,
            reserved_bytes=self.reserved_bytes,
            not_after_ns=self.not_after,
        )
        keys = tuple(KeyDigest(bytes.fromhex(key.sha256), key.not_after) for key in self.keys)
        return ClientRecord(client, keys, self.uri, self.revoked)


def _entry_of(record: ClientRecord) -> dict[str, Any]:
    """Return a record as it stands in a file, without what is by default."""
    client = record.client
    entry = {
        "label": client.label,
        "keys": [_key_entry_of(key) for key in record.keys],
        "uri": record.uri,
        "not_after": _moment_of(client.not_after_ns),
        "revoked": record.revoked,
        "least_class": client.least_class and client.least_class.value,
        "methods": client.methods and sorted(client.methods),
        "weight": None if client.weight == 1 else client.weight,
        "reserved_bytes": client.reserved_bytes,
        "limits": {name: value for name, value in asdict(client.limits).items() if value is not None},
    }
    return {"id": client.client_id, **{name: value for name, value in entry.items() if value}}


def _key_entry_of(key: KeyDigest) -> dict[str, str]:
    entry = {"sha256": key.digest.hex()}
    return entry if key.not_after_ns is None else entry | {"not_after": rfc_3339(key.not_after_ns)}


def _moment_of(unix_ns: int | None) -> str | None:
    return None if unix_ns is None else rfc_3339(unix_ns)


def _clashes(records: Sequence[ClientRecord]) -> Iterator[str]:
    """Yield a mistake for each id, key and URI that stands for more than one client, or twice for one."""
    for client_id in doubled(record.client.client_id for record in records):
        yield f"two records share the id {client_id}"
    for fingerprint in doubled(key.fingerprint for record in records for key in record.keys):
        yield f"the key {fingerprint} is there twice"
    for uri in doubled(record.uri for record in records if record.uri is not None):
        yield f"two records share the uri {uri}"


_FILES = RecordFiles("clients", MAX_RECORDS, _ClientPart, attrgetter("client.client_id"), _clashes)
