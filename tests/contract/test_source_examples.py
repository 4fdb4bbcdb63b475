"""The examples of docs/sources.md are settings that a collector takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from qrng_collector.sources import make_readers
from qrng_grpc.certs import Authority
from tests.collector_settings import loaded

TEXT = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")


def examples() -> list[dict[str, Any]]:
    """Return every entry in the document."""
    entries: list[dict[str, Any]] = []
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL):
        content = yaml.safe_load(block)
        entries += content["sources"] if isinstance(content, dict) else content
    return entries + [yaml.safe_load(entry) for entry in re.findall(r"`(\{kind: [^`]*\})`", TEXT)]


@pytest.fixture
def with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where the files lie that the examples name."""
    monkeypatch.chdir(tmp_path)
    for entry in examples():
        if "ca_file" in entry:
            Path(entry["ca_file"]).write_bytes(Authority.create("appliances").issued.certificate)
        if "api_key_file" in entry:
            Path(entry["api_key_file"]).touch(mode=0o600)
            Path(entry["api_key_file"]).write_text("token")


@pytest.mark.usefixtures("with_files")
@pytest.mark.parametrize("entry", examples(), ids=lambda entry: entry.get("preset", entry["kind"]))
async def test_example_is_accepted(entry: dict[str, Any], tmp_path: Path) -> None:
    """Each would start, given its files and a whole fingerprint."""
    entry = entry | ({"fingerprint": "00" * 32} if "fingerprint" in entry else {})
    (reader,) = make_readers(loaded(entry), tmp_path)
    await reader.close()


def test_every_preset_and_kind_has_one() -> None:
    """No kind of source, and no preset, is without an example."""
    assert {entry["kind"] for entry in examples()} == {"system", "http", "grpc", "device", "jitter", "mock"}
    presets = {"quantis", "anu", "lfd", "qrypt", "vault", "pollen"}
    assert presets <= {entry.get("preset", "quantis") for entry in examples()}
