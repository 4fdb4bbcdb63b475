"""Kinds of sources: how they are found, and what is refused. The packages here are real ones, written for the test."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from qrng_grpc.config import Settings, load
from qrng_grpc.errors import ConfigError
from qrng_grpc.sources.kinds import (
    GROUP,
    AnySource,
    KindError,
    SourceSettings,
    Surroundings,
    offers,
    open_source,
    settings_of,
)
from qrng_grpc.sources.kinds.mock import MockSettings

BUILT_IN = ("system", "http", "grpc", "device", "jitter", "mock")
DICE = '''
from typing import Literal

from pydantic import Field, SecretStr

from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources.kinds import SourceSettings
from qrng_grpc.testing import LedgerSource


class DiceSettings(SourceSettings):
    kind: Literal["dice"] = Field(description="Dice.")
    faces: int = Field(6, ge=2, description="Faces of a die.")
    password: SecretStr | None = Field(None, description="What opens the box.")

    @property
    def label_class(self):
        return SourceClass.SIMULATED

    @property
    def label_device_id(self):
        return "simulated"

    def open(self, given):
        return LedgerSource(self.faces)


class Overstated(DiceSettings):
    @property
    def label_class(self):
        return SourceClass.QUANTUM


class Nothing(DiceSettings):
    @property
    def most_bytes(self):
        return 0


class Unopened(DiceSettings):
    def open(self, given):
        raise OSError("words of a stranger")


class Half(SourceSettings):
    kind: Literal["half"] = Field(description="Half a kind.")


def function():
    """Not a class."""
'''


@dataclass
class Packages:
    """A folder of installed packages."""

    folder: Path

    def install(self, package: str, kinds: dict[str, str], **modules: str) -> None:
        """Write a package as an installer leaves it: its modules, and its metadata with entry points."""
        metadata = self.folder / f"{package.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[{GROUP}]", *(f"{kind} = {value}" for kind, value in kinds.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("dice_kind", "dice_broken", "dice_ends"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return Packages(tmp_path)


class Program(Settings):
    """A program with sources."""

    sources: tuple[AnySource, ...] = ()


def loaded(folder: Path, text: str, mode: int = 0o644) -> Program:
    file = folder / "program.yaml"
    file.touch(mode=mode)
    file.write_text(text)
    return load(Program, prefix="P_", environ={}, yaml_file=file)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_built_in_kinds_are_found_like_any_other(kind: str) -> None:
    """Each is an offer of this package, whose settings are of that kind."""
    assert [offer.package for offer in offers() if offer.kind == kind] == ["qrng-grpc"]
    model = settings_of(kind)
    assert issubclass(model, SourceSettings)
    assert kind in str(model.model_fields["kind"].annotation)


async def test_a_package_adds_its_kind(packages: Packages) -> None:
    """Settings name it, its own settings are checked, and what it opens is a source."""
    packages.install("qrng-dice", {"dice": "dice_kind:DiceSettings"}, dice_kind=DICE)
    assert [(offer.kind, offer.package) for offer in offers()][len(BUILT_IN) :] == [("dice", "qrng-dice")]
    (entry,) = loaded(packages.folder, "sources: [{kind: dice, faces: 20}]").sources
    source = open_source(entry, Surroundings())
    assert len(await source.read(16)) == 16
    with pytest.raises(ConfigError) as caught:
        loaded(packages.folder, "sources: [{kind: dice, faces: 1, colour: red}]")
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == ["sources.0.faces", "sources.0.colour"]


def test_nothing_is_imported_that_was_not_asked_for(packages: Packages) -> None:
    """Not by listing the kinds, nor by asking for another: a fresh interpreter has only the modules of that kind."""
    packages.install("qrng-dice", {"dice": "dice_kind:DiceSettings"}, dice_kind=DICE)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from qrng_grpc.sources.kinds import offers, settings_of\n"
        "assert 'dice' in [offer.kind for offer in offers()]\n"
        "settings_of('mock')\n"
        "unwanted = {'dice_kind', 'aiohttp', 'qrng_grpc.sources.http', 'qrng_grpc.sources.grpc'}\n"
        "sys.exit(str(unwanted & set(sys.modules)) if unwanted & set(sys.modules) else 0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(packages.folder)], check=True)


@pytest.mark.parametrize(
    ("kind", "value", "fault"),
    [
        ("dice", "dice_kind:Missing", "of package qrng-dice cannot be loaded: AttributeError"),
        ("dice", "no_such_module:DiceSettings", "of package qrng-dice cannot be loaded: there is no module no_such"),
        ("dice", "dice_broken:DiceSettings", "of package qrng-dice cannot be loaded: ZeroDivisionError"),
        ("dice", "dice_ends:DiceSettings", "of package qrng-dice cannot be loaded: SystemExit"),
        ("dice", "dice_kind:function", "of package qrng-dice is not a subclass of SourceSettings"),
        ("dice", "dice_kind", "of package qrng-dice is not a subclass of SourceSettings"),
        ("half", "dice_kind:Half", "of package qrng-dice lacks label_class, label_device_id, open"),
    ],
)
def test_a_broken_kind_names_its_package(packages: Packages, kind: str, value: str, fault: str) -> None:
    """Whoever asks for it hears which package is at fault; all other kinds are as they were."""
    packages.install("qrng-dice", {kind: value}, dice_kind=DICE, dice_broken="1 / 0", dice_ends="raise SystemExit")
    with pytest.raises(KindError, match=f"the kind {kind} {fault}"):
        settings_of(kind)
    with pytest.raises(ConfigError, match=rf"sources\.0: the kind {kind} {fault}"):
        loaded(packages.folder, f"sources: [{{kind: {kind}}}]")
    assert settings_of("mock") is MockSettings


def test_nobody_takes_the_name_of_a_built_in_kind(packages: Packages) -> None:
    """It is refused with the names of both packages, whoever comes first on the path; others are as they were."""
    packages.install("qrng-evil", {"system": "dice_kind:DiceSettings"}, dice_kind=DICE)
    with pytest.raises(KindError, match="system is offered by several packages: qrng-grpc and qrng-evil; uninstall"):
        settings_of("system")
    assert settings_of("mock") is MockSettings
    assert "dice_kind" not in sys.modules


def test_two_packages_with_one_kind_are_refused(packages: Packages) -> None:
    """Neither wins."""
    packages.install("qrng-dice", {"dice": "dice_kind:DiceSettings"}, dice_kind=DICE)
    packages.install("qrng-other-dice", {"dice": "dice_kind:DiceSettings"})
    with pytest.raises(KindError, match="several packages: qrng-dice and qrng-other-dice; uninstall all but one"):
        settings_of("dice")


def test_an_unknown_kind_is_told_what_there_is() -> None:
    """By name, and so is one that is missing, or no mapping at all."""
    with pytest.raises(KindError, match="there are device, grpc, http, jitter, mock, system"):
        settings_of("dise")
    for entry in ({"seed": 1}, {"kind": 7}, "mock", None):
        with pytest.raises(ValidationError, match="kind: required; there are device"):
            Program(sources=(entry,))


def test_a_source_labels_its_bytes_as_its_settings_say(packages: Packages) -> None:
    """A class that settings state and the source does not, or the other way round, is refused."""
    packages.install("qrng-dice", {"dice": "dice_kind:Overstated"}, dice_kind=DICE)
    entry = settings_of("dice").model_validate({"kind": "dice"})
    with pytest.raises(KindError, match="the kind dice labels its bytes otherwise than its settings say"):
        open_source(entry, Surroundings())


@pytest.mark.parametrize(
    ("model", "fault"), [("Nothing", "its most_bytes is below 1"), ("Unopened", "cannot be opened: OSError")]
)
def test_a_kind_that_cannot_be_opened_is_at_fault(packages: Packages, model: str, fault: str) -> None:
    """A kind that could not be asked for a byte, or fails where only settings may, is refused in words of ours."""
    packages.install("qrng-dice", {"dice": f"dice_kind:{model}"}, dice_kind=DICE)
    with pytest.raises(KindError, match=fault) as caught:
        open_source(settings_of("dice")(kind="dice"), Surroundings())
    assert "stranger" not in str(caught.value)


def test_a_secret_of_any_kind_protects_its_file(packages: Packages) -> None:
    """A settings file with a secret in an entry must be its reader's alone; without one, anybody may read it."""
    packages.install("qrng-dice", {"dice": "dice_kind:DiceSettings"}, dice_kind=DICE)
    entries = "sources: [{kind: dice, password: open-sesame}]"
    with pytest.raises(ConfigError, match=r"sets sources\.0\.password|sets sources\.password") as caught:
        loaded(packages.folder, entries)
    assert "sesame" not in str(caught.value)
    (packages.folder / "program.yaml").chmod(0o600)
    (entry,) = loaded(packages.folder, entries).sources
    assert "sesame" not in repr(entry)
    (packages.folder / "program.yaml").chmod(0o644)
    assert loaded(packages.folder, "sources: [{kind: dice}]")


def test_entries_may_be_models_already() -> None:
    """A program that makes its settings in code gives them as they are."""
    entry = MockSettings(kind="mock", seed=3)
    assert Program(sources=(entry,)).sources == (entry,)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_setting_is_described(kind: str) -> None:
    """A reference can be made from the models alone."""
    model: type[BaseModel] = settings_of(kind)
    fields: dict[str, Any] = model.model_fields
    assert all(field.description for field in fields.values())
