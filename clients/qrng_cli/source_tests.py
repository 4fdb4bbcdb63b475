"""`qrng test`: does each source of a collector pass its tests?

Idea: whoever tries out a source has no gateway yet, no keys and no certificates. So of a collector's settings only
those of its sources count.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from qrng_cli.profiles import chosen_profile
from qrng_cli.programs import Layers, config_option, layer_options, load_layers
from qrng_grpc.errors import SourceError, StateHeldError
from qrng_grpc.wording import counted


@click.command("test")
@config_option
@layer_options
def command(yaml_file: Path | None, **layers: Any) -> None:
    """Run the start-up test of each of a collector's sources once, and print the verdicts.

    \b
      qrng test --profile urandom
      qrng test --config collector.yaml --env-file collector.env

    Takes the settings of `qrng collector`, without heed to those of keys, pools, pushes and the spool, and its place:
    it refuses while that collector runs, which tests its sources itself on SIGUSR1 (kill -USR1 PID). What is read is
    used for the test alone; nothing is pushed.

    Exit code 0 when every source passed, else 1. A passed test shows the absence of certain faults, not
    randomness: docs/output-monitoring.md.
    """
    # The servers' extra, which --help does without.
    from qrng_collector.config import ENV_PREFIX  # noqa: PLC0415
    from qrng_collector.trial import Trial, TrialConfig, try_sources  # noqa: PLC0415
    from qrng_grpc.foreign_text import keep_foreign_text_out  # noqa: PLC0415
    from qrng_grpc.logs import configure_logs  # noqa: PLC0415

    async def trials() -> list[Trial]:
        configure_logs("error", "test")
        keep_foreign_text_out()
        return await try_sources(config, with_state=with_state)

    _refuse_no_source()
    config = load_layers(TrialConfig, ENV_PREFIX, yaml_file, Layers(**layers))  # type: ignore[typeddict-item]
    with_state = "state_dir" in config.model_fields_set or config.state_dir.is_dir()
    try:
        done = asyncio.run(trials())
    except StateHeldError as error:
        raise StateHeldError(f"{error.message}; a running collector tests its sources on SIGUSR1") from None
    for trial in done:
        click.echo(f"{trial.device_id}: {trial.says}")
    unfit = sum(not trial.passed for trial in done)
    if unfit:
        raise SourceError(f"{unfit} of {counted(len(done), 'source')} did not pass")


def _refuse_no_source() -> None:
    """Refuse a profile that is about no source of a collector: another would be tested under its name."""
    profile = chosen_profile()
    if profile is not None and (why := profile.why_none_runs):
        raise click.UsageError(f"the profile {profile.name} {why}: there is no source to test")
