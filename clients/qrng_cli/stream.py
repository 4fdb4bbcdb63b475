"""`qrng stream`: bytes for as long as somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from qrng_cli import any_server
from qrng_cli.connection import Server, open_client, server_options, split_options, tell_provenance, wanted_options
from qrng_cli.output import destination, progress
from qrng_cli.sizes import Size
from qrng_client import Entropy, Wanted
from qrng_client.draws import Draw
from qrng_client.requests import MAX_REQUEST_BYTES
from qrng_client.settings import ClientSettings


@click.command("stream")
@click.option(
    "--bytes-per-message",
    type=Size(MAX_REQUEST_BYTES),
    default=64 << 10,
    metavar="SIZE",
    help="Bytes the server sends at a time, at most 1M. Default: 64K.",
)
@click.option("--total", type=Size(), metavar="SIZE", help="How many bytes in all. Default: without end.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write this file instead of standard output.")
@click.option("--force", is_flag=True, help="Write to a terminal too.")
@wanted_options
@server_options
def command(bytes_per_message: int, total: int | None, output: Path | None, force: bool, **options: Any) -> None:
    """Write raw random bytes to a pipe or file, without end or up to --total.

    \b
      qrng stream | head -c 1G > random.bin
      qrng stream --total 100M -o random.bin
      qrng stream --bytes-per-message 1K | my-experiment

    Ends with exit code 0 when the reader goes away. A slow reader slows the stream; the gateway claims
    bytes only as they are read.
    """
    server, wanted = split_options(options)
    settings = any_server.settings_for(server, wanted)
    wanted["least_class"] = settings.least_class
    each = min(bytes_per_message, total or bytes_per_message)
    long = total is not None and total > MAX_REQUEST_BYTES and not wanted["provenance"]
    with (
        destination(output, raw=True, force=force) as sink,
        _messages(server, settings, each, total, wanted) as messages,
        progress(total, worth_showing=long) as advance,
    ):
        for message in messages:
            sink.write(message.data)
            sink.flush()
            advance(len(message))
            if isinstance(message, Entropy):
                tell_provenance(message.provenance)


@contextmanager
def _messages(
    server: Server, settings: ClientSettings, each: int, total: int | None, wanted: Wanted
) -> Iterator[Iterator[Entropy | Draw]]:
    """Open a stream of a gateway, or draws of whatever else `settings` name."""
    if any_server.needs_any_server(settings) is None:
        with open_client(server) as gateway:
            yield gateway.stream(each, total, **wanted)
    else:
        with any_server.open_any(settings, wanted) as client:
            yield any_server.draws(client, each, total)
