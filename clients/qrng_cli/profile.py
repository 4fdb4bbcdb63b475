"""`qrng profile`: how to run against a source, as a folder that is shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from qrng_cli.profiles import CLIENT, COLLECTOR, FOLDER, GATEWAY, Profile, chosen_profile, profile_named, profiles
from qrng_grpc.errors import ConfigError

_HEADINGS = {GATEWAY: "gateway", COLLECTOR: "collector", CLIENT: "client", "": "nobody"}


@click.group("profile")
def command() -> None:
    """List, show, check and make profiles: how to run against a source.

    \b
      qrng profile list
      qrng profile show firefly-1
      qrng profile new laboratory
      qrng profile check laboratory
      qrng --profile laboratory up

    A profile is a folder in deployments/ of this directory with a file .env in it: settings of gateway, collector and
    clients, to be shared, and no keys.
    """


@command.command("list")
def list_() -> None:
    """List the profiles in deployments/ of this directory.

    \b
      qrng profile list
    """
    found = profiles()
    if not found:
        raise click.UsageError(f"there are no profiles in {FOLDER}/ here; `qrng profile new NAME` makes one")
    width = max(len(profile.name) for profile in found)
    for profile in found:
        click.echo(f"{profile.name:<{width}}  {_printable(profile.title)}")


@command.command("show")
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """Print what the profile NAME sets, by program. Secrets are shown as ***.

    \b
      qrng profile show firefly-1
    """
    profile = _the_one(name)
    mistakes: list[str] = []
    lines = profile.lines(mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    click.echo(f"{profile.env_file}: {_printable(profile.title)}")
    for prefix, heading in _HEADINGS.items():
        ours = {line: value for line, value in lines.items() if _prefix_of(line) == prefix}
        if ours:
            click.echo(f"\n{heading}")
        for line, value in ours.items():
            click.echo(f"  {_printable(line)}={_printable(_masked(line, value))}")


@command.command("check")
@click.argument("names", metavar="[NAME]...", nargs=-1)
def check(names: tuple[str, ...]) -> None:
    """Say whether the programs would take the profile NAME, and print every mistake if not.

    \b
      qrng profile check laboratory
      qrng profile check                     all there are
      qrng profile check --profile-file /etc/qrng/laboratory.env

    Told are names that are nobody's, values out of range, secrets in files that are shared, and settings that
    cannot work together. What a site must still provide, such as keys and certificates, is stood in for, and noted on
    standard error. Prints "ok", or the mistakes and exit code 2.
    """
    # What it imports is more than `qrng profile list` needs.
    from qrng_cli import profile_check  # noqa: PLC0415

    chosen = [profile_named(name) for name in names] or [*filter(None, [chosen_profile()])] or profiles()
    if not chosen:
        raise click.UsageError(f"name a profile: there are none in {FOLDER}/ here")
    mistakes = []
    for profile in chosen:
        verdict = profile_check.check(profile)
        whose = f"{profile.name}: " if len(chosen) > 1 else ""
        for note in verdict.notes:
            click.echo(f"{whose}{note}", err=True)
        mistakes += [f"{whose}{mistake}" for mistake in verdict.mistakes]
        if len(chosen) > 1 and not verdict.mistakes:
            click.echo(f"{whose}ok")
    if mistakes:
        raise ConfigError(mistakes)
    if len(chosen) == 1:
        click.echo("ok")


@command.command("new")
@click.argument("where", metavar="NAME")
def new(where: str) -> None:
    """Make a profile NAME in deployments/ of this directory, with every setting in it, explained and switched off.

    \b
      qrng profile new laboratory
      qrng profile new /etc/qrng/laboratory      a directory of yours

    What has a slash in it is a directory. There must be nothing there yet.
    """
    # What it imports is more than `qrng profile list` needs.
    from qrng_cli.profile_template import write_profile  # noqa: PLC0415

    directory = _place_for(where)
    write_profile(directory)
    named = directory.name if directory.parent == FOLDER else f"--profile-file {directory / '.env'}"
    click.echo(f"{directory} is there: edit {directory / '.env'}, then `qrng profile check {named}`")


def _the_one(name: str | None) -> Profile:
    profile = chosen_profile() if name is None else profile_named(name)
    if profile is None:
        raise click.UsageError("name a profile; `qrng profile list` has those there are")
    return profile


def _prefix_of(name: str) -> str:
    return next((prefix for prefix in (GATEWAY, COLLECTOR, CLIENT) if name.startswith(prefix)), "")


def _masked(name: str, value: str) -> str:
    """Return `value` with *** for the secrets in it, and for JSON that is none; a placeholder is no secret."""
    # Imports what reads settings, which `qrng profile list` does without.
    from qrng_cli.stand_ins import is_secret  # noqa: PLC0415

    def masked(part: Any, path: str) -> Any:
        if isinstance(part, dict):
            return {key: masked(inside, f"{path}.{key}") for key, inside in part.items()}
        if isinstance(part, list):
            return [masked(inside, f"{path}.{number}") for number, inside in enumerate(part)]
        return "***" if is_secret(path, part) else part

    try:
        tree = json.loads(value) if value.startswith(("[", "{")) else value
    except ValueError:
        tree = "***" if '"' in value else value  # an address in brackets, or JSON of which nobody knows what is in it
    return str(masked(tree, name)) if isinstance(tree, str) else json.dumps(masked(tree, name))


def _place_for(where: str) -> Path:
    from qrng_grpc.chunk import is_id  # noqa: PLC0415

    if "/" in where:
        return Path(where)
    if not is_id(where):
        raise click.UsageError("a profile is named by letters, digits and . _ - with a letter or digit first")
    if not FOLDER.is_dir():
        raise click.UsageError(f"there is no {FOLDER}/ here; say a directory, as in ./{where}")
    return FOLDER / where


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
