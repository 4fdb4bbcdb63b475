"""What the parts on the way of a byte cost, each alone, in microseconds.

Every figure is the best of several interleaved rounds, since a shared machine only ever adds time. The
table compares parts with each other; it says nothing about a whole server.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
import zlib
from collections.abc import Callable

from qrng_gateway.memory import keep_heaps_few
from qrng_gateway.pool.claims import ClaimSpec
from qrng_gateway.pool.pool import Pool
from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.v1.entropy_pb2 import GetEntropyResponse
from qrng_grpc.wire import decode_chunk, encode_chunk

ROUNDS = 15
ROUND_S = 0.02
SIZES = (32, 1024, 65_536, 1 << 20)
SPEC = ClaimSpec(SourceClass.SIMULATED)
LABEL = BlockLabel(("bench",), SourceClass.SIMULATED)
KEY = KeyRecord("bench", os.urandom(32), "bench", frozenset(("bench",)), SourceClass.SIMULATED)


def parts(size: int) -> dict[str, Callable[[], object]]:
    """Return one call of each part on `size` bytes."""
    now_ns = time.time_ns()
    block = Block(os.urandom(size), now_ns, now_ns, LABEL)
    chunk = Chunk.bind(block, Identity("bench", "bench", 1, 1))
    serialised = encode_chunk(chunk)
    signature = KEY.sign(serialised)
    pool = Pool(1 << 21, ttl_s=3600, overflow="drop_oldest", best_class=SourceClass.SIMULATED)

    def refill() -> None:
        pool.store(block, "bench")

    def store_and_claim() -> None:
        refill()
        claiming = pool.claim(size, SPEC, "bench", 0)
        try:
            claiming.send(None)
        except StopIteration:
            return
        raise AssertionError("a claim that can be met does not wait")

    return {
        "sha-256, for scale": lambda: hashlib.sha256(block.data).digest(),
        "crc-32": lambda: zlib.crc32(block.data),
        "encode chunk": lambda: encode_chunk(chunk),
        "decode chunk": lambda: decode_chunk(serialised),
        "verify signature": lambda: KEY.verifies(serialised, signature),
        "store, claim and wipe": store_and_claim,
        "reply message": lambda: GetEntropyResponse(data=block.data).SerializeToString(),
    }


def microseconds(part: Callable[[], object]) -> float:
    """Return the time of one call, from as many as fit into a round."""
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < ROUND_S:
        part()
        calls += 1
    return elapsed / calls * 1e6


async def main() -> None:
    """Measure every part at every size, interleaved, and print a table."""
    keep_heaps_few()  # as the gateway does, whose parts these are
    table: dict[str, list[float]] = {}
    for size in SIZES:
        measured = parts(size)
        best = dict.fromkeys(measured, float("inf"))
        for _ in range(ROUNDS):
            for name, part in measured.items():
                best[name] = min(best[name], microseconds(part))
        for name, value in best.items():
            table.setdefault(name, []).append(value)
    sys.stdout.write("| part, microseconds | " + " | ".join(f"{size} B" for size in SIZES) + " |\n")
    sys.stdout.write("| --- |" + " ---: |" * len(SIZES) + "\n")
    for name, row in table.items():
        sys.stdout.write(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |\n")


if __name__ == "__main__":
    asyncio.run(main())
