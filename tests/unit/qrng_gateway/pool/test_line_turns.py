"""The line of waiting claims: newcomers, leavers, and what is left of those who are gone."""

from __future__ import annotations

from qrng_gateway.pool.line import Line, Place


def place(client: str, size: int) -> Place[None, None]:
    return Place(client, 1, size, None, None)


def test_a_newcomer_is_not_given_what_others_had_before():
    """Whoever comes late takes turns from now on; the past of those who wait is not made up for."""
    line = Line[None, None](100)
    for _ in range(20):
        line.join(place("early", 100))
    for _ in range(10):
        line.serve(next(iter(line)))
    for _ in range(5):
        line.join(place("late", 100))
    got = []
    for _ in range(6):
        first = next(iter(line))
        line.serve(first)
        got.append(first.client_id)
    assert sorted(got) == ["early"] * 3 + ["late"] * 3


def test_the_order_counts_every_claim_with_its_own_size():
    """Looking at the line shows whose turn would be when, claim by claim, without serving anybody."""
    line = Line[None, None](10)
    for client, size in (("a", 10), ("a", 1000), ("a", 10), ("b", 100), ("b", 100)):
        line.join(place(client, size))
    assert [(one.client_id, one.size) for one in line] == [("a", 10), ("b", 100), ("b", 100), ("a", 1000), ("a", 10)]


def test_leaving_twice_or_without_having_come_does_nothing():
    """A claim that is not in line, because it left, was served or never joined, takes nobody's place along."""
    line = Line[None, None](10)
    stays, leaves, never, unknown = place("a", 1), place("a", 2), place("a", 3), place("b", 4)
    line.join(stays)
    line.join(leaves)
    line.leave(leaves)
    for gone in (leaves, never, unknown):
        assert gone not in line
        line.leave(gone)
    assert list(line) == [stays]
    assert (len(line), line.size) == (1, 1)


def test_clients_that_are_gone_leave_nothing_behind():
    """However many come and go, the line knows those who wait and few others; empty, it knows nobody."""
    line = Line[None, None](10)
    for number in range(1000):
        passing = place(f"served-{number}", 5)
        line.join(passing)
        line.serve(passing)
        assert not line._queues
        passing = place(f"left-{number}", 5)
        line.join(passing)
        line.leave(passing)
        assert not line._queues
    line.join(place("waits", 1 << 20))
    for number in range(1000):
        passing = place(f"passing-{number}", 5)
        line.join(passing)
        line.leave(passing)
    assert len(line._queues) <= 3
