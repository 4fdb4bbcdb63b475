"""The examples for each language, run as their README says, against a real gateway."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

import pytest

from tests.clients.programs import EXAMPLES, NODE_MODULES, Outcome, node, program, run
from tests.clients.stock import Stock

REPLY_BYTES = 32


def command(language: str, stock: Stock) -> list[str | Path]:
    """Return how to run the example of `language`."""
    folder = EXAMPLES / language
    match language:
        case "python":
            return [sys.executable, folder / "read.py"]
        case "node":
            return [node(), folder / "read.js"]
        case "curl":
            program("curl")
            return [program("bash"), folder / "read.sh", stock.gateway.rest_url]
        case _:
            program(language)
            return [program("bash"), folder / "read.sh"]


async def example(language: str, stock: Stock, **env: str) -> Outcome:
    argv = command(language, stock)
    return await run(*argv, env={**stock.env, "NODE_PATH": str(NODE_MODULES), **env})


async def lines_of(language: str, stock: Stock) -> list[str]:
    ended = await example(language, stock)
    assert ended.code == 0, ended
    return ended.stdout.splitlines()


async def test_python_reads_a_reply_and_a_stream(stock: Stock) -> None:
    """The Python example prints the pool's first bytes and reads the rest of its stream."""
    first, *rest = await lines_of("python", stock)
    assert first == f"{stock.pushed[:REPLY_BYTES].hex()} operating_system"
    assert rest == ["1024 bytes of test-device"] * 4
    assert stock.served_bytes == REPLY_BYTES + 4096


async def test_node_reads_all_three_kinds(stock: Stock) -> None:
    """The Node example prints the pool's first bytes, reads its stream and is answered in order."""
    first, *rest = await lines_of("node", stock)
    assert first == f"{stock.pushed[:REPLY_BYTES].hex()} SOURCE_CLASS_OPERATING_SYSTEM"
    assert rest[:4] == ["1024 bytes of test-device"] * 4
    assert rest[4:] == [f"answer {number}: 16 bytes" for number in (1, 2, 3)]
    assert stock.served_bytes == REPLY_BYTES + 4096 + 3 * 16


async def test_curl_reads_three_encodings(stock: Stock) -> None:
    """The curl example prints the pool's first bytes in hexadecimal, the next in base64, and counts raw ones."""
    hexadecimal, b64, raw_count = await lines_of("curl", stock)
    assert bytes.fromhex(hexadecimal) == stock.pushed[:REPLY_BYTES]
    assert base64.b64decode(b64) == stock.pushed[REPLY_BYTES : 2 * REPLY_BYTES]
    assert int(raw_count) == 1024
    assert stock.served_bytes == 2 * REPLY_BYTES + 1024


async def test_grpcurl_lists_services_and_reads_all_three_kinds(stock: Stock) -> None:
    """The grpcurl example finds the service by reflection and reads the pool from its first byte on."""
    lines = await lines_of("grpcurl", stock)
    assert "qrng.v1.EntropyService" in lines
    data = re.findall(r'"data": "([^"]+)"', "\n".join(lines))
    assert [len(base64.b64decode(text)) for text in data] == [32, 8, 8, 8, 8, 8, 8]
    assert b"".join(map(base64.b64decode, data)) == stock.pushed[: stock.served_bytes]


@pytest.mark.parametrize("language", ["python", "node", "curl", "grpcurl"])
async def test_examples_fail_aloud_without_the_right_key(stock: Stock, language: str) -> None:
    """With a wrong key an example prints no bytes, says why and ends with a failure."""
    ended = await example(language, stock, QR_GRPC_API_KEY="not-the-right-key-at-all")
    assert ended.code != 0
    assert re.search("401|API key", ended.stderr)
    assert stock.served_bytes == 0


async def test_every_example_is_run_here() -> None:
    """No folder of clients/examples goes untested."""
    folders = {entry.name for entry in EXAMPLES.iterdir() if entry.is_dir()}
    # A source of one's own needs no other program, so tests/integration/test_own_source.py runs those.
    assert folders == {"python", "node", "curl", "grpcurl", "source"}
    assert all((EXAMPLES / folder / "README.md").is_file() for folder in folders)
