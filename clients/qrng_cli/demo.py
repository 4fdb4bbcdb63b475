"""The keys and ids of `qrng up`, made once and kept in files that a shell can source.

Idea: gateway, collector and client must agree on secrets nobody should have to think up. They are made at
the first start, written whole or not at all, readable by their owner alone, and reused from then on. A second
file has the two lines that a client needs, and so none of what it should not have. These files are the only
place they are shown.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
from pathlib import Path

from dotenv import dotenv_values

from qrng_cli.output import whole_file
from qrng_grpc.errors import StateError

ADDRESS = "QR_GRPC_SERVER_ADDRESS"
CLIENT_KEY = "QR_GRPC_API_KEY"

_HEAD = "# Made by `qrng up`. Holds keys: keep it to yourself. Delete it to have new ones made.\n"
_CLIENT_HEAD = "# Made by `qrng up` at each start, for clients. Holds a key: keep it to yourself.\n"
_SHARED = ("HMAC_SECRET_KEY", "HMAC_KEY_ID", "COLLECTOR_ID", "POOL_ID", "BEST_CLASS")
_SAME = (
    ("QRNG_GATEWAY_API_KEYS", CLIENT_KEY),
    *((f"QRNG_GATEWAY_{name}", f"QRNG_COLLECTOR_{name}") for name in _SHARED),
)
"""Pairs of settings that must be equal."""


def demo_settings(path: Path) -> dict[str, str]:
    """Return the settings in `path`, which are made and written when there is no such file.

    Raises StateError when others may read it, or when it is not what was written.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        settings = _fresh()
        _write(path, settings)
        return settings


def keep_address(path: Path, settings: dict[str, str], address: str) -> None:
    """See to it that clients who source `path` find the gateway at `address`. The keys stay."""
    if settings[ADDRESS] != address:
        _write(path, settings | {ADDRESS: address})


def write_client_file(path: Path, settings: dict[str, str], address: str) -> None:
    """Write what a client needs to use the gateway at `address`, and nothing else."""
    _write(path, {ADDRESS: address, CLIENT_KEY: settings[CLIENT_KEY]}, _CLIENT_HEAD)


def _fresh() -> dict[str, str]:
    mark = secrets.token_hex(4)
    values = {
        "API_KEYS": secrets.token_urlsafe(32),
        "HMAC_SECRET_KEY": secrets.token_hex(32),
        "HMAC_KEY_ID": f"key-{mark}",
        "COLLECTOR_ID": f"collector-{mark}",
        "POOL_ID": f"pool-{mark}",
        "BEST_CLASS": "operating_system",
    }
    pairs = {name: values[ours.removeprefix("QRNG_GATEWAY_")] for ours, other in _SAME for name in (ours, other)}
    # Both programs run by one clock.
    return pairs | {"QRNG_GATEWAY_CLOCK_TOLERANCE": "0", ADDRESS: "127.0.0.1:50051"}


def _write(path: Path, settings: dict[str, str], head: str = _HEAD) -> None:
    with whole_file(path) as file:
        file.write((head + "".join(f"{name}={value}\n" for name, value in settings.items())).encode())


def _read(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as file:
        state = os.fstat(file.fileno())
        if stat.S_IMODE(state.st_mode) & 0o077 or state.st_uid != os.getuid():
            raise StateError(f"{path} holds keys that others could read or change; chmod 600 it, or delete it")
        try:
            text = file.read()
        except UnicodeDecodeError:
            text = ""
    read = dotenv_values(stream=io.StringIO(text), interpolate=False)
    settings = {name: value for name, value in read.items() if value}
    if settings.keys() != _fresh().keys() or any(settings[ours] != settings[other] for ours, other in _SAME):
        raise StateError(f"{path} is incomplete or damaged; delete it, and new keys are made")
    return settings
