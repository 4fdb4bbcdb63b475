"""The gateway's settings.

Idea: everything an operator may steer is a field here, with its unit and range; what has no safe
default (keys, ids, the class the key may claim, where state lies) has none, so that a gateway never
starts on a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from qrng_gateway.admission.access import client_of_key, mixed_up
from qrng_gateway.admission.addresses import Network, network_of
from qrng_gateway.engines import EngineName, native_is_installed
from qrng_gateway.pool.conditioning import PostProcessing, Sha256
from qrng_grpc.chunk import MAX_CHUNK_BYTES, checked_id
from qrng_grpc.client_keys import API_KEY, read_client_file
from qrng_grpc.config import host_and_port, is_loopback
from qrng_grpc.errors import ConfigError
from qrng_grpc.hardening import LockMemory
from qrng_grpc.key_files import read_key_file
from qrng_grpc.key_settings import KeySettings, V, in_one_form
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import BEST_FIRST, SourceClass
from qrng_grpc.logs import LogLevel
from qrng_grpc.serving import MAX_CONNECTIONS
from qrng_grpc.tls import TlsFiles, read_authorities, read_chain, read_key

ENV_PREFIX = "QRNG_GATEWAY_"
MIN_API_KEY_CHARACTERS = 16
MAX_REST_BYTES = 65_536

_HEADER_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_TAKEN_HEADERS = re.compile(
    r"accept(-.*)?|authorization|connection|content-.*|cookie|date|expect|forwarded|grpc-.*|host|if-.*|keep-alive|origin"
    r"|proxy-.*|range|referer|sec-.*|te|trace.*|trailer|transfer-encoding|upgrade|user-agent|via|x-forwarded-.*|.*-bin"
)
"""Headers that a request has for other reasons."""
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?")

Seconds = Annotated[float, Field(allow_inf_nan=False)]
PerSecond = Annotated[float, Field(allow_inf_nan=False)]

_PROTECTED_BY = {
    "listen_address": "tls_cert_file",
    "push_listen_address": "push_tls_cert_file",
    "rest_listen_address": "tls_cert_file",
}
"""Each listener, and the setting that gives it TLS."""


class GatewayConfig(KeySettings):
    """How a gateway listens, what it keeps, whom it serves and whom it believes."""

    listen_address: str = Field(
        "127.0.0.1:50051",
        description="HOST:PORT of gRPC for clients; port 0 is any. With engine native also unix:PATH.",
    )
    push_listen_address: str = Field("127.0.0.1:50052", description="HOST:PORT of gRPC for collectors.")
    rest_listen_address: str = Field("127.0.0.1:8080", description="HOST:PORT of REST.")
    tls_cert_file: Path | None = Field(
        None, description="PEM file with the certificate of the listeners for clients, gRPC and REST, and its chain."
    )
    tls_key_file: Path | None = Field(
        None,
        validate_default=True,
        description="PEM file with its private key, mode 0600. Required with tls_cert_file.",
    )
    client_ca_file: Path | None = Field(
        None,
        description="PEM file with the authorities whose certificates clients, gRPC and REST, must show. Default: they"
        " need none.",
    )
    push_tls_cert_file: Path | None = Field(
        None, description="PEM file with the certificate of the listener for collectors, and its chain."
    )
    push_tls_key_file: Path | None = Field(
        None,
        validate_default=True,
        description="PEM file with its private key, mode 0600. Required with push_tls_cert_file.",
    )
    push_client_ca_file: Path | None = Field(
        None,
        validate_default=True,
        description="PEM file with the authorities whose certificates collectors must show. Required with"
        " push_tls_cert_file.",
    )
    max_connection_age: Seconds = Field(
        3600,
        ge=1,
        le=604_800,
        description="Seconds after which a connection with TLS must be made anew; 1 to 604800.",
    )
    allow_plaintext_beyond_loopback: bool = Field(
        False,
        description="Lets listeners leave this machine without TLS. Keys and entropy then travel readable.",
        validate_default=True,
    )

    buffer_size: int = Field(
        10_000_000,
        ge=MAX_CHUNK_BYTES,
        le=1 << 40,
        description="Bytes the pool holds, at least 1 MiB (the largest chunk).",
    )
    buffer_ttl: Seconds = Field(
        3600, gt=0, le=604_800, description="Age in seconds, counted from capture start, at which bytes are destroyed."
    )
    post_processing: PostProcessing = Field(
        "none", description="What is done to bytes before they are served, and told of them: none, sha256 or xor-os."
    )
    entropy_per_byte: float | None = Field(
        None,
        gt=0,
        le=8,
        allow_inf_nan=False,
        validate_default=True,
        description="Bits of entropy that the operator holds a byte of the sources to have. Required with sha256.",
    )
    overflow: Literal["drop_oldest", "backpressure"] = Field(
        "drop_oldest",
        description="What a full pool does: destroy its oldest bytes, or hold new ones back.",
    )
    quality_reservoir_size: int = Field(
        1 << 20,
        ge=0,
        le=1 << 24,
        description="Bytes kept apart for tests, from at most one in a hundred of those that arrive; 0 switches off.",
    )
    clock_tolerance: Seconds = Field(5, ge=0, le=300, description="Seconds collectors' clocks may differ from ours.")

    api_keys_file: Path | None = Field(
        None,
        description="File of clients and the SHA-256 of their keys, which `qrng keys` writes. May change any time.",
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys of clients: a YAML list, or comma-separated. Each at least 16 visible ASCII characters."
        " Required, unless there is an api_keys_file.",
    )
    api_key_header: str = Field(
        API_KEY, description="Name of the gRPC metadata and HTTP header that carries a key, in lower case."
    )
    allow_api_key_in_query: bool = Field(True, description="Whether REST takes a key as ?api_key=KEY too.")
    cors_allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins of web pages that may read REST's replies, each as https://HOST or https://HOST:PORT:"
        " a YAML list, or comma-separated. Default: none.",
    )
    max_request_bytes: int = Field(
        MAX_CHUNK_BYTES, ge=1, le=MAX_CHUNK_BYTES, description="Most bytes in one gRPC message; 1 to 1048576."
    )
    max_rest_bytes: int = Field(
        MAX_REST_BYTES, ge=1, le=MAX_REST_BYTES, description="Most bytes in one REST reply; 1 to 65536."
    )
    max_wait: Seconds = Field(5, ge=0, le=60, description="Seconds a claim waits in line at most; 0 to 60.")
    max_fresh_wait: Seconds = Field(
        60,
        ge=0,
        le=3600,
        validate_default=True,
        description="Seconds a claim for fresh bytes waits for them at most; up to 3600 and more than"
        " clock_tolerance, or 0, which refuses such claims.",
    )
    max_waiting: int = Field(1024, ge=1, le=1_000_000, description="Claims that may wait in line at once.")
    max_streams: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Streams of clients that may be open at once; half of them of one client whose record names no"
        " number.",
    )
    max_connections: int = Field(
        MAX_CONNECTIONS,
        ge=1,
        le=1_000_000,
        description="Connections each of the three listeners takes at once; they count as open files.",
    )
    ready_bytes: int = Field(
        1024,
        ge=1,
        le=1 << 40,
        description="Bytes that can be claimed from which on the gateway says it is ready; at most buffer_size.",
    )
    ready_bytes_per_second: Seconds = Field(
        1024, ge=0, description="Bytes a second that arrive from which on it says so with an empty pool too."
    )
    rate_limit: PerSecond = Field(
        100, gt=0, le=1_000_000, description="Requests a second of a client whose record names none; up to 1000000."
    )
    address_rate_limit: PerSecond | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="Requests a second from one address (a /64 of IPv6), of all clients there; up to 1000000. Default:"
        " as rate_limit.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of reverse proxies whose X-Forwarded-For names the caller: a YAML list, or"
        " comma-separated.",
    )
    engine: EngineName = Field(
        "grpcio",
        validate_default=True,
        description="What speaks gRPC with clients: grpcio, or native, which is faster, needs qrng-grpc[native] and"
        " stands behind a TLS proxy on this machine.",
    )
    drain_timeout: Seconds = Field(
        5, ge=0, le=300, description="Seconds that running calls get to finish when the gateway ends."
    )

    collector_id: str | None = Field(
        None, validate_default=True, description="The collector that may sign with hmac_secret_key. Required with it."
    )
    pool_id: str = Field(description="Id of this gateway's pool.")
    best_class: SourceClass | None = Field(
        None,
        validate_default=True,
        description="The best class of source that hmac_secret_key may claim. Required with it.",
    )
    least_class: SourceClass | None = Field(
        None,
        validate_default=True,
        description="The weakest class of source anyone is served. Required where keys may claim several. Default: the"
        " best class of the keys.",
    )

    state_dir: Path = Field(description="Directory for what must survive a restart. Belongs to one gateway alone.")
    lock_memory: LockMemory = Field(
        "try",
        description="Whether memory is kept out of swap: try (warn where that is not allowed), require or off.",
    )
    log_level: LogLevel = Field("info", description="The least severe events that are logged.")
    metrics_enabled: bool = Field(True, description="Whether REST answers GET /metrics, which needs no key.")
    audit_log_file: Path | None = Field(
        None, description="File to which a line is appended for every call of a client. Default: none is kept."
    )

    @property
    def key_records(self) -> tuple[KeyRecord, ...]:
        """The keys that may sign, as their file has them now. Raises ConfigError when they cannot be used here."""
        records = self.records_for(self.collector_id, (self.pool_id,), self.best_class)
        mistake = _unfit(records, self.pool_id, self.least_class)
        if mistake is not None:
            raise ConfigError([f"{self.signing_keys_file}: {mistake}"])
        return records

    @property
    def served_class(self) -> SourceClass:
        """The weakest class this gateway serves to anyone. Raises ConfigError as `key_records`."""
        return self.least_class or best_of(self.key_records)

    @property
    def tls_files(self) -> TlsFiles | None:
        """What the listeners for clients show and ask for; None for plaintext."""
        if self.tls_cert_file is None:
            return None
        return TlsFiles("server", self.tls_cert_file, self.tls_key_file, self.client_ca_file)

    @property
    def push_tls_files(self) -> TlsFiles | None:
        """What the listener for collectors shows and asks for; None for plaintext."""
        if self.push_tls_cert_file is None:
            return None
        return TlsFiles("server", self.push_tls_cert_file, self.push_tls_key_file, self.push_client_ca_file)

    @property
    def limits_addresses(self) -> bool:
        """Whether clients have addresses to be limited by: behind a proxy only if that one says whom it serves."""
        return self.engine != "native" or bool(self.trusted_proxies)

    @field_validator("listen_address", "push_listen_address", "rest_listen_address")
    @classmethod
    def _an_address(cls, address: str, info: ValidationInfo) -> str:
        if info.field_name != "listen_address" or not _is_socket(address):
            host_and_port(address)
        return address

    @field_validator("tls_cert_file", "push_tls_cert_file")
    @classmethod
    def _a_certificate(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_chain(path, "server")
        return path

    @field_validator("tls_key_file", "push_tls_key_file")
    @classmethod
    def _its_key(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        _only_together(path, str(info.field_name).replace("key", "cert"), info)
        if path is not None:
            cert_file = info.data.get(str(info.field_name).replace("key", "cert"))
            read_key(path, None if cert_file is None else read_chain(cert_file, "server"))
        return path

    @field_validator("push_client_ca_file")
    @classmethod
    def _some_authorities(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        _only_together(path, "push_tls_cert_file", info)
        if path is not None:
            read_authorities(path)
        return path

    @field_validator("client_ca_file")
    @classmethod
    def _some_authorities_for_clients(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            _only_together(path, "tls_cert_file", info)
            read_authorities(path)
        return path

    @field_validator("allow_plaintext_beyond_loopback")
    @classmethod
    def _stays_on_this_machine(cls, allowed: bool, info: ValidationInfo) -> bool:
        leaving = [
            name
            for name, cert_file in _PROTECTED_BY.items()
            # A certificate that was given and is at fault is reported already.
            if name in info.data and not _stays_here(info.data[name]) and info.data.get(cert_file, "") is None
        ]
        if leaving and not allowed:
            raise ValueError(f"must be true for plaintext beyond loopback, as in {', '.join(leaving)}")
        return allowed

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split(cls, keys: Any) -> Any:
        return tuple(keys.split(",")) if isinstance(keys, str) else keys

    @field_validator("api_keys_file")
    @classmethod
    def _usable_clients(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                read_client_file(path)
            except ConfigError as error:
                raise ValueError("; ".join(error.mistakes)) from None
        return path

    @field_validator("api_keys")
    @classmethod
    def _usable_keys(cls, keys: tuple[SecretStr, ...], info: ValidationInfo) -> tuple[SecretStr, ...]:
        if not keys and info.data.get("api_keys_file", ...) is not None:  # one that is at fault is reported already
            return keys
        texts = [key.get_secret_value() for key in keys]
        if not any(texts):
            raise ValueError("at least one key is required, or api_keys_file")
        if not all(texts):
            raise ValueError("an empty key is among them")
        if min(map(len, texts)) < MIN_API_KEY_CHARACTERS:
            raise ValueError(f"every key needs at least {MIN_API_KEY_CHARACTERS} characters")
        if not all("!" <= character <= "~" for text in texts for character in text):
            raise ValueError("keys are made of visible ASCII characters, without blanks")
        if len(set(texts)) < len(texts):
            raise ValueError("a key is there twice")
        if file := info.data.get("api_keys_file"):
            mistakes = mixed_up(map(client_of_key, texts), read_client_file(file))
            if mistakes:
                raise ValueError("; ".join(mistakes))
        return keys

    @field_validator("api_key_header")
    @classmethod
    def _a_header_of_its_own(cls, name: str) -> str:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("expected 1 to 64 of the characters a-z 0-9 - _ . with a letter first")
        if _TAKEN_HEADERS.fullmatch(name):
            raise ValueError("means something else already")
        return name

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _some_networks(cls, listed: Any) -> Any:
        texts = [text for text in listed.split(",") if text.strip()] if isinstance(listed, str) else listed
        if not isinstance(texts, list | tuple):
            raise ValueError("expected a list")
        return tuple(network_of(str(text).strip()) for text in texts)

    @field_validator("engine")
    @classmethod
    def _fits_the_rest(cls, engine: EngineName, info: ValidationInfo) -> EngineName:
        if engine == "native":
            mistakes = list(_beyond_the_native_engine(info.data))
        else:
            at_a_socket = _is_socket(info.data.get("listen_address", ""))
            mistakes = ["must be native for a Unix socket, as in listen_address"] if at_a_socket else []
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return engine

    @field_validator("entropy_per_byte")
    @classmethod
    def _for_sha256(cls, entropy: float | None, info: ValidationInfo) -> float | None:
        conditioned = info.data.get("post_processing") == "sha256"
        if conditioned and entropy is None:
            raise ValueError("required with post_processing sha256")
        if not conditioned and entropy is not None:
            raise ValueError("has no effect without post_processing sha256")
        if entropy is not None and Sha256(entropy).part_bytes > MAX_CHUNK_BYTES:
            raise ValueError("so low that the largest chunk, of 1 MiB, does not make a single output")
        return entropy

    @field_validator("max_fresh_wait")
    @classmethod
    def _long_enough_for_fresh_bytes(cls, wait_s: float, info: ValidationInfo) -> float:
        tolerance_s = info.data.get("clock_tolerance", 0)
        if 0 < wait_s <= tolerance_s:
            raise ValueError("must be more than clock_tolerance, after which bytes are fresh at the soonest, or 0")
        return wait_s

    @field_validator("ready_bytes")
    @classmethod
    def _fits_in_the_pool(cls, ready_bytes: int, info: ValidationInfo) -> int:
        if ready_bytes > info.data.get("buffer_size", ready_bytes):
            raise ValueError("more than buffer_size, so the pool could never hold it")
        return ready_bytes

    @field_validator("cors_allowed_origins", mode="before")
    @classmethod
    def _some_origins(cls, listed: Any) -> Any:
        return tuple(text.strip() for text in listed.split(",") if text.strip()) if isinstance(listed, str) else listed

    @field_validator("cors_allowed_origins")
    @classmethod
    def _origins_in_full(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(_ORIGIN.fullmatch, origins)):
            raise ValueError("expected origins as browsers send them, such as https://lab.example:8443; * is none")
        return origins

    @field_validator("collector_id", "pool_id")
    @classmethod
    def _an_id(cls, text: str | None) -> str | None:
        return text if text is None else checked_id(text)

    @field_validator("collector_id", "best_class")
    @classmethod
    def _with_the_secret(cls, value: V | None, info: ValidationInfo) -> V | None:
        return in_one_form(value, info)

    @field_validator("least_class")
    @classmethod
    def _can_be_met(cls, least: SourceClass | None, info: ValidationInfo) -> SourceClass | None:
        best, keys_file, pool_id = (info.data.get(name) for name in ("best_class", "signing_keys_file", "pool_id"))
        if least is not None and best is not None and not best.at_least(least):
            raise ValueError("better than best_class, so nothing could ever be served")
        if keys_file is not None and pool_id is not None:
            mistake = _unfit(read_key_file(keys_file), pool_id, least)
            if mistake is not None:
                raise ValueError(mistake)
        return least


def best_of(records: tuple[KeyRecord, ...]) -> SourceClass:
    """Return the best class that any of `records` may claim; revoked ones count only where there are no others."""
    claimable = {record.best_class for record in records if not record.revoked}
    return min(claimable or {record.best_class for record in records}, key=BEST_FIRST.index)


def _is_socket(address: str) -> bool:
    """Say whether `address` is unix:PATH."""
    return address.startswith("unix:") and len(address) > len("unix:")


def _stays_here(address: str) -> bool:
    return _is_socket(address) or is_loopback(address)


def _beyond_the_native_engine(given: dict[str, Any]) -> Iterator[str]:
    """Yield what of the settings before `engine` it could not keep; what is at fault itself is not among `given`."""
    tls = [name for name in ("tls_cert_file", "tls_key_file", "client_ca_file") if given.get(name) is not None]
    if tls:
        yield f"native has no TLS, so not with {', '.join(tls)}: use engine grpcio, or a TLS proxy in front"
    if not _stays_here(given.get("listen_address", "localhost:0")):
        yield "native listens on this machine only, unlike listen_address: use engine grpcio, or a TLS proxy in front"
    if given.get("address_rate_limit") is not None and not given.get("trusted_proxies"):
        yield (
            "native sees the address of its proxy and of nobody else, so address_rate_limit needs trusted_proxies: name"
            " the proxy there, or use engine grpcio"
        )
    if not native_is_installed():
        yield "native needs the package pygrpc-native: install qrng-grpc[native], or use engine grpcio"


def _unfit(records: tuple[KeyRecord, ...], pool_id: str, least: SourceClass | None) -> str | None:
    """Return why a pool cannot be run with `records`, None when it can."""
    if not any(pool_id in record.pool_ids for record in records):
        return f"no signing key is for the pool {pool_id}"
    classes = {record.best_class for record in records if not record.revoked}
    if least is None and len(classes) > 1:
        return "least_class is required, since the signing keys may claim several classes"
    if least is not None and classes and not any(best.at_least(least) for best in classes):
        return "least_class is better than what any signing key may claim, so nothing could ever be served"
    return None


def _only_together(path: Path | None, cert_file: str, info: ValidationInfo) -> None:
    """Refuse a part of TLS without the setting `cert_file`, or that setting without this part."""
    missing = object()
    certificate = info.data.get(cert_file, missing)
    if certificate is None and path is not None:
        raise ValueError(f"has no effect without {cert_file}")
    if path is None and certificate is not None and certificate is not missing:
        raise ValueError(f"required with {cert_file}")
