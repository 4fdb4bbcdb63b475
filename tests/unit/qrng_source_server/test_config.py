"""The source server's settings: what is refused, by the name of the setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qrng_grpc.certs import Authority
from qrng_source_server.config import SourceServerConfig

KEY = "0123456789abcdef"
MOCK = {"kind": "mock"}
BEYOND = {"listen_address": "0.0.0.0:0", "allow_plaintext_beyond_loopback": True}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files of keys and certificates, by what is in them."""
    paths = {name: tmp_path / name for name in ("key", "short", "spaced", "empty", "shared", "ca", "cert", "tls")}
    for name, text in {
        "key": KEY + "\n",
        "short": KEY[:-1],
        "spaced": f"{KEY} {KEY}",
        "empty": "",
        "shared": KEY,
    }.items():
        paths[name].touch(mode=0o644 if name == "shared" else 0o600)
        paths[name].write_text(text)
    authority = Authority.create("lab")
    paths["ca"].write_bytes(authority.issued.certificate)
    authority.server(["127.0.0.1"]).save(paths["cert"], paths["tls"])
    return paths


def mistakes(**settings: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        SourceServerConfig(**{"source": MOCK, **settings})
    return [f"{error['loc'][0]}: {error['msg'].removeprefix('Value error, ')}" for error in caught.value.errors()]


def test_on_loopback_nothing_but_a_source_is_needed() -> None:
    """No key, no certificate; nobody else can reach it."""
    config = SourceServerConfig(source=MOCK)
    assert (config.listen_address, config.api_keys, config.tls_files) == ("127.0.0.1:50051", (), None)


def test_keys_are_read_from_their_files(files: dict[str, Path]) -> None:
    """Without the line's end, and never shown."""
    config = SourceServerConfig(source=MOCK, api_key_files=[files["key"]], **BEYOND)
    assert [key.get_secret_value() for key in config.api_keys] == [KEY]
    assert KEY not in repr(config)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("short", "every key needs at least 16 characters"),
        ("spaced", "a file holds one key, of visible ASCII characters without blanks"),
        ("empty", "is empty"),
        ("shared", "can be read or changed by others; chmod 600 it"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(files: dict[str, Path], name: str, mistake: str) -> None:
    """On loopback too: who gives a file means that a key is needed."""
    assert mistakes(api_key_files=[files[name]]) == [f"api_key_files: {mistake}"]


def test_beyond_loopback_everything_is_needed(files: dict[str, Path]) -> None:
    """TLS, unless plaintext is allowed in words, and a key in any case."""
    everywhere = {"listen_address": "[::]:0"}
    assert [line.split(":")[0] for line in mistakes(**everywhere)] == [
        "allow_plaintext_beyond_loopback",
        "api_key_files",
    ]
    tls = {"tls_cert_file": files["cert"], "tls_key_file": files["tls"]}
    assert mistakes(**everywhere, **tls) == ["api_key_files: required beyond loopback"]
    config = SourceServerConfig(source=MOCK, **everywhere, **tls, api_key_files=[files["key"]])
    assert config.tls_files is not None


def test_parts_of_tls_go_together(files: dict[str, Path]) -> None:
    """A certificate with its key, and authorities only with both."""
    assert mistakes(tls_cert_file=files["cert"]) == ["tls_key_file: goes together with tls_cert_file"]
    assert mistakes(tls_key_file=files["tls"]) == ["tls_key_file: goes together with tls_cert_file"]
    assert mistakes(client_ca_file=files["ca"]) == ["client_ca_file: has no effect without tls_cert_file"]
    assert mistakes(tls_cert_file=files["key"], tls_key_file=files["tls"])[0].startswith("tls_cert_file: holds no")


def test_a_file_is_not_read_twice(tmp_path: Path) -> None:
    """A recording needs a directory in which is kept how far it was read; a device does not."""
    from qrng_grpc.sources.kinds import Surroundings, open_source

    recording = tmp_path / "recording"
    recording.write_bytes(bytes(10))
    stated = {"kind": "device", "source_class": "hardware", "device_id": "d"}
    config = SourceServerConfig(source=stated | {"path": str(recording)})
    with pytest.raises(ValueError, match="path: is a file, of which no byte must be read twice"):
        open_source(config.source, Surroundings())
    assert open_source(config.source, Surroundings(state_dir=tmp_path))
    assert open_source(SourceServerConfig(source=stated | {"path": "/dev/urandom"}).source, Surroundings())


def test_a_pace_has_no_effect() -> None:
    """The source is read when somebody asks; how much at once, and how seldom, may be set."""
    assert mistakes(source=MOCK | {"fetch_interval": 1}) == [
        "source: fetch_interval has no effect here: the source is read when somebody asks"
    ]
    assert SourceServerConfig(source=MOCK | {"fetch_chunk_size": 512, "request_interval": 1, "fetch_timeout": 30})


def test_every_setting_is_described() -> None:
    """Each says what it is."""
    assert all(field.description for field in SourceServerConfig.model_fields.values())
