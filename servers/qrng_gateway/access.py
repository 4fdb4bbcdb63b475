"""Who may have entropy: API keys.

Idea: the gateway keeps SHA-256 digests of its keys, not the keys. A presented key is hashed and
compared with all of them, in constant time and without stopping at a match, so that time tells
neither whether a key is nearly right nor which one it is. A client is known by a short id derived
from its key, which is safe to log and to queue by.

A call carries exactly one key. None, an empty one, or several are refused with the same words as a
wrong one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from qrng_grpc.errors import AuthenticationError

API_KEY = "api-key"
AUTHORIZATION = "authorization"
_BEARER = "bearer"
_ID_DOMAIN = b"qrng client id\x00"
_ID_DIGITS = 12


class Access:
    """The keys that open this gateway."""

    def __init__(self, keys: Iterable[str]) -> None:
        digests = [_digest(key) for key in keys]
        self._clients = [(digest, _client_id(digest)) for digest in digests]

    def client_with(self, presented: list[str]) -> str:
        """Return the id of the client whose key is the only one `presented`. Raises AuthenticationError."""
        if len(presented) != 1 or not presented[0]:
            raise _refusal()
        digest = _digest(presented[0])
        found = None
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        if found is None:
            raise _refusal()
        return found

    def client_of(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Return the id of the client that sent `metadata` with its call. Raises AuthenticationError."""
        presented = []
        for name, value in metadata or ():
            if name == API_KEY:
                presented.append(str(value))
            elif name == AUTHORIZATION:
                presented.append(bearer_key(str(value)))
        return self.client_with(presented)


def bearer_key(authorization: str) -> str:
    """Return the key in an `authorization` value of the form `Bearer KEY`; empty when it has another form."""
    scheme, _, key = authorization.partition(" ")
    return key.strip(" ") if scheme.lower() == _BEARER else ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _client_id(digest: bytes) -> str:
    return "client-" + hashlib.sha256(_ID_DOMAIN + digest).hexdigest()[:_ID_DIGITS]


def _refusal() -> AuthenticationError:
    return AuthenticationError("a valid API key is required")
