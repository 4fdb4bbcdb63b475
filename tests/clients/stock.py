"""A gateway whose every byte is known, so that what a client read can be found in what was pushed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from qrng_grpc.testing.gateway import RunningGateway, running_gateway


@dataclass(frozen=True)
class Stock:
    """A gateway, and all the bytes it was given, in the order in which it gives them away."""

    gateway: RunningGateway
    pushed: bytes = field(repr=False)

    @property
    def env(self) -> dict[str, str]:
        """What a client needs to know, as `var/demo.env` tells it."""
        return {"QR_GRPC_SERVER_ADDRESS": self.gateway.client_address, "QR_GRPC_API_KEY": self.gateway.api_key}

    @property
    def served_bytes(self) -> int:
        """How many bytes the gateway says it gave away."""
        return self.gateway.gateway.accounting().served


@asynccontextmanager
async def stocked_gateway(size: int, **settings: Any) -> AsyncIterator[Stock]:
    """Run a gateway with `size` bytes in its pool, which waits for no more of them."""
    pushed = os.urandom(size)
    async with running_gateway(**{"max_wait": 0, **settings}) as gateway:
        await gateway.push(pushed)
        yield Stock(gateway, pushed)
