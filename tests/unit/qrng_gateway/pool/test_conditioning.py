"""Post-processing, from bytes to bytes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_gateway.pool.conditioning import Sha256, XorOs, conditioner
from qrng_grpc.labels import Processing


def test_an_output_is_the_hash_of_its_part():
    """With 8 bits a byte, 40 bytes (256 + 64 bits) make one output of 32: their SHA-256."""
    data = bytes(range(40))
    assert Sha256(8)(data) == hashlib.sha256(data).digest()
    assert Sha256(8)(data[:39]) == b""


@given(size=st.integers(0, 5000), entropy=st.floats(0.1, 8))
def test_no_output_claims_more_than_went_in(size, entropy):
    """The bits that come out, and 64 for each output, never exceed what the bytes hold."""
    out = Sha256(entropy)(bytes(size))
    outputs = len(out) // 32
    assert len(out) % 32 == 0
    assert outputs * (256 + 64) <= size * entropy + 1e-6


@given(size=st.integers(80, 5000))
def test_every_byte_counts(size):
    """Whichever byte is another, the output is: none is left out."""
    data = bytearray(size)
    plain = Sha256(8)(data)
    for index in (0, size // 2, size - 1):
        data[index] ^= 1
        assert Sha256(8)(data) != plain
        data[index] ^= 1


def test_xor_hides_the_bytes_and_keeps_their_number():
    """What comes out is as long, and not what came in, twice over."""
    data = bytes(64)
    first, second = XorOs()(data), XorOs()(data)
    assert len(first) == len(second) == 64
    assert len({first, second, data}) == 3


def test_the_label_tells_what_was_done():
    """Bytes that a collector had mixed are told apart from others afterwards too."""
    assert Sha256(8).labels[Processing.NONE] is Processing.SHA256
    assert Sha256(8).labels[Processing.MIXED] is Processing.MIXED_SHA256
    assert XorOs().labels[Processing.NONE] is Processing.XOR_OS
    assert XorOs().labels[Processing.MIXED] is Processing.MIXED_XOR_OS


def test_settings_choose_it():
    """None stands for `none`, and `sha256` without an entropy is refused."""
    assert conditioner("none") is None
    assert isinstance(conditioner("xor-os"), XorOs)
    assert conditioner("sha256", 6.5) == Sha256(6.5)
    with pytest.raises(ValueError, match="entropy"):
        conditioner("sha256")
