from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from qrng_client import AsyncEntropyClient, EntropyClient
from qrng_client.settings import client_settings
from qrng_grpc.certs import Authority
from qrng_grpc.errors import ConfigError, InvalidRequestError

KEY = "a-key-of-some-length"


def test_light_imports() -> None:
    """The client library needs nothing of the servers or the command, nor their packages."""
    program = "import json, sys, qrng_client; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    modules = {name.partition(".")[0] for name in json.loads(done.stdout)}
    heavy = {"aiohttp", "structlog", "click", "rich", "cryptography", "opentelemetry", "stamina", "uvloop"}
    assert modules.isdisjoint(heavy | {"qrng_gateway", "qrng_collector", "qrng_cli"})


@pytest.mark.parametrize("cls", [EntropyClient, AsyncEntropyClient])
async def test_key_never_shown(cls: type[EntropyClient] | type[AsyncEntropyClient]) -> None:
    """A client's repr shows where it speaks to, never the key; nor do its parts."""
    client = cls("localhost:1", api_key=KEY)
    try:
        assert repr(client) == f"{cls.__name__}('localhost:1')"
        assert KEY not in repr(vars(client))
    finally:
        closing = client.close()
        if closing is not None:
            await closing


@pytest.mark.parametrize("key", ["with blank ", "two\nlines", "schlüssel", "nul\0"])
def test_key_that_cannot_travel(key: str) -> None:
    """A key that gRPC would quote in an error of its own is refused, unquoted."""
    with pytest.raises(ConfigError) as caught:
        EntropyClient(api_key=key)
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize("header", ["", "API-KEY", "grpc-key", "key-bin", "two words"])
def test_header_that_is_none(header: str) -> None:
    """Metadata that gRPC would refuse, or change, is no place for a key."""
    with pytest.raises(ConfigError, match="api_key_header"):
        EntropyClient(api_key=KEY, api_key_header=header)


@pytest.mark.parametrize("address", ["gateway.example:50051", "192.0.2.1:50051", "dns:///gateway.example:50051"])
def test_plaintext_beyond_loopback(address: str) -> None:
    """No key leaves this machine in clear, until that is allowed in words."""
    with pytest.raises(ConfigError, match="plaintext"):
        EntropyClient(address, api_key=KEY)
    EntropyClient(address, api_key=KEY, allow_plaintext_beyond_loopback=True).close()
    EntropyClient(address, api_key=KEY, tls=True).close()


@pytest.mark.parametrize("address", ["", "localhost", "localhost:x", "http://localhost:1", "::1:50051", ":50051"])
def test_no_address(address: str) -> None:
    """What is no address is refused at once."""
    with pytest.raises(ConfigError, match="server address"):
        EntropyClient(address)


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "[::1]:1", "dns:///localhost:1", "unix:/tmp/x.sock"])
def test_local_address(address: str) -> None:
    """Plaintext on this machine needs no permission."""
    EntropyClient(address).close()


def test_a_file_may_be_named_by_text() -> None:
    """A path is a path, whether as text or as Path; what is neither is told."""
    with pytest.raises(ConfigError, match=r"CA file certs/no-such\.pem: cannot be read"):
        EntropyClient(ca_file="certs/no-such.pem")
    with pytest.raises(ConfigError, match="CA file: expected a path"):
        EntropyClient(ca_file=7)  # type: ignore[arg-type]


def test_address_errors_name_the_way_out() -> None:
    """A URL is told that it is none; plaintext, what allows it and what avoids it."""
    with pytest.raises(ConfigError, match="expected HOST:PORT, not a URL"):
        EntropyClient("http://localhost:50051")
    with pytest.raises(ConfigError, match=r"--ca-file.*allow_plaintext_beyond_loopback; --allow-plaintext"):
        EntropyClient("gateway.example:50051")


def test_unusable_ca_file(tmp_path: Path) -> None:
    """A CA file that is missing or holds no certificate is refused, not ignored."""
    with pytest.raises(ConfigError, match="cannot be read"):
        EntropyClient(ca_file=tmp_path / "missing.pem")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match="no certificate"):
        EntropyClient(ca_file=empty)


def new_pair(at: Path) -> tuple[Path, Path]:
    cert_file, key_file = at.with_suffix(".pem"), at.with_suffix(".key")
    Authority.create("clients").client("spiffe://qrng/client/sampler").save(cert_file, key_file)
    return cert_file, key_file


@pytest.fixture
def issued(tmp_path: Path) -> tuple[Path, Path]:
    """A client's certificate and its key."""
    return new_pair(tmp_path / "own")


def test_own_certificate(issued: tuple[Path, Path]) -> None:
    """A certificate and its key imply TLS."""
    cert_file, key_file = issued
    EntropyClient("gateway.example:50051", cert_file=cert_file, key_file=key_file).close()


def test_unusable_own_certificate(tmp_path: Path, issued: tuple[Path, Path]) -> None:
    """Half a pair, a key that is another's, encrypted, readable by others or none: refused by name, at once."""
    cert_file, key_file = issued
    _, others = new_pair(tmp_path / "other")
    key = load_pem_private_key(key_file.read_bytes(), None)
    locked, shared = tmp_path / "locked.key", tmp_path / "shared.key"
    locked.touch(0o600)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))
    shared.write_bytes(key_file.read_bytes())
    shared.chmod(0o644)
    mistakes: list[tuple[Path | None, Path | None, str]] = [
        (cert_file, None, "go together"),
        (None, key_file, "go together"),
        (key_file, key_file, "holds no certificate"),
        (tmp_path / "missing", key_file, "cannot be read"),
        (cert_file, tmp_path / "missing", "cannot be read"),
        (cert_file, others, "is not the certificate's"),
        (cert_file, cert_file, "can be read or changed by others|is not the certificate's"),
        (cert_file, locked, "is encrypted"),
        (cert_file, shared, "can be read or changed by others"),
    ]
    for cert, key_of_it, mistake in mistakes:
        with pytest.raises(ConfigError, match=mistake):
            EntropyClient("localhost:1", cert_file=cert, key_file=key_of_it)


def test_maximum_out_of_range() -> None:
    """A message size no server takes is refused."""
    with pytest.raises(InvalidRequestError):
        EntropyClient(max_request_bytes=(1 << 20) + 1)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e300])
def test_timeout_out_of_range(timeout_s: float) -> None:
    """A time-out that could not be kept is refused."""
    with pytest.raises(InvalidRequestError, match="timeout_s"):
        EntropyClient(timeout_s=timeout_s)


def test_environment() -> None:
    """Address, key and time-out come from the environment; other QR_ names are left to other programs."""
    settings = client_settings(
        {
            "QR_GRPC_SERVER_ADDRESS": "[::1]:6000",
            "QR_GRPC_API_KEY": KEY,
            "QR_GRPC_TIMEOUT_MS": "250",
            "QR_TOP_K": "50",
            "QRNG_GATEWAY_BUFFER_SIZE": "x",
        }
    )
    assert settings.grpc_server_address == "[::1]:6000"
    assert settings.grpc_api_key.get_secret_value() == KEY
    assert settings.timeout_s == 0.25
    assert client_settings({}).timeout_s is None
    assert KEY not in repr(settings)


@pytest.mark.parametrize("client", [EntropyClient, AsyncEntropyClient])
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("CA_FILE", "/missing.pem", "QR_GRPC_CA_FILE: CA file /missing.pem: cannot be read"),
        ("CERT_FILE", "/missing.pem", "QR_GRPC_KEY_FILE: QR_GRPC_CERT_FILE and QR_GRPC_KEY_FILE go together"),
        ("SERVER_ADDRESS", "gateway.example:1", "QR_GRPC_SERVER_ADDRESS: gateway.example:1 is beyond this machine"),
        ("SERVER_ADDRESS", "localhost:1,localhost:2", "QR_GRPC_SERVER_ADDRESS: expected one address"),
    ],
)
def test_mistakes_of_the_environment_are_told_by_its_names(
    client: type[EntropyClient] | type[AsyncEntropyClient], name: str, value: str, told: str
) -> None:
    """A file or an address that cannot be used is told by the variable it came from, and an argument by itself."""
    with pytest.raises(ConfigError) as refusal:
        client.from_env({f"QR_GRPC_{name}": value})
    assert refusal.value.mistakes[0].startswith(told)
    with pytest.raises(ConfigError, match=r"- CA file /argument\.pem: "):
        client.from_env({}, ca_file="/argument.pem")


def test_environment_mistakes() -> None:
    """A time-out that is none is refused by name."""
    with pytest.raises(ConfigError, match="QR_GRPC_TIMEOUT_MS"):
        EntropyClient.from_env({"QR_GRPC_TIMEOUT_MS": "soon"})


@pytest.mark.parametrize("client", [EntropyClient, AsyncEntropyClient])
def test_a_choice_that_no_client_knows(client: Any) -> None:
    """A misspelt argument beside the settings is a mistake, and no plaintext where TLS was meant."""
    for unknown in ({"tsl": True}, {"ca_fil": ""}, {"timeout_s": 3}):
        with pytest.raises(TypeError):
            client.from_env({"QR_GRPC_SERVER_ADDRESS": "127.0.0.1:5"}, **unknown)
