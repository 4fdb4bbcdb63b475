"""The settings of one source, by kind.

Idea: an entry of `sources` is a small model of its kind, and knows how to open what it describes. It is
checked by making the source itself, which connects to nothing yet: what would refuse to run is refused when
settings are read. An entry says how fast its source is read where that differs from the collector's own
pace, and how much entropy the operator assesses in its bytes, on which the health tests and the books of a mix
rest. There is no setting that switches tests off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from qrng_grpc.channel import Endpoint
from qrng_grpc.chunk import MAX_CHUNK_BYTES, MAX_DEVICE_IDS, checked_id
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.files import refuse_shared
from qrng_grpc.generic_codec import MessageShape
from qrng_grpc.health_tests import START_UP_SAMPLES
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import EntropySource, jitter, mock, system
from qrng_grpc.sources.device import DeviceSource
from qrng_grpc.sources.grpc import GrpcMethod, GrpcSource, Mode
from qrng_grpc.sources.http import HttpSource
from qrng_grpc.sources.mixing import LONGEST_LEG_TIMEOUT_S, MixingStrategy, hkdf_input_bytes
from qrng_grpc.sources.presets import PRESETS, Provider
from qrng_grpc.sources.readers import reader_named

START_UP_BYTES = 65_536
"""What a start-up test takes by default: every test of the stream decides once in so many bytes."""

_Seconds = Annotated[float, Field(allow_inf_nan=False)]
_FIXED = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


class SourceSettings(BaseModel, ABC):
    """What entries of all kinds have."""

    model_config = _FIXED

    assessed_entropy: _Seconds = Field(
        8, gt=0, le=8, description="Bits of entropy in a byte of the source, by your assessment; above 0, at most 8."
    )
    start_up_size: int = Field(
        START_UP_BYTES,
        ge=START_UP_SAMPLES,
        le=MAX_CHUNK_BYTES,
        description="Bytes a start-up test takes, which are used for nothing else; 1024 to 1048576.",
    )
    request_interval: _Seconds = Field(
        0, ge=0, le=3600, description="Least seconds between two requests to the source, for providers that limit them."
    )
    fetch_chunk_size: int | None = Field(
        None, ge=1, le=MAX_CHUNK_BYTES, description="As the collector's fetch_chunk_size, for this source alone."
    )
    fetch_interval: _Seconds | None = Field(
        None, gt=0, le=3600, description="As the collector's fetch_interval, for this source alone."
    )
    fetch_timeout: _Seconds | None = Field(
        None, gt=0, le=3600, description="As the collector's fetch_timeout, for this source alone."
    )

    @property
    @abstractmethod
    def label_class(self) -> SourceClass:
        """The class its bytes are labelled with."""

    @property
    @abstractmethod
    def label_device_id(self) -> str:
        """The id its bytes are labelled with."""

    @property
    def origin(self) -> tuple[object, ...]:
        """What is read: two entries of one origin are one source under two names."""
        return (self.label_device_id,)

    @property
    def most_bytes(self) -> int:
        """The most bytes to ask it for at once."""
        return MAX_CHUNK_BYTES

    @abstractmethod
    def open(self, *, timeout_s: float, state_dir: Path, clock: Clock) -> EntropySource:
        """Return the source. Nothing is connected yet. Raises ValueError for settings that cannot be used."""


class SystemSettings(SourceSettings):
    """The operating system's generator."""

    kind: Literal["system"] = Field(description="The operating system's generator, os.urandom.")

    @property
    def label_class(self) -> SourceClass:
        """OPERATING_SYSTEM."""
        return SourceClass.OPERATING_SYSTEM

    @property
    def label_device_id(self) -> str:
        """What `SystemSource` says."""
        return system.DEVICE_ID

    def open(self, *, timeout_s: float, state_dir: Path, clock: Clock) -> EntropySource:
        """Return the source."""
        return system.SystemSource()


class JitterSettings(SourceSettings):
    """The timing of this processor."""

    kind: Literal["jitter"] = Field(description="The timing jitter of this machine's processor.")
    assessed_entropy: _Seconds = Field(
        1, gt=0, le=8, description="Bits of entropy in a byte of the source, by your assessment; above 0, at most 8."
    )
    start_up_size: int = Field(
        4096,
        ge=START_UP_SAMPLES,
        le=MAX_CHUNK_BYTES,
        description="Bytes a start-up test takes, which are used for nothing else; 1024 to 1048576.",
    )

    @property
    def label_class(self) -> SourceClass:
        """OPERATING_SYSTEM, and never better."""
        return SourceClass.OPERATING_SYSTEM

    @property
    def label_device_id(self) -> str:
        """What `JitterSource` says."""
        return jitter.DEVICE_ID

    @property
    def most_bytes(self) -> int:
        """Few, as it is slow."""
        return 1024

    def open(self, *, timeout_s: float, state_dir: Path, clock: Clock) -> EntropySource:
        """Return the source."""
        return jitter.JitterSource()


class MockSettings(SourceSettings):
    """A seeded generator."""

    kind: Literal["mock"] = Field(description="A seeded generator, for tests and demonstrations.")
    seed: int = Field(0, ge=0, lt=1 << 64, description="Its seed; equal seeds, equal bytes.")

    @property
    def label_class(self) -> SourceClass:
        """SIMULATED."""
        return SourceClass.SIMULATED

    @property
    def label_device_id(self) -> str:
        """What `MockSource` says."""
        return mock.DEVICE_ID

    def open(self, *, timeout_s: float, state_dir: Path, clock: Clock) -> EntropySource:
        """Return the source."""
        return mock.MockSource(self.seed)


class StatedSettings(SourceSettings):
    """Sources whose class, custody and id only the operator can state."""

    source_class: SourceClass = Field(description="The class its bytes are labelled with.")
    custody: Custody = Field(
        Custody.REMOTE, description="remote when a third party could see the bytes on their way, else local."
    )
    device_id: str = Field(description="Id of the source in replies.")

    @field_validator("device_id")
    @classmethod
    def _an_id(cls, text: str) -> str:
        return checked_id(text)

    @property
    def label_class(self) -> SourceClass:
        """As stated."""
        return self.source_class

    @property
    def label_device_id(self) -> str:
        """As stated."""
        return self.device_id


class DeviceSettings(StatedSettings):
    """A character device or a file."""

    kind: Literal["device"] = Field(description="A character device or a file.")
    path: Path = Field(description="What to read.")
    custody: Custody = Field(
        Custody.LOCAL, description="remote when a third party could see the bytes on their way, else local."
    )

    @property
    def origin(self) -> tuple[object, ...]:
        """The file."""
        return (self.path.resolve(),)

    def open(self, *, timeout_s: float, state_dir: Path, clock: Clock) -> EntropySource:
        """Return the source; in `state_dir` it keeps how far a file was read."""
        return DeviceSource(self.path, self.source_class, self.device_id, self.custody, progress_dir=state_dir)


class NetworkSettings(StatedSettings):
    """Sources one connects to."""

    ca_file: Path | None = Field(
        None, description="PEM file of the authorities that may have signed the server's certificate."
    )
    allow_plaintext: bool = Field(False, description="Lets requests and bytes travel unencrypted beyond this machine.")
    api_key: SecretStr | None = Field(None, description="The key or token the source knows us by.")
    api_key_file: Path | None = Field(None, description="A file with that key alone, mode 0600, in place of api_key.")

    @field_validator("api_key_file")
    @classmethod
    def _one_key(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            if info.data.get("api_key") is not None:
                raise ValueError("give api_key or api_key_file, not both")
            _key_in(path)
        return path

    @model_validator(mode="after")
    def _opens(self) -> NetworkSettings:
        """Make the source once, to hear what it has against these settings."""
        self.open(timeout_s=1, state_dir=Path(), clock=SYSTEM_CLOCK)
        return self

    @property
    def key(self) -> SecretStr | None:
        """The key, from where it is given. Raises ValueError when its file cannot be used."""
        return self.api_key if self.api_key_file is None else _key_in(self.api_key_file)


class RequestSettings(BaseModel):
    """How a provider is asked that no preset knows."""

    model_config = _FIXED

    url: str = Field(description="URL with places to fill in: {base}, {bytes}, {units}, {challenge}.")
    reader: str = Field(
        description="How the answer is packed: raw, hex, base64, json:PATH:hex, json-array:PATH:uint8 or line:N:hex."
    )
    method: Literal["GET", "POST"] = Field("GET", description="GET or POST.")
    headers: dict[str, str] = Field({}, repr=False, description="Headers, with the same places and {key}.")
    body: str | None = Field(None, repr=False, description="The body, with the same places and {key}.")
    unit_bytes: int = Field(1, ge=1, le=MAX_CHUNK_BYTES, description="A request brings multiples of so many bytes.")
    max_units: int = Field(
        MAX_CHUNK_BYTES, ge=1, le=MAX_CHUNK_BYTES, description="The most such units one request may bring."
    )

    @field_validator("reader")
    @classmethod
    def _a_reader(cls, name: str) -> str:
        reader_named(name)
        return name

    @property
    def provider(self) -> Provider:
        """The provider. Raises ValueError for what cannot be asked."""
        return Provider(
            "this provider",
            self.url,
            self.reader,
            SourceClass.QUANTUM,
            method=self.method,
            headers=tuple(self.headers.items()),
            body=self.body,
            unit_bytes=self.unit_bytes,
            max_units=self.max_units,
        )


class HttpSettings(NetworkSettings):
    """A provider over HTTP."""

    kind: Literal["http"] = Field(description="A provider over HTTP.")
    preset: Literal["quantis", "anu", "lfd", "qrypt", "vault", "pollen"] = Field(
        "quantis", description="How it is asked: quantis, anu, lfd, qrypt, vault or pollen."
    )
    request: RequestSettings | None = Field(None, description="How it is asked, in place of a preset.")
    url: str | None = Field(None, description="Where it is, as in https://192.0.2.7, unless the preset knows.")
    fingerprint: str | None = Field(None, description="SHA-256 of the server's certificate, 64 hexadecimal digits.")
    client_cert_file: Path | None = Field(None, description="PEM file with the certificate to show, and its chain.")
    client_key_file: Path | None = Field(None, description="PEM file with its private key, mode 0600.")

    @field_validator("request")
    @classmethod
    def _one_way_to_ask(cls, request: RequestSettings | None, info: ValidationInfo) -> RequestSettings | None:
        if request is not None and info.data.get("preset", "quantis") != "quantis":
            raise ValueError("give a preset or a request, not both")
        return request

    @property
    def provider(self) -> Provider:
        """How it is asked."""
        return PRESETS[self.preset] if self.request is None else self.request.provider

    @property
    def origin(self) -> tuple[object, ...]:
        """The provider, and where it is."""
        return (self.provider.url, self.url)

    @property
    def most_bytes(self) -> int:
        """What the provider brings in one request."""
        return self.provider.max_request_bytes

    def open(self, *, timeout_s: float, state_dir: Path, clock: Clock) -> EntropySource:
        """Return the source."""
        return HttpSource(
            self.url,
            source_class=self.source_class,
            device_id=self.device_id,
            custody=self.custody,
            provider=self.provider,
            key=self.key,
            ca_file=self.ca_file,
            fingerprint=self.fingerprint,
            client_cert_file=self.client_cert_file,
            client_key_file=self.client_key_file,
            timeout_s=timeout_s,
            allow_plaintext=self.allow_plaintext,
            clock=clock,
        )


class GrpcSettings(NetworkSettings):
    """Any gRPC server that hands out random bytes."""

    kind: Literal["grpc"] = Field(description="A gRPC server, of whatever service.")
    address: str = Field(description="HOST:PORT, dns:///HOST:PORT or unix:PATH of the server.")
    method_path: str = Field("/qr_entropy.EntropyService/GetEntropy", description="/PACKAGE.SERVICE/METHOD to call.")
    mode: Mode = Field(
        "unary", description="unary, server_streaming or bidi_streaming; the latter two call a bidirectional method."
    )
    tls: bool = Field(False, description="Use TLS; a ca_file implies it.")
    api_key_header: str = Field("api-key", description="The metadata in which the key travels.")
    max_request_size: int = Field(MAX_CHUNK_BYTES, ge=1, le=16 << 20, description="The most bytes to ask for at once.")
    count_field: int = Field(1, description="Number of the request's field with the number of bytes.")
    data_field: int = Field(1, description="Number of the reply's field with the bytes.")
    request_prefix: str = Field(
        "", repr=False, description="Hexadecimal digits of fields that every request begins with."
    )
    request_echo_field: int | None = Field(None, description="Number of the request's field that a reply repeats.")
    reply_echo_field: int | None = Field(None, description="Number of the reply's field that repeats it.")

    @field_validator("request_prefix")
    @classmethod
    def _digits(cls, text: str) -> str:
        bytes.fromhex(text)
        return text

    @property
    def origin(self) -> tuple[object, ...]:
        """The server, and what it is asked: one server may have several devices behind it."""
        return (self.address, self.method_path, self.request_prefix)

    @property
    def most_bytes(self) -> int:
        """What the server gives at once."""
        return min(self.max_request_size, MAX_CHUNK_BYTES)

    def open(self, *, timeout_s: float, state_dir: Path, clock: Clock) -> EntropySource:
        """Return the source."""
        return GrpcSource(
            Endpoint(
                self.address,
                tls=self.tls,
                ca_file=self.ca_file,
                allow_plaintext_beyond_loopback=self.allow_plaintext,
            ),
            GrpcMethod(self.method_path, self.mode, self._shape(), self.max_request_size, self.api_key_header),
            source_class=self.source_class,
            device_id=self.device_id,
            custody=self.custody,
            api_key=self.key,
            timeout_s=timeout_s,
        )

    def _shape(self) -> MessageShape:
        return MessageShape(
            self.count_field,
            self.data_field,
            bytes.fromhex(self.request_prefix),
            self.request_echo_field,
            self.reply_echo_field,
        )


AnySource = Annotated[
    SystemSettings | HttpSettings | GrpcSettings | DeviceSettings | JitterSettings | MockSettings,
    Field(discriminator="kind"),
]
"""An entry of `sources`."""


def check_sources(sources: Sequence[SourceSettings], best_class: SourceClass | None) -> None:
    """Raise ValueError unless each source is there once, and none is better than what the key may claim."""
    device_ids = [source.label_device_id for source in sources]
    if len(set(device_ids)) < len(device_ids):
        raise ValueError("two of them share a device_id, or are the same source")
    if len({source.origin for source in sources}) < len(sources):
        raise ValueError("two of them are the same source under two names")
    for source in sources:
        if best_class is not None and not best_class.at_least(source.label_class):
            raise ValueError(
                f"{source.label_device_id}: {source.label_class.value} is better than best_class,"
                " so the gateway would take nothing"
            )


def check_mix(entropies: Sequence[float]) -> None:
    """Raise ValueError when so many sources cannot be mixed."""
    if not 2 <= len(entropies) <= MAX_DEVICE_IDS:
        raise ValueError(f"a mix takes 2 to {MAX_DEVICE_IDS} sources")


def mix_requests(source: SourceSettings, strategy: MixingStrategy, size: int) -> int:
    """Return how many requests a source takes for its part in `size` mixed bytes; with `concat`, for all of them."""
    needed = hkdf_input_bytes(size, source.assessed_entropy) if strategy == "hkdf" else size
    return -(-needed // source.most_bytes)


def check_mix_pace(sources: Sequence[SourceSettings], strategy: MixingStrategy, size: int) -> None:
    """Raise ValueError when a mix would have to wait for a source longer than it can."""
    for source in sources:
        requests = mix_requests(source, strategy, size)
        if (requests + 1) * source.request_interval > LONGEST_LEG_TIMEOUT_S:
            raise ValueError(
                f"{source.label_device_id}: so many mixed bytes take {requests} requests of it,"
                " which request_interval spreads over more than a day"
            )


def check_own_pace(sources: Sequence[SourceSettings]) -> None:
    """Raise ValueError when a source of a mix is given a size or interval: the mix asks all its sources at once."""
    for source in sources:
        if source.fetch_chunk_size is not None or source.fetch_interval is not None:
            raise ValueError(f"{source.label_device_id}: in a mix, fetch_chunk_size and fetch_interval have no effect")


def _key_in(path: Path) -> SecretStr:
    """Return the key in `path`. Raises ValueError when others may read it, or there is none."""
    refuse_shared(path)
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise ValueError(f"cannot be read ({kind})") from None
    if not text:
        raise ValueError("is empty")
    return SecretStr(text)
