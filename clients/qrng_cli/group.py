"""The subcommands, and what becomes of their errors.

Idea: a subcommand's module is imported when it is called, and a server's when it is started, so that `qrng --help` is
quick, and `qrng get` and `qrng gateway --help` run without the packages only servers need. Errors of ours become one
line and an exit code that a script can tell apart.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from qrng_cli import interrupts
from qrng_cli.profiles import accept_profile, profile_options
from qrng_grpc import __version__
from qrng_grpc.errors import (
    AuthenticationError,
    ConfigError,
    DrainingError,
    ForbiddenError,
    InvalidRequestError,
    LimitError,
    PoolShortError,
    QrngError,
    ServerUnreachableError,
    SourceUnavailableError,
    UnsupportedError,
    WeakerSourceError,
)
from qrng_grpc.wording import reason_of

FAILURE, USAGE, UNAVAILABLE, NOT_LET_IN, REFUSED, INTERRUPTED = 1, 2, 3, 4, 5, 130

_EXIT_CODES: dict[type[QrngError], int] = {
    ConfigError: USAGE,
    ServerUnreachableError: UNAVAILABLE,
    PoolShortError: UNAVAILABLE,
    SourceUnavailableError: UNAVAILABLE,
    DrainingError: UNAVAILABLE,
    LimitError: UNAVAILABLE,
    AuthenticationError: NOT_LET_IN,
    ForbiddenError: NOT_LET_IN,
    InvalidRequestError: REFUSED,
    UnsupportedError: REFUSED,
    WeakerSourceError: REFUSED,
}

SUBCOMMANDS = {
    "up": ("qrng_cli.up", "Run a gateway and a collector here, until Ctrl-C."),
    "get": ("qrng_cli.get", "Print random bytes."),
    "stream": ("qrng_cli.stream", "Write random bytes without end, or a total, to a pipe or file."),
    "status": ("qrng_cli.status", "Show how a gateway does."),
    "gateway": ("qrng_cli.gateway", "Run a gateway."),
    "collector": ("qrng_cli.collector", "Run a collector."),
    "serve-source": ("qrng_cli.serve_source", "Serve one source directly, without a pool."),
    "test": ("qrng_cli.source_tests", "Test a collector's sources once."),
    "config": ("qrng_cli.config", "Check configuration files."),
    "profile": ("qrng_cli.profile", "List, show, check and make profiles: how to run against a source."),
    "keys": ("qrng_cli.keys", "Create, list, rotate and revoke the keys of clients."),
    "keygen": ("qrng_cli.keygen", "Make a fresh key."),
    "certs": ("qrng_cli.certs", "Make certificates for TLS between the programs."),
}
"""Module and one line of help for each; the module calls its command `command`."""


class Failure(click.ClickException):
    """An error as the terminal shows it."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click declares a class variable and reads the instance's


class Subcommands(click.Group):
    """A group that imports its commands when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the subcommands, the commonest first."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in SUBCOMMANDS:
            return None
        try:
            module = importlib.import_module(SUBCOMMANDS[cmd_name][0])
        except ModuleNotFoundError as error:
            raise _lacking(cmd_name, error) from None
        interrupts.are_exceptions()
        command: click.Command = module.command
        accept_profile(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in SUBCOMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; turn what ends it into an exit code."""
        try:
            return super().invoke(ctx)
        except QrngError as error:
            raise Failure(error.message, exit_code(error)) from None
        except ModuleNotFoundError as error:
            raise _lacking(ctx.invoked_subcommand, error) from None
        except BrokenPipeError:
            _reader_left()
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise Failure(f"{where}{reason_of(error)}") from None
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def exit_code(error: QrngError) -> int:
    """Return the exit code that stands for `error`."""
    return next((_EXIT_CODES[cls] for cls in type(error).__mro__ if cls in _EXIT_CODES), FAILURE)


def _lacking(subcommand: str | None, error: ModuleNotFoundError) -> Failure:
    return Failure(f"qrng {subcommand}: the package {error.name} is missing; install qrng-grpc[server,cli]")


def _reader_left() -> NoReturn:
    """End quietly and well: a reader such as `head` that goes away has had enough."""
    # The interpreter flushes standard output once more as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


@click.group(cls=Subcommands, params=[*profile_options()], context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qrng")
def cli() -> None:
    """Randomness from quantum devices: serve it, collect it, read it.

    \b
    Try it here, with the operating system's randomness:
      qrng up                                 in one terminal
      set -a; . var/client.env; set +a        in another
      qrng get 32
      qrng stream --total 1M > random.bin
      qrng status

    The server and the key for get, stream and status come from the environment: QR_GRPC_SERVER_ADDRESS,
    QR_GRPC_API_KEY, and QR_GRPC_TIMEOUT_MS (5000). A key never goes on a command line, where others see it.

    A profile (`qrng profile list`) may be named before any subcommand or behind it: `qrng --profile urandom up`. Its
    settings give way to those of other .env files, the environment and the command line.

    \b
    Exit codes:
      0    done; also when the reader of a pipe has had enough
      1    failed
      2    wrong usage or configuration
      3    the server cannot be reached, is ending, has not enough bytes now, or a limit is used up: try later
      4    the server does not accept the key or certificate, or not for this
      5    the server refuses the request: a size, a field, or only weaker sources than asked for
      130  interrupted by Ctrl-C (`up`, `gateway` and `collector` then end with 0)
    """
