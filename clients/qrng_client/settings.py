"""A client's settings: every name that begins with `QR_`.

Idea: the code knows no server, the settings do. They say which source the bytes come from, how its server is
spoken to (method, mode, field numbers, key, TLS) and what happens when it fails. `grpc_service` names a service that is
known: it stands for settings, and whatever is set beside it counts more. The names are those that clients in the field
already use, with defaults that never weaken a reply: no fall-back but on request, fixed deadlines. Settings of the
sampler are read too, so that one file serves both: they are held to their ranges, and not used here.

    SourceSettings    which source, what instead of it, what is done to its bytes
    ServerSettings    where a gRPC server is, and how it is spoken to
    BreakerSettings   when a server that fails is left alone
    SamplerSettings   read for the sampler's sake
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator

from qrng_client.services import SERVICES
from qrng_grpc.channel import Endpoint, stays_on_machine
from qrng_grpc.config import Settings, load, mistakes_of
from qrng_grpc.errors import ConfigError
from qrng_grpc.exchange import MAX_REQUEST_BYTES, GrpcMethod, Mode, checked_header, checked_key
from qrng_grpc.generic_codec import MAX_FIELD_NUMBER, MessageShape, varint_field
from qrng_grpc.labels import SourceClass
from qrng_grpc.wire import CLASSES

ENV_PREFIX = "QR_"
CLASS_OF = {
    "system": SourceClass.OPERATING_SYSTEM,
    "timing_noise": SourceClass.OPERATING_SYSTEM,
    "mock_uniform": SourceClass.SIMULATED,
}
"""The kinds of source whose class is known."""
TIMEOUT_MS = 5000
"""How long one answer may take, where nobody says."""
LEAST_ADAPTIVE_TIMEOUT_MS = 50
"""No deadline that follows the latency is shorter, whatever the settings say."""
MAX_PREFETCH_BYTES = 64 << 20
MAX_SERVERS = 16

SourceKind = Literal["system", "quantum_grpc", "timing_noise", "mock_uniform"]
FallbackMode = Literal["error", "system", "mock_uniform"]
FieldNumber = Annotated[int, Field(ge=1, le=MAX_FIELD_NUMBER)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class ConfigValidationError(ConfigError):
    """Settings of a client that contradict each other, or that no server could be spoken to with."""


class SourceSettings(Settings):
    """Which source, what instead of it, and what is done to its bytes."""

    entropy_source_type: SourceKind = Field(
        "system",
        description="Where bytes come from: system (os.urandom, needs no server), quantum_grpc (a gRPC server),"
        " timing_noise (this processor's timing), mock_uniform (a seeded generator, for tests).",
    )
    fallback_mode: FallbackMode = Field(
        "error",
        description="What happens when the gRPC server fails: error, or bytes of system or mock_uniform instead, each"
        " such reply labelled, counted and warned of.",
    )
    least_class: SourceClass | None = Field(
        None,
        description="The weakest class of source to accept, of a fall-back too: quantum, hardware, operating_system or"
        " simulated. Default: any, and any that is not stated.",
    )
    local_mixing: bool = Field(
        False,
        description="Mix the server's bytes with this machine's by HKDF, so that neither alone knows the result. Takes"
        " 40 bytes of the server for 32, and the package cryptography.",
    )
    prefetch_bytes: int = Field(
        0,
        ge=0,
        le=MAX_PREFETCH_BYTES,
        description="Fetch up to so many bytes before they are asked for, at most 67108864; replies of them say so. 0:"
        " none, every byte is asked for when it is needed.",
    )
    prefetch_max_age_s: Number = Field(
        60, ge=0.1, le=3600, description="Seconds after which bytes fetched before are thrown away; 0.1 to 3600."
    )
    mock_seed: int = Field(0, ge=0, lt=1 << 64, description="Seed of mock_uniform; equal seeds, equal bytes.")

    @field_validator("least_class")
    @classmethod
    def _within_reach(cls, least: SourceClass | None, info: ValidationInfo) -> SourceClass | None:
        """Refuse a least class that the source, or what may stand in for it, never has."""
        for name in ("entropy_source_type", "fallback_mode"):
            kind = info.data.get(name, "")
            if least is not None and kind in CLASS_OF and not CLASS_OF[kind].at_least(least):
                raise ValueError(f"{name} {kind} is only {CLASS_OF[kind].value}")
        return least

    @field_validator("local_mixing")
    @classmethod
    def _of_two(cls, mixing: bool, info: ValidationInfo) -> bool:
        if mixing and info.data.get("entropy_source_type") == "system":
            raise ValueError("the bytes are this machine's already, with entropy_source_type system")
        return mixing


class ServerSettings(Settings):
    """Where a gRPC server is, and how it is spoken to."""

    grpc_server_address: str = Field(
        "localhost:50051",
        description="HOST:PORT, [IPV6]:PORT, dns:///HOST:PORT or unix:PATH; several, separated by commas, are servers"
        " of one service, of which the first that works is asked.",
    )
    grpc_service: str | None = Field(
        None,
        description="A service that is known: qrng.v1, qr_entropy, qrng or google-kms. It stands for paths, field"
        " numbers and sizes; settings beside it count more.",
    )
    grpc_mode: Mode = Field(
        "unary",
        description="unary (a call per request), server_streaming (the stream method, opened for one request) or"
        " bidi_streaming (one call of the stream method, kept open).",
    )
    grpc_method_path: str = Field(
        "/qr_entropy.EntropyService/GetEntropy", description="/PACKAGE.SERVICE/METHOD called in mode unary."
    )
    grpc_stream_method_path: str = Field(
        "/qr_entropy.EntropyService/StreamEntropy",
        validate_default=True,
        description="/PACKAGE.SERVICE/METHOD called in the other modes; empty when the server has none.",
    )
    grpc_api_key: SecretStr = Field(
        SecretStr(""), description="Key sent in the metadata of every call, and shown nowhere. Empty: none is sent."
    )
    grpc_api_key_header: str = Field("api-key", description="The metadata in which it travels; lower case.")
    grpc_timeout_ms: int | None = Field(
        None,
        ge=1,
        le=3_600_000,
        description="How long one answer may take, in milliseconds; 1 to 3600000. Default: 5000, and 60000 for fresh"
        " bytes of a gateway.",
    )
    grpc_retry_count: int = Field(
        2,
        ge=0,
        le=10,
        description="How often a request that failed is made again, at this server or another, where the failure allows"
        " it; 0 to 10.",
    )
    grpc_min_request_bytes: int = Field(
        1, ge=1, le=4096, description="The fewest bytes a server gives at once; what is beyond the need is thrown away."
    )
    grpc_max_request_bytes: int = Field(
        1 << 20,
        ge=1,
        le=MAX_REQUEST_BYTES,
        validate_default=True,
        description="The most bytes to ask for at once, at most 16777216; larger reads are split.",
    )
    grpc_count_field: FieldNumber = Field(1, description="Number of the request's field with the number of bytes.")
    grpc_data_field: FieldNumber = Field(1, description="Number of the reply's field with the bytes.")
    grpc_request_prefix: str = Field(
        "", repr=False, description="Hexadecimal digits of protobuf fields that every request begins with."
    )
    grpc_request_echo_field: FieldNumber | None = Field(
        None, description="Number of the request's field that a reply repeats. Default: replies repeat nothing."
    )
    grpc_reply_echo_field: FieldNumber | None = Field(
        None, validate_default=True, description="Number of the reply's field that repeats it. Both or neither."
    )
    grpc_request_class_field: FieldNumber | None = Field(
        None, description="Number of the request's field that takes least_class, numbered as in qrng.v1."
    )
    grpc_reply_class_field: FieldNumber | None = Field(
        None,
        validate_default=True,
        description="Number of the reply's field that states the class of its bytes, numbered as in qrng.v1.",
    )
    grpc_source_class: SourceClass | None = Field(
        None,
        validate_default=True,
        description="The class of the server's bytes, by your knowledge, where replies state none. Required with"
        " least_class then.",
    )
    grpc_tls: bool = Field(False, description="Use TLS; each of the three files implies it.")
    grpc_ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust. Default: those that gRPC brings along."
    )
    grpc_cert_file: Path | None = Field(
        None, description="PEM file of the certificate to show to a server that asks for one (mutual TLS)."
    )
    grpc_key_file: Path | None = Field(
        None, validate_default=True, description="PEM file of its private key, mode 0600. Both or neither."
    )
    grpc_allow_plaintext_beyond_loopback: bool = Field(
        False, description="Let key and bytes leave this machine without TLS."
    )


class BreakerSettings(Settings):
    """When a server that fails is left alone, and for how long."""

    cb_max_consecutive_failures: int = Field(
        3, ge=1, le=1000, description="Failures in a row after which a server is left alone for a while; 1 to 1000."
    )
    cb_recovery_window_s: Number = Field(
        10.0,
        gt=0,
        le=3600,
        description="For how many seconds, the first time; each time its next try fails, twice as long, up to eight"
        " times.",
    )
    cb_adaptive_timeout: bool = Field(
        False,
        description="Let the deadline follow the latency: the 99th percentile times the multiplier, never below 50 ms"
        " nor above grpc_timeout_ms. Default: it is fixed.",
    )
    cb_window_size: int = Field(
        100, ge=10, le=10_000, description="How many answers that percentile is taken of; 10 to 10000."
    )
    cb_min_timeout_ms: Number = Field(
        5.0, gt=0, le=3_600_000, description="The shortest such deadline in milliseconds; less than 50 counts as 50."
    )
    cb_timeout_multiplier: Number = Field(1.5, ge=1, le=100, description="The multiplier; 1 to 100.")


class SamplerSettings(Settings):
    """Settings of the sampler: held to their ranges, and otherwise left to it."""

    signal_amplifier_type: Literal["zscore_mean", "ecdf"] = Field(
        "zscore_mean", description="Sampler: how bytes become one number, zscore_mean or ecdf."
    )
    sample_count: int = Field(20_480, ge=1, le=1 << 24, description="Sampler: bytes for one token; 1 to 16777216.")
    population_mean: Number = Field(127.5, ge=0, le=255, description="Sampler: mean of a byte; 0 to 255.")
    population_std: Number = Field(
        73.61215932167728, gt=0, le=127.5, description="Sampler: standard deviation of a byte; above 0, at most 127.5."
    )
    uniform_clamp_epsilon: Number = Field(
        1e-10, gt=0, lt=0.5, description="Sampler: how near to 0 and 1 the number may come; above 0, below 0.5."
    )
    temperature_strategy: Literal["fixed", "edt"] = Field("fixed", description="Sampler: fixed or edt.")
    fixed_temperature: Number = Field(0.7, ge=0, le=100, description="Sampler: temperature of fixed; 0 to 100.")
    edt_base_temp: Number = Field(0.8, gt=0, le=100, description="Sampler: factor of edt; above 0, at most 100.")
    edt_exponent: Number = Field(0.5, gt=0, le=10, description="Sampler: exponent of edt; above 0, at most 10.")
    edt_min_temp: Number = Field(0.1, gt=0, le=100, description="Sampler: lowest temperature of edt.")
    edt_max_temp: Number = Field(
        2.0, gt=0, le=100, validate_default=True, description="Sampler: highest temperature of edt."
    )
    top_k: int = Field(0, ge=-1, description="Sampler: only the k most probable tokens; 0 and -1: all.")
    top_p: Number = Field(1.0, gt=0, le=1, description="Sampler: only the tokens that make up so much; above 0.")
    log_level: Literal["none", "summary", "full"] = Field("summary", description="Sampler: none, summary or full.")

    @field_validator("edt_max_temp")
    @classmethod
    def _not_below_the_lowest(cls, highest: float, info: ValidationInfo) -> float:
        if highest < info.data.get("edt_min_temp", 0):
            raise ValueError("must be at least edt_min_temp")
        return highest


class ClientSettings(SamplerSettings, BreakerSettings, ServerSettings, SourceSettings):
    """All settings of a client: read by `client_settings`, or given by name, without `QR_` and in lower case.

    Raises ConfigValidationError with every mistake.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            mistakes = mistakes_of(error, type(self))
        else:
            return
        raise ConfigValidationError(mistakes)

    @model_validator(mode="before")
    @classmethod
    def _as_the_service_has_it(cls, values: Any) -> Any:
        """Put the settings of the service that is named below those that were given."""
        service = values.get("grpc_service") if isinstance(values, dict) else None
        return {**SERVICES.get(service, {}), **values} if service else values

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: ValidationInfo) -> Any:
        """Let NAME= in an environment leave unset what has no value of itself."""
        unset = info.field_name is not None and cls.model_fields[info.field_name].default is None
        return None if unset and value == "" else value

    @field_validator("grpc_server_address")
    @classmethod
    def _addresses(cls, text: str) -> str:
        addresses = split_addresses(text)
        if len(addresses) > MAX_SERVERS or len(set(addresses)) < len(addresses):
            raise ValueError(f"expected at most {MAX_SERVERS} addresses, each once")
        for address in addresses:
            if address.startswith(("http://", "https://")):
                raise ValueError("expected HOST:PORT, not a URL")
            stays_on_machine(address)
        return text

    @field_validator("grpc_service")
    @classmethod
    def _known(cls, service: str | None) -> str | None:
        if service is not None and service not in SERVICES:
            raise ValueError(f"expected one of {', '.join(SERVICES)}")
        return service

    @field_validator("grpc_method_path")
    @classmethod
    def _method(cls, path: str) -> str:
        GrpcMethod(path)
        return path

    @field_validator("grpc_stream_method_path")
    @classmethod
    def _stream_method(cls, path: str, info: ValidationInfo) -> str:
        if path:
            GrpcMethod(path)
        elif info.data.get("grpc_mode", "unary") != "unary":
            raise ValueError(f"empty, so there is no grpc_mode {info.data['grpc_mode']}; use unary, or give the path")
        return path

    @field_validator("grpc_api_key")
    @classmethod
    def _key(cls, key: SecretStr) -> SecretStr:
        if key.get_secret_value():
            checked_key(key)
        return key

    @field_validator("grpc_api_key_header")
    @classmethod
    def _header(cls, header: str) -> str:
        return checked_header(header)

    @field_validator("grpc_max_request_bytes")
    @classmethod
    def _not_below_the_least(cls, most: int, info: ValidationInfo) -> int:
        if most < info.data.get("grpc_min_request_bytes", 1):
            raise ValueError("must be at least grpc_min_request_bytes")
        return most

    @field_validator("grpc_count_field", "grpc_data_field", "grpc_request_class_field")
    @classmethod
    def _number(cls, number: int | None) -> int | None:
        MessageShape(data_field=number or 1)
        return number

    @field_validator("grpc_request_prefix")
    @classmethod
    def _prefix(cls, digits: str, info: ValidationInfo) -> str:
        try:
            prefix = bytes.fromhex(digits)
        except ValueError:
            raise ValueError("expected hexadecimal digits") from None
        MessageShape(count_field=info.data.get("grpc_count_field", 1), prefix=prefix)
        return digits

    @field_validator("grpc_reply_echo_field", "grpc_reply_class_field")
    @classmethod
    def _whole_shape(cls, number: int | None, info: ValidationInfo) -> int | None:
        """Check the fields together, those that are known by now."""
        if info.field_name == "grpc_reply_echo_field" or "grpc_reply_echo_field" in info.data:
            _shape({**info.data, str(info.field_name): number})
        return number

    @field_validator("grpc_source_class")
    @classmethod
    def _good_enough(cls, stated: SourceClass | None, info: ValidationInfo) -> SourceClass | None:
        least = info.data.get("least_class")
        if least is None or info.data.get("entropy_source_type") != "quantum_grpc":
            return stated
        if stated is None and info.data.get("grpc_reply_class_field") is None:
            raise ValueError("required with least_class, unless replies state their class (grpc_reply_class_field)")
        if stated is not None and not stated.at_least(least):
            raise ValueError(f"weaker than least_class {least.value}")
        return stated

    @field_validator("grpc_key_file")
    @classmethod
    def _with_certificate(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if (key_file is None) != (info.data.get("grpc_cert_file") is None):
            raise ValueError("grpc_cert_file and grpc_key_file go together")
        return key_file

    def check_source_is_said(self) -> None:
        """Refuse settings of a server where none says whether it is to be used: nobody who names one wants `system`.

        Clients of a gateway do not ask this, since they have no other source. Raises ConfigValidationError.
        """
        given = self.model_fields_set
        about = sorted(name for name in given if name.startswith("grpc_") and self._stated(name))
        if about and "entropy_source_type" not in given:
            raise ConfigValidationError(
                [
                    f"{ENV_PREFIX}ENTROPY_SOURCE_TYPE: is {self.entropy_source_type} unless it is set, so the server"
                    f" that {', '.join(ENV_PREFIX + name.upper() for name in about)} is about would never be asked;"
                    " set quantum_grpc to use it, or system not to"
                ]
            )

    def _stated(self, name: str) -> bool:
        """Say whether a setting that was given says something: NAME= in an environment does not."""
        value = getattr(self, name)
        return value is not None and (value.get_secret_value() if isinstance(value, SecretStr) else value) != ""

    @property
    def timeout_s(self) -> float | None:
        """How long one answer may take, in seconds; None where it was not set."""
        return None if self.grpc_timeout_ms is None else self.grpc_timeout_ms / 1000

    @property
    def answer_timeout_s(self) -> float:
        """The same, and 5 s where it was not set."""
        return (self.grpc_timeout_ms or TIMEOUT_MS) / 1000

    @property
    def api_key(self) -> SecretStr | None:
        """The key to send, if any."""
        return self.grpc_api_key if self.grpc_api_key.get_secret_value() else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the servers, the preferred one first."""
        return split_addresses(self.grpc_server_address)

    @property
    def only_address(self) -> str:
        """The address, for those who speak to one server. Raises ConfigValidationError when there are several."""
        if len(self.addresses) > 1:
            mistake = "grpc_server_address: expected one address; several are for RandomClient"
            raise ConfigValidationError([self.spelt(mistake)])
        return self.addresses[0]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The same as endpoints, for `qrng_grpc.channel`."""
        return tuple(
            Endpoint(
                address,
                tls=self.grpc_tls,
                ca_file=self.grpc_ca_file,
                allow_plaintext_beyond_loopback=self.grpc_allow_plaintext_beyond_loopback,
                cert_file=self.grpc_cert_file,
                key_file=self.grpc_key_file,
            )
            for address in self.addresses
        )

    @property
    def method(self) -> GrpcMethod:
        """How the servers are spoken to."""
        path = self.grpc_method_path if self.grpc_mode == "unary" else self.grpc_stream_method_path
        shape = _shape(dict(self))
        return GrpcMethod(path, self.grpc_mode, shape, self.grpc_max_request_bytes, self.grpc_api_key_header)


def client_settings(environ: Mapping[str, str], *, env_files: Sequence[Path] = ()) -> ClientSettings:
    """Read the settings from `environ`, above `env_files`, of which the later count more.

    Names that do not start with `QR_` are not ours. Raises ConfigValidationError with every mistake: names that start
    with `QR_` and stand for nothing, values out of range, settings that contradict each other.
    """
    try:
        return load(ClientSettings, prefix=ENV_PREFIX, environ=environ, env_files=env_files)
    except ConfigError as error:
        mistakes = error.mistakes
    raise ConfigValidationError(mistakes)


def split_addresses(text: str) -> tuple[str, ...]:
    """Return the addresses in a comma-separated list."""
    return tuple(address.strip() for address in text.split(","))


def endpoint_of(
    address: str,
    tls: bool,
    ca_file: Path | str | None,
    cert_file: Path | str | None,
    key_file: Path | str | None,
    allow_plaintext_beyond_loopback: bool,
) -> Endpoint:
    """Return where a client's arguments lead. Raises ConfigError for an address that is no text, or a file no path."""
    if not isinstance(address, str):
        raise ConfigError(["server address: expected text, HOST:PORT"])
    return Endpoint(
        address,
        tls,
        _path("CA file", ca_file),
        allow_plaintext_beyond_loopback,
        cert_file=_path("certificate file", cert_file),
        key_file=_path("key file", key_file),
    )


def _shape(values: Mapping[str, Any]) -> MessageShape:
    """Return what settings say of messages; those that are missing count as unset. Raises ValueError."""
    prefix = bytes.fromhex(values.get("grpc_request_prefix", ""))
    class_field, least = values.get("grpc_request_class_field"), values.get("least_class")
    if class_field is not None and least is not None:
        prefix += varint_field(class_field, CLASSES.to_proto(least))
    return MessageShape(
        values.get("grpc_count_field", 1),
        values.get("grpc_data_field", 1),
        prefix,
        values.get("grpc_request_echo_field"),
        values.get("grpc_reply_echo_field"),
        values.get("grpc_reply_class_field"),
    )


def _path(name: str, file: Path | str | None) -> Path | None:
    if file is None:
        return None
    try:
        return Path(file)
    except TypeError:
        raise ConfigError([f"{name}: expected a path"]) from None
