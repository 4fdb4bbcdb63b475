"""The collector's settings.

Idea: one model says where bytes come from, how long they may wait and where they go. What has no safe
default (keys, ids, the class a key may claim, the gateway, where state lies) has none. A setting that
would have no effect with the chosen source is refused, since someone who names an appliance must not be
served the operating system's randomness instead.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from qrng_grpc.chunk import MAX_CHUNK_BYTES, is_id
from qrng_grpc.config import Settings, host_and_port, is_loopback
from qrng_grpc.keys import MIN_HMAC_KEY_BYTES, KeyRecord
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.logs import LogLevel
from qrng_grpc.sources.http import appliance_url
from qrng_grpc.tls import TlsFiles, read_authorities, read_chain, read_key

ENV_PREFIX = "QRNG_COLLECTOR_"
MAX_SOURCES = 64

SourceKind = Literal["system", "http", "device", "mock"]
FIXED_CLASSES = {"system": SourceClass.OPERATING_SYSTEM, "mock": SourceClass.SIMULATED}
"""The kinds of source whose class is known."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]+")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

Seconds = Annotated[float, Field(allow_inf_nan=False)]


class RetryPolicy(BaseModel):
    """How long to wait after failures."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    initial_s: Seconds = Field(0.5, gt=0, le=3600, description="Seconds to wait after the first failure.")
    maximum_s: Seconds = Field(
        30, gt=0, le=3600, validate_default=True, description="The longest wait in seconds; at least initial_s."
    )
    multiplier: Seconds = Field(2, ge=1, le=10, description="How much longer each further wait is; 1 to 10.")
    jitter: Seconds = Field(0.2, ge=0, le=1, description="The share of each wait that chance may take away; 0 to 1.")

    @field_validator("maximum_s")
    @classmethod
    def _not_below_initial(cls, maximum: float, info: ValidationInfo) -> float:
        if maximum < info.data.get("initial_s", 0):
            raise ValueError("must be at least initial_s")
        return maximum

    def delay_s(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after `failures` (from 1) in a row; `chance` (0 to 1) picks within the jitter."""
        # Beyond 64 steps every growing wait has reached its maximum, and the power would overflow.
        grown = self.initial_s * self.multiplier ** min(failures - 1, 64)
        return min(self.maximum_s, grown) * (1 - self.jitter * chance)


class CollectorConfig(Settings):
    """What a collector reads, how it keeps it, and where it pushes it."""

    hmac_secret_key: SecretStr = Field(description="Secret of the signing key: at least 32 bytes of text.")
    hmac_key_id: str = Field(description="Id of that key.")
    collector_id: str = Field(description="Id of this collector, as the key's record at the gateway has it.")
    pool_id: str = Field(description="Id of the pool the chunks are for.")
    best_class: SourceClass = Field(description="The best class of source the key may claim.")

    source: SourceKind = Field(
        "system", description="Kind of source: system (os.urandom), http (Quantis appliance), device, mock (simulated)."
    )
    appliance_url: str | None = Field(
        None, validate_default=True, description="URL of an appliance, as in https://192.0.2.7. Only with source=http."
    )
    appliance_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        max_length=MAX_SOURCES,
        validate_default=True,
        description="URLs of several appliances, each a source of its own: a YAML list, or comma-separated.",
    )
    appliance_ca_file: FilePath | None = Field(
        None, description="PEM file of the authorities that may have signed the appliance's certificate."
    )
    appliance_fingerprint: str | None = Field(
        None, description="SHA-256 of the appliance's certificate: 64 hexadecimal digits, colons allowed."
    )
    device_path: Path | None = Field(
        None, validate_default=True, description="Character device or file to read. Required with source=device."
    )
    mock_seed: int = Field(0, ge=0, lt=1 << 64, description="Seed of the simulated source; equal seeds, equal bytes.")
    source_class: SourceClass = Field(
        None,
        validate_default=True,
        description="Class of the source's bytes. Required with source=http and source=device, fixed with the others.",
    )
    source_custody: Custody = Field(
        None,
        validate_default=True,
        description="remote when a third party could see the bytes on their way. Default: remote with source=http.",
    )
    device_id: str | None = Field(
        None, description="Id of the source in replies; of several appliances each gets a number behind it."
    )

    fetch_chunk_size: int = Field(
        1024, ge=1, le=MAX_CHUNK_BYTES, description="Bytes asked of a source at a time, and in a chunk; 1 to 1048576."
    )
    fetch_interval: Seconds = Field(0.1, gt=0, le=3600, description="Seconds between the starts of two fetches.")
    fetch_timeout: Seconds = Field(10, gt=0, le=3600, description="Seconds a source gets to answer.")

    buffer_size: int = Field(
        1 << 20,
        ge=1,
        le=1 << 40,
        validate_default=True,
        description="Bytes that may wait for the gateway; at least fetch_chunk_size.",
    )
    buffer_ttl: Seconds = Field(
        3600, gt=0, le=604_800, description="Seconds bytes may wait for the gateway before they are destroyed."
    )
    overflow: Literal["drop_oldest", "pause"] = Field(
        "drop_oldest",
        description="When bytes no longer fit: destroy the oldest, or pause fetching. With pause, the gateway's"
        " answers influence when sources are read, so information can flow back.",
    )

    push_ca_file: Path | None = Field(
        None,
        description="PEM file with the authorities that may have signed the gateway's certificate. Pushes go over TLS"
        " with it, and in plaintext without.",
    )
    push_cert_file: Path | None = Field(
        None, description="PEM file with the certificate this collector shows, and its chain. Only with push_ca_file."
    )
    push_key_file: Path | None = Field(
        None,
        validate_default=True,
        description="PEM file with its private key, mode 0600. Required with push_cert_file.",
    )
    allow_plaintext_beyond_loopback: bool = Field(
        False, description="Lets chunks leave this machine without TLS. The entropy then travels readable."
    )
    push_url: str = Field(description="HOST:PORT of the gateway's listener for collectors.")
    push_interval: Seconds = Field(0.5, gt=0, le=3600, description="Seconds between the starts of two push calls.")
    push_timeout: Seconds = Field(30, gt=0, le=3600, description="Seconds a push call may take.")
    flush_timeout: Seconds = Field(
        5, ge=0, le=300, description="Seconds that pushing goes on for when the program ends."
    )
    retry_policy: RetryPolicy = Field(
        RetryPolicy(), description="Waits after failures, of sources as well as of push calls."
    )

    state_dir: Path = Field(description="Directory for what must survive a restart. Belongs to one collector alone.")
    log_level: LogLevel = Field("info", description="The least severe events that are logged.")

    @property
    def key_record(self) -> KeyRecord:
        """The key that signs."""
        return KeyRecord(
            key_id=self.hmac_key_id,
            secret=self.hmac_secret_key.get_secret_value().encode(),
            collector_id=self.collector_id,
            pool_ids=frozenset((self.pool_id,)),
            best_class=self.best_class,
        )

    @property
    def push_tls_files(self) -> TlsFiles | None:
        """What a push shows and asks for; None for plaintext."""
        if self.push_ca_file is None:
            return None
        return TlsFiles("client", self.push_cert_file, self.push_key_file, self.push_ca_file)

    @property
    def all_appliance_urls(self) -> tuple[str, ...]:
        """The URLs of both settings, each once."""
        single = (self.appliance_url,) if self.appliance_url is not None else ()
        return tuple(dict.fromkeys((*single, *self.appliance_urls)))

    @field_validator("hmac_secret_key")
    @classmethod
    def _long_enough(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().encode()) < MIN_HMAC_KEY_BYTES:
            raise ValueError(f"needs at least {MIN_HMAC_KEY_BYTES} characters")
        return secret

    @field_validator("device_id")
    @classmethod
    def _a_device_id(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None:
            _only_with(("http", "device"), info)
            cls._an_id(text)
        return text

    @field_validator("hmac_key_id", "collector_id", "pool_id")
    @classmethod
    def _an_id(cls, text: str) -> str:
        if not is_id(text):
            raise ValueError("expected 1 to 64 of the characters A-Z a-z 0-9 . _ - with a letter or digit first")
        return text

    @field_validator("appliance_urls", mode="before")
    @classmethod
    def _split(cls, urls: Any) -> Any:
        return tuple(url.strip() for url in urls.split(",")) if isinstance(urls, str) else urls

    @field_validator("appliance_url")
    @classmethod
    def _a_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None:
            _only_with(("http",), info)
            appliance_url(url)
        return url

    @field_validator("appliance_urls")
    @classmethod
    def _some_urls(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if urls:
            _only_with(("http",), info)
        elif info.data.get("source") == "http" and info.data.get("appliance_url", "") is None:
            raise ValueError("required with source=http, or appliance_url")
        for url in urls:
            appliance_url(url)
        return urls

    @field_validator("appliance_ca_file")
    @classmethod
    def _a_bundle(cls, path: Path | None) -> Path | None:
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"cannot be used as a CA bundle ({type(error).__name__})") from None
        return path

    @field_validator("appliance_fingerprint")
    @classmethod
    def _a_fingerprint(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        if info.data.get("appliance_ca_file") is not None:
            raise ValueError("give a CA file or a fingerprint, not both")
        digits = text.replace(":", "").lower()
        if not _FINGERPRINT.fullmatch(digits):
            raise ValueError("expected a SHA-256 of 64 hexadecimal digits")
        return digits

    @field_validator("device_path")
    @classmethod
    def _a_device(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            _only_with(("device",), info)
        elif info.data.get("source") == "device":
            raise ValueError("required with source=device")
        return path

    @field_validator("source_class", mode="before")
    @classmethod
    def _known_class(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("source")
        if value is not None:
            return value
        if kind in ("http", "device"):
            raise ValueError(f"required with source={kind}: the class its bytes are to be labelled with")
        # Without a valid kind that mistake is reported already; the weakest class adds no other.
        return FIXED_CLASSES.get(kind or "", SourceClass.SIMULATED)

    @field_validator("source_class")
    @classmethod
    def _honest_class(cls, claimed: SourceClass, info: ValidationInfo) -> SourceClass:
        kind, best = info.data.get("source"), info.data.get("best_class")
        fixed = FIXED_CLASSES.get(kind or "")
        if fixed is not None and claimed is not fixed:
            raise ValueError(f"is always {fixed.value} with source={kind}")
        if kind is not None and best is not None and not best.at_least(claimed):
            raise ValueError(f"{claimed.value} is better than best_class, so the gateway would take nothing")
        return claimed

    @field_validator("source_custody", mode="before")
    @classmethod
    def _known_custody(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        return Custody.REMOTE if info.data.get("source") == "http" else Custody.LOCAL

    @field_validator("source_custody")
    @classmethod
    def _honest_custody(cls, custody: Custody, info: ValidationInfo) -> Custody:
        if custody is Custody.REMOTE:
            _only_with(("http", "device"), info)
        return custody

    @field_validator("buffer_size")
    @classmethod
    def _holds_a_chunk(cls, size: int, info: ValidationInfo) -> int:
        if size < info.data.get("fetch_chunk_size", 0):
            raise ValueError("must be at least fetch_chunk_size")
        return size

    @field_validator("push_ca_file")
    @classmethod
    def _some_authorities(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_authorities(path)
        return path

    @field_validator("push_cert_file")
    @classmethod
    def _a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            if info.data.get("push_ca_file", "") is None:
                raise ValueError("has no effect without push_ca_file")
            read_chain(path, "client")
        return path

    @field_validator("push_key_file")
    @classmethod
    def _its_key(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        cert_file = info.data.get("push_cert_file")
        if path is None and cert_file is not None:
            raise ValueError("required with push_cert_file")
        if path is not None:
            if "push_cert_file" in info.data and cert_file is None:
                raise ValueError("has no effect without push_cert_file")
            read_key(path, None if cert_file is None else read_chain(cert_file, "client"))
        return path

    @field_validator("push_url")
    @classmethod
    def _an_address(cls, address: str, info: ValidationInfo) -> str:
        _, port = host_and_port(address)
        if port == 0 or not _ADDRESS.fullmatch(address):
            raise ValueError("expected HOST:PORT with a port from 1 to 65535")
        # A CA file that was given and is at fault is reported already.
        plaintext = info.data.get("push_ca_file", "") is None
        if plaintext and not is_loopback(address) and not info.data.get("allow_plaintext_beyond_loopback", True):
            raise ValueError(
                "leaves this machine without TLS: give push_ca_file, or set allow_plaintext_beyond_loopback to true"
            )
        return address


def _only_with(kinds: tuple[SourceKind, ...], info: ValidationInfo) -> None:
    """Refuse a setting that the chosen kind of source would ignore."""
    chosen = info.data.get("source")
    if chosen is not None and chosen not in kinds:
        raise ValueError(f"has no effect with source={chosen}; only with source={' or '.join(kinds)}")
