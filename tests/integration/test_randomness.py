"""Numbers made of a gateway's bytes: each byte once, and an error where there is none."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from qrng_client import EntropyClient, GatewayBytes, PoolShortError, QuantumRandom, QuantumSecrets, WeakerSourceError
from qrng_client.arrays import QuantumArrays
from qrng_grpc.sources.mock import SeededStream
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from tests.ledger import Ledger

TEXT = (Path(__file__).parents[2] / "docs" / "randomness.md").read_text(encoding="utf-8")


def client_of(gateway: RunningGateway) -> EntropyClient:
    return EntropyClient(gateway.client_address, api_key=gateway.api_key)


async def test_the_example_of_the_document_runs() -> None:
    """What docs/randomness.md shows for an EntropyClient prints six numbers out of 49, drawn from a gateway."""
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    async with running_gateway() as gateway:
        await gateway.push(os.urandom(1024))
        environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", example, env=os.environ | environ, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    numbers = [int(number) for number in output.decode().strip("[]\n").split(", ")]
    assert len(set(numbers)) == 6
    assert set(numbers) <= set(range(1, 50))


@pytest.mark.parametrize("buffer_bytes", [0, 256])
async def test_threads_share_no_byte(buffer_bytes: int) -> None:
    """Four threads that draw from one gateway through one generator never get the same byte."""
    async with running_gateway() as gateway:
        await gateway.push(SeededStream(1).take(1 << 16))
        with client_of(gateway) as client:
            rng = QuantumRandom(GatewayBytes(client), buffer_bytes=buffer_bytes)
            draws = [asyncio.to_thread(lambda: [rng.randbytes(16) for _ in range(100)]) for _ in range(4)]
            taken = await asyncio.gather(*draws)
    served = b"".join(piece for pieces in taken for piece in pieces)
    assert len(Ledger(1, stream_bytes=1 << 16).check_once(served)) == 400


async def test_an_empty_pool_is_an_error_of_every_kind_of_number() -> None:
    """Without bytes there is no number, array or token: what the gateway says comes through."""
    async with running_gateway(max_wait=0) as gateway:
        await gateway.push(os.urandom(64))
        with client_of(gateway) as client:
            source = GatewayBytes(client)
            draws = (
                lambda: QuantumRandom(source).shuffle(list(range(100))),
                lambda: QuantumRandom(source, buffer_bytes=4096).random(),
                lambda: QuantumArrays(source).random(100),
                lambda: QuantumSecrets(source).token_hex(100),
            )
            for draw in draws:
                with pytest.raises(PoolShortError):
                    await asyncio.to_thread(draw)
            assert len(await asyncio.to_thread(QuantumSecrets(source).token_bytes, 64)) == 64


async def test_demands_travel_with_every_draw() -> None:
    """A least class that the gateway lacks is an error of the draw, never a number of a weaker class."""
    async with running_gateway() as gateway:
        await gateway.push(os.urandom(64))
        with client_of(gateway) as client:
            rng = QuantumRandom(GatewayBytes(client, least_class="quantum"))
            with pytest.raises(WeakerSourceError):
                await asyncio.to_thread(rng.random)
