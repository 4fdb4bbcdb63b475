"""The reference of the client's settings names all of them, with their defaults, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from qrng_client.settings import ENV_PREFIX, ClientSettings

DOCS = Path(__file__).parents[2] / "docs" / "client.md"
ROW = re.compile(r"^\| `(QR_[A-Z_0-9]+)` \| (.*?) ?\| (.+) \|$", re.MULTILINE)


def shown(default: Any) -> str:
    """A default as the reference writes it."""
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_setting_has_its_entry() -> None:
    """Each setting stands once in docs/client.md, with its default and an explanation; nothing else does."""
    entries = {name: (default, meaning) for name, default, meaning in ROW.findall(DOCS.read_text())}
    assert len(entries) == len(ROW.findall(DOCS.read_text()))
    assert set(entries) == {ENV_PREFIX + name.upper() for name in ClientSettings.model_fields}
    for name, info in ClientSettings.model_fields.items():
        default, meaning = entries[ENV_PREFIX + name.upper()]
        assert default == shown(info.default), name
        assert len(meaning) > 10, name
