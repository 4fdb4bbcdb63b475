"""`qrng get`: a number of bytes, exactly."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import click

from qrng_cli import any_server
from qrng_cli.connection import (
    Server,
    in_words,
    open_client,
    printable,
    server_options,
    split_options,
    tell_provenance,
    wanted_options,
)
from qrng_cli.output import destination, progress
from qrng_cli.sizes import Size
from qrng_client import ChunkRange, Entropy, EntropyClient, Wanted
from qrng_client.settings import ClientSettings

PART_BYTES = 3 << 18
"""What one message of a long transfer holds: 768 KiB, a multiple of three so that base64 joins up."""
PART_WITH_PROVENANCE = 65_535
"""The same where each tells its provenance: the most that a gateway answers then, divided by three too."""
MOST_BYTES = 1 << 30
"""More than that is a job for `qrng stream`."""
_ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "hex": lambda data: data.hex().encode(),
    "base64": base64.b64encode,
    "raw": bytes,
}


@click.command("get")
@click.argument("size", type=Size(most=MOST_BYTES), metavar="N")
@click.option("--hex", "form", flag_value="hex", default="hex", help="Hexadecimal digits and a newline (default).")
@click.option("--base64", "form", flag_value="base64", help="Base64 and a newline.")
@click.option("--raw", "form", flag_value="raw", help="The bytes themselves.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Write this file, whole or not at all, mode 0600."
)
@click.option("--force", is_flag=True, help="Write raw bytes even to a terminal.")
@click.option("--label", is_flag=True, help="Tell on standard error what the bytes are, and what is left for you.")
@wanted_options
@server_options
def command(size: int, form: str, output: Path | None, force: bool, label: bool, **options: Any) -> None:
    """Print N random bytes, at most 1G. N may end in K, M or G (1024, 1024^2, 1024^3).

    \b
      qrng get 32                             a 256-bit key, in hexadecimal
      qrng get 16 --base64 --label            and what it is made of
      qrng get 10M --raw -o random.bin        a file
      qrng get 32 --least-class quantum       or exit code 5
      qrng get 32 --fresh --provenance        captured after now; from which chunks
      qrng get 32 --profile firefly-1         of another server than a gateway of ours

    Exactly N bytes, or an error and an exit code other than 0. On a pipe, a transfer of more than 1 MiB may
    end early with such an error; a file written with --output never does.
    """
    server, wanted = split_options(options)
    settings = any_server.settings_for(server, wanted)
    wanted["least_class"] = settings.least_class
    ranges: list[ChunkRange] = []
    with destination(output, raw=form == "raw", force=force) as sink:
        if any_server.needs_any_server(settings) is None:
            told, ranges = _from_gateway(server, size, wanted, form, sink)
        else:
            told = _from_any_server(settings, size, wanted, form, sink)
        if form != "raw":
            sink.write(b"\n")
    tell_provenance(ranges)
    if label:
        click.echo("\n".join(told), err=True)


def _from_gateway(
    server: Server, size: int, wanted: Wanted, form: str, sink: BinaryIO
) -> tuple[list[str], list[ChunkRange]]:
    """Write `size` bytes of a gateway, and say what they are and, if that is wanted, where they came from."""
    labels: dict[str, None] = {}
    ranges: list[ChunkRange] = []
    long = size > PART_BYTES and not wanted["provenance"]
    with open_client(server) as client, progress(size, worth_showing=long) as advance:
        for entropy in parts(client, size, wanted):
            sink.write(_ENCODERS[form](entropy.data))
            advance(len(entropy))
            labels[describe(entropy)] = None
            ranges += entropy.provenance
    left = [] if client.allowance is None else [f"left: {in_words(client.allowance)}"]
    return [*labels, *left], ranges


def _from_any_server(settings: ClientSettings, size: int, wanted: Wanted, form: str, sink: BinaryIO) -> list[str]:
    """Write `size` bytes of whatever `settings` name, and say what they are."""
    labels: dict[str, None] = {}
    with (
        any_server.open_any(settings, wanted) as client,
        progress(size, worth_showing=size > PART_BYTES) as advance,
    ):
        for draw in any_server.draws(client, PART_BYTES, size):
            sink.write(_ENCODERS[form](draw.data))
            advance(len(draw))
            labels[any_server.describe(draw)] = None
    return [*labels]


def parts(client: EntropyClient, size: int, wanted: Wanted) -> Iterable[Entropy]:
    """Return `size` bytes: as one answer when they fit, else as a stream."""
    part = PART_WITH_PROVENANCE if wanted["provenance"] else PART_BYTES
    if size <= part:
        return [client.get(size, **wanted)]
    return client.stream(part, size, **wanted)


def describe(entropy: Entropy) -> str:
    """Say in a line what bytes are."""
    return (
        f"class={entropy.source_class.value} processing={entropy.processing.value} custody={entropy.custody.value}"
        f" health={entropy.health_verdict.value} device={printable(entropy.device_id)}"
        f" collector={printable(entropy.collector_id)}"
    )
