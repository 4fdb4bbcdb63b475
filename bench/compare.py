"""The gateway and what people would use instead, side by side: what a reply costs the server, how many, how soon.

Idea: all servers of a workload run at once, on one core, each with a generator of its own on another; only one pair
works at a time. A round lets each of them work for a moment, in random order, so that whatever disturbs the machine
disturbs all alike. The figure is not the ratio of means but the median over the rounds of the ratio within a round.

    python bench/compare.py                    # every section, about forty minutes
    python bench/compare.py --section unary    # one of them
    python bench/compare.py --quick            # a choice, two minutes
    python bench/compare.py --only "unary 32 B, 16"

Each section writes a file of its own as soon as it is done, so that what breaks later loses nothing; the report is made
of all files that are there. What a machine lacks is left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import ingest
from comparison import CPU, GENERATOR, GENERATOR_LOAD, P50, P99, P99_9, PER_S, Asked, Comparison, Run
from figures import LEAST_FOR_INTERVAL, LEAST_PAIRS
from gateway import gateway
from idle import with_idle_connections
from machine import Watch, complaints, description, ours_s
from programs import HERE, Cores, Generator, MissingError, Server, Tls, generating, peer
from report import RESULTS, write_report
from sustained import sustained
from workloads import GATEWAY, MIB, MOST, NATIVE, ONE_CALL, PEERS, SECTIONS, Workload, written

from qrng_grpc.certs import Authority

WARM_UP = 2
ROUNDS, QUICK_ROUNDS = 41, 21
RUN_S, QUICK_RUN_S = 0.1, 0.06
"""Short runs and many: what disturbs a machine lasts, and then disturbs whole rounds, which their ratios survive."""
FLAT_ROUNDS = 2
"""As many times the rounds where servers differ little, and a tenth must be seen."""
PACED_RUN_S = 1.0
"""Of calls that come at a rate: there must be enough for a p99."""
TRIAL_REPLIES = 64
CONNECTIONS = (1, 100, 1000, 10_000)
POOLS = (MIB, 10 * MIB, 100 * MIB, 1000 * MIB)
SUSTAINED_S = 600
SCRIPTS = {
    "parts": "parts.py",
    "health-tests": "health_tests.py",
    "client": "client.py",
    "authentication": "authentication.py",
    "auth-timing": "auth_timing.py",
    "fairness": "fairness.py",
}
"""Measurements that are programs of their own; what they print is kept."""
QUICK = "quick"
Content = dict[str, Any]
Starts = dict[str, AbstractContextManager[Server]]


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int
    run_s: float
    sustained_s: int


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
        return {
            CPU: (self.server.cpu_s() - before_s) / self.replies * 1e6,
            PER_S: outcome.replies / outcome.seconds,
            P50: outcome.p50_us,
            P99: outcome.p99_us,
            P99_9: outcome.p99_9_us,
            GENERATOR: outcome.generator_cpu_s / outcome.replies * 1e6,
            GENERATOR_LOAD: outcome.generator_cpu_s / outcome.seconds,
        }

    def settle(self, workload: Workload, run_s: float) -> float:
        """Find out how many replies take about `run_s` seconds; return how many it makes in one."""
        for _ in range(2):
            self.replies = workload.replies(self.replies)
            per_s = self.run(workload)[PER_S]
            self.replies = workload.replies(per_s * run_s)
        return per_s


@dataclass
class Bench:
    """Compares servers on this machine."""

    cores: Cores
    tls: Tls
    extent: Extent
    missing: dict[str, str] = field(default_factory=dict)
    """What this machine has not, by server: it is not looked for twice."""

    def workload(self, workload: Workload) -> Comparison:
        """Compare the servers of `workload`."""
        starts = {name: self._start(name, self.tls if workload.tls else None) for name in workload.servers}
        comparison = Comparison(workload.name, workload.method, workload.asked, workload.size)
        rounds = self.extent.rounds
        if workload.load:
            rounds = max(LEAST_FOR_INTERVAL, rounds // 2)
        return self._compare(comparison, workload, starts, rounds)

    def connections(self) -> Comparison:
        """Compare gateways with different numbers of connections, all but one idle."""
        starts = {_connections(n): with_idle_connections(gateway(self.cores), n - 1, self.cores) for n in CONNECTIONS}
        return self._flat("by connections", starts)

    def pools(self) -> Comparison:
        """Compare gateways with pools of different sizes, full."""
        starts: Starts = {f"pool of {written(size)}": gateway(self.cores, capacity=size) for size in POOLS}
        return self._flat("by pool", starts)

    def _start(self, name: str, tls: Tls | None) -> AbstractContextManager[Server]:
        if name in (GATEWAY, NATIVE):
            return gateway(self.cores, tls, engine="native" if name == NATIVE else "grpcio")
        return peer(PEERS[name], self.cores, tls)

    def _flat(self, what: str, starts: Starts) -> Comparison:
        """Compare gateways that should cost the same, whatever differs between them."""
        first, *others = starts
        asked = tuple(Asked(other, first, MOST) for other in others)
        comparison = Comparison(f"{ONE_CALL.name}, {what}", ONE_CALL.method, asked, ONE_CALL.size)
        return self._compare(comparison, ONE_CALL, starts, self.extent.rounds * FLAT_ROUNDS)

    def _compare(self, comparison: Comparison, workload: Workload, starts: Starts, rounds: int) -> Comparison:
        with ExitStack() as running:
            contenders, saturated = self._settled(comparison, workload, starts, running)
            if workload.load:
                for one in contenders.values():
                    one.replies = workload.replies(workload.load * saturated * PACED_RUN_S)
                    # On the one core that servers have here, a push just before a run would be part of its latencies.
                    one.server.stock(one.replies * workload.size * 2 * (WARM_UP + rounds))
            comparison.runs = {name: [] for name in contenders}
            for number in range(WARM_UP + rounds):
                runs = round_of(contenders, workload, comparison)
                if number >= WARM_UP:
                    for name, run in runs.items():
                        comparison.runs[name].append(run)
        return comparison

    def _settled(
        self, comparison: Comparison, workload: Workload, starts: Starts, running: ExitStack
    ) -> tuple[dict[str, Contender], float]:
        """Start all that can be; return them and how many replies a second saturate the first."""
        contenders: dict[str, Contender] = {}
        saturated = 0.0
        for name, start in starts.items():
            try:
                contender = self._started(name, start, workload, running)
                per_s = contender.settle(workload, PACED_RUN_S if workload.load else self.extent.run_s)
            except (MissingError, RuntimeError) as error:
                if not contenders:
                    raise
                self._skip(comparison, name, error)
            else:
                contenders[name] = contender
                saturated = saturated or per_s
        return contenders, saturated

    def _started(
        self, name: str, start: AbstractContextManager[Server], workload: Workload, running: ExitStack
    ) -> Contender:
        if name in self.missing:
            raise MissingError(self.missing[name])
        server = running.enter_context(start)
        return Contender(server, running.enter_context(generating(server, workload.kind, workload.path, self.cores)))

    def _skip(self, comparison: Comparison, name: str, error: Exception) -> None:
        if isinstance(error, MissingError) and name not in self.missing:
            self.missing[name] = str(error)
        comparison.skipped[name] = str(error).strip().splitlines()[-1]
        print(f"  skipped: {name}: {comparison.skipped[name]}", file=sys.stderr)


def round_of(contenders: dict[str, Contender], workload: Workload, comparison: Comparison) -> dict[str, Run]:
    """Let each contender work for a moment, in random order. Returns what each did.

    Where calls come at a rate, it is a share of what saturates the first contender in this very round: in another, the
    machine may be half as fast. Calls pile up while it stands still, and peers refuse some when a thousand wait. Such
    a round is left out, and told; should a gateway fail, or a peer that has all the time it likes, the section ends.
    """
    runs = {}
    rate = 0.0
    if workload.load:
        rate = workload.load * next(iter(contenders.values())).run(workload)[PER_S]
    for name in random.sample(list(contenders), len(contenders)):
        try:
            runs[name] = contenders[name].run(workload, rate)
        except RuntimeError as error:
            if not rate or name in (GATEWAY, NATIVE):
                raise
            comparison.left_out.append(f"{name}: {error}")
            print(f"  a round is left out: {name}: {error}", file=sys.stderr)
            return {}
    return runs


def _connections(number: int) -> str:
    return f"{number:,} connection{'s' if number > 1 else ''}"


# Sections: each returns what goes into its file, and tells the terminal how it went.


def compared(bench: Bench, measurements: list[Callable[[], Comparison]]) -> Content:
    """Compare, and judge where the machine was left to us."""
    watch = Watch(ours_s)
    comparisons, broken = [], []
    for measure in measurements:
        try:
            comparisons.append(told(measure()))
        except (MissingError, RuntimeError, OSError, grpc.RpcError) as error:
            traceback.print_exc()
            broken.append(str(error).strip().splitlines()[-1])
    found = complaints(watch)
    return {
        "complaints": found,
        "comparisons": [one.content(judged=not found) for one in comparisons],
        "broken": list(dict.fromkeys(broken)),
    }


def told(comparison: Comparison) -> Comparison:
    """Say on the terminal how it went."""
    print(f"\n{comparison.name} ({comparison.method})")
    for name in comparison.runs:
        figures = comparison.figures(name)
        more = f"{figures[PER_S].median:10.0f} a second   p99 {figures[P99].median:8.0f} us" if PER_S in figures else ""
        print(f"  {name:<28}{figures[CPU]:8.1f} us{more}")
    for asked in comparison.asked:
        if {asked.server, asked.measure} <= {*comparison.runs} and asked.most:
            ratio = comparison.ratio(asked)
            print(f"  {asked.server} / {asked.measure}: {ratio:.2f}, at most {asked.most:.2f}", flush=True)
    return comparison


def lasting(bench: Bench) -> Content:
    """Load a gateway for long, on gRPC and REST at once."""
    watch = Watch(ours_s)
    found = sustained(bench.cores, bench.extent.sustained_s)
    print(json.dumps({**found, "samples": len(found["samples"])}, indent=1))
    return {"complaints": complaints(watch), "sustained": found}


def printed(script: str) -> Content:
    """Run a measurement that is a program of its own, on all cores."""
    done = subprocess.run(
        [sys.executable, HERE / script],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)),
    )
    print(done.stdout)
    return {"text": done.stdout, "exit_code": done.returncode}


def sections(bench: Bench, only: str) -> dict[str, Callable[[], Content]]:
    """Return what measures each section, those of workloads narrowed to names that have `only` in them."""

    def of(workloads: tuple[Workload, ...]) -> Callable[[], Content]:
        chosen = [partial(bench.workload, one) for one in workloads if only in one.name]
        return partial(compared, bench, chosen)

    workloads = {name: of(some) for name, some in SECTIONS.items() if any(only in one.name for one in some)}
    if only:
        return workloads
    return {
        **workloads,
        "connections": partial(compared, bench, [bench.connections]),
        "pool": partial(compared, bench, [bench.pools]),
        "ingest": partial(compared, bench, [partial(ingest.comparison, bench.cores, max(bench.extent.rounds, 41))]),
        **{name: partial(printed, script) for name, script in SCRIPTS.items()},
        "sustained": partial(lasting, bench),
    }


def quick_sections(bench: Bench) -> dict[str, Callable[[], Content]]:
    """Return the one section of a quick run."""
    chosen = [partial(bench.workload, one) for some in SECTIONS.values() for one in some if one.quick]
    return {QUICK: partial(compared, bench, chosen)}


def run_sections(chosen: dict[str, Callable[[], Content]], results: Path) -> list[str]:
    """Run sections one after another, a file for each. Returns what broke, by name."""
    results.mkdir(parents=True, exist_ok=True)
    broken = []
    for name, measure in chosen.items():
        print(f"\n== {name}", flush=True)
        began_s = time.monotonic()
        try:
            content = measure()
        except Exception as error:  # whatever it is, the sections after it are none the worse
            traceback.print_exc()
            content = {"broken": [f"{type(error).__name__}: {error}"]}
        broken += [f"{name}: {what}" for what in content.get("broken", ())]
        content = {"machine": description(), "seconds": round(time.monotonic() - began_s), **content}
        (results / f"{name}.json").write_text(json.dumps(content, indent=1))
    return broken


@contextmanager
def material() -> Iterator[Tls]:
    """Make certificates for the block."""
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority.create("bench")
        tls = Tls(*(Path(directory) / name for name in ("server.pem", "server.key", "ca.pem")))
        authority.server(["127.0.0.1"]).save(tls.cert, tls.key)
        tls.authorities.write_bytes(authority.issued.certificate)
        yield tls


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a choice of workloads, in two minutes")
    parser.add_argument("--section", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--only", default="", help="workloads whose name has this in it")
    parser.add_argument("--rounds", type=int, help=f"paired runs, at least {LEAST_PAIRS} for a verdict ({ROUNDS})")
    parser.add_argument("--run", type=float, help=f"seconds that a run takes ({RUN_S})")
    parser.add_argument("--sustained", type=int, default=SUSTAINED_S, help=f"seconds of the long run ({SUSTAINED_S})")
    parser.add_argument("--results", type=Path, help="where results are written")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    rounds, run_s = (QUICK_ROUNDS, QUICK_RUN_S) if chosen.quick else (ROUNDS, RUN_S)
    extent = Extent(chosen.rounds or rounds, chosen.run or run_s, chosen.sustained)
    # A choice is no part of a whole run, and must not take its place.
    results = chosen.results or RESULTS / (QUICK if chosen.quick else "choice" if chosen.only else "")
    try:
        cores = Cores.of_this_machine()
    except MissingError as error:
        sys.exit(f"nothing can be compared here, for want of {error}")
    os.sched_setaffinity(0, {cores.generator})
    with material() as tls:
        bench = Bench(cores, tls, extent)
        known = quick_sections(bench) if chosen.quick else sections(bench, chosen.only)
        if unknown := {*chosen.section} - {*known}:
            sys.exit(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        broken = run_sections({name: known[name] for name in chosen.section or known}, results)
    write_report(results)
    if broken:
        sys.exit("broken: " + "; ".join(broken))


if __name__ == "__main__":
    main()
