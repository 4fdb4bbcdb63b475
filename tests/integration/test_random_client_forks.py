"""A client and its forks, in a process of its own: parent and child go on, and no byte is in both."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from qrng_grpc.generic_codec import MessageShape
from qrng_grpc.testing.grpc_source import GrpcEntropyServer

PROGRAM = """
import json, os, sys, threading
from qrng_client import QrngError, RandomClient, client_settings

client = RandomClient(client_settings(os.environ))
drawn = [client.read(64).hex()]
busy, over = [], threading.Event()

def keep_busy():
    while not over.is_set():
        busy.append(client.read(64).hex())

threads = [threading.Thread(target=keep_busy) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
children, outcomes = [], []
for _ in range(5):
    mine, theirs = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            told = {"drawn": [client.read(64).hex() for _ in range(3)], "draws": client.health_check()["draws"]}
            client.close()
        except QrngError as error:
            told = {"failed": str(error)}
        os.write(theirs, json.dumps(told).encode())
        os._exit(0)
    outcomes.append(os.waitpid(pid, 0)[1])
    children.append(json.loads(os.read(mine, 65536)))
    drawn.append(client.read(64).hex())
over.set()
for thread in threads:
    thread.join()
client.close()
print(json.dumps({"outcomes": outcomes, "children": children, "drawn": drawn + busy}))
"""


async def forked(address: str, threads: int, **settings: str) -> dict[str, Any]:
    """Run the program against the server at `address`; return what it tells."""
    named = {"QR_ENTROPY_SOURCE_TYPE": "quantum_grpc", "QR_GRPC_SERVER_ADDRESS": address}
    environ = {**named, "QR_GRPC_TIMEOUT_MS": "30000", **settings}
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(threads)),
        env={**{name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    stdout, _ = await program.communicate()
    assert program.returncode == 0
    told: dict[str, Any] = json.loads(stdout)
    return told


@pytest.mark.parametrize("mode", ["unary", "server_streaming", "bidi_streaming"])
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("service", ["by number", "by order"])
async def test_child_and_parent_go_on(mode: str, threads: int, service: str) -> None:
    """After a fork, while other threads draw too, each process draws bytes of its own, over channels of its own."""
    echoing = service == "by number"
    shape = MessageShape(request_echo_field=2, reply_echo_field=2) if echoing else MessageShape()
    settings = {"QR_GRPC_MODE": mode} | ({"QR_GRPC_SERVICE": "qr_entropy"} if echoing else {})
    async with GrpcEntropyServer(shape) as server:
        told = await forked(server.address, threads, **settings)
    assert told["outcomes"] == [0] * 5
    assert [child["draws"] for child in told["children"]] == [3] * 5
    pieces = [*told["drawn"], *(piece for child in told["children"] for piece in child["drawn"])]
    assert len(set(pieces)) == len(pieces) >= 21
    assert all(bytes.fromhex(piece) in server.served for piece in pieces)


async def test_bytes_fetched_before_stay_with_the_parent() -> None:
    """What was fetched before a fork is in one process only."""
    async with GrpcEntropyServer() as server:
        told = await forked(server.address, 0, QR_PREFETCH_BYTES="4096")
    pieces = [*told["drawn"], *(piece for child in told["children"] for piece in child["drawn"])]
    assert len(set(pieces)) == len(pieces) == 21


async def test_without_support_for_forks_the_child_is_told() -> None:
    """Where grpc is kept from surviving a fork, the child's draws fail at once, and the parent goes on."""
    async with GrpcEntropyServer() as server:
        told = await forked(server.address, 0, GRPC_ENABLE_FORK_SUPPORT="0")
    assert told["children"] == [{"failed": "grpc cannot be used after a fork: GRPC_ENABLE_FORK_SUPPORT forbids it"}] * 5
    assert len(told["drawn"]) == 6
