"""A client's settings, from the environment: `QR_GRPC_SERVER_ADDRESS`, `QR_GRPC_API_KEY`, `QR_GRPC_TIMEOUT_MS`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SecretStr

from qrng_grpc.channel import Endpoint
from qrng_grpc.config import Settings, load
from qrng_grpc.errors import ConfigError

ENV_PREFIX = "QR_"


class ClientSettings(Settings):
    """Where the server is, and how to speak to it."""

    grpc_server_address: str = "localhost:50051"
    """HOST:PORT, [IPV6]:PORT, dns:///HOST:PORT or unix:PATH."""
    grpc_api_key: SecretStr = SecretStr("")
    """The API key. Empty: none is sent."""
    grpc_timeout_ms: int | None = Field(default=None, ge=1, le=3_600_000)
    """How long one answer may take, in milliseconds. Not set: 5000, and 60000 for fresh bytes."""

    @property
    def timeout_s(self) -> float | None:
        """The same in seconds."""
        return None if self.grpc_timeout_ms is None else self.grpc_timeout_ms / 1000


def client_settings(environ: Mapping[str, str]) -> ClientSettings:
    """Read the settings above from `environ`. Other names that start with `QR_` belong to other programs.

    Raises ConfigError with every mistake.
    """
    names = {ENV_PREFIX + name.upper() for name in ClientSettings.model_fields}
    ours = {name: value for name, value in environ.items() if name.upper() in names}
    return load(ClientSettings, prefix=ENV_PREFIX, environ=ours)


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


def _path(name: str, file: Path | str | None) -> Path | None:
    if file is None:
        return None
    try:
        return Path(file)
    except TypeError:
        raise ConfigError([f"{name}: expected a path"]) from None
