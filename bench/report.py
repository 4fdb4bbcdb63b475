"""What was measured, for people: tables and plots, made of the files that the sections wrote.

Idea: every table is a *block*, a name and some lines. `results.md` has all blocks and a table for each comparison;
docs/performance.md has some of them between its words, each between two markers, and `--publish` writes those anew
from the same files, together with the plots and `summary.json`, in which the runs are left out. A test makes the
committed blocks from the committed summary, so that no figure there is anybody's word.

    python bench/report.py              # from bench/results/*.json
    python bench/report.py --publish    # into docs/performance.md and docs/performance/ as well
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comparison import CPU, GENERATOR, GENERATOR_LOAD, P50, P99, P99_9, PER_S
from plots import draw

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
SUMMARY = "summary.json"
ORDER = (
    "quick",
    "unary",
    "streams",
    "rest",
    "tls",
    "latency",
    "connections",
    "pool",
    "ingest",
    "sustained",
    "parts",
    "client",
    "health-tests",
    "authentication",
    "auth-timing",
    "fairness",
)
"""The sections, as they are shown."""
COLUMNS = {
    CPU: "CPU, µs",
    PER_S: "replies/s",
    P50: "p50, µs",
    P99: "p99, µs",
    P99_9: "p99.9, µs",
    GENERATOR: "generator CPU, µs",
}
QUANTITIES = {CPU: "CPU", P99: "p99"}
BOUND_BY_GENERATOR = 0.9
"""Of its core: from here on the generator may be what limits the rate."""
TUNED = "bare, tuned as the gateway"
SAMPLES = 60
"""Looks at the memory that a summary keeps of a long run."""
MARKED = re.compile(r"<!-- begin ([a-z-]+) -->\n.*?<!-- end \1 -->", re.DOTALL)
Results = dict[str, dict[str, Any]]
"""The content of each section's file, by its name."""
Block = Callable[[Results], Iterator[str]]


def load(directory: Path) -> Results:
    """Read what the sections wrote."""
    files = {name: directory / f"{name}.json" for name in ORDER}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def summary(results: Results) -> Results:
    """Return the results without single runs, and with few looks at the memory."""
    return {name: _shortened(content) for name, content in results.items()}


def _shortened(content: dict[str, Any]) -> dict[str, Any]:
    short = dict(content)
    if "comparisons" in short:
        short["comparisons"] = [{**one, "runs": {}} for one in short["comparisons"]]
    if "sustained" in short:
        samples = short["sustained"]["samples"]
        short["sustained"] = {**short["sustained"], "samples": samples[:: max(1, len(samples) // SAMPLES)]}
    return short


def comparisons(results: Results, quantity: str | None = None) -> Iterator[dict[str, Any]]:
    """Return the comparisons of all sections; with a quantity those whose ratios are of that."""
    for content in results.values():
        for one in content.get("comparisons", ()):
            if quantity is None or any(ratio["quantity"] == quantity for ratio in one["ratios"]):
                yield one


# Blocks


def machine(results: Results) -> Iterator[str]:
    """Say where and when it was measured, what was missing, and what disturbed it."""
    for text in dict.fromkeys(_place(content["machine"]) for content in results.values()):
        yield text + "\n"
    for name, content in results.items():
        for complaint in content.get("complaints", ()):
            yield f"**{name}: the machine was busy: {complaint}. Intervals stand in place of verdicts.**\n"
        for what in content.get("broken", ()):
            yield f"**{name} is not whole: {what}**\n"
    missing = {(server, why) for one in comparisons(results) for server, why in one["skipped"].items()}
    for server, why in sorted(missing):
        yield f"Skipped: {server}, for want of {why}\n"
    for one in comparisons(results):
        # A summary of an earlier version has none.
        for name, times in Counter(what.partition(":")[0] for what in one.get("left_out", ())).items():
            yield f"{one['name']}: rounds left out in which {name} failed: {times}\n"


def _place(machine: dict[str, str]) -> str:
    day = machine["when"].partition(" ")[0]
    return ", ".join([f"{name} {value}" for name, value in machine.items() if name != "when"] + [day])


def ratios(results: Results) -> Iterator[str]:
    """List the ratios that have a target."""
    yield "| workload | method | ratio of | to | median [95 %] | at most | |"
    yield "| --- | --- | --- | --- | ---: | ---: | --- |"
    for one in comparisons(results):
        for ratio in one["ratios"]:
            if ratio["most"] is not None:
                target = f"{ratio['most']:.2f} | {ratio['verdict']}"
                yield f"| {one['name']} | {one['method']} | {_ratio(ratio)} | {target} |"


def others(results: Results) -> Iterator[str]:
    """List the ratios that are for information."""
    yield "| workload | method | ratio of | to | median [95 %] |"
    yield "| --- | --- | --- | --- | ---: |"
    for one in comparisons(results):
        for ratio in one["ratios"]:
            if ratio["most"] is None and ratio["measure"] != TUNED:
                yield f"| {one['name']} | {one['method']} | {_ratio(ratio)} |"


def tuned(results: Results) -> Iterator[str]:
    """List the ratios to a bare server that asks of the system what the gateway does."""
    yield "| workload | method | ratio of | to | median [95 %] |"
    yield "| --- | --- | --- | --- | ---: |"
    for one in comparisons(results):
        for ratio in one["ratios"]:
            if ratio["measure"] == TUNED:
                yield f"| {one['name']} | {one['method']} | {_ratio(ratio)} |"


def _ratio(ratio: dict[str, Any]) -> str:
    median, low, high = ratio["ratio"]
    quantity = QUANTITIES[ratio["quantity"]]
    return f"{quantity}, {ratio['server']} | {ratio['measure']} | {median:.2f} [{low:.2f}, {high:.2f}]"


def cpu(results: Results) -> Iterator[str]:
    """Show what a reply costs each server."""
    yield from _by_server(results, lambda figures: f"{figures[CPU][0]:.0f}")


def rate(results: Results) -> Iterator[str]:
    """Show how many replies a second each server makes on its core."""
    yield from _by_server(results, _per_s)


def _per_s(figures: dict[str, list[float]]) -> str:
    least = "≥ " if figures[GENERATOR_LOAD][0] >= BOUND_BY_GENERATOR else ""
    return f"{least}{figures[PER_S][0]:.0f}"


def _by_server(results: Results, told: Callable[[dict[str, list[float]]], str]) -> Iterator[str]:
    rows = list(_saturated(results))
    servers = list(dict.fromkeys(server for one in rows for server in one["servers"]))
    yield f"| workload | {' | '.join(servers)} |"
    yield "| --- |" + " ---: |" * len(servers)
    for one in rows:
        cells = (told(one["servers"][server]) if server in one["servers"] else "" for server in servers)
        yield f"| {one['name']} | {' | '.join(cells)} |"


def _saturated(results: Results) -> Iterator[dict[str, Any]]:
    """Return the workloads that saturate their servers: those with a rate, and ratios of CPU."""
    return (one for one in comparisons(results, CPU) if PER_S in one["servers"].get("gateway", {}))


def carried(results: Results) -> Iterator[str]:
    """Show how many bytes the gateway hands out in a second on its core, and what a kilobyte costs it."""
    yield "| workload | server | replies/s | MB/s | CPU, µs a KiB |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for one in _saturated(results):
        for server in (each for each in one["servers"] if each.startswith("gateway")):
            figures = one["servers"][server]
            a_kib = figures[CPU][0] / one["size"] * 1024
            megabytes = f"{figures[PER_S][0] * one['size'] / 1e6:.3g}"
            yield f"| {one['name']} | {server} | {_per_s(figures)} | {megabytes} | {a_kib:.3g} |"


def latency(results: Results) -> Iterator[str]:
    """Show how soon replies came at half of what saturates the gateway."""
    quantities = (P50, P99, P99_9)
    yield f"| workload | calls a second | server | {' | '.join(COLUMNS[each] for each in quantities)} |"
    yield "| --- | ---: | --- |" + " ---: |" * len(quantities)
    for one in comparisons(results, P99):
        for server, figures in one["servers"].items():
            times = " | ".join(f"{figures[each][0]:.0f}" for each in quantities)
            yield f"| {one['name']} | {figures[PER_S][0]:.0f} | {server} | {times} |"


def flat(results: Results) -> Iterator[str]:
    """Show what a reply costs with more connections, and with larger pools."""
    yield "| unary 32 B, 16 in flight | CPU, µs | ratio to the first | |"
    yield "| --- | ---: | ---: | --- |"
    for section in ("connections", "pool"):
        for one in results.get(section, {}).get("comparisons", ()):
            found = {ratio["server"]: ratio for ratio in one["ratios"]}
            for server, figures in one["servers"].items():
                yield f"| {server} | {_interval(figures[CPU], '.0f')} | {_to_first(found.get(server))} |"


def _to_first(ratio: dict[str, Any] | None) -> str:
    return "1 | " if ratio is None else f"{_interval(ratio['ratio'], '.2f')} | {ratio['verdict']}"


def _interval(figure: list[float], spec: str) -> str:
    median, low, high = figure
    return f"{median:{spec}} [{low:{spec}}, {high:{spec}}]"


def push(results: Results) -> Iterator[str]:
    """Show what a chunk costs a gateway that takes it in, and its parts."""
    yield "| chunk of 64 KiB | CPU, µs |"
    yield "| --- | ---: |"
    for one in results.get("ingest", {}).get("comparisons", ()):
        for server, figures in one["servers"].items():
            yield f"| {server} | {_interval(figures[CPU], '.0f')} |"


def sustained(results: Results) -> Iterator[str]:
    """Show how the long run went."""
    content = results.get("sustained", {}).get("sustained")
    if content is None:
        return
    yield (
        f"{content['seconds']} seconds, {content['rate']} calls a second by each front, {content['size']} bytes each,"
        f" the gateway at {content['load']:.0%} of its core:\n"
    )
    most = f"p99 under {content['most_p99_ms']} ms, none failed"
    yield f"| front | replies | failed | p50, ms | p99, ms | p99.9, ms | longest, ms | {most} |"
    yield "| --- |" + " ---: |" * 6 + " --- |"
    for name, front in content["fronts"].items():
        times = " | ".join(f"{front[each + '_ms']:.1f}" for each in ("p50", "p99", "p99_9", "longest"))
        yield f"| {name} | {front['replies']} | {front['failed']} | {times} | {front['verdict']} |"


def memory(results: Results) -> Iterator[str]:
    """Show how the memory of the gateway grew over the long run."""
    grown = results.get("sustained", {}).get("sustained", {}).get("memory")
    if not grown:
        return
    yield "| after calls | resident, MiB | ratio | at most | |"
    yield "| ---: | ---: | ---: | ---: | --- |"
    yield f"| {grown['settled_calls']} | {grown['first_bytes'] / (1 << 20):.1f} | 1 | | |"
    last = f"{grown['last_bytes'] / (1 << 20):.1f} | {grown['growth']:.3f} | {grown['most']:.2f} | {grown['verdict']}"
    yield f"| {grown['calls']} | {last} |"
    yield f"\nFitted to all looks between: {grown['bytes_a_million'] / 1024:.0f} KiB for each million calls."


def _printed(section: str) -> Block:
    """Return the block of a section that is a program of its own."""

    def block(results: Results) -> Iterator[str]:
        if text := results.get(section, {}).get("text", "").strip():
            yield text if text.startswith("|") else f"```text\n{text}\n```"

    return block


BLOCKS: dict[str, tuple[str, Block]] = {
    "machine": ("Where", machine),
    "ratios": ("Ratios with a target", ratios),
    "tuned": ("Beside a bare server tuned as the gateway is", tuned),
    "cpu": ("Server CPU for each reply, µs", cpu),
    "rate": ("Replies a second on one core", rate),
    "carried": ("Bytes that the gateway hands out on one core", carried),
    "latency": ("At half of saturation", latency),
    "flat": ("Connections and pools", flat),
    "sustained": ("A long run", sustained),
    "memory": ("Memory over the long run", memory),
    "push": ("Taking chunks in", push),
    "others": ("Further ratios", others),
    "parts": ("The parts, each alone", _printed("parts")),
    "client": ("The client library", _printed("client")),
    "health-tests": ("Health tests of the collector", _printed("health-tests")),
    "authentication": ("Authentication", _printed("authentication")),
    "auth-timing": ("Whether time tells keys apart", _printed("auth-timing")),
    "fairness": ("Beside a greedy client", _printed("fairness")),
}
"""The title of each block, and what makes it."""


def block(name: str, results: Results) -> str:
    """Return the text of a block."""
    return "\n".join(BLOCKS[name][1](results))


def detail(one: dict[str, Any]) -> Iterator[str]:
    """Return the table of one comparison, with all its quantities."""
    yield f"### {one['name']}\n"
    yield f"{one['method']}, {one['rounds']} rounds\n"
    first = next(iter(one["servers"].values()))
    quantities = [each for each in COLUMNS if each in first]
    yield f"| server | {' | '.join(COLUMNS[each] for each in quantities)} |"
    yield "| --- |" + " ---: |" * len(quantities)
    for server, figures in one["servers"].items():
        yield f"| {server} | {' | '.join(_interval(figures[each], '.0f') for each in quantities)} |"
    yield ""


def document(results: Results) -> str:
    """Return all there is, as Markdown."""
    lines = ["# The gateway and its peers\n"]
    for name, (title, _) in BLOCKS.items():
        if text := block(name, results):
            lines += [f"## {title}\n", text, ""]
    lines.append("## Each comparison\n")
    for one in comparisons(results):
        lines += detail(one)
    return "\n".join(lines) + "\n"


def with_blocks(text: str, results: Results) -> str:
    """Return `text` with what lies between its markers written anew."""

    def anew(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- begin {name} -->\n\n{block(name, results)}\n\n<!-- end {name} -->"

    return MARKED.sub(anew, text)


def write_report(directory: Path = RESULTS) -> None:
    """Write results.md and the plots of the sections in `directory`."""
    results = load(directory)
    (directory / "results.md").write_text(document(results))
    draw(directory, results)
    print(f"\n{block('machine', results)}\n{block('ratios', results)}\n\nwritten to {directory}")


def publish(directory: Path = RESULTS, docs: Path = DOCS) -> None:
    """Write summary, plots and the blocks of performance.md."""
    results = summary(load(directory))
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    (folder / SUMMARY).write_text(json.dumps(results, separators=(",", ":"), ensure_ascii=False) + "\n")
    draw(folder, results)
    page = docs / "performance.md"
    page.write_text(with_blocks(page.read_text(), results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the sections wrote")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.md and docs/performance/ anew")
    chosen = parser.parse_args()
    write_report(chosen.results)
    if chosen.publish:
        publish(chosen.results)


if __name__ == "__main__":
    main()
