"""What records promise to clients, and this gateway cannot keep.

Idea: records are written without knowing the gateway they are for, and changed while it runs. What does not fit is no
reason to refuse the file, since everything else in it does; so it is said among the warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qrng_grpc.client_keys import Client
from qrng_grpc.labels import SourceClass


class Promises:
    """Looks at the records that `clients` returns, which are another tuple after each change.

    `capacity` is that of the pool in bytes, of which at most half is kept for anybody; `best_class` is the best that
    any key may claim.
    """

    def __init__(self, clients: Callable[[], tuple[Client, ...]], capacity: int, best_class: SourceClass) -> None:
        self._clients = clients
        self._room = capacity // 2
        self._best_class = best_class
        self._seen: tuple[Client, ...] | None = None
        self._warnings: tuple[str, ...] = ()

    def warnings(self) -> tuple[str, ...]:
        """Say which promises cannot be kept."""
        clients = self._clients()
        if clients is not self._seen:
            self._seen, self._warnings = clients, tuple(self._unkept(clients))
        return self._warnings

    def _unkept(self, clients: tuple[Client, ...]) -> Iterator[str]:
        reserved = sum(client.reserved_bytes for client in clients)
        if reserved > self._room:
            yield f"{reserved} bytes are reserved for clients, but of the pool at most half is kept, {self._room} bytes"
        unserved = [
            client.client_id
            for client in clients
            if client.least_class is not None and not self._best_class.at_least(client.least_class)
        ]
        if unserved:
            others = f" and {len(unserved) - 1} more" if len(unserved) > 1 else ""
            yield f"client {unserved[0]}{others} can never be served: no key may claim the least_class of the record"
