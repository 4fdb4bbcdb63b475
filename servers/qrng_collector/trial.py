"""A trial of the sources: the start-up test of each, once, while no collector runs.

Idea: an operator who connects a source, or has mended one, wants to hear what its tests say before anything
is pushed. So each source is read as the collector would read it, and what it delivers is used for
nothing but the test. Nothing is retried: a source that does not answer has not passed.

Whoever tries a source may have neither keys nor a gateway yet, so of a collector's settings only those of its sources
count. Without a state directory there is no collector whose place a trial could take; only a source that is to
remember how far it was read cannot be tried then.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from qrng_collector.config import CollectorConfig
from qrng_collector.sources import make_legs
from qrng_collector.target import PushTls
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.errors import ConfigError, SourceError
from qrng_grpc.key_settings import KeySettings
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources.kinds import KindError
from qrng_grpc.sources.leg import Leg
from qrng_grpc.state import state_directory
from qrng_grpc.wording import counted


class TrialConfig(CollectorConfig):
    """A collector's settings, of which those of its sources count. `state_dir` is by default where `qrng up` has it."""

    unheeded = frozenset(
        (
            *KeySettings.model_fields,
            *PushTls.model_fields,
            *("collector_id", "pool_id", "pools", "push_url"),
            *("push_interval", "push_timeout", "retry_policy", "heartbeat_interval", "flush_timeout"),
            *("health_listen_address", "spool_dir", "spool_key_file", "spool_size"),
        )
    )

    # What a collector cannot be without.
    hmac_secret_key: SecretStr | None = SecretStr("what a trial is given, which signs nothing")
    hmac_key_id: str | None = "trial"
    collector_id: str = "trial"
    pool_id: str | None = "trial"
    push_url: str | None = "localhost:1"
    best_class: SourceClass = SourceClass.QUANTUM
    state_dir: Path = Path("var/collector")


@dataclass(frozen=True, slots=True)
class Trial:
    """How one source did. `says` is for a person: what was tested, which test failed, or why there was none."""

    device_id: str
    passed: bool
    says: str


async def try_sources(config: CollectorConfig, clock: Clock = SYSTEM_CLOCK, *, with_state: bool = True) -> list[Trial]:
    """Test each source of `config` once, side by side, each at its own pace.

    Raises StateHeldError while a collector with this state directory runs, StateError when it cannot be used. Not
    `with_state` it is not looked at, and a source that needs one is refused by ConfigError.
    """
    with state_directory(config.state_dir) if with_state else nullcontext() as state:
        legs = _legs(config, state, clock)
        try:
            return await asyncio.gather(*[_try(leg) for leg in legs])
        finally:
            for leg in legs:
                await leg.close()


def _legs(config: CollectorConfig, state: Path | None, clock: Clock) -> list[Leg]:
    try:
        return make_legs(config, state, clock)
    except KindError:
        raise
    except ValueError as error:
        if state is not None:
            raise
        raise ConfigError([f"state_dir: required; {error}"]) from None


async def _try(leg: Leg) -> Trial:
    (device_id,) = leg.label.device_ids
    try:
        verdict = await leg.try_out()
    except SourceError as error:
        return Trial(device_id, passed=False, says=f"not tested: {error.message}")
    if verdict.failure is not None:
        return Trial(device_id, passed=False, says=f"failed: {verdict.failure}")
    return Trial(device_id, passed=True, says=f"passed: {counted(leg.states()[0].fetched_bytes, 'byte')}")
