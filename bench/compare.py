"""The gateway and what people would use instead, side by side: what a reply costs the server, how many, how soon.

Idea: all servers of a workload run at once, on one core, each with a generator of its own on another; only one pair
works at a time. A round lets each of them work for a moment, in random order, so that whatever disturbs the machine
disturbs all alike. The figure is not the ratio of means but the median over the rounds of the ratio within a round.

    python bench/compare.py            # everything, half an hour
    python bench/compare.py --quick    # a choice, two minutes
    python bench/compare.py --only "unary 32 B, 16"

It writes results.md, results.json and plots to the directory of --results. What a machine lacks is left out by name.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from figures import LEAST_PAIRS, Figure
from gateway import gateway
from idle import with_idle_connections
from machine import Watch, complaints, description
from programs import HERE, Cores, Generator, MissingError, Outcome, Server, Tls, generating, peer
from report import write_report
from workloads import GATEWAY, MIB, PEERS, WORKLOADS, Workload

from qrng_grpc.certs import Authority

WARM_UP = 2
RUN_S, QUICK_RUN_S = 0.4, 0.15
TRIAL_REPLIES = 64
CONNECTIONS = (1, 100, 1000, 10_000)
POOLS = (MIB, 10 * MIB, 100 * MIB, 1000 * MIB)
ONE_CALL = Workload("unary", 32, 16, 1.10)


@dataclass(frozen=True)
class Run:
    """What one server did in one round."""

    cpu_us: float
    """Processor time of the server for each reply, in microseconds."""
    outcome: Outcome

    @property
    def per_s(self) -> float:
        """Replies a second."""
        return self.outcome.replies / self.outcome.seconds


@dataclass
class Contender:
    """A server that takes part in a workload, and its generator."""

    server: Server
    generator: Generator
    replies: int = TRIAL_REPLIES

    def run(self, workload: Workload, rate: float = 0) -> Run:
        """Work for one round."""
        self.server.prepare(self.replies * workload.size)
        before_s = self.server.cpu_s()
        outcome = self.generator.run(
            self.replies, workload.in_flight, rate, workload.least_size, workload.request(self.replies)
        )
        return Run((self.server.cpu_s() - before_s) / self.replies * 1e6, outcome)

    def settle(self, workload: Workload, run_s: float) -> Run:
        """Find out how many replies take about `run_s` seconds."""
        for _ in range(2):
            self.replies = workload.replies(self.replies)
            trial = self.run(workload)
            self.replies = workload.replies(trial.per_s * run_s)
        return trial


@dataclass
class Comparison:
    """All rounds of one workload: what each server did in each, in their order."""

    name: str
    measure: str = ""
    """By whom the gateway is measured; nobody where gateways are compared with each other."""
    target: float = 0.0
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def figure(self, server: str, read: Callable[[Run], float]) -> Figure:
        """Return the figure of what `read` finds in a server's runs."""
        return Figure.of(map(read, self.runs[server]))

    def ratio(self, one: str, other: str, read: Callable[[Run], float]) -> Figure:
        """Return the figure of the ratio of two servers, round by round."""
        return Figure.of(read(a) / read(b) for a, b in zip(self.runs[one], self.runs[other], strict=True))


class Bench:
    """Compares, and remembers what it found."""

    def __init__(self, cores: Cores, rounds: int, run_s: float, tls: Tls) -> None:
        self._cores = cores
        self._rounds = rounds
        self._run_s = run_s
        self._tls = tls
        self.skipped: dict[str, str] = {}

    def ours_s(self) -> float:
        """Return the processor time of this process and of those it has started and seen end."""
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def workload(self, workload: Workload) -> Comparison:
        """Compare the servers of `workload`."""
        tls = self._tls if workload.tls else None
        starts = {
            name: gateway(self._cores, tls) if name == GATEWAY else peer(PEERS[name], self._cores, tls)
            for name in workload.servers
        }
        return self._compare(Comparison(workload.name, workload.servers[1], workload.target), workload, starts)

    def connections(self) -> Comparison:
        """Compare gateways with different numbers of idle connections."""
        starts = {
            f"{n} connections": with_idle_connections(gateway(self._cores), n - 1, self._cores) for n in CONNECTIONS
        }
        return self._compare(Comparison(f"{ONE_CALL.name}, by connections"), ONE_CALL, starts)

    def pools(self) -> Comparison:
        """Compare gateways with pools of different sizes, full."""
        starts = {f"pool of {size // MIB} MiB": gateway(self._cores, capacity=size) for size in POOLS}
        return self._compare(Comparison(f"{ONE_CALL.name}, by pool"), ONE_CALL, starts)

    def _compare(
        self, comparison: Comparison, workload: Workload, starts: dict[str, AbstractContextManager[Server]]
    ) -> Comparison:
        with ExitStack() as running:
            contenders = dict(self._contenders(workload, starts, running))
            saturated = {name: one.settle(workload, self._run_s).per_s for name, one in contenders.items()}
            rate = (workload.load or 0) * next(iter(saturated.values()))
            if rate:
                for one in contenders.values():
                    one.replies = workload.replies(rate * self._run_s)
            comparison.runs = {name: [] for name in contenders}
            for number in range(WARM_UP + self._rounds):
                for name in random.sample(list(contenders), len(contenders)):
                    run = contenders[name].run(workload, rate)
                    if number >= WARM_UP:
                        comparison.runs[name].append(run)
        return comparison

    def _contenders(
        self, workload: Workload, starts: dict[str, AbstractContextManager[Server]], running: ExitStack
    ) -> Iterator[tuple[str, Contender]]:
        for name, start in starts.items():
            if name in self.skipped:
                continue
            try:
                server = running.enter_context(start)
                generator = running.enter_context(generating(server, workload.kind, workload.method, self._cores))
            except MissingError as error:
                if name == GATEWAY:
                    raise
                self.skipped[name] = str(error)
                print(f"skipped: {name}, for want of {error}", file=sys.stderr)
            else:
                yield name, Contender(server, generator)


def told(comparison: Comparison) -> Comparison:
    """Say on the terminal how it went."""
    print(f"\n{comparison.name}")
    for name in comparison.runs:
        print(f"  {name:<28}{comparison.figure(name, lambda run: run.cpu_us):8.1f} us a reply", end="")
        print(f"{comparison.figure(name, lambda run: run.per_s).median:10.0f} replies/s", end="")
        print(f"   p99 {comparison.figure(name, lambda run: run.outcome.p99_us).median:8.0f} us", end="")
        first = next(iter(comparison.runs))
        ratio = "" if name == first else f"   1/{comparison.ratio(first, name, lambda run: run.cpu_us):.2f}"
        print(ratio, flush=True)
    return comparison


@contextmanager
def material() -> Iterator[Tls]:
    """Make certificates for the block."""
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority.create("bench")
        tls = Tls(*(Path(directory) / name for name in ("server.pem", "server.key", "ca.pem")))
        authority.server(["127.0.0.1"]).save(tls.cert, tls.key)
        tls.authorities.write_bytes(authority.issued.certificate)
        yield tls


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a choice of workloads, in two minutes")
    arguments.add_argument("--only", default="", help="workloads whose name has this in it")
    arguments.add_argument("--rounds", type=int, default=LEAST_PAIRS + 1, help="paired runs, at least 10 for a verdict")
    arguments.add_argument("--results", type=Path, default=HERE / "results", help="where results are written")
    chosen = arguments.parse_args()
    try:
        cores = Cores.of_this_machine()
        os.sched_setaffinity(0, {cores.generator})
        with material() as tls:
            bench = Bench(cores, chosen.rounds, QUICK_RUN_S if chosen.quick else RUN_S, tls)
            watch = Watch(bench.ours_s)
            comparisons = [
                told(bench.workload(workload))
                for workload in WORKLOADS
                if chosen.only in workload.name and (workload.quick or not chosen.quick)
            ]
            if not chosen.quick and not chosen.only:
                comparisons += [told(bench.connections()), told(bench.pools())]
    except MissingError as error:
        sys.exit(f"nothing can be compared here, for want of {error}")
    spreads = {
        one.name: one.ratio(GATEWAY, one.measure, lambda run: run.cpu_us).spread
        for one in comparisons
        if one.measure in one.runs
    }
    found = complaints(watch, spreads)
    write_report(chosen.results, comparisons, bench.skipped, found, description())


if __name__ == "__main__":
    main()
