"""What every source promises, held against this one."""

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError
from qrng_template_source import TemplateSettings, TemplateSource

from qrng_grpc.errors import SourceError
from qrng_grpc.sources.kinds import Surroundings, open_source


def test_it_returns_as_many_bytes_as_are_asked_for() -> None:
    """Exactly, and other ones each time."""

    async def reads() -> list[bytes]:
        source = TemplateSource(Path("/dev/urandom"))
        data = [await source.read(size) for size in (1, 1000, 1000)]
        await source.close()
        return data

    one, first, second = asyncio.run(reads())
    assert [len(one), len(first), len(second)] == [1, 1000, 1000]
    assert first != second


def test_it_never_makes_up_for_what_is_missing(tmp_path: Path) -> None:
    """A device that is not there, ends, or was closed is an error."""
    (tmp_path / "short").write_bytes(bytes(10))

    async def read(path: Path, *, closed: bool = False) -> None:
        source = TemplateSource(path)
        if closed:
            await source.close()
        with pytest.raises(SourceError):
            await source.read(16)
        await source.close()

    asyncio.run(read(tmp_path / "nothing"))
    asyncio.run(read(tmp_path / "short"))
    asyncio.run(read(Path("/dev/urandom"), closed=True))


def test_its_label_is_that_of_its_settings() -> None:
    """As `open_source` insists, and settings that nobody knows are refused."""
    source = open_source(TemplateSettings(kind="template"), Surroundings())
    assert source.label.device_ids == ("template-1",)
    with pytest.raises(ValidationError):
        TemplateSettings(kind="template", colour="red")
