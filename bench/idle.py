"""Connections that are open, speak HTTP/2, and ask for nothing: `python idle.py ADDRESS NUMBER`.

Idea: a server must believe in them. Each sends what begins a connection of HTTP/2 and acknowledges what it must,
settings and pings, and otherwise keeps still. Writes a line when all are open, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from programs import Cores, Server, process

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _ACK = 4, 6, 1
_HEAD_BYTES = 9
_AT_ONCE = 64


class Idle(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""
        transport.write(_PREFACE + _frame(_SETTINGS, 0, b""))

    def data_received(self, data: bytes) -> None:
        """Acknowledge what must be."""
        self._received += data
        while len(self._received) >= _HEAD_BYTES:
            end = _HEAD_BYTES + int.from_bytes(self._received[:3], "big")
            if len(self._received) < end:
                return
            kind, flags = self._received[3], self._received[4]
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                self._transport.write(_frame(kind, _ACK, self._received[_HEAD_BYTES:end] if kind == _PING else b""))
            self._received = self._received[end:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that the server ended it: then there are fewer than there should be."""
        print(f"an idle connection was lost ({exc})", file=sys.stderr)


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, 0)) + payload


@contextmanager
def with_idle_connections(start: AbstractContextManager[Server], number: int, cores: Cores) -> Iterator[Server]:
    """Run a server with `number` idle connections."""
    with start as server:
        if not number:
            yield server
            return
        with process([sys.executable, __file__, server.address, str(number)], cores.generator) as started:
            assert started.stdout is not None
            if not started.stdout.readline():
                raise RuntimeError(f"{number} connections could not be opened")
            yield server


async def main(address: str, number: int) -> None:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    for begun in range(0, number, _AT_ONCE):
        some = range(min(_AT_ONCE, number - begun))
        await asyncio.gather(*(loop.create_connection(Idle, host, int(port)) for _ in some))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
