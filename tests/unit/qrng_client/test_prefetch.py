"""A stock of bytes fetched before: bounded in number and age, each given once; and what draws are made of."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client.draws import REMEMBERED_REPLIES, Acceptance, Draw, Piece, Sizes, joined, mix_input, mixed
from qrng_client.prefetch import Keeper, Stock, portion
from qrng_client.settings import ClientSettings, client_settings
from qrng_grpc.errors import SourceError, WeakerSourceError
from qrng_grpc.generic_codec import MalformedReplyError, Reply
from qrng_grpc.labels import SourceClass
from tests.waiting import until

QUANTUM, SYSTEM = SourceClass.QUANTUM, SourceClass.OPERATING_SYSTEM


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def settings(**given_: object) -> ClientSettings:
    environ = {"QR_ENTROPY_SOURCE_TYPE": "quantum_grpc", "QR_PREFETCH_BYTES": "100"}
    return client_settings(environ | {f"QR_{name.upper()}": str(value) for name, value in given_.items()})


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(1, 50), max_size=12))
def test_each_byte_once_and_in_order(pieces: list[bytes], takes: list[int]) -> None:
    """What is taken is what was added, in order; more than is there is not given at all."""
    stock = Stock(settings(), Time())
    for piece in pieces:
        stock.add(Piece(piece, None), 0)
    rest = b"".join(pieces)
    for n in takes:
        taken = stock.take(n)
        assert (taken is None) == (n > len(rest))
        if taken is not None:
            assert taken.data == rest[:n]
            rest = rest[n:]
        assert stock.level == len(rest)


def test_old_bytes_are_thrown_away() -> None:
    """Bytes beyond the age limit, which counts from before they were asked for, are neither given nor counted."""
    clock = Time()
    stock = Stock(settings(prefetch_max_age_s=10), clock)
    clock.now_s = 6
    stock.add(Piece(b"old", None), asked_s=0)
    stock.add(Piece(b"new", None), asked_s=6)
    clock.now_s = 11
    assert stock.room == 97
    assert stock.take(4) is None
    assert stock.take(3) == Piece(b"new", None)


def test_class_of_several_pieces_is_the_weakest() -> None:
    """Bytes of two classes have that of the weaker, and of one that is not stated none."""
    stock = Stock(settings())
    for source_class in (QUANTUM, SYSTEM, None):
        stock.add(Piece(b"ab", source_class), stock.now_s())
    taken = [stock.take(n) for n in (1, 2, 2)]
    assert [piece and piece.source_class for piece in taken] == [QUANTUM, SYSTEM, None]


async def test_keeper_fills_again() -> None:
    """A stock is filled up to its bound, in portions, and again once bytes were taken; closed, it has nothing."""
    asked = []

    def fetch(n: int) -> Piece:
        asked.append(n)
        return Piece(bytes(n), None)

    keeper = Keeper(Stock(settings()), fetch, 1000)
    assert keeper.take(10) is None
    await until(lambda: keeper.stock.room == 0)
    assert asked == [25] * 4
    assert keeper.take(30) == Piece(bytes(30), None)
    await until(lambda: keeper.stock.room == 5)
    assert asked == [25] * 5
    keeper.close()
    assert keeper.take(10) is None
    await until(lambda: keeper.stock.level == 0)


def test_what_leaves_a_stock_is_overwritten() -> None:
    """Bytes given, too old, or discarded are zeros where they lay, and no piece of them is copied with each draw."""
    clock = Time()
    stock = Stock(settings(prefetch_max_age_s=10), clock)
    for asked_s in (0, 5):
        stock.add(Piece(b"abcd", None), asked_s)
    first, second = (memoryview(portion_.rest._view.obj) for portion_ in stock._portions)
    stock.take(1)
    assert (first, second) == (b"\0bcd", b"abcd")
    clock.now_s = 11
    assert stock.room == 96
    assert (first, second) == (bytes(4), b"abcd")
    stock.discard()
    assert (second, stock.level) == (bytes(4), 0)


def test_a_child_has_none_of_its_parents_bytes() -> None:
    """In a forked child a stock is empty, whoever held its lock."""
    stock = Stock(settings(), Time())
    stock.add(Piece(b"abcd", None), 0)
    stock._lock.acquire()
    stock.start_anew()
    assert (stock.take(1), stock.room) == (None, 100)


def test_portions() -> None:
    """A quarter of the stock is fetched at once, and no more than a server gives."""
    assert [portion(1, 10), portion(100, 1000), portion(100, 10)] == [1, 25, 10]


def test_requests_are_split() -> None:
    """Parts are as large as a server gives at once, and what it gives at least is asked for."""
    sizes = Sizes(settings(grpc_min_request_bytes=8, grpc_max_request_bytes=100))
    assert list(sizes.parts(3)) == [(3, 8)]
    assert list(sizes.parts(203)) == [(100, 100), (100, 100), (3, 8)]


def test_acceptance() -> None:
    """A reply has the class it states, or that of the settings; unknown, weaker and repeated ones are refused."""
    stated = Acceptance(settings(grpc_source_class="hardware"))
    assert stated.accept(Reply(b"abcdefgh"), 3) == Piece(b"abc", SourceClass.HARDWARE)
    reading = Acceptance(settings(grpc_service="qrng.v1", least_class="quantum"))
    assert reading.accept(Reply(b"a", class_number=1), 1).source_class is QUANTUM
    with pytest.raises(WeakerSourceError):
        reading.accept(Reply(b"a", class_number=3), 1)
    for number in (0, 99):
        with pytest.raises(MalformedReplyError, match="no class of source that is known"):
            reading.accept(Reply(b"a", class_number=number), 1)


def test_replies_that_come_again_are_refused() -> None:
    """A reply that begins as one of the last 1024 did is refused, whatever came between; shorter ones never are."""
    acceptance = Acceptance(settings())
    for n in range(REMEMBERED_REPLIES):
        acceptance.accept(Reply(n.to_bytes(8) + b"-1"), 10)
    for n in (0, 1, REMEMBERED_REPLIES - 1):
        with pytest.raises(MalformedReplyError, match="repeats one that came before"):
            acceptance.accept(Reply(n.to_bytes(8) + b"-two"), 12)
    acceptance.accept(Reply(REMEMBERED_REPLIES.to_bytes(8)), 8)
    acceptance.accept(Reply((0).to_bytes(8)), 8)
    assert [acceptance.accept(Reply(b"1234567"), 7).data for _ in range(2)] == [b"1234567"] * 2


def test_simulated_bytes_may_repeat() -> None:
    """What is stated to be simulated is not judged: a stub may answer as it likes."""
    acceptance = Acceptance(settings(grpc_source_class="simulated"))
    assert [acceptance.accept(Reply(bytes(64)), 64).data for _ in range(2)] == [bytes(64)] * 2


@pytest.mark.parametrize(
    ("of_source", "of_mix"),
    [(QUANTUM, QUANTUM), (SYSTEM, SYSTEM), (SourceClass.SIMULATED, SourceClass.SIMULATED), (None, None)],
)
def test_mixing(of_source: SourceClass | None, of_mix: SourceClass | None) -> None:
    """A mix has the class of its better half, unless that is simulated or not stated; it is new each time."""
    piece = Piece(bytes(range(mix_input(40))), of_source)
    one, other = mixed(piece, 40), mixed(piece, 40)
    assert (len(one.data), one.source_class) == (40, of_mix)
    assert one.data != other.data
    assert [mix_input(n) for n in (1, 32, 33)] == [40, 40, 80]


def test_no_repr_shows_bytes() -> None:
    """Neither a draw nor a piece shows its bytes."""
    assert "secret" not in repr(Piece(b"secret", None)) + repr(Draw(b"secret", "system", SYSTEM))
    assert bytes(joined([Piece(b"se", None), Piece(b"cret", None)]).data) == b"secret"


def test_failures_do_not_end_a_keeper() -> None:
    """A fetch that fails is tried again later; closing ends the wait."""
    failed = threading.Event()

    def fetch(_n: int) -> Piece:
        failed.set()
        raise SourceError("no bytes now")

    keeper = Keeper(Stock(settings()), fetch, 1000)
    assert keeper.take(10) is None
    assert failed.wait(30)
    keeper.close()
