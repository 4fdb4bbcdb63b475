"""How bytes are written in a reply, under the names that legacy clients know."""

from __future__ import annotations

import base64
from collections.abc import Callable


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


TEXT: dict[str, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "hexadecimal": bytes.hex,
    "base64": _base64,
    "b64": _base64,
}
BINARY = ("binary", "raw")
ENCODINGS = (*TEXT, *BINARY)
