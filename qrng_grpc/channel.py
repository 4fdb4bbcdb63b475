"""How clients open channels: where to, under what protection, with which options.

Idea: keys and bytes travel in the clear without TLS, so a plaintext channel to another machine is
refused until its owner says in words that it is meant. Everything else about a channel is the same
for all our clients and stands here once: bounded messages, pings that find a dead connection, quick
reconnects, and no proxy that happens to be named in the environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from qrng_grpc.config import is_loopback
from qrng_grpc.errors import ConfigError

MAX_RECEIVE_BYTES = (4 << 20) + (64 << 10)
"""The largest message a client reads: 4 MiB and the labels around them."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and how to speak to it.

    `address` is HOST:PORT, [IPV6]:PORT, dns:HOST:PORT, dns:///HOST:PORT or unix:PATH. A `ca_file` (PEM) implies
    `tls`; TLS without one trusts the certificate authorities that gRPC brings along.
    """

    address: str
    tls: bool = False
    ca_file: Path | None = None
    allow_plaintext_beyond_loopback: bool = False
    use_env_proxy: bool = False
    """Go through the proxy that `https_proxy` or `http_proxy` names."""

    @property
    def encrypted(self) -> bool:
        """Whether the channel uses TLS."""
        return self.tls or self.ca_file is not None


def open_channel(endpoint: Endpoint) -> grpc.Channel:
    """Open a channel for threads. It connects with its first call.

    Raises ConfigError when the address is none, the CA file unusable, or plaintext not allowed.
    """
    credentials = channel_credentials(endpoint)
    if credentials is None:
        return grpc.insecure_channel(endpoint.address, options=channel_options(endpoint))
    return grpc.secure_channel(endpoint.address, credentials, options=channel_options(endpoint))


def open_async_channel(endpoint: Endpoint) -> grpc.aio.Channel:
    """Open a channel for the running event loop. It connects with its first call. Raises as `open_channel`."""
    credentials = channel_credentials(endpoint)
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint.address, options=channel_options(endpoint))
    return grpc.aio.secure_channel(endpoint.address, credentials, options=channel_options(endpoint))


def channel_options(endpoint: Endpoint) -> tuple[tuple[str, int], ...]:
    """Return the gRPC channel arguments for `endpoint`."""
    return (*_OPTIONS, ("grpc.enable_http_proxy", int(endpoint.use_env_proxy)))


def stays_on_machine(address: str) -> bool:
    """Say whether a channel to `address` never leaves this machine. Raises ValueError when it is no address."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    return is_loopback(address.removeprefix("dns:").removeprefix("///"))


def channel_credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    """Return what protects a channel to `endpoint`; None for plaintext. Raises ConfigError as `open_channel`."""
    try:
        local = stays_on_machine(endpoint.address)
    except ValueError as error:
        raise ConfigError([f"server address: {error}"]) from None
    if not endpoint.encrypted:
        if not local and not endpoint.allow_plaintext_beyond_loopback:
            raise ConfigError(["server address: plaintext beyond this machine; use TLS, or allow it in words"])
        return None
    return grpc.ssl_channel_credentials(_roots(endpoint.ca_file))


def _roots(ca_file: Path | None) -> bytes | None:
    if ca_file is None:
        return None
    try:
        pem = ca_file.read_bytes()
    except OSError as error:
        raise ConfigError([f"CA file {ca_file}: cannot be read ({type(error).__name__})"]) from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError([f"CA file {ca_file}: holds no certificate"])
    return pem
