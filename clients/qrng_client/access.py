"""The API key on its way into a call, and nowhere else."""

from __future__ import annotations

import re

from qrng_grpc.errors import ConfigError

Metadata = tuple[tuple[str, str], ...]

_PRINTABLE = re.compile(r"[!-~]+")


class Access:
    """What calls carry to be let in. Never shows the key.

    Raises ConfigError when the key could not travel as metadata: gRPC would quote it in its own error.
    """

    __slots__ = ("metadata",)

    def __init__(self, api_key: str | None) -> None:
        if api_key and not _PRINTABLE.fullmatch(api_key):
            raise ConfigError(["API key: only printable ASCII characters without spaces can be sent"])
        self.metadata: Metadata = (("api-key", api_key),) if api_key else ()

    def __repr__(self) -> str:
        return f"Access({'with' if self.metadata else 'without'} a key)"
