"""What becomes of bytes whose key is withdrawn, and of keys that come while the gateway runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qrng_grpc.clock import NS_PER_S
from qrng_grpc.errors import PoolShortError, StateError, UnverifiedChunkError
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from tests.unit.qrng_gateway.blocks import ANY, balanced

from .test_ingest import KEY, TOLERANCE_S, Bench, offer, push

OTHER = KeyRecord("key-2", b"o" * 32, "lab", frozenset({"pool", "other-pool"}), SourceClass.HARDWARE)
REVOKED = replace(KEY, revoked=True)


@pytest.mark.parametrize("after", [[OTHER], [REVOKED, OTHER]], ids=["gone", "revoked"])
async def test_a_withdrawn_key_takes_its_bytes_with_it(tmp_path: Path, after: list[KeyRecord]) -> None:
    """Bytes of that key are purged and counted, those of others stay, and its chunks are held from then on."""
    bench = Bench(tmp_path)
    async with bench.gateway(KEY, OTHER) as ingest:
        await push(ingest.open_call(), bench.chunk(1, size=100), bench.chunk(2, size=50))
        kept = bench.chunk(3, size=30)
        await push(ingest.open_call(), kept, key=OTHER)
        assert (await bench.pool.claim(60, ANY, "c", 0)).label.collector_id == "lab"
        assert ingest.replace_keys(after) == 90
        assert (bench.pool.level, bench.pool.counters.purged) == (30, 90)
        with pytest.raises(UnverifiedChunkError):
            await offer(ingest.open_call(), bench.chunk(4))
        assert (await bench.pool.claim(30, ANY, "c", 0)).data == kept.block.data
        with pytest.raises(PoolShortError):
            await bench.pool.claim(1, ANY, "c", 0)
    assert balanced(bench.pool)


async def test_bytes_under_way_are_purged_too(tmp_path: Path) -> None:
    """A chunk whose mark is still being written when its key is withdrawn is counted as purged, and never served."""
    bench = Bench(tmp_path)
    async with bench.gateway(KEY, OTHER) as ingest:
        call = ingest.open_call()
        await offer(call, bench.chunk(1, size=100))
        assert ingest.replace_keys([OTHER]) == 0
        assert await call.settle() == 1
        assert (bench.pool.level, bench.pool.counters.stored, bench.pool.counters.purged) == (0, 100, 100)
        await push(ingest.open_call(), bench.chunk(2, size=70), key=OTHER)
        assert bench.pool.level == 70
    assert balanced(bench.pool)


async def test_a_key_that_ends_leaves_its_bytes(tmp_path: Path) -> None:
    """An end in the past holds new chunks, and purges nothing."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        await push(ingest.open_call(), bench.chunk(1))
        assert ingest.replace_keys([replace(KEY, not_after_ns=bench.clock.now_ns())]) == 0
        bench.clock.advance(TOLERANCE_S)
        with pytest.raises(UnverifiedChunkError):
            await offer(ingest.open_call(), bench.chunk(2))
        assert bench.pool.level == 100


async def test_a_key_changes_hands_by_the_collectors_clock(tmp_path: Path) -> None:
    """The new key is taken before it begins by ours, the old one after it ended, as far as clocks may differ."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        moment_ns = bench.clock.now_ns() + 2 * int(TOLERANCE_S * NS_PER_S)
        old, new = replace(KEY, not_after_ns=moment_ns), replace(OTHER, not_before_ns=moment_ns)
        ingest.replace_keys([old, new])
        bench.clock.advance(TOLERANCE_S - 1)
        with pytest.raises(UnverifiedChunkError):
            await offer(ingest.open_call(), bench.chunk(1), key=new)
        bench.clock.advance(1)
        assert await push(ingest.open_call(), bench.chunk(1), key=new) == 1
        bench.clock.advance(2 * TOLERANCE_S - 1)
        assert await push(ingest.open_call(), bench.chunk(2), key=old) == 1
        bench.clock.advance(1)
        with pytest.raises(UnverifiedChunkError):
            await offer(ingest.open_call(), bench.chunk(3), key=old)


async def test_a_collector_that_comes_later_has_a_mark_of_its_own(tmp_path: Path) -> None:
    """The first key of another collector is enough for it to push; no restart is needed, and its mark is durable."""
    late = replace(OTHER, collector_id="lab-2")
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        with pytest.raises(UnverifiedChunkError):
            await offer(ingest.open_call(), bench.chunk(1, collector_id="lab-2"), key=late)
        ingest.replace_keys([KEY, late])
        chunk = bench.chunk(1, collector_id="lab-2")
        assert await push(ingest.open_call(), chunk, key=late) == 1
        ingest.replace_keys([KEY])
        ingest.replace_keys([KEY, late])
        assert await push(ingest.open_call(), chunk, key=late) == 1
        assert ingest.duplicates == 1
    assert (tmp_path / "lab-2@pool.mark").exists()


async def test_a_damaged_mark_of_a_new_collector_changes_nothing(tmp_path: Path) -> None:
    """Keys whose collector has a damaged mark are not taken, and the old ones stay."""
    (tmp_path / "lab-2@pool.mark").write_text("damaged")
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        with pytest.raises(StateError):
            ingest.replace_keys([replace(OTHER, collector_id="lab-2")])
        assert await push(ingest.open_call(), bench.chunk(1)) == 1


async def test_a_replay_is_no_use_of_a_key(tmp_path: Path) -> None:
    """Last use is when something new came signed with a key; a recording does not keep an old key in use."""
    bench = Bench(tmp_path)
    async with bench.gateway() as ingest:
        chunk = bench.chunk(1)
        used_ns = bench.clock.now_ns()
        await push(ingest.open_call(), chunk)
        bench.clock.advance(10)
        await push(ingest.open_call(), chunk)
        assert ingest.keys.last_used_ns() == {"key-1": used_ns}
