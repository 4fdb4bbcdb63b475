"""Where the `qrng` command begins."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from qrng_cli import interrupts

_STANDARD_ERROR = 2
_FAILURE = 1


def main() -> None:
    """Run the command and leave with its exit code."""
    interrupts.end_at_once()
    _occupy_standard_streams()
    # gRPC's own log lines may quote a peer; errors reach the terminal in our words instead.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from qrng_cli.group import cli  # noqa: PLC0415 - its absence is told below
    except ModuleNotFoundError as error:
        raise SystemExit(f"Error: the package {error.name} is missing; install qrng-grpc[cli]") from None
    warnings.showwarning = _tell  # type: ignore[assignment]  # it heeds one argument of six
    try:
        cli(prog_name="qrng")
    except SystemExit as end:
        raise SystemExit(_with_its_output(end.code)) from None


def _occupy_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed, before a socket takes its number and its output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)


def _tell(warning: Warning | str, *_: Any, **__: Any) -> None:
    """Tell a warning in a line, without the place in our code."""
    print(f"Warning: {warning}", file=sys.stderr)


def _with_its_output(code: Any) -> Any:
    """Return the exit code of a command that ended with `code`, once its output is out, or cannot be."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more as it ends
        if not code and not isinstance(error, BrokenPipeError):
            print(f"Error: standard output: {error.strerror}", file=sys.stderr)
            return _FAILURE
    return code


if __name__ == "__main__":
    main()
