"""What ingest costs a gateway with chunks of 64 KiB, against the sum of its parts measured alone.

A gateway and other servers run side by side, each a process of its own; all take the same calls over real
gRPC, one after the other in every round, and what counts is the processor time of each process. The bare
server reads `PushChunksRequest` messages from a stream and does nothing with them. The parts that the gateway must do
with each, signature, CRC and inspection, are timed alone, in a loop in this process, in the same round, on the same
chunks: the least they can cost. A round's ratio is

    gateway / (bare receive + signature + CRC + inspection)

and the figure is the median over the rounds, so that another program on the machine disturbs both alike. Servers have
one core, the sender another. The gateway is as its program is, which asks for few heaps, for threads that let each
other finish, and of grpc for no threads that belong to connections. The servers beside it are as anyone would write
them, but for one, which asks for the same and shows what that is worth to a bare server.

What is above 1 is, first, that nothing in a server is as warm as in a loop. So there is a server that does all
the parts, one after the other, on each message it receives, and one for each part, beside one that only reads the
bytes out of the message. (Theirs do not add up: whoever works at all falls behind the sender, and pays for it once.)
Above the server that does all parts, the cost is the gateway's own: reading the chunk, the mark and its fdatasync,
the pool.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc
import grpc.aio
from comparison import CPU, Asked, Comparison, Run
from programs import Cores, process

from qrng_gateway.app import serving_gateway
from qrng_gateway.config import GatewayConfig
from qrng_gateway.link.inspection import REMEMBERED_CHUNKS, Fingerprints, Glance, Inspection, looks_corrupt
from qrng_gateway.memory import keep_heaps_few, keep_pauses_short
from qrng_gateway.scheduling import EXPERIMENTS, WITHOUT_POOL, let_threads_finish
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
GATEWAY, BARE, READ, SUM = "gateway", "bare receive", "receive and read", "bare receive and parts in a loop"
TUNED, TUNED_SUM = "bare receive, tuned", "tuned bare receive and parts in a loop"
SIGNATURE, CRC, INSPECTION, TOGETHER = "signature", "crc-32", "inspection", "all parts"
PARTS = (SIGNATURE, CRC, INSPECTION)
ASKED_OF_GRPC = {EXPERIMENTS: WITHOUT_POOL}
"""As the gateway's command sets it."""
SERVERS = (GATEWAY, BARE, TUNED, READ, *PARTS, TOGETHER)
SECRET = "of-this-benchmark-and-of-nothing-else"  # noqa: S105 - it guards nothing
KEY = KeyRecord("bench", SECRET.encode(), "bench", frozenset(("bench",)), SourceClass.SIMULATED)
LABEL = BlockLabel(("bench",), SourceClass.SIMULATED)
ANYONE = Identity("bench", "bench", 1, 1)
Work = Callable[[SignedChunk], object]
Cost = dict[str, float]


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

    def __init__(self, work: Work | None = None) -> None:
        self._work = work

    async def PushChunks(self, requests: object, _context: object) -> PushChunksResponse:
        """Count what arrives."""
        received = 0
        async for request in requests:  # type: ignore[attr-defined]
            if self._work is not None:
                self._work(request.signed_chunk)
            received += 1
        return PushChunksResponse(disposed_count=received)


def works() -> dict[str, Work | None]:
    """Return what each server but the gateway does with a message. None decodes it: they take its bytes for data."""
    fingerprints, glance = Fingerprints(REMEMBERED_CHUNKS, os.urandom(32)), Glance()

    def inspect(serialised: bytes) -> None:
        looks_corrupt(serialised, glance)
        fingerprints.known(serialised, ANYONE)

    def all_parts(signed: SignedChunk) -> None:
        serialised = signed.chunk
        KEY.verifies(serialised, signed.signature)
        zlib.crc32(serialised)
        inspect(serialised)

    return {
        BARE: None,
        TUNED: None,
        READ: lambda signed: signed.chunk,
        SIGNATURE: lambda signed: KEY.verifies(signed.chunk, signed.signature),
        CRC: lambda signed: zlib.crc32(signed.chunk),
        INSPECTION: lambda signed: inspect(signed.chunk),
        TOGETHER: all_parts,
    }


def ask_of_the_system() -> None:
    """Ask for what the gateway's program asks for before it starts: few heaps, threads that let each other finish.

    What it asks of grpc is in the environment of this process.
    """
    keep_heaps_few()
    let_threads_finish()


async def serve_bare(work: Work | None, *, tuned: bool = False) -> None:
    """Serve until standard input ends; the address goes to standard output."""
    if tuned:
        ask_of_the_system()
    server = new_server(max_message_bytes=MAX_SIGNED_CHUNK_BYTES + 4096, max_streams=64, max_calls=64)
    add_PushServiceServicer_to_server(BareServicer(work), server)
    async with serving_grpc(server, "127.0.0.1:0", Grace(0)) as address:
        await _until_told(address)


async def serve_gateway() -> None:
    """Be a gateway as the program is until standard input ends; its push address goes to standard output."""
    ask_of_the_system()
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
            keep_pauses_short()
            await _until_told(gateway.push_address)


async def _until_told(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def serving(kind: str, cores: Cores) -> Iterator[Serving]:
    """Run a server of `kind` in a process of its own while the block runs."""
    environment = {**os.environ, **(ASKED_OF_GRPC if kind in (GATEWAY, TUNED) else {})}
    with process([sys.executable, __file__, "--serve", kind], cores.server, env=environment) as started:
        assert started.stdout is not None
        with grpc.insecure_channel(started.stdout.readline().strip()) as channel:
            yield Serving(started, PushServiceStub(channel))


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


def measure(servers: dict[str, Serving], chunks: list[Chunk], inspection: Inspection) -> tuple[Cost, Cost]:
    """Run one round. Returns seconds of processor time for a call: by server, and of the parts in a loop."""
    texts = [encode_chunk(chunk) for chunk in chunks]
    signatures = [KEY.sign(text) for text in texts]
    call = [
        PushChunksRequest(signed_chunk=SignedChunk(chunk=text, key_id="bench", signature=signature))
        for text, signature in zip(texts, signatures, strict=True)
    ]
    return {name: server.cost_s(call) for name, server in servers.items()}, {
        SIGNATURE: seconds(lambda index: KEY.verifies(texts[index], signatures[index])),
        CRC: seconds(lambda index: zlib.crc32(chunks[index].block.data)),
        INSPECTION: seconds(lambda index: inspection.fault(chunks[index])),
    }


def as_runs(served: Cost, looped: Cost) -> dict[str, Run]:
    """Return what a round cost for each chunk, in microseconds: each server, each part, and their sum, the measure."""
    costs = {**served, **{f"{name}, in a loop": cost for name, cost in looped.items()}}
    costs[SUM] = served[BARE] + sum(looped.values())
    costs[TUNED_SUM] = served[TUNED] + sum(looped.values())
    return {name: {CPU: cost / CHUNKS * 1e6} for name, cost in costs.items()}


def comparison(cores: Cores, rounds: int = ROUNDS) -> Comparison:
    """Compare what ingest costs with what its parts do."""
    sequences, epoch, inspection = count(1), time.time_ns(), Inspection()
    asked = (Asked(GATEWAY, SUM, TARGET), Asked(GATEWAY, TUNED_SUM), Asked(GATEWAY, TOGETHER))
    found = Comparison("push, chunks of 64 KiB", "PushChunks", asked, CHUNK_BYTES)
    with ExitStack() as processes:
        servers = {kind: processes.enter_context(serving(kind, cores)) for kind in SERVERS}
        for number in range(WARM_UP + rounds):
            runs = as_runs(*measure(servers, make_chunks(sequences, epoch), inspection))
            for name, run in runs.items() if number >= WARM_UP else ():
                found.runs.setdefault(name, []).append(run)
    return found


def compare(rounds: int) -> None:
    """Measure, and print a table and the ratios."""
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.generator})
    found = comparison(cores, rounds)
    sys.stdout.write("| 64 KiB chunk | microseconds of processor time |\n| --- | ---: |\n")
    for name in found.runs:
        sys.stdout.write(f"| {name} | {found.figures(name)[CPU]:.1f} |\n")
    for asked in found.asked:
        sys.stdout.write(f"\ningest costs {found.ratio(asked):.2f} times {asked.measure}\n")


def main() -> None:
    """Compare, or be one of the servers."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help=f"paired runs ({ROUNDS})")
    arguments.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.serve is None:
        compare(chosen.rounds)
    elif chosen.serve == GATEWAY:
        run_to_end(serve_gateway())
    else:
        run_to_end(serve_bare(works()[chosen.serve], tuned=chosen.serve == TUNED))


if __name__ == "__main__":
    main()
