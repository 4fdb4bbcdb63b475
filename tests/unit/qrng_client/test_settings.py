"""Settings of a client: names of the field, defaults that never weaken a reply, and mistakes told by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from qrng_client.async_random_client import AsyncRandomClient
from qrng_client.random_client import RandomClient
from qrng_client.settings import ENV_PREFIX, ClientSettings, ConfigValidationError, client_settings
from qrng_grpc.errors import ConfigError
from qrng_grpc.labels import SourceClass
from tests.spelling import as_keys

KEY = "a-key-that-nobody-may-see"


def mistakes_of(**settings: str) -> str:
    with pytest.raises(ConfigValidationError) as refusal:
        client_settings({f"QR_{name.upper()}": value for name, value in settings.items()})
    assert isinstance(refusal.value, ConfigError)
    return str(refusal.value)


def test_defaults() -> None:
    """Without settings bytes are this machine's; defaults are those of the field, but for the fall-back."""
    settings = client_settings({})
    assert (settings.entropy_source_type, settings.fallback_mode) == ("system", "error")
    assert (settings.grpc_server_address, settings.grpc_mode) == ("localhost:50051", "unary")
    assert settings.method.path == "/qr_entropy.EntropyService/GetEntropy"
    assert settings.grpc_stream_method_path == "/qr_entropy.EntropyService/StreamEntropy"
    assert (settings.grpc_api_key_header, settings.grpc_retry_count, settings.answer_timeout_s) == ("api-key", 2, 5.0)
    assert (settings.cb_window_size, settings.cb_min_timeout_ms, settings.cb_timeout_multiplier) == (100, 5.0, 1.5)
    assert (settings.cb_recovery_window_s, settings.cb_max_consecutive_failures) == (10.0, 3)
    assert (settings.sample_count, settings.population_std) == (20_480, 73.61215932167728)
    assert not settings.method.shape.echoes
    assert not settings.cb_adaptive_timeout


def test_firefly() -> None:
    """The settings of a profile in the field are understood, whatever the case of their names."""
    settings = client_settings(
        {
            "QR_ENTROPY_SOURCE_TYPE": "quantum_grpc",
            "qr_grpc_server_address": "10.0.0.115:50051",
            "QR_GRPC_METHOD_PATH": "/qrng.QuantumRNG/GetRandomBytes",
            "QR_GRPC_STREAM_METHOD_PATH": "",
            "QR_GRPC_API_KEY": KEY,
            "QR_GRPC_MAX_REQUEST_BYTES": "13312",
            "QR_SAMPLE_COUNT": "13312",
            "QRNG_GATEWAY_BUFFER_SIZE": "not ours",
        }
    )
    assert settings.method.max_request_bytes == 13_312
    assert settings.api_key is not None
    assert KEY not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("GRPC_SERVER_ADRESS", "QR_GRPC_SERVER_ADDRESS"),
        ("SAMPLE_COUNTS", "QR_SAMPLE_COUNT"),
        ("TEMPERATURE_STRATEGIE", "QR_TEMPERATURE_STRATEGY"),
    ],
)
def test_unknown_names(name: str, nearest: str) -> None:
    """A name that stands for nothing is refused with the nearest that is one, the sampler's among them."""
    assert f"QR_{name}: there is no such setting; did you mean {nearest}?" in mistakes_of(**{name: "1"})


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"grpc_mode": "duplex"}, "grpc_mode"),
        (
            {"grpc_mode": "bidi_streaming", "grpc_stream_method_path": ""},
            "grpc_stream_method_path: empty, so there is no",
        ),
        ({"grpc_mode": "server_streaming", "grpc_service": "google-kms"}, "grpc_stream_method_path: empty"),
        ({"grpc_service": "anu"}, "grpc_service: expected one of qrng.v1, qr_entropy, qrng, google-kms"),
        ({"grpc_method_path": "GetEntropy"}, "grpc_method_path: path: expected /PACKAGE.SERVICE/METHOD"),
        ({"grpc_server_address": "http://localhost:50051"}, "grpc_server_address: expected HOST:PORT, not a URL"),
        (
            {"grpc_server_address": "localhost:1,localhost:1"},
            "grpc_server_address: expected at most 16 addresses, each once",
        ),
        ({"grpc_server_address": "localhost:1,"}, "grpc_server_address: expected HOST:PORT"),
        ({"grpc_api_key": "two\nlines"}, "grpc_api_key: "),
        ({"grpc_api_key_header": "grpc-key"}, "grpc_api_key_header: "),
        ({"grpc_timeout_ms": "0"}, "grpc_timeout_ms"),
        ({"grpc_count_field": "19000"}, "grpc_count_field: "),
        ({"grpc_request_prefix": "xyz"}, "grpc_request_prefix: expected hexadecimal digits"),
        ({"grpc_request_prefix": "0805"}, "grpc_request_prefix: prefix: holds the count"),
        ({"grpc_request_echo_field": "2"}, "grpc_reply_echo_field: request_echo_field, reply_echo_field: give both or"),
        ({"grpc_reply_class_field": "1"}, "grpc_reply_class_field: class_field: the data or the echo"),
        ({"grpc_min_request_bytes": "8", "grpc_max_request_bytes": "4"}, "grpc_max_request_bytes: must be at least"),
        ({"grpc_cert_file": "own.pem"}, "grpc_key_file: grpc_cert_file and grpc_key_file go together"),
        ({"least_class": "quantum"}, "least_class: entropy_source_type system is only operating_system"),
        (
            {"entropy_source_type": "quantum_grpc", "fallback_mode": "mock_uniform", "least_class": "hardware"},
            "least_class: fallback_mode mock_uniform is only simulated",
        ),
        (
            {"entropy_source_type": "quantum_grpc", "least_class": "quantum"},
            "grpc_source_class: required with least_class",
        ),
        (
            {"entropy_source_type": "quantum_grpc", "least_class": "quantum", "grpc_source_class": "hardware"},
            "grpc_source_class: weaker than least_class quantum",
        ),
        ({"local_mixing": "true"}, "local_mixing: the bytes are this machine's already"),
        ({"prefetch_bytes": "67108865"}, "prefetch_bytes"),
        ({"cb_recovery_window_s": "nan"}, "cb_recovery_window_s"),
        ({"sample_count": "0"}, "sample_count"),
        ({"top_p": "0"}, "top_p"),
        ({"temperature_strategy": "warm"}, "temperature_strategy"),
        ({"edt_min_temp": "3"}, "edt_max_temp: must be at least edt_min_temp"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_mistakes_name_their_setting(settings: dict[str, str], mistake: str) -> None:
    """Values out of range and settings that contradict each other are refused by name."""
    assert mistake in as_keys(mistakes_of(**settings), ENV_PREFIX)


def test_all_mistakes_at_once() -> None:
    """Whoever has made three mistakes hears of three, and of no value."""
    told = mistakes_of(grpc_mode="duplex-and-secret", grpc_mod="unary", top_p="7")
    assert [told.count(name) for name in ("- QR_GRPC_MODE:", "- QR_GRPC_MOD:", "- QR_TOP_P:")] == [1, 1, 1]
    assert "secret" not in told


def test_settings_by_name() -> None:
    """Settings given in a program are held to the same, and refused by the same error."""
    assert ClientSettings(grpc_service="qrng", grpc_timeout_ms=700).answer_timeout_s == 0.7
    with pytest.raises(ConfigValidationError, match="grpc_stream_method_path: empty"):
        ClientSettings(grpc_mode="bidi_streaming", grpc_stream_method_path="")
    with pytest.raises(ConfigValidationError, match=r"grpc_mod: there is no such setting; did you mean grpc_mode\?"):
        ClientSettings(grpc_mod="unary")


@pytest.mark.parametrize("kind", [RandomClient, AsyncRandomClient])
@pytest.mark.parametrize(
    "given",
    [
        {"QR_GRPC_SERVER_ADDRESS": "localhost:1"},
        {"QR_GRPC_API_KEY": KEY},
        {"QR_GRPC_SERVICE": "qrng"},
        {"QR_GRPC_TLS": "true", "QR_GRPC_STREAM_METHOD_PATH": ""},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_server_that_would_never_be_asked(
    kind: type[RandomClient] | type[AsyncRandomClient], given: dict[str, str]
) -> None:
    """Settings of a server alone never give this machine's bytes: the source is to be said, and both ways are told."""
    with pytest.raises(ConfigValidationError) as refusal:
        kind(client_settings(given))
    told = str(refusal.value)
    assert all(text in told for text in ("QR_ENTROPY_SOURCE_TYPE", next(iter(given)), "quantum_grpc", "system"))
    assert "QR_GRPC_STREAM_METHOD_PATH" not in told
    assert KEY not in told
    for source in ("quantum_grpc", "system"):
        kind(client_settings({**given, "QR_ENTROPY_SOURCE_TYPE": source}))


def test_no_server_and_no_source() -> None:
    """Without any setting of a server, or with empty ones, bytes are this machine's."""
    for given in ({}, {"QR_GRPC_API_KEY": "", "QR_GRPC_CA_FILE": "", "QR_SAMPLE_COUNT": "13312"}):
        with RandomClient(client_settings(given)) as client:
            assert client.draw(8).source_class is SourceClass.OPERATING_SYSTEM
    with pytest.raises(ConfigValidationError, match="QR_ENTROPY_SOURCE_TYPE"):
        RandomClient(ClientSettings(grpc_server_address="localhost:1"))


def test_a_service_stands_for_settings() -> None:
    """A known service brings paths, fields and sizes; what is set beside it counts more."""
    known = client_settings({"QR_GRPC_SERVICE": "google-kms", "QR_GRPC_MAX_REQUEST_BYTES": "512"})
    assert (known.method.shape.count_field, known.grpc_min_request_bytes, known.grpc_max_request_bytes) == (2, 8, 512)
    assert known.endpoints[0].encrypted
    ours = client_settings(
        {
            "QR_ENTROPY_SOURCE_TYPE": "quantum_grpc",
            "QR_GRPC_SERVICE": "qrng.v1",
            "QR_GRPC_MODE": "bidi_streaming",
            "QR_LEAST_CLASS": "quantum",
        }
    )
    assert ours.least_class is SourceClass.QUANTUM
    assert ours.method.path == "/qrng.v1.EntropyService/StreamEntropy"
    assert (ours.method.shape.prefix.hex(), ours.method.shape.class_field) == ("1801", 5)


def test_addresses() -> None:
    """Several addresses are servers in their order; spaces around commas do not matter."""
    settings = client_settings({"QR_GRPC_SERVER_ADDRESS": "[::1]:1, unix:/run/q.sock,dns:///localhost:2"})
    assert settings.addresses == ("[::1]:1", "unix:/run/q.sock", "dns:///localhost:2")
    with pytest.raises(ConfigValidationError, match="several are for RandomClient"):
        settings.only_address  # noqa: B018


def test_empty_is_unset(tmp_path: Path) -> None:
    """NAME= leaves unset what has no value of itself, and files count less than the environment."""
    file = tmp_path / ".env"
    file.write_text("QR_GRPC_CA_FILE=\nQR_GRPC_TIMEOUT_MS=\nQR_GRPC_API_KEY=\nQR_GRPC_RETRY_COUNT=0\nQR_TOP_K=5\n")
    settings = client_settings({"QR_TOP_K": "7"}, env_files=[file])
    assert (settings.grpc_ca_file, settings.timeout_s, settings.api_key) == (None, None, None)
    assert (settings.grpc_retry_count, settings.top_k) == (0, 7)


def test_every_setting_is_described() -> None:
    """No setting is without a description that ends as a sentence does."""
    for name, info in ClientSettings.model_fields.items():
        assert (info.description or "").endswith("."), name
