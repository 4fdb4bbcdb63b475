"""Where the `qrng` command begins."""

from __future__ import annotations

import os

_STANDARD_ERROR = 2


def main() -> None:
    """Run the command and leave with its exit code."""
    _occupy_standard_streams()
    # gRPC's own log lines may quote a peer; errors reach the terminal in our words instead.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from qrng_cli.group import cli  # noqa: PLC0415 - its absence is told below
    except ModuleNotFoundError as error:
        raise SystemExit(f"Error: the package {error.name} is missing; install qrng-grpc[cli]") from None
    cli(prog_name="qrng")


def _occupy_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed, before a socket takes its number and its output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    main()
