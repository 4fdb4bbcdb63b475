"""Sizes as people write them: 32, 64K, 10M, 2G."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZE = re.compile(r"([0-9]{1,18})([KMG]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Size(click.ParamType[int]):
    """A number of bytes, 1 or more; K, M and G stand for 1024, 1024^2 and 1024^3."""

    name = "size"

    def __init__(self, most: int | None = None) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value)
        if match is None:
            self.fail("expected a number of bytes such as 32, 64K, 10M or 1G", param, ctx)
        size = int(match[1]) * _FACTORS[match[2].upper()]
        if size < 1:
            self.fail("expected 1 or more", param, ctx)
        if self._most is not None and size > self._most:
            self.fail(f"at most {self._most:,} bytes", param, ctx)
        return size
