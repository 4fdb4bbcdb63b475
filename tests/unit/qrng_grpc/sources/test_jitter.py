"""Timing jitter: what is counted, what a block is made of, and when the clock is too coarse."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import pytest

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources.jitter import (
    SAMPLES_A_BLOCK,
    JitterSource,
    WorkTimer,
    collect_block,
    condition,
)


async def test_reads_are_exact_and_never_better_than_the_operating_system() -> None:
    """As many bytes as asked for, different each time, under the label that nothing can raise."""
    source = JitterSource()
    first, second = await source.read(100), await source.read(100)
    assert (len(first), len(second)) == (100, 100)
    assert first != second
    label = source.label
    assert (label.source_class, label.custody, label.device_ids) == (
        SourceClass.OPERATING_SYSTEM,
        Custody.LOCAL,
        ("cpu-jitter",),
    )
    await source.close()
    with pytest.raises(SourceError, match="closed"):
        await source.read(1)


def test_a_block_is_the_hash_of_its_samples() -> None:
    """The documented construction, computed apart."""
    samples = list(range(3, 3 + SAMPLES_A_BLOCK))
    packed = b"qrng.jitter" + b"".join(sample.to_bytes(8, "big") for sample in samples)
    assert condition(samples) == hashlib.sha256(packed).digest()


@pytest.mark.parametrize("samples", [itertools.repeat(0), itertools.repeat(40), itertools.count(100, 7)], ids=str)
def test_a_coarse_clock_is_no_source(samples: Iterator[int]) -> None:
    """Samples of 0, samples that stand still and samples that grow evenly make no block."""
    with pytest.raises(SourceError, match="too coarse"):
        collect_block(lambda: next(samples))


def test_stuck_samples_are_not_counted() -> None:
    """A sample that repeats the last one is left out of the block."""
    moving = [(1000 + n * n) % 977 + 5 * n for n in range(SAMPLES_A_BLOCK)]
    doubled = (sample for sample in moving for _ in range(2))
    assert collect_block(lambda: next(doubled)) == condition(moving)


def test_a_sample_is_the_time_that_passed() -> None:
    """The timer returns what its clock moved by."""
    now = iter([100, 130, 190])
    timer = WorkTimer(lambda: next(now))
    assert (timer.sample(), timer.sample()) == (30, 60)
