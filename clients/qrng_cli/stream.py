"""`qrng stream`: bytes for as long as somebody reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qrng_cli.connection import open_client, server_options, split_options, tell_provenance, wanted_options
from qrng_cli.output import destination, progress
from qrng_cli.sizes import Size
from qrng_client.requests import MAX_REQUEST_BYTES


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
    each = min(bytes_per_message, total or bytes_per_message)
    long = total is not None and total > MAX_REQUEST_BYTES and not wanted["provenance"]
    with (
        destination(output, raw=True, force=force) as sink,
        open_client(server) as client,
        progress(total, worth_showing=long) as advance,
    ):
        for entropy in client.stream(each, total, **wanted):
            sink.write(entropy.data)
            sink.flush()
            advance(len(entropy))
            tell_provenance(entropy.provenance)
