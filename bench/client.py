"""What RandomClient costs beside a bare grpcio stub: the time of one call after another, in one thread.

Idea: both speak to one C++ server, which costs little and is kept to one core; each on a channel of its own, with the
same key, deadline and size, and with all cores, as programs have them. Rounds take turns in random order, and the
figure is the median over the rounds of the ratio within a round. The bare unary call is
`stub.GetEntropy(request, timeout=..., metadata=...)`; the bare bidi exchange puts a request into the queue that feeds
`stub.StreamEntropy`, and takes the next reply. Neither checks anything.

    python bench/client.py [--rounds N] [--size BYTES] [--one-core]

With --one-core both are kept to the core that the server has not, where the threads that grpc hands a bidi exchange
through take turns, and whatever happens between two exchanges costs more.

It exits with 1 when a target is missed on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import grpc
from figures import LEAST_PAIRS, Figure
from machine import Watch, complaints
from programs import API_KEY, Cores, MissingError, peer

from qrng_client import RandomClient
from qrng_client.settings import client_settings
from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc

TARGETS = {"unary": 1.15, "bidi_streaming": 1.25}
CALLS = 1000
"""Of a round, of each contender."""
WARM_UP = 2
METADATA = (("api-key", API_KEY),)
TIMEOUT_S = 5

Call = Callable[[], bytes]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=2 * LEAST_PAIRS, help="paired runs, at least 10 for a verdict")
    arguments.add_argument("--size", type=int, default=32, help="bytes of a call")
    arguments.add_argument("--one-core", action="store_true", help="keep the clients to one core")
    chosen = arguments.parse_args()
    try:
        cores = Cores.of_this_machine()
        if chosen.one_core:
            os.sched_setaffinity(0, {cores.generator})
        watch = Watch(_ours_s)
        with ExitStack() as running:
            server = running.enter_context(peer(("counting_server.cc",), cores))
            figures = {mode: compared(mode, server.address, chosen.size, chosen.rounds, running) for mode in TARGETS}
    except MissingError as error:
        sys.exit(f"nothing can be compared here, for want of {error}")
    found = complaints(watch, {mode: figure.spread for mode, figure in figures.items()})
    for complaint in found:
        print(f"no verdict: {complaint}")
    sys.exit(not found and any(figure.verdict(TARGETS[mode]) == "missed" for mode, figure in figures.items()))


def compared(mode: str, address: str, size: int, rounds: int, running: ExitStack) -> Figure:
    """Return the figure of the client's time over the bare stub's, and say it."""
    contenders = {"client": client_call(mode, address, size, running), "bare": bare_call(mode, address, size, running)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(WARM_UP + rounds):
        for name in random.sample(list(contenders), len(contenders)):
            taken_s = time_of(contenders[name], size)
            if number >= WARM_UP:
                times[name].append(taken_s / CALLS * 1e6)
    ratio = Figure.of(ours / bare for ours, bare in zip(times["client"], times["bare"], strict=True))
    client, bare = (Figure.of(times[name]) for name in ("client", "bare"))
    target = TARGETS[mode]
    print(f"{mode} {size} B: client {client:.1f} us, bare stub {bare:.1f} us", end="")
    print(f", ratio {ratio:.3f}, target {target:.2f}: {ratio.verdict(target)}", flush=True)
    return ratio


def time_of(call: Call, size: int) -> float:
    """Return the seconds that a round of calls takes. Raises RuntimeError when a reply has another size."""
    began_s = time.perf_counter()
    for _ in range(CALLS):
        if len(call()) != size:
            raise RuntimeError("a reply came short")
    return time.perf_counter() - began_s


def client_call(mode: str, address: str, size: int, running: ExitStack) -> Call:
    """Return a read of ours."""
    environ = {
        "QR_ENTROPY_SOURCE_TYPE": "quantum_grpc",
        "QR_GRPC_SERVICE": "qr_entropy",
        "QR_GRPC_METHOD_PATH": "/qrng.v1.EntropyService/GetEntropy",
        "QR_GRPC_STREAM_METHOD_PATH": "/qrng.v1.EntropyService/StreamEntropy",
        "QR_GRPC_SERVER_ADDRESS": address,
        "QR_GRPC_MODE": mode,
        "QR_GRPC_API_KEY": API_KEY,
        "QR_GRPC_TIMEOUT_MS": str(TIMEOUT_S * 1000),
    }
    client = running.enter_context(RandomClient(client_settings(environ)))
    return lambda: client.read(size)


def bare_call(mode: str, address: str, size: int, running: ExitStack) -> Call:
    """Return a call of a generated stub."""
    stub: Any = entropy_pb2_grpc.EntropyServiceStub(running.enter_context(grpc.insecure_channel(address)))
    if mode == "unary":
        return lambda: (
            stub.GetEntropy(
                entropy_pb2.GetEntropyRequest(bytes_needed=size, sequence_id=1), timeout=TIMEOUT_S, metadata=METADATA
            ).data
        )
    requests: SimpleQueue[entropy_pb2.StreamEntropyRequest | None] = SimpleQueue()
    call = stub.StreamEntropy(iter(requests.get, None), metadata=METADATA)
    running.callback(call.cancel)

    def exchange() -> bytes:
        requests.put(entropy_pb2.StreamEntropyRequest(bytes_needed=size, sequence_id=1))
        data: bytes = next(call).data
        return data

    return exchange


def _ours_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
