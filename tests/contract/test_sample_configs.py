"""The sample configurations say what the programs do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from qrng_collector import config as collector
from qrng_gateway import config as gateway
from qrng_grpc.config import Settings, load

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "deployments" / "_samples"
SECRETS = {
    "QRNG_GATEWAY_HMAC_SECRET_KEY": "s" * 32,
    "QRNG_GATEWAY_API_KEYS": "k" * 16,
    "QRNG_COLLECTOR_HMAC_SECRET_KEY": "s" * 32,
}
PROGRAMS: list[tuple[str, type[Settings], str]] = [
    ("gateway", gateway.GatewayConfig, gateway.ENV_PREFIX),
    ("collector", collector.CollectorConfig, collector.ENV_PREFIX),
]
programs = pytest.mark.parametrize(("name", "model", "prefix"), PROGRAMS, ids=["gateway", "collector"])


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.yaml").read_text()


def uncommented(text: str) -> dict[str, Any]:
    """The sample with every setting in it switched on."""
    settings: dict[str, Any] = yaml.safe_load(re.sub(r"^# ([a-z_]+:( |$))", r"\1", text, flags=re.MULTILINE))
    return settings


@programs
def test_every_setting_is_there(name: str, model: type[Settings], prefix: str) -> None:
    """A sample shows every setting of its program, and no other."""
    assert set(uncommented(sample(name))) == set(model.model_fields)


@programs
def test_every_setting_is_explained(name: str, model: type[Settings], prefix: str) -> None:
    """No setting stands in a sample without a comment right above it or above its neighbours."""
    paragraphs = sample(name).split("\n\n")
    for paragraph in paragraphs:
        assert paragraph.startswith("#")


@programs
def test_sample_is_accepted(name: str, model: type[Settings], prefix: str) -> None:
    """A sample, with secrets from the environment, would start."""
    load(model, prefix=prefix, environ=SECRETS, yaml_file=SAMPLES / f"{name}.yaml")


@programs
def test_sample_shows_the_defaults(name: str, model: type[Settings], prefix: str) -> None:
    """A setting that has a default stands in the sample with that value."""
    settings = load(model, prefix=prefix, environ=SECRETS, yaml_file=SAMPLES / f"{name}.yaml")
    for field, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if not info.is_required() and default is not None and field in yaml.safe_load(sample(name)):
            assert getattr(settings, field) == default, field


@programs
def test_no_secret_in_sample(name: str, model: type[Settings], prefix: str) -> None:
    """No sample carries a secret that somebody could leave in place."""
    given = yaml.safe_load(sample(name))
    secret = {field for field, info in model.model_fields.items() if "SecretStr" in repr(info.annotation)}
    assert secret
    assert secret.isdisjoint(given)
