"""What `qrng gateway`, `qrng collector` and others have in common: the layers of settings, and mistakes in them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import click

from qrng_cli.profiles import chosen_env_files
from qrng_grpc.config import Settings, load
from qrng_grpc.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)


class Layers(TypedDict):
    """The options of `layer_options`."""

    env_files: tuple[Path, ...]
    overrides: tuple[tuple[str, str], ...]


class Assignment(click.ParamType[tuple[str, str]]):
    """NAME=VALUE."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return name and value."""
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        if not separator or not name:
            self.fail("expected NAME=VALUE", param, ctx)
        return name, text


_LAYERS = (
    click.option(
        "--env-file",
        "env_files",
        type=click.Path(path_type=Path),
        multiple=True,
        help="A .env file with settings by their names in the environment. Of several, the later wins.",
    ),
    click.option(
        "--set",
        "overrides",
        type=Assignment(),
        multiple=True,
        metavar="NAME=VALUE",
        help="One setting, named as in YAML. Not for keys: others can see command lines.",
    ),
)
_END_WITH_FD = click.option(
    "--end-with-fd", type=click.IntRange(0), hidden=True, help="End, as with SIGTERM, when this pipe closes."
)


def layer_options(command: F) -> F:
    """Add --env-file and --set."""
    for option in reversed(_LAYERS):
        command = option(command)
    return command


def config_option(command: F) -> F:
    """Add --config."""
    return click.option("--config", "yaml_file", type=click.Path(path_type=Path), help="A YAML file with settings.")(
        command
    )


def program_options(command: F) -> F:
    """Add what a server's command takes."""
    return config_option(layer_options(_END_WITH_FD(command)))


def load_layers(model: type[S], prefix: str, yaml_file: Path | None, layers: Layers) -> S:
    """Read settings: --set before the environment, --env-file, profile, YAML file, defaults. Raises ConfigError."""
    return load(
        model,
        prefix=prefix,
        environ=os.environ,
        overrides=dict(layers["overrides"]),
        env_files=(*chosen_env_files(), *layers["env_files"]),
        yaml_file=yaml_file,
    )


@contextmanager
def mistakes_told(spelt: Callable[[str], str]) -> Iterator[None]:
    """Let mistakes in settings that show only when the block runs be known by names as `spelt` writes them."""
    try:
        yield
    except ConfigError as error:
        mistakes = [spelt(mistake) for mistake in error.mistakes]
    else:
        return
    raise ConfigError(mistakes)


def end_with(descriptor: int | None) -> None:
    """End this process, as with SIGTERM, once the pipe behind `descriptor` closes at its other end.

    Whoever started us holds that end; however it ends, even by SIGKILL, the pipe closes.
    """
    if descriptor is not None:
        threading.Thread(target=_wait_for_end, args=(descriptor,), name="end-with-fd", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
