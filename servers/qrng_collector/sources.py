"""The sources that the settings name."""

from __future__ import annotations

from pathlib import Path

from qrng_collector.config import CollectorConfig
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.device import DeviceSource
from qrng_grpc.sources.http import HttpSource
from qrng_grpc.sources.mock import MockSource
from qrng_grpc.sources.system import SystemSource


def make_sources(config: CollectorConfig, state_dir: Path) -> list[EntropySource]:
    """Return the sources of `config`: several for several appliances, else one. Nothing is connected yet.

    `state_dir`, held by this process, is where a source keeps what must survive a restart.
    """
    if config.source == "http":
        return _appliances(config)
    if config.source == "device" and config.device_path is not None:
        device_id = config.device_id or "device"
        return [
            DeviceSource(
                config.device_path, config.source_class, device_id, config.source_custody, progress_dir=state_dir
            )
        ]
    if config.source == "mock":
        return [MockSource(config.mock_seed)]
    return [SystemSource()]


def _appliances(config: CollectorConfig) -> list[EntropySource]:
    urls = config.all_appliance_urls
    name = config.device_id or "appliance"
    names = [name] if len(urls) == 1 else [f"{name}-{number}" for number in range(1, len(urls) + 1)]
    return [
        HttpSource(
            url,
            source_class=config.source_class,
            device_id=device_id,
            custody=config.source_custody,
            ca_file=config.appliance_ca_file,
            fingerprint=config.appliance_fingerprint,
            timeout_s=config.fetch_timeout,
        )
        for url, device_id in zip(urls, names, strict=True)
    ]
