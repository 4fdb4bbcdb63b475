"""A daily quota under kill -9: what was granted stays counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qrng_gateway.admission.limits import Limiter
from qrng_grpc.client_keys import Client, Limits
from qrng_grpc.testing.clock import ManualClock

QUOTA = 10_000_000
CLIENT = Client("lab", limits=Limits(bytes_per_day=QUOTA))

# Grants for ever, and tells each time how much that was in all.
GRANTING = f"""
import sys
from pathlib import Path
from qrng_gateway.admission.limits import Limiter
from qrng_grpc.client_keys import Client, Limits
from qrng_grpc.testing.clock import ManualClock

limiter = Limiter(Path(sys.argv[1]), rate_limit=100, clock=ManualClock())
client = Client("lab", limits=Limits(bytes_per_day={QUOTA}))
granted = {QUOTA} - limiter.remaining(client).bytes_today
while True:
    limiter.charge(client, 1009)
    granted += 1009
    print(granted, flush=True)
"""


def granted_until_killed(state_dir: Path, times: int) -> int:
    """Let a process grant bytes, kill it after `times` of them, and return what it had granted in all."""
    command = [sys.executable, "-c", GRANTING, str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(times)]
        process.kill()
        told += process.stdout.readlines()
    return int([line for line in told if line.endswith("\n")][-1])  # the last may have been cut off


def test_a_killed_gateway_has_forgotten_nothing_it_granted(tmp_path: Path) -> None:
    """After each of several kills what is left of the quota is what was not granted, less at most a hundredth."""
    for times in (1, 150, 1000):
        granted = granted_until_killed(tmp_path, times)
        left = Limiter(tmp_path, rate_limit=100, clock=ManualClock()).remaining(CLIENT).bytes_today
        assert left is not None
        assert QUOTA - granted - QUOTA // 100 - 1009 <= left <= QUOTA - granted
