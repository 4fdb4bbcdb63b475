"""Mistakes in settings as they are told of a YAML file, so that tests name settings one way, whatever they come from.

How names are spelt where is what `tests/unit/qrng_grpc/test_config.py` shows.
"""

from __future__ import annotations

import re


def as_keys(mistake: str, prefix: str) -> str:
    """Return a mistake with the names of variables, which begin with `prefix`, as the keys that stand for them."""
    return re.sub(rf"{prefix}([A-Z0-9_]+)", lambda found: found[1].lower().replace("__", "."), mistake)
