"""Laboratories to break."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.siege import Siege, besieged
from tests.programs import Laboratory


@pytest.fixture
def lab(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path)


@pytest.fixture
async def siege(tmp_path: Path) -> AsyncIterator[Siege]:
    """A gateway with a full pool and honest clients."""
    async with besieged(tmp_path) as started:
        yield started


@pytest.fixture
def rng() -> random.Random:
    """Chance that can be repeated: the seed is printed, and QRNG_TEST_SEED sets it."""
    seed = int(os.environ.get("QRNG_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"QRNG_TEST_SEED={seed}")
    return random.Random(seed)
