"""A small private certificate authority, for tests and first set-ups.

Idea: three kinds of certificate are all that mutual TLS between a collector and a gateway takes. An
authority signs; a server certificate names the hosts it answers for; a client certificate names who
calls, by a URI. Keys are ECDSA P-256, which every TLS library takes, and each key is written to a
file of its own that its owner alone can read, complete or not at all.

The authority's key lies unencrypted beside the rest. That is right for a laboratory's first day; where
an authority exists already, use that one: the servers take any PEM files.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qrng_grpc.errors import StateError
from qrng_grpc.files import appearing_whole, shown_path, why_unreadable

AUTHORITY_DAYS = 3650
"""How long an authority is valid by default."""
LEAF_DAYS = 397
"""How long what it signs is valid by default: a year, and a month to renew it in."""
BACKDATED = datetime.timedelta(hours=1)
"""How long before its making a certificate begins to be valid, for clocks that are behind."""

_PUBLIC, _PRIVATE = 0o644, 0o600
_MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    def save(self, cert_file: Path, key_file: Path, *, force: bool = False) -> None:
        """Write both, the key with mode 0600, each complete or not at all.

        Raises StateError when either exists, unless `force`, and OSError when a file cannot be written.
        """
        for path in (cert_file, key_file):
            if path.exists() and not force:
                raise StateError(f"{path} exists; nothing was written")
        _write(key_file, self.key, _PRIVATE, force=force)
        _write(cert_file, self.certificate, _PUBLIC, force=force)


class Authority:
    """A certificate authority in memory.

        authority = Authority.create("laboratory")
        authority.issued.save(Path("ca.pem"), Path("ca.key"))
        authority.server(["gateway.example", "192.0.2.7"]).save(Path("gateway.pem"), Path("gateway.key"))
        authority.client(collector_uri("lab-1")).save(Path("lab-1.pem"), Path("lab-1.key"))

    Certificates are valid from an hour before `now` (default: the moment of the call) for `days` days
    after it; none outlives its authority.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str, *, days: float = AUTHORITY_DAYS, now: datetime.datetime | None = None) -> Authority:
        """Make an authority called `name`, 1 to 64 characters, with a new key. Raises ValueError for another name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(name)
        start, end = _validity(now, days)
        usages = _key_usage(digital_signature=False, key_cert_sign=True, crl_sign=True)
        builder = (
            _builder(subject, subject, key, start, end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usages, critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, cert_file: Path, key_file: Path) -> Authority:
        """Read an authority that `Issued.save` wrote. Raises StateError when it cannot be used, or is none."""
        try:
            certificate = x509.load_pem_x509_certificate(_content(cert_file))
            key = serialization.load_pem_private_key(_content(key_file), password=None)
        except (ValueError, TypeError):
            raise StateError(f"{cert_file} and {key_file} are not a PEM certificate and its unencrypted key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise StateError(f"{key_file} is not the ECDSA key of {cert_file}")
        if not _is_authority(certificate):
            raise StateError(f"{cert_file} is not the certificate of an authority")
        return cls(certificate, key)

    @property
    def issued(self) -> Issued:
        """The authority's own certificate and key."""
        return Issued(_certificate_pem(self._certificate), _key_pem(self._key))

    def server(self, hosts: Iterable[str], *, days: float = LEAF_DAYS, now: datetime.datetime | None = None) -> Issued:
        """Sign a certificate for a server that answers at `hosts`, DNS names or IP addresses.

        Raises ValueError when there is none, or one is neither, and StateError when the authority has expired.
        """
        names = [_host(host) for host in hosts]
        if not names:
            raise ValueError("a server certificate needs at least one host")
        common_name = str(names[0].value)
        if len(common_name) > _MAX_NAME:
            common_name = "server"  # a common name is short, and nobody looks at it: the hosts count
        return self._sign(common_name, names, ExtendedKeyUsageOID.SERVER_AUTH, days, now)

    def client(self, uri: str, *, days: float = LEAF_DAYS, now: datetime.datetime | None = None) -> Issued:
        """Sign a certificate for the client that `uri` names, such as spiffe://qrng/collector/lab-1.

        Raises ValueError when it is not ASCII, and StateError when the authority has expired.
        """
        name = x509.UniformResourceIdentifier(uri)
        return self._sign(uri.rpartition("/")[2] or "client", [name], ExtendedKeyUsageOID.CLIENT_AUTH, days, now)

    def _sign(
        self,
        name: str,
        names: Sequence[x509.GeneralName],
        purpose: x509.ObjectIdentifier,
        days: float,
        now: datetime.datetime | None,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        start, end = _validity(now, days)
        end = min(end, self._certificate.not_valid_after_utc)
        if end <= start:
            raise StateError("the authority's own certificate has expired")
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_named(name), self._certificate.subject, key, start, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True, key_cert_sign=False, crl_sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer_key, critical=False)
        )
        return Issued(_certificate_pem(builder.sign(self._key, hashes.SHA256())), _key_pem(key))


def collector_uri(collector_id: str) -> str:
    """Return the URI that names a collector in its certificate."""
    return f"spiffe://qrng/collector/{collector_id}"


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _content(path: Path) -> bytes:
    """Read a file. Raises StateError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateError(f"{shown_path(path)} {why_unreadable(error)}") from None


def _validity(now: datetime.datetime | None, days: float) -> tuple[datetime.datetime, datetime.datetime]:
    now = now or datetime.datetime.now(datetime.UTC)
    return now - BACKDATED, now + datetime.timedelta(days=days)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(text: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.removeprefix("*.").split(".")
    if not all(label and label.replace("-", "").isalnum() and label.isascii() for label in labels):
        raise ValueError(f"{text!r} is neither a DNS name nor an IP address")
    return x509.DNSName(text)


def _key_usage(*, digital_signature: bool, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int, *, force: bool) -> None:
    """Write `path` so that it appears complete, with `mode` from its first moment, or stays as it was."""
    try:
        with appearing_whole(path, Path.replace if force else _place_anew) as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
    except FileExistsError:
        raise StateError(f"{path} exists; it was left as it is") from None


def _place_anew(newborn: Path, path: Path) -> None:
    path.hardlink_to(newborn)  # unlike a rename, refuses when someone else was quicker
    newborn.unlink()
