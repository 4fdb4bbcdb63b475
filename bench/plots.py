"""Four plots of what was measured. Without matplotlib there are none, and that is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comparison import CPU, P50, P99, P99_9, PER_S

COLOURS = (
    "#1f5a8c",
    "#6fa8d6",
    "#3a8f4d",
    "#8cc08f",
    "#c8a020",
    "#b0703c",
    "#a04a8c",
    "#d08ac0",
    "#444444",
    "#20a0a0",
    "#999999",
    "#d04040",
)
WIDTH = 8


def draw(directory: Path, results: dict[str, dict[str, Any]]) -> None:
    """Draw into `directory` what the results have."""
    try:
        import matplotlib  # noqa: PLC0415 - the bench does without
    except ModuleNotFoundError:
        print("no plots, for want of matplotlib (bench/requirements.lock)")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    for name, plot in PLOTS.items():
        drawing, axes = pyplot.subplots(layout="constrained")
        if plot(drawing, axes, results):
            drawing.savefig(
                directory / f"{name}.png", dpi=75, metadata={"Software": None}, pil_kwargs={"optimize": True}
            )
        pyplot.close(drawing)


def _comparisons(results: dict[str, dict[str, Any]], quantity: str) -> Iterator[dict[str, Any]]:
    """Return the comparisons of the gateway with its peers, under calls, whose ratios are of `quantity`."""
    for content in results.values():
        for one in content.get("comparisons", ()):
            served = PER_S in one["servers"].get("gateway", {})
            if served and any(ratio["quantity"] == quantity for ratio in one["ratios"]):
                yield one


def _ratios(drawing: Any, axes: Any, results: dict[str, dict[str, Any]]) -> bool:
    """Draw every ratio of CPU that has a target: an interval, and a line where the target is."""
    rows = [
        (one["name"], ratio)
        for one in _comparisons(results, CPU)
        for ratio in one["ratios"]
        if ratio["most"] is not None
    ]
    names = list(dict.fromkeys(name for name, _ in rows))
    kinds = list(dict.fromkeys(_kind(ratio) for _, ratio in rows))
    for number, kind in enumerate(kinds):
        some = [(names.index(name), ratio) for name, ratio in rows if _kind(ratio) == kind]
        shift = (number - (len(kinds) - 1) / 2) * 0.16
        heights = [row + shift for row, _ in some]
        medians = [ratio["ratio"][0] for _, ratio in some]
        errors = list(zip(*(_errors(ratio["ratio"]) for _, ratio in some), strict=True))
        axes.errorbar(medians, heights, xerr=errors, fmt="o", ms=4, capsize=2, color=COLOURS[number], label=kind)
    for name, ratio in rows:
        row = names.index(name)
        axes.plot([ratio["most"]] * 2, [row - 0.4, row + 0.4], color="#c03030", lw=1)
    axes.set_xlabel("ratio of server CPU, median and 95 % interval; red: at most")
    return _finish(drawing, axes, names)


def _kind(ratio: dict[str, Any]) -> str:
    return f"{ratio['server']} / {ratio['measure']}"


def _errors(figure: list[float]) -> tuple[float, float]:
    median, low, high = figure
    return median - low, high - median


def _cpu(drawing: Any, axes: Any, results: dict[str, dict[str, Any]]) -> bool:
    """Draw what a reply costs each server."""
    rows = list(_comparisons(results, CPU))
    for number, server in enumerate(_servers(rows)):
        some = [(row, one["servers"][server][CPU][0]) for row, one in enumerate(rows) if server in one["servers"]]
        axes.plot(
            [value for _, value in some], [row for row, _ in some], "o", ms=6, color=COLOURS[number], label=server
        )
    axes.set_xscale("log")
    axes.set_xlabel("server CPU for each reply, µs")
    return _finish(drawing, axes, [one["name"] for one in rows])


def _latency(drawing: Any, axes: Any, results: dict[str, dict[str, Any]]) -> bool:
    """Draw how soon replies come at half of saturation: a line from p50 to p99.9, a dot at p99."""
    rows = [(one, server) for one in _comparisons(results, P99) for server in one["servers"]]
    for row, (one, server) in enumerate(rows):
        figures = one["servers"][server]
        colour = COLOURS[0 if server == "gateway" else 1]
        axes.plot([figures[P50][0] / 1e3, figures[P99_9][0] / 1e3], [row, row], "|-", color=colour)
        axes.plot(figures[P99][0] / 1e3, row, "o", color=colour)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds to a reply: p50, p99 (dot), p99.9")
    return _finish(drawing, axes, [f"{one['name'].partition(',')[0]}: {server}" for one, server in rows])


def _memory(drawing: Any, axes: Any, results: dict[str, dict[str, Any]]) -> bool:
    """Draw the resident memory over the calls of the long run."""
    samples = results.get("sustained", {}).get("sustained", {}).get("samples", [])
    if not samples:
        return False
    drawing.set_size_inches(WIDTH, 3)
    axes.plot(
        [calls / 1e6 for calls, _ in samples], [resident / (1 << 20) for _, resident in samples], color=COLOURS[0]
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("million calls")
    axes.set_ylabel("resident, MiB")
    return True


def _servers(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(server for one in rows for server in one["servers"]))


def _finish(drawing: Any, axes: Any, names: list[str]) -> bool:
    """Name the rows, from the top; return whether there are any."""
    drawing.set_size_inches(WIDTH, 1.2 + 0.3 * len(names))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        drawing.legend(loc="outside upper center", ncols=3, fontsize="small")
    return bool(names)


PLOTS = {"ratios": _ratios, "cpu": _cpu, "latency": _latency, "memory": _memory}
