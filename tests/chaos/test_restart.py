"""Second starts: locks that a killed program leaves behind, and the whole of `qrng up`."""

from __future__ import annotations

from pathlib import Path

from qrng_client import AsyncEntropyClient
from tests.programs import Laboratory, free_address, running


async def test_a_killed_gateway_leaves_its_state_to_the_next(lab: Laboratory) -> None:
    """Two gateways never share their state; after kill -9 it is free at once."""
    rival = lab.gateway_environ(**{f"{kind}listen_address": free_address() for kind in ("", "push_", "rest_")})
    async with lab.gateway() as first:
        async with running("gateway", environ=rival) as second:
            assert await second.ended() == 1
        assert "held by another process" in "".join(second.words)
        await first.kill()
    async with lab.gateway() as third:
        assert await third.end() == 0


async def test_a_killed_collector_leaves_its_state_to_the_next(lab: Laboratory) -> None:
    """Two collectors never share their state; after kill -9 the next run has a higher epoch whatever the clock says."""
    async with lab.collector() as first:
        async with running("collector", environ=lab.collector_environ()) as second:
            assert await second.ended() == 1
        assert "held by another process" in "".join(second.words)
        await first.kill()
    assert lab.last_epoch == (await first.event("collecting"))["epoch"]
    ahead = 1 << 62
    lab.put_epoch(ahead)
    async with lab.collector(flush_timeout=0) as third:
        assert await third.end() == 0
    assert (await third.event("collecting"))["epoch"] == ahead + 1


async def test_up_comes_back_after_a_kill(lab: Laboratory, tmp_path: Path) -> None:
    """When `qrng up` is killed, its programs drain by themselves; the next one serves with the same keys."""
    settings = {
        "QRNG_GATEWAY_LISTEN_ADDRESS": lab.client_address,
        "QRNG_GATEWAY_PUSH_LISTEN_ADDRESS": lab.push_address,
        "QRNG_GATEWAY_REST_LISTEN_ADDRESS": lab.rest_address,
        # The orphans drain side by side, so the collector flushes to a gateway that is gone.
        "QRNG_COLLECTOR_FLUSH_TIMEOUT": "0.2",
        # The first bytes may be asked for before they are there.
        "QRNG_GATEWAY_MAX_WAIT": "60",
    }
    sets = [argument for item in settings.items() for argument in ("--set", "=".join(item))]
    arguments = ("up", "--var", str(tmp_path / "var"), *sets)
    async with running(*arguments, environ=lab.clean_environ) as first:
        began = await first.event("collecting")
        await first.kill()
        assert {event["program"] for event in first.events if event["event"] == "accounting"} == {
            "gateway",
            "collector",
        }
    async with running(*arguments, environ=lab.clean_environ) as second:
        assert (await second.event("collecting"))["epoch"] > began["epoch"]
        async with AsyncEntropyClient(lab.client_address, api_key=_key_in(tmp_path / "var" / "demo.env")) as client:
            assert len(await client.get(64)) == 64
        assert await second.end() == 0


def _key_in(file: Path) -> str:
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("QR_GRPC_API_KEY=")]
    return line.partition("=")[2]
