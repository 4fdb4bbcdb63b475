"""What a comparison found, for people (results.md), for programs (results.json) and for the eye (PNG)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import LEAST_PAIRS, Figure

if TYPE_CHECKING:
    from compare import Comparison, Run

COLUMNS: dict[str, Callable[[Run], float]] = {
    "CPU, µs": lambda run: run.cpu_us,
    "replies/s": lambda run: run.per_s,
    "p50, µs": lambda run: run.outcome.p50_us,
    "p99, µs": lambda run: run.outcome.p99_us,
    "p99.9, µs": lambda run: run.outcome.p99_9_us,
    "generator CPU, µs": lambda run: run.outcome.generator_cpu_s / run.outcome.replies * 1e6,
}
METHOD = """\
Servers share one core, the generator has another; one server works at a time, in random order within a round. CPU is
the processor time of all threads of the server for each reply. Each figure is the median over {pairs} rounds, in
brackets its 95 % interval by order statistics; a ratio is taken round by round.
"""


def write_report(
    directory: Path,
    comparisons: list[Comparison],
    skipped: dict[str, str],
    complaints: list[str],
    machine: dict[str, str],
) -> None:
    """Write all there is into `directory`, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    text = "\n".join(_lines(comparisons, skipped, complaints, machine))
    (directory / "results.md").write_text(text)
    (directory / "results.json").write_text(json.dumps(_content(comparisons, skipped, complaints, machine), indent=1))
    _plot(directory, comparisons)
    print(f"\n{text.partition('## ')[0]}\nwritten to {directory}")


def _lines(
    comparisons: list[Comparison], skipped: dict[str, str], complaints: list[str], machine: dict[str, str]
) -> Iterator[str]:
    pairs = max((len(runs) for one in comparisons for runs in one.runs.values()), default=0)
    yield "# The gateway and its peers\n"
    yield ", ".join(f"{name} {value}" for name, value in machine.items()) + "\n"
    yield METHOD.format(pairs=pairs)
    for complaint in complaints:
        yield f"**The machine was busy: {complaint}. Intervals stand in place of verdicts.**\n"
    for name, want in skipped.items():
        yield f"Skipped: {name}, for want of {want}\n"
    yield from _summary(comparisons, judged=not complaints and pairs >= LEAST_PAIRS)
    for comparison in comparisons:
        yield from _table(comparison)


def _summary(comparisons: list[Comparison], *, judged: bool) -> Iterator[str]:
    yield "| workload | gateway CPU as a multiple of | ratio | target |"
    yield "| --- | --- | ---: | --- |"
    for comparison in comparisons:
        first = next(iter(comparison.runs))
        for other in comparison.runs:
            if other == first:
                continue
            ratio = comparison.ratio(first, other, COLUMNS["CPU, µs"])
            yield f"| {comparison.name} | {other} | {ratio:.2f} | {_aim(comparison, other, ratio, judged)} |"
    yield ""


def _aim(comparison: Comparison, other: str, ratio: Figure, judged: bool) -> str:
    if other != comparison.measure:
        return ""
    verdict = f": {ratio.verdict(comparison.target)}" if judged else ""
    return f"at most {comparison.target:.2f}{verdict}"


def _table(comparison: Comparison) -> Iterator[str]:
    yield f"## {comparison.name}\n"
    yield f"| server | {' | '.join(COLUMNS)} |"
    yield "| --- |" + " ---: |" * len(COLUMNS)
    for name in comparison.runs:
        yield f"| {name} | " + " | ".join(f"{comparison.figure(name, read):.0f}" for read in COLUMNS.values()) + " |"
    yield ""


def _content(
    comparisons: list[Comparison], skipped: dict[str, str], complaints: list[str], machine: dict[str, str]
) -> dict[str, Any]:
    return {
        "machine": machine,
        "complaints": complaints,
        "skipped": skipped,
        "comparisons": [
            {
                "name": one.name,
                "target": one.target,
                "figures": {
                    name: {column: asdict(one.figure(name, read)) for column, read in COLUMNS.items()}
                    for name in one.runs
                },
                "runs": {name: [asdict(run) for run in runs] for name, runs in one.runs.items()},
            }
            for one in comparisons
        ],
    }


def _plot(directory: Path, comparisons: list[Comparison]) -> None:
    """Draw the processor time of each server by workload; without matplotlib, say so."""
    try:
        import matplotlib  # noqa: PLC0415 - the bench does without
    except ModuleNotFoundError:
        print("no plots, for want of matplotlib (bench/requirements.lock)")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    for number, comparison in enumerate(comparisons):
        names = list(comparison.runs)
        figures = [comparison.figure(name, COLUMNS["CPU, µs"]) for name in names]
        medians = [figure.median for figure in figures]
        errors = [
            [figure.median - figure.low for figure in figures],
            [figure.high - figure.median for figure in figures],
        ]
        drawing, axes = pyplot.subplots(figsize=(7, 0.5 + 0.45 * len(names)), layout="constrained")
        axes.barh(names, medians, xerr=errors, color="#4878a8", capsize=3)
        axes.invert_yaxis()
        axes.set_xlabel("server CPU for each reply, µs")
        axes.set_title(comparison.name)
        drawing.savefig(directory / f"{number:02d}.png", dpi=110, metadata={"Software": None})
        pyplot.close(drawing)
