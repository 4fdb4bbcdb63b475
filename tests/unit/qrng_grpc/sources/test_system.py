"""The operating system's generator as a source."""

from __future__ import annotations

import pytest

from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass
from qrng_grpc.sources.system import SystemSource


async def test_label_is_honest() -> None:
    """Bytes of the operating system are called that, never more."""
    label = SystemSource().label
    assert label.device_ids == ("os-urandom",)
    assert label.source_class is SourceClass.OPERATING_SYSTEM
    assert (label.processing, label.custody) == (Processing.NONE, Custody.LOCAL)
    assert label.health_verdict is HealthVerdict.UNTESTED


@pytest.mark.parametrize("size", [1, 31, 1024, 1 << 20])
async def test_reads_are_exact(size: int) -> None:
    """A read returns as many bytes as were asked for."""
    assert len(await SystemSource().read(size)) == size


async def test_reads_do_not_repeat() -> None:
    """Two reads are different bytes."""
    source = SystemSource()
    assert await source.read(32) != await source.read(32)


async def test_closed_is_closed() -> None:
    """A closed source refuses to read; closing it again does no harm."""
    source = SystemSource()
    await source.close()
    await source.close()
    with pytest.raises(SourceError, match="closed"):
        await source.read(1)
