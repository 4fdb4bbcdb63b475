"""Limits under a concurrent load from k6: what clients get in some seconds, against what their buckets allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, Limits, changing_client_file, digest_of, new_key
from tests.clients.programs import PROTOS, program, run
from tests.clients.stock import stocked_gateway

SCRIPT = Path(__file__).parent / "k6" / "limits.js"
MIB = 1 << 20
SECONDS = 8
REQUESTS_PER_S = 100
BYTES_PER_S = MIB
"""And so what a bucket of bytes holds: a second's worth, which is as much as the largest message."""
TOLERANCE = 0.01
LIMITS = {
    "requests": Limits(requests_per_s=REQUESTS_PER_S),
    "bytes": Limits(bytes_per_s=BYTES_PER_S, requests_per_s=1_000_000),
    "subscribed": Limits(bytes_per_s=BYTES_PER_S),
}
LOAD: dict[str, dict[str, Any]] = {
    "requests": {"users": 4, "size": 16},
    "bytes": {"users": 4, "size": 8192},
    "subscribed": {"users": 4, "size": 8192, "total": (1 + SECONDS) * MIB // 4},
}
STOCK_BYTES = 2 * (2 + SECONDS) * MIB


def make_clients(file: Path) -> dict[str, str]:
    """Write a record for each client. Returns their keys."""
    keys = {client_id: new_key() for client_id in LIMITS}
    with changing_client_file(file) as records:
        for client_id, limits in LIMITS.items():
            records.append(ClientRecord(Client(client_id, limits=limits), (KeyDigest(digest_of(keys[client_id])),)))
    return keys


def near(taken: float, rate: float, seconds: float) -> bool:
    """Say whether `taken` is what a bucket of `rate`, a second deep and full at the beginning, gives in `seconds`."""
    allowed = rate * (1 + seconds)
    return abs(taken - allowed) <= TOLERANCE * allowed


async def test_limits_hold_under_a_concurrent_load(tmp_path: Path) -> None:
    """Requests, bytes of unary calls and bytes of streams come to what their buckets allow, to one in a hundred."""
    file = tmp_path / "clients.yaml"
    keys = make_clients(file)
    settings = {"api_keys_file": file, "address_rate_limit": 1_000_000, "buffer_size": 2 * STOCK_BYTES}
    async with stocked_gateway(STOCK_BYTES, **settings) as stock:
        load = {client_id: {**LOAD[client_id], "key": key} for client_id, key in keys.items()}
        env = {**stock.env, "PROTOS": str(PROTOS), "SECONDS": str(SECONDS), "LIMITS": json.dumps(load)}
        quietly = ("--no-usage-report", "--quiet", "--no-color", "--address", "")
        ended = await run(program("k6"), "run", *quietly, SCRIPT, env=env)
        assert ended.code == 0, ended
        got = json.loads(ended.stdout)
        assert near(got["requests"]["served"], REQUESTS_PER_S, got["requests"]["seconds"]), got
        assert near(got["bytes"]["bytes"], BYTES_PER_S, got["bytes"]["seconds"]), got
        assert near(got["subscribed"]["bytes"], BYTES_PER_S, got["subscribed"]["seconds"]), got
        assert got["requests"]["refused"] > got["requests"]["served"] / 10, "the load was too small to mean anything"
        assert got["bytes"]["refused"] > got["bytes"]["served"] / 10, "the load was too small to mean anything"
        assert got["subscribed"]["bytes"] == (1 + SECONDS) * MIB
        assert stock.served_bytes == sum(client["bytes"] for client in got.values())
        print(got)  # with -s: the figures
