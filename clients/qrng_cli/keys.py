"""`qrng keys`: who may have entropy, in the file that a gateway's api_keys_file names."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from qrng_cli.profiles import GATEWAY, chosen_profile
from qrng_cli.sizes import Size
from qrng_grpc.chunk import is_id
from qrng_grpc.client_keys import (
    MAX_WEIGHT,
    Client,
    ClientRecord,
    KeyDigest,
    Limits,
    changing_client_file,
    digest_of,
    new_key,
    read_client_file,
    revoke_in_unusable_file,
)
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK
from qrng_grpc.errors import ConfigError, StateError
from qrng_grpc.labels import SourceClass
from qrng_grpc.moments import moment_ns, rfc_3339
from qrng_grpc.wording import counted

F = TypeVar("F", bound=Callable[..., Any])

_PIPE_COLUMNS = 300
"""How wide a listing is where nobody looks."""
_COLUMNS_BESIDE_ID = 66
"""What the other columns of a listing need at least."""
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,6})([smhd])", re.ASCII)


class Duration(click.ParamType[int]):
    """A number of seconds, minutes, hours or days, such as 24h; in nanoseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the nanoseconds."""
        parts = _DURATION.fullmatch(value)
        if parts is None:
            self.fail("expected a number and s, m, h or d, as in 24h", param, ctx)
        return int(parts[1]) * _UNITS_S[parts[2]] * NS_PER_S


class End(click.ParamType[int]):
    """A time to come: as in files, or a duration from now. In nanoseconds of Unix time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the moment."""
        now_ns = SYSTEM_CLOCK.now_ns()
        if _DURATION.fullmatch(value):
            return now_ns + Duration().convert(value, param, ctx)
        try:
            end_ns = moment_ns(value)
        except ValueError as error:
            self.fail(f"{error}, or a duration, as in 90d", param, ctx)
        if end_ns <= now_ns:
            self.fail("lies in the past", param, ctx)
        return end_ns


def _or_of_profile(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path:
    """Return `path`, else the file that the gateway of the chosen profile reads. Raises MissingParameter."""
    profile = chosen_profile()
    if path is None and profile is not None and (named := profile.lines().get(f"{GATEWAY}API_KEYS_FILE")):
        path = Path(named)
    if path is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return path


_FILE = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="QRNG_GATEWAY_API_KEYS_FILE",
    callback=_or_of_profile,
    help="The file. Default: QRNG_GATEWAY_API_KEYS_FILE, of the environment or the profile.",
)
_KEY_EXPIRES = click.option(
    "--key-expires", "key_end_ns", type=End(), metavar="TIME", help="When the new key ends. Default: never."
)
_ID = click.argument("client_id", metavar="ID")


@click.group("keys")
def command() -> None:
    """Create, list, rotate and revoke the keys of clients, in the file that a gateway's api_keys_file names.

    \b
      qrng keys create lab-sampler --file clients.yaml --label "sampler in room 3" --bytes-per-day 100M
      qrng keys list   --file clients.yaml
      qrng keys rotate lab-sampler --file clients.yaml --overlap 24h
      qrng keys revoke lab-sampler --file clients.yaml

    The file holds the SHA-256 of each key. A key itself is printed once, when it is made, and can be had from nowhere
    again. A running gateway takes a changed file within seconds, or at once on SIGHUP.
    """


@command.command("create")
@_ID
@_FILE
@click.option("--label", default="", help="For people: who or what it is.")
@click.option("--expires", "end_ns", type=End(), metavar="TIME", help="When it stops being served. Default: never.")
@_KEY_EXPIRES
@click.option("--uri", help="The URI in its certificate, which then lets it in as the key does.")
@click.option("--no-key", is_flag=True, help="Make no key: the certificate alone lets it in.")
@click.option("--requests-per-second", type=click.FloatRange(0.001), help="Default: the gateway's.")
@click.option("--bytes-per-second", type=Size(), help="Default: no limit.")
@click.option("--bytes-per-day", type=Size(), help="Default: no limit.")
@click.option("--streams", type=click.IntRange(1), help="Streams it may have open at once. Default: no limit.")
@click.option(
    "--least-class",
    type=click.Choice(SourceClass, case_sensitive=False),
    help="The weakest class of source it is served. Default: the gateway's.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="What it may call, as in qrng.v1.EntropyService/GetEntropy, 'GET /api/random' or qrng.v1.*; repeat it for"
    " more. Default: everything.",
)
@click.option(
    "--weight", type=click.IntRange(1, MAX_WEIGHT), default=1, show_default=True, help="Its share when short."
)
@click.option("--reserve", "reserved_bytes", type=Size(), help="Bytes of the pool that are kept for it. Default: none.")
def create(path: Path, **options: Any) -> None:
    """Add a client, and print its key.

    \b
      qrng keys create lab-sampler --file clients.yaml --label "sampler in room 3" --expires 365d \\
          --least-class quantum --bytes-per-second 1M --bytes-per-day 10G --weight 5 --reserve 64K
      qrng keys create probe --file clients.yaml --uri spiffe://qrng/client/probe --no-key --method 'GET /api/status'

    ID is 1 to 64 of the characters A-Z a-z 0-9 . _ -; it stands in logs. TIME is as in 2027-01-01T00:00:00Z, or a
    duration from now: 90d. Where there is no file yet it is made, of mode 0640: the gateway must be able to read it.
    """
    client = _client(**{name: options.pop(name) for name in (*_OF_CLIENT, *_OF_LIMITS)})
    if not is_id(client.client_id):
        raise click.BadParameter("expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", param_hint="ID")
    _add(path, client, **options)


_OF_CLIENT = ("client_id", "label", "end_ns", "least_class", "methods", "weight", "reserved_bytes")
_OF_LIMITS = ("requests_per_second", "bytes_per_second", "bytes_per_day", "streams")


def _client(**options: Any) -> Client:
    return Client(
        client_id=options["client_id"],
        label=options["label"],
        limits=Limits(*(options[name] for name in _OF_LIMITS)),
        least_class=options["least_class"],
        methods=frozenset(options["methods"]) or None,
        weight=options["weight"],
        reserved_bytes=options["reserved_bytes"] or 0,
        not_after_ns=options["end_ns"],
    )


def _add(path: Path, client: Client, *, uri: str | None, no_key: bool, key_end_ns: int | None) -> None:
    if no_key and (uri is None or key_end_ns is not None):
        raise click.UsageError("--no-key goes with --uri, and without --key-expires")
    key = None if no_key else new_key()
    keys = () if key is None else (KeyDigest(digest_of(key), key_end_ns),)
    with changing_client_file(path) as records:
        if any(record.client.client_id == client.client_id for record in records):
            raise StateError(f"there is a client {client.client_id} already; `qrng keys rotate` gives it another key")
        records.append(ClientRecord(client, keys, uri))
    _print(key, client.client_id)


@command.command("rotate")
@_ID
@_FILE
@click.option(
    "--overlap",
    "overlap_ns",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old keys still open: 0s for a key that has leaked.",
)
@_KEY_EXPIRES
def rotate(client_id: str, path: Path, overlap_ns: int, key_end_ns: int | None) -> None:
    """Print another key for a client; the old ones end after the overlap.

    \b
      qrng keys rotate lab-sampler --file clients.yaml --overlap 7d

    The client stays what it is: its id, limits, counts and share. Keys that ended are taken off the file.
    """
    key, now_ns = new_key(), SYSTEM_CLOCK.now_ns()
    with changing_client_file(path) as records:
        place = _place_of(client_id, records, path)
        record = records[place]
        if record.revoked:
            raise StateError(f"client {client_id} is revoked; its access is not renewed")
        if record.client.not_after_ns is not None and record.client.not_after_ns <= now_ns:
            raise StateError(
                f"client {client_id} is no longer served, with whatever key; set its not_after in the file"
            )
        old = tuple(_ending(one, now_ns + overlap_ns) for one in record.keys)
        left = tuple(one for one in old if one.not_after_ns is None or one.not_after_ns > now_ns)
        records[place] = replace(record, keys=(*left, KeyDigest(digest_of(key), key_end_ns)))
    _print(key, client_id)


def _ending(key: KeyDigest, end_ns: int) -> KeyDigest:
    ends = end_ns if key.not_after_ns is None else min(end_ns, key.not_after_ns)
    return replace(key, not_after_ns=ends)


@command.command("revoke")
@_ID
@_FILE
def revoke(client_id: str, path: Path) -> None:
    """Let a client in no longer, by none of its keys and by no certificate.

    \b
      qrng keys revoke lab-sampler --file clients.yaml

    Its record stays, so that its id is not given to another. To replace a key that has leaked and keep the client:
    qrng keys rotate ID --file FILE --overlap 0s. Other mistakes in the file are told and stay in it; they are in the
    way only where it cannot be read at all.
    """
    mistakes = _revoke(client_id, path)
    click.echo(f"client {client_id} is revoked", err=True)
    if mistakes:
        click.echo("but nothing else that changed in the file counts before this is mended:", err=True)
    for mistake in mistakes:
        click.echo(f"  {mistake}", err=True)


def _revoke(client_id: str, path: Path) -> Sequence[str]:
    """Revoke a client. Return the mistakes that the file has besides.

    Raises ConfigError when these are such that it cannot be done, with how to do it by hand.
    """
    try:
        with changing_client_file(path) as records:
            place = _place_of(client_id, records, path)
            records[place] = replace(records[place], revoked=True)
    except ConfigError as error:
        if _revoked_regardless(client_id, path):
            return error.mistakes
        by_hand = (
            "nothing is revoked: make it a file that is YAML and that others cannot change, and write `revoked: true`"
            f" into the record of {client_id}; that counts, whatever else is wrong with it"
        )
        raise ConfigError([*error.mistakes, by_hand]) from None
    return ()


def _revoked_regardless(client_id: str, path: Path) -> bool:
    try:
        return revoke_in_unusable_file(client_id, path)
    except ConfigError:
        return False


@command.command("list")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
def show(path: Path, as_json: bool) -> None:
    """Show the clients of a file. A key is named by the first digits of its SHA-256.

    \b
      qrng keys list --file clients.yaml
      qrng keys list --file clients.yaml --json | jq '.[] | select(.state == "revoked") | .id'
    """
    now_ns = SYSTEM_CLOCK.now_ns()
    facts = [_facts(record, now_ns) for record in read_client_file(path)]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _print_table(facts)


def _place_of(client_id: str, records: list[ClientRecord], path: Path) -> int:
    for place, record in enumerate(records):
        if record.client.client_id == client_id:
            return place
    raise StateError(f"{path} has no client {client_id}")


def _print(key: str | None, client_id: str) -> None:
    if key is None:
        click.echo(f"client {client_id} comes in with its certificate", err=True)
        return
    click.echo(f"the key of client {client_id}; it is shown this once:", err=True)
    click.echo(key)


def _facts(record: ClientRecord, now_ns: int) -> dict[str, Any]:
    client = record.client
    return {
        "id": client.client_id,
        "label": client.label,
        "state": _state(record, now_ns),
        "keys": [{"key": key.fingerprint, "not_after": _time(key.not_after_ns)} for key in record.keys],
        "uri": record.uri,
        "not_after": _time(client.not_after_ns),
        "least_class": client.least_class.value if client.least_class else None,
        "methods": None if client.methods is None else sorted(client.methods),
        "weight": client.weight,
        "reserved_bytes": client.reserved_bytes,
        "limits": asdict(client.limits),
    }


def _state(record: ClientRecord, now_ns: int) -> str:
    if record.revoked:
        return "revoked"
    client_lasts = record.client.not_after_ns is None or record.client.not_after_ns > now_ns
    opens = record.uri is not None or any(k.not_after_ns is None or k.not_after_ns > now_ns for k in record.keys)
    return "valid" if client_lasts and opens else "expired"


def _time(unix_ns: int | None) -> str | None:
    return None if unix_ns is None else rfc_3339(unix_ns // NS_PER_S * NS_PER_S)


def _print_table(facts: list[dict[str, Any]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - for people only
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None)
    for name in ("id", "label", "state", "opens with", "ends", "limits", "class", "share", "may call"):
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "state"))
    for one in facts:
        table.add_row(*(escape(cell) for cell in _row(one)))
    # Who reads a pipe wants lines as they are; a person sees them folded to the window, but for the ids.
    longest_id = max((len(one["id"]) for one in facts), default=0)
    width = max(Console().width, longest_id + _COLUMNS_BESIDE_ID) if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(width=width).print(table)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    keys = [f"{key['key']} until {key['not_after']}" if key["not_after"] else key["key"] for key in one["keys"]]
    limits = [f"{name} {value:,}" for name, value in one["limits"].items() if value is not None]
    share = f"{one['weight']}" + (f", {counted(one['reserved_bytes'], 'byte')} kept" if one["reserved_bytes"] else "")
    return (
        one["id"],
        one["label"],
        one["state"],
        "\n".join([*keys, *([one["uri"]] if one["uri"] else [])]),
        one["not_after"] or "never",
        "\n".join(limits) or "the gateway's",
        one["least_class"] or "the gateway's",
        share,
        "everything" if one["methods"] is None else "\n".join(one["methods"]),
    )
