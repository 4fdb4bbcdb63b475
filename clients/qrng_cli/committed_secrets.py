"""Secrets in a profile, which everybody who has it would have too.

Idea: people leave keys where nobody looks. So a setting is judged by its name, switched on or off, in JSON, in YAML and
in a URL; a file that is no settings file, or cannot be read as one, is searched for what is assigned to such a name and
looks like a key; and a private key is told wherever it lies. What was found is named, never shown.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from qrng_cli.profiles import Profile
from qrng_cli.stand_ins import has_private_key, is_secret, leaves
from qrng_grpc.config import is_placeholder, read_yaml
from qrng_grpc.files import refuse_shared

_IN_YAML = re.compile(r"^[\s#]*#\s*([A-Za-z_]\w*):\s+(\S+)\s*$", re.MULTILINE)
"""A setting of a YAML file that is switched off."""
_ASSIGNED = re.compile(
    r"""(?<![\w.-])([A-Za-z][\w.-]*)["']?[ \t]*[=:]"""
    r"""([ \t]*\[[^\]]{0,4096}\]|(?:[ \t]*\n[ \t#]*-[ \t]+.*)+|[ \t]*["']?(?:Bearer[ \t]+)?[^\s"',;]+)""",
    re.IGNORECASE,
)
"""A name, and what is assigned to it: a list in brackets, a list in lines, or a word."""
_WORD = re.compile(r"""[^\s"',;\[\]]+""")
_KEY = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/~.-]{16,}={0,2}")
"""What looks like a key: long, without blanks, with letters and digits."""
_NOTHING = ("", '""', "''", "[]", "{}")
_MOST_READ_BYTES = 1 << 20
_INSTEAD = (
    "; say replace-with-your-key here, and give the key in the environment, or in an --env-file of mode 0600 elsewhere"
)


def read_json(value: str) -> Any:
    """Return the list or mapping that a line's value is, and any other value as it is."""
    if value.startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            pass  # for the program to refuse
    return value


def secrets_in(profile: Profile, lines: Mapping[str, str]) -> Iterator[str]:
    """Yield a mistake for each secret in a profile that is shared, whose `lines` these are, and each that is none."""
    shared = profile.is_committed or not _is_private(profile.env_file)
    told = set[str]()
    for name, value in lines.items():
        for leaf, text in leaves(read_json(value), name):
            if is_secret(leaf, "x") and text == "":
                yield f"{leaf}: empty; leave the line out, or say replace-with-your-key"
            elif shared and is_secret(leaf, text):
                told.add(str(text))
                yield f"{leaf}: a secret in a file that is shared{_INSTEAD}"
    if shared:
        for path in sorted(profile.directory.rglob("*")) if profile.is_folder else [profile.env_file]:
            yield from _secrets_in_file(path, told)


def _is_private(path: Path) -> bool:
    try:
        refuse_shared(path)
    except ValueError:
        return False
    return True


def _secrets_in_file(path: Path, told: set[str]) -> Iterator[str]:
    """Yield a mistake for each secret in a file of a profile that is not among those `told`."""
    if not path.is_file() or path.stat().st_size > _MOST_READ_BYTES:
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if has_private_key(text):
        yield f"{path}: holds a private key, and is shared"
    for name, value in (*_settings(path, text), *_keys_assigned(text)):
        if is_secret(name, value) and not any(str(value) in other for other in told):
            told.add(str(value))
            yield f"{path}: {name}: a secret in a file that is shared{_INSTEAD}"


def _settings(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield name and value of what a settings file sets, or would if it were not switched off."""
    if path.name.startswith(".env") or path.suffix == ".env":
        off = "\n".join(line.lstrip("# \t") for line in text.splitlines() if line.lstrip().startswith("#"))
        for line in parse_stream(io.StringIO(off)):
            yield from leaves(read_json(line.value or ""), line.key or "")
    if path.suffix.lower() in (".yaml", ".yml"):
        for name, value in _IN_YAML.findall(text):
            yield name, "" if value in _NOTHING else value.strip("\"'")
        yield from leaves(read_yaml(path, []), "")


def _keys_assigned(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of all in any text that is assigned to a name and looks like a key."""
    for name, assigned in _ASSIGNED.findall(text):
        for word in _WORD.findall(assigned):
            if _KEY.fullmatch(word) and not is_placeholder(word):
                yield name, word
