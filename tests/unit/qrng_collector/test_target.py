"""Where a collector pushes: one pool or several, and which settings say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_grpc.config import load
from qrng_grpc.errors import ConfigError
from tests.spelling import as_keys

COMMON = {
    "HMAC_SECRET_KEY": "0123456789abcdef0123456789abcdef",
    "HMAC_KEY_ID": "k1",
    "COLLECTOR_ID": "lab",
    "BEST_CLASS": "quantum",
    "STATE_DIR": "state",
}
EAST = {"pool_id": "east", "push_url": "127.0.0.1:1001"}
WEST = {"pool_id": "west", "push_url": "127.0.0.1:1002"}
AWAY = {"pool_id": "away", "push_url": "192.0.2.7:1"}


def loaded(**settings: str) -> CollectorConfig:
    environ = {ENV_PREFIX + name: value for name, value in (COMMON | settings).items()}
    return load(CollectorConfig, prefix=ENV_PREFIX, environ=environ)


def places(config: CollectorConfig) -> list[tuple[str, str]]:
    return [(target.pool_id, target.push_url) for target in config.targets]


def test_one_pool() -> None:
    """pool_id and push_url name the one pool there is."""
    config = loaded(POOL_ID="pool", PUSH_URL="127.0.0.1:7")
    assert places(config) == [("pool", "127.0.0.1:7")]
    assert config.targets[0].push_tls_files is None


def test_several_pools() -> None:
    """As JSON in the environment or a list in YAML; the key's record covers all of them."""
    config = loaded(POOLS=json.dumps([EAST, WEST]))
    assert places(config) == [("east", "127.0.0.1:1001"), ("west", "127.0.0.1:1002")]
    assert {pool for record in config.key_records for pool in record.pool_ids} == {"east", "west"}


def test_several_pools_in_a_file(tmp_path: Path) -> None:
    """A YAML list says the same."""
    file = tmp_path / "collector.yaml"
    file.write_text("pools:\n  - pool_id: east\n    push_url: '[::1]:1001'\n")
    environ = {ENV_PREFIX + name: value for name, value in COMMON.items()}
    assert places(load(CollectorConfig, prefix=ENV_PREFIX, environ=environ, yaml_file=file)) == [("east", "[::1]:1001")]


@pytest.mark.parametrize(("settings", "mistake"), [
    ({}, "pools: required, or pool_id and push_url"),
    ({"PUSH_URL": "127.0.0.1:7"}, "pools: required, or pool_id and push_url"),
    ({"POOL_ID": "pool"}, "push_url: required with pool_id"),
    ({"POOLS": json.dumps([EAST]), "POOL_ID": "pool"}, "pools: give pools, or pool_id and push_url, not both"),
    ({"POOLS": json.dumps([EAST]), "PUSH_URL": "127.0.0.1:7"}, "push_url: give pools, or pool_id and push_url"),
    ({"POOLS": json.dumps([EAST, {**WEST, "pool_id": "east"}])}, "pools: two of them share a pool_id"),
    ({"POOLS": json.dumps([EAST, AWAY])}, "pools: leaves this machine without TLS"),
    ({"POOLS": json.dumps([{"pool_id": "east"}])}, "pools.0.push_url: required"),
    ({"POOLS": json.dumps([{**EAST, "pool_id": "no id"}])}, "pools.0.pool_id: expected 1 to 64"),
    ({"POOLS": json.dumps([{**EAST, "push_url": "east:0"}])}, "pools.0.push_url: expected HOST:PORT"),
    ({"POOLS": json.dumps([{**EAST, "push_cert_file": "c.pem"}])}, "pools.0.push_cert_file: has no effect without"),
    ({"POOLS": json.dumps([{**EAST, "color": "red"}])}, "pools.0.color: there is no such setting"),
    ({"POOL_ID": "pool", "PUSH_URL": "127.0.0.1:7", "HEALTH_LISTEN_ADDRESS": "0.0.0.0:8"}, "must be on loopback"),
    ({"POOL_ID": "pool", "PUSH_URL": "127.0.0.1:7", "HEALTH_LISTEN_ADDRESS": "health"}, "health_listen_address: "),
    ({"POOL_ID": "pool", "PUSH_URL": "127.0.0.1:7", "HEARTBEAT_INTERVAL": "0"}, "heartbeat_interval: "),
])  # fmt: skip
def test_a_mistake(settings: dict[str, str], mistake: str) -> None:
    """Exactly one of the two forms, complete, and nothing beyond loopback by accident; one mistake, one report."""
    with pytest.raises(ConfigError) as caught:
        loaded(**settings)
    (found,) = (as_keys(one, ENV_PREFIX) for one in caught.value.mistakes)
    assert mistake in found


def test_plaintext_on_purpose() -> None:
    """What the setting allows in words holds for several pools too."""
    config = loaded(POOLS=json.dumps([EAST, AWAY]), ALLOW_PLAINTEXT_BEYOND_LOOPBACK="true")
    assert places(config)[1] == ("away", "192.0.2.7:1")


def test_no_health_by_default() -> None:
    """Nothing is served locally unless an address is named; an empty one names none."""
    settings = {"POOL_ID": "pool", "PUSH_URL": "127.0.0.1:7"}
    assert loaded(**settings).health_listen_address is None
    assert loaded(**settings, HEALTH_LISTEN_ADDRESS="").health_listen_address is None
    assert loaded(**settings, HEALTH_LISTEN_ADDRESS="[::1]:8").health_listen_address == "[::1]:8"
