"""Stand-ins for what a profile leaves to its site, so that all the rest of it can be judged.

Idea: a profile names files of keys and certificates that are still to be made, or lie on another machine; it has
placeholders where a site's own values go, and leaves keys and ids out. The programs refuse to be without. For a
check they get stand-ins, made on the spot and thrown away with their directory, and what they stood in for is noted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from qrng_grpc.config import is_placeholder
from qrng_grpc.files import shown_path

ID = "stand-in"

_SECRET_NAME = re.compile(
    r"(^|[._-])(secret|secret_key|passw(or)?d|passphrase|token|api[-_]?keys?|[a-z0-9]+-key|private_key|auth|authorization"
    r"|credentials?|cookie)(\.\d+)?$",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(
    r"://[^/?#@\s]+@|[?&]([\w.-]*[_.-])?(api_?key|key|token|auth|secret|passw(or)?d)=[^&{\s]", re.IGNORECASE
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----")
_PLACE = "{key}"
"""Where a request of a source takes its key from another setting."""

_VALUES = {
    "appliance_url": "https://192.0.2.1",
    "url": "https://192.0.2.1",
    "address": "192.0.2.1:1",
    "appliance_fingerprint": "00" * 32,
    "fingerprint": "00" * 32,
}
"""What stands in for a placeholder, where that is not simply left out."""


def is_secret(name: str, value: object) -> bool:
    """Say whether `value`, the text of a setting called `name`, is a key, a token or a password of somebody's."""
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if not text or all(map(is_placeholder, text.split(","))):
        return False
    named = _SECRET_NAME.search(name) is not None and _PLACE not in text
    return named or has_private_key(text) or _SECRET_IN_URL.search(text) is not None


def has_private_key(text: str) -> bool:
    """Say whether there is a private key in PEM in `text`."""
    return _PRIVATE_KEY.search(text) is not None


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield name and value of everything that is no mapping and no list, in a tree called `name`."""
    if isinstance(value, Mapping):
        for key, inside in value.items():
            yield from leaves(inside, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from leaves(inside, f"{name}.{number}")
    else:
        yield name, value


def _is_there(path: str) -> bool:
    """Say whether there is such a file; what is longer than a path may be is none, and is not told by the system."""
    try:
        return Path(path).exists()
    except OSError:
        return False


class StandIns:
    """Makes stand-ins in `directory`, and keeps in `notes` what for.

    Signing keys are for the collector and the pools named; certificates are those of a `server`, or of a client.
    """

    def __init__(self, directory: Path, *, collector_id: str, pool_ids: Sequence[str], server: bool) -> None:
        self.notes: list[str] = []
        self._directory = directory
        self._collector_id = collector_id
        self._pool_ids = [*pool_ids]
        self._who = "server" if server else "client"

    def complete(self, value: Any, name: str = "") -> Any:
        """Return a tree of settings called `name` with stand-ins for its placeholders and for files that are missing.

        What is only a placeholder and needs no stand-in is left out.
        """
        if isinstance(value, list):
            return [self.complete(inside, f"{name}.{number}") for number, inside in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        parts = {key: self._part(str(key), value, f"{name}.{key}" if name else str(key)) for key in value}
        return {key: part for key, part in parts.items() if part is not None}

    def _part(self, key: str, settings: Mapping[str, Any], path: str) -> Any:
        value = settings.get(key)  # None for a name that is no text, which no program knows
        if isinstance(value, str) and is_placeholder(value):
            self.notes.append(f"{path}: a placeholder, for a value of your own")
            return secrets.token_hex(32) if _SECRET_NAME.search(key) else _VALUES.get(key)
        if not isinstance(value, str):
            return self.complete(value, path)
        file = self._file(key, settings)
        if file is None:
            return value
        if not _is_there(value):
            self.notes.append(f"{path}: {shown_path(value)} is not here yet")
        return str(file)

    def _file(self, key: str, settings: Mapping[str, Any]) -> Path | None:
        """Return a stand-in for the file that `settings` name as `key`, when it, or what belongs to it, is missing."""
        together = {key, key.replace("key_file", "cert_file"), key.replace("cert_file", "key_file")}
        if all(_is_there(str(settings[one])) for one in together & settings.keys()):
            return None
        if key in _PRIVATE_FILES:
            return _PRIVATE_FILES[key](self)
        kind = next((end for end in ("ca_file", "cert_file", "key_file") if key.endswith(end)), None)
        return None if kind is None else self._certificates / f"{self._who}.{kind}"

    @cached_property
    def _certificates(self) -> Path:
        """Where the files of certificates are."""
        from qrng_grpc.certs import Authority  # noqa: PLC0415 - the servers' extra, which most profiles do without

        authority = Authority.create("stand-in")
        both = {"server": authority.server(["localhost"]), "client": authority.client("spiffe://stand/in")}
        for who, issued in both.items():
            issued.save(self._directory / f"{who}.cert_file", self._directory / f"{who}.key_file")
            (self._directory / f"{who}.ca_file").write_bytes(authority.issued.certificate)
        return self._directory

    def _signing_keys(self) -> Path:
        record = {
            "id": ID,
            "algorithm": "hmac-sha256",
            "secret": secrets.token_hex(32),
            "collector_id": self._collector_id,
            "pool_ids": self._pool_ids,
            "best_class": "quantum",
        }
        return self._private("signing-keys.yaml", yaml.safe_dump({"keys": [record]}))

    def _clients(self) -> Path:
        return self._private("clients.yaml", "clients: []\n")

    def _token(self) -> Path:
        return self._private("token", secrets.token_hex(32))

    def _private(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path


_PRIVATE_FILES: dict[str, Callable[[StandIns], Path]] = {
    "signing_keys_file": StandIns._signing_keys,
    "api_keys_file": StandIns._clients,
    "spool_key_file": StandIns._token,
    "api_key_file": StandIns._token,
}
