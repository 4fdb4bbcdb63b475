"""`qrng certs`: files that the programs take, and none of yours overwritten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from qrng_cli.group import cli
from qrng_cli.setup import prepare
from qrng_collector import config as collector
from qrng_gateway import config as gateway
from qrng_grpc.config import load
from qrng_grpc.errors import ConfigError
from tests.spelling import as_keys

IDS = {"HMAC_SECRET_KEY": "s" * 32, "HMAC_KEY_ID": "k", "COLLECTOR_ID": "lab", "POOL_ID": "pool"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def certs(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["certs", *arguments])


@pytest.fixture
def made() -> None:
    for arguments in (
        ("init", "--dir", "servers"),
        ("init", "--dir", "collectors"),
        ("server", "--dir", "servers", "--host", "gateway.example", "--host", "192.0.2.7"),
        ("client", "--dir", "collectors", "lab-1"),
    ):
        assert certs(*arguments).exit_code == 0


def gateway_environ(**settings: str) -> dict[str, str]:
    own = {"API_KEYS": "k" * 16, "BEST_CLASS": "quantum", "STATE_DIR": "state"}
    return {f"{gateway.ENV_PREFIX}{name}": value for name, value in {**IDS, **own, **settings}.items()}


def collector_environ(**settings: str) -> dict[str, str]:
    own = {"BEST_CLASS": "quantum", "STATE_DIR": "state", "PUSH_URL": "gateway.example:50052"}
    return {f"{collector.ENV_PREFIX}{name}": value for name, value in {**IDS, **own, **settings}.items()}


PUSH_TLS = {
    "PUSH_TLS_CERT_FILE": "servers/server.pem",
    "PUSH_TLS_KEY_FILE": "servers/server.key",
    "PUSH_CLIENT_CA_FILE": "collectors/ca.pem",
}
TLS = {"TLS_CERT_FILE": "servers/server.pem", "TLS_KEY_FILE": "servers/server.key"}
ANYWHERE = {
    "LISTEN_ADDRESS": "0.0.0.0:50051",
    "PUSH_LISTEN_ADDRESS": "0.0.0.0:50052",
    "REST_LISTEN_ADDRESS": "0.0.0.0:8080",
}
COLLECTOR_TLS = {
    "PUSH_CA_FILE": "servers/ca.pem",
    "PUSH_CERT_FILE": "collectors/lab-1.pem",
    "PUSH_KEY_FILE": "collectors/lab-1.key",
}


def gateway_mistakes(**settings: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(gateway.GatewayConfig, prefix=gateway.ENV_PREFIX, environ=gateway_environ(**settings))
    return tuple(as_keys(mistake, gateway.ENV_PREFIX) for mistake in caught.value.mistakes)


def collector_mistakes(**settings: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(collector.CollectorConfig, prefix=collector.ENV_PREFIX, environ=collector_environ(**settings))
    return tuple(as_keys(mistake, collector.ENV_PREFIX) for mistake in caught.value.mistakes)


def test_what_is_made_lets_listeners_leave_the_machine(made: None) -> None:
    """With the files as --help names them, both programs speak TLS with anyone, and need no word about plaintext."""
    serve = load(
        gateway.GatewayConfig, prefix=gateway.ENV_PREFIX, environ=gateway_environ(**TLS, **PUSH_TLS, **ANYWHERE)
    )
    assert serve.tls_files is not None
    assert serve.push_tls_files is not None
    assert serve.push_tls_files.ca_file == Path("collectors/ca.pem")
    assert not serve.allow_plaintext_beyond_loopback
    collect = load(collector.CollectorConfig, prefix=collector.ENV_PREFIX, environ=collector_environ(**COLLECTOR_TLS))
    assert collect.push_tls_files is not None
    assert stat.S_IMODE(Path("servers/ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("servers").stat().st_mode) == 0o700


def test_a_client_of_a_gateway_is_named_by_its_own_uri(made: None) -> None:
    """With --uri the certificate names that and no collector."""
    assert certs("client", "--dir", "collectors", "sampler", "--uri", "spiffe://qrng/client/sampler").exit_code == 0
    certificate = x509.load_pem_x509_certificate(Path("collectors/sampler.pem").read_bytes())
    (name,) = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name.value == "spiffe://qrng/client/sampler"


def test_tls_of_one_listener_is_not_that_of_another(made: None) -> None:
    """A listener without TLS stays on this machine, whatever protects the others."""
    (mistake,) = gateway_mistakes(**TLS, **ANYWHERE)
    assert "push_listen_address" in mistake
    assert "rest" not in mistake
    (mistake,) = gateway_mistakes(**PUSH_TLS, **ANYWHERE)
    assert ", rest_listen_address" in mistake
    assert "push" not in mistake


@pytest.mark.parametrize("missing", [*TLS, *PUSH_TLS])
def test_half_a_tls_does_not_start_a_gateway(made: None, missing: str) -> None:
    """Certificate and key go together, and on the push listener the collectors' authorities with them."""
    settings = {**TLS, **PUSH_TLS}
    del settings[missing]
    told = "\n".join(gateway_mistakes(**settings))
    needs = "required with" if "CERT" not in missing else "has no effect without"
    assert needs in told
    assert missing.lower() in told


@pytest.mark.parametrize("missing", COLLECTOR_TLS)
def test_half_a_tls_does_not_start_a_collector(made: None, missing: str) -> None:
    """A certificate without its key, a key without its certificate, either without authorities: refused."""
    settings = {**COLLECTOR_TLS}
    del settings[missing]
    assert missing.lower() in "\n".join(collector_mistakes(**settings))


def test_faulty_files_are_told_by_setting(made: None) -> None:
    """Every file at fault is a mistake of its own, under the name of its setting, and adds no other."""
    for name in ("servers/server.pem", "servers/server.key", "servers/ca.pem", "collectors/ca.pem"):
        Path(name).write_text("nothing")
    names = [mistake.partition(":")[0] for mistake in gateway_mistakes(**TLS, **PUSH_TLS, **ANYWHERE)]
    assert names == [*(name.lower() for name in TLS), *(name.lower() for name in PUSH_TLS)]
    (mistake,) = collector_mistakes(**COLLECTOR_TLS)
    assert mistake.startswith("push_ca_file: servers/ca.pem: holds no certificate")


def test_a_key_that_others_can_read_is_refused(made: None) -> None:
    """Neither program starts with a key that lies open."""
    for name in ("servers/server.key", "collectors/lab-1.key"):
        Path(name).chmod(0o644)
    assert "chmod 600" in gateway_mistakes(**TLS)[0]
    assert "chmod 600" in collector_mistakes(**COLLECTOR_TLS)[0]


@pytest.mark.parametrize(
    "again",
    [("init", "--dir", "servers"), ("server", "--dir", "servers"), ("client", "--dir", "collectors", "lab-1")],
    ids=lambda arguments: arguments[0],
)
def test_nothing_is_overwritten_without_force(made: None, again: tuple[str, ...]) -> None:
    """What exists stays as it is, unless --force says otherwise."""
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    refused = certs(*again)
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before
    assert certs(*again, "--force").exit_code == 0
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} != before


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("server", "--dir", "nowhere"), 1, "qrng certs init --dir nowhere"),
        (("server", "--dir", "servers", "--host", "http://x"), 2, "neither a DNS name nor an IP"),
        (("server", "--dir", "servers", "--name", "../x"), 2, "--name"),
        (("server", "--dir", "servers", "--name", "ca", "--force"), 2, "not ca"),
        (("client", "--dir", "collectors", "ca", "--force"), 2, "not ca"),
        (("client", "--dir", "collectors", "no blanks"), 2, "NAME"),
        (("client", "--dir", "collectors", "a", "--uri", "no uri"), 2, "--uri"),
        (("init", "--dir", "new", "--name", ""), 2, "--name"),
        (("init", "--dir", "new", "--days", "0"), 2, "--days"),
    ],
)
def test_mistakes_are_told(made: None, arguments: tuple[str, ...], code: int, told: str) -> None:
    """What cannot be made is one line that says what to do, and no file is touched."""
    before = sorted(Path().rglob("*"))
    result = certs(*arguments)
    assert result.exit_code == code
    assert told in result.output
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("name", ["init", "server", "client"])
def test_help_shows_its_use(name: str) -> None:
    """Each command's help has an example."""
    assert f"  qrng certs {name} --dir " in certs(name, "--help").output


def test_up_says_what_tls_takes(made: None, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the gateway of `up` asks collectors for certificates, its collector must have one, or `up` says so."""
    for name in [name for name in os.environ if name.startswith("QRNG_")]:
        monkeypatch.delenv(name)
    var = here / "var"
    var.mkdir(mode=0o700)
    push = {gateway.ENV_PREFIX + name: value for name, value in PUSH_TLS.items()}
    with pytest.raises(ConfigError, match="QRNG_COLLECTOR_PUSH_CERT_FILE"):
        prepare(var, None, push)
    pushing = {collector.ENV_PREFIX + name: value for name, value in COLLECTOR_TLS.items()}
    plan = prepare(var, None, push | pushing)
    assert plan.push_tls is not None
    assert plan.push_tls.cert_file == Path("collectors/lab-1.pem")
