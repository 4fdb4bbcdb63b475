"""JSON logs on standard error: one object a line, one event name, its facts as fields.

Idea: events are named in code, facts are numbers and ids; nothing that arrives from outside is
copied into a line, and no line is written per call. `log.info("pool_short", waiting=3)`. A log that
cannot be written (disk full, reader gone) is no reason to stop: its lines are lost, the program goes on.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logs(level: LogLevel, program: str) -> None:
    """Send this process's logs to standard error as JSON, from `level` up."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {"program": program, **event},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )


class _Stderr:
    """Standard error as it is now, and while it takes what is written."""

    def write(self, text: str) -> None:
        """Write `text`, or lose it."""
        with suppress(OSError):
            if sys.stderr is not None:  # it was closed before we began
                sys.stderr.write(text)

    def flush(self) -> None:
        """Let go of what is buffered, if that can be."""
        with suppress(OSError):
            if sys.stderr is not None:
                sys.stderr.flush()


def get_log() -> FilteringBoundLogger:
    """Return the logger of this process."""
    log: FilteringBoundLogger = structlog.get_logger()
    return log
