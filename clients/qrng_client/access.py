"""The API key on its way into a call, and nowhere else.

Idea: every call asks for what it carries, so this is also where a client that was closed says so.
"""

from __future__ import annotations

import re

from qrng_grpc.errors import ConfigError, QrngError

Metadata = tuple[tuple[str, str], ...]

_PRINTABLE = re.compile(r"[!-~]+")


class ClientClosedError(QrngError):
    """The client was used after it was closed."""

    reason = "CLIENT_CLOSED"


class Access:
    """What calls carry to be let in. Never shows the key, and forgets it when closed.

    Raises ConfigError when the key could not travel as metadata: gRPC would quote it in its own error.
    """

    __slots__ = ("_metadata",)

    def __init__(self, api_key: str | None) -> None:
        if api_key and not _PRINTABLE.fullmatch(api_key):
            raise ConfigError(["API key: only printable ASCII characters without spaces can be sent"])
        self._metadata: Metadata | None = (("api-key", api_key),) if api_key else ()

    def __repr__(self) -> str:
        return f"Access({'with' if self._metadata else 'without'} a key)"

    @property
    def metadata(self) -> Metadata:
        """The metadata of a call. Raises ClientClosedError after `close`."""
        if self._metadata is None:
            raise ClientClosedError("the client is closed")
        return self._metadata

    def close(self) -> None:
        """Let no call begin any more."""
        self._metadata = None
