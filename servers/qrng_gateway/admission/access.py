"""Who may have entropy: API keys and client certificates, and the client that each stands for.

Idea: the gateway keeps SHA-256 digests of its keys, not the keys. A presented key is hashed, and a keyed hash of
that, under a secret that this process made up, is looked up among those of all keys. So the cost is the
same for one key and for thousands, and time tells nothing: what is compared is unrelated to what was
presented for anyone who does not have the secret, so that a key which is nearly right is as far off as any
other, and no sequence of guesses comes closer. Revoked keys are not among those looked up, and go the way
of unknown ones.

A certificate names its client by the URI in it and by nothing else; that its authority is trusted, TLS has
seen to. A call that brings both a key and a certificate with a URI must mean the same client by both.
A call carries exactly one key, or none beside a certificate. All else is refused with the same words.

Clients come from the settings (`api_keys`, each a client of its own, with an id derived from the key) and from a
file of records, which may change at any time. A file that vanishes or cannot be used leaves the last usable
records in force.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, digest_of, read_client_file
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import AuthenticationError, ConfigError
from qrng_grpc.files import Watched
from qrng_grpc.logs import get_log

API_KEY = "api-key"
AUTHORIZATION = "authorization"
_DAY_NS = 86_400 * NS_PER_S
ENDS_SOON_NS = 7 * _DAY_NS
"""A client whose last key ends sooner, or ended at most so long ago, is worth a warning."""

_BEARER = "bearer"
_ID_DOMAIN = b"qrng client id\x00"
_ID_DIGITS = 12
_PEER_URI = "peer_uri"
"""Where grpc has the URIs of a peer's certificate. (`peer_identities()` mixes them with its other names.)"""

_Grant = tuple[Client, int | None]
"""A client, and when what was presented stops standing for it, in nanoseconds of Unix time."""


@dataclass(frozen=True, slots=True)
class _Grants:
    """What opens this gateway: keys by their tags, and URIs."""

    by_tag: dict[bytes, _Grant]
    by_uri: dict[str, _Grant]
    by_id: dict[str, _Grant]
    clients: tuple[Client, ...]
    ends: tuple[tuple[str, int], ...]
    """The clients that will not come in for ever, and when that ends."""


class Access:
    """The clients of this gateway.

    `keys` are those of the settings, `file` has records, `key_name` is the metadata name and HTTP header of a
    key. With `certificates` the listeners ask clients for certificates. Raises ConfigError when the file is not
    usable, or has a key or an id of the settings too.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        *,
        file: Path | None = None,
        key_name: str = API_KEY,
        certificates: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.key_name = key_name
        self._certificates = certificates
        self._clock = clock
        self._keyed = hashlib.blake2s(key=secrets.token_bytes(32))
        self._fixed = tuple(map(client_of_key, keys))
        self._file = None if file is None else Watched((file,), lambda: self._read(file), _complain)
        self._grants = self._granted()

    def clients(self) -> tuple[Client, ...]:
        """Return all that are not revoked, those of the settings first; another tuple after each change."""
        return self._grants.clients

    @property
    def mistakes(self) -> tuple[str, ...]:
        """What is wrong with the file as it is now; empty when what it holds is in force."""
        return self._file.mistakes if self._file is not None else ()

    def warnings(self) -> Iterator[str]:
        """Yield what an operator should know: a file that cannot be used, and clients that soon cannot come in."""
        if self.mistakes:
            yield "the file of client keys cannot be used; the last usable records stay in force"
        now_ns = self._clock.now_ns()
        for client_id, end_ns in self._grants.ends:
            if abs(end_ns - now_ns) <= ENDS_SOON_NS:
                left_days = (end_ns - now_ns) / _DAY_NS
                when = f"ends in {left_days:.1f} days" if left_days > 0 else "has ended"
                yield f"the access of client {client_id} {when}"

    def look(self) -> bool:
        """Take a change of the file that has stood still since the last look. Say whether clients changed."""
        return self._file is not None and self._file.look() and self._changed()

    def reload(self) -> bool:
        """Take what the file holds now, if it is usable. Say whether clients changed."""
        return self._file is not None and self._file.reload() and self._changed()

    def client_calling(self, context: grpc.aio.ServicerContext[Any, Any]) -> Client:
        """Return who makes the gRPC call of `context`. Raises AuthenticationError."""
        uri = None
        if self._certificates:
            uris = context.auth_context().get(_PEER_URI, ())
            uri = certified_uri([uri.decode("ascii", "replace") for uri in uris])
        return self.identify(self.presented(context.invocation_metadata()), uri)

    def presented(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> list[str]:
        """Return the keys in the metadata of a gRPC call."""
        keys = []
        for name, value in metadata or ():
            if name == self.key_name:
                keys.append(str(value))
            elif name == AUTHORIZATION:
                keys.append(bearer_key(str(value)))
        return keys

    def identify(self, presented: Sequence[str], uri: str | None = None) -> Client:
        """Return the client that `presented`, the keys of a call, and `uri`, that of its certificate, stand for.

        Raises AuthenticationError unless all that is there names one client, and that client may still come in.
        """
        if not presented:
            return self._named(uri)
        if len(presented) != 1 or not presented[0]:
            raise _refusal()
        client = self._in_force(self._grants.by_tag.get(self._tag(digest_of(presented[0]))))
        if uri is not None and self._named(uri) is not client:
            raise _refusal()
        return client

    def current(self, client: Client) -> Client:
        """Return what a client that came in earlier is by now, as its record says. For streams, which last.

        Raises AuthenticationError once it is revoked or gone, or the last of its keys and its certificate's URI ended.
        """
        return self._in_force(self._grants.by_id.get(client.client_id))

    def _named(self, uri: str | None) -> Client:
        return self._in_force(None if uri is None else self._grants.by_uri.get(uri))

    def _in_force(self, grant: _Grant | None) -> Client:
        if grant is None or (grant[1] is not None and grant[1] <= self._clock.now_ns()):
            raise _refusal()
        return grant[0]

    def _tag(self, digest: bytes) -> bytes:
        # Keyed BLAKE2 is a pseudo-random function, as HMAC is, at a fifth of its time. Without the secret nobody can
        # tell the tag of a guess, let alone steer it: neither the place in the dict nor how many bytes of two tags
        # agree, which is all that a lookup's time depends on, says anything of how near the guess was.
        keyed = self._keyed.copy()
        keyed.update(digest)
        return keyed.digest()

    def _changed(self) -> bool:
        self._grants = self._granted()
        get_log().info("client_keys_reloaded", clients=len(self._grants.clients))
        return True

    def _granted(self) -> _Grants:
        records = self._fixed + (self._file.value if self._file is not None else ())
        valid = [record for record in records if not record.revoked]
        ends = [(record.client.client_id, _end_ns(record)) for record in valid]
        return _Grants(
            {self._tag(key.digest): _grant(record.client, key) for record in valid for key in record.keys},
            {record.uri: _grant(record.client) for record in valid if record.uri is not None},
            {record.client.client_id: (record.client, _end_ns(record)) for record in valid},
            tuple(record.client for record in valid),
            tuple((client_id, end_ns) for client_id, end_ns in ends if end_ns is not None),
        )

    def _read(self, file: Path) -> tuple[ClientRecord, ...]:
        """Return the records of the file. Raises ConfigError when they cannot be in force beside the settings' keys."""
        records = read_client_file(file)
        mistakes = mixed_up(self._fixed, records)
        if mistakes:
            raise ConfigError([f"{file}: {mistake}" for mistake in mistakes])
        return records


def bearer_key(authorization: str) -> str:
    """Return the key in an `authorization` value of the form `Bearer KEY`; empty when it has another form."""
    scheme, _, key = authorization.partition(" ")
    return key.strip(" ") if scheme.lower() == _BEARER else ""


def certified_uri(uris: Sequence[str]) -> str | None:
    """Return the URI that a certificate names its holder by, None without one.

    Raises AuthenticationError when there are several, of which none is more right than the others.
    """
    if len(uris) > 1:
        raise _refusal()
    return uris[0] if uris else None


def uris_of(certificate: Mapping[str, Any] | None) -> list[str]:
    """Return the URIs in a certificate as `ssl.SSLSocket.getpeercert` describes it."""
    return [str(name) for kind, name in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]


def client_of_key(key: str) -> ClientRecord:
    """Return the client that a key in the settings stands for. Its id does not give the key away."""
    digest = digest_of(key)
    client_id = "client-" + hashlib.sha256(_ID_DOMAIN + digest).hexdigest()[:_ID_DIGITS]
    return ClientRecord(Client(client_id), (KeyDigest(digest),))


def mixed_up(fixed: Iterable[ClientRecord], records: Iterable[ClientRecord]) -> list[str]:
    """Return a mistake for each of `records` with an id or a key of `fixed`, whose revocation would be in vain."""
    fixed = tuple(fixed)
    ids = {record.client.client_id for record in fixed}
    digests = {key.digest for record in fixed for key in record.keys}
    return [
        f"client {record.client.client_id} has its id or a key from api_keys"
        for record in records
        if record.client.client_id in ids or any(key.digest in digests for key in record.keys)
    ]


def _grant(client: Client, key: KeyDigest | None = None) -> _Grant:
    ends = [end for end in (client.not_after_ns, key.not_after_ns if key else None) if end is not None]
    return client, min(ends, default=None)


def _end_ns(record: ClientRecord) -> int | None:
    """Return when nothing will let a client in any more, None for never."""
    ways = [_grant(record.client, key)[1] for key in record.keys]
    if record.uri is not None:
        ways.append(record.client.not_after_ns)
    ends = [end for end in ways if end is not None]
    return max(ends, default=None) if len(ends) == len(ways) else None


def _complain(mistakes: tuple[str, ...]) -> None:
    get_log().error("client_keys_not_reloaded", mistakes=mistakes)


def _refusal() -> AuthenticationError:
    return AuthenticationError("a valid API key is required")
