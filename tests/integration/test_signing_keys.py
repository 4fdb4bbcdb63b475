"""Signing keys from files: exchanged while chunks come, withdrawn when they leaked, told in status."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from structlog.testing import capture_logs

from qrng_client import AsyncEntropyClient
from qrng_collector.app import Collector, collecting
from qrng_collector.config import CollectorConfig
from qrng_grpc.chunk import Block, BlockLabel, Chunk, Identity
from qrng_grpc.keys import Algorithm, KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing import LedgerSource
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from tests.integration.test_accounting import check_equation
from tests.programs import Laboratory, running
from tests.waiting import until

Record = dict[str, Any]
CHUNK_BYTES = 1024


def hmac_record(key_id: str, **changes: Any) -> Record:
    own = {"id": key_id, "algorithm": "hmac-sha256", "secret": f"secret-{key_id}-".ljust(40, "x")}
    return own | {"collector_id": "lab", "pool_ids": ["pool-1"], "best_class": "simulated"} | changes


def ed25519_records(key_id: str, seed: int = 7) -> tuple[Record, Record]:
    """The record of the collector, and that of the gateway."""
    private = bytes([seed]) * 32
    public = KeyRecord(
        key_id, private, "lab", frozenset({"pool-1"}), SourceClass.SIMULATED, Algorithm.ED25519
    ).public_key
    common = hmac_record(key_id, algorithm="ed25519")
    del common["secret"]
    return common | {"private_key": private.hex()}, common | {"public_key": public.hex()}


def put(file: Path, *records: Record) -> None:
    """Exchange the file as a whole."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({"keys": records}))
    new.replace(file)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The gateway's file of keys, and the collector's, with one HMAC key."""
    pair = (tmp_path / "gateway-keys.yaml", tmp_path / "collector-keys.yaml")
    for file in pair:
        put(file, hmac_record("old"))
    return pair


@asynccontextmanager
async def gateway_with(file: Path, **settings: Any) -> AsyncIterator[RunningGateway]:
    async with running_gateway(signing_keys_file=file, pool_id="pool-1", **settings) as gateway:
        yield gateway


@asynccontextmanager
async def collector_for(gateway: RunningGateway, file: Path, source: LedgerSource) -> AsyncIterator[Collector]:
    config = CollectorConfig(
        signing_keys_file=file,
        collector_id="lab",
        pool_id="pool-1",
        best_class="simulated",
        source="mock",
        fetch_chunk_size=CHUNK_BYTES,
        fetch_interval=0.002,
        push_url=gateway.push_address,
        push_interval=0.01,
        flush_timeout=60,
        buffer_size=64 << 20,
        state_dir=file.parent / "collector",
    )
    async with collecting(config, sources=[source]) as collector:
        yield collector


async def test_a_key_is_exchanged_under_load(files: tuple[Path, Path]) -> None:
    """From HMAC to Ed25519 while chunks are pushed and claimed: nothing is held, refused or purged, nothing lost."""
    at_gateway, at_collector = files
    private, public = ed25519_records("new")
    source = LedgerSource()
    served = 0
    with capture_logs() as logs:
        async with gateway_with(at_gateway, buffer_size=64 << 20) as gateway:
            ingest, pool = gateway.gateway.ingest, gateway.gateway.pool
            async with (
                AsyncEntropyClient(gateway.client_address, api_key=gateway.api_key) as client,
                collector_for(gateway, at_collector, source) as collector,
            ):

                async def read(chunks: int) -> int:
                    return sum([len((await client.get(CHUNK_BYTES)).data) for _ in range(chunks)])

                served += await read(25)
                put(at_gateway, hmac_record("old"), public)
                gateway.gateway.reload()
                served += await read(25)
                put(at_collector, hmac_record("old"), private)
                collector.reload()
                await until(lambda: "new" in ingest.keys.last_used_ns())
                last_ns, captured = ingest.keys.last_used_ns()["old"], collector.counters.captured
                await until(lambda: gateway.gateway.accounting().stored >= captured)  # what the old key signed is
                served += await read(25)
                assert ingest.keys.last_used_ns()["old"] == last_ns
                # Everything the old key signed has been served before it goes.
                left = pool.level
                served += await read(left // CHUNK_BYTES)
                put(at_gateway, public)
                gateway.gateway.reload()
                served += await read(25)
                assert [key.key_id for key in (await client.status()).keys] == ["new"]
            accounting = gateway.gateway.accounting()
            assert (accounting.served, accounting.purged, accounting.refused) == (served, 0, {})
            assert not ingest.held
            check_equation(source.delivered_bytes, collector, accounting)
            assert collector.counters.in_doubt == collector.counters.expired == collector.counters.overflow == 0
    statuses = [log["status"] for log in logs if log["event"] == "push_status"]
    assert statuses == ["OK"]
    assert [log["key_id"] for log in logs if log["event"] == "signing_with"] == ["old", "new"]


async def test_a_changed_file_is_taken_without_being_told(files: tuple[Path, Path]) -> None:
    """Within seconds after the file changed a new collector may push, and nobody has sent a signal."""
    at_gateway, _ = files
    async with gateway_with(at_gateway) as gateway:
        put(at_gateway, hmac_record("old"), hmac_record("late", collector_id="lab-2"))
        await until(lambda: "late" in gateway.gateway.ingest.keys)
        assert await gateway.push(os.urandom(16)) == 1


async def test_an_unusable_file_leaves_the_keys_in_force(files: tuple[Path, Path]) -> None:
    """Half a record, a better class: the old keys stay, and status says so until mended."""
    at_gateway, _ = files
    async with gateway_with(at_gateway) as gateway:
        for change in ({"secret": "short"}, {"best_class": "quantum"}):
            put(at_gateway, hmac_record("old", **change))
            with capture_logs() as logs:
                gateway.gateway.reload()
            assert [log["event"] for log in logs] == ["signing_keys_not_reloaded"]
            assert any("signing keys cannot be used" in text for text in gateway.gateway.observer.status().warnings)
            assert await gateway.push(os.urandom(16)) == 1
        put(at_gateway, hmac_record("old"))
        gateway.gateway.reload()
        assert not any("signing keys" in text for text in gateway.gateway.observer.status().warnings)


async def test_a_revoked_key_is_withdrawn_at_once(files: tuple[Path, Path]) -> None:
    """Its bytes leave the pool, are counted, and its next chunk is held."""
    at_gateway, _ = files
    async with gateway_with(at_gateway) as gateway:
        await gateway.push(os.urandom(5000))
        now_ns = gateway.clock.now_ns()
        block = Block(b"x", now_ns, now_ns, BlockLabel(("test-device",), SourceClass.SIMULATED))
        signed = gateway.signed(Chunk.bind(block, Identity("lab", "pool-1", gateway.epoch, 99)))
        put(at_gateway, hmac_record("old", revoked=True))
        gateway.gateway.reload()
        accounting = gateway.gateway.accounting()
        assert (accounting.pooled, accounting.purged) == (0, 5000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.push_signed([signed])
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        (key,) = gateway.gateway.observer.status().keys
        assert key.state.value == "revoked"
        assert "collector lab has no signing key that is valid" in gateway.gateway.observer.status().warnings


@pytest.mark.parametrize(("after", "status"), [
    ([{"key_id": "old", "revoked": True}, {"key_id": "new", "best_class": "simulated"}], "UNAUTHENTICATED"),
    ([{"key_id": "old", "revoked": True}, {"key_id": "new", "secret": "short"}], "UNAUTHENTICATED"),
    ([{"key_id": "old", "revoked": True, "reason": "leaked"}], "UNAUTHENTICATED"),
    ([{"key_id": "new", "best_class": "simulated"}], "UNAUTHENTICATED"),
    ([{"key_id": "old", "best_class": "simulated"}], "PERMISSION_DENIED"),
    ([{"key_id": "old", "pool_ids": ["other"]}], "PERMISSION_DENIED"),
], ids=["new one weaker", "new one wrong", "unknown field", "gone", "a class less", "a pool less"])  # fmt: skip
async def test_a_key_is_withdrawn_by_a_file_that_is_not_usable(
    files: tuple[Path, Path], after: list[Record], status: str
) -> None:
    """What a file takes away counts though the rest cannot be put in force; what it grants waits until it is mended."""
    at_gateway, _ = files
    before = hmac_record("old", best_class="quantum")
    put(at_gateway, before)
    async with gateway_with(at_gateway) as gateway:
        await gateway.push(os.urandom(5000))
        now_ns = gateway.clock.now_ns()
        block = Block(b"x", now_ns, now_ns, BlockLabel(("test-device",), SourceClass.QUANTUM))
        signed = gateway.signed(Chunk.bind(block, Identity("lab", "pool-1", gateway.epoch, 99)))
        put(at_gateway, *[hmac_record(**{"best_class": "quantum"} | one) for one in after])
        for _ in range(2):
            with capture_logs() as logs:
                gateway.gateway.reload()
            assert (gateway.gateway.accounting().pooled, gateway.gateway.accounting().purged) == (0, 5000)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await gateway.push_signed([signed])
            assert caught.value.code().name == status
        assert [log["event"] for log in logs] == ["signing_keys_not_reloaded"]
        assert any("signing keys cannot be used" in text for text in gateway.gateway.observer.status().warnings)
        put(at_gateway, before)
        gateway.gateway.reload()
        assert await gateway.push_signed([signed]) == 1


async def test_what_is_withdrawn_is_logged(files: tuple[Path, Path]) -> None:
    """By id, with the bytes it cost, beside every mistake; and without being told to look."""
    at_gateway, _ = files
    async with gateway_with(at_gateway) as gateway:
        await gateway.push(os.urandom(100))
        with capture_logs() as logs:
            put(at_gateway, hmac_record("old", revoked=True), hmac_record("new", secret="short"))
            await until(lambda: gateway.gateway.accounting().purged == 100)
    events = [log for log in logs if log["event"].startswith("signing_keys")]
    assert [log["event"] for log in events] == ["signing_keys_not_reloaded", "signing_keys_withdrawn"]
    assert (events[1]["key_ids"], events[1]["purged_bytes"]) == (["old"], 100)


async def test_several_classes_need_a_least_class(files: tuple[Path, Path]) -> None:
    """Where keys may claim several classes the gateway starts only when it is said what clients are served."""
    at_gateway, _ = files
    put(at_gateway, hmac_record("old"), hmac_record("better", best_class="quantum"))
    with pytest.raises(Exception, match="least_class is required"):
        async with gateway_with(at_gateway):
            pass
    async with gateway_with(at_gateway, least_class="simulated") as gateway:
        assert await gateway.push(os.urandom(16)) == 1


async def test_status_tells_last_use_and_end(files: tuple[Path, Path]) -> None:
    """GetStatus and REST name every key with its state, last use and end; an end within a week is a warning."""
    at_gateway, _ = files
    put(
        at_gateway,
        hmac_record("old", not_after="2100-01-01T00:00:00Z"),
        hmac_record("next", not_before="2099-01-01T00:00:00Z"),
    )
    async with gateway_with(at_gateway) as gateway:
        await gateway.push(os.urandom(16))
        async with AsyncEntropyClient(gateway.client_address, api_key=gateway.api_key) as client:
            old, coming = (await client.status()).keys
        assert (old.key_id, old.collector_id, old.algorithm, old.state) == ("old", "lab", "hmac-sha256", "valid")
        assert old.last_used_ns is not None
        assert old.not_after_ns == 4_102_444_800_000_000_000
        assert (coming.state, coming.last_used_ns, coming.not_after_ns) == ("not_yet_valid", None, None)
        headers = {"Authorization": f"Bearer {gateway.api_key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{gateway.rest_url}/api/status", headers=headers) as reply,
        ):
            shown = (await reply.json())["keys"]
        assert [key["not_after"] for key in shown] == ["2100-01-01T00:00:00.000+00:00", None]
        assert "secret" not in json.dumps(shown)


def test_a_collector_refuses_keys_it_could_not_use(files: tuple[Path, Path]) -> None:
    """A public record, another collector's or pool's key, a class beyond it: each is named at once."""
    _, at_collector = files
    _, public = ed25519_records("new")
    put(at_collector, hmac_record("old", collector_id="other", pool_ids=["p"]), public)
    config = {"signing_keys_file": at_collector, "collector_id": "lab", "pool_id": "pool-1", "best_class": "quantum"}
    with pytest.raises(ValueError, match="signing_keys_file") as caught:
        CollectorConfig(**config, push_url="127.0.0.1:1", state_dir=at_collector.parent)
    assert "the key new has no secret or private_key" in str(caught.value)
    put(at_collector, hmac_record("old", collector_id="other", pool_ids=["p"]))
    with pytest.raises(ValueError, match="collector_id") as caught:
        CollectorConfig(**config, push_url="127.0.0.1:1", state_dir=at_collector.parent)
    for part in ("another collector's", "not for the pool pool-1", "no better than simulated"):
        assert part in str(caught.value)


async def test_real_programs_take_keys_on_sighup(tmp_path: Path) -> None:
    """Two processes exchange their key while they run; in the end captured and stored are the same, exactly."""
    lab = Laboratory(tmp_path)
    private, public = ed25519_records("new")
    at_gateway, at_collector = tmp_path / "gateway-keys.yaml", tmp_path / "collector-keys.yaml"
    for file in (at_gateway, at_collector):
        put(file, hmac_record("old"))
    flat = ("HMAC_SECRET_KEY", "HMAC_KEY_ID")
    gateway_environ = lab.gateway_environ(signing_keys_file=at_gateway, buffer_size=64 << 20)
    collector_environ = lab.collector_environ(signing_keys_file=at_collector)
    async with running("gateway", environ=without(gateway_environ, *flat, "COLLECTOR_ID", "BEST_CLASS")) as gateway:
        await gateway.event("gateway_serves")
        async with running("collector", environ=without(collector_environ, *flat)) as collector:
            await lab.settled(lambda accounting: accounting.stored_bytes > 0)
            for program, file, records in (
                (gateway, at_gateway, (hmac_record("old"), public)),
                (collector, at_collector, (private,)),
            ):
                put(file, *records)
                os.kill(program.pid, signal.SIGHUP)
                await program.event("signing_keys_reloaded")
            async with lab.client() as client:

                async def new_is_used() -> bool:
                    return any(key.last_used_ns for key in (await client.status()).keys if key.key_id == "new")

                await until(new_is_used)
            assert await collector.end() == 0
        assert await gateway.end() == 0
    assert collector.accounting["captured"] == collector.accounting["disposed"] == gateway.accounting["stored"]
    assert not [event for event in gateway.events if event["event"] == "chunk_held"]


def without(environ: dict[str, str], *endings: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.endswith(endings)}
