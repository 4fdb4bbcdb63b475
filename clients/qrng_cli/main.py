"""Where the `qrng` command begins."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command and leave with its exit code."""
    # gRPC's own log lines may quote a peer; errors reach the terminal in our words instead.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from qrng_cli.group import cli  # noqa: PLC0415 - its absence is told below
    except ModuleNotFoundError as error:
        raise SystemExit(f"Error: the package {error.name} is missing; install qrng-grpc[cli]") from None
    cli(prog_name="qrng")


if __name__ == "__main__":
    main()
