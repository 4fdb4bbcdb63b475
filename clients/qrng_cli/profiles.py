"""Profiles: where they lie, and which one a command was told to use.

Idea: a profile is a folder under `deployments/` of the working directory, with a `.env` file in it, or such a file
from anywhere. It is named once, before the subcommand or behind it, and counts wherever settings are read: above
YAML files and defaults, below other .env files, the environment and the command line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from qrng_grpc.chunk import is_id

FOLDER = Path("deployments")
ENV_FILE = ".env"
GATEWAY, COLLECTOR, CLIENT = "QRNG_GATEWAY_", "QRNG_COLLECTOR_", "QR_"
"""What the names of the settings of each program begin with."""

_CHOSEN = "qrng_cli.profile"


@dataclass(frozen=True, slots=True)
class Profile:
    """A `.env` file that says how to run against one source of entropy, and what it is called."""

    name: str
    env_file: Path

    def lines(self, mistakes: list[str] | None = None) -> dict[str, str]:
        """Return what it sets, by name in capitals; lines that set nothing join `mistakes`."""
        from qrng_grpc.config import read_env_file  # noqa: PLC0415 - `qrng --help` does without what it imports

        read = read_env_file(self.env_file, [] if mistakes is None else mistakes)
        return {name.upper(): value for name, value in read.items()}

    @property
    def directory(self) -> Path:
        """Where it lies, with what else belongs to it."""
        return self.env_file.parent

    @property
    def is_folder(self) -> bool:
        """Whether what lies beside the file belongs to the profile too."""
        return self.env_file.name == ENV_FILE

    @property
    def is_committed(self) -> bool:
        """Whether it lies where everybody gets it."""
        return self.env_file.resolve().is_relative_to(FOLDER.resolve())

    @property
    def title(self) -> str:
        """What it says of itself: the first sentence of the comment it begins with, without settings in it."""
        text = self.env_file.read_text(encoding="utf-8", errors="replace")
        comment = re.match(r"(?:#(?!.*=).*\n?)*", text)
        words = " ".join(line.lstrip("# ") for line in (comment[0] if comment else "").splitlines())
        sentence = re.match(r"(.*?)\.(?=\s|$)", words.removeprefix("Profile: "))
        return sentence[1] if sentence else words

    @property
    def why_none_runs(self) -> str | None:
        """Why it is about no gateway and no collector: it sets nothing, or what clients need. None if it is about one.

        Without it the programs' defaults would be in force: the operating system's randomness, under another name.
        """
        mistakes: list[str] = []
        names = self.lines(mistakes).keys()
        if not names and not mistakes:
            return "sets nothing yet"
        if any(name.startswith(CLIENT) for name in names) and not any(
            name.startswith((GATEWAY, COLLECTOR)) for name in names
        ):
            return "has settings of clients alone"
        return None


def profiles() -> list[Profile]:
    """Return the profiles of the working directory, by name. Folders that begin with `_` are none."""
    return [
        Profile(path.parent.name, path)
        for path in sorted(FOLDER.glob(f"*/{ENV_FILE}"))
        if is_id(path.parent.name) and path.is_file()
    ]


def profile_named(name: str) -> Profile:
    """Return the profile `name`. Raises UsageError, with the nearest there is, when there is no such profile."""
    if not is_id(name):
        raise click.UsageError("a profile is named by letters, digits and . _ - with a letter or digit first")
    path = FOLDER / name / ENV_FILE
    if path.is_file():
        return Profile(name, path)
    near = difflib.get_close_matches(name, [profile.name for profile in profiles()], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise click.UsageError(f"there is no profile {name}: {path} does not exist{hint}")


def chosen_profile() -> Profile | None:
    """Return the profile that the running command was told to use."""
    context = click.get_current_context(silent=True)
    profile: Profile | None = None if context is None else context.meta.get(_CHOSEN)
    return profile


def chosen_env_files() -> tuple[Path, ...]:
    """Return the file of that profile, where there is one."""
    profile = chosen_profile()
    return () if profile is None else (profile.env_file,)


def accept_profile(command: click.Command) -> None:
    """Let `command`, and each command in it, be told a profile."""
    if isinstance(command, click.Group):
        for inside in command.commands.values():
            accept_profile(inside)
    elif _OPTIONS[0] not in command.params:
        command.params.extend(_OPTIONS)


def profile_options() -> Iterator[click.Option]:
    """Yield the options that tell a profile, for whatever comes before the subcommand."""
    yield from _OPTIONS


def _choose(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value is None or context.resilient_parsing:
        return
    if _CHOSEN in context.meta:
        raise click.UsageError("name one profile, once: by --profile or by --profile-file")
    context.meta[_CHOSEN] = Profile(str(value), value) if isinstance(value, Path) else profile_named(value)


_OPTIONS = (
    click.Option(
        ["--profile"],
        metavar="NAME",
        expose_value=False,
        is_eager=True,
        callback=_choose,
        help="Use the settings in deployments/NAME/.env.",
    ),
    click.Option(
        ["--profile-file"],
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        expose_value=False,
        is_eager=True,
        callback=_choose,
        help="Use the settings in this .env file.",
    ),
)
