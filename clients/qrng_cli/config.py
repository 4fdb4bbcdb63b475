"""`qrng config check`: every mistake at once, before a program is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import click

from qrng_cli.programs import Layers, layer_options, load_layers
from qrng_grpc.config import Settings, read_yaml

Program = Literal["gateway", "collector"]
_Models = dict[Program, tuple[type[Settings], str]]


@click.group("config")
def command() -> None:
    """Check configuration files."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--program", type=click.Choice(get_args(Program)), help="Whose settings they are. Default: told by their names."
)
@layer_options
def check(file: Path, program: Program | None, **layers: Any) -> None:
    """Say whether a program would start with the YAML file FILE, and print every mistake if not.

    \b
      qrng config check gateway.yaml --env-file gateway.env

    The environment counts as it would for the program, so that keys need not stand in FILE. Prints "ok", or
    the mistakes and exit code 2.
    """
    models = _models()
    model, prefix = models[program or _told_by_names(file, models)]
    load_layers(model, prefix, file, Layers(**layers))  # type: ignore[typeddict-item]
    click.echo("ok")


def _models() -> _Models:
    # The servers' extra, which --help does without.
    from qrng_collector import config as collector  # noqa: PLC0415
    from qrng_gateway import config as gateway  # noqa: PLC0415

    return {
        "gateway": (gateway.GatewayConfig, gateway.ENV_PREFIX),
        "collector": (collector.CollectorConfig, collector.ENV_PREFIX),
    }


def _told_by_names(file: Path, models: _Models) -> Program:
    mistakes: list[str] = []
    names = set(read_yaml(file, mistakes))
    if mistakes:
        return "gateway"  # nobody's settings: either program's loading says why
    known = {program: len(names & set(model.model_fields)) for program, (model, _) in models.items()}
    if known["gateway"] == known["collector"]:
        raise click.UsageError("the names do not tell whose settings these are; say --program gateway or collector")
    return max(known, key=known.__getitem__)
