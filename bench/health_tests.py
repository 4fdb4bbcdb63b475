"""What testing a block of 64 KiB costs, against SHA-256 of the same block.

All parts are measured in turn, in one run, each round on 1 MiB of fresh blocks: in a collector too a block is tested
when it has just arrived and is still in a cache of the processor. Every figure is the median of the rounds,
and the ratio is the median of the rounds' own ratios, so that another program on the machine disturbs
both alike. Exits with 1 when the ratio is above the target.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import time
from collections.abc import Callable

from qrng_grpc.health_tests import Fingerprints, Monitor
from qrng_grpc.health_tests.adaptive_proportion import AdaptiveProportion
from qrng_grpc.health_tests.bit_counts import BitCounts
from qrng_grpc.health_tests.cutoffs import adaptive_proportion_cutoff, repetition_count_cutoff
from qrng_grpc.health_tests.period import Period
from qrng_grpc.health_tests.repetition_count import RepetitionCount

BLOCK_BYTES = 65_536
BLOCKS = 16
ROUNDS = 301
TARGET = 2.0
REFERENCE, WHOLE = "sha-256, for scale", "a block, all tests"


def parts(assessed_entropy: float) -> dict[str, Callable[[bytes], object]]:
    """Return what is measured, each taking a block."""
    monitor = Monitor(assessed_entropy)
    monitor.start_up(os.urandom(BLOCK_BYTES))
    return {
        REFERENCE: lambda block: hashlib.sha256(block).digest(),
        WHOLE: monitor.check,
        "repetition count": RepetitionCount(repetition_count_cutoff(assessed_entropy)).check,
        "adaptive proportion": AdaptiveProportion(adaptive_proportion_cutoff(assessed_entropy)).check,
        "bit counts": BitCounts().check,
        "period": Period().check,
        "fingerprint": Fingerprints().distance,
    }


def microseconds(part: Callable[[bytes], object], blocks: list[bytes]) -> float:
    """Return the time a block takes."""
    started = time.perf_counter()
    for block in blocks:
        part(block)
    return (time.perf_counter() - started) / len(blocks) * 1e6


def main() -> int:
    """Measure, print a table, and say whether the target is met."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--entropy", type=float, default=8.0, help="assessed bits per byte (8)")
    measured = parts(arguments.parse_args().entropy)
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(ROUNDS):
        blocks = [os.urandom(BLOCK_BYTES) for _ in range(BLOCKS)]
        for name, part in measured.items():
            times[name].append(microseconds(part, blocks))
    sys.stdout.write("| 64 KiB | microseconds | of SHA-256 |\n| --- | ---: | ---: |\n")
    ratios = {}
    for name, rounds in times.items():
        ratios[name] = statistics.median(a / b for a, b in zip(rounds, times[REFERENCE], strict=True))
        sys.stdout.write(f"| {name} | {statistics.median(rounds):.1f} | {ratios[name]:.2f} |\n")
    sys.stdout.write(f"\na block costs {ratios[WHOLE]:.2f} times its SHA-256; the target is at most {TARGET:.1f}\n")
    return 0 if ratios[WHOLE] <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
