"""`qrng gateway`: a gateway, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qrng_cli.programs import Layers, end_with, load_layers, mistakes_told, program_options


@click.command("gateway")
@program_options
def command(yaml_file: Path | None, end_with_fd: int | None, **layers: Any) -> None:
    """Run a gateway: take signed chunks from a collector, serve every byte to one client.

    \b
      qrng gateway --config gateway.yaml --env-file gateway.env
      qrng gateway --config gateway.yaml --set listen_address=127.0.0.1:6000

    Settings come, strongest first, from --set, the environment (QRNG_GATEWAY_ and the name in capitals),
    --env-file, the YAML file and their defaults. Every mistake is told at once, with exit code 2. SIGTERM and
    Ctrl-C let running calls finish, and end with exit code 0.
    """
    # The servers' extra, which --help does without.
    from qrng_gateway.scheduling import spare_io_threads  # noqa: PLC0415

    spare_io_threads()
    from qrng_gateway.app import main  # noqa: PLC0415
    from qrng_gateway.config import ENV_PREFIX, GatewayConfig  # noqa: PLC0415

    config = load_layers(GatewayConfig, ENV_PREFIX, yaml_file, Layers(**layers))  # type: ignore[typeddict-item]
    end_with(end_with_fd)
    with mistakes_told(config.spelt):
        main(config)
