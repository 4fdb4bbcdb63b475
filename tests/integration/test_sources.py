"""Sources behind a real collector, by settings alone: foreign servers, faults, quarantine, mixing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from qrng_collector.app import Collector, collecting
from qrng_collector.config import ENV_PREFIX, CollectorConfig
from qrng_grpc.config import load
from qrng_grpc.labels import Condition, SourceClass
from qrng_grpc.sources.leg import SourceView
from qrng_grpc.testing import QuantisAppliance
from qrng_grpc.testing.appliance import Fault, Misbehaviour
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from qrng_grpc.v1 import entropy_pb2, labels_pb2
from tests.integration.fronts import Front, open_front
from tests.waiting import until

FOREIGN_PROTO = """
syntax = "proto3";
package lab.noise.v3;
service NoiseTap { rpc Draw (DrawOrder) returns (DrawResult); }
message DrawOrder { string bench = 1; fixed32 urgency = 5; uint32 amount = 7; }
message DrawResult { string remark = 1; bytes noise = 4; }
"""
FOREIGN_SERVER = """
import importlib, os, sys
from concurrent import futures
import grpc
from grpc_tools import protoc

folder = sys.argv[1]
assert protoc.main(["", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "noise.proto"]) == 0
sys.path.insert(0, folder)
pb2, pb2_grpc = importlib.import_module("noise_pb2"), importlib.import_module("noise_pb2_grpc")

class NoiseTap(pb2_grpc.NoiseTapServicer):
    def Draw(self, request, context):
        if request.bench != "left" or ("x-lab-key", "sesame") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "who are you?")
        return pb2.DrawResult(remark="enjoy", noise=os.urandom(request.amount))

server = grpc.server(futures.ThreadPoolExecutor(2))
pb2_grpc.add_NoiseTapServicer_to_server(NoiseTap(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None).wait()
"""


@asynccontextmanager
async def foreign_server(folder: Path) -> AsyncIterator[str]:
    """Run a stock grpcio server of a service of its own, made from its proto. Yields its address."""
    (folder / "noise.proto").write_text(FOREIGN_PROTO)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FOREIGN_SERVER, str(folder),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.stdin.close()
        await process.wait()


def config_of(gateway: RunningGateway, state_dir: Path, *sources: dict[str, Any], **settings: Any) -> CollectorConfig:
    """Return the settings of a collector for `gateway`, as an environment gives them."""
    record = gateway.key_record
    values = {
        "HMAC_SECRET_KEY": record.secret.decode(),
        "HMAC_KEY_ID": record.key_id,
        "COLLECTOR_ID": record.collector_id,
        "POOL_ID": gateway.pool_id,
        "BEST_CLASS": record.best_class.value,
        "PUSH_URL": gateway.push_address,
        "STATE_DIR": str(state_dir),
        "SOURCES": json.dumps(sources),
        "FETCH_CHUNK_SIZE": 4096,
        "FETCH_INTERVAL": 0.01,
        "PUSH_INTERVAL": 0.02,
        **{name.upper(): value for name, value in settings.items()},
    }
    environ = {
        ENV_PREFIX + name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
    }
    return load(CollectorConfig, prefix=ENV_PREFIX, environ=environ)


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    classes = {"best_class": SourceClass.QUANTUM, "least_class": SourceClass.SIMULATED}
    async with running_gateway(max_wait=60, **classes) as running:
        yield running


@pytest.fixture
async def front(gateway: RunningGateway) -> AsyncIterator[Front]:
    async with open_front(gateway) as opened:
        yield opened


def appliance_entry(appliance: QuantisAppliance, device_id: str = "quantis-1", **fields: Any) -> dict[str, Any]:
    stated = {"kind": "http", "url": appliance.url, "source_class": "quantum", "device_id": device_id}
    return {**stated, "fingerprint": appliance.fingerprint, **fields}


async def drawn(front: Front, size: int = 1024) -> entropy_pb2.GetEntropyResponse:
    """Draw `size` bytes of the gateway, waiting for them."""
    request = entropy_pb2.GetEntropyRequest(bytes_needed=size)
    reply: entropy_pb2.GetEntropyResponse = await front.entropy.GetEntropy(request, metadata=front.key)
    return reply


async def test_a_foreign_grpc_server_is_a_source_by_settings_alone(
    gateway: RunningGateway, front: Front, tmp_path: Path
) -> None:
    """A stock server with a proto nobody here knows fills the pool, with no code written for it."""
    (tmp_path / "proto").mkdir()
    async with foreign_server(tmp_path / "proto") as address:
        entry = {
            "kind": "grpc",
            "address": address,
            "method_path": "/lab.noise.v3.NoiseTap/Draw",
            "count_field": 7,
            "data_field": 4,
            "request_prefix": b"\x0a\x04left\x2d\x01\x00\x00\x00".hex(),
            "api_key": "sesame",
            "api_key_header": "x-lab-key",
            "source_class": "hardware",
            "device_id": "noise-tap",
            "custody": "local",
        }
        async with collecting(config_of(gateway, tmp_path / "state", entry)):
            reply = await drawn(front)
    assert (reply.device_id, len(reply.data)) == ("noise-tap", 1024)
    assert reply.source_class == labels_pb2.SOURCE_CLASS_HARDWARE
    assert reply.health_verdict == labels_pb2.HEALTH_VERDICT_PASSED
    assert reply.custody == labels_pb2.CUSTODY_LOCAL


async def test_one_dead_source_never_stops_another(gateway: RunningGateway, front: Front, tmp_path: Path) -> None:
    """Beside a silent appliance, one that lies and one that is gone, the sound one goes on delivering."""
    async with AsyncExitStack() as stack:
        silent, liar, sound = [await stack.enter_async_context(QuantisAppliance(seed=seed)) for seed in (10, 20, 30)]
        silent.fail_next("stall", times=1000)
        liar.turn_bad("stuck_byte")
        entries = [
            appliance_entry(silent, "silent"),
            appliance_entry(liar, "liar"),
            {**appliance_entry(sound, "gone"), "url": "https://127.0.0.1:9"},
            appliance_entry(sound, "sound"),
        ]
        async with collecting(config_of(gateway, tmp_path, *entries)):
            pieces = [await drawn(front, 16_384) for _ in range(8)]
        assert {piece.device_id for piece in pieces} == {"sound"}
        assert all(piece.data in sound.served for piece in pieces)


async def seen(collector: Collector, device_id: str, holds: Callable[[SourceView], bool]) -> None:
    """Wait until `holds` of the state of a source."""

    def held() -> bool:
        views = [view for reader in collector.readers for view in reader.states()]
        return any(view.device_id == device_id and holds(view) for view in views)

    await until(held)


@pytest.mark.parametrize("fault", ["stuck_byte", "stuck_bit", "bias", "period", "cached_body"])
async def test_a_fault_is_found_and_the_source_comes_back(
    fault: Fault, gateway: RunningGateway, front: Front, tmp_path: Path
) -> None:
    """A faulty appliance goes into quarantine, its failed block never leaves, and it returns by a start-up test."""
    settings = {"fetch_chunk_size": 65_536, "buffer_size": 4 << 20, "quarantine_pause": 0.2}
    async with QuantisAppliance(seed=5) as appliance:
        config = config_of(gateway, tmp_path, appliance_entry(appliance), **settings)
        with capture_logs() as logs:
            async with collecting(config) as collector:
                await drawn(front)
                appliance.turn_bad(fault)
                await seen(collector, "quantis-1", lambda view: view.condition is Condition.QUARANTINED)
                appliance.turn_good()
                await seen(collector, "quantis-1", lambda view: view.condition is Condition.DELIVERING)
                assert (await drawn(front)).health_verdict == labels_pb2.HEALTH_VERDICT_PASSED
    events = [entry["event"] for entry in logs if entry["event"].startswith("source_")]
    assert events[:2] == ["source_trusted", "source_quarantined"]
    assert "source_trusted" in events[2:]


@pytest.mark.parametrize("kind", ["status_429", "status_500", "status_503", "html", "short", "reset", "slow_drip"])
async def test_a_spoilt_answer_costs_a_fetch_and_nothing_else(
    kind: Misbehaviour, gateway: RunningGateway, front: Front, tmp_path: Path
) -> None:
    """After each kind of spoilt answer the source is asked again, and what it then gives is served."""
    async with QuantisAppliance(seed=5) as appliance:
        appliance.retry_after = "0"
        appliance.fail_next(kind)
        entry = appliance_entry(appliance, fetch_timeout=0.5)
        waits = {"initial_s": 0.01, "maximum_s": 0.02}
        async with collecting(config_of(gateway, tmp_path, entry, retry_policy=waits)):
            assert (await drawn(front)).data in appliance.served


async def test_a_mix_degrades_or_stops_by_setting(gateway: RunningGateway, front: Front, tmp_path: Path) -> None:
    """Without its quantum leg an xor mix goes on as OPERATING_SYSTEM when told to, and says so in the log."""
    async with QuantisAppliance(seed=5) as appliance:
        entries = (appliance_entry(appliance), {"kind": "system"})
        mix = {"mixing_strategy": "xor", "fetch_interval": 0.02, "on_missing_leg": "degrade"}
        with capture_logs() as logs:
            async with collecting(config_of(gateway, tmp_path / "degrade", *entries, **mix)) as collector:
                whole = await drawn(front)
                appliance.fail_next("status_503", times=1000)
                await seen(collector, "quantis-1", lambda view: view.condition is Condition.FAILING)
                while (weaker := await drawn(front, 4096)).source_class == whole.source_class:
                    pass
    assert whole.source_class == labels_pb2.SOURCE_CLASS_QUANTUM
    assert whole.processing == labels_pb2.PROCESSING_MIXED
    assert (weaker.processing, weaker.device_id) == (labels_pb2.PROCESSING_NONE, "os-urandom")
    assert weaker.source_class == labels_pb2.SOURCE_CLASS_OPERATING_SYSTEM
    assert [entry["device_ids"] for entry in logs if entry["event"] == "mix_misses_legs"] == [("quantis-1",)]


async def test_a_mix_set_to_stop_captures_nothing_without_a_leg(gateway: RunningGateway, tmp_path: Path) -> None:
    """With `stop`, which is the default, no byte leaves a mix that misses a leg."""
    async with QuantisAppliance(seed=5) as appliance:
        appliance.fail_next("status_503", times=1000)
        entries = (appliance_entry(appliance), {"kind": "system"})
        async with collecting(config_of(gateway, tmp_path, *entries, mixing_strategy="hkdf")) as collector:
            await seen(collector, "quantis-1", lambda view: view.condition is Condition.FAILING)
            await seen(collector, "os-urandom", lambda view: view.fetched_bytes > 0)
        assert collector.counters.captured == 0


async def test_a_mix_waits_for_all_requests_of_a_leg(gateway: RunningGateway, front: Front, tmp_path: Path) -> None:
    """A leg that needs twenty spaced requests for its part gets the time, so that none of them is for nothing."""
    # Together they take longer than any one of them may.
    async with QuantisAppliance(seed=5) as appliance:
        request = {"url": "{base}/api/2.0/streambytes?size={bytes}", "reader": "raw", "max_units": 128}
        pace = {"start_up_size": 1024, "fetch_timeout": 2.5, "request_interval": 0.15}
        entries = (appliance_entry(appliance, request=request, **pace), {"kind": "system", "start_up_size": 1024})
        config = config_of(gateway, tmp_path, *entries, mixing_strategy="hkdf", fetch_chunk_size=2048)
        async with collecting(config) as collector:
            reply = await drawn(front)
            (slow, _) = [view for reader in collector.readers for view in reader.states()]
    assert (reply.processing, reply.source_class) == (
        labels_pb2.PROCESSING_MIXED,
        labels_pb2.SOURCE_CLASS_QUANTUM,
    )
    assert slow.discarded_bytes == 1024


async def test_jitter_is_a_source_when_named(gateway: RunningGateway, front: Front, tmp_path: Path) -> None:
    """Timing jitter serves as OPERATING_SYSTEM, tested like any other."""
    async with collecting(
        config_of(gateway, tmp_path, {"kind": "jitter", "start_up_size": 1024}, fetch_chunk_size=256)
    ):
        reply = await drawn(front, 32)
    assert (reply.device_id, reply.source_class) == ("cpu-jitter", labels_pb2.SOURCE_CLASS_OPERATING_SYSTEM)
