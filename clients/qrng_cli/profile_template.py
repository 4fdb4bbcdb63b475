"""The profile to begin with: every setting, explained, with its default, and switched off.

Idea: the settings themselves say what they are, so the template is written from them and cannot lack one.
`deployments/_template` is what this writes; where it lies, it is copied, with whatever a site has made of it.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from qrng_cli.profile_check import models
from qrng_cli.profiles import CLIENT, COLLECTOR, ENV_FILE, FOLDER, GATEWAY
from qrng_grpc.errors import StateError

TEMPLATE = FOLDER / "_template"
NAME = "PROFILE"
"""Stands for the profile's name in a template."""
_WIDTH = 120

_HEAD = f"""\
# Profile: {NAME}. Say in this sentence what it is for.
#
# Lines are NAME=value. Switch on what your source needs, delete the rest, and see what is still missing with
# `qrng profile check {NAME}`. Keys do not go in here, since this file is shared. Where everybody needs a value of their
# own, say replace-with-your-key, or replace-with- and other words; no program starts with such a value.
"""
_SECTIONS = {
    COLLECTOR: "The collector: where bytes come from, and which gateway they go to.",
    GATEWAY: "The gateway: where it listens, what it keeps, whom it serves.",
    CLIENT: "Clients: which server they ask, and how.",
}
_README = f"""\
# {NAME}

One sentence: which source, for whom.

| | |
| --- | --- |
| source | what it is, and which class its bytes have: quantum, hardware, operating_system or simulated |
| reached at | address, protocol, who may reach it |
| limits | bytes a request, requests a minute, bytes a day |
| kept by | whom to ask |

## Step by step

1. Get a key, and put it where only you can read it:

   ```sh
   mkdir -p var
   (umask 077; read -rs -p 'key: ' key; echo "QR_GRPC_API_KEY=$key" > var/{NAME}.env)
   ```

2. `qrng profile check {NAME}` says `ok`, and what is still to be provided.
3. Ask for bytes:

   ```sh
   qrng get 32 --profile {NAME} --env-file var/{NAME}.env
   ```

## Keys

No key goes into this folder, which is shared. Placeholders (`replace-with-your-key`) are refused by every program.
"""


def write_profile(directory: Path) -> None:
    """Write the profile to begin with into `directory`. Raises StateError when anything is there already."""
    if directory.exists() and any(directory.iterdir()):
        raise StateError(f"{directory} is not empty; nothing was written")
    files = template_files()
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text.replace(NAME, directory.name), encoding="utf-8")


def template_files() -> dict[str, str]:
    """Return the files of a profile to begin with, by name: those of the template here, else those of this package."""
    if (TEMPLATE / ENV_FILE).is_file():
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(TEMPLATE.iterdir()) if path.is_file()}
    return rendered()


def rendered() -> dict[str, str]:
    """Return the same, written from the settings there are."""
    return {ENV_FILE: "\n".join([_HEAD, *_env_lines()]), "README.md": _README}


def _env_lines() -> Iterator[str]:
    settings = models()
    for prefix, title in _SECTIONS.items():
        yield f"# ==== {title} ====\n"
        yield from (_entry(prefix + name.upper(), field) for name, field in settings[prefix].model_fields.items())


def _entry(name: str, field: FieldInfo) -> str:
    """Return a setting as a paragraph: what it is, and the line that sets it, switched off."""
    words = textwrap.wrap(str(field.description), _WIDTH - 2, break_on_hyphens=False)
    return "\n".join([*(f"# {line}" for line in words), f"#{name}={_shown(field)}", ""])


def _shown(field: FieldInfo) -> str:
    """Return a setting's default as it is written in a `.env` file; nothing where it has none."""
    default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, BaseModel):
        return f"'{json.dumps(default.model_dump(mode='json'))}'"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Enum):
        return str(default.value)
    if default is None or default == ():
        return ""
    return str(default)
