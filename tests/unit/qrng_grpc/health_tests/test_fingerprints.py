"""Fingerprints of replies: bounded, keyed, and blind to what a reply is cut to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.health_tests import Fingerprints
from qrng_grpc.sources.mock import SeededStream


@given(st.lists(st.binary(min_size=1, max_size=1), max_size=60), st.integers(1, 8))
def test_bounded_memory(openings: list[bytes], capacity: int) -> None:
    """A reply is known exactly when it is among the `capacity` different ones that came last."""
    fingerprints = Fingerprints(1, capacity)
    recent: list[bytes] = []
    for opening in openings:
        assert (fingerprints.distance(opening) is not None) == (opening in recent)
        recent = [other for other in recent if other != opening][-(capacity - 1) :] if capacity > 1 else []
        recent.append(opening)
        assert len(fingerprints) == len(recent)


def test_distance_counts_replies() -> None:
    """A reply that came again tells how many replies ago it did."""
    stream, fingerprints = SeededStream(1), Fingerprints()
    replies = [stream.take(64) for _ in range(5)]
    assert [fingerprints.distance(reply) for reply in replies] == [None] * 5
    assert fingerprints.distance(replies[1]) == 4
    assert fingerprints.distance(replies[1]) == 1


def test_a_reply_cut_short_is_still_known() -> None:
    """Another length of the same body is the same body; what is too short to tell is not remembered."""
    body, fingerprints = SeededStream(1).take(100), Fingerprints(16)
    assert fingerprints.distance(body) is None
    assert fingerprints.distance(body[:16]) == 1
    assert fingerprints.distance(body[:15]) is None
    assert fingerprints.distance(body[:15]) is None


def test_nothing_of_a_block_is_shown() -> None:
    """Neither the bytes nor the key appear in `repr`."""
    fingerprints = Fingerprints(key=b"K" * 16)
    fingerprints.distance(b"SECRET" * 4)
    assert "SECRET" not in repr(fingerprints)
    assert "KKK" not in repr(fingerprints)


@pytest.mark.parametrize(("opening", "capacity"), [(0, 1), (1, 0)])
def test_sizes(opening: int, capacity: int) -> None:
    """A fingerprint takes a byte, and the memory has room for one."""
    with pytest.raises(ValueError, match="takes a byte"):
        Fingerprints(opening, capacity)
