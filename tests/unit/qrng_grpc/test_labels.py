"""What labels compare to, and that combining them only ever weakens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_grpc.labels import BEST_FIRST, SourceClass, strictest_class, weakest_class

classes = st.sampled_from(SourceClass)


def test_order_of_classes() -> None:
    """Best first: QUANTUM, HARDWARE, OPERATING_SYSTEM, SIMULATED, and the table holds every class."""
    assert [source_class.name for source_class in BEST_FIRST] == [
        "QUANTUM",
        "HARDWARE",
        "OPERATING_SYSTEM",
        "SIMULATED",
    ]
    assert set(BEST_FIRST) == set(SourceClass)
    assert [source_class.rank for source_class in BEST_FIRST] == [0, 1, 2, 3]


@given(classes, classes)
def test_at_least_is_a_total_order(one: SourceClass, other: SourceClass) -> None:
    """Of two different classes exactly one is at least as good as the other."""
    assert one.at_least(one)
    assert (one is other) == (one.at_least(other) and other.at_least(one))
    assert one.at_least(other) or other.at_least(one)


@given(st.lists(classes, min_size=1))
def test_combining_takes_the_weakest(members: list[SourceClass]) -> None:
    """No member of a combination is weaker than its label, none better than the strictest."""
    assert all(member.at_least(weakest_class(members)) for member in members)
    assert all(strictest_class(members).at_least(member) for member in members)


def test_nothing_has_no_class() -> None:
    """A combination of nothing has no class to claim."""
    with pytest.raises(ValueError, match="empty"):
        weakest_class([])
    with pytest.raises(ValueError, match="empty"):
        strictest_class([])
