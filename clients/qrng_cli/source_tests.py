"""`qrng test`: does each source of a collector pass its tests?

Idea: whoever tries out a source has no gateway yet, and no keys. So of a collector's settings only those of its sources
are needed: what is missing of the rest, which a test has no use for, gets stand-ins.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from qrng_cli.profiles import COLLECTOR, chosen_env_files, chosen_profile
from qrng_cli.programs import Layers, config_option, layer_options, load_layers
from qrng_grpc.config import read_env_file, read_yaml
from qrng_grpc.errors import SourceError, StateHeldError

_STATE_OF_UP = Path("var/collector")
"""Where the collector of `qrng up` keeps its state."""


@click.command("test")
@config_option
@layer_options
def command(yaml_file: Path | None, **layers: Any) -> None:
    """Run the start-up test of each of a collector's sources once, and print the verdicts.

    \b
      qrng test --profile urandom
      qrng test --config collector.yaml --env-file collector.env

    Takes the settings of `qrng collector`, of which keys, ids and the gateway's address may be missing, and its place:
    it refuses while that collector runs, which tests its sources itself on SIGUSR1 (kill -USR1 PID). What is read is
    used for the test alone; nothing is pushed.

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
        return await try_sources(config, with_state=with_state)

    _refuse_no_source()
    given = Layers(**layers)  # type: ignore[typeddict-item]
    stand_ins = _stand_ins(yaml_file, given)
    given["overrides"] += tuple(stand_ins.items())
    with_state = "state_dir" not in stand_ins or _STATE_OF_UP.is_dir()
    config = load_layers(CollectorConfig, ENV_PREFIX, yaml_file, given)
    try:
        done = asyncio.run(trials())
    except StateHeldError as error:
        raise StateHeldError(f"{error.message}; a running collector tests its sources on SIGUSR1") from None
    for trial in done:
        click.echo(f"{trial.device_id}: {trial.says}")
    unfit = sum(not trial.passed for trial in done)
    if unfit:
        raise SourceError(f"{unfit} of {len(done)} sources did not pass")


def _refuse_no_source() -> None:
    """Refuse a profile that is about no source of a collector: another would be tested under its name."""
    profile = chosen_profile()
    if profile is not None and (why := profile.why_none_runs):
        raise click.UsageError(f"the profile {profile.name} {why}: there is no source to test")


def _stand_ins(yaml_file: Path | None, layers: Layers) -> dict[str, str]:
    """Return a value for each setting that no layer has, that a collector needs, and a test of its sources does not."""
    from qrng_cli.profile_check import needed  # noqa: PLC0415 - the servers' extra

    # What cannot be read is told when the settings are.
    files = (*chosen_env_files(), *layers["env_files"])
    variables = {name.upper() for file in files for name in read_env_file(file, [])} | {*map(str.upper, os.environ)}
    given = {name.removeprefix(COLLECTOR).lower() for name in variables if name.startswith(COLLECTOR)}
    given |= {name.lower() for name, _ in layers["overrides"]}
    given |= set() if yaml_file is None else read_yaml(yaml_file, []).keys()
    wanted = needed(COLLECTOR, given) | {"best_class": "quantum", "state_dir": str(_STATE_OF_UP)}
    return {name: value for name, value in wanted.items() if name not in given}
