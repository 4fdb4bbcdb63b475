"""The profiles that are shipped, the template and what belongs to them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from qrng_cli.profile_check import YAML_FILES, check, models
from qrng_cli.profile_template import rendered
from qrng_cli.profiles import GATEWAY, Profile

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
SHIPPED = ("anu", "firefly-1", "high-security", "high-throughput", "quantis", "urandom")
IN_YAML = [(name, prefix) for name in ("anu", "high-security", "high-throughput") for prefix in YAML_FILES]
profiles = pytest.mark.parametrize("name", SHIPPED)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def shipped(name: str) -> Profile:
    return Profile(name, Path("deployments", name, ".env"))


def plain(value: Any) -> Any:
    """A value as a `.env` file and as YAML have it alike."""
    if isinstance(value, str) and value.startswith("["):
        return json.loads(value)
    return value if isinstance(value, list) else str(value).lower()


def test_these_are_shipped() -> None:
    """No folder is a profile that these tests do not know."""
    assert {path.parent.name for path in DEPLOYMENTS.glob("*/.env")} == {*SHIPPED, "_template"}


@profiles
def test_profile_is_right(name: str) -> None:
    """The programs would take each, and no secret is in it."""
    assert check(shipped(name)).mistakes == []


@profiles
def test_profile_is_explained(name: str) -> None:
    """Each says in a sentence what it is, and in a README step by step how to use it."""
    readme = (DEPLOYMENTS / name / "README.md").read_text()
    assert readme.startswith(f"# {name}\n")
    assert f"--profile {name} " in readme
    assert 20 < len(shipped(name).title) < 120


@profiles
def test_profile_is_in_the_list(name: str) -> None:
    """deployments/README.md has a line for each."""
    assert f"| `{name}/` |" in (DEPLOYMENTS / "README.md").read_text()


@pytest.mark.parametrize(("name", "prefix"), IN_YAML)
def test_yaml_says_the_same(name: str, prefix: str) -> None:
    """A profile's YAML sets what its `.env` sets, to the same values."""
    lines = shipped(name).lines()
    ours = {line.removeprefix(prefix).lower(): value for line, value in lines.items() if line.startswith(prefix)}
    in_yaml = yaml.safe_load((DEPLOYMENTS / name / YAML_FILES[prefix]).read_text())
    assert {setting: plain(value) for setting, value in in_yaml.items()} == {
        setting: plain(value) for setting, value in ours.items()
    }


def test_firefly_1_is_what_the_laboratory_runs() -> None:
    """Its address, method, key header and most bytes are those of the server, and it has no stream and no key."""
    assert shipped("firefly-1").lines() == {
        "QR_ENTROPY_SOURCE_TYPE": "quantum_grpc",
        "QR_GRPC_SERVER_ADDRESS": "10.0.0.115:50051",
        "QR_GRPC_MODE": "unary",
        "QR_GRPC_METHOD_PATH": "/qrng.QuantumRNG/GetRandomBytes",
        "QR_GRPC_STREAM_METHOD_PATH": "",
        "QR_GRPC_API_KEY_HEADER": "api-key",
        "QR_GRPC_API_KEY": "replace-with-your-key",
        "QR_GRPC_MAX_REQUEST_BYTES": "13312",
        "QR_SAMPLE_COUNT": "13312",
        "QR_GRPC_SOURCE_CLASS": "quantum",
        "QR_GRPC_ALLOW_PLAINTEXT_BEYOND_LOOPBACK": "true",
    }


def test_template_is_current() -> None:
    """The template is what the settings make of it; `qrng profile new` in an empty directory writes it anew."""
    there = {path.name: path.read_text() for path in (DEPLOYMENTS / "_template").iterdir()}
    assert there == rendered()


def test_template_has_every_setting() -> None:
    """Every setting of every program is in the template, explained and switched off."""
    text = (DEPLOYMENTS / "_template" / ".env").read_text()
    names = [prefix + name.upper() for prefix, model in models().items() for name in model.model_fields]
    assert re.findall(r"^#([A-Z]\w+)=", text, flags=re.MULTILINE) == sorted(
        names, key=lambda name: text.index(f"\n#{name}=")
    )
    assert not re.search(r"^[^#\n]", text, flags=re.MULTILINE)
    for name in names:
        assert re.search(rf"^# \S.*\n#{name}=", text, flags=re.MULTILINE), name


@pytest.mark.parametrize("prefix", models())
def test_template_shows_the_defaults(prefix: str) -> None:
    """Switched on, each line of the template that has a value sets the default."""
    from pydantic import TypeAdapter

    text = (DEPLOYMENTS / "_template" / ".env").read_text()
    for name, field in models()[prefix].model_fields.items():
        (shown,) = re.findall(rf"^#{prefix}{name.upper()}=(.*)$", text, flags=re.MULTILINE)
        if shown:
            value = json.loads(shown[1:-1]) if shown.startswith("'") else shown
            assert TypeAdapter(field.annotation).validate_python(value) == field.get_default(call_default_factory=True)


def test_the_documented_profile_is_right(tmp_path: Path) -> None:
    """The profile that docs/profiles.md shows for a server nobody has described is one that clients take."""
    (lines,) = re.findall(r"```sh\n(QR_ENTROPY.*?)```", (ROOT / "docs" / "profiles.md").read_text(), flags=re.DOTALL)
    (tmp_path / ".env").write_text(lines)
    verdict = check(Profile("shown", tmp_path / ".env"))
    assert (verdict.mistakes, verdict.notes) == ([], [])


def test_nothing_is_ignored() -> None:
    """deployments/.gitignore has comments and nothing else: what is in a profile is shared."""
    lines = (DEPLOYMENTS / ".gitignore").read_text().splitlines()
    assert lines
    assert all(line.startswith("#") for line in lines)


def test_high_security_is() -> None:
    """Every listener asks for certificates, bytes live for a minute, nothing weaker is served, no key is in a URL."""
    lines = shipped("high-security").lines()
    asked = {
        "CLIENT_CA_FILE": "certs/clients/ca.pem",
        "PUSH_CLIENT_CA_FILE": "certs/collectors/ca.pem",
        "BUFFER_TTL": "60",
        "LEAST_CLASS": "quantum",
        "ALLOW_API_KEY_IN_QUERY": "false",
        "LOCK_MEMORY": "require",
    }
    assert {name: lines[GATEWAY + name] for name in asked} == asked
