"""What is installed: floors that the stubs demand, and a wheel with what belongs into it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
STUBS = [path for folder in ("v1", "compat") for path in (ROOT / "qrng_grpc" / folder).glob("*_pb2*.py")]
PACKAGES = {Path(package).name for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}


def requirements() -> dict[str, str]:
    """Return every requirement, those of extras included, as name to the rest of its text."""
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    matches = (re.match(r"([A-Za-z0-9._-]+)(?:\[.*\])?(.*)", text) for text in texts)
    return {match[1]: match[2] for match in matches if match}


def grpc_versions() -> set[str]:
    """Return the versions of grpcio below which a stub refuses to be imported."""
    texts = (path.read_text(encoding="utf-8") for path in STUBS if path.name.endswith("_pb2_grpc.py"))
    return {match[1] for text in texts for match in re.finditer(r"GRPC_GENERATED_VERSION = '([^']+)'", text)}


def protobuf_versions() -> set[str]:
    """Return the versions of protobuf below which a stub refuses to be imported.

    They are the second to fourth argument of ValidateProtobufRuntimeVersion, which accepts that
    version and any later one.
    """
    versions = set()
    for path in STUBS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ValidateProtobufRuntimeVersion"):
                versions.add(".".join(ast.unparse(number) for number in node.args[1:4]))
    return versions


def test_floor_of_grpcio() -> None:
    """grpcio and what comes with it are required from the version that the stubs demand."""
    (version,) = grpc_versions()
    for name in ("grpcio", "grpcio-health-checking", "grpcio-reflection"):
        assert requirements()[name] == f">={version}"


def test_floor_of_protobuf() -> None:
    """protobuf is required from the version that the stubs demand."""
    (version,) = protobuf_versions()
    assert requirements()["protobuf"] == f">={version}"


def test_generator_is_pinned() -> None:
    """The generator is pinned to the version that made the stubs."""
    (version,) = grpc_versions()
    assert requirements()["grpcio-tools"] == f"=={version}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the wheel; return the names in it."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = target.glob("qrng_grpc-*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_wheel_holds_the_packages(wheel: list[str]) -> None:
    """Every import package is in the wheel under its own name, and says that it is typed."""
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel)


def test_wheel_holds_every_module(wheel: list[str]) -> None:
    """What runs from the tree runs from the wheel: no module and no stub is left behind."""
    homes = [ROOT / package for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    suffixes = {".py", ".pyi", ".typed"}
    ours = {str(path.relative_to(home.parent)) for home in homes for path in home.rglob("*") if path.suffix in suffixes}
    assert ours <= set(wheel)


def test_wheel_holds_nothing_else(wheel: list[str]) -> None:
    """No tests, no protos of Google's, no caches."""
    strangers = re.compile(r"(^|/)(tests?|google|__pycache__|servers|clients)/|\.pyc$|\.env$|(^|/)test_")
    assert [name for name in wheel if strangers.search(name)] == []


def test_licence_goes_along(wheel: list[str]) -> None:
    """The licence is in the wheel."""
    assert any(name.endswith("/licenses/LICENSE") for name in wheel)
