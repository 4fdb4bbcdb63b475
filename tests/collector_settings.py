"""Settings of a collector: all that it must be told, and what a test says besides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_grpc.config import load
from qrng_grpc.errors import ConfigError
from tests.spelling import as_keys

REQUIRED = {
    "HMAC_SECRET_KEY": "0123456789abcdef0123456789abcdef",
    "HMAC_KEY_ID": "k1",
    "COLLECTOR_ID": "lab",
    "POOL_ID": "pool",
    "BEST_CLASS": "quantum",
    "PUSH_URL": "127.0.0.1:50052",
    "STATE_DIR": "state",
}


def environ_of(*sources: dict[str, Any], **settings: str) -> dict[str, str]:
    """Return the environment of a collector with these entries of `sources`, and `settings` over what it must have."""
    stated = {"SOURCES": json.dumps(sources)} if sources else {}
    return {ENV_PREFIX + name: text for name, text in (REQUIRED | stated | settings).items()}


def loaded(*sources: dict[str, Any], **settings: str) -> CollectorConfig:
    """Return what a collector reads in that environment. Raises ConfigError."""
    return load(CollectorConfig, prefix=ENV_PREFIX, environ=environ_of(*sources, **settings))


def mistakes(*sources: dict[str, Any], **settings: str) -> tuple[str, ...]:
    """Return what a collector has against that environment, for which it does not start."""
    with pytest.raises(ConfigError) as caught:
        loaded(*sources, **settings)
    return tuple(as_keys(mistake, ENV_PREFIX) for mistake in caught.value.mistakes)
