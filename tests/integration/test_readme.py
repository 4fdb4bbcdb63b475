"""What the README shows runs."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from qrng_grpc.testing.gateway import running_gateway

README = Path(__file__).parents[2] / "README.md"
CLIENT = README.parent / "docs" / "client.md"


async def test_the_python_example_runs():
    """The README's Python example prints 32 bytes and what they are."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    async with running_gateway() as gateway:
        await gateway.push(os.urandom(1024))
        environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", example, env=os.environ | environ, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert re.fullmatch(r"SourceClass\.OPERATING_SYSTEM test-device [0-9a-f]{64}\n", output.decode())


@pytest.mark.parametrize("place", [0, 1])
async def test_the_examples_of_the_client_run(place: int) -> None:
    """What docs/client.md shows, for threads and for asyncio, runs to its end against a gateway."""
    example = re.findall(r"```python\n(.*?)```", CLIENT.read_text(), re.DOTALL)[place]
    async with running_gateway() as gateway:
        for _ in range(8):
            await gateway.push(os.urandom(8192))
        environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", example, env=os.environ | environ, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"1808" in output


def test_the_two_commands_are_there():
    """`make run` and `make test` are what the README promises and the Makefile has."""
    targets = re.findall(r"^([a-z-]+):", (README.parent / "Makefile").read_text(), re.MULTILINE)
    promised = re.findall(r"^make ([a-z-]+)", README.read_text(), re.MULTILINE)
    assert {"run", "test"} <= set(promised) <= set(targets)
