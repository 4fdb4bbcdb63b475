"""TLS of the gateway's listeners, as far as its settings ask for it.

Idea: the listeners for clients, gRPC and REST, show one certificate; the one for collectors shows its own
and asks for theirs, of authorities that vouch for nothing else. Clients are asked for theirs only where a setting
names the authorities. Connections with TLS have an age limit, since an exchanged certificate or a removed
authority counts from the next handshake on. Calls may outlast it where no certificate was asked for; else
they are ended, so that none survives the authority that let it in.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import grpc

from qrng_gateway.config import GatewayConfig
from qrng_grpc.serving import ConnectionAge
from qrng_grpc.tls import ListenerTls, TlsFiles

CERTIFIED_GRACE_S = 60.0
"""How long calls may outlast the age of their connection where it was a certificate that let them in."""


class Protection:
    """What each listener needs: credentials and ages, all None for plaintext.

    Raises ConfigError when a file is not usable.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._clients = _listener_tls("clients", config.tls_files)
        self._push = _listener_tls("push", config.push_tls_files)
        self._age_s = config.max_connection_age
        self._client_grace_s = None if config.client_ca_file is None else CERTIFIED_GRACE_S

    @property
    def client_age(self) -> ConnectionAge | None:
        """The age of clients' gRPC connections."""
        return ConnectionAge(self._age_s, self._client_grace_s) if self._clients else None

    @property
    def rest_age_s(self) -> float | None:
        """The age of clients' REST connections, in seconds."""
        return self._age_s if self._clients else None

    @property
    def push_age(self) -> ConnectionAge | None:
        """The age of collectors' connections."""
        return ConnectionAge(self._age_s, CERTIFIED_GRACE_S) if self._push else None

    def client_credentials(self) -> grpc.ServerCredentials | None:
        """Return what the gRPC listener for clients shows, and asks for where it does."""
        return self._clients.grpc_credentials() if self._clients else None

    def push_credentials(self) -> grpc.ServerCredentials | None:
        """Return what the listener for collectors shows and asks for."""
        return self._push.grpc_credentials() if self._push else None

    def rest_context(self) -> ssl.SSLContext | None:
        """Return what the REST listener shows, and asks for where it does."""
        return self._clients.ssl_context() if self._clients else None

    def warnings(self) -> Iterator[str]:
        """Yield what an operator should know of certificates."""
        for listener in filter(None, (self._clients, self._push)):
            yield from listener.warnings()

    def look(self) -> None:
        """Look whether files have changed; about once a second, on the event loop's thread."""
        for listener in filter(None, (self._clients, self._push)):
            listener.look()

    def reload(self) -> None:
        """Take what the files hold now. On the event loop's thread."""
        for listener in filter(None, (self._clients, self._push)):
            listener.reload()


def _listener_tls(name: str, files: TlsFiles | None) -> ListenerTls | None:
    return None if files is None else ListenerTls(name, files)
