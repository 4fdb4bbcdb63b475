"""The gateway's settings: complete and safe, or refused with every mistake."""

from pathlib import Path

import pytest

from qrng_gateway.config import ENV_PREFIX, GatewayConfig
from qrng_grpc.certs import Authority
from qrng_grpc.config import load
from qrng_grpc.errors import ConfigError
from qrng_grpc.labels import SourceClass
from tests.spelling import as_keys

GOOD = {
    "QRNG_GATEWAY_API_KEYS": "a-key-of-a-client-1,a-key-of-a-client-2",
    "QRNG_GATEWAY_HMAC_SECRET_KEY": "s" * 32,
    "QRNG_GATEWAY_HMAC_KEY_ID": "key-1",
    "QRNG_GATEWAY_COLLECTOR_ID": "collector-1",
    "QRNG_GATEWAY_POOL_ID": "pool-1",
    "QRNG_GATEWAY_BEST_CLASS": "quantum",
    "QRNG_GATEWAY_STATE_DIR": "var/gateway",
}


def read(yaml_file: Path | None = None, **changes: str) -> GatewayConfig:
    changed = {ENV_PREFIX + name.upper(): value for name, value in changes.items()}
    return load(GatewayConfig, prefix=ENV_PREFIX, environ={**GOOD, **changed}, yaml_file=yaml_file)


def mistakes_of(**changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(**changes)
    return "\n".join(as_keys(mistake, ENV_PREFIX) for mistake in caught.value.mistakes)


def test_what_has_no_safe_default_is_all_that_must_be_set() -> None:
    """Keys, ids, the class and the state directory are required; everything else has a default."""
    with pytest.raises(ConfigError) as caught:
        load(GatewayConfig, prefix=ENV_PREFIX, environ={})
    required = ["api_keys", "hmac_secret_key", "hmac_key_id", "collector_id", "pool_id", "best_class", "state_dir"]
    told = [as_keys(mistake, ENV_PREFIX) for mistake in caught.value.mistakes]
    assert sorted(mistake.split(":")[0].split()[0] for mistake in told) == sorted(required)


def test_defaults_listen_on_loopback_only() -> None:
    """Nothing is reachable from another machine unless someone says so."""
    config = read()
    assert config.listen_address == "127.0.0.1:50051"
    assert config.push_listen_address == "127.0.0.1:50052"
    assert config.rest_listen_address == "127.0.0.1:8080"
    assert config.buffer_size == 10_000_000
    assert config.buffer_ttl == 3600


def test_the_key_record_is_what_the_settings_say() -> None:
    """Chunks are believed from this collector, for this pool, up to this class."""
    record = read().key_records[0]
    assert (record.key_id, record.collector_id, record.pool_ids) == ("key-1", "collector-1", {"pool-1"})
    assert record.secret == b"s" * 32
    assert record.best_class is SourceClass.QUANTUM


def test_the_least_class_is_the_best_unless_stated() -> None:
    """A gateway serves nothing weaker than its key may claim, unless its operator says so."""
    assert read().served_class is SourceClass.QUANTUM
    assert read(least_class="operating_system").served_class is SourceClass.OPERATING_SYSTEM


def test_a_least_class_beyond_the_best_is_a_mistake() -> None:
    """A gateway that could never serve anything does not start."""
    assert "least_class" in mistakes_of(best_class="operating_system", least_class="quantum")


@pytest.mark.parametrize("name", ["listen_address", "push_listen_address", "rest_listen_address"])
def test_plaintext_beyond_loopback_needs_words(name: str) -> None:
    """A listener that leaves the machine is refused until the operator allows plaintext there."""
    assert name in mistakes_of(**{name: "0.0.0.0:1234"})
    config = read(**{name: "0.0.0.0:1234", "allow_plaintext_beyond_loopback": "true"})
    assert getattr(config, name) == "0.0.0.0:1234"


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ("", "at least one"),
        (",", "at least one"),
        ("a-key-of-a-client-1,", "empty"),
        ("too-short", "16 characters"),
        ("a-key-of-a-client-1,a-key-of-a-client-1", "twice"),
        ("a key with blanks in it", "visible ASCII"),
        ("schlüssel-eines-kunden", "visible ASCII"),
    ],
)
def test_unusable_api_keys_are_refused_and_not_repeated(keys: str, complaint: str) -> None:
    """Empty, short, doubled or unprintable keys are mistakes, told without the keys."""
    told = mistakes_of(api_keys=keys)
    assert complaint in told
    assert not any(len(key) > 3 and key in told for key in keys.split(","))


def test_keys_may_be_a_yaml_list(tmp_path: Path) -> None:
    """A settings file lists keys as YAML does."""
    file = tmp_path / "gateway.yaml"
    file.touch(mode=0o600)
    file.write_text("api_keys: [one-key-of-a-client, another-key-of-one]\n")
    environ = {name: value for name, value in GOOD.items() if not name.endswith("API_KEYS")}
    config = load(GatewayConfig, prefix=ENV_PREFIX, environ=environ, yaml_file=file)
    assert [key.get_secret_value() for key in config.api_keys] == ["one-key-of-a-client", "another-key-of-one"]


def test_secrets_do_not_show() -> None:
    """A configuration can be printed without giving a key away."""
    shown = repr(read())
    assert "a-key-of-a-client" not in shown
    assert "ssss" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen_address", "nowhere"),
        ("buffer_size", "1048575"),
        ("buffer_ttl", "0"),
        ("buffer_ttl", "nan"),
        ("overflow", "explode"),
        ("clock_tolerance", "301"),
        ("max_request_bytes", "1048577"),
        ("max_rest_bytes", "65537"),
        ("max_wait", "inf"),
        ("max_streams", "0"),
        ("hmac_secret_key", "short"),
        ("hmac_key_id", "no blanks"),
        ("pool_id", ""),
        ("best_class", "unspecified"),
        ("log_level", "loud"),
    ],
)
def test_values_out_of_range_are_named(name: str, value: str) -> None:
    """A mistake names the setting it is in."""
    assert name in mistakes_of(**{name: value}).lower()


def test_all_mistakes_come_at_once() -> None:
    """An operator mends a configuration in one go."""
    told = mistakes_of(buffer_size="1", api_keys="short", listen_address="0.0.0.0:1", pool_id="?", tyop="1")
    for name in ("buffer_size", "api_keys", "allow_plaintext_beyond_loopback", "pool_id", "tyop"):
        assert name in told.lower()


def test_every_setting_is_described() -> None:
    """No setting is without a sentence."""
    assert all(field.description for field in GatewayConfig.model_fields.values())


@pytest.mark.parametrize("given", ["10.0.0.0/8, 192.0.2.1,fd00::/8", '["10.0.0.0/8", "192.0.2.1", "fd00::/8"]'])
def test_trusted_proxies_are_addresses_and_networks(tmp_path: Path, given: str) -> None:
    """They are given as a list in YAML, or separated by commas, and there are none by default."""
    file = tmp_path / "gateway.yaml"
    file.write_text(f"trusted_proxies: {given}\n")
    assert [str(network) for network in read(file).trusted_proxies] == ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]
    assert read().trusted_proxies == read(trusted_proxies="").trusted_proxies == ()


@pytest.mark.parametrize("given", ["proxy.example.org", "10.0.0.1/8", "0.0.0.0/0", "::/0", "10.0.0.1,nonsense"])
def test_whom_to_believe_is_not_guessed(given: str) -> None:
    """Names, networks with host bits, and everybody are refused as proxies."""
    assert "trusted_proxies" in mistakes_of(trusted_proxies=given)


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "1000001"])
@pytest.mark.parametrize("setting", ["rate_limit", "address_rate_limit"])
def test_a_rate_is_a_positive_number(setting: str, given: str) -> None:
    """No rate switches a limit off by accident, or lets nothing through."""
    assert setting in mistakes_of(**{setting: given})


def test_a_wait_for_fresh_bytes_that_ends_before_they_are_fresh_is_a_mistake() -> None:
    """Fresh means captured after the tolerance of clocks: whoever waits no longer would only time out. 0 is off."""
    assert "max_fresh_wait" in mistakes_of(clock_tolerance="60")
    assert "max_fresh_wait" in mistakes_of(max_fresh_wait="5")
    assert read(max_fresh_wait="5.1").max_fresh_wait == 5.1
    assert read(max_fresh_wait="0", clock_tolerance="300").max_fresh_wait == 0
    assert read(max_fresh_wait="0.1", clock_tolerance="0").max_fresh_wait == 0.1


def test_an_entropy_of_which_no_chunk_makes_an_output_is_a_mistake() -> None:
    """The largest chunk must make one output at least; a little more of it does."""
    assert "entropy_per_byte" in mistakes_of(post_processing="sha256", entropy_per_byte="0.0003")
    assert read(post_processing="sha256", entropy_per_byte="0.00031").entropy_per_byte == 0.00031


def test_readiness_that_no_pool_can_reach_is_a_mistake() -> None:
    """A gateway that could never be ready does not start."""
    assert "ready_bytes" in mistakes_of(ready_bytes="10000001")
    assert read(ready_bytes="10000000").ready_bytes == 10_000_000


NATIVE = {"engine": "native"}


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "[::1]:50051", "localhost:0", "unix:/run/qrng/grpc.sock"])
def test_the_native_engine_listens_on_this_machine(address: str) -> None:
    """Loopback and Unix sockets are what it can be given."""
    assert read(listen_address=address, **NATIVE).listen_address == address


@pytest.mark.parametrize(
    "changes",
    [
        {"listen_address": "0.0.0.0:50051", "allow_plaintext_beyond_loopback": "true"},
        {"listen_address": "192.0.2.1:50051", "allow_plaintext_beyond_loopback": "true"},
        {"address_rate_limit": "5"},
    ],
)
def test_what_the_native_engine_cannot_keep_is_refused(changes: dict[str, str]) -> None:
    """It does not start with less than was asked for; the mistake names the setting and what to do instead."""
    mistakes = mistakes_of(**changes, **NATIVE)
    assert mistakes.startswith("engine: ")
    assert next(iter(changes)) in mistakes
    assert "engine grpcio" in mistakes
    assert read(**changes).engine == "grpcio"


def test_the_native_engine_has_no_tls(tmp_path: Path) -> None:
    """A certificate for clients, or authorities for theirs, need grpcio or a proxy; the push listener has its own."""
    authority = Authority.create("test")
    for role, issued in (("server", authority.server(["localhost"])), ("ca", authority.issued)):
        issued.save(tmp_path / f"{role}.pem", tmp_path / f"{role}.key")
    files = {"tls_cert_file": "server.pem", "tls_key_file": "server.key", "client_ca_file": "ca.pem"}
    given = {name: str(tmp_path / file) for name, file in files.items()}
    mistakes = mistakes_of(**given, **NATIVE)
    assert all(name in mistakes for name in files)
    assert "use engine grpcio, or a TLS proxy in front" in mistakes
    pushes = {f"push_{name}": path for name, path in given.items()}
    assert read(**pushes, **NATIVE).push_tls_files is not None


def test_with_a_proxy_that_names_callers_the_native_engine_limits_addresses() -> None:
    """Without one it limits none, since all it sees is this machine."""
    config = read(trusted_proxies="127.0.0.1", address_rate_limit="5", **NATIVE)
    assert (config.address_rate_limit, config.limits_addresses) == (5, True)
    assert not read(**NATIVE).limits_addresses
    assert read().limits_addresses


def test_the_native_engine_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is missing, the mistake names the extra that brings it."""
    monkeypatch.setattr("qrng_gateway.engines.NATIVE_PACKAGE", "a_package_that_is_not_there")
    assert "install qrng-grpc[native], or use engine grpcio" in mistakes_of(**NATIVE)
    assert read().engine == "grpcio"


@pytest.mark.parametrize("setting", ["listen_address", "push_listen_address", "rest_listen_address"])
def test_only_the_native_engine_listens_at_a_unix_socket(setting: str) -> None:
    """A Unix socket is for clients alone, and nothing else of the gateway listens at one."""
    at_fault = "engine" if setting == "listen_address" else setting
    assert mistakes_of(**{setting: "unix:/run/qrng.sock"}).startswith(f"{at_fault}: ")
    assert "listen_address: " in mistakes_of(listen_address="unix:", **NATIVE)
