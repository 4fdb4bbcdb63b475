from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qrng_client import EntropyClient, Processing, SourceClass
from qrng_client.requests import MAX_GET_BYTES, MAX_REQUEST_BYTES, Patience, RequestBook, Wish
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.v1 import entropy_pb2, labels_pb2


@given(n=st.integers(1, 5000), most=st.integers(1, 1000))
def test_gets_add_up(n: int, most: int) -> None:
    """The requests for n bytes ask for exactly n, none for more than a message holds, each with its own number."""
    requests = RequestBook(most).gets(n, Wish())
    assert sum(request.bytes_needed for request in requests) == n
    assert all(1 <= request.bytes_needed <= most for request in requests)
    assert len({request.sequence_id for request in requests}) == len(requests)


@given(total=st.integers(1, 5000), each=st.integers(1, 1000))
def test_subscription_adds_up(total: int, each: int) -> None:
    """The messages of a bounded stream hold its total; only the last may be shorter."""
    sizes = list(RequestBook().subscription(each, total, Wish()).sizes())
    assert sum(sizes) == total
    assert set(sizes[:-1]) <= {each}


def test_endless_subscription() -> None:
    """A stream without total has messages of one size for ever, and asks for that."""
    subscription = RequestBook().subscription(16, None, Wish())
    assert subscription.request.total_bytes == 0
    assert list(islice(subscription.sizes(), 1000)) == [16] * 1000


@pytest.mark.parametrize("n", [0, -1, MAX_GET_BYTES + 1, 2**70])
def test_size_out_of_range(n: int) -> None:
    """A size out of range is refused before anything is sent, and named."""
    with pytest.raises(InvalidRequestError) as caught:
        RequestBook().gets(n, Wish())
    assert caught.value.field == "n"


@pytest.mark.parametrize(("each", "total"), [(0, None), (-5, None), (MAX_REQUEST_BYTES + 1, None), (8, 0), (8, -1)])
def test_stream_out_of_range(each: int, total: int | None) -> None:
    """A stream of nothing is refused: on the wire, 0 would mean without end."""
    with pytest.raises(InvalidRequestError):
        RequestBook().subscription(each, total, Wish())


@pytest.mark.parametrize("age", [0, -1, 0.0001, float("nan"), float("inf"), 2e9])
def test_age_out_of_range(age: float) -> None:
    """An age that would round to "any", or is none, is refused."""
    with pytest.raises(InvalidRequestError):
        Wish(max_age_s=age)


def test_wish_on_the_wire() -> None:
    """All that is demanded travels with every request; left out, the gateway's own apply."""
    wish = Wish(
        least_class=SourceClass.QUANTUM,
        max_age_s=1.5,
        processing=Processing.XOR_OS,
        span_lanes=True,
        fresh=True,
        provenance=True,
    )
    for request in (RequestBook().gets(1, wish)[0], RequestBook().subscription(1, 1, wish).request):
        assert (request.least_class, request.max_age_ms) == (labels_pb2.SOURCE_CLASS_QUANTUM, 1500)
        assert request.processing == labels_pb2.PROCESSING_XOR_OS
        assert request.span_lanes
        assert request.fresh
        assert request.include_provenance
    plain = RequestBook().gets(1, Wish())[0]
    assert plain == entropy_pb2.GetEntropyRequest(bytes_needed=1, sequence_id=1)


def test_patience() -> None:
    """A time-out that is stated holds for every call; else bytes that are still to be captured get a minute."""
    assert (Patience().seconds(), Patience().seconds(fresh=True)) == (5, 60)
    assert Patience(0.25).seconds(fresh=True) == 0.25


def test_large_reads_with_provenance_are_split_further() -> None:
    """A message that tells where its bytes came from has at most what a gateway gives with that."""
    wish = Wish(provenance=True)
    assert [request.bytes_needed for request in RequestBook().gets(150_000, wish)] == [65_536, 65_536, 18_928]
    assert [request.bytes_needed for request in RequestBook(1000).gets(1500, wish)] == [1000, 500]
    assert RequestBook().subscription(65_536, None, wish).request.bytes_per_message == 65_536
    with pytest.raises(InvalidRequestError):
        RequestBook().subscription(65_537, None, wish)


@pytest.mark.parametrize("label", list(SourceClass))
def test_labels_may_be_names(label: SourceClass) -> None:
    """A label may be given by its name, which is what replies, settings and the command call it."""
    assert Wish.of({"least_class": label.value}, "get") == Wish(least_class=label)
    assert Wish.of({"least_class": label}, "get") == Wish(least_class=label)
    assert Wish.of({"processing": "sha256"}, "get") == Wish(processing=Processing.SHA256)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("least_class", "quantm"),
        ("least_class", 3),
        ("least_class", ["quantum"]),
        ("processing", "QUANTUM"),
        ("processing", SourceClass.QUANTUM),
        ("max_age_s", "10"),
        ("max_age_s", b"10"),
        ("fresh", "no"),
        ("span_lanes", 1),
        ("provenance", None),
    ],
)
def test_values_that_mean_nothing(name: str, value: object) -> None:
    """What no argument of that name can be is refused with that name, before anything is sent."""
    with EntropyClient("localhost:1") as client, pytest.raises(InvalidRequestError, match=f"^{name} must be"):
        client.get(32, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("n", ["32", 32.0, None, b"2"])
def test_sizes_that_are_no_numbers(n: object) -> None:
    """A size that is no whole number is refused as one out of range is."""
    with EntropyClient("localhost:1") as client:
        with pytest.raises(InvalidRequestError, match=r"^n must be a whole number of bytes$"):
            client.get(n)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match=r"^bytes_per_message must be a whole number of bytes$"):
            client.stream(n)  # type: ignore[arg-type]


def test_arguments_that_do_not_exist() -> None:
    """An argument that there is not is a TypeError of the method that was called; the time-out is the client's."""
    with EntropyClient("localhost:1") as client:
        with pytest.raises(
            TypeError, match=r"^get\(\) got an unexpected .* 'timeout_s'; it is an argument of the client"
        ):
            client.get(32, timeout_s=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"^stream\(\) got an unexpected keyword argument 'least'$"):
            client.stream(32, least="quantum")  # type: ignore[call-arg]


@pytest.mark.parametrize("timeout", ["5", b"5", [5]])
def test_time_out_that_is_no_number(timeout: object) -> None:
    """A time-out that is no number is refused when the client is made."""
    with pytest.raises(InvalidRequestError, match=r"^timeout_s must be"):
        EntropyClient("localhost:1", timeout_s=timeout)  # type: ignore[arg-type]
