"""Blocks, chunks and ids."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity, is_id
from qrng_grpc.labels import SourceClass

LABEL = BlockLabel(("quantis-0",), SourceClass.QUANTUM)
IDENTITY = Identity("lab", "pool", 1, 1)


@pytest.mark.parametrize("text", ["a", "0", "lab-1", "A.b_c-d", "x" * 64])
def test_ids(text: str) -> None:
    """Ids take 1 to 64 letters, digits, dots, hyphens and underscores, the first a letter or digit."""
    assert is_id(text)


@pytest.mark.parametrize("text", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "é", "x" * 65, "a\x00", "٣"])
def test_no_ids(text: str) -> None:
    """What could leave a directory, break a log line or pass for an option is no id."""
    assert not is_id(text)


@given(st.binary(min_size=1))
def test_bound_chunk_is_intact(data: bytes) -> None:
    """Binding a block computes the CRC of its data."""
    assert Chunk.bind(Block(data, 1, 2, LABEL), IDENTITY).intact


@given(st.binary(min_size=1, max_size=64), st.data())
def test_any_flipped_bit_shows(data: bytes, draw: st.DataObject) -> None:
    """A chunk whose data lost one bit on the way is not intact."""
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    spoilt = bytearray(data)
    spoilt[bit // 8] ^= 1 << bit % 8
    chunk = Chunk.bind(Block(data, 1, 2, LABEL), IDENTITY)
    assert not dataclasses.replace(chunk, block=dataclasses.replace(chunk.block, data=bytes(spoilt))).intact


def test_length_of_a_block_is_that_of_its_data() -> None:
    """`len(block)` counts bytes."""
    assert len(Block(b"abc", 1, 2, LABEL)) == 3


def test_repr_keeps_the_bytes_back() -> None:
    """Neither a block nor a chunk shows its data in `repr`, in any notation."""
    chunk = Chunk.bind(Block(b"SECRETBYTES", 1, 2, LABEL), IDENTITY)
    for shown in (repr(chunk), repr(chunk.block), str(chunk), f"{chunk.block}"):
        assert "SECRET" not in shown
        assert b"SECRETBYTES".hex() not in shown
        assert "quantis-0" in shown
