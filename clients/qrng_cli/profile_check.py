"""What is wrong with a profile, all of it at once.

Idea: the programs themselves are the judges. What a profile sets is read as each of them would read it, with
stand-ins for what belongs to a site. Besides, a profile is shared, so a secret in it is a mistake, and so is a
name that is nobody's; and what each program takes by itself may still not fit together: `misfits` looks at the whole.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from qrng_cli.committed_secrets import read_json, secrets_in
from qrng_cli.misfits import misfits
from qrng_cli.profiles import CLIENT, COLLECTOR, GATEWAY, Profile
from qrng_cli.stand_ins import ID, StandIns
from qrng_client.random_client import RandomClient
from qrng_client.settings import ClientSettings
from qrng_grpc.config import Settings, load, read_yaml
from qrng_grpc.errors import ConfigError

YAML_FILES = {GATEWAY: "gateway.yaml", COLLECTOR: "collector.yaml"}
"""Settings of a program that a profile has as YAML too."""

_Tree = dict[str, Any]


@dataclass(slots=True)
class Verdict:
    """What was found: `mistakes`, and in `notes` what a site must still provide."""

    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(profile: Profile) -> Verdict:
    """Judge a profile, and what lies beside it."""
    verdict = Verdict()
    lines = profile.lines(verdict.mistakes)
    trees = {prefix: _tree(lines, prefix) for prefix in (GATEWAY, COLLECTOR, CLIENT)}
    verdict.mistakes += _nobodys(lines)
    verdict.mistakes += secrets_in(profile, lines)
    _judge(trees, verdict, _as_environment)
    in_yaml = {prefix: profile.directory / name for prefix, name in YAML_FILES.items()} if profile.is_folder else {}
    read = {prefix: read_yaml(path, verdict.mistakes) for prefix, path in in_yaml.items() if path.is_file()}
    _judge(read, verdict, _as_yaml)
    if not (lines or read or verdict.mistakes):
        verdict.notes.append("nothing is set yet: every line is switched off")
    verdict.mistakes = list(dict.fromkeys(verdict.mistakes))
    verdict.notes = list(dict.fromkeys(verdict.notes))
    return verdict


def models() -> dict[str, type[Settings]]:
    """Return the settings of each program, by what its names begin with."""
    # The servers' extra, which profiles for clients do without.
    from qrng_collector.config import CollectorConfig  # noqa: PLC0415
    from qrng_gateway.config import GatewayConfig  # noqa: PLC0415

    return {GATEWAY: GatewayConfig, COLLECTOR: CollectorConfig, CLIENT: ClientSettings}


def _tree(lines: Mapping[str, str], prefix: str) -> _Tree:
    """Return the settings of one program, by their names in lower case, with JSON read."""
    ours = {name.removeprefix(prefix).lower(): value for name, value in lines.items() if name.startswith(prefix)}
    return {name: read_json(value) for name, value in ours.items()}


def _nobodys(lines: Mapping[str, str]) -> Iterator[str]:
    """Yield a mistake for each name that no program reads, with the nearest of those that one does."""
    strangers = [name for name in lines if not name.startswith((GATEWAY, COLLECTOR, CLIENT))]
    if strangers:
        known = [prefix + name.upper() for prefix, model in models().items() for name in model.model_fields]
    for name in strangers:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; names begin with {GATEWAY}, {COLLECTOR} or {CLIENT}"
        yield f"{name}: there is no such setting{hint}"


def _judge(trees: Mapping[str, _Tree], verdict: Verdict, read: Callable[[str, _Tree, _Tree, Path], Settings]) -> None:
    """Let each program that `trees` are for read its settings, and look at all that could be read together."""
    could: dict[str, Settings] = {}
    with TemporaryDirectory(prefix="qrng-profile-") as scratch:
        for prefix in [prefix for prefix, tree in trees.items() if tree]:
            own = Path(scratch, prefix)
            own.mkdir()
            tree, lacking = _completed(prefix, trees, own, verdict.notes)
            try:
                could[prefix] = read(prefix, tree, lacking, own)
            except ConfigError as error:
                verdict.mistakes += error.mistakes
        verdict.mistakes += misfits(could, {prefix: frozenset(tree) for prefix, tree in trees.items()})


def _completed(prefix: str, trees: Mapping[str, _Tree], scratch: Path, notes: list[str]) -> tuple[_Tree, _Tree]:
    """Return the settings of a program with stand-ins, and stand-ins for what it needs besides."""
    given = trees[prefix]
    pools = [pool.get("pool_id") for pool in given.get("pools", ()) if isinstance(pool, dict)]
    stand_ins = StandIns(
        scratch,
        collector_id=str(given.get("collector_id", ID)),
        pool_ids=[str(pool_id) for pool_id in pools or [given.get("pool_id", ID)]],
        server=prefix == GATEWAY,
    )
    tree = stand_ins.complete(given)
    notes += [_spelt(note, prefix) for note in stand_ins.notes]
    return tree, {name: value for name, value in needed(prefix, tree).items() if name not in tree}


def needed(prefix: str, tree: Container[str]) -> dict[str, str]:
    """Return what a program whose settings are `tree` cannot be without, as `qrng up` would make it."""
    if prefix == CLIENT:
        return {}
    values = {"pool_id": ID, "state_dir": "."}
    if "signing_keys_file" not in tree:
        values |= {"hmac_secret_key": "stand-in-" * 4, "hmac_key_id": ID}
    if prefix == COLLECTOR or "signing_keys_file" not in tree:
        values |= {"collector_id": ID, "best_class": "operating_system"}
    if prefix == GATEWAY and "api_keys_file" not in tree:
        values |= {"api_keys": "stand-in-" * 4}
    if prefix == COLLECTOR and "pools" not in tree:
        values |= {"push_url": "127.0.0.1:1"}
    elif prefix == COLLECTOR:
        del values["pool_id"]
    return values


def _as_environment(prefix: str, tree: _Tree, lacking: _Tree, _scratch: Path) -> Settings:
    """Read settings as lines of a `.env` file. Raises ConfigError, by the names in it."""
    lines = {
        prefix + name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in (lacking | tree).items()
    }
    return _load(prefix, environ=lines)


def _as_yaml(prefix: str, tree: _Tree, lacking: _Tree, scratch: Path) -> Settings:
    """Read settings as YAML. Raises ConfigError, by file and name."""
    path = scratch / YAML_FILES[prefix]
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(lacking | tree))
    try:
        return _load(prefix, environ={}, yaml_file=path)
    except ConfigError as error:
        raise ConfigError([f"{path.name}: {mistake}" for mistake in error.mistakes]) from None


def _load(prefix: str, **layers: Any) -> Settings:
    settings = load(ClientSettings if prefix == CLIENT else models()[prefix], prefix=prefix, **layers)
    if isinstance(settings, ClientSettings):
        RandomClient(settings).close()  # opens no connection, and refuses what it could not be used with
    return settings


def _spelt(mistake: str, prefix: str) -> str:
    """Return a mistake that names a setting as the model does with its name in the environment."""
    name, separator, rest = mistake.partition(":")
    if not separator or name.startswith(prefix) or name.lower() != name:
        return mistake
    top, dot, inside = name.partition(".")
    return f"{prefix}{top.upper()}{dot}{inside}:{rest}"
