"""The settings that say who may come in: keys, a file of clients, a header's name, authorities of clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from qrng_gateway.admission.access import client_of_key
from qrng_gateway.config import ENV_PREFIX, GatewayConfig
from qrng_gateway.protection import CERTIFIED_GRACE_S, Protection
from qrng_grpc.certs import Authority
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, changing_client_file, digest_of
from qrng_grpc.config import load
from qrng_grpc.errors import ConfigError
from qrng_grpc.serving import ConnectionAge
from tests.spelling import as_keys

KEY = "a-key-of-a-client-1"
REST_OF_IT = {
    "QRNG_GATEWAY_HMAC_SECRET_KEY": "s" * 32,
    "QRNG_GATEWAY_HMAC_KEY_ID": "key-1",
    "QRNG_GATEWAY_COLLECTOR_ID": "collector-1",
    "QRNG_GATEWAY_POOL_ID": "pool-1",
    "QRNG_GATEWAY_BEST_CLASS": "quantum",
    "QRNG_GATEWAY_STATE_DIR": "var/gateway",
}


def read(**settings: str | Path) -> GatewayConfig:
    ours = {ENV_PREFIX + name.upper(): str(value) for name, value in settings.items()}
    return load(GatewayConfig, prefix=ENV_PREFIX, environ={**REST_OF_IT, **ours})


def mistakes_of(**settings: str | Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(**settings)
    return [as_keys(mistake, ENV_PREFIX) for mistake in caught.value.mistakes]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.yaml"
    with changing_client_file(path) as records:
        records.append(ClientRecord(Client("sampler"), (KeyDigest(digest_of("key-of-sampler")),)))
    return path


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    """A certificate of the server, and the authority of the clients."""
    authority = Authority.create("laboratory")
    authority.server(["localhost"]).save(tmp_path / "server.pem", tmp_path / "server.key")
    (tmp_path / "clients-ca.pem").write_bytes(authority.issued.certificate)
    return {
        "tls_cert_file": tmp_path / "server.pem",
        "tls_key_file": tmp_path / "server.key",
        "client_ca_file": tmp_path / "clients-ca.pem",
    }


def test_keys_come_from_settings_a_file_or_both(file: Path) -> None:
    """Either is enough, both may be given, and a gateway with neither does not start."""
    assert read(api_keys=KEY).api_keys_file is None
    assert read(api_keys_file=file).api_keys == ()
    assert len(read(api_keys_file=file, api_keys=KEY).api_keys) == 1
    assert mistakes_of() == ["api_keys: at least one key is required, or api_keys_file"]


def test_an_unusable_file_of_clients_is_told_with_its_mistakes(file: Path) -> None:
    """Each mistake of the file is told, once, and not that keys are missing too."""
    file.write_text("clients: [{id: sampler}, {id: '?', uri: 'urn:a'}]")
    (mistake,) = mistakes_of(api_keys_file=file)
    for part in ("api_keys_file: ", "clients[0]: expected keys", "clients[1].id"):
        assert part in mistake
    (mistake,) = mistakes_of(api_keys_file=file.with_name("missing.yaml"))
    assert "cannot be read" in mistake


def test_a_key_in_both_places_is_told(file: Path) -> None:
    """A key that is in the settings and in the file is a mistake, and is not repeated."""
    with changing_client_file(file) as records:
        records[:] = [client_of_key(KEY), ClientRecord(Client("other"), (KeyDigest(digest_of(KEY + KEY)),))]
    (mistake,) = mistakes_of(api_keys_file=file, api_keys=f"{KEY},{KEY + KEY}")
    assert mistake.count("from api_keys") == 2
    assert KEY not in mistake


def test_the_name_of_the_header_may_be_chosen() -> None:
    """It is `api-key` unless said otherwise."""
    assert read(api_keys=KEY).api_key_header == "api-key"
    assert read(api_keys=KEY, api_key_header="x-lab_key.2").api_key_header == "x-lab_key.2"


@pytest.mark.parametrize(
    "name",
    ["", "Api-Key", "api key", "9key", "key\n", "key-bin", "grpc-key", "authorization", "host", "te", "content-type",
     "x-forwarded-for", "user-agent", "x" * 65],
)  # fmt: skip
def test_a_header_that_is_none_or_means_something_else_is_refused(name: str) -> None:
    """A name that metadata cannot have, or that every request has for another reason, would shut everybody out."""
    (mistake,) = mistakes_of(api_keys=KEY, api_key_header=name)
    assert mistake.startswith("api_key_header: ")


def test_authorities_of_clients_need_a_certificate(tls: dict[str, Path]) -> None:
    """Client certificates are asked for over TLS only, and by a file that holds authorities."""
    (mistake,) = mistakes_of(api_keys=KEY, client_ca_file=tls["client_ca_file"])
    assert mistake == "client_ca_file: has no effect without tls_cert_file"
    (mistake,) = mistakes_of(api_keys=KEY, **{**tls, "client_ca_file": tls["tls_key_file"]})
    assert mistake == f"client_ca_file: {tls['tls_key_file']}: holds no certificate in PEM, or a broken one"


def test_calls_do_not_outlast_the_certificate_that_let_them_in(tls: dict[str, Path]) -> None:
    """Where clients show certificates, their calls end a minute after the age of their connection; else they go on."""
    asking = Protection(read(api_keys=KEY, **tls))
    assert asking.client_age == ConnectionAge(3600, CERTIFIED_GRACE_S)
    del tls["client_ca_file"]
    assert Protection(read(api_keys=KEY, **tls)).client_age == ConnectionAge(3600)
    assert Protection(read(api_keys=KEY)).client_age is None
