"""A process that sends bytes through a pool and says how much memory that took.

    python -m tests.slow.pool_traffic CHUNK_BYTES LEAST_READ MOST_READ TOTAL_BYTES

It keeps the pool near its brim, which is the worst case, and reads in sizes between the two, small ones as
often as large ones. It prints one JSON object: the resident bytes of the idle process (an empty
pool, everything imported), and the most that it ever had.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

from qrng_gateway.pool.claims import ClaimSpec
from qrng_gateway.pool.pool import Pool
from qrng_grpc.chunk import Block, BlockLabel
from qrng_grpc.clock import SYSTEM_CLOCK
from qrng_grpc.labels import SourceClass
from tests.slow.memory import resident_bytes

CAPACITY = 10_000_000
LOOK_EVERY = 64
"""Reads between two looks at the memory."""

LABEL = BlockLabel(("simulated",), SourceClass.SIMULATED)
SPEC = ClaimSpec(SourceClass.SIMULATED)


async def pass_through(pool: Pool, chunk_bytes: int, least_read: int, most_read: int, total: int) -> int:
    """Send `total` bytes through `pool`. Returns the most resident bytes seen on the way."""
    rng = random.Random(0)
    most, reads = 0, 0
    while pool.counters.served < total:
        while pool.level + chunk_bytes <= pool.capacity and store(pool, chunk_bytes):
            pass
        size = round(least_read * (most_read / least_read) ** rng.random())
        await pool.claim(size, SPEC, "client", 0)
        reads += 1
        if reads % LOOK_EVERY == 0:
            most = max(most, resident_bytes(os.getpid()))
    return most


def store(pool: Pool, size: int) -> bool:
    """Store `size` fresh bytes, as ingest does. False when there is no room for another chunk."""
    now_ns = SYSTEM_CLOCK.now_ns()
    block = Block(os.urandom(size), now_ns, now_ns, LABEL)
    return pool.store(block, "lab")


def main() -> None:
    chunk_bytes, least_read, most_read, total = map(int, sys.argv[1:])
    pool = Pool(CAPACITY, ttl_s=3600, overflow="backpressure", best_class=SourceClass.SIMULATED)
    idle = resident_bytes(os.getpid())
    most = asyncio.run(pass_through(pool, chunk_bytes, least_read, most_read, total))
    print(json.dumps({"idle": idle, "most": most, "served": pool.counters.served}))


if __name__ == "__main__":
    main()
