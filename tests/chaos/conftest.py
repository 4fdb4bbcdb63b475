"""Laboratories to break."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.programs import Laboratory


@pytest.fixture
def lab(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path)


@pytest.fixture
def rng() -> random.Random:
    """Chance that can be repeated: the seed is printed, and QRNG_TEST_SEED sets it."""
    seed = int(os.environ.get("QRNG_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"QRNG_TEST_SEED={seed}")
    return random.Random(seed)
