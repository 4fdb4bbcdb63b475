"""What the gateway says of itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from qrng_gateway.link.ingest import Ingest
from qrng_gateway.observation.status import Observer, State, Watermark, watermark
from qrng_gateway.pool.claims import ClaimSpec
from qrng_grpc.chunk import Chunk, Heartbeat, Identity, SourceState
from qrng_grpc.clock import NS_PER_S
from qrng_grpc.keys import KeyRecord, KeyRing
from qrng_grpc.labels import Condition, Processing, SourceClass
from qrng_grpc.testing.clock import ManualClock
from qrng_grpc.wire import encode_chunk, encode_heartbeat
from tests.unit.qrng_gateway.blocks import CAPACITY, block, make_pool, put

RECORD = KeyRecord("key-1", b"s" * 32, "lab", frozenset({"pool-1"}), SourceClass.QUANTUM)


class Setting:
    """A pool and an ingest under a clock that stands still, and an observer of both."""

    def __init__(self, state_dir: Path, least_class: SourceClass = SourceClass.OPERATING_SYSTEM) -> None:
        self.clock = ManualClock()
        self.pool = make_pool(self.clock)
        self.ingest = Ingest(
            KeyRing([RECORD]), self.pool, "pool-1", state_dir, clock_tolerance_s=0, ttl_s=3600, clock=self.clock
        )
        self.observer = Observer(self.pool, self.ingest, pool_id="pool-1", least_class=least_class, clock=self.clock)
        self._sequence = 0

    async def hear(self, size: int) -> None:
        """Take a chunk of the collector `lab`, captured now."""
        await self._take(encode_chunk(Chunk.bind(block(size, self.clock), self._identity())))

    async def beat(self, sources: tuple[SourceState, ...]) -> None:
        """Take a heartbeat of that collector, made now."""
        await self._take(encode_heartbeat(Heartbeat(self._identity(), self.clock.now_ns(), sources)))

    def _identity(self) -> Identity:
        self._sequence += 1
        return Identity("lab", "pool-1", 1, self._sequence)

    async def _take(self, serialised: bytes) -> None:
        async with self.ingest.running():
            call = self.ingest.open_call()
            await call.offer(serialised, "key-1", RECORD.sign(serialised))
            await call.settle()


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, Watermark.LOW),
        (999, Watermark.LOW),
        (1000, Watermark.MEDIUM),
        (8000, Watermark.MEDIUM),
        (8001, Watermark.HIGH),
        (9500, Watermark.HIGH),
        (9501, Watermark.CRITICAL),
        (10_000, Watermark.CRITICAL),
    ],
)
def test_watermarks_change_at_10_80_and_95_percent(level: int, expected: Watermark) -> None:
    """Below 10 % is low, above 80 % high, above 95 % critical; the bounds themselves are milder."""
    assert watermark(level, 10_000) is expected


def test_a_new_gateway_has_nothing_to_serve(tmp_path: Path) -> None:
    """Empty and unheard of, it is unhealthy and says why."""
    status = Setting(tmp_path).observer.status()
    assert status.state is State.UNHEALTHY
    assert status.warnings == ("the pool is empty", "no collector has been heard since start")
    assert (status.last_arrival_ns, status.freshness_s) == (None, None)
    assert (status.lanes, status.collectors) == ((), ())


async def test_a_gateway_with_bytes_and_a_collector_is_healthy(tmp_path: Path) -> None:
    """Bytes in the pool and a collector that is heard: nothing to warn of."""
    setting = Setting(tmp_path)
    setting.clock.advance(1)
    await setting.hear(CAPACITY // 2)
    status = setting.observer.status()
    assert (status.state, status.warnings) == (State.HEALTHY, ())
    assert status.watermark is Watermark.MEDIUM
    assert (status.last_arrival_ns, status.freshness_s) == (setting.clock.now_ns(), 0)
    (collector,) = status.collectors
    assert (collector.collector_id, collector.epoch, collector.sequence, collector.silent_s) == ("lab", 1, 1, 0)
    setting.clock.advance(2)
    (lane,) = setting.observer.status().lanes
    assert (lane.source_class, lane.processing) == (SourceClass.QUANTUM, Processing.NONE)
    assert (lane.pooled, lane.oldest_age_s) == (CAPACITY // 2, 2)


async def test_silence_degrades(tmp_path: Path) -> None:
    """A collector unheard for more than half a minute, with nothing arriving, is told of."""
    setting = Setting(tmp_path)
    setting.clock.advance(1)
    await setting.hear(CAPACITY // 20)
    setting.observer.tick()
    setting.clock.advance(31)
    status = setting.observer.status()
    assert status.state is State.DEGRADED
    assert status.warnings == (
        "the pool is low: below 10 %",
        "collector lab has been silent for 31 s",
        "no bytes have arrived for 31 s",
    )
    assert status.last_arrival_ns == setting.clock.now_ns() - 31_000_000_000


async def test_a_heartbeat_breaks_the_silence_and_is_shown(tmp_path: Path) -> None:
    """A collector that only beats is not silent; what it said is shown, and a source in quarantine is told of."""
    setting = Setting(tmp_path)
    setting.clock.advance(1)
    await setting.hear(CAPACITY // 2)
    setting.observer.tick()
    setting.clock.advance(29)
    well = SourceState("dev-1", SourceClass.QUANTUM, Condition.DELIVERING, 5)
    ill = SourceState("dev-2", SourceClass.HARDWARE, Condition.QUARANTINED, 0)
    await setting.beat((well, ill))
    setting.clock.advance(2)
    status = setting.observer.status()
    (collector,) = status.collectors
    assert collector.silent_s == 2
    assert collector.last_heartbeat_ns == setting.clock.now_ns() - 2_000_000_000
    assert collector.heartbeat is not None
    assert collector.heartbeat.sources == (well, ill)
    assert status.warnings == ("source dev-2 of collector lab is in quarantine", "no bytes have arrived for 31 s")


async def test_spoilt_chunks_are_told_of_for_an_hour(tmp_path: Path) -> None:
    """Data that was refused as damaged or repeated is an operator's business, and forgotten in time."""
    setting = Setting(tmp_path)
    setting.clock.advance(1)
    setting.ingest.refused["repeated"] += 100
    assert any("repeated data" in warning for warning in setting.observer.status().warnings)
    setting.clock.advance(3601)
    assert not any("repeated data" in warning for warning in setting.observer.status().warnings)


def test_a_full_pool_that_takes_nothing_in_is_not_stale(tmp_path: Path) -> None:
    """Under back-pressure nothing arrives in a full pool, and nothing is wrong with that."""
    setting = Setting(tmp_path)
    put(setting.pool, block(CAPACITY, setting.clock))
    setting.observer.tick()
    setting.clock.advance(60)
    assert not any("arrived" in warning for warning in setting.observer.status().warnings)


def test_ready_while_bytes_can_be_claimed_or_arrive(tmp_path: Path) -> None:
    """A pool drained by its clients is still ready for as long as bytes keep arriving."""
    setting = Setting(tmp_path)
    assert not setting.observer.ready
    put(setting.pool, block(100, setting.clock))
    assert setting.observer.ready
    setting.clock.advance(3601)
    assert not setting.observer.ready, "what has expired cannot be claimed"
    put(setting.pool, block(100, setting.clock))
    setting.observer.tick()
    setting.pool.wipe()
    setting.clock.advance(5)
    assert setting.observer.ready
    setting.clock.advance(1)
    assert not setting.observer.ready


def test_bytes_below_the_least_class_make_nobody_ready(tmp_path: Path) -> None:
    """What may not be served is nothing to serve."""
    setting = Setting(tmp_path, least_class=SourceClass.QUANTUM)
    put(setting.pool, block(100, setting.clock, source_class=SourceClass.SIMULATED))
    setting.observer.tick()
    setting.clock.advance(6)
    assert not setting.observer.ready


def test_a_pool_of_which_nobody_is_served_says_so(tmp_path: Path) -> None:
    """Bytes that are all too weak for this gateway are a warning, until there are better ones."""
    setting = Setting(tmp_path, least_class=SourceClass.QUANTUM)
    warning = "all bytes in the pool are weaker than quantum, the least_class here"
    put(setting.pool, block(100, setting.clock, source_class=SourceClass.SIMULATED))
    assert warning in setting.observer.status().warnings
    put(setting.pool, block(100, setting.clock))
    assert warning not in setting.observer.status().warnings


def test_an_ending_gateway_is_unhealthy(tmp_path: Path) -> None:
    """Draining, it is not ready whatever it holds."""
    setting = Setting(tmp_path)
    put(setting.pool, block(100, setting.clock))
    setting.observer.drain()
    status = setting.observer.status()
    assert status.state is State.UNHEALTHY
    assert "the gateway is ending" in status.warnings


async def test_claims_per_second_are_those_of_the_last_minute(tmp_path: Path) -> None:
    """An hour of quiet does not dilute what is served now, and a burst is forgotten after a minute."""
    setting = Setting(tmp_path)
    put(setting.pool, block(1000, setting.clock))
    for _ in range(120):
        setting.clock.advance(1)
        await setting.pool.claim(1, ClaimSpec(SourceClass.QUANTUM), "client", 0)
        setting.observer.tick()
    assert setting.observer.status().claims_per_s == pytest.approx(1, abs=0.05)
    setting.clock.advance(61)
    setting.observer.tick()
    assert setting.observer.status().claims_per_s == 0


async def test_the_accounting_holds(tmp_path: Path) -> None:
    """stored = served + pooled + expired + overflow + purged + dropped, in what is shown too."""
    setting = Setting(tmp_path)
    put(setting.pool, block(CAPACITY, setting.clock), block(1000, setting.clock))
    await setting.pool.claim(10, ClaimSpec(SourceClass.QUANTUM), "client", 0)
    a = setting.observer.accounting()
    assert a.stored == CAPACITY + 1000
    assert a.stored == a.served + a.pooled + a.expired + a.overflow + a.purged + a.dropped_at_shutdown
    setting.pool.wipe()
    a = setting.observer.accounting()
    assert (a.pooled, a.stored) == (0, a.served + a.expired + a.overflow + a.purged + a.dropped_at_shutdown)


def key_warnings(setting: Setting) -> list[str]:
    return [text for text in setting.observer.status().warnings if "key" in text]


async def test_a_key_in_use_that_ends_soon_is_a_warning(tmp_path: Path) -> None:
    """In its last week the key a collector signs with is a warning, and past its end, until another took over."""
    setting = Setting(tmp_path)
    ends_ns = setting.clock.now_ns() + 8 * 86_400 * NS_PER_S
    ending = replace(RECORD, not_after_ns=ends_ns)
    setting.ingest.replace_keys([ending])
    assert key_warnings(setting) == []
    setting.clock.advance(2 * 86_400)
    assert key_warnings(setting) == ["signing key key-1 of collector lab ends in 6.0 days"]
    await setting.hear(16)
    setting.ingest.replace_keys([ending, replace(RECORD, key_id="key-2")])
    assert key_warnings(setting) == ["signing key key-1 of collector lab ends in 6.0 days"]
    setting.clock.advance(7 * 86_400)
    assert key_warnings(setting) == ["signing key key-1 of collector lab has ended"]
    setting.ingest.keys.used(replace(RECORD, key_id="key-2"), setting.clock.now_ns())
    assert key_warnings(setting) == []


def test_a_collector_without_a_valid_key_is_a_warning(tmp_path: Path) -> None:
    """Revoked, ended or not begun: a collector that cannot be believed is named."""
    setting = Setting(tmp_path)
    now_ns = setting.clock.now_ns()
    for record in (
        replace(RECORD, revoked=True),
        replace(RECORD, not_after_ns=now_ns),
        replace(RECORD, not_before_ns=now_ns + 1),
    ):
        setting.ingest.replace_keys([record])
        assert key_warnings(setting) == ["collector lab has no signing key that is valid"]
