"""What a greedy client costs a modest one whose reservation covers its demand, while the pool is short.

Idea: a gateway with a collector runs in a process of its own, a greedy client in another; this one is the modest
client, which asks at fixed moments and takes the time from such a moment to the reply, so that being late counts.
Phases take turns, some rounds of them, so that other programs on the machine disturb all alike:

- alone: nobody else asks;
- beside greed: the greedy client asks for a hundred times its share, which is half of what arrives. The pool is
  short: what comes is gone at once, and up to half the line is greedy claims;
- without a reservation: the same, for a client that has none. It shows that the pool was short, and what
  reservations are for.

The modest client has a reservation of what it asks for in one fetch and one push interval, which lie between two
arrivals at the worst, and in one fetch interval more, for an arrival that is late. What is held against the
target is the p99 beside greed over the p99 alone, each the median of its phases, so that a phase that something else on
the machine disturbed does not decide; its interval comes from drawing whole rounds anew.
The processor time of the gateway and its collector is shown, since the target is for half a core at most.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, Any

import grpc.aio
import numpy as np

from qrng_collector.app import collecting
from qrng_collector.config import CollectorConfig
from qrng_gateway.memory import keep_heaps_few, keep_pauses_short
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, changing_client_file, digest_of
from qrng_grpc.labels import SourceClass
from qrng_grpc.logs import configure_logs
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1.entropy_pb2 import GetEntropyRequest
from qrng_grpc.v1.entropy_pb2_grpc import EntropyServiceStub

FETCH_BYTES, FETCH_S, PUSH_S = 4096, 0.2, 0.1
INFLOW = FETCH_BYTES / FETCH_S
GREEDY_BYTES = 2048
GREEDY_S = GREEDY_BYTES / (100 * INFLOW / 2)
"""Seconds between two greedy calls: a hundred times half the inflow."""
CONNECTIONS = 4
"""Of the greedy client: a connection has 512 calls at most, so on one it would wait for itself."""
MODEST_BYTES, MODEST_S = 128, 0.02
RESERVED_BYTES = round(MODEST_BYTES * (FETCH_S + PUSH_S + FETCH_S) / MODEST_S)
SETTLE_S = 1.0
"""For how long a phase runs before it counts."""
TARGET = 2.0
DRAWS = 2000
ALONE, BESIDE, UNRESERVED = "alone", "beside greed", "without a reservation"
MODEST, PLAIN, GREEDY = "modest", "plain", "greedy"
KEYS = {name: f"key-of-this-benchmark-{name}" for name in (MODEST, PLAIN, GREEDY)}
"""They guard nothing."""


@dataclass(frozen=True)
class Phase:
    """What the modest client saw: the time of each reply in milliseconds, how many calls failed."""

    times_ms: list[float]
    failed: int
    load: float
    """Processor time of gateway and collector, as a share of one core."""


class Helper:
    """A process of this benchmark: it says one line, and is told lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, line: str) -> None:
        """Say `line` to it."""
        _pipe(self.process.stdin).write(line + "\n")
        _pipe(self.process.stdin).flush()

    def hear(self) -> str:
        """Return the next line it says."""
        return _pipe(self.process.stdout).readline().strip()

    def cpu_s(self) -> float:
        """Return the processor time of all its threads so far."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # CPUCLOCK_SCHED of a process, as in Linux's headers


def main() -> int:
    """Measure, print, and say whether the target is met."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=15, help="rounds of the three phases (15)")
    arguments.add_argument("--seconds", type=float, default=5.0, help="length of a phase (5)")
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("--greedy", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.serve:
        asyncio.run(serve())
        return 0
    if chosen.greedy:
        asyncio.run(be_greedy(chosen.greedy))
        return 0
    with ExitStack() as helpers:
        gateway = helpers.enter_context(helper("--serve"))
        address = gateway.hear()
        greedy = helpers.enter_context(helper("--greedy", address))
        return report(asyncio.run(measured(gateway, greedy, address, chosen.rounds, chosen.seconds)))


def report(rounds: list[dict[str, Phase]]) -> int:
    """Print each phase and the ratio. Returns 1 when the target is missed."""
    print(f"| {len(rounds)} rounds | calls | failed | p50 ms | p99 ms | a core's load |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in (ALONE, BESIDE, UNRESERVED):
        times = np.concatenate([one[name].times_ms for one in rounds])
        failed, load = sum(one[name].failed for one in rounds), np.mean([one[name].load for one in rounds])
        p50, p99 = np.median(times), p99_ms(rounds, name)
        print(f"| {name} | {len(times) + failed} | {failed} | {p50:.2f} | {p99:.2f} | {load:.0%} |")
    found = ratio(rounds)
    drawn = [ratio(random.choices(rounds, k=len(rounds))) for _ in range(DRAWS)]  # noqa: S311 - a bootstrap
    low, high = np.percentile(drawn, (2.5, 97.5))
    print(f"\np99 beside greed is {found:.2f} times that alone (95 %: {low:.2f} to {high:.2f}); target {TARGET:.1f}")
    return int(found > TARGET or any(one[BESIDE].failed for one in rounds))


def ratio(rounds: list[dict[str, Phase]]) -> float:
    """Return the p99 beside greed over the p99 alone."""
    return p99_ms(rounds, BESIDE) / p99_ms(rounds, ALONE)


def p99_ms(rounds: list[dict[str, Phase]], name: str) -> float:
    """Return the median of the p99 of the phases of this name."""
    return float(np.median([np.percentile(one[name].times_ms, 99) for one in rounds]))


async def measured(
    gateway: Helper, greedy: Helper, address: str, rounds: int, seconds: float
) -> list[dict[str, Phase]]:
    """Run the phases in turn, each round in another order."""
    found = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = EntropyServiceStub(channel)
        for _ in range(rounds):
            phases = {}
            for name in random.sample((ALONE, BESIDE, UNRESERVED), 3):
                if name != ALONE:
                    greedy.tell("go")
                phases[name] = await phase(gateway, stub, KEYS[PLAIN if name == UNRESERVED else MODEST], seconds)
                if name != ALONE:
                    greedy.tell("stop")
            found.append(phases)
    return found


async def phase(gateway: Helper, stub: Any, key: str, seconds: float) -> Phase:
    """Be the modest client for some seconds."""
    await asyncio.gather(*asks(stub, key, SETTLE_S), return_exceptions=True)
    cpu_s, began_s = gateway.cpu_s(), time.monotonic()
    outcomes = await asyncio.gather(*asks(stub, key, seconds), return_exceptions=True)
    load = (gateway.cpu_s() - cpu_s) / (time.monotonic() - began_s)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, grpc.aio.AioRpcError):
            raise outcome
    times_ms = [outcome for outcome in outcomes if isinstance(outcome, float)]
    return Phase(times_ms, len(outcomes) - len(times_ms), load)


def asks(stub: Any, key: str, seconds: float) -> Iterator[Awaitable[float]]:
    """Return the modest client's calls of some seconds, each to be made at its moment."""
    first_s = time.monotonic() + MODEST_S
    return (ask_at(first_s + number * MODEST_S, stub, key) for number in range(round(seconds / MODEST_S)))


async def ask_at(moment_s: float, stub: Any, key: str) -> float:
    """Ask at a moment; return the milliseconds from then to the reply."""
    await asyncio.sleep(moment_s - time.monotonic())
    await stub.GetEntropy(GetEntropyRequest(bytes_needed=MODEST_BYTES), metadata=(("api-key", key),))
    return (time.monotonic() - moment_s) * 1e3


# The other processes


async def be_greedy(address: str) -> None:
    """Ask for far too much between `go` and `stop`, until the input ends."""
    running: asyncio.Task[None] | None = None
    async with AsyncExitStack() as opened:
        own = (("grpc.use_local_subchannel_pool", 1),)
        channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(CONNECTIONS)]
        stubs = [EntropyServiceStub(await opened.enter_async_context(channel)) for channel in channels]
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "go":
                running = asyncio.create_task(ask_for_everything(stubs))
            elif running is not None:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running


async def ask_for_everything(stubs: list[Any]) -> None:
    """Begin a call at each of its moments, whatever became of those before."""
    open_calls: set[Any] = set()
    moment_s = time.monotonic()
    try:
        for stub in cycle(stubs):
            call = stub.GetEntropy(GetEntropyRequest(bytes_needed=GREEDY_BYTES), metadata=(("api-key", KEYS[GREEDY]),))
            open_calls.add(call)
            call.add_done_callback(open_calls.discard)
            moment_s += GREEDY_S
            await asyncio.sleep(moment_s - time.monotonic())
    finally:
        for call in list(open_calls):
            call.cancel()


async def serve() -> None:
    """Be the gateway and its collector, until the input ends."""
    configure_logs("warning", "bench")
    keep_heaps_few()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with changing_client_file(directory / "clients.yaml") as records:
            for client_id, key in KEYS.items():
                client = Client(client_id, reserved_bytes=RESERVED_BYTES if client_id == MODEST else 0)
                records.append(ClientRecord(client, (KeyDigest(digest_of(key)),)))
        async with (
            running_gateway(
                api_keys_file=directory / "clients.yaml", best_class=SourceClass.SIMULATED, buffer_size=1 << 20
            ) as gateway,
            collecting(collector_config(gateway, directory)),
        ):
            keep_pauses_short()  # as the programs do
            print(gateway.client_address, flush=True)
            await asyncio.to_thread(sys.stdin.read)


def collector_config(gateway: RunningGateway, directory: Path) -> CollectorConfig:
    """Return the settings of a collector that fetches and pushes at the intervals above."""
    record = gateway.key_record
    return CollectorConfig(
        hmac_secret_key=record.secret.decode(),
        hmac_key_id=record.key_id,
        collector_id=record.collector_id,
        pool_id=gateway.pool_id,
        best_class=record.best_class,
        source="mock",
        mock_seed=random.getrandbits(64),
        fetch_chunk_size=FETCH_BYTES,
        fetch_interval=FETCH_S,
        push_url=gateway.push_address,
        push_interval=PUSH_S,
        state_dir=directory / "collector",
    )


def helper(*arguments: str) -> AbstractContextManager[Helper]:
    """Run this file with `arguments` as a process of its own while the block runs."""
    return _helper(arguments)


@contextmanager
def _helper(arguments: tuple[str, ...]) -> Iterator[Helper]:
    with subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Helper(process)
        finally:
            _pipe(process.stdin).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


if __name__ == "__main__":
    sys.exit(main())
