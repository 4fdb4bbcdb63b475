"""Servers that this machine has no route to, in a network namespace of the test's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache

import pytest

_APART = ("unshare", "--map-root-user", "--net")
_ROUTES = "ip link set lo up && ip route add unreachable 198.51.100.0/24"
_READ = """
import sys
from qrng_client import QrngError, RandomClient, client_settings

settings = {
    "QR_ENTROPY_SOURCE_TYPE": "quantum_grpc",
    "QR_GRPC_SERVER_ADDRESS": sys.argv[1],
    "QR_GRPC_ALLOW_PLAINTEXT_BEYOND_LOOPBACK": "true",
    "QR_GRPC_RETRY_COUNT": "0",
}
with RandomClient(client_settings(settings)) as client:
    try:
        client.read(32)
    except QrngError as error:
        print(error)
"""
PROGRAMS = {
    "client of any server": ("-c", _READ),
    "qrng get": ("-m", "qrng_cli.main", "get", "32", "--allow-plaintext-beyond-loopback", "--address"),
}


@cache
def _why_not() -> str:
    """Say why no namespace can be made here; nothing where one can."""
    missing = [program for program in ("unshare", "ip") if shutil.which(program) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    tried = subprocess.run([*_APART, "sh", "-c", _ROUTES], capture_output=True, text=True, timeout=30, check=False)
    return "" if tried.returncode == 0 else f"network namespaces are not allowed here: {tried.stderr.strip()}"


def _told(*arguments: str) -> str:
    """Return what a Python program says that has no way to anywhere."""
    if reason := _why_not():
        pytest.skip(reason)
    program = f'{_ROUTES} && exec "$0" "$@"'
    ran = subprocess.run(
        [*_APART, "sh", "-c", program, sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("address", ["10.0.0.115:50051", "198.51.100.1:50051"], ids=["no network", "no route"])
def test_unroutable_server(program: str, address: str) -> None:
    """Who has no way to a server is told its address, that there is no route, and the setting to look at."""
    told = _told(*PROGRAMS[program], address)
    assert address in told
    assert "no route leads from this machine to that address" in told
    assert "see QR_GRPC_SERVER_ADDRESS" in told
