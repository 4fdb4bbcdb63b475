"""Entries of `sources`: what is taken, what is refused, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_collector.reader import MixedReader
from qrng_collector.sources import make_readers, mix_patience_s, source_entries
from qrng_grpc.config import load
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.sources.kinds import offers
from qrng_grpc.sources.kinds.http import RequestSettings
from qrng_grpc.sources.leg import Leg
from qrng_grpc.sources.presets import PRESETS
from tests.collector_settings import environ_of, loaded, mistakes

SYSTEM = {"kind": "system"}
JITTER = {"kind": "jitter"}
STATED = {"source_class": "quantum", "device_id": "q"}
HTTP = {"kind": "http", "url": "https://192.0.2.7", **STATED}
VAULT = {"kind": "http", "preset": "vault", "url": "https://192.0.2.8:8200", "source_class": "operating_system"}
SLOW_LFD = {
    "kind": "http",
    "preset": "lfd",
    "source_class": "quantum",
    "device_id": "lfd",
    "request_interval": 3600,
    "start_up_size": 1024,
}
GRPC = {"kind": "grpc", "address": "127.0.0.1:50051", **STATED}
DEVICE = {"kind": "device", "path": "/dev/hwrng", "source_class": "hardware", "device_id": "d"}


@pytest.mark.parametrize(("entry", "device_id", "source_class", "custody"), [
    (SYSTEM, "os-urandom", SourceClass.OPERATING_SYSTEM, Custody.LOCAL),
    (JITTER, "cpu-jitter", SourceClass.OPERATING_SYSTEM, Custody.LOCAL),
    ({"kind": "mock", "seed": 7}, "mock", SourceClass.SIMULATED, Custody.LOCAL),
    (DEVICE, "d", SourceClass.HARDWARE, Custody.LOCAL),
    (HTTP, "q", SourceClass.QUANTUM, Custody.REMOTE),
    (HTTP | {"custody": "local", "source_class": "hardware"}, "q", SourceClass.HARDWARE, Custody.LOCAL),
    (GRPC, "q", SourceClass.QUANTUM, Custody.REMOTE),
    (VAULT | {"device_id": "v", "api_key": "token"}, "v", SourceClass.OPERATING_SYSTEM, Custody.REMOTE),
])  # fmt: skip
async def test_each_kind_has_its_label(
    entry: dict[str, Any], device_id: str, source_class: SourceClass, custody: Custody, tmp_path: Path
) -> None:
    """A leg says what its kind fixes or its entry states, and that its bytes passed."""
    (reader,) = make_readers(loaded(entry), tmp_path)
    label = reader.label
    assert isinstance(reader, Leg)
    assert (label.device_ids, label.source_class, label.custody) == ((device_id,), source_class, custody)
    assert (label.processing, label.health_verdict) == (Processing.NONE, HealthVerdict.PASSED)
    await reader.close()


async def test_entries_stand_in_yaml(tmp_path: Path) -> None:
    """The same entries, from a file: a foreign gRPC server, and a provider nobody knows."""
    (tmp_path / "collector.yaml").touch(mode=0o600)
    (tmp_path / "collector.yaml").write_text("""
mixing_strategy: hkdf
sources:
  - kind: grpc
    address: 127.0.0.1:50051
    method_path: /google.cloud.kms.v1.KeyManagementService/GenerateRandomBytes
    count_field: 2
    data_field: 3
    request_prefix: 0a03616263
    source_class: hardware
    device_id: kms
    assessed_entropy: 7
  - kind: http
    source_class: quantum
    device_id: other
    api_key: secret-token
    request:
      url: https://random.example/api?n={bytes}
      reader: json:result.0.value:base64
      method: POST
      headers: {Authorization: "Token {key}"}
""")
    config = load(CollectorConfig, prefix=ENV_PREFIX, environ=environ_of(), yaml_file=tmp_path / "collector.yaml")
    (reader,) = make_readers(config, tmp_path)
    assert isinstance(reader, MixedReader)
    assert [view.device_id for view in reader.states()] == ["kms", "other"]
    assert reader.label.processing is Processing.MIXED
    assert "secret-token" not in repr(config)
    await reader.close()


@pytest.mark.parametrize(("sources", "settings", "mistake"), [
    ([{"kind": "dice"}], {}, "sources.0: "),
    ([SYSTEM, SYSTEM], {}, "sources: two of them share a device_id"),
    ([HTTP, HTTP | {"device_id": "q2"}], {}, "sources: two of them are the same source under two names"),
    ([GRPC, GRPC | {"device_id": "q2"}], {}, "sources: two of them are the same source under two names"),
    ([DEVICE, DEVICE | {"device_id": "d2"}], {}, "sources: two of them are the same source under two names"),
    ([SYSTEM | {"device_id": "mine"}], {}, "sources.0.device_id: there is no such setting"),
    ([JITTER | {"source_class": "quantum"}], {}, "sources.0.source_class: there is no such setting"),
    ([HTTP], {"BEST_CLASS": "hardware"}, "sources: q: quantum is better than best_class"),
    ([HTTP | {"url": "http://192.0.2.7"}], {}, "sources.0: plain http"),
    ([HTTP | {"preset": "lfd", "url": None, "source_class": "quantum", "api_key": "k"}], {}, "sources.0: the pro"),
    ([HTTP | {"preset": "anu", "url": None}], {}, "sources.0: the provider needs a key"),
    ([VAULT | {"device_id": "v", "api_key": "t", "source_class": "quantum"}], {}, "sources.0: bytes of vault are"),
    ([HTTP | {"request": {"url": "https://x/{bytes}", "reader": "tea"}}], {}, "sources.0.request.reader: "),
    ([HTTP | {"preset": "lfd", "request": {"url": "https://x", "reader": "raw"}}], {}, "sources.0.request: give"),
    ([HTTP | {"fingerprint": "ab"}], {}, "sources.0: a fingerprint is a SHA-256"),
    ([HTTP | {"client_cert_file": "x"}], {}, "sources.0: a client certificate and its key"),
    ([HTTP | {"api_key_file": "/does/not/exist"}], {}, "sources.0.api_key_file: cannot be read"),
    ([HTTP | {"assessed_entropy": 9}], {}, "sources.0.assessed_entropy: "),
    ([HTTP | {"assessed_entropy": 0}], {}, "sources.0.assessed_entropy: "),
    ([HTTP | {"start_up_size": 1023}], {}, "sources.0.start_up_size: "),
    ([HTTP | {"device_id": "no id"}], {}, "sources.0.device_id: expected 1 to 64"),
    ([GRPC | {"address": "192.0.2.7:1"}], {}, "sources.0: server address: plaintext"),
    ([GRPC | {"method_path": "nowhere"}], {}, "sources.0: path: expected"),
    ([GRPC | {"request_prefix": "xy"}], {}, "sources.0.request_prefix: "),
    ([GRPC | {"reply_echo_field": 2}], {}, "sources.0: request_echo_field"),
    ([SYSTEM], {"SOURCE": "mock"}, "source: has no effect with sources"),
    ([SYSTEM], {"SOURCE_CLASS": "operating_system"}, "source_class: has no effect with sources"),
    ([SYSTEM], {"APPLIANCE_URL": "https://q"}, "appliance_url: has no effect"),
    ([SYSTEM], {"APPLIANCE_URLS": "https://q"}, "appliance_urls: has no effect with sources"),
    ([SYSTEM], {"APPLIANCE_CA_FILE": __file__}, "appliance_ca_file: has no effect with sources"),
    ([HTTP], {"APPLIANCE_FINGERPRINT": "ab" * 32}, "appliance_fingerprint: has no effect with sources"),
    ([DEVICE], {"DEVICE_PATH": "/dev/hwrng"}, "device_path: has no effect with sources"),
    ([{"kind": "mock"}], {"MOCK_SEED": "7"}, "mock_seed: has no effect with sources"),
    ([HTTP], {"SOURCE_CUSTODY": "local"}, "source_custody: has no effect with sources"),
    ([HTTP], {"DEVICE_ID": "q2"}, "device_id: has no effect with sources"),
    ([HTTP], {"ASSESSED_ENTROPY": "4"}, "assessed_entropy: has no effect with sources"),
    ([HTTP | {"url": "https://qrng..lab.example"}], {}, "sources.0: not a URL, or its host"),
    ([HTTP | {"request": {"url": "https://x", "reader": "raw"}}], {}, "sources.0: a request says"),
    ([HTTP | {"request": {"url": "{base}/{bytes}", "reader": "raw", "body": "{kee}"}}], {}, "sources.0: a header"),
    ([SYSTEM, SLOW_LFD], {"MIXING_STRATEGY": "xor", "FETCH_CHUNK_SIZE": "24576"}, "fetch_chunk_size: lfd: so many"),
    ([SYSTEM, SLOW_LFD], {"MIXING_STRATEGY": "hkdf", "FETCH_CHUNK_SIZE": "19456"}, "fetch_chunk_size: lfd: so many"),
    ([SYSTEM | {"fetch_chunk_size": 4096}], {"BUFFER_SIZE": "4095"}, "buffer_size: must be at least the fetch_chunk"),
    ([SYSTEM], {"MIXING_STRATEGY": "xor"}, "mixing_strategy: a mix takes 2 to 8"),
    ([SYSTEM, JITTER], {"MIXING_STRATEGY": "tea"}, "mixing_strategy: "),
    ([SYSTEM, JITTER | {"fetch_interval": 1}], {"MIXING_STRATEGY": "xor"}, "mixing_strategy: cpu-jitter: in a mix"),
    ([SYSTEM | {"assessed_entropy": 6}, JITTER], {"MIXING_STRATEGY": "xor"}, "xor_bits_per_byte: no source has"),
    ([SYSTEM, JITTER], {"MIXING_STRATEGY": "hkdf", "XOR_BITS_PER_BYTE": "5"}, "xor_bits_per_byte: has an effect"),
    ([SYSTEM, JITTER], {"ON_MISSING_LEG": "degrade"}, "on_missing_leg: has no effect"),
    ([SYSTEM], {"HEALTH_ALPHA": "2^-19"}, "health_alpha: "),
    ([SYSTEM], {"HEALTH_ALPHA": "off"}, "health_alpha: "),
    ([SYSTEM], {"HEALTH_TESTS": "off"}, "health_tests: there is no such setting"),
])  # fmt: skip
def test_what_cannot_be_used_is_refused(sources: list[dict[str, Any]], settings: dict[str, str], mistake: str) -> None:
    """Each mistake is one line that names its place and no value."""
    (found,) = mistakes(*sources, **settings)
    assert found.startswith(mistake)


def test_every_mistake_is_reported_at_once() -> None:
    """Mistakes in several entries, and beside them, are told together; no key is repeated."""
    found = mistakes(
        HTTP | {"device_id": "no id", "start_up_size": 1},
        GRPC | {"mode": "tea", "api_key": "secret key"},
        FETCH_INTERVAL="0",
    )
    assert sorted(mistake.split(":")[0] for mistake in found) == [
        "fetch_interval",
        "sources.0.device_id",
        "sources.0.start_up_size",
        "sources.1.mode",
    ]
    assert "secret" not in "".join(found)


def test_a_key_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    """A key is read from a file that nobody else can read; one that others can read, or an empty one, is refused."""
    file = tmp_path / "key"
    file.write_text("token\n")
    file.chmod(0o600)
    entry = VAULT | {"device_id": "v", "api_key_file": str(file)}
    (settings,) = loaded(entry).sources
    assert settings.kind == "http"
    assert settings.key is not None
    assert settings.key.get_secret_value() == "token"
    (found,) = mistakes(entry | {"api_key": "other"})
    assert found.startswith("sources.0.api_key_file: give api_key or api_key_file")
    file.chmod(0o644)
    (found,) = mistakes(entry)
    assert found.startswith("sources.0.api_key_file: can be read")
    file.chmod(0o600)
    file.write_text("\n")
    (found,) = mistakes(entry)
    assert found.startswith("sources.0.api_key_file: is empty")


def test_several_appliances_can_be_mixed(tmp_path: Path) -> None:
    """The settings of one source mean entries too, and several appliances are several sources of a mix."""
    flat = {
        "SOURCE": "http",
        "SOURCE_CLASS": "quantum",
        "APPLIANCE_URLS": "https://q1,https://q2",
        "MIXING_STRATEGY": "xor",
        "ASSESSED_ENTROPY": "7.5",
    }
    config = loaded(**flat)
    assert [entry.assessed_entropy for entry in source_entries(config)] == [7.5, 7.5]
    (reader,) = make_readers(config, tmp_path)
    assert reader.label.device_ids == ("appliance-1", "appliance-2")


def test_an_entry_may_have_its_own_pace(tmp_path: Path) -> None:
    """Sizes and intervals of an entry go before those of the collector."""
    own = {"fetch_chunk_size": 64, "fetch_interval": 5}
    readers = make_readers(loaded(SYSTEM | own, JITTER, FETCH_CHUNK_SIZE="128"), tmp_path)
    assert [(reader.fetch_size, reader.fetch_interval_s) for reader in readers] == [(64, 5.0), (128, 0.1)]


@pytest.mark.parametrize(("strategy", "size", "requests"), [
    ("xor", 1024, 1), ("concat", 1025, 2), ("hkdf", 1024, 2), ("hkdf", 4096, 5),
])  # fmt: skip
def test_a_mix_is_as_patient_as_its_legs_need(strategy: str, size: int, requests: int) -> None:
    """It waits for every request that a leg's part of a block takes, each with its interval and its time."""
    entry = SLOW_LFD | {"request_interval": 7, "fetch_timeout": 5}
    config = loaded(SYSTEM, entry, MIXING_STRATEGY=strategy, FETCH_CHUNK_SIZE=str(size))
    quick, slow = [mix_patience_s(leg, config) for leg in config.sources]
    assert slow == (requests + 1) * 12
    assert quick == 2 * 10


def test_a_mix_waits_a_day_at_most() -> None:
    """A leg that could take longer than that gets a day."""
    entry = SLOW_LFD | {"fetch_timeout": 3600}
    config = loaded(SYSTEM, entry, MIXING_STRATEGY="xor", FETCH_CHUNK_SIZE="16384")
    assert mix_patience_s(config.sources[1], config) == 86_400


def test_a_read_of_a_provider_is_one_request() -> None:
    """So intervals hold between requests, and every reply has a fingerprint of its own."""
    for name, provider in PRESETS.items():
        url = {"url": "https://192.0.2.7"} if provider.needs_base else {"url": None}
        key = {"api_key": "token"} if provider.needs_key else {}
        stated = {"source_class": provider.best_class.value, "device_id": name}
        (entry,) = loaded({"kind": "http", "preset": name, **url, **key, **stated}).sources
        assert entry.most_bytes == provider.max_request_bytes


def test_what_may_be_secret_is_not_shown() -> None:
    """Headers, bodies and prefixes of requests are no part of the settings' text."""
    request = {"url": "{base}/{bytes}", "reader": "raw", "headers": {"X": "SECRET"}, "body": "SECRET"}
    config = loaded(HTTP | {"request": request}, GRPC | {"device_id": "g", "request_prefix": "2206" + b"SECRET".hex()})
    assert "SECRET" not in repr(config)
    assert b"SECRET".hex() not in repr(config)


def test_alpha_is_a_power_of_two() -> None:
    """By default one false alarm in 2^40; what is set is what holds."""
    assert loaded(SYSTEM).alpha == 2.0**-40
    assert loaded(SYSTEM, HEALTH_ALPHA="2^-20").alpha == 2.0**-20


def test_every_setting_of_an_entry_is_described() -> None:
    """A reference can be made from the models alone."""
    for model in (*(offer.load() for offer in offers()), RequestSettings):
        assert all(field.description for field in model.model_fields.values()), model
