"""How clients open channels: where to, under what protection, with which options.

Idea: keys and bytes travel in the clear without TLS, so a plaintext channel to another machine is
refused until its owner says in words that it is meant. Everything else about a channel is the same
for all our clients and stands here once: bounded messages, pings that find a dead connection, quick
reconnects, and no proxy that happens to be named in the environment.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import grpc
import grpc.aio

from qrng_grpc.config import is_loopback
from qrng_grpc.errors import ConfigError
from qrng_grpc.files import refuse_shared, shown_path, why_unreadable

MAX_RECEIVE_BYTES = (4 << 20) + (64 << 10)
"""The largest message a client reads: 4 MiB and the labels around them."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

_BEYOND = (
    "server address: plaintext beyond this machine; use TLS (tls or ca_file; --tls or --ca-file), or allow it in words"
    " (allow_plaintext_beyond_loopback; --allow-plaintext-beyond-loopback)"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and how to speak to it.

    `address` is HOST:PORT, [IPV6]:PORT, dns:HOST:PORT, dns:///HOST:PORT or unix:PATH. A `ca_file` (PEM) implies
    `tls`; TLS without one trusts the certificate authorities that gRPC brings along. `cert_file` (PEM, own
    certificate, then intermediates) and `key_file` go together, for servers that ask clients for a certificate,
    and imply `tls` too.
    """

    address: str
    tls: bool = False
    ca_file: Path | None = None
    allow_plaintext_beyond_loopback: bool = False
    use_env_proxy: bool = False
    """Go through the proxy that `https_proxy` or `http_proxy` names."""
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def encrypted(self) -> bool:
        """Whether the channel uses TLS."""
        return self.tls or any((self.ca_file, self.cert_file, self.key_file))


def open_channel(endpoint: Endpoint) -> grpc.Channel:
    """Open a channel for threads. It connects with its first call.

    Raises ConfigError when the address is none, a file unusable, or plaintext not allowed.
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
        url = endpoint.address.startswith(("http://", "https://"))
        raise ConfigError([f"server address: {'expected HOST:PORT, not a URL' if url else error}"]) from None
    if not endpoint.encrypted:
        if not local and not endpoint.allow_plaintext_beyond_loopback:
            raise ConfigError([_BEYOND])
        return None
    key, chain = _own_pair(endpoint.cert_file, endpoint.key_file)
    return grpc.ssl_channel_credentials(_certificates("CA file", endpoint.ca_file), key, chain)


def _own_pair(cert_file: Path | None, key_file: Path | None) -> tuple[bytes | None, bytes | None]:
    """Return a private key and the certificate it is the key of, both or neither."""
    if cert_file is None and key_file is None:
        return None, None
    if cert_file is None or key_file is None:
        raise ConfigError(["a client's certificate file and its key file go together"])
    chain, key = _certificates("certificate file", cert_file), _content("key file", key_file)
    try:
        refuse_shared(key_file)
        # What gRPC is given and cannot use shows only as a server that is never reached.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, password=_no_passphrase)
    except (ValueError, ssl.SSLError) as error:
        why = "is not the certificate's, or none" if isinstance(error, ssl.SSLError) else error
        raise ConfigError([f"key file {key_file}: {why}"]) from None
    return key, chain


def _no_passphrase() -> NoReturn:
    raise ValueError("is encrypted; give the key without a passphrase, in a file of mode 0600")


def _certificates(name: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    pem = _content(name, path)
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError([f"{name} {path}: holds no certificate"])
    return pem


def _content(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{name} {shown_path(path)}: {why_unreadable(error)}"]) from None
