"""What ingest costs a gateway with chunks of 64 KiB, against the sum of its parts measured alone.

A gateway and a bare server run side by side, each a process of its own; both take the same calls over real
gRPC, one after the other in every round, and what counts is the processor time of each process. The bare
server reads `PushChunksRequest` messages from a stream and does nothing with them. Signature, CRC and
inspection are timed in this process, in the same round, on the same chunks. A round's ratio is

    gateway / (bare receive + signature + CRC + inspection)

and the figure is the median over the rounds, so that another program on the machine disturbs both alike.
What is above 1 is the rest of the gateway: reading the chunk out of its message, the mark and its fdatasync,
the pool. A second figure compares with a server that does the parts one after the other on each message it
receives: there they are as cold, and disturbed by the sender, as in the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc
import grpc.aio

from qrng_gateway.app import serving_gateway
from qrng_gateway.config import GatewayConfig
from qrng_gateway.inspection import Inspection
from qrng_gateway.memory import keep_heaps_few
from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.serving import Grace, new_server, run_to_end, serving_grpc
from qrng_grpc.v1.chunk_pb2 import SignedChunk
from qrng_grpc.v1.push_pb2 import PushChunksRequest, PushChunksResponse
from qrng_grpc.v1.push_pb2_grpc import PushServiceServicer, PushServiceStub, add_PushServiceServicer_to_server
from qrng_grpc.wire import MAX_SIGNED_CHUNK_BYTES, encode_chunk

CHUNK_BYTES = 65_536
CHUNKS = 100
"""Chunks in a call, which may carry 8 MiB."""
ROUNDS = 41
WARM_UP = 3
TARGET = 1.25
GATEWAY, BARE, TOGETHER = "the gateway", "bare receive", "all parts in one server"
SECRET = "of-this-benchmark-and-of-nothing-else"  # noqa: S105 - it guards nothing
KEY = KeyRecord("bench", SECRET.encode(), "bench", frozenset(("bench",)), SourceClass.SIMULATED)
LABEL = BlockLabel(("bench",), SourceClass.SIMULATED)


@dataclass(frozen=True)
class Serving:
    """A server process, and a channel to it."""

    process: subprocess.Popen[str]
    stub: PushServiceStub

    def cpu_s(self) -> float:
        """Return the processor time of all its threads so far."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # CPUCLOCK_SCHED of a process, as in Linux's headers

    def cost_s(self, calls: list[PushChunksRequest]) -> float:
        """Push `calls` in one call; return what that cost the server."""
        before = self.cpu_s()
        disposed = self.stub.PushChunks(iter(calls)).disposed_count
        if disposed != len(calls):
            raise RuntimeError(f"{disposed} of {len(calls)} chunks were disposed of")
        return self.cpu_s() - before


class BareServicer(PushServiceServicer):
    """Receives, and then does what `work` says with each message."""

    def __init__(self, work: Callable[[SignedChunk], object] | None = None) -> None:
        self._work = work

    async def PushChunks(self, requests: object, _context: object) -> PushChunksResponse:  # type: ignore[override]
        """Count what arrives."""
        received = 0
        async for request in requests:  # type: ignore[attr-defined]
            if self._work is not None:
                self._work(request.signed_chunk)
            received += 1
        return PushChunksResponse(disposed_count=received)


def all_parts() -> Callable[[SignedChunk], object]:
    """Return what verifies a message, takes its CRC and inspects it, and nothing else: its data are not decoded."""
    inspection, sequences, now_ns = Inspection(), count(1), time.time_ns()

    def work(signed: SignedChunk) -> None:
        serialised = signed.chunk
        KEY.verifies(serialised, signed.signature)
        zlib.crc32(serialised)
        inspection.fault(
            Chunk(Identity("bench", "bench", 1, next(sequences)), Block(serialised, now_ns, now_ns, LABEL), 0)
        )

    return work


async def serve_bare(work: Callable[[SignedChunk], object] | None = None) -> None:
    """Serve until standard input ends; the address goes to standard output."""
    server = new_server(max_message_bytes=MAX_SIGNED_CHUNK_BYTES + 4096, max_streams=64, max_calls=64)
    add_PushServiceServicer_to_server(BareServicer(work), server)
    async with serving_grpc(server, "127.0.0.1:0", Grace(0)) as address:
        await _until_told(address)


async def serve_gateway() -> None:
    """Be a gateway until standard input ends; its push address goes to standard output."""
    keep_heaps_few()
    with tempfile.TemporaryDirectory() as directory:
        config = GatewayConfig(
            listen_address="127.0.0.1:0",
            push_listen_address="127.0.0.1:0",
            rest_listen_address="127.0.0.1:0",
            clock_tolerance=0,
            api_keys=["of-this-benchmark-only"],
            hmac_secret_key=SECRET,
            hmac_key_id="bench",
            collector_id="bench",
            pool_id="bench",
            best_class=SourceClass.SIMULATED,
            state_dir=Path(directory) / "state",
        )
        async with serving_gateway(config) as gateway:
            await _until_told(gateway.push_address)


async def _until_told(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def serving(kind: str) -> Iterator[Serving]:
    """Run a server of `kind` in a process of its own while the block runs."""
    command = [sys.executable, __file__, "--serve", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with grpc.insecure_channel(process.stdout.readline().strip()) as channel:
                yield Serving(process, PushServiceStub(channel))
        finally:
            process.stdin.close()


def make_chunks(sequences: Iterator[int], epoch: int) -> list[Chunk]:
    """Return the chunks of a call: fresh bytes, captured now."""
    now_ns = time.time_ns()
    return [
        Chunk.bind(
            Block(os.urandom(CHUNK_BYTES), now_ns, now_ns, LABEL), Identity("bench", "bench", epoch, next(sequences))
        )
        for _ in range(CHUNKS)
    ]


def seconds(part: Callable[[int], object]) -> float:
    """Return the processor time that `part` takes for all chunks of a call."""
    before = time.thread_time()
    for index in range(CHUNKS):
        part(index)
    return time.thread_time() - before


def measure(servers: dict[str, Serving], chunks: list[Chunk], inspection: Inspection) -> dict[str, float]:
    """Run one round. Returns seconds of processor time for a call, by name."""
    texts = [encode_chunk(chunk) for chunk in chunks]
    signatures = [KEY.sign(text) for text in texts]
    call = [
        PushChunksRequest(signed_chunk=SignedChunk(chunk=text, key_id="bench", signature=signature))
        for text, signature in zip(texts, signatures, strict=True)
    ]
    return {
        **{name: server.cost_s(call) for name, server in servers.items()},
        "signature": seconds(lambda index: KEY.verifies(texts[index], signatures[index])),
        "crc-32": seconds(lambda index: zlib.crc32(chunks[index].block.data)),
        "inspection": seconds(lambda index: inspection.fault(chunks[index])),
    }


def ratio(cost: dict[str, float]) -> float:
    """Return what the gateway costs, as a multiple of its parts."""
    return cost[GATEWAY] / sum(value for name, value in cost.items() if name not in (GATEWAY, TOGETHER))


def compare(rounds: int) -> None:
    """Measure, print a table, and say whether the target is met."""
    sequences, epoch, inspection = count(1), time.time_ns(), Inspection()
    with serving("gateway") as gateway, serving("bare") as bare, serving("together") as together:
        servers = {GATEWAY: gateway, BARE: bare, TOGETHER: together}
        costs = [measure(servers, make_chunks(sequences, epoch), inspection) for _ in range(WARM_UP + rounds)]
    costs = costs[WARM_UP:]
    sys.stdout.write("| 64 KiB chunk, processor time | microseconds |\n| --- | ---: |\n")
    for name in costs[0]:
        sys.stdout.write(f"| {name} | {statistics.median(cost[name] for cost in costs) / CHUNKS * 1e6:.1f} |\n")
    ratios = sorted(map(ratio, costs))
    figure = statistics.median(ratios)
    sys.stdout.write(
        f"\ningest costs {figure:.2f} times the sum of its parts (median of {rounds} rounds, half of them between"
        f" {ratios[rounds // 4]:.2f} and {ratios[-1 - rounds // 4]:.2f}); the target, at most {TARGET:.2f}, is"
        f" {'met' if figure <= TARGET else 'missed'}\n"
    )
    beside = statistics.median(cost[GATEWAY] / cost[TOGETHER] for cost in costs)
    sys.stdout.write(f"and {beside:.2f} times a server that does nothing but these parts\n")


def main() -> None:
    """Compare, or be one of the two servers."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help=f"paired runs ({ROUNDS})")
    arguments.add_argument("--serve", choices=["bare", "together", "gateway"], help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.serve is None:
        compare(chosen.rounds)
    elif chosen.serve == "gateway":
        run_to_end(serve_gateway())
    else:
        run_to_end(serve_bare(all_parts() if chosen.serve == "together" else None))


if __name__ == "__main__":
    main()
