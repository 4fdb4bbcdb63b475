"""Who may have entropy: API keys and client certificates, and the client that each stands for.

Idea: the gateway keeps SHA-256 digests of its keys, not the keys. A presented key is hashed, and a keyed hash of
that, under a secret that this process made up, is looked up among those of all keys; one that opened lately is known
by a keyed hash of itself, which takes less. So the cost is the
same for one key and for thousands, and time tells nothing: what is compared is unrelated to what was
presented for anyone who does not have the secret, so that a key which is nearly right is as far off as any
other, and no sequence of guesses comes closer. Revoked keys are not among those looked up, and go the way
of unknown ones.

A certificate names its client by the URI in it and by nothing else; that its authority is trusted, TLS has
seen to. A call that brings both a key and a certificate with a URI must mean the same client by both.
A call carries exactly one key, or none beside a certificate. All else is refused with the same words.

Clients come from the settings (`api_keys`, each a client of its own, with an id derived from the key) and from a
file of records, which may change at any time. A file that vanishes or cannot be used leaves the last usable
records in force, but for what it takes away and that can be made out: who revokes a client must not fail because
of a mistake in the next record.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio

from qrng_grpc.client_keys import (
    API_KEY,
    Client,
    ClientRecord,
    KeyDigest,
    digest_of,
    presented_keys,
    read_client_file,
    withdrawn_by,
)
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import AuthenticationError, ConfigError
from qrng_grpc.files import Watched
from qrng_grpc.logs import get_log

_DAY_NS = 86_400 * NS_PER_S
_KEPT_KEYS = 16_384
"""Keys that opened lately and whose tags are kept: more than there may be records."""
ENDS_SOON_NS = 7 * _DAY_NS
"""A client whose last key ends sooner, or ended at most so long ago, is worth a warning."""

_ID_DOMAIN = b"qrng client id\x00"
_ID_DIGITS = 12
_PEER_URI = "peer_uri"
"""Where grpc has the URIs of a peer's certificate. (`peer_identities()` mixes them with its other names.)"""


@dataclass(frozen=True, slots=True)
class Pass:
    """A client that was let in, and by what, so that a stream ends with the very key that opened it."""

    client: Client
    not_after_ns: int | None = None
    """When it stops letting in, in nanoseconds of Unix time; None is never."""
    tag: bytes | None = field(default=None, repr=False)
    """Stands for the key that was presented, None for none."""
    uri: str | None = None
    """The URI in the certificate that was presented, where it names a client."""


@dataclass(frozen=True, slots=True)
class _Grants:
    """What opens this gateway: keys by their tags, and URIs."""

    by_tag: dict[bytes | None, Pass]
    """None is no tag."""
    by_uri: dict[str, Pass]
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
        # The tags of keys that opened, by the keyed hash of the keys themselves. Whether a tag still opens, and whom
        # to, is not kept but looked up each time.
        self._tags: dict[bytes, bytes] = {}
        self._fixed = tuple(map(client_of_key, keys))
        self._records: tuple[ClientRecord, ...] = ()
        """Those of the file that are in force."""
        self._left: tuple[ClientRecord, ...] = ()
        """What the file, when it was last found unusable, left of them."""
        self._file = None if file is None else Watched((file,), lambda: self._read(file), _complain)
        if self._file is not None:
            self._records = self._file.value
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
        if self._file is None:
            return False
        self._file.look()
        return self._follow(self._file)

    def reload(self) -> bool:
        """Take what the file holds now, if it is usable. Say whether clients changed."""
        if self._file is None:
            return False
        self._file.reload()
        return self._follow(self._file)

    def client_calling(self, context: grpc.aio.ServicerContext[Any, Any]) -> Pass:
        """Return who makes the gRPC call of `context`. Raises AuthenticationError."""
        uri = None
        if self._certificates:
            uris = context.auth_context().get(_PEER_URI, ())
            uri = certified_uri([uri.decode("ascii", "replace") for uri in uris])
        return self.identify(presented_keys(context.invocation_metadata(), self.key_name), uri)

    def identify(self, presented: Sequence[str], uri: str | None = None) -> Pass:
        """Let in the client that `presented`, the keys of a call, and `uri`, that of its certificate, stand for.

        Raises AuthenticationError unless all that is there names one client, and that client may still come in.
        """
        if not presented:
            return self._named(uri)
        if len(presented) != 1 or not presented[0]:
            raise _refusal()
        keyed = self._keyed_by_key(presented[0])
        return keyed if uri is None else self._both(keyed, uri)

    def current(self, passed: Pass) -> Pass:
        """Return what a client that was let in earlier is by now, as its record says. For calls that last.

        Raises AuthenticationError once what let it in, key or certificate, would not let this client in any more.
        """
        if passed.not_after_ns is None and self._grants.by_tag.get(passed.tag) is passed:
            return passed  # nothing has changed, as with nearly every message of a stream
        if passed.tag is None:
            now = self._named(passed.uri)
        else:
            now = self._keyed_by(passed.tag)
            if passed.uri is not None:
                now = self._both(now, passed.uri)
        if now.client.client_id != passed.client.client_id:
            raise _refusal()
        return now

    def _keyed_by_key(self, key: str) -> Pass:
        # The keyed hash is a fifth of the work of the digest that records have, and as silent; so it comes first.
        hashed = self._tag(key.encode("utf-8", "surrogateescape"))
        tag = self._tags.get(hashed)
        if tag is not None:
            granted = self._grants.by_tag.get(tag)
            return granted if granted is not None and granted.not_after_ns is None else self._in_force(granted)
        tag = self._tag(digest_of(key))
        keyed = self._keyed_by(tag)
        if len(self._tags) >= _KEPT_KEYS:
            self._tags.clear()
        self._tags[hashed] = tag  # a key that opened: those who guess fill nothing
        return keyed

    def _keyed_by(self, tag: bytes) -> Pass:
        return self._in_force(self._grants.by_tag.get(tag))

    def _named(self, uri: str | None) -> Pass:
        return self._in_force(None if uri is None else self._grants.by_uri.get(uri))

    def _both(self, keyed: Pass, uri: str) -> Pass:
        if self._named(uri).client is not keyed.client:
            raise _refusal()
        return replace(keyed, uri=uri)

    def _in_force(self, granted: Pass | None) -> Pass:
        if granted is None or (granted.not_after_ns is not None and granted.not_after_ns <= self._clock.now_ns()):
            raise _refusal()
        return granted

    def _tag(self, digest: bytes) -> bytes:
        # Keyed BLAKE2 is a pseudo-random function, as HMAC is, at a fifth of its time. Without the secret nobody can
        # tell the tag of a guess, let alone steer it: neither the place in the dict nor how many bytes of two tags
        # agree, which is all that a lookup's time depends on, says anything of how near the guess was.
        keyed = self._keyed.copy()
        keyed.update(digest)
        return keyed.digest()

    def _follow(self, file: Watched[tuple[ClientRecord, ...]]) -> bool:
        """Put in force what the file holds, or what it leaves of what is. Say whether that is something else."""
        records, before = self._left if file.mistakes else file.value, self._records
        if records is before or records == before:
            return False
        self._records = records
        self._grants = self._granted()
        self._tags.clear()  # a key that opens no more must not be refused sooner than one that never did
        if file.mistakes:
            lost = sorted(now.client.client_id for now, was in zip(records, before, strict=True) if now != was)
            get_log().warning("client_keys_withdrawn", client_ids=lost)
        else:
            get_log().info("client_keys_reloaded", clients=len(self._grants.clients))
        return True

    def _granted(self) -> _Grants:
        records = self._fixed + self._records
        valid = [record for record in records if not record.revoked]
        ends = [(record.client.client_id, _end_ns(record)) for record in valid]
        return _Grants(
            {tag: granted for record in valid for tag, granted in self._keyed_passes(record)},
            {record.uri: _certified(record.client, record.uri) for record in valid if record.uri is not None},
            tuple(record.client for record in valid),
            tuple((client_id, end_ns) for client_id, end_ns in ends if end_ns is not None),
        )

    def _keyed_passes(self, record: ClientRecord) -> Iterator[tuple[bytes, Pass]]:
        for key in record.keys:
            tag = self._tag(key.digest)
            yield tag, Pass(record.client, _key_end_ns(record.client, key), tag)

    def _read(self, file: Path) -> tuple[ClientRecord, ...]:
        """Return the records of the file. Raises ConfigError when they cannot be in force beside the settings' keys."""
        try:
            records = read_client_file(file)
            mistakes = mixed_up(self._fixed, records)
            if mistakes:
                raise ConfigError([f"{file}: {mistake}" for mistake in mistakes])
        except ConfigError:
            self._left = withdrawn_by(file, self._records)
            raise
        return records


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


def _key_end_ns(client: Client, key: KeyDigest) -> int | None:
    """Return when a key stops letting its client in, None for never."""
    return min((end for end in (client.not_after_ns, key.not_after_ns) if end is not None), default=None)


def _certified(client: Client, uri: str) -> Pass:
    return Pass(client, client.not_after_ns, uri=uri)


def _end_ns(record: ClientRecord) -> int | None:
    """Return when nothing will let a client in any more, None for never."""
    ways = [_key_end_ns(record.client, key) for key in record.keys]
    if record.uri is not None:
        ways.append(record.client.not_after_ns)
    ends = [end for end in ways if end is not None]
    return max(ends, default=None) if len(ends) == len(ways) else None


def _complain(mistakes: tuple[str, ...]) -> None:
    get_log().error("client_keys_not_reloaded", mistakes=mistakes)


def _refusal() -> AuthenticationError:
    return AuthenticationError("a valid API key is required")
