"""The standard library's `secrets`, on bytes from elsewhere.

Idea: the same names and the same defaults, as methods of an object that holds the source. Nothing is read ahead: the
bytes of a token are asked for when the token is.

For keys that guard something, remote bytes alone are not enough: whoever served them may know them. Let the client mix
them with this machine's own randomness first.
"""

from __future__ import annotations

import base64
import operator
import uuid
from collections.abc import Sequence
from typing import TypeVar

from qrng_client.bounded import numbers_below
from qrng_client.byte_source import ByteSource, checked_source, read_exactly
from qrng_grpc.values import UUID_BYTES, uuids

T = TypeVar("T")

TOKEN_BYTES = 32
"""The size of a token where none is given: 256 bits, as in `secrets`."""


class QuantumSecrets:
    """Tokens, UUIDs and secret choices made of the bytes of `source`. Safe to share between threads.

    >>> secrets = QuantumSecrets(source)
    >>> len(secrets.token_hex(16))
    32

    Raises what the source raises, SourceError when it gave something else than was asked for, and TypeError for a
    source without a `read` that returns bytes.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = checked_source(source)

    def token_bytes(self, nbytes: int | None = None) -> bytes:
        """Return `nbytes` random bytes, 32 by default. Raises ValueError below 1: an empty token guards nothing.

        >>> len(QuantumSecrets(source).token_bytes())
        32
        """
        size = TOKEN_BYTES if nbytes is None else operator.index(nbytes)
        if size < 1:
            raise ValueError("a token has at least one byte")
        return self._read(size)

    def token_hex(self, nbytes: int | None = None) -> str:
        """Return `nbytes` random bytes, 32 by default, as two hexadecimal digits each.

        >>> bytes.fromhex(QuantumSecrets(source).token_hex(8)).__len__()
        8
        """
        return self.token_bytes(nbytes).hex()

    def token_urlsafe(self, nbytes: int | None = None) -> str:
        """Return `nbytes` random bytes, 32 by default, in URL-safe Base64 without padding.

        >>> len(QuantumSecrets(source).token_urlsafe())
        43
        """
        return base64.urlsafe_b64encode(self.token_bytes(nbytes)).rstrip(b"=").decode("ascii")

    def uuid4(self) -> uuid.UUID:
        """Return a UUID of version 4 (RFC 9562, section 5.4).

        >>> QuantumSecrets(source).uuid4().version
        4
        """
        return uuids(self._read(UUID_BYTES))[0]

    def randbelow(self, exclusive_upper_bound: int) -> int:
        """Return a number in [0, `exclusive_upper_bound`), each as likely as any other. Raises ValueError below 1.

        >>> QuantumSecrets(source).randbelow(6) in range(6)
        True
        """
        bound = operator.index(exclusive_upper_bound)
        if bound < 1:
            raise ValueError("the upper bound is at least 1")
        return numbers_below([bound], self._read)[0]

    def randbits(self, k: int) -> int:
        """Return an int of `k` random bits. Raises ValueError for a `k` below 0.

        >>> QuantumSecrets(source).randbits(128) < 2**128
        True
        """
        return self.randbelow(1 << operator.index(k))

    def choice(self, seq: Sequence[T]) -> T:
        """Return an element of `seq`, each as likely as any other. Raises IndexError when there is none.

        >>> QuantumSecrets(source).choice(["heads", "tails"]) in {"heads", "tails"}
        True
        """
        if not len(seq):
            raise IndexError("cannot choose from an empty sequence")
        return seq[self.randbelow(len(seq))]

    def _read(self, n: int) -> bytes:
        return read_exactly(self._source, n)
