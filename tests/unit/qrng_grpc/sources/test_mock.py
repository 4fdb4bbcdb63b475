"""The seeded source: one stream per seed."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources.mock import MockSource, SeededStream

seeds = st.integers(0, 2**64 - 1)


@given(seeds, st.lists(st.integers(1, 10_000), max_size=8))
def test_sizes_do_not_change_the_stream(seed: int, sizes: list[int]) -> None:
    """However the reads cut it, the stream of a seed is the same."""
    stream = SeededStream(seed)
    pieces = [stream.take(size) for size in sizes]
    assert [len(piece) for piece in pieces] == sizes
    assert b"".join(pieces) == SeededStream(seed).take(sum(sizes))


@given(seeds)
def test_stream_is_the_documented_one(seed: int) -> None:
    """Block i is SHAKE-256 of the domain, the seed and i: anybody can compute it."""
    blocks = [hashlib.shake_256(b"qrng.mock\0" + struct.pack(">QQ", seed, i)).digest(4096) for i in range(3)]
    assert SeededStream(seed).take(3 * 4096) == b"".join(blocks)


@given(seeds, seeds)
def test_seeds_are_streams_of_their_own(one: int, other: int) -> None:
    """Different seeds give different bytes, equal ones equal bytes."""
    assert (SeededStream(one).take(16) == SeededStream(other).take(16)) == (one == other)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    """A seed that does not fit into eight bytes is refused, not shortened."""
    with pytest.raises(OverflowError):
        MockSource(seed)


async def test_source_is_simulated() -> None:
    """The source says SIMULATED and reads the stream of its seed until it is closed."""
    source = MockSource(7)
    assert source.label.source_class is SourceClass.SIMULATED
    assert await source.read(10) + await source.read(5) == SeededStream(7).take(15)
    await source.close()
    with pytest.raises(SourceError, match="closed"):
        await source.read(1)
