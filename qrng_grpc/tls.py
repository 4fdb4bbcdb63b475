"""TLS for listeners and channels, from PEM files, exchanged while connections come and go.

Idea: certificates, key and authorities are read as one set, and a set is usable as a whole or not at
all: complete, within its time, the key its own and nobody else's to read. A program starts only with a
usable set. From then on it looks at the files about once a second: a change is taken once it has stood
still from one look to the next, or at once on SIGHUP, and an unusable set leaves the last one in force.

Handshakes see the change, connections that exist do not; a listener gives them an age limit
(`qrng_grpc.serving.new_server`). For gRPC the new set waits, ready made, until core asks for it at the
next handshake, on a thread of core's; an HTTPS listener makes the next connection with another
`ssl.SSLContext`, since from one that is in use no authority can be taken back.

Times are those of the system's clock, because TLS libraries know no other.
"""

from __future__ import annotations

import datetime
import os
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from qrng_grpc.errors import ConfigError
from qrng_grpc.files import Watched, about, refuse_shared, shown_path, why_unreadable
from qrng_grpc.logs import get_log

EXPIRES_SOON = datetime.timedelta(days=14)
_A_DAY = datetime.timedelta(days=1)

Purpose = Literal["server", "client"]
_PURPOSES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where one end's PEM files lie. `cert_file` (own certificate, then intermediates) and `key_file` go together.

    `ca_file` holds the authorities whose certificates the other end must show; a listener without one
    asks clients for none.
    """

    purpose: Purpose
    cert_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those that are given."""
        return tuple(path for path in (self.cert_file, self.key_file, self.ca_file) if path is not None)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One end's own certificate with its intermediates, and its key, in PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    expires: datetime.datetime
    """When the first certificate of `chain` to expire does."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A usable set: what was in the files."""

    own: KeyPair | None
    authorities: bytes | None


def read_material(files: TlsFiles) -> TlsMaterial:
    """Read a usable set. Raises ConfigError with every mistake."""
    mistakes: list[str] = []
    chain = _noting(mistakes, files.cert_file, lambda path: read_chain(path, files.purpose))
    key = _noting(mistakes, files.key_file, lambda path: read_key(path, chain))
    authorities = _noting(mistakes, files.ca_file, read_authorities)
    if (files.cert_file is None) != (files.key_file is None):
        mistakes.append("a certificate and its key go together")
    if mistakes:
        raise ConfigError(mistakes)
    own = None
    if chain is not None and key is not None:
        own = KeyPair(chain.pem, key, min(one.not_valid_after_utc for one in chain.certificates))
    return TlsMaterial(own, authorities)


@dataclass(frozen=True, slots=True)
class Chain:
    """A certificate and its intermediates."""

    pem: bytes
    certificates: tuple[x509.Certificate, ...]


def read_chain(path: Path, purpose: Purpose) -> Chain:
    """Read a certificate and its intermediates.

    Raises UnusableFileError when they cannot be used for `purpose` now.
    """
    with about(path):
        pem = _content(path)
        certificates = _certificates(pem)
        _check_times(certificates)
        if not _serves(certificates[0], purpose):
            raise ValueError(f"is not a {purpose}'s certificate, by its extended key usage")
    return Chain(pem, certificates)


def read_key(path: Path, chain: Chain | None) -> bytes:
    """Read a private key, and check that it is that of `chain` where there is one. Raises UnusableFileError."""
    with about(path):
        refuse_shared(path)
        pem = _content(path)
        key = _private_key(pem)
        if chain is not None:
            if key.public_key() != chain.certificates[0].public_key():
                raise ValueError("is not the key of the certificate")
            _load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain.pem, pem)
    return pem


def read_authorities(path: Path) -> bytes:
    """Read the certificates of authorities. Raises UnusableFileError when it holds none, or all have expired."""
    with about(path):
        pem = _content(path)
        now = datetime.datetime.now(datetime.UTC)
        if all(certificate.not_valid_after_utc <= now for certificate in _certificates(pem)):
            raise ValueError("every certificate in it has expired")
    return pem


class TlsWatch:
    """Files of one end, and the last usable set they held.

    `name` stands for this end in the log. Raises ConfigError when the first set is not usable.
    """

    def __init__(self, name: str, files: TlsFiles) -> None:
        self._name = name
        self._log = get_log().bind(tls=name)
        self._warned: datetime.datetime | None = None
        self._files = Watched(
            files.paths,
            lambda: read_material(files),
            lambda mistakes: self._log.error("tls_not_reloaded", mistakes=mistakes),
        )

    @property
    def material(self) -> TlsMaterial:
        """The set in force; another object after each change."""
        return self._files.value

    def warnings(self) -> Iterator[str]:
        """Yield what an operator should know: files that cannot be used, a certificate that soon ends or has."""
        if self._files.mistakes:
            yield f"the TLS files of {self._name} cannot be used; the last usable ones stay in force"
        own, now = self.material.own, datetime.datetime.now(datetime.UTC)
        if own is not None and own.expires - now <= EXPIRES_SOON:
            left_days = (own.expires - now) / _A_DAY
            when = f"ends in {left_days:.1f} days" if left_days > 0 else "has ended"
            yield f"the certificate of {self._name} {when}"

    def look(self) -> bool:
        """Look at the files, and take a change that has stood still since the last look. Say whether one was taken."""
        self._warn_of_end()
        return self._note(self._files.look())

    def reload(self) -> bool:
        """Take what the files hold now. Say whether that is a usable set other than the last."""
        return self._note(self._files.reload())

    def _note(self, changed: bool) -> bool:
        if changed:
            self._warned = None
            self._log.info("tls_reloaded", expires=_date(self.material.own))
        return changed

    def _warn_of_end(self) -> None:
        """Log once a day that the certificate ends soon, or has ended."""
        now = datetime.datetime.now(datetime.UTC)
        own = self.material.own
        if own is None or own.expires - now > EXPIRES_SOON or (self._warned and now - self._warned < _A_DAY):
            return
        self._warned = now
        self._log.warning("certificate_expires", expires=_date(own))


class RenewedContext(ssl.SSLContext):
    """Makes each connection with the newest of several contexts.

    A session that an older one began is not taken up again, so it ends with the authorities of its time.
    """

    newest: ssl.SSLContext

    def made(self, connection: ssl.SSLObject) -> bool:
        """Say whether `connection` was made with the newest context."""
        return connection.context is self.newest

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a connection, as event loops do."""
        return self.newest.wrap_bio(*arguments, **named)


class ListenerTls:
    """What listeners with one certificate, one key and one set of client authorities show and ask for.

    Raises ConfigError when the files are not usable.
    """

    def __init__(self, name: str, files: TlsFiles) -> None:
        self._watch = TlsWatch(name, files)
        self._asks_clients = files.ca_file is not None
        self._waiting: list[deque[grpc.ServerCertificateConfiguration]] = []
        self._contexts: list[RenewedContext] = []

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one gRPC port. With client authorities, clients must show a certificate of theirs."""
        # Filled by us, emptied by core's threads: each of its operations is atomic.
        waiting: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        self._waiting.append(waiting)

        # The published types do not know that None stands for "as before".
        def fetch() -> Any:
            """Return a new set once, and None from then on."""
            try:
                return waiting.pop()
            except IndexError:
                return None

        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), fetch, require_client_authentication=self._asks_clients
        )
        return credentials

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context for one HTTPS listener of an event loop. It asks clients for what `grpc_credentials` do."""
        context = RenewedContext(ssl.PROTOCOL_TLS_SERVER)
        context.newest = self._new_context()
        self._contexts.append(context)
        return context

    def warnings(self) -> Iterator[str]:
        """Yield what an operator should know."""
        return self._watch.warnings()

    def look(self) -> None:
        """Look at the files; about once a second, on the event loop's thread."""
        if self._watch.look():
            self._renew()

    def reload(self) -> None:
        """Take what the files hold now, if it is usable. On the event loop's thread."""
        if self._watch.reload():
            self._renew()

    def _renew(self) -> None:
        for context in self._contexts:
            context.newest = self._new_context()
        for waiting in self._waiting:
            waiting.append(self._configuration())

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load_chain(context, self._own.chain, self._own.key)
        if self._watch.material.authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            for authority in x509.load_pem_x509_certificates(self._watch.material.authorities):
                context.load_verify_locations(cadata=authority.public_bytes(Encoding.DER))
        return context

    @property
    def _own(self) -> KeyPair:
        if self._watch.material.own is None:
            raise ConfigError(["a listener with TLS needs a certificate and its key"])
        return self._watch.material.own

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pairs = [(self._own.key, self._own.chain)]
        return grpc.ssl_server_certificate_configuration(pairs, self._watch.material.authorities)


def client_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """Return what a channel shows and asks for: without authorities of its own those that gRPC brings along."""
    own = material.own
    if own is None:
        return grpc.ssl_channel_credentials(material.authorities)
    return grpc.ssl_channel_credentials(material.authorities, own.key, own.chain)


def _load_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Give `context` a chain from memory. Raises ValueError when OpenSSL will not have it.

    OpenSSL reads files only. Reading ours again could find another set than the one that was checked, so it
    reads an anonymous file that nobody else can open.
    """
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(key.rstrip() + b"\n" + chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise ValueError(f"cannot be used with the certificate ({error.reason})") from None
    finally:
        os.close(descriptor)


def _noting(mistakes: list[str], path: Path | None, read: Callable[[Path], T]) -> T | None:
    """Read `path`, or note what is wrong with it."""
    if path is None:
        return None
    try:
        return read(path)
    except ValueError as error:
        mistakes.append(f"{shown_path(path)}: {error}")
        return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(why_unreadable(error)) from None


def _certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise ValueError("holds no certificate in PEM, or a broken one") from None


def _private_key(pem: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return the key in `pem`. Raises ValueError when there is none, or none that gRPC takes."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError("is encrypted; give the key without a passphrase, in a file of mode 0600") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey) or _is_common_ecdsa(key):
        return key
    raise ValueError("is neither an RSA key nor an ECDSA key of P-256 or P-384, which is what gRPC takes")


def _check_times(certificates: Sequence[x509.Certificate]) -> None:
    """Refuse certificates of which one is not valid now. Raises ValueError."""
    now = datetime.datetime.now(datetime.UTC)
    for certificate in certificates:
        if certificate.not_valid_after_utc <= now:
            raise ValueError(f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
        if certificate.not_valid_before_utc > now:
            raise ValueError(f"is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on")


def _is_common_ecdsa(key: object) -> TypeGuard[ec.EllipticCurvePrivateKey]:
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)


def _serves(certificate: x509.Certificate, purpose: Purpose) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return _PURPOSES[purpose] in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _date(own: KeyPair | None) -> str | None:
    return None if own is None else own.expires.isoformat(timespec="seconds")
