"""What goes into tables is what was measured, with its interval, and a busy machine gets no verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comparison import CPU, GENERATOR, GENERATOR_LOAD, P50, P99, P99_9, PER_S, Asked, Comparison
from report import BLOCKS, ORDER, Results, block, document, load, publish, summary, with_blocks, write_report

QUANTITIES = (CPU, PER_S, P50, P99, P99_9, GENERATOR, GENERATOR_LOAD)
MACHINE = {"processor": "a test", "cores": "2", "when": "2026-01-02 03:04 UTC"}
MIB = 1 << 20


def run(cpu_us: float, generator_load: float = 0.5) -> dict[str, float]:
    return {quantity: 10.0 for quantity in QUANTITIES} | {
        CPU: cpu_us,
        PER_S: 1e6 / cpu_us,
        P99: cpu_us * 3,
        GENERATOR_LOAD: generator_load,
    }


def comparison(name: str, quantity: str = CPU) -> Comparison:
    asked = (Asked("gateway", "bare", 1.1, quantity), Asked("gateway", "C++", None, quantity))
    runs = {"gateway": [run(104.0)] * 12, "bare": [run(100.0)] * 12, "C++": [run(10.0, 0.97)] * 12}
    return Comparison(name, "GetEntropy", asked, 1024, runs, {"sync": "a compiler"})


def test_rounds_that_were_left_out_are_told(results: Results) -> None:
    """Whoever reads a table knows in how many rounds a peer failed, and which."""
    (one,) = results["unary"]["comparisons"]
    one["left_out"] = ["bare: not every reply came whole", "bare: nor here", "C++: it neither"]
    told = block("machine", results)
    assert "rounds left out in which bare failed: 2" in told
    assert "rounds left out in which C++ failed: 1" in told


def section(one: Comparison, complaints: list[str]) -> dict[str, Any]:
    return {
        "machine": MACHINE,
        "seconds": 3,
        "complaints": complaints,
        "comparisons": [one.content(judged=not complaints)],
    }


@pytest.fixture
def results() -> Results:
    long_run = {
        "seconds": 600,
        "rate": 1000,
        "size": 32,
        "most_p99_ms": 100,
        "load": 0.5,
        "fronts": {
            "gRPC": {
                "replies": 600000, "failed": 0, "p50_ms": 0.5, "p99_ms": 2.25, "p99_9_ms": 9, "longest_ms": 20,
                "verdict": "met",
            }
        },
        "memory": {
            "settled_calls": 100000, "calls": 1200000, "first_bytes": 100 * MIB, "last_bytes": 101 * MIB,
            "growth": 1.01, "bytes_a_million": 1024, "most": 1.02, "verdict": "met",
        },
        "samples": [[2000 * number, 100 * MIB] for number in range(1, 601)],
    }  # fmt: skip
    return {
        "unary": section(comparison("calls"), []),
        "latency": section(comparison("calls, half", P99), ["other programs took 20%"]),
        "sustained": {"machine": MACHINE, "seconds": 601, "complaints": [], "sustained": long_run},
        "parts": {"machine": MACHINE, "seconds": 1, "text": "| part | 32 B |\n", "exit_code": 0},
    }


def test_ratios_name_method_and_interval(results: Results) -> None:
    """A row says what was called, what is divided by what, how sure that is, and what it may be."""
    row = "| calls | GetEntropy | CPU, gateway | bare | 1.04 [1.04, 1.04] | 1.10 | met |"
    assert row in block("ratios", results).splitlines()


def test_busy_machine_has_no_verdict(results: Results) -> None:
    """Where the machine was busy its section says so, and its ratio stands without a verdict."""
    row = "| calls, half | GetEntropy | p99, gateway | bare | 1.04 [1.04, 1.04] | 1.10 |  |"
    assert row in block("ratios", results).splitlines()
    assert "latency: the machine was busy: other programs took 20%" in block("machine", results)


def test_who_was_missing_is_named(results: Results) -> None:
    """A server that did not take part is named once, with the reason."""
    assert block("machine", results).count("Skipped: sync, for want of a compiler") == 1


def test_rate_that_the_generator_bounds_is_a_lower_bound(results: Results) -> None:
    """Where the generator's core was full, the server may be faster than what was seen."""
    (row,) = (line for line in block("rate", results).splitlines() if line.startswith("| calls |"))
    assert row == "| calls | 9615 | 10000 | ≥ 100000 |"


def test_bytes_that_a_core_carries(results: Results) -> None:
    """How much the gateway hands out in a second is told beside what a kilobyte costs it."""
    assert "| calls | gateway | 9615 | 9.85 | 104 |" in block("carried", results)


def test_long_run_and_memory(results: Results) -> None:
    """The long run shows failures, times and verdict; memory what it was at both ends."""
    assert "| gRPC | 600000 | 0 | 0.5 | 2.2 | 9.0 | 20.0 | met |" in block("sustained", results)
    assert "| 1200000 | 101.0 | 1.010 | 1.02 | met |" in block("memory", results)


def test_broken_section_is_told(results: Results) -> None:
    """A section that broke off is no silence."""
    broken: Results = {**results, "tls": {"machine": MACHINE, "seconds": 1, "broken": ["no certificate"]}}
    assert "tls is not whole: no certificate" in block("machine", broken)


def test_nothing_measured_makes_no_report_fail() -> None:
    """Every block can be made of nothing."""
    for name in BLOCKS:
        block(name, {})


def test_document_has_every_comparison(results: Results) -> None:
    """The whole report shows all figures of every comparison."""
    text = document(results)
    assert "### calls\n" in text and "### calls, half\n" in text
    assert "| gateway | 104 [104, 104] | 9615 [9615, 9615] |" in text


def test_results_are_read_in_the_order_they_are_shown(results: Results, tmp_path: Path) -> None:
    """Files that are no sections are left alone; sections come in their order."""
    for name, content in reversed(results.items()):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "strange.json").write_text("{}")
    assert list(load(tmp_path)) == [name for name in ORDER if name in results]


def test_summary_makes_the_same_tables(results: Results) -> None:
    """Without the single runs every table is what it was, and the file is small."""
    short = summary(results)
    assert [block(name, short) for name in BLOCKS] == [block(name, results) for name in BLOCKS]
    assert len(json.dumps(short)) < len(json.dumps(results)) / 2


def test_blocks_between_markers(results: Results) -> None:
    """Between its markers a page is written anew, as often as one likes; its words stay."""
    page = "Words.\n\n<!-- begin ratios -->\nold\n<!-- end ratios -->\n\nMore words.\n"
    written = with_blocks(page, results)
    assert block("ratios", results) in written and "old" not in written
    assert written.startswith("Words.\n") and written.endswith("More words.\n")
    assert with_blocks(written, results) == written


def test_publishing(results: Results, tmp_path: Path) -> None:
    """What is published is the page, and a summary from which it can be made again."""
    (tmp_path / "results").mkdir()
    for name, content in results.items():
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(content))
    page = tmp_path / "performance.md"
    page.write_text("<!-- begin memory -->\n<!-- end memory -->\n")
    write_report(tmp_path / "results")
    publish(tmp_path / "results", tmp_path)
    again = with_blocks(page.read_text(), json.loads((tmp_path / "performance" / "summary.json").read_text()))
    assert again == page.read_text() and "1.010" in again
