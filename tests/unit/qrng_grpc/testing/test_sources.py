"""The sources that tests are made of."""

from __future__ import annotations

import asyncio

import pytest

from qrng_grpc.chunk import BlockLabel
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.testing import LedgerSource, ScriptedSource


async def test_script_is_followed() -> None:
    """Bytes are returned, exceptions raised, events waited for, in the order of the script."""
    opened = asyncio.Event()
    failure = SourceError("unplugged", retry_after_s=2)
    source: EntropySource = ScriptedSource([b"ab", failure, opened, b"cd"])
    assert await source.read(2) == b"ab"
    with pytest.raises(SourceError) as raised:
        await source.read(2)
    assert raised.value is failure
    waiting = asyncio.create_task(source.read(2))
    await asyncio.sleep(0)
    assert not waiting.done()
    opened.set()
    assert await waiting == b"cd"


async def test_end_of_the_script_is_a_point_to_wait_for() -> None:
    """Past its last step a source says that it is over, and its reads wait until it is closed."""
    source = ScriptedSource([b"a"])
    await source.read(1)
    assert not source.over.is_set()
    waiting = asyncio.create_task(source.read(1))
    await source.over.wait()
    assert not waiting.done()
    await source.close()
    with pytest.raises(SourceError, match="closed"):
        await waiting


async def test_wrong_script_is_told() -> None:
    """Scripted bytes of another size than is read are a mistake of the test and show as one."""
    with pytest.raises(ValueError, match="the script has 2 bytes where 3 are read"):
        await ScriptedSource([b"ab"]).read(3)


async def test_ledger_tells_where_bytes_came_from() -> None:
    """Every byte delivered is in the ledger, in order, and any piece is found again."""
    source = LedgerSource(seed=3)
    first, second = await source.read(100), await source.read(50)
    assert source.delivered == first + second
    assert source.delivered_bytes == 150
    assert source.offset_of(second[10:26]) == 110
    with pytest.raises(ValueError, match="not found"):
        source.offset_of(bytes(16))


async def test_ledger_source_is_labelled_as_told() -> None:
    """It is SIMULATED unless the test says otherwise."""
    label = BlockLabel(("q",), SourceClass.QUANTUM)
    assert LedgerSource().label.source_class is SourceClass.SIMULATED
    assert LedgerSource(label=label).label is label
    assert ScriptedSource([], label=label).label is label


async def test_closed_ledger_source_refuses() -> None:
    """After closing nothing is delivered and the ledger stays."""
    source = LedgerSource()
    await source.read(4)
    await source.close()
    with pytest.raises(SourceError, match="closed"):
        await source.read(4)
    assert source.delivered_bytes == 4
