"""The small authority: what it signs is what mutual TLS needs, and its files are safe."""

from __future__ import annotations

import datetime
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from qrng_grpc.certs import AUTHORITY_DAYS, BACKDATED, LEAF_DAYS, Authority, Issued, collector_uri
from qrng_grpc.errors import StateError

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("laboratory", now=NOW)


def certificate(issued: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.certificate)


def verifier(authority: Authority) -> PolicyBuilder:
    return PolicyBuilder().store(Store([certificate(authority.issued)])).time(NOW)


def test_a_server_is_believed_at_its_hosts_only(authority: Authority) -> None:
    """A strict verifier takes a server's certificate for each of its hosts and for no other."""
    leaf = certificate(authority.server(["gateway.example", "192.0.2.7", "::1"], now=NOW))
    for host in ("192.0.2.7", "::1"):
        verifier(authority).build_server_verifier(x509.IPAddress(ipaddress.ip_address(host))).verify(leaf, [])
    verifier(authority).build_server_verifier(x509.DNSName("gateway.example")).verify(leaf, [])
    with pytest.raises(VerificationError):
        verifier(authority).build_server_verifier(x509.DNSName("other.example")).verify(leaf, [])


def test_a_client_is_named_by_its_uri_alone(authority: Authority) -> None:
    """A strict verifier takes a client's certificate, whose only name is the collector's URI."""
    leaf = certificate(authority.client(collector_uri("lab-1"), now=NOW))
    verified = verifier(authority).build_client_verifier().verify(leaf, [])
    assert verified.subjects == [x509.UniformResourceIdentifier("spiffe://qrng/collector/lab-1")]


def test_each_is_for_its_own_purpose(authority: Authority) -> None:
    """A server's certificate serves no client, a client's no server, and neither signs others."""
    server, client = authority.server(["localhost"]), authority.client("spiffe://qrng/collector/lab-1")
    usages = [certificate(one).extensions.get_extension_for_class(x509.ExtendedKeyUsage) for one in (server, client)]
    assert list(usages[0].value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert list(usages[1].value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    for one in (server, client):
        assert not certificate(one).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_p256_and_their_own(authority: Authority) -> None:
    """Each certificate comes with a fresh ECDSA P-256 key."""
    issued = [authority.issued, authority.server(["localhost"]), authority.server(["localhost"])]
    keys = [load_pem_private_key(one.key, password=None) for one in issued]
    assert all(isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1" for key in keys)
    for key, one in zip(keys, issued, strict=True):
        assert key.public_key() == certificate(one).public_key()
    assert len({one.key for one in issued}) == 3


def test_validity_is_as_promised_and_never_beyond_the_authority(authority: Authority) -> None:
    """Ten years for an authority, 397 days for what it signs, an hour back for slow clocks; the authority ends all."""
    root, leaf = certificate(authority.issued), certificate(authority.server(["localhost"], now=NOW))
    assert root.not_valid_after_utc - NOW == datetime.timedelta(days=AUTHORITY_DAYS)
    assert leaf.not_valid_after_utc - NOW == datetime.timedelta(days=LEAF_DAYS)
    assert leaf.not_valid_before_utc == NOW - BACKDATED
    late = certificate(authority.server(["localhost"], now=root.not_valid_after_utc - datetime.timedelta(days=1)))
    assert late.not_valid_after_utc == root.not_valid_after_utc
    with pytest.raises(StateError, match="expired"):
        authority.server(["localhost"], now=root.not_valid_after_utc + datetime.timedelta(days=1))


@pytest.mark.parametrize("host", ["", "a b", "http://gateway", "gateway.example:443", "..", "schlüssel"])
def test_what_is_no_host_is_refused(authority: Authority, host: str) -> None:
    """A certificate names hosts, not URLs or typing errors."""
    with pytest.raises(ValueError, match="neither"):
        authority.server([host])


def test_a_server_needs_a_host(authority: Authority) -> None:
    """A certificate that no client could accept is not made."""
    with pytest.raises(ValueError, match="at least one"):
        authority.server([])


def test_a_long_host_is_taken(authority: Authority) -> None:
    """A host may be longer than a common name can be."""
    host = f"{'a' * 60}.{'b' * 60}.example"
    leaf = certificate(authority.server([host], now=NOW))
    verifier(authority).build_server_verifier(x509.DNSName(host)).verify(leaf, [])


def test_files_are_safe_and_give_the_authority_back(tmp_path: Path, authority: Authority) -> None:
    """Keys are for their owner alone, certificates for all, and a saved authority goes on signing."""
    cert_file, key_file = tmp_path / "ca.pem", tmp_path / "ca.key"
    authority.issued.save(cert_file, key_file)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cert_file.stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key", "ca.pem"]
    again = Authority.load(cert_file, key_file)
    verifier(authority).build_client_verifier().verify(certificate(again.client("spiffe://a/b", now=NOW)), [])


@pytest.mark.parametrize("existing", ["x.pem", "x.key"])
def test_nothing_is_overwritten_unless_forced(tmp_path: Path, authority: Authority, existing: str) -> None:
    """When either file exists both stay as they are, until the caller insists."""
    (tmp_path / existing).write_text("precious")
    issued = authority.server(["localhost"])
    with pytest.raises(StateError, match="exists"):
        issued.save(tmp_path / "x.pem", tmp_path / "x.key")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"
    issued.save(tmp_path / "x.pem", tmp_path / "x.key", force=True)
    assert (tmp_path / "x.key").read_bytes() == issued.key
    assert stat.S_IMODE((tmp_path / "x.key").stat().st_mode) == 0o600


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, authority: Authority) -> None:
    """A key without its certificate is not left lying about under a temporary name."""
    with pytest.raises(OSError, match="nowhere"):
        authority.issued.save(tmp_path / "ca.pem", tmp_path / "nowhere" / "ca.key")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_authority_does_not_sign(tmp_path: Path, authority: Authority) -> None:
    """A leaf, a foreign key, garbage and nothing at all are refused as authorities, without the key in the text."""
    leaf = authority.server(["localhost"])
    leaf.save(tmp_path / "leaf.pem", tmp_path / "leaf.key")
    authority.issued.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    (tmp_path / "garbage").write_text("nothing of use")
    wrong = [
        ("leaf.pem", "leaf.key"),
        ("ca.pem", "leaf.key"),
        ("garbage", "ca.key"),
        ("ca.pem", "garbage"),
        ("no", "n"),
    ]
    for cert_name, key_name in wrong:
        with pytest.raises(StateError) as caught:
            Authority.load(tmp_path / cert_name, tmp_path / key_name)
        assert "nothing of use" not in str(caught.value)


@pytest.mark.parametrize("missing", ["ca.pem", "ca.key"])
def test_an_authority_that_is_not_there_is_told_in_words(tmp_path: Path, authority: Authority, missing: str) -> None:
    """By the file that is missing."""
    authority.issued.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    (tmp_path / missing).unlink()
    with pytest.raises(StateError) as refusal:
        Authority.load(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert refusal.value.message == f"{tmp_path / missing} cannot be read (No such file or directory)"


def test_a_key_does_not_show(authority: Authority) -> None:
    """A certificate and key can be printed without giving the key away."""
    assert "PRIVATE" not in repr(authority.issued)
