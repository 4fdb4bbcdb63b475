"""`qrng certs`: a small private certificate authority."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qrng_grpc.certs import AUTHORITY_DAYS, LEAF_DAYS, Authority, Issued, collector_uri
from qrng_grpc.chunk import is_id
from qrng_grpc.client_keys import is_uri
from qrng_grpc.errors import StateError

F = TypeVar("F", bound=Callable[..., Any])

_AUTHORITY = "ca"
_DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("certs"),
    show_default=True,
    help="Where the authority lies, and where files are written.",
)
_FORCE = click.option("--force", is_flag=True, help="Replace files that exist. What they hold is then lost.")


def _days(default: int) -> Callable[[F], F]:
    return click.option(
        "--days",
        type=click.FloatRange(0, 36_500, min_open=True),
        default=default,
        show_default=True,
        help="How long the certificate is valid.",
    )


@click.group("certs")
def command() -> None:
    """Make a small private certificate authority, and certificates of it, for TLS between the programs.

    For tests and first set-ups: the authority's key lies unencrypted in its directory. Where you have an
    authority already, use that one; the programs take any PEM files.

    \b
    One authority for the servers, one for the collectors that may push:
      qrng certs init   --dir certs/servers
      qrng certs init   --dir certs/collectors
      qrng certs server --dir certs/servers    --host gateway.example --host 192.0.2.7
      qrng certs client --dir certs/collectors lab-1

    \b
    The gateway then gets
      tls_cert_file, push_tls_cert_file   certs/servers/server.pem
      tls_key_file,  push_tls_key_file    certs/servers/server.key
      push_client_ca_file                 certs/collectors/ca.pem
    the collector
      push_ca_file                        certs/servers/ca.pem
      push_cert_file, push_key_file       certs/collectors/lab-1.pem and lab-1.key
    and clients
      qrng get --ca-file certs/servers/ca.pem 32

    Nothing that exists is overwritten without --force. Running programs take exchanged files by themselves;
    docs/certificates.md says how to exchange them, an authority too, while calls go on.
    """


@command.command("init")
@_DIRECTORY
@click.option("--name", default="qrng private CA", show_default=True, help="What the authority is called.")
@_days(AUTHORITY_DAYS)
@_FORCE
def init(directory: Path, name: str, days: float, force: bool) -> None:
    """Make an authority: ca.pem, to be given to whoever shall trust it, and ca.key, to be kept.

    \b
      qrng certs init --dir certs/servers

    Whoever reads ca.key can be anyone the authority vouches for. It is needed only to sign, so it can be moved
    away, or to another machine, in between.
    """
    if not 1 <= len(name) <= 64:
        raise click.BadParameter("takes 1 to 64 characters", param_hint="--name")
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    _save(Authority.create(name, days=days).issued, directory, _AUTHORITY, force)


@command.command("server")
@_DIRECTORY
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A DNS name or IP address under which clients reach the server; repeat it for more. Default: localhost,"
    " 127.0.0.1 and ::1.",
)
@click.option("--name", default="server", show_default=True, help="The files' name, without .pem and .key.")
@_days(LEAF_DAYS)
@_FORCE
def server(directory: Path, hosts: tuple[str, ...], name: str, days: float, force: bool) -> None:
    """Make a server's certificate and key: NAME.pem and NAME.key.

    \b
      qrng certs server --dir certs/servers --host gateway.example --host 192.0.2.7

    A client refuses the server unless it is reached under one of these hosts.
    """
    _refuse_name(name, "--name")
    try:
        issued = _authority(directory).server(hosts or ("localhost", "127.0.0.1", "::1"), days=days)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--host") from None
    _save(issued, directory, name, force)


@command.command("client")
@_DIRECTORY
@click.argument("name")
@click.option("--uri", help="The URI it names its holder by. Default: that of the collector NAME.")
@_days(LEAF_DAYS)
@_FORCE
def client(directory: Path, name: str, uri: str | None, days: float, force: bool) -> None:
    """Make the certificate and key of a collector or of a gateway's client: NAME.pem and NAME.key.

    \b
      qrng certs client --dir certs/collectors lab-1
      qrng certs client --dir certs/clients sampler --uri spiffe://qrng/client/sampler

    The certificate names a collector by the URI spiffe://qrng/collector/NAME. It opens the push listener; what is
    pushed must still be signed with the collector's key. A gateway that asks its clients for certificates knows
    them by the URI that `qrng keys create --uri` was told.
    """
    _refuse_name(name, "NAME")
    if uri is not None and not is_uri(uri):
        raise click.BadParameter("expected a URI in ASCII, as in spiffe://qrng/client/lab-1", param_hint="--uri")
    _save(_authority(directory).client(uri or collector_uri(name), days=days), directory, name, force)


def _refuse_name(name: str, hint: str) -> None:
    """Refuse what is no name for files beside the authority's."""
    if not is_id(name) or name == _AUTHORITY:
        expected = "expected 1 to 64 of the characters A-Z a-z 0-9 . _ - with a letter or digit first, and not ca"
        raise click.BadParameter(expected, param_hint=hint)


def _files(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.pem", directory / f"{name}.key"


def _authority(directory: Path) -> Authority:
    cert_file, key_file = _files(directory, _AUTHORITY)
    if not cert_file.exists():
        raise StateError(f"there is no authority in {directory}; make one with `qrng certs init --dir {directory}`")
    return Authority.load(cert_file, key_file)


def _save(issued: Issued, directory: Path, name: str, force: bool) -> None:
    cert_file, key_file = _files(directory, name)
    try:
        issued.save(cert_file, key_file, force=force)
    except StateError as error:
        raise StateError(f"{error.message}; --force replaces it") from None
    click.echo(f"{cert_file}\n{key_file}")
