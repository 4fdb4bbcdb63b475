"""What pins these clients: it must install from any index, so it names none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.programs import NODE_TESTS

LOCKS = (NODE_TESTS.parent / "requirements.lock", NODE_TESTS / "package-lock.json")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_pin_by_hash_and_name_no_host(lock: Path) -> None:
    """A lock file holds hashes and no address."""
    text = lock.read_text()
    assert re.search(r"sha(256|512)", text)
    assert "://" not in text
    assert not re.search(r"--(extra-)?index-url|--find-links|\"resolved\"", text)
