"""Imports point one way: servers and clients to qrng_grpc, qrng_grpc to its stubs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVERS = frozenset(path.name for path in (ROOT / "servers").iterdir() if path.name.startswith("qrng_"))
CLIENTS = frozenset(path.name for path in (ROOT / "clients").iterdir() if path.name.startswith("qrng_"))
MODULES = [
    *sorted((ROOT / "qrng_grpc").rglob("*.py")),
    *(module for package in sorted(SERVERS) for module in sorted((ROOT / "servers" / package).rglob("*.py"))),
    *(module for package in sorted(CLIENTS) for module in sorted((ROOT / "clients" / package).rglob("*.py"))),
]
ALLOWED_ACROSS = {("qrng_mcp", "qrng_client")}
"""Servers that are clients of a gateway themselves."""


def home_of(module: Path) -> str:
    """Return the import package `module` belongs to."""
    parts = module.relative_to(ROOT).parts
    return parts[1] if parts[0] in {"servers", "clients"} else parts[0]


def imported(module: Path) -> set[str]:
    """Return the dotted names of all that `module` imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names |= {f"{node.module}.{name.name}" for name in node.names}
    return names


def packages(module: Path) -> set[str]:
    """Return the import packages that `module` names."""
    return {name.split(".")[0] for name in imported(module)}


def named(module: Path) -> str:
    return str(module.relative_to(ROOT))


@pytest.mark.parametrize("module", [m for m in MODULES if home_of(m) == "qrng_grpc"], ids=named)
def test_shared_package_knows_no_program(module: Path) -> None:
    """qrng_grpc imports no server and no client; its gateway for tests alone starts a server."""
    foreign = packages(module) & (SERVERS | CLIENTS)
    assert not foreign or (named(module) == "qrng_grpc/testing/gateway.py" and not foreign & CLIENTS)


@pytest.mark.parametrize("module", [m for m in MODULES if home_of(m) in SERVERS], ids=named)
def test_servers_know_no_other_program(module: Path) -> None:
    """Servers import neither each other nor, unless they are clients themselves, a client."""
    home = home_of(module)
    foreign = packages(module) & (SERVERS | CLIENTS) - {home}
    assert {(home, other) for other in foreign} <= ALLOWED_ACROSS


@pytest.mark.parametrize("module", [m for m in MODULES if home_of(m) in CLIENTS - {"qrng_cli"}], ids=named)
def test_clients_know_no_server(module: Path) -> None:
    """Clients import no server: whoever fetches randomness need not install what serves it."""
    assert not packages(module) & SERVERS


@pytest.mark.parametrize("arguments", [["--help"], ["get", "--help"], ["stream", "--help"], ["status", "--help"]])
def test_command_loads_servers_only_for_server_subcommands(arguments: list[str]) -> None:
    """The command, though it can start servers, loads none of them for what a client does."""
    program = (
        "import sys\n"
        "from qrng_cli.group import cli\n"
        "cli(sys.argv[2:], standalone_mode=False)\n"
        "sys.exit(any(module.split('.')[0] in sys.argv[1].split() for module in sys.modules))\n"
    )
    command = [sys.executable, "-c", program, " ".join(SERVERS), *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_compat_stubs_stay_with_servers(module: Path) -> None:
    """Only servers load the compat stubs: a second copy of them in a client's process would clash."""
    loads = any(f"{name}.".startswith("qrng_grpc.compat.") for name in imported(module))
    inside = module.is_relative_to(ROOT / "qrng_grpc" / "compat")
    assert not loads or inside or home_of(module) in SERVERS
