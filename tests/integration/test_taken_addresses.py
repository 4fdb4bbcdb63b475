"""Addresses at which others listen already: a mistake in the settings, told by the one to change."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qrng_collector import config as collector_config
from qrng_gateway import config as gateway_config
from tests.programs import Laboratory, running

GATEWAY = ["listen_address", "push_listen_address", "rest_listen_address"]


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def told(program: str, environ: dict[str, str], *arguments: str) -> list[str]:
    """Run a program that refuses to start for what it is told. Returns the lines in which it says so."""
    async with running(program, *arguments, environ=environ) as refused:
        assert await refused.ended() == 2
    return [line.rstrip() for line in refused.words]


@pytest.mark.parametrize("setting", GATEWAY)
async def test_a_gateway_names_its_setting_as_it_was_written(tmp_path: Path, taken: str, setting: str) -> None:
    """Each listener that cannot be is told by the variable that says where it was to be."""
    lab = Laboratory(tmp_path)
    lines = await told("gateway", lab.gateway_environ(**{setting: taken}))
    begins = f"  - {gateway_config.ENV_PREFIX}{setting.upper()}: {taken}: cannot listen there ("
    assert [line for line in lines if line.startswith(begins)] == lines[1:]


async def test_a_setting_of_the_command_line_is_named_as_there(tmp_path: Path, taken: str) -> None:
    """What --set says is known by the name it has there."""
    lab = Laboratory(tmp_path)
    lines = await told("gateway", lab.gateway_environ(), "--set", f"rest_listen_address={taken}")
    assert lines[1:] == [f"  - rest_listen_address: {taken}: cannot listen there (Address already in use)"]


async def test_a_collector_names_where_its_health_was_to_be(tmp_path: Path, taken: str) -> None:
    """A collector that cannot listen for health says by which setting, in the system's words."""
    lab = Laboratory(tmp_path)
    lines = await told("collector", lab.collector_environ(health_listen_address=taken))
    setting = f"{collector_config.ENV_PREFIX}HEALTH_LISTEN_ADDRESS"
    assert lines[1:] == [f"  - {setting}: {taken}: cannot listen there (Address already in use)"]
