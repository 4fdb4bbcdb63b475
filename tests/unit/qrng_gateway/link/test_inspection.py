"""Inspection: damage and repeated data are noticed, and sound chunks are not touched."""

from __future__ import annotations

import random

import pytest

from qrng_gateway.link.inspection import (
    CORRUPT,
    LEAST_OPENING_BYTES,
    REPEATED,
    Glance,
    Inspection,
    looks_corrupt,
    sample,
)
from qrng_grpc.chunk import MAX_CHUNK_BYTES, Block, BlockLabel, Chunk, Identity
from qrng_grpc.labels import SourceClass

LABEL = BlockLabel(("dev",), SourceClass.SIMULATED)
SIZES = (1, 15, 16, 100, 512, 8192, 8193, 65_536, MAX_CHUNK_BYTES)


def chunk(data: bytes, sequence: int = 1, *, epoch: int = 1, collector_id: str = "lab") -> Chunk:
    return Chunk.bind(Block(data, 1, 1, LABEL), Identity(collector_id, "pool", epoch, sequence))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_sound_chunks_pass(size: int) -> None:
    """Random bytes of any length have no fault."""
    inspection = Inspection()
    assert [inspection.fault(chunk(noise(size, seed), seed + 1)) for seed in range(20)] == [None] * 20


@pytest.mark.parametrize("size", [4096, 65_536, MAX_CHUNK_BYTES])
@pytest.mark.parametrize("filling", [b"\x00", b"\xff", b"\xa5"])
def test_a_part_that_was_never_filled_is_noticed(size: int, filling: bytes) -> None:
    """Wherever an eighth of a chunk holds one value only, the chunk is corrupt."""
    data, hole = noise(size), size // 8
    for start in range(0, size - hole + 1, hole // 2):
        damaged = data[:start] + filling * hole + data[start + hole :]
        assert Inspection().fault(chunk(damaged)) == CORRUPT


def test_a_value_that_has_taken_most_places_is_noticed() -> None:
    """A byte that comes nine times in ten is a fault, though it forms no long run."""
    draw = random.Random(1)
    data = bytes(0 if draw.random() < 0.9 else draw.randrange(256) for _ in range(65_536))
    assert looks_corrupt(data, Glance())


def test_weak_noise_is_not_judged() -> None:
    """Raw noise of one bit a byte passes: what a source is worth is not the gateway's to say."""
    draw = random.Random(2)
    for _ in range(200):
        assert not looks_corrupt(bytes(draw.choices((0, 1), k=65_536)), Glance())


@pytest.mark.parametrize("size", SIZES)
def test_a_sample_is_spread_over_the_chunk_and_bounded(size: int) -> None:
    """A sample is bounded, whatever the chunk's size, and takes in its beginning."""
    data = noise(size)
    assert len(sample(data)) in (size, 8192)
    assert len(sample(data)) <= 8192 + 16
    assert data.startswith(sample(data)[:512])


@pytest.mark.parametrize("other", [{"sequence": 2}, {"epoch": 2}, {"collector_id": "lab-2"}])
def test_data_seen_under_another_identity_is_noticed(other: dict[str, int | str]) -> None:
    """The same bytes as another chunk, of whatever collector, epoch or number, are repeated."""
    inspection = Inspection()
    assert inspection.fault(chunk(noise(4096))) is None
    assert inspection.fault(chunk(noise(4096), **{"sequence": 1, **other})) == REPEATED  # type: ignore[arg-type]


def test_a_chunk_that_comes_again_as_itself_is_no_fault() -> None:
    """What was held and is sent again under its own identity is not repeated data."""
    inspection = Inspection()
    assert [inspection.fault(chunk(noise(4096))) for _ in range(3)] == [None] * 3


def test_short_chunks_may_be_equal_by_chance() -> None:
    """Fewer than 16 bytes tell nothing."""
    inspection = Inspection()
    short = noise(LEAST_OPENING_BYTES - 1)
    assert [inspection.fault(chunk(short, n)) for n in (1, 2)] == [None, None]


def test_memory_is_bounded_and_a_circle_is_never_forgotten() -> None:
    """The oldest fingerprint goes first; one that comes again and again stays."""
    inspection = Inspection(capacity=3)
    assert inspection.fault(chunk(noise(64, 0), 1)) is None
    for n in range(2, 10):
        assert inspection.fault(chunk(noise(64, n), n)) is None
        assert inspection.fault(chunk(noise(64, 0), 100 + n)) == REPEATED
    assert inspection.fault(chunk(noise(64, 2), 200)) is None
    with pytest.raises(ValueError, match="room"):
        Inspection(capacity=0)


@pytest.mark.parametrize("start", [0, 1, 431, 472, 511, 512, 8111])
@pytest.mark.parametrize("size", [8192, 65_536])
def test_the_glance_overlooks_no_run(start: int, size: int) -> None:
    """The shortest run that is an alarm is found wherever in the sample it lies, with no other repeats around it."""
    spacing = size // 16
    data = bytearray(bytes(range(256)) * (size // 256))
    for index in range(start, start + 81):
        data[index // 512 * spacing + index % 512] = 0x55
    assert looks_corrupt(bytes(data), Glance())


def test_the_glance_overlooks_no_window() -> None:
    """A window is an alarm at 432 bytes of one value, though every other byte parts two of them."""
    data = bytearray(bytes(range(256)) * 256)
    data[4096 : 4096 + 512] = (b"\x55" * 5 + b"\xaa") * 80 + b"\x55" * 32
    assert looks_corrupt(bytes(data), Glance())
