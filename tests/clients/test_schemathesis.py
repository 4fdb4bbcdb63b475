"""The real schemathesis: requests made up from the OpenAPI document, good and bad, and every reply held against it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from tests.clients.programs import program, run

OPENAPI = Path(__file__).parent / "openapi"
EXAMPLES = 50
"""Requests made up for each operation, beside those that cover each of its bounds."""
SEED = 1


@asynccontextmanager
async def flowing_gateway() -> AsyncIterator[RunningGateway]:
    """Run a gateway into which quantum bytes flow, so that what is demanded of them can be met."""
    settings: dict[str, Any] = {"best_class": "quantum", "quality_reservoir_size": 1 << 20}
    settings |= {"max_wait": 0.2, "max_fresh_wait": 0.2, "trusted_proxies": ["127.0.0.1"]}
    async with running_gateway(**settings) as gateway:

        async def flow() -> None:
            while True:
                await gateway.push(os.urandom(1 << 20))
                await asyncio.sleep(0.1)

        flowing = asyncio.create_task(flow())
        try:
            yield gateway
        finally:
            flowing.cancel()


@pytest.mark.timeout(180)
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Valid requests are served, invalid ones refused, and each reply has a described status, type, header and body."""
    async with flowing_gateway() as gateway:
        ended = await run(
            program("schemathesis"),
            *("--config-file", OPENAPI / "schemathesis.toml"),
            *("run", f"{gateway.rest_url}/openapi.json", "-H", f"Authorization: Bearer {gateway.api_key}"),
            *("--mode", "all", "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--continue-on-failure"),
            *("--generation-database", "none", "--no-color"),
            env={"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(OPENAPI)},
            cwd=tmp_path,
            limit_s=150,
        )
        assert ended.code == 0, ended
        assert "No issues found" in ended.stdout
        assert gateway.gateway.accounting().served > 0
