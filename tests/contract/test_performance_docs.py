"""The figures of docs/performance.md are those that the benchmark found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from report import SUMMARY, with_blocks  # noqa: E402 - the bench is no package

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
MOST_BYTES = 300_000
"""Of what is committed of a benchmark: it comes anew with every one that is published."""


def test_tables_are_made_from_the_summary() -> None:
    """Every table between markers is what `make bench-publish` makes of the summary beside it."""
    text = PAGE.read_text(encoding="utf-8")
    results = json.loads((FOLDER / SUMMARY).read_text(encoding="utf-8"))
    assert with_blocks(text, results) == text
    assert "<!-- begin ratios -->" in text


def test_pictures_are_there() -> None:
    """Every plot that the page shows is committed, and all together stay small."""
    files = list(FOLDER.iterdir())
    shown = {file for file in files if f"(performance/{file.name})" in PAGE.read_text(encoding="utf-8")}
    assert {file.name for file in shown} >= {"ratios.png", "cpu.png", "memory.png"}
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
