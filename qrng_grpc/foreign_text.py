"""Keeping what strangers say out of the log of a program that speaks to them.

Idea: messages of libraries may quote an exception that quotes a peer. So their loggers are given nowhere to write, and
of what asyncio cannot hand to anyone, the kind of exception is logged. What grpc's core writes by itself is told to be
silent by environment variables, before it is imported: see the first lines of the packages that do.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from qrng_grpc.logs import get_log


def keep_foreign_text_out() -> None:
    """See to it that nothing a peer says is logged by libraries on its own accord, while the running loop lives."""
    for name in ("grpc", "asyncio"):
        library = logging.getLogger(name)
        library.handlers = [logging.NullHandler()]
        library.propagate = False
    asyncio.get_running_loop().set_exception_handler(_log_kind)


def _log_kind(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    get_log().error("unhandled", kind=type(context.get("exception")).__name__)
