"""A thousand calls a second by gRPC and a thousand by REST, for minutes: how soon, how sure, and how much memory.

Idea: one gateway serves both at once, and its pool gets what a collector would bring meanwhile, so that nothing but
leaks makes its memory grow. Calls begin when they are due, whatever became of those before, and their time counts
from when they were due: a gateway that stood still for a second would show a thousand late replies. Every second its
resident memory is noted beside the number of calls so far.

    python bench/sustained.py --seconds 60
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any

import numpy as np
from gateway import CHUNK_BYTES, StockedGateway, gateway
from programs import Cores, Generator, Outcome, generating
from workloads import MIB, Workload

RATE = 1000
SIZE = 32
WORKLOADS = {"gRPC": Workload("unary", SIZE, 16), "REST": Workload("rest", SIZE, 16)}
MOST_P99_MS = 100
MOST_GROWTH = 1.02
"""Of memory, from the first tenth of the calls to the last."""
POOL_BYTES = 4 * MIB
CHUNKS_A_SECOND = 2 * len(WORKLOADS) * RATE * SIZE // CHUNK_BYTES + 1
"""Twice what is asked for, so that the pool is always full."""
SETTLING_CALLS = 100_000
"""Of a million: what the allocator and Python's caches need to come to rest."""
TIMES = ("p50", "p99", "p99_9", "longest")
Sample = tuple[int, int]
"""Calls so far, and bytes resident."""


def sustained(cores: Cores, seconds: int) -> dict[str, Any]:
    """Load a gateway for `seconds`; return what came of it."""
    with ExitStack() as running:
        server = running.enter_context(gateway(cores, capacity=POOL_BYTES))
        loads = {
            name: running.enter_context(generating(server, workload.kind, workload.path, cores))
            for name, workload in WORKLOADS.items()
        }
        before_s = server.cpu_s()
        with ThreadPoolExecutor(len(loads)) as threads:
            outcomes = {name: threads.submit(_load, loads[name], WORKLOADS[name], seconds) for name in loads}
            samples = list(_watched(server, list(outcomes.values())))
        cpu_s = server.cpu_s() - before_s
    found = {name: outcome.result() for name, outcome in outcomes.items()}
    return summary(found, samples, seconds, cpu_s)


def _load(generator: Generator, workload: Workload, seconds: int) -> Outcome:
    replies = RATE * seconds
    return generator.attempt(replies, workload.in_flight, RATE, workload.least_size, workload.request(replies))


def _watched(server: StockedGateway, outcomes: list[Future[Outcome]]) -> Iterator[Sample]:
    """Keep the pool overflowing and look at the memory, once a second, until all have ended."""
    began_s = time.monotonic()
    for second in count(1):
        server.push(CHUNKS_A_SECOND)
        time.sleep(max(0.0, began_s + second - time.monotonic()))
        if all(outcome.done() for outcome in outcomes):
            return
        yield second * RATE * len(outcomes), server.resident_bytes()


def summary(outcomes: dict[str, Outcome], samples: list[Sample], seconds: int, cpu_s: float) -> dict[str, Any]:
    """Return what is told of a long run, with verdicts."""
    calls = sum(outcome.replies for outcome in outcomes.values())
    return {
        "seconds": seconds,
        "rate": RATE,
        "size": SIZE,
        "most_p99_ms": MOST_P99_MS,
        "load": round(cpu_s / seconds, 3),
        "fronts": {name: _of_front(outcome, RATE * seconds) for name, outcome in outcomes.items()},
        "calls": calls,
        "memory": growth(samples),
        "samples": samples,
    }


def _of_front(outcome: Outcome, asked: int) -> dict[str, Any]:
    lost = asked - outcome.replies + outcome.short_replies
    met = lost == 0 and outcome.p99_us < MOST_P99_MS * 1000
    return {
        "replies": outcome.replies,
        "failed": lost,
        "first_error": outcome.first_error,
        **{f"{name}_ms": round(getattr(outcome, f"{name}_us") / 1000, 3) for name in TIMES},
        "verdict": "met" if met else "missed",
    }


def growth(samples: list[Sample]) -> dict[str, Any]:
    """Return how memory grew: after the first calls, at the end, and by how much with each million calls.

    Both ends are medians of twenty looks. Without a million calls there is no verdict.
    """
    if not samples:
        return {}
    calls, resident = np.array(samples, dtype=float).T
    settled = min(SETTLING_CALLS, calls[-1] / 10)
    after = resident[calls >= settled]
    first, last = float(np.median(after[:20])), float(np.median(after[-20:]))
    slope = np.polyfit(calls[calls >= settled], after, 1)[0] if len(after) > 1 else 0.0
    told = calls[-1] - settled >= 1_000_000 - SETTLING_CALLS
    return {
        "settled_calls": int(settled),
        "calls": int(calls[-1]),
        "first_bytes": int(first),
        "last_bytes": int(last),
        "growth": round(last / first, 4),
        "bytes_a_million": int(slope * 1e6),
        "most": MOST_GROWTH,
        "verdict": ("met" if last / first <= MOST_GROWTH else "missed") if told else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    chosen = parser.parse_args()
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.generator})
    found = sustained(cores, chosen.seconds)
    del found["samples"]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
