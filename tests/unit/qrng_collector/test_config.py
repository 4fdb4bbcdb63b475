from __future__ import annotations

import ast
from pathlib import Path

import pytest

from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_collector.sources import make_readers
from qrng_grpc.backoff import RetryPolicy
from qrng_grpc.config import load
from qrng_grpc.errors import ConfigError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.testing import QuantisAppliance
from tests.collector_settings import REQUIRED, loaded, mistakes
from tests.spelling import as_keys

HTTP = {"SOURCE": "http", "SOURCE_CLASS": "quantum"}
HTTPS = HTTP | {"APPLIANCE_URL": "https://q"}


def test_the_defaults_read_the_operating_system() -> None:
    """Nothing but keys, ids, the gateway and a directory has to be said."""
    config = loaded()
    assert (config.source, config.source_class, config.source_custody) == (
        "system", SourceClass.OPERATING_SYSTEM, Custody.LOCAL,
    )  # fmt: skip
    assert (config.fetch_chunk_size, config.fetch_interval, config.buffer_size, config.push_interval) == (
        1024, 0.1, 1 << 20, 0.5,
    )  # fmt: skip
    assert (config.buffer_ttl, config.overflow, config.push_timeout, config.flush_timeout) == (
        3600,
        "drop_oldest",
        30,
        5,
    )
    assert config.key_records[0].secret == REQUIRED["HMAC_SECRET_KEY"].encode()
    assert config.key_records[0].pool_ids == {"pool"}


def test_what_has_no_safe_default_is_required_and_reported_at_once() -> None:
    """Keys, ids, class, gateway and state: seven mistakes, one report."""
    with pytest.raises(ConfigError) as caught:
        load(CollectorConfig, prefix=ENV_PREFIX, environ={})
    wanted = [f"{name.lower()}: required" for name in REQUIRED.keys() - {"POOL_ID", "PUSH_URL"}]
    told = [as_keys(mistake, ENV_PREFIX) for mistake in caught.value.mistakes]
    assert sorted(told) == sorted([*wanted, "pools: required, or pool_id and push_url"])


def test_every_mistake_is_reported_at_once() -> None:
    """One mistake does not hide another, and no value is repeated."""
    found = mistakes(
        HMAC_SECRET_KEY="short-secret",
        POOL_ID="no id",
        SOURCE="tea-leaves",
        FETCH_CHUNK_SIZE="2000000",
        BUFFER_SIZE="0",
        PUSH_URL="gateway",
        RETRY_POLICY__JITTER="2",
        LOG_LEVL="info",
    )
    names = sorted(mistake.split(":")[0] for mistake in found)
    assert names == sorted([
        "log_levl", "buffer_size", "fetch_chunk_size", "hmac_secret_key", "pool_id", "push_url",
        "retry_policy.jitter", "source",
    ])  # fmt: skip
    assert not any(value in mistake for mistake in found for value in ("short-secret", "no id", "tea-leaves"))


@pytest.mark.parametrize(("settings", "mistake"), [
    ({"SOURCE": "http", "SOURCE_CLASS": "quantum"}, "appliance_urls: required with source=http, or appliance_url"),
    (HTTP | {"APPLIANCE_URL": "ftp://192.0.2.7"}, "appliance_url: expected https"),
    (HTTP | {"APPLIANCE_URL": "http://192.0.2.7"}, "appliance_url: plain http"),
    (HTTP | {"APPLIANCE_URLS": "https://192.0.2.7,,"}, "appliance_urls: expected https"),
    ({"SOURCE": "http", "APPLIANCE_URL": "https://192.0.2.7"}, "source_class: required with source=http"),
    ({"SOURCE": "device", "DEVICE_PATH": "/dev/null"}, "source_class: required with source=device"),
    ({"SOURCE": "device", "SOURCE_CLASS": "hardware"}, "device_path: required with source=device"),
    ({"APPLIANCE_URL": "https://192.0.2.7"}, "appliance_url: has no effect with source=system"),
    ({"APPLIANCE_URLS": "https://192.0.2.7"}, "appliance_urls: has no effect with source=system"),
    ({"DEVICE_PATH": "/dev/null"}, "device_path: has no effect with source=system"),
    ({"DEVICE_ID": "mine"}, "device_id: has no effect with source=system"),
    ({"SOURCE": "mock", "SOURCE_CUSTODY": "remote"}, "source_custody: has no effect with source=mock"),
    ({"APPLIANCE_FINGERPRINT": "ab" * 32}, "appliance_fingerprint: has no effect with source=system"),
    ({"APPLIANCE_CA_FILE": __file__}, "appliance_ca_file: has no effect with source=system"),
    ({"SOURCE": "mock", "APPLIANCE_FINGERPRINT": "ab" * 32}, "appliance_fingerprint: has no effect with source=mock"),
    ({"MOCK_SEED": "7"}, "mock_seed: has no effect with source=system; only with source=mock"),
    (HTTP | {"APPLIANCE_URL": "https://q", "MOCK_SEED": "7"}, "mock_seed: has no effect with source=http"),
    ({"SPOOL_SIZE": "33554432"}, "spool_size: has no effect without spool_dir"),
    ({"SOURCE_CLASS": "quantum"}, "source_class: is always operating_system with source=system"),
    ({"SOURCE": "mock", "SOURCE_CLASS": "quantum"}, "source_class: is always simulated with source=mock"),
    ({"BEST_CLASS": "simulated"}, "source_class: operating_system is better than best_class"),
    (HTTP | {"APPLIANCE_URL": "https://q", "BEST_CLASS": "hardware"}, "source_class: quantum is better"),
    (HTTP | {"APPLIANCE_URL": "https://q", "DEVICE_ID": "no id"}, "device_id: expected 1 to 64"),
    (HTTPS | {"APPLIANCE_CA_FILE": "missing.pem"}, "appliance_ca_file: missing.pem: cannot be read ("),
    (HTTPS | {"APPLIANCE_CA_FILE": "."}, "appliance_ca_file: .: cannot be"),
    (HTTPS | {"APPLIANCE_CA_FILE": "k" * 400}, "appliance_ca_file: something unlike a path: cannot be read ("),
    (HTTPS | {"APPLIANCE_CA_FILE": __file__}, f"appliance_ca_file: {__file__}: cannot be used"),
    (HTTP | {"APPLIANCE_URL": "https://q", "APPLIANCE_FINGERPRINT": "ab:cd"}, "appliance_fingerprint: expected a"),
    ({"FETCH_CHUNK_SIZE": "0"}, "fetch_chunk_size: "),
    ({"FETCH_CHUNK_SIZE": "4096", "BUFFER_SIZE": "4095"}, "buffer_size: must be at least fetch_chunk_size"),
    ({"FETCH_CHUNK_SIZE": "1048576", "BUFFER_SIZE": "1048575"}, "buffer_size: must be at least fetch_chunk_size"),
    ({"FETCH_INTERVAL": "nan"}, "fetch_interval: "),
    ({"PUSH_INTERVAL": "inf"}, "push_interval: "),
    ({"PUSH_TIMEOUT": "0"}, "push_timeout: "),
    ({"PUSH_URL": "192.0.2.7:50052"}, "push_url: leaves this machine without TLS"),
    ({"PUSH_URL": "127.0.0.1:0"}, "push_url: expected HOST:PORT with a port from 1"),
    ({"PUSH_URL": "unix%2Fx:1"}, "push_url: expected HOST:PORT"),
    ({"RETRY_POLICY__INITIAL_S": "31"}, "retry_policy.maximum_s: must be at least initial_s"),
    ({"RETRY_POLICY__TRIES": "3"}, "retry_policy.tries: there is no such setting"),
    ({"OVERFLOW": "ignore"}, "overflow: "),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, str], mistake: str) -> None:
    """Each mistake is one line that names its setting."""
    (found,) = mistakes(**settings)
    assert found.startswith(mistake)


async def test_a_ca_file_and_a_fingerprint_exclude_each_other() -> None:
    """A fingerprint replaces the CA check, so both at once would be a misunderstanding."""
    async with QuantisAppliance() as appliance:
        settings = HTTP | {"APPLIANCE_URL": appliance.url, "APPLIANCE_CA_FILE": str(appliance.ca_file)}
        assert loaded(**settings).appliance_ca_file == appliance.ca_file
        (found,) = mistakes(**settings, APPLIANCE_FINGERPRINT=appliance.fingerprint)
    assert found.startswith("appliance_fingerprint: give a CA file or a fingerprint")


def test_a_bare_key_is_not_shown() -> None:
    """Neither the settings nor the key record show the secret."""
    config = loaded()
    assert REQUIRED["HMAC_SECRET_KEY"] not in repr(config) + str(config) + repr(config.key_records[0])


def test_plaintext_beyond_loopback_must_be_allowed_in_words() -> None:
    """With the setting the address is taken, without it not."""
    config = loaded(PUSH_URL="gateway.example:50052", ALLOW_PLAINTEXT_BEYOND_LOOPBACK="true")
    assert config.push_url == "gateway.example:50052"
    assert loaded(PUSH_URL="[::1]:50052").push_url == "[::1]:50052"


def test_both_settings_name_appliances(tmp_path: Path) -> None:
    """Each address is one source with an id of its own; the same address twice is one."""
    config = loaded(**HTTP, APPLIANCE_URL="https://q1", APPLIANCE_URLS="https://q2, https://q1", DEVICE_ID="quantis")
    assert config.all_appliance_urls == ("https://q1", "https://q2")
    assert [reader.label.device_ids for reader in make_readers(config, tmp_path)] == [("quantis-1",), ("quantis-2",)]


def test_a_custody_nobody_stated_is_not_promised(tmp_path: Path) -> None:
    """Bytes that came over a network are REMOTE unless the operator says otherwise."""
    (remote,) = make_readers(loaded(**HTTP, APPLIANCE_URL="https://q1"), tmp_path)
    (local,) = make_readers(
        loaded(**HTTP, APPLIANCE_URL="https://q1", SOURCE_CUSTODY="local", APPLIANCE_FINGERPRINT=":".join(["AB"] * 32)),
        tmp_path,
    )
    assert (remote.label.device_ids, remote.label.custody) == (("appliance",), Custody.REMOTE)
    assert local.label.custody is Custody.LOCAL


@pytest.mark.parametrize(("settings", "device_id", "source_class"), [
    ({}, "os-urandom", SourceClass.OPERATING_SYSTEM),
    ({"SOURCE": "mock", "MOCK_SEED": "7"}, "mock", SourceClass.SIMULATED),
    ({"SOURCE": "device", "DEVICE_PATH": "/dev/zero", "SOURCE_CLASS": "hardware"}, "device", SourceClass.HARDWARE),
    (HTTP | {"APPLIANCE_URLS": "https://q1"}, "appliance", SourceClass.QUANTUM),
])  # fmt: skip
async def test_each_kind_of_source_is_made_with_its_label(
    settings: dict[str, str], device_id: str, source_class: SourceClass, tmp_path: Path
) -> None:
    """The label says what the settings say, or what the kind fixes."""
    (reader,) = make_readers(loaded(**settings), tmp_path)
    assert (reader.label.device_ids, reader.label.source_class) == ((device_id,), source_class)
    await reader.close()


def test_every_setting_is_described() -> None:
    """A reference can be made from the models alone."""
    for model in (CollectorConfig, RetryPolicy):
        assert all(field.description for field in model.model_fields.values())


def test_grpc_is_told_to_be_silent_before_it_is_imported() -> None:
    """The package's first lines set the variable; nothing of grpc is imported there."""
    import qrng_collector

    tree = ast.parse(Path(qrng_collector.__file__ or "").read_text())
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["os"]
