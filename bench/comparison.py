"""What a comparison found: what each server did in each round, and which ratios are asked of that.

Idea: the figure is not the ratio of means but the median over the rounds of the ratio within a round, so that whatever
disturbs the machine for longer than a round disturbs both sides of it. Pure: from numbers to what goes into a file,
which is all that a report reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from figures import LEAST_PAIRS, Figure

CPU, PER_S, P50, P99, P99_9, GENERATOR, GENERATOR_LOAD = (
    "cpu_us",
    "per_s",
    "p50_us",
    "p99_us",
    "p99_9_us",
    "generator_cpu_us",
    "generator_load",
)
Run = dict[str, float]
"""What one server did in one round: processor time of the server for each reply in microseconds, replies a second,
times to a reply, processor time of the generator for each reply, and the share of its core that it was busy for."""


@dataclass(frozen=True)
class Asked:
    """A ratio: of `server` to `measure`, which may be `most`. None: for information."""

    server: str
    measure: str
    most: float | None = None
    quantity: str = CPU


@dataclass
class Comparison:
    """All rounds of one workload with replies of `size` bytes: each server's runs, in the order of rounds."""

    name: str
    method: str
    asked: tuple[Asked, ...]
    size: int
    runs: dict[str, list[Run]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """For want of what a server did not take part."""
    left_out: list[str] = field(default_factory=list)
    """Rounds that do not count, since a peer failed in them: which, and why."""

    def figures(self, server: str) -> dict[str, Figure]:
        """Return the figure of each quantity that the runs of `server` have."""
        runs = self.runs[server]
        return {quantity: Figure.of(run[quantity] for run in runs) for quantity in runs[0]}

    def ratio(self, asked: Asked) -> Figure:
        """Return the figure of a ratio, made round by round."""
        pairs = zip(self.runs[asked.server], self.runs[asked.measure], strict=True)
        return Figure.of(one[asked.quantity] / other[asked.quantity] for one, other in pairs)

    def verdict(self, asked: Asked, ratio: Figure) -> str:
        """Say whether a ratio is at most what it may be. Nothing where nothing is asked, or the pairs are too few."""
        few = len(self.runs[asked.server]) < LEAST_PAIRS
        return "" if asked.most is None or few else ratio.verdict(asked.most)

    def content(self, *, judged: bool) -> dict[str, Any]:
        """Return all of it for a file. Without `judged` nothing has a verdict."""
        return {
            "name": self.name,
            "method": self.method,
            "size": self.size,
            "rounds": len(next(iter(self.runs.values()), ())),
            "servers": {
                server: {quantity: figure.rounded() for quantity, figure in self.figures(server).items()}
                for server in self.runs
            },
            "ratios": [
                self._told(asked, judged) for asked in self.asked if {asked.server, asked.measure} <= {*self.runs}
            ],
            "skipped": self.skipped,
            "left_out": self.left_out,
            "runs": {
                server: [{quantity: float(f"{value:.5g}") for quantity, value in run.items()} for run in runs]
                for server, runs in self.runs.items()
            },
        }

    def _told(self, asked: Asked, judged: bool) -> dict[str, Any]:
        ratio = self.ratio(asked)
        return {
            "quantity": asked.quantity,
            "server": asked.server,
            "measure": asked.measure,
            "ratio": ratio.rounded(),
            "most": asked.most,
            "verdict": self.verdict(asked, ratio) if judged else "",
        }
