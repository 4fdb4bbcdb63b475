"""The source server's settings.

Idea: a source of whatever kind, and a listener. On loopback it may be used without a key; beyond, keys are required,
and so is TLS unless a setting allows plaintext in words.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator

from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.config import host_and_port, is_loopback
from qrng_grpc.hardening import LockMemory
from qrng_grpc.logs import LogLevel
from qrng_grpc.sources.kinds import AnySource, SourceSettings
from qrng_grpc.sources.kinds.settings import FIXED, Seconds, key_in
from qrng_grpc.tls import TlsFiles, read_authorities, read_chain, read_key

MIN_KEY_CHARACTERS = 16


class SourceServerConfig(BaseModel):
    """Which source is served, where, and to whom."""

    model_config = FIXED

    source: AnySource = Field(description="The source, of whatever kind.")
    listen_address: str = Field("127.0.0.1:50051", description="HOST:PORT to listen at.")
    tls_cert_file: Path | None = Field(None, description="PEM file with the server's certificate, and its chain.")
    tls_key_file: Path | None = Field(None, description="PEM file with its private key, mode 0600.")
    client_ca_file: Path | None = Field(
        None, description="PEM file of the authorities of which clients must show a certificate."
    )
    allow_plaintext_beyond_loopback: bool = Field(
        False, description="Lets keys and bytes leave this machine without TLS. Both then travel readable."
    )
    api_key_files: tuple[Path, ...] = Field(
        (),
        description="Files of mode 0600, each with a key alone. With any, clients need one of them; required beyond"
        " loopback.",
    )
    max_request_bytes: int = Field(
        MAX_CHUNK_BYTES, ge=1, le=MAX_CHUNK_BYTES, description="Most bytes in one message; 1 to 1048576."
    )
    max_waiting: int = Field(64, ge=1, le=10_000, description="Requests that may wait for the source at once.")
    max_streams: int = Field(64, ge=1, le=10_000, description="Streams of clients that may be open at once.")
    quarantine_pause: Seconds = Field(
        60, gt=0, le=86_400, description="Seconds a source that failed its tests is left alone before its next test."
    )
    state_dir: Path | None = Field(
        None, description="Directory for what a source must remember across restarts. Belongs to one process alone."
    )
    drain_timeout: Seconds = Field(
        5, ge=0, le=300, description="Seconds that running calls get to finish when the server ends."
    )
    lock_memory: LockMemory = Field(
        "try", description="Whether memory is kept out of swap: try (warn where that is not allowed), require or off."
    )
    log_level: LogLevel = Field("info", description="The least severe events that are logged.")

    @property
    def api_keys(self) -> tuple[SecretStr, ...]:
        """The keys in the files."""
        return tuple(map(key_in, self.api_key_files))

    @property
    def tls_files(self) -> TlsFiles | None:
        """What the listener shows and asks for; None for plaintext."""
        if self.tls_cert_file is None:
            return None
        return TlsFiles("server", self.tls_cert_file, self.tls_key_file, self.client_ca_file)

    @field_validator("source")
    @classmethod
    def _read_on_request(cls, source: SourceSettings) -> SourceSettings:
        if source.fetch_interval is not None:
            raise ValueError("fetch_interval has no effect here: the source is read when somebody asks")
        return source

    @field_validator("listen_address")
    @classmethod
    def _an_address(cls, address: str) -> str:
        host_and_port(address)
        return address

    @field_validator("tls_cert_file")
    @classmethod
    def _a_certificate(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_chain(path, "server")
        return path

    @field_validator("tls_key_file")
    @classmethod
    def _its_key(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert_file" not in info.data:  # one that is at fault is reported already
            return path
        cert_file = info.data["tls_cert_file"]
        if (path is None) != (cert_file is None):
            raise ValueError("goes together with tls_cert_file")
        if path is not None and cert_file is not None:
            read_key(path, read_chain(cert_file, "server"))
        return path

    @field_validator("client_ca_file")
    @classmethod
    def _some_authorities(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            if info.data.get("tls_cert_file", ...) is None:
                raise ValueError("has no effect without tls_cert_file")
            read_authorities(path)
        return path

    @field_validator("allow_plaintext_beyond_loopback")
    @classmethod
    def _stays_on_this_machine(cls, allowed: bool, info: ValidationInfo) -> bool:
        if _leaves(info) and info.data.get("tls_cert_file", ...) is None and not allowed:
            raise ValueError("must be true for plaintext beyond loopback; or give tls_cert_file and tls_key_file")
        return allowed

    @field_validator("api_key_files")
    @classmethod
    def _usable_keys(cls, files: tuple[Path, ...], info: ValidationInfo) -> tuple[Path, ...]:
        if not files and _leaves(info):
            raise ValueError("required beyond loopback")
        keys = [key_in(path).get_secret_value() for path in files]
        if any(len(key) < MIN_KEY_CHARACTERS for key in keys):
            raise ValueError(f"every key needs at least {MIN_KEY_CHARACTERS} characters")
        if not all("!" <= character <= "~" for key in keys for character in key):
            raise ValueError("a file holds one key, of visible ASCII characters without blanks")
        return files


def _leaves(info: ValidationInfo) -> bool:
    """Say whether the listener can be reached from elsewhere; one that is no address is reported already."""
    return "listen_address" in info.data and not is_loopback(info.data["listen_address"])
