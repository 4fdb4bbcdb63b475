"""What get, stream and status have in common: which server, and which bytes are welcome."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import click

from qrng_cli.profiles import chosen_env_files
from qrng_client import Allowance, ChunkRange, EntropyClient, Processing, SourceClass, Wanted
from qrng_client.settings import ENV_PREFIX, client_settings
from qrng_grpc.config import read_env_file
from qrng_grpc.errors import AuthenticationError, ConfigError, QrngError
from qrng_grpc.wording import counted

F = TypeVar("F", bound=Callable[..., Any])


class Server(TypedDict):
    """The options of `server_options`."""

    env_files: tuple[Path, ...]
    address: str | None
    timeout_s: float | None
    tls: bool
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    allow_plaintext_beyond_loopback: bool


class Seconds(click.FloatRange):
    """A number of seconds within bounds. `nan` is none: it compares with no bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail("expected a number of seconds", param, ctx)
        return seconds


_SERVER = (
    click.option(
        "--env-file",
        "env_files",
        type=click.Path(path_type=Path),
        multiple=True,
        help="A .env file with settings of clients, QR_... Of several, the later wins.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="The server: HOST:PORT, [IPV6]:PORT or unix:PATH. Default: QR_GRPC_SERVER_ADDRESS, localhost:50051.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=Seconds(0.001, 3600),
        metavar="SECONDS",
        help="How long one answer may take. Default: QR_GRPC_TIMEOUT_MS, 5 s; 60 s with --fresh.",
    ),
    click.option("--tls", is_flag=True, help="Use TLS."),
    click.option("--ca-file", type=click.Path(path_type=Path), help="Use TLS and trust these authorities (PEM)."),
    click.option(
        "--cert-file",
        type=click.Path(path_type=Path),
        help="Show this certificate (PEM), where the server asks for one.",
    ),
    click.option("--key-file", type=click.Path(path_type=Path), help="Its private key (PEM, mode 0600)."),
    click.option(
        "--allow-plaintext-beyond-loopback", is_flag=True, help="Let key and bytes leave this machine in clear."
    ),
)
_WANTED = (
    click.option(
        "--least-class",
        type=click.Choice(SourceClass, case_sensitive=False),
        help="The weakest class of source to accept. Default: the gateway's.",
    ),
    click.option(
        "--max-age",
        "max_age_s",
        type=Seconds(0.001, 1e9),
        metavar="SECONDS",
        help="The greatest age of any byte. Default: all that the pool still holds.",
    ),
    click.option("--fresh", is_flag=True, help="Only bytes captured from now on; waits for them."),
    click.option(
        "--processing",
        type=click.Choice(Processing, case_sensitive=False),
        help="Only bytes of this processing. Default: any.",
    ),
    click.option(
        "--span-lanes", is_flag=True, help="Let one answer mix classes and processings, under the weakest label."
    ),
    click.option("--provenance", is_flag=True, help="Tell on standard error which chunks the bytes came from."),
)


def server_options(command: F) -> F:
    """Add the options that say which server. What is wrong with them, or lacking, is told in their words."""

    @wraps(command)
    def told_by_options(*arguments: Any, **options: Any) -> Any:
        told: QrngError
        try:
            return command(*arguments, **options)
        except ConfigError as error:
            told = ConfigError([_by_options(mistake, options) for mistake in error.mistakes])
        except AuthenticationError as error:
            told = AuthenticationError(error.message + _lacking_key(cast(Server, options)))
        raise told

    return _all(_SERVER, cast(F, told_by_options))


def wanted_options(command: F) -> F:
    """Add the options that say which bytes are welcome."""
    return _all(_WANTED, command)


def open_client(server: Server) -> EntropyClient:
    """Make a client of a gateway from options, environment and profile.

    Raises ConfigError, or AuthenticationError with neither a key nor a certificate where no server is named: that is
    who has just started a gateway. A server that is named may ask for none.
    """
    environ = client_environ(server)
    if not any(environ.get(name) for name in (*_SHOWN, _ADDRESS)):
        raise AuthenticationError(
            "no API key: set QR_GRPC_API_KEY; beside `qrng up` (make run) add --env-file var/client.env, or once for"
            " all: set -a; . var/client.env; set +a"
        )
    return EntropyClient.from_env(environ)


def client_environ(server: Server) -> dict[str, str]:
    """Return the environment, with what options say above it, and below it what the profile and `.env` files say.

    Where nothing says otherwise, it is a gateway of ours that is asked. Raises ConfigError with every mistake, also for
    a file with a key in it that others can read.
    """
    files = (*chosen_env_files(), *server["env_files"])
    _refuse_not_made(files)
    lines = {name.upper(): value for file in files for name, value in read_env_file(file, []).items()}
    said = {name: value for name, value in lines.items() if name.startswith(ENV_PREFIX)}
    environ = os.environ | _options_as_settings(server)
    said |= {name.upper(): value for name, value in environ.items()}
    unsaid = {} if any(name in said for name in _SERVICES) else {"QR_GRPC_SERVICE": "qrng.v1"}
    if "QR_ENTROPY_SOURCE_TYPE" not in said:
        unsaid["QR_ENTROPY_SOURCE_TYPE"] = "quantum_grpc"
    client_settings(unsaid | environ, env_files=files)
    return said | unsaid


def _lacking_key(server: Server) -> str:
    """Say, to whoever a server that is named does not let in, that nothing was shown to it. Else nothing."""
    environ = client_environ(server)
    if any(environ.get(name) for name in _SHOWN) or not environ.get(_ADDRESS):
        return ""
    return "; none was shown: set QR_GRPC_API_KEY"


_GRPC = f"{ENV_PREFIX}GRPC_"
_ADDRESS = f"{_GRPC}SERVER_ADDRESS"
_SHOWN = (f"{_GRPC}API_KEY", f"{_GRPC}CERT_FILE")
"""What a client may show to be let in."""


def _refuse_not_made(files: Iterable[Path]) -> None:
    """Refuse a file that `qrng up` would make, and has not. Raises ConfigError."""
    for file in files:
        if file.name in _MADE_BY_UP and not file.exists():
            raise ConfigError([f"{file}: not there; `qrng up` (make run), in another terminal, makes it"])


_MADE_BY_UP = ("client.env", "demo.env")
_SERVICES = ("QR_GRPC_SERVICE", "QR_GRPC_METHOD_PATH", "QR_GRPC_STREAM_METHOD_PATH")
"""What names the service that is spoken to."""


def _options_as_settings(server: Mapping[str, Any]) -> dict[str, str]:
    """Return what options say, by the names of settings."""
    timeout_ms = None if server["timeout_s"] is None else max(1, round(server["timeout_s"] * 1000))
    said = {
        "SERVER_ADDRESS": server["address"],
        "TIMEOUT_MS": timeout_ms,
        "TLS": server["tls"] or None,
        "CA_FILE": server["ca_file"],
        "CERT_FILE": server["cert_file"],
        "KEY_FILE": server["key_file"],
        "ALLOW_PLAINTEXT_BEYOND_LOOPBACK": server["allow_plaintext_beyond_loopback"] or None,
    }
    return {f"{_GRPC}{name}": str(value) for name, value in said.items() if value is not None}


def _by_options(mistake: str, server: Mapping[str, Any]) -> str:
    """Return a mistake in settings with the options that were given in the place of the variables they stand for."""
    for name in _options_as_settings(server):
        option = "--" + _OPTIONS.get(name, name.removeprefix(_GRPC).lower().replace("_", "-"))
        mistake = re.sub(rf"\b{name}\b", option, mistake)
    return mistake


_OPTIONS = {_ADDRESS: "address", f"{_GRPC}TIMEOUT_MS": "timeout"}
"""Those that are not called as their settings are."""


def split_options(options: dict[str, Any]) -> tuple[Server, Wanted]:
    """Sort the options that both decorators added."""
    wanted = Wanted(**{name: options.pop(name) for name in Wanted.__annotations__})  # type: ignore[typeddict-item]
    return Server(**options), wanted  # type: ignore[typeddict-item]


def tell_provenance(ranges: Iterable[ChunkRange]) -> None:
    """Print where bytes came from on standard error, a line for each range."""
    for one in ranges:
        click.echo(
            f"collector={printable(one.collector_id)} epoch={one.epoch} sequence={one.sequence}"
            f" offset={one.offset} bytes={one.size}",
            err=True,
        )


def in_words(allowance: Allowance) -> str:
    """Say what a client has left."""
    requests = None if allowance.requests is None else f"{counted(allowance.requests, 'request')} at once"
    left = None if allowance.bytes_today is None else f"{counted(allowance.bytes_today, 'byte')} today"
    return ", ".join(filter(None, (requests, left)))


def printable(text: str) -> str:
    """Return `text` of a server without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _all(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command
