"""Blocks and pools, spelled briefly for tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from qrng_gateway.pool.claims import ClaimSpec
from qrng_gateway.pool.pool import Overflow, Pool
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.labels import BEST_FIRST, Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock

ANY = ClaimSpec(least_class=SourceClass.SIMULATED)
CAPACITY = MAX_CHUNK_BYTES

_numbers = itertools.count()
_SPREAD = 0x9E3779B97F4A7C15
"""Odd, so that multiplied by it modulo 2**64 numbers stay distinct; runs of zeros, which look corrupt, become rare."""


def distinct_bytes(n: int) -> bytes:
    """Return `n` bytes whose every aligned 8 are unique in this process."""
    words = -(-n // 8)
    return b"".join((next(_numbers) * _SPREAD % 2**64).to_bytes(8, "big") for _ in range(words))[:n]


def block(
    size: int,
    clock: ManualClock,
    *,
    source_class: SourceClass = SourceClass.QUANTUM,
    processing: Processing = Processing.NONE,
    age_s: float = 0,
) -> Block:
    """Return a block that was captured `age_s` seconds ago in one instant."""
    captured_ns = clock.now_ns() - round(age_s * NS_PER_S)
    return Block(distinct_bytes(size), captured_ns, captured_ns, BlockLabel(("dev",), source_class, processing))


def make_pool(clock: ManualClock, *, overflow: Overflow = "drop_oldest", max_waiting: int = 8) -> Pool:
    """Return an empty pool of 1 MiB with an age limit of an hour."""
    return Pool(CAPACITY, ttl_s=3600, overflow=overflow, best_class=BEST_FIRST[0], max_waiting=max_waiting, clock=clock)


def put(pool: Pool, *blocks: Block) -> None:
    """Store blocks as ingest does."""
    for one in blocks:
        assert pool.store(one, "lab")


def balanced(pool: Pool) -> bool:
    """Say whether the pool's accounting holds."""
    c = pool.counters
    aside = c.set_aside + c.conditioned
    return c.stored == c.served + pool.level + c.expired + c.overflow + c.purged + aside + c.dropped


def windows(data: bytes, width: int = 16) -> Iterator[bytes]:
    """Yield every window of `width` bytes."""
    return (data[i : i + width] for i in range(len(data) - width + 1))
