"""What the gateway counts, as Prometheus text."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from qrng_gateway.admission.audit import AuditLog, Entry
from qrng_gateway.observation.metrics import (
    CONTENT_TYPE,
    FRESH_NS,
    LATENCY_BOUNDS_S,
    MAX_IDS,
    METHODS,
    OTHER,
    CallCounts,
    Metrics,
)
from qrng_gateway.observation.status import Accounting
from qrng_grpc.chunk import SourceState
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.labels import Condition, Processing, SourceClass
from tests.unit.qrng_gateway.blocks import ANY, CAPACITY, block, put
from tests.unit.qrng_gateway.observation.test_status import RECORD, Setting

ROOT = Path(__file__).parents[4]
UNARY = "qrng.v1.EntropyService/GetEntropy"


class Scraped:
    """A text, as Prometheus would understand it."""

    def __init__(self, text: bytes) -> None:
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(text.decode())
        }
        self._values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        return self.of(name)

    def of(self, name: str, **labels: str) -> float:
        """Return the value of the sample with just these labels."""
        return self._values[name, tuple(sorted(labels.items()))]

    def all(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the values of all samples of that name by the values of their labels, in the order of label names."""
        return {
            tuple(value for _, value in labels): number
            for (sample, labels), number in self._values.items()
            if sample == name
        }


@contextmanager
def metrics_of(setting: Setting, calls: CallCounts | None = None, audit: AuditLog | None = None) -> Iterator[Metrics]:
    metrics = Metrics(setting.observer, setting.ingest, calls or CallCounts(), audit, clock=setting.clock)
    with closing(metrics):
        yield metrics


async def scrape(setting: Setting, calls: CallCounts | None = None, audit: AuditLog | None = None) -> Scraped:
    """Read the metrics of a gateway that nobody has asked before."""
    with metrics_of(setting, calls, audit) as metrics:
        return Scraped(await metrics.text())


async def busy(state_dir: Path) -> tuple[Setting, CallCounts]:
    """A gateway of which every metric has something to say."""
    setting, calls = Setting(state_dir), CallCounts()
    setting.clock.advance(1)
    await setting.hear(CAPACITY // 2)
    await setting.beat((SourceState("qrng-1", SourceClass.QUANTUM, Condition.DELIVERING, 1000),))
    put(setting.pool, block(1000, setting.clock, source_class=SourceClass.SIMULATED))
    await setting.pool.claim(1234, ANY, "client", 0)
    setting.ingest.hold("POOL_FULL")
    setting.ingest.keys.replace([replace(RECORD, not_after_ns=2_000_000_000 * NS_PER_S)])
    calls.note(UNARY, "OK", 0.0002)
    calls.note("GET /api/random", "429", 0.3)
    return setting, calls


async def test_accounting_adds_up_in_every_text(tmp_path: Path) -> None:
    """Bytes stored are the bytes in the pool and those that left it, to the byte."""
    setting, _ = await busy(tmp_path)
    setting.clock.advance(10)
    scraped = await scrape(setting)
    removed = scraped.all("qrng_pool_removed_bytes_total")
    assert removed["served",] == 1234
    assert scraped["qrng_pool_stored_bytes_total"] == CAPACITY // 2 + 1000
    assert scraped["qrng_pool_stored_bytes_total"] == sum(removed.values()) + scraped["qrng_pool_level_bytes"]


async def test_every_number_of_the_accounting_is_shown(tmp_path: Path) -> None:
    """Whatever the accounting counts, the metrics show."""
    scraped = await scrape((await busy(tmp_path))[0])
    fates = {fate for (fate,) in scraped.all("qrng_pool_removed_bytes_total")}
    assert fates | {"stored", "pooled", "refused", "duplicates"} == {field.name for field in fields(Accounting)}


async def test_pool_is_shown(tmp_path: Path) -> None:
    """Level and capacity, each lane with its level, those that hold bytes with their age; claims."""
    setting, _ = await busy(tmp_path)
    setting.clock.advance(10)
    scraped = await scrape(setting)
    assert scraped["qrng_pool_capacity_bytes"] == CAPACITY
    levels = scraped.all("qrng_pool_lane_level_bytes")
    assert len(levels) == len(SourceClass) * len(Processing)
    assert sum(levels.values()) == scraped["qrng_pool_level_bytes"]
    assert scraped.of("qrng_pool_lane_oldest_age_seconds", source_class="quantum", processing="none") == 10
    assert scraped["qrng_pool_claims_total"] == 1
    assert scraped["qrng_pool_waiting_claims"] == 0
    assert scraped["qrng_pool_last_arrival_timestamp_seconds"] == setting.clock.now_ns() / NS_PER_S
    assert scraped["qrng_gateway_ready"] == 1


async def test_collectors_and_keys_are_shown(tmp_path: Path) -> None:
    """What a collector last said and how long ago, how its chunks fared, and when its key was used."""
    setting, _ = await busy(tmp_path)
    heard_s = setting.clock.now_ns() / NS_PER_S
    setting.clock.advance(7)
    scraped = await scrape(setting)
    key = {"collector_id": "lab", "key_id": "key-1"}
    assert scraped.of("qrng_collector_silence_seconds", collector_id="lab") == 7
    assert scraped.of("qrng_collector_queued_bytes", collector_id="lab") == 0
    assert scraped.of("qrng_collector_sources", collector_id="lab", condition="delivering") == 1
    assert scraped.of("qrng_collector_sources", collector_id="lab", condition="quarantined") == 0
    assert scraped.of("qrng_signing_key_last_used_timestamp_seconds", **key) == heard_s
    assert scraped.of("qrng_signing_key_not_after_timestamp_seconds", **key) == 2e9
    assert scraped.of("qrng_signing_key_valid", **key) == 1
    assert scraped.of("qrng_ingest_held_chunks_total", reason="POOL_FULL") == 1
    assert scraped["qrng_ingest_heartbeats_total"] == 1


async def test_refusals_are_shown_from_the_beginning(tmp_path: Path) -> None:
    """A reason that has not occurred yet is 0 and not absent, so that its first occurrence is a rise."""
    setting = Setting(tmp_path)
    assert (await scrape(setting)).of("qrng_ingest_refused_bytes_total", reason="bad_crc") == 0
    setting.ingest.refused["bad_crc"] += 7
    assert (await scrape(setting)).of("qrng_ingest_refused_bytes_total", reason="bad_crc") == 7


async def test_what_is_gone_is_not_shown(tmp_path: Path) -> None:
    """A lane that has emptied and a key whose record is gone leave nothing of theirs behind."""
    setting, _ = await busy(tmp_path)
    with metrics_of(setting) as metrics:
        assert Scraped(await metrics.text()).all("qrng_pool_lane_oldest_age_seconds")
        setting.ingest.keys.replace([])
        setting.clock.advance(3601)
        scraped = Scraped(await metrics.text())
    assert not scraped.all("qrng_pool_lane_oldest_age_seconds")
    assert not scraped.all("qrng_signing_key_valid")
    assert scraped["qrng_pool_level_bytes"] == 0


async def test_so_many_keys_are_shown_and_no_more(tmp_path: Path) -> None:
    """However many keys there are, the text stays bounded, and those it shows are whole."""
    setting = Setting(tmp_path)
    setting.ingest.keys.replace([replace(RECORD, key_id=f"key-{number}") for number in range(MAX_IDS + 100)])
    valid = (await scrape(setting)).all("qrng_signing_key_valid")
    assert (len(valid), set(valid.values())) == (MAX_IDS, {1})


async def test_calls_are_counted_by_method_and_status(tmp_path: Path) -> None:
    """Each combination that occurred has its number."""
    calls = CallCounts()
    for _ in range(3):
        calls.note(UNARY, "OK", 0.001)
    calls.note(UNARY, "RESOURCE_EXHAUSTED", 0.001)
    calls.note("GET /api/random", "200", 0.001)
    scraped = await scrape(Setting(tmp_path), calls)
    assert scraped.all("qrng_calls_total") == {
        (UNARY, "OK"): 3,
        (UNARY, "RESOURCE_EXHAUSTED"): 1,
        ("GET /api/random", "200"): 1,
    }


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=20))
def test_what_callers_make_up_is_no_label(made_up: list[tuple[str, str]]) -> None:
    """However many methods and statuses are invented, they are one row, with one status."""
    calls = CallCounts()
    for method, status in made_up:
        calls.note("/" + method, "?" + status, 0.1)
    (row,) = calls.rows()
    assert (row.method, row.statuses) == (OTHER, {OTHER: len(made_up)})


@given(st.lists(st.one_of(st.floats(0, 10_000), st.sampled_from(LATENCY_BOUNDS_S)), max_size=50))
def test_a_bucket_holds_what_is_not_above_its_bound(durations: list[float]) -> None:
    """Bucket by bucket, the counts add up to the calls that took at most so long."""
    calls = CallCounts((UNARY,))
    for seconds in durations:
        calls.note(UNARY, "OK", seconds)
    for row in calls.rows():
        for number, bound in enumerate(LATENCY_BOUNDS_S, start=1):
            assert sum(row.buckets[:number]) == sum(seconds <= bound for seconds in durations)
        assert sum(row.buckets) == len(durations)
        assert row.seconds == sum(durations)


async def test_latency_is_a_histogram(tmp_path: Path) -> None:
    """Durations come out as Prometheus has histograms: cumulative buckets up to +Inf, count and sum."""
    calls = CallCounts()
    for seconds in (0.0001, 0.2, 7200):
        calls.note(UNARY, "OK", seconds)
    scraped = await scrape(Setting(tmp_path), calls)
    name = "qrng_call_duration_seconds"
    assert scraped.families[name].type == "histogram"
    assert scraped.of(f"{name}_bucket", method=UNARY, le="0.0001") == 1
    assert scraped.of(f"{name}_bucket", method=UNARY, le="0.25") == 2
    assert scraped.of(f"{name}_bucket", method=UNARY, le="+Inf") == 3
    assert scraped.of(f"{name}_count", method=UNARY) == 3
    assert scraped.of(f"{name}_sum", method=UNARY) == 7200.2001


async def test_lost_audit_entries_are_shown(tmp_path: Path) -> None:
    """An audit log that has lost entries says how many."""
    audit = AuditLog(tmp_path / "audit", max_waiting=0)
    audit.note(Entry(0, "call", None, UNARY, "", 0, 0, "OK"))
    assert (await scrape(Setting(tmp_path), audit=audit))["qrng_audit_lost_entries_total"] == 1


async def test_gateways_in_one_process_do_not_mix(tmp_path: Path) -> None:
    """Each gateway shows its own numbers, and nothing of ours is registered globally."""
    first, second = CallCounts(), CallCounts()
    first.note(UNARY, "OK", 1)
    one, two = Setting(tmp_path / "1"), Setting(tmp_path / "2")
    with metrics_of(one, first) as metrics, metrics_of(two, second) as others:
        texts = await asyncio.gather(metrics.text(), others.text())
    assert [len(Scraped(text).all("qrng_calls_total")) for text in texts] == [1, 0]
    assert not any(family.name.startswith("qrng") for family in REGISTRY.collect())


async def test_a_flood_of_readers_costs_one_text(tmp_path: Path) -> None:
    """Whoever asks within a quarter of a second gets the same text; later there is a new one."""
    setting, calls = Setting(tmp_path), CallCounts()
    with metrics_of(setting, calls) as metrics:
        texts = await asyncio.gather(*(metrics.text() for _ in range(100)))
        calls.note(UNARY, "OK", 1)
        assert {id(text) for text in (*texts, await metrics.text())} == {id(texts[0])}
        setting.clock.advance(FRESH_NS / NS_PER_S + 0.001)
        assert Scraped(await metrics.text()).of("qrng_calls_total", method=UNARY, status="OK") == 1


async def test_a_reader_who_leaves_takes_nothing_from_others(tmp_path: Path) -> None:
    """Cancelled, one reader does not end the text another waits for."""
    with metrics_of(Setting(tmp_path)) as metrics:
        leaving, staying = asyncio.create_task(metrics.text()), asyncio.create_task(metrics.text())
        await asyncio.sleep(0)
        leaving.cancel()
        assert Scraped(await staying).families


async def test_no_number_loses_digits(tmp_path: Path) -> None:
    """A counter that has grown large is still exact."""
    setting = Setting(tmp_path)
    setting.pool.counters.served = 2**53 - 1
    assert (await scrape(setting)).of("qrng_pool_removed_bytes_total", fate="served") == 2**53 - 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here (Debian package prometheus)")
async def test_promtool_finds_nothing(tmp_path: Path) -> None:
    """Prometheus' own linter has no complaint."""
    setting, calls = await busy(tmp_path)
    with metrics_of(setting, calls) as metrics:
        text = await metrics.text()
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_content_type_is_that_of_the_text_format() -> None:
    """The header says which version of the text format follows."""
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_methods_are_named_once() -> None:
    """Every RPC and route has one name, without a leading slash."""
    assert len(set(METHODS)) == len(METHODS)
    assert not any(method.startswith("/") for method in METHODS)
    assert {UNARY, "qrng.QuantumRNG/GetRandomBytes", "GET /api/random"} < set(METHODS)


async def test_operations_md_names_every_metric(tmp_path: Path) -> None:
    """The table in docs/operations.md has each metric with its type and labels, and none besides."""
    setting, calls = await busy(tmp_path)
    scraped = await scrape(setting, calls)
    shown = {
        (family.name + "_total" * (family.type == "counter"), family.type, _labels_of(family))
        for family in scraped.families.values()
    }
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", section, flags=re.MULTILINE)
    assert {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == shown
    assert len(rows) == len(shown)


def _labels_of(family: Metric) -> tuple[str, ...]:
    return tuple(sorted({label for sample in family.samples for label in sample.labels} - {"le"}))
