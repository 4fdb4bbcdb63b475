"""`qrng test`: does each source of a collector pass its tests?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from qrng_cli.programs import Layers, config_option, layer_options, load_layers
from qrng_grpc.errors import SourceError, StateHeldError


@click.command("test")
@config_option
@layer_options
def command(yaml_file: Path | None, **layers: Any) -> None:
    """Run the start-up test of each of a collector's sources once, and print the verdicts.

    \b
      qrng test --config collector.yaml --env-file collector.env

    Takes the settings of `qrng collector`, and its place: it refuses while that collector runs, which tests its
    sources itself on SIGUSR1 (kill -USR1 PID). What is read is used for the test alone; nothing is pushed.

    Exit code 0 when every source passed, else 1. A passed test shows the absence of certain faults, not
    randomness: docs/output-monitoring.md.
    """
    # The servers' extra, which --help does without.
    from qrng_collector.config import ENV_PREFIX, CollectorConfig  # noqa: PLC0415
    from qrng_collector.trial import Trial, try_sources  # noqa: PLC0415
    from qrng_grpc.foreign_text import keep_foreign_text_out  # noqa: PLC0415
    from qrng_grpc.logs import configure_logs  # noqa: PLC0415

    async def trials() -> list[Trial]:
        configure_logs("error", "test")
        keep_foreign_text_out()
        return await try_sources(config)

    config = load_layers(CollectorConfig, ENV_PREFIX, yaml_file, Layers(**layers))  # type: ignore[typeddict-item]
    try:
        done = asyncio.run(trials())
    except StateHeldError as error:
        raise StateHeldError(f"{error.message}; a running collector tests its sources on SIGUSR1") from None
    for trial in done:
        click.echo(f"{trial.device_id}: {trial.says}")
    unfit = sum(not trial.passed for trial in done)
    if unfit:
        raise SourceError(f"{unfit} of {len(done)} sources did not pass")
