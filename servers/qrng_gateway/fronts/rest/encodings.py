"""How bytes are written in a body, under the names that legacy clients know."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

from qrng_grpc.http_replies import TEXT

OCTETS: Final = "application/octet-stream"


def _hex(data: bytes) -> bytes:
    return data.hex().encode()


ENCODINGS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "hex": (_hex, TEXT),
    "hexadecimal": (_hex, TEXT),
    "base64": (base64.b64encode, TEXT),
    "b64": (base64.b64encode, TEXT),
    "binary": (bytes, OCTETS),
    "raw": (bytes, OCTETS),
}
"""How, and of what type the body is then."""
