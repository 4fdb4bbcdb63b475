"""TLS files: usable as a whole or refused, and exchanged without ever taking an unusable set."""

from __future__ import annotations

import datetime
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from structlog.testing import capture_logs

from qrng_grpc.certs import BACKDATED, Authority, Issued, collector_uri
from qrng_grpc.errors import ConfigError
from qrng_grpc.tls import EXPIRES_SOON, ListenerTls, TlsFiles, TlsWatch, client_credentials, read_material

LONG_AGO = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1000)
AUTHORITY = Authority.create("laboratory")
OLD_AUTHORITY = Authority.create("old laboratory", days=500, now=LONG_AGO)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    """A usable set for a listener that asks for clients' certificates."""
    given = TlsFiles("server", tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    put(given, AUTHORITY.server(["localhost"]))
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.issued.certificate)
    return given


def put(files: TlsFiles, issued: Issued) -> None:
    assert files.cert_file is not None
    assert files.key_file is not None
    issued.save(files.cert_file, files.key_file, force=True)


def mistakes_of(files: TlsFiles) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_material(files)
    return list(caught.value.mistakes)


def test_a_usable_set_is_read(files: TlsFiles) -> None:
    """Certificate, key and authorities come as they are in the files, and the key does not show."""
    material = read_material(files)
    assert material.own is not None
    assert material.own.chain == Path(str(files.cert_file)).read_bytes()
    assert material.own.key == Path(str(files.key_file)).read_bytes()
    assert material.authorities == AUTHORITY.issued.certificate
    assert material.own.expires > datetime.datetime.now(datetime.UTC)
    assert "PRIVATE" not in repr(material)


def test_a_channel_may_show_nothing_of_its_own(files: TlsFiles) -> None:
    """Authorities alone are a usable set for a client, and so is nothing at all."""
    assert read_material(TlsFiles("client", ca_file=files.ca_file)).own is None
    client_credentials(read_material(TlsFiles("client")))
    put(files, AUTHORITY.client(collector_uri("lab-1")))
    client_credentials(read_material(TlsFiles("client", files.cert_file, files.key_file, files.ca_file)))


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda d: (d / "server.pem").unlink(), "server.pem: cannot be read (No such file or directory)"),
        (lambda d: (d / "server.pem").write_text("nothing"), "server.pem: holds no certificate"),
        (lambda d: (d / "server.pem").write_bytes(b"\xff\xfe\x00"), "server.pem: holds no certificate"),
        (lambda d: cut(d / "server.pem"), "server.pem: holds no certificate in PEM, or a broken one"),
        (lambda d: save(d, OLD_AUTHORITY.server(["localhost"], now=LONG_AGO)), "server.pem: expired on "),
        (lambda d: save(d, early()), "server.pem: is valid only from "),
        (lambda d: save(d, AUTHORITY.client("spiffe://a/b")), "server.pem: is not a server's certificate"),
        (lambda d: (d / "server.key").unlink(), "server.key: cannot be read (No such file or directory)"),
        (lambda d: (d / "server.key").write_text("nothing"), "server.key: holds no private key"),
        (lambda d: cut(d / "server.key"), "server.key: holds no private key"),
        (lambda d: (d / "server.key").chmod(0o644), "server.key: can be read or changed by others"),
        (lambda d: (d / "server.key").chmod(0o660), "server.key: can be read or changed by others"),
        (lambda d: (d / "server.key").write_bytes(encrypted()), "server.key: is encrypted"),
        (lambda d: (d / "server.key").write_bytes(pem(ed25519.Ed25519PrivateKey.generate())), "server.key: is neither"),
        (lambda d: (d / "server.key").write_bytes(pem(ec.generate_private_key(ec.SECP521R1()))), "key: is neither"),
        (lambda d: (d / "server.key").write_bytes(AUTHORITY.issued.key), "server.key: is not the key of"),
        (lambda d: (d / "ca.pem").write_text(""), "ca.pem: holds no certificate"),
        (lambda d: (d / "ca.pem").write_bytes(OLD_AUTHORITY.issued.certificate), "ca.pem: every certificate in it"),
    ],
)
def test_what_makes_a_set_unusable(files: TlsFiles, tmp_path: Path, spoil: Spoil, told: str) -> None:
    """One fault is one mistake, which names the file and quotes nothing of it."""
    spoil(tmp_path)
    (mistake,) = mistakes_of(files)
    assert told in mistake
    assert "BEGIN" not in mistake


def save(directory: Path, issued: Issued) -> None:
    issued.save(directory / "server.pem", directory / "server.key", force=True)


def cut(path: Path) -> None:
    """Cut a file in the middle, as a disk that is full does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def early() -> Issued:
    return AUTHORITY.server(["localhost"], now=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2))


def encrypted() -> bytes:
    key = serialization.load_pem_private_key(AUTHORITY.issued.key, password=None)
    protection = serialization.BestAvailableEncryption(b"passphrase")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def test_every_mistake_is_told_at_once(files: TlsFiles, tmp_path: Path) -> None:
    """Whoever mends a set learns of all that is wrong with it."""
    for name in ("server.pem", "server.key", "ca.pem"):
        (tmp_path / name).write_text("nothing")
    assert len(mistakes_of(files)) == 3


def test_half_a_pair_is_a_mistake(files: TlsFiles) -> None:
    """A certificate without its key, or a key without a certificate, is no set."""
    assert mistakes_of(TlsFiles("server", cert_file=files.cert_file)) == ["a certificate and its key go together"]
    assert mistakes_of(TlsFiles("server", key_file=files.key_file)) == ["a certificate and its key go together"]
    with pytest.raises(ConfigError, match="needs a certificate"):
        ListenerTls("clients", TlsFiles("server", ca_file=files.ca_file)).grpc_credentials()


def test_an_authority_that_expired_beside_one_that_has_not_is_welcome(files: TlsFiles, tmp_path: Path) -> None:
    """A bundle is usable while any of its authorities is, as in the middle of a rotation."""
    (tmp_path / "ca.pem").write_bytes(OLD_AUTHORITY.issued.certificate + AUTHORITY.issued.certificate)
    assert read_material(files).authorities is not None


def test_a_change_is_taken_once_it_has_stood_still(files: TlsFiles) -> None:
    """The look that sees a change waits for the next, which takes it if nothing moved meanwhile; once."""
    watch = TlsWatch("clients", files)
    first = watch.material
    assert not watch.look()
    put(files, AUTHORITY.server(["localhost"]))
    assert not watch.look()
    put(files, AUTHORITY.server(["localhost"]))
    assert not watch.look()
    assert watch.material is first
    assert watch.look()
    assert watch.material is not first
    assert not watch.look()


def test_an_exchanged_link_is_a_change(files: TlsFiles, tmp_path: Path) -> None:
    """Files behind symbolic links, as Kubernetes mounts them, are exchanged by exchanging the link."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        AUTHORITY.server(["localhost"]).save(tmp_path / name / "tls.crt", tmp_path / name / "tls.key")
    data = tmp_path / "data"
    data.symlink_to("one")
    watch = TlsWatch("clients", TlsFiles("server", data / "tls.crt", data / "tls.key"))
    data.unlink()
    data.symlink_to("two")
    assert [watch.look(), watch.look()] == [False, True]


def test_an_unusable_change_keeps_the_last_set_and_is_told_once(files: TlsFiles) -> None:
    """Serving goes on with the last usable set; one error says what is wrong, until the files change again."""
    watch = TlsWatch("clients", files)
    first, good = watch.material, AUTHORITY.server(["localhost"])
    assert files.cert_file is not None
    files.cert_file.write_bytes(good.certificate)
    with capture_logs() as logs:
        assert not any(watch.look() for _ in range(5))
    assert watch.material is first
    (event,) = logs
    assert (event["event"], event["log_level"], event["tls"]) == ("tls_not_reloaded", "error", "clients")
    assert "is not the key of the certificate" in str(event["mistakes"])
    put(files, good)
    assert [watch.look(), watch.look()] == [False, True]


def test_a_set_put_in_place_early_is_taken_when_its_time_comes(files: TlsFiles) -> None:
    """A certificate that is not valid yet is complained of once, and taken without being touched again."""
    watch = TlsWatch("clients", files)
    start = datetime.datetime.now(datetime.UTC)
    while start <= datetime.datetime.now(datetime.UTC):  # on a slow machine its time has come already
        start = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=3)
        put(files, AUTHORITY.server(["localhost"], now=start + BACKDATED))
        with capture_logs() as logs:
            taken = [watch.look(), watch.look()]
    with capture_logs() as later:
        while not watch.look():  # about two seconds
            time.sleep(0.05)
    assert taken == [False, False]
    assert [entry["event"] for entry in (*logs, *later)] == ["tls_not_reloaded", "tls_reloaded"]


def test_missing_files_keep_the_last_set(files: TlsFiles, tmp_path: Path) -> None:
    """Deleted files are an unusable change, no crash."""
    watch = TlsWatch("clients", files)
    for path in files.paths:
        path.unlink()
    with capture_logs() as logs:
        assert not any(watch.look() for _ in range(3))
    assert len(logs) == 1


def test_a_reload_waits_for_nothing(files: TlsFiles) -> None:
    """Told to, a watch takes a usable set at once; the same one again, or an unusable one, changes nothing."""
    watch = TlsWatch("clients", files)
    put(files, AUTHORITY.server(["localhost"]))
    with capture_logs() as logs:
        assert watch.reload()
        assert not watch.reload()
        Path(str(files.key_file)).chmod(0o644)
        assert not watch.reload()
    assert [event["event"] for event in logs] == ["tls_reloaded", "tls_not_reloaded"]
    assert watch.material.own is not None
    assert watch.material.own.chain == Path(str(files.cert_file)).read_bytes()


def test_a_certificate_about_to_end_is_told_once_a_day(files: TlsFiles) -> None:
    """Two weeks before its end a certificate is warned of, not at every look, and no longer once it is exchanged."""
    put(files, AUTHORITY.server(["localhost"], days=EXPIRES_SOON.days - 1))
    watch = TlsWatch("clients", files)
    with capture_logs() as logs:
        for _ in range(5):
            watch.look()
        put(files, AUTHORITY.server(["localhost"]))
        watch.reload()
        watch.look()
    assert [event["event"] for event in logs] == ["certificate_expires", "tls_reloaded"]


def test_https_takes_no_old_protocol(files: TlsFiles) -> None:
    """The REST listener speaks TLS 1.2 or newer."""
    context = ListenerTls("clients", files).ssl_context()
    old = trusting()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        meet(context, old)


def test_https_shows_the_set_in_force(files: TlsFiles) -> None:
    """A context in use shows a new certificate at the next handshake, and keeps it through an unusable change."""
    listener = ListenerTls("clients", replace(files, ca_file=None))
    context = listener.ssl_context()
    first = shown(context)
    put(files, AUTHORITY.server(["localhost"]))
    listener.reload()
    second = shown(context)
    assert second != first
    Path(str(files.cert_file)).write_text("nothing")
    with capture_logs():
        listener.reload()
    assert shown(context) == second


def test_https_asks_for_certificates_of_the_authorities_in_force(files: TlsFiles, tmp_path: Path) -> None:
    """With authorities, a client shows a certificate of one of them; once one is taken back, its sessions end too."""
    listener = ListenerTls("clients", files)
    context = listener.ssl_context()
    other = Authority.create("laboratory")
    ours, foreign = (showing(one.client("spiffe://qrng/client/a"), tmp_path) for one in (AUTHORITY, other))
    ended = showing(OLD_AUTHORITY.client("spiffe://qrng/client/a", days=1, now=LONG_AGO), tmp_path)
    for client in (trusting(), foreign, ended, showing(AUTHORITY.server(["localhost"]), tmp_path)):
        with pytest.raises(ssl.SSLError):
            meet(context, client)
    session = meet(context, ours).session
    Path(str(files.ca_file)).write_bytes(other.issued.certificate)
    listener.reload()
    with pytest.raises(ssl.SSLError):
        meet(context, ours, session)
    assert meet(context, foreign).getpeercert() is not None


def trusting() -> ssl.SSLContext:
    """A client that shows no certificate."""
    return ssl.create_default_context(cadata=AUTHORITY.issued.certificate.decode())


def showing(issued: Issued, directory: Path) -> ssl.SSLContext:
    """A client that shows `issued`."""
    issued.save(directory / "client.pem", directory / "client.key", force=True)
    client = trusting()
    client.load_cert_chain(directory / "client.pem", directory / "client.key")
    return client


def shown(server: ssl.SSLContext) -> bytes:
    """The certificate that a client in memory is shown."""
    certificate = meet(server, trusting()).getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def meet(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
    """Let a client and a server shake hands in memory. Returns the client's end; raises what either finds wrong."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ends = [ours, theirs]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    theirs.write(b"hello")
    ours.read()
    return ours
