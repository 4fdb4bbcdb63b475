"""The sources that the settings name, each behind its tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qrng_collector.config import CollectorConfig
from qrng_collector.reader import BlockReader, MixedReader, PlainReader
from qrng_collector.source_settings import mix_requests
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.health_tests import Monitor, Quarantine
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.kinds import SourceSettings, Surroundings, open_source
from qrng_grpc.sources.kinds.device import DeviceSettings
from qrng_grpc.sources.kinds.http import HttpSettings
from qrng_grpc.sources.kinds.mock import MockSettings
from qrng_grpc.sources.kinds.system import SystemSettings
from qrng_grpc.sources.leg import Leg, Pace
from qrng_grpc.sources.mixing import LONGEST_LEG_TIMEOUT_S, LegSource, MixedSource


def make_readers(config: CollectorConfig, state_dir: Path, clock: Clock = SYSTEM_CLOCK) -> list[BlockReader]:
    """Return what blocks are read from: each source of `config`, or the mix of all. Nothing is connected yet.

    `state_dir`, held by this process, is where a source keeps what must survive a restart.
    """
    legs = make_legs(config, state_dir, clock)
    if config.mixing_strategy == "none":
        return list(legs)
    return [_mix(config, source_entries(config), legs, clock)]


def make_legs(config: CollectorConfig, state_dir: Path | None, clock: Clock = SYSTEM_CLOCK) -> list[Leg]:
    """Return each source of `config` with its tests, mixed or not. As `make_readers`.

    Raises ValueError for a source that must remember something, without a `state_dir`.
    """
    return [_leg(entry, config, state_dir, clock) for entry in source_entries(config)]


def plain_readers(sources: Iterable[EntropySource], config: CollectorConfig, clock: Clock) -> list[BlockReader]:
    """Return readers of test doubles, whose bytes are neither tested nor called so."""
    pace = Pace(config.fetch_chunk_size, config.fetch_interval, config.fetch_timeout)
    return [PlainReader(source, pace, clock) for source in sources]


def source_entries(config: CollectorConfig) -> Sequence[SourceSettings]:
    """Return the settings of each source, whichever way they are given."""
    if config.sources:
        return config.sources
    if config.source == "http":
        return _appliances(config)
    if config.source == "device" and config.device_path is not None:
        return [
            DeviceSettings(
                kind="device",
                path=config.device_path,
                source_class=config.source_class,
                custody=config.source_custody,
                device_id=config.device_id or "device",
                assessed_entropy=config.assessed_entropy,
            )
        ]
    if config.source == "mock":
        return [MockSettings(kind="mock", seed=config.mock_seed, assessed_entropy=config.assessed_entropy)]
    return [SystemSettings(kind="system", assessed_entropy=config.assessed_entropy)]


def _appliances(config: CollectorConfig) -> list[SourceSettings]:
    urls = config.all_appliance_urls
    name = config.device_id or "appliance"
    names = [name] if len(urls) == 1 else [f"{name}-{number}" for number in range(1, len(urls) + 1)]
    return [
        HttpSettings(
            kind="http",
            url=url,
            source_class=config.source_class,
            custody=config.source_custody,
            device_id=device_id,
            ca_file=config.appliance_ca_file,
            fingerprint=config.appliance_fingerprint,
            assessed_entropy=config.assessed_entropy,
        )
        for url, device_id in zip(urls, names, strict=True)
    ]


def _leg(entry: SourceSettings, config: CollectorConfig, state_dir: Path | None, clock: Clock) -> Leg:
    timeout_s = entry.fetch_timeout or config.fetch_timeout
    pace = Pace(
        size=entry.fetch_chunk_size or config.fetch_chunk_size,
        interval_s=entry.fetch_interval or config.fetch_interval,
        timeout_s=timeout_s,
        most=entry.most_bytes,
        request_interval_s=entry.request_interval,
    )
    return Leg(
        open_source(entry, Surroundings(timeout_s, state_dir, clock)),
        pace,
        monitor=Monitor(entry.assessed_entropy, config.alpha),
        quarantine=Quarantine(pause_s=config.quarantine_pause, clock=clock),
        retry_policy=config.retry_policy,
        start_up_bytes=entry.start_up_size,
        clock=clock,
    )


def _mix(config: CollectorConfig, entries: Sequence[SourceSettings], legs: Sequence[Leg], clock: Clock) -> MixedReader:
    legs_of_mix = [
        LegSource(leg, entry.assessed_entropy, timeout_s=mix_patience_s(entry, config))
        for entry, leg in zip(entries, legs, strict=True)
    ]
    mix = MixedSource(
        config.mixing_strategy,
        legs_of_mix,
        on_missing_leg=config.on_missing_leg,
        xor_bits_per_byte=config.xor_bits_per_byte,
        clock=clock,
    )
    pace = Pace(config.fetch_chunk_size, config.fetch_interval, config.fetch_timeout)
    return MixedReader(mix, legs, pace, clock)


def mix_patience_s(entry: SourceSettings, config: CollectorConfig) -> float:
    """Return for how long a mix waits for a leg, at most a day: for all requests of a block, and one under way.

    A start-up test that takes longer goes on at the next read.
    """
    requests = mix_requests(entry, config.mixing_strategy, config.fetch_chunk_size)
    once_s = (entry.fetch_timeout or config.fetch_timeout) + entry.request_interval
    return min(LONGEST_LEG_TIMEOUT_S, (requests + 1) * once_s)
