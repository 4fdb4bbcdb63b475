"""The API key on its way into a call, and nowhere else.

Idea: every call asks for what it carries, so this is also where a client that was closed says so.
"""

from __future__ import annotations

import os

from pydantic import SecretStr

from qrng_grpc.errors import ConfigError, QrngError
from qrng_grpc.exchange import Metadata, checked_header, checked_key

API_KEY_HEADER = "api-key"
"""The metadata in which a key travels, where nobody says."""


class ClientClosedError(QrngError):
    """The client was used after it was closed."""

    reason = "CLIENT_CLOSED"


class Access:
    """What calls carry to be let in. Never shows the key, and forgets it when closed.

    It is of one process: grpc has closed a forked child's channels, and says so in no words that a caller could know.
    Raises ConfigError when key or header could not travel as metadata: gRPC would quote them in its own error.
    """

    __slots__ = ("_metadata", "_pid")

    def __init__(self, api_key: str | None, header: str = API_KEY_HEADER) -> None:
        self._metadata: Metadata | None = _metadata(api_key, header)
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"Access({'with' if self._metadata else 'without'} a key)"

    @property
    def metadata(self) -> Metadata:
        """The metadata of a call. Raises ClientClosedError after `close`, and QrngError in a forked child."""
        if self._metadata is None:
            raise ClientClosedError("the client is closed")
        if os.getpid() != self._pid:
            raise QrngError("this client belongs to the parent process; make a new one after a fork")
        return self._metadata

    def close(self) -> None:
        """Let no call begin any more."""
        self._metadata = None


def _metadata(api_key: str | None, header: str) -> Metadata:
    try:
        checked_header(header)
        return ((header, checked_key(SecretStr(api_key))),) if api_key else ()
    except ValueError as error:
        mistake = str(error)
    raise ConfigError([mistake])
