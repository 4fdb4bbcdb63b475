"""Trials: what becomes of a source that cannot even be opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from qrng_collector.config import CollectorConfig
from qrng_collector.trial import try_sources
from qrng_grpc.errors import ConfigError
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.kinds import KindError, Surroundings
from qrng_grpc.sources.kinds.mock import MockSettings
from tests.collector_settings import loaded


class Refused(MockSettings):
    """Settings that show to be unusable when the source is opened."""

    def open(self, given: Surroundings) -> EntropySource:
        raise ValueError("the box is shut")


class AtFault(MockSettings):
    """A kind whose package is at fault."""

    def open(self, given: Surroundings) -> EntropySource:
        raise RuntimeError("STRANGER'S TEXT")


def config(directory: Path, source: MockSettings) -> CollectorConfig:
    return loaded(STATE_DIR=str(directory / "state")).model_copy(update={"sources": (source,)})


async def test_a_state_directory_is_called_for_where_there_is_none(tmp_path: Path) -> None:
    """What a source refuses without a state directory is told as that; with one it is not."""
    source = Refused(kind="mock")
    with pytest.raises(ConfigError, match="state_dir: required; the box is shut"):
        await try_sources(config(tmp_path, source), with_state=False)
    with pytest.raises(ValueError, match=r"^the box is shut$"):
        await try_sources(config(tmp_path, source))


@pytest.mark.parametrize("with_state", [False, True])
async def test_a_kind_at_fault_is_told_as_that(tmp_path: Path, with_state: bool) -> None:
    """No state directory would help it."""
    with pytest.raises(KindError, match=r"^the kind mock cannot be opened"):
        await try_sources(config(tmp_path, AtFault(kind="mock")), with_state=with_state)
