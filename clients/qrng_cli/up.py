"""`qrng up`: a gateway and a collector on this machine, under one command."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from qrng_cli.profiles import chosen_profile, profiles
from qrng_cli.programs import Assignment
from qrng_grpc.errors import StateHeldError
from qrng_grpc.state import state_directory

DEFAULT_PROFILE = "urandom"


@click.command("up")
@click.option(
    "--var",
    type=click.Path(path_type=Path),
    default=Path("var"),
    show_default=True,
    help="Directory for keys and state; mode 0700 when it is made.",
)
@click.option(
    "--set",
    "settings",
    type=Assignment(),
    multiple=True,
    metavar="NAME=VALUE",
    help="One setting by its name in the environment, such as QRNG_GATEWAY_LISTEN_ADDRESS. Not for keys.",
)
def command(var: Path, settings: tuple[tuple[str, str], ...]) -> None:
    """Run a gateway and a collector here, until Ctrl-C.

    \b
      qrng up
      qrng up --set QRNG_GATEWAY_LISTEN_ADDRESS=127.0.0.1:6000

    Without a profile it takes deployments/urandom, where that exists.

    The first start makes keys and ids and keeps them in var/demo.env, mode 0600; later starts use them again. The
    two lines that clients need are in var/client.env too. Paste what it prints into another terminal. Settings
    come, strongest first, from --set, the environment, the profile, var/demo.env and the defaults.

    Ctrl-C ends the collector, which flushes what it holds, then the gateway, which lets running calls finish;
    exit code 0. If either ends by itself, the other is stopped; exit code 1.
    """
    # The servers' extra, which --help does without.
    from qrng_cli.setup import prepare, rehearse  # noqa: PLC0415
    from qrng_cli.supervisor import supervise  # noqa: PLC0415

    file = _profile_file()
    if not var.exists():
        rehearse(file, dict(settings))
    with _only_one(var):
        asyncio.run(supervise(prepare(var, file, dict(settings))))


def _profile_file() -> Path | None:
    """Return the profile to use. Raises UsageError for one without settings of either program."""
    profile = chosen_profile()
    if profile is None:  # the programs' defaults are the operating system's randomness too
        return next((one.env_file for one in profiles() if one.name == DEFAULT_PROFILE), None)
    if why := profile.why_none_runs:
        raise click.UsageError(f"the profile {profile.name} {why}: there is nothing to run")
    return profile.env_file


@contextmanager
def _only_one(var: Path) -> Iterator[None]:
    """Hold `var` while the block runs. Raises StateError when another `up` does, or when it cannot be used."""
    with ExitStack() as held:
        try:
            held.enter_context(state_directory(var))
        except StateHeldError as error:
            raise StateHeldError(f"{error.message}; does another `qrng up` run?") from None
        yield
