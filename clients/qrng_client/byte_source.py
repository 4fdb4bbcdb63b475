"""Where numbers come from: anything that reads bytes.

Idea: whoever makes numbers of random bytes asks one thing of a client, "n bytes, or an error". So the modules beside
this one work on a client of any server, on an open device and on a class of three lines alike. They do not take the
source's word for it: a read that is short, long or no bytes at all is an error, and none of it becomes a number.
"""

from __future__ import annotations

import inspect
import operator
from typing import Protocol, Unpack

from qrng_client.requests import Wanted, Wish
from qrng_client.sync import EntropyClient
from qrng_grpc.errors import SourceError
from qrng_grpc.wording import came_instead


class ByteSource(Protocol):
    """Something that yields random bytes, to threads."""

    def read(self, n: int, /) -> bytes:
        """Return exactly `n` bytes, at least 1, that were never returned before, or raise."""
        ...


class GatewayBytes:
    """A gateway's bytes, such as are `wanted`: what turns an EntropyClient into a ByteSource.

        with EntropyClient("localhost:50051", api_key=key) as client:
            source = GatewayBytes(client, least_class="quantum", max_age_s=60)

    The client stays its owner's to close. Raises as `EntropyClient.get` for demands that cannot be.
    """

    def __init__(self, client: EntropyClient, **wanted: Unpack[Wanted]) -> None:
        Wish.of(wanted, "GatewayBytes")
        self._client = client
        self._wanted = wanted

    def __repr__(self) -> str:
        return f"GatewayBytes({self._client!r})"

    def read(self, n: int, /) -> bytes:
        """Return exactly `n` bytes, 1 to 1 GiB. Raises as `EntropyClient.get`."""
        return self._client.get(n, **self._wanted).data


def checked_source(source: ByteSource) -> ByteSource:
    """Return `source`. Raises TypeError for what has no `read`, or one to be awaited."""
    read = getattr(source, "read", None)
    if not callable(read):
        raise TypeError(f"a {type(source).__name__} has no read(n); GatewayBytes makes a source of an EntropyClient")
    if inspect.iscoroutinefunction(read):
        raise TypeError(f"the read(n) of a {type(source).__name__} has to be awaited; expected one that returns bytes")
    return source


def read_exactly(source: ByteSource, n: int) -> bytes:
    """Return `n` bytes of `source`; for 0 it is not asked.

    Raises what `source` raises, SourceError for a reply that is not `n` bytes, ValueError for an `n` below 0.
    """
    n = operator.index(n)
    if n < 0:
        raise ValueError("a number of bytes is not negative")
    if n == 0:
        return b""
    data = source.read(n)
    if not isinstance(data, bytes):
        raise SourceError(f"the source returned {type(data).__name__} where bytes were asked for")
    if len(data) != n:
        raise SourceError(f"the source returned {came_instead(len(data), n)}")
    return data
