"""`qrng collector`: a collector, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qrng_cli.programs import Layers, end_with, load_layers, mistakes_told, program_options


@click.command("collector")
@program_options
def command(yaml_file: Path | None, end_with_fd: int | None, **layers: Any) -> None:
    """Run a collector: read sources, sign what they yield, push it to a gateway.

    \b
      qrng collector --config collector.yaml --env-file collector.env
      qrng collector --config collector.yaml --set fetch_chunk_size=65536

    Settings come, strongest first, from --set, the environment (QRNG_COLLECTOR_ and the name in capitals),
    --env-file, the YAML file and their defaults. Every mistake is told at once, with exit code 2. SIGTERM and
    Ctrl-C flush what is queued, and end with exit code 0. SIGHUP takes exchanged keys and certificates, SIGUSR1 has
    every source tested before its next block; without a running collector, `qrng test` tests them.
    """
    # The servers' extra, which --help does without.
    from qrng_collector.app import main  # noqa: PLC0415
    from qrng_collector.config import ENV_PREFIX, CollectorConfig  # noqa: PLC0415

    config = load_layers(CollectorConfig, ENV_PREFIX, yaml_file, Layers(**layers))  # type: ignore[typeddict-item]
    end_with(end_with_fd)
    with mistakes_told(config.spelt):
        main(config)
