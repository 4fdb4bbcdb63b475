"""The line of waiting claims, alone: whose turn it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qrng_gateway.pool.line import Line, Place


def place(client: str, size: int, weight: int = 1) -> Place[None, None]:
    return Place(client, weight, size, None, None)


def served(line: Line[None, None], rounds: int) -> list[Place[None, None]]:
    """Serve whoever is next, `rounds` times."""
    out = []
    for _ in range(rounds):
        first = next(iter(line))
        line.serve(first)
        out.append(first)
    return out


def test_one_clients_claims_keep_their_order():
    """Within one client the oldest claim comes first, large or small."""
    line = Line[None, None](10)
    places = [place("a", size) for size in (1000, 1, 500)]
    for one in places:
        line.join(one)
    assert list(line) == places


def test_a_flood_waits_behind_itself():
    """A client with one claim is served after at most one claim as large of a client with many."""
    line = Line[None, None](100)
    for _ in range(40):
        line.join(place("greedy", 100))
    line.join(place("modest", 100))
    assert [one.client_id for one in served(line, 3)] == ["greedy", "modest", "greedy"]


def test_a_small_claim_does_not_wait_for_a_large_one():
    """Turns are counted in bytes: a claim of 32 bytes comes before another client's of 1 MiB."""
    line = Line[None, None](10)
    line.join(place("large", 1 << 20))
    line.join(place("small", 32))
    assert next(iter(line)).client_id == "small"


def test_a_large_claim_is_reached():
    """A stream of small claims puts a large one off by no more bytes than it asks for itself."""
    line = Line[None, None](10)
    line.join(place("large", 1000))
    passed = 0
    while True:
        line.join(place("small", 10))
        first = next(iter(line))
        line.serve(first)
        if first.client_id == "large":
            break
        passed += first.size
    assert passed <= 1000


def test_a_claim_that_leaves_costs_its_client_nothing():
    """A client whose claims ran out of time is not put behind for what it never got."""
    line = Line[None, None](10)
    line.join(place("other", 100))
    for _ in range(5):
        gone = place("unlucky", 100)
        line.join(gone)
        line.leave(gone)
    line.join(place("unlucky", 99))
    assert next(iter(line)).client_id == "unlucky"


def test_the_line_is_bounded_and_shared():
    """Where no place is left, who holds the most gives up its last, to a client that holds two fewer."""
    line = Line[None, None](4)
    places = [place("a", size) for size in (1, 2, 3)] + [place("b", 1)]
    for one in places:
        line.join(one)
    assert line.full
    assert line.spare("c") is places[2]
    assert line.spare("b") is places[2]
    assert line.spare("a") is None
    line.leave(places[2])
    line.join(place("c", 1))
    assert line.spare("b") is None
    assert line.spare("d") is places[1]


def test_who_is_served_out_of_turn_puts_no_newcomer_behind_others():
    """A newcomer begins where the one is that has had least, however much somebody else got meanwhile."""
    line = Line[None, None](1000)
    for _ in range(100):
        line.join(place("greedy", 100))
    for _ in range(50):
        ahead = place("other", 100)
        line.join(ahead)
        line.serve(ahead)
    line.join(place("modest", 100))
    assert [one.client_id for one in served(line, 2)] == ["greedy", "modest"]


def test_what_a_client_had_counts_when_it_comes_back():
    """Leaving the line for a moment does not make a client that had more than others a newcomer."""
    line = Line[None, None](100)
    for _ in range(20):
        line.join(place("patient", 100))
        line.join(place("greedy", 100))
    for one in [one for one in line.places() if one.client_id == "greedy"]:
        line.serve(one)
    line.join(place("greedy", 100))
    assert "greedy" not in [one.client_id for one in served(line, 10)]


def test_the_oldest_claim_of_a_client_is_its_first():
    """Nobody who does not wait has a first."""
    line = Line[None, None](10)
    assert line.first_of("a") is None
    first = place("a", 5)
    line.join(first)
    line.join(place("a", 1))
    assert line.first_of("a") is first


@given(
    weights=st.lists(st.integers(1, 8), min_size=2, max_size=4),
    sizes=st.lists(st.integers(1, 500), min_size=4, max_size=40),
)
def test_bytes_are_shared_by_weight(weights, sizes):
    """While all clients wait, bytes over weight differ between any two by at most one claim of each."""
    line = Line[None, None](10_000)
    for index, weight in enumerate(weights):
        for size in sizes:
            line.join(place(str(index), size, weight))
    got = dict.fromkeys(map(str, range(len(weights))), 0)
    waiting = {name: len(sizes) for name in got}
    while all(waiting.values()):
        (one,) = served(line, 1)
        got[one.client_id] += one.size
        waiting[one.client_id] -= 1
        shares = [got[str(index)] / weight for index, weight in enumerate(weights)]
        lightest = min(range(len(weights)), key=lambda i: weights[i])
        assert max(shares) - min(shares) <= 2 * max(sizes) / weights[lightest] + 1e-6


@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["join", "serve", "leave"]), st.integers(0, 3), st.integers(1, 99)), max_size=80
    )
)
def test_every_place_is_in_line_until_it_is_served_or_leaves(actions):
    """The line holds exactly those that joined and neither were served nor left, whatever the order."""
    line = Line[None, None](1000)
    expected: list[Place[None, None]] = []
    for action, client, size in actions:
        if action == "join":
            expected.append(place(str(client), size))
            line.join(expected[-1])
        elif expected and action == "serve":
            first = next(iter(line))
            line.serve(first)
            expected.remove(first)
        elif expected:
            leaver = expected.pop(size % len(expected))
            line.leave(leaver)
        assert sorted(map(id, line)) == sorted(map(id, expected)) == sorted(map(id, line.places()))
        assert len(line) == len(expected)
        assert line.size == sum(one.size for one in expected)
        assert sum(line.kinds.values()) == len(expected)
