"""`qrng serve-source`: one source, served directly, until SIGTERM or Ctrl-C.

Idea: the whole configuration is on the command line: which kind of source, its settings by --set, and the listener.
What is secret stands in files that options name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import yaml
from pydantic import SecretStr, ValidationError

from qrng_cli.profiles import chosen_profile
from qrng_cli.programs import Assignment, end_with, mistakes_told
from qrng_cli.sizes import Size
from qrng_grpc.errors import ConfigError

if TYPE_CHECKING:
    from qrng_source_server.config import SourceServerConfig

_FILE = click.Path(path_type=Path)


@click.command("serve-source")
@click.argument("kind", required=False)
@click.option("--list", "list_kinds", is_flag=True, help="List the kinds of sources there are, and their packages.")
@click.option(
    "--set",
    "settings",
    type=Assignment(),
    multiple=True,
    metavar="NAME=VALUE",
    help="One setting of the source, named as in docs/sources.md. Not for keys: others can see command lines.",
)
@click.option("--listen", "listen_address", metavar="HOST:PORT", help="Where to listen. Default: 127.0.0.1:50051.")
@click.option(
    "--api-key-file",
    "api_key_files",
    type=_FILE,
    multiple=True,
    help="A file of mode 0600 with a key alone, which clients then need; several for several keys. Required beyond"
    " loopback.",
)
@click.option("--tls-cert-file", type=_FILE, help="The server's certificate in PEM, and its chain.")
@click.option("--tls-key-file", type=_FILE, help="Its private key in PEM, mode 0600.")
@click.option("--client-ca-file", type=_FILE, help="Authorities in PEM, of which clients must show a certificate.")
@click.option(
    "--allow-plaintext-beyond-loopback",
    is_flag=True,
    default=None,
    help="Let keys and bytes leave this machine without TLS.",
)
@click.option("--max-request-bytes", type=Size(), help="Most bytes in one message, up to 1M. Default: 1M.")
@click.option("--max-waiting", type=int, help="Requests that may wait for the source at once. Default: 64.")
@click.option("--max-streams", type=int, help="Streams that may be open at once. Default: 64.")
@click.option(
    "--state-dir", type=_FILE, help="Directory for what a source must remember, such as how far a file was read."
)
@click.option(
    "--quarantine-pause", type=float, help="Seconds a source that failed its tests is left alone. Default: 60."
)
@click.option("--drain-timeout", type=float, help="Seconds that running calls get to finish at the end. Default: 5.")
@click.option("--lock-memory", metavar="try|require|off", help="Whether memory is kept out of swap. Default: try.")
@click.option("--log-level", metavar="debug|info|warning|error", help="The least severe events that are logged.")
@click.option("--end-with-fd", type=click.IntRange(0), hidden=True, help="End, as with SIGTERM, when this pipe closes.")
def command(
    kind: str | None,
    list_kinds: bool,
    settings: tuple[tuple[str, str], ...],
    end_with_fd: int | None,
    **listener: Any,
) -> None:
    """Serve one source directly over gRPC, without a pool.

    \b
      qrng serve-source system
      qrng serve-source device --set path=/dev/hwrng --set source_class=hardware --set device_id=tpm-1
      qrng serve-source jitter --listen 192.0.2.1:50051 --api-key-file key --tls-cert-file c.pem --tls-key-file k.pem

    Every byte is measured after the request for it arrived, and tested before it leaves. Requests take turns. It speaks
    qrng.v1, qr_entropy and qrng; `qrng get` and `qrng stream` are clients of it too. There is no pool, no age limit and
    no quota here: for those, and for a way out of a protected network, run a collector and a gateway.

    SIGTERM and Ctrl-C let running calls finish, and end with exit code 0. SIGHUP takes exchanged certificates, SIGUSR1
    has the source tested before it is next read.
    """
    # The servers' extra, which --help does without.
    from qrng_grpc.sources.kinds import offers  # noqa: PLC0415
    from qrng_source_server.app import main  # noqa: PLC0415

    if list_kinds:
        for offer in offers():
            click.echo(f"{offer.kind:<12} {offer.package}")
        return
    if kind is None:
        raise click.UsageError("name a kind of source; --list shows which there are")
    if chosen_profile() is not None:
        raise click.UsageError("a profile has no effect here: it is for collectors, gateways and clients")
    config = _config(kind, settings, {name: value for name, value in listener.items() if value is not None})
    end_with(end_with_fd)
    with mistakes_told(_spelt):
        main(config)


def _config(kind: str, settings: tuple[tuple[str, str], ...], listener: dict[str, Any]) -> SourceServerConfig:
    """Return the configuration. Raises ConfigError with every mistake."""
    from qrng_source_server.config import SourceServerConfig  # noqa: PLC0415

    _refuse_secrets(kind, settings)
    source = {"kind": kind} | {name: _value(text) for name, text in settings}
    try:
        return SourceServerConfig(source=source, **listener)
    except ValidationError as error:
        raise ConfigError([_told(mistake, kind) for mistake in error.errors()]) from None


def _told(mistake: Any, kind: str) -> str:
    """Return a mistake as one line, by the option at fault; of a source by its setting, with the nearest there is."""
    from qrng_grpc.config import describe_mistake  # noqa: PLC0415
    from qrng_grpc.sources.kinds import settings_of  # noqa: PLC0415
    from qrng_source_server.config import SourceServerConfig  # noqa: PLC0415

    first, *inside = mistake["loc"] or ("",)
    if first == "source" and inside:
        return f"source.{describe_mistake(mistake | {'loc': tuple(inside)}, settings_of(kind))}"
    return _spelt(describe_mistake(mistake, SourceServerConfig))


def _spelt(mistake: str) -> str:
    """Return a mistake with the options that stand for settings of the listener."""
    from qrng_grpc.config import Spelling  # noqa: PLC0415
    from qrng_source_server.config import SourceServerConfig  # noqa: PLC0415

    options = {str(parameter.name).upper(): parameter.opts[0] for parameter in command.params}
    return Spelling(written=options).mistake(mistake, SourceServerConfig)


def _refuse_secrets(kind: str, settings: tuple[tuple[str, str], ...]) -> None:
    from qrng_grpc.sources.kinds import KindError, settings_of  # noqa: PLC0415

    try:
        fields = settings_of(kind).model_fields
    except KindError as error:
        raise ConfigError([str(error)]) from None
    mistakes = [
        f"source.{name}: others can see command lines; name a file that holds it"
        for name, _ in settings
        if name in fields and SecretStr in (fields[name].annotation, *get_args(fields[name].annotation))
    ]
    if "kind" in dict(settings):
        mistakes.append("source.kind: there is one already")
    if mistakes:
        raise ConfigError(mistakes)


def _value(text: str) -> Any:
    """Return a mapping or a list where one is written as in YAML, all else as it is. Raises UsageError."""
    if not text.startswith(("{", "[")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise click.UsageError("--set: a value that begins with { or [ is written as in YAML") from None
