"""Byte sources: what is not n bytes is an error."""

from __future__ import annotations

import pytest

from qrng_client import AsyncEntropyClient, EntropyClient
from qrng_client.byte_source import GatewayBytes, checked_source, read_exactly
from qrng_grpc.errors import InvalidRequestError, SourceError
from tests.unit.qrng_client.byte_sources import Scripted, Seeded


def test_exactly_the_bytes_of_the_source() -> None:
    """What the source returns is returned, and one read is asked for one read; for no bytes none is."""
    source = Seeded()
    assert read_exactly(source, 0) == b""
    assert read_exactly(source, 5) == Seeded().read(5)
    assert source.reads == [5]


@pytest.mark.parametrize("answer", [b"", b"123", b"12345", "1234", bytearray(4), None, [1, 2, 3, 4]])
def test_what_is_not_so_many_bytes(answer: object) -> None:
    """A reply that is short, long or no bytes is an error that shows nothing of it."""
    with pytest.raises(SourceError, match="asked for") as caught:
        read_exactly(Scripted([answer]), 4)
    assert "123" not in str(caught.value)


def test_what_the_source_raises_comes_through() -> None:
    """An error of the source, of whatever kind, is the caller's to see."""
    with pytest.raises(OSError, match="gone"):
        read_exactly(Scripted([OSError("gone")]), 4)


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (1.0, TypeError), ("4", TypeError), (None, TypeError)])
def test_no_number_of_bytes(n: int, error: type[Exception]) -> None:
    """What is no number of bytes is told before the source is asked."""
    source = Seeded()
    with pytest.raises(error):
        read_exactly(source, n)
    assert source.reads == []


async def test_no_source() -> None:
    """What cannot be read from is refused when it is handed over, and a client is told what makes a source of it."""
    with EntropyClient() as client, pytest.raises(TypeError, match="GatewayBytes makes a source of an EntropyClient"):
        checked_source(client)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no read"):
        checked_source(b"bytes")  # type: ignore[arg-type]
    async with AsyncEntropyClient() as client, Awaited() as source:
        for other in (client, source):
            with pytest.raises(TypeError):
                checked_source(other)  # type: ignore[arg-type]


class Awaited:
    """A source for asyncio, which this is not for."""

    async def read(self, n: int) -> bytes:
        return bytes(n)

    async def __aenter__(self) -> Awaited:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""


def test_demands_are_checked_at_once() -> None:
    """A demand that no gateway can meet is refused before anything is read, and the key is not in the repr."""
    with EntropyClient("localhost:1", api_key="a-key-of-some-length") as client:
        with pytest.raises(InvalidRequestError, match="least_class"):
            GatewayBytes(client, least_class="magic")
        with pytest.raises(TypeError, match="unexpected keyword"):
            GatewayBytes(client, maximum_age_s=5)  # type: ignore[call-arg]
        assert repr(GatewayBytes(client)) == "GatewayBytes(EntropyClient('localhost:1'))"
