"""`qrng serve-source`: what the command line may say."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from qrng_cli.group import cli
from qrng_cli.serve_source import _config, command
from qrng_source_server.config import SourceServerConfig

STATED = ("--set", "source_class=quantum", "--set", "device_id=q")


def refused(*arguments: str) -> list[str]:
    """Return what `qrng serve-source` has against its arguments, for which it ends with exit code 2."""
    done = CliRunner().invoke(cli, ["serve-source", *arguments], env={"QRNG_IGNORED": None})
    assert done.exit_code == 2, done.output
    return [line.removeprefix("  - ") for line in done.output.splitlines() if line.startswith(("  - ", "Error: "))]


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ((), "Error: name a kind of source; --list shows which there are"),
        (("dice",), "kind: there is no such kind of source; there are device, grpc, http, jitter, mock, system"),
        (("mock", "--set", "seed"), "Error: Invalid value for '--set': expected NAME=VALUE"),
        (("mock", "--set", "seed=x"), "source.seed: expected a whole number"),
        (("mock", "--set", "sead=1"), "source.sead: there is no such setting; did you mean seed?"),
        (("mock", "--set", "kind=system"), "source.kind: there is one already"),
        (("mock", "--set", "fetch_interval=1"), "source: fetch_interval has no effect here"),
        (("http", *STATED, "--set", "api_key=K"), "source.api_key: others can see command lines; name a file"),
        (("http", *STATED, "--set", "request={"), "Error: --set: a value that begins with { or [ is written as in"),
        (("http", *STATED, "--set", "url=http://192.0.2.1"), "source: plain http"),
        (("mock", "--listen", "nowhere"), "--listen: expected HOST:PORT"),
        (("mock", "--tls-key-file", "k"), "--tls-key-file: goes together with --tls-cert-file"),
        (("mock", "--max-request-bytes", "2M"), "--max-request-bytes: expected 1048576 or less"),
        (("mock", "--api-key-file", "/does/not/exist"), "--api-key-file: cannot be read (No such file or directory)"),
        (("mock", "--profile-file", __file__), "Error: a profile has no effect here"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments: tuple[str, ...], mistake: str) -> None:
    """Each by the name of its setting, without its value."""
    assert any(line.startswith(mistake) for line in refused(*arguments)), refused(*arguments)


def test_every_mistake_is_told_at_once() -> None:
    """Of the source and of the listener."""
    found = [line.split(":")[0] for line in refused("mock", "--set", "seed=-1", "--listen", "0.0.0.0:1")]
    assert found[1:] == ["source.seed", "--allow-plaintext-beyond-loopback", "--api-key-file"]


def test_every_setting_of_the_listener_has_an_option() -> None:
    """No setting can be reached from code alone."""
    options = {parameter.name for parameter in command.params}
    assert set(SourceServerConfig.model_fields) - {"source"} <= options


def test_settings_reach_the_source(tmp_path: Path) -> None:
    """As text, or as YAML where a mapping is written; the listener has what its options say."""
    written = {"preset": "quantis", "url": "https://192.0.2.7", "source_class": "quantum", "device_id": "q"}
    config = _config("http", tuple(written.items()), {"listen_address": "127.0.0.1:1", "max_waiting": 3})
    assert config.source.label_device_id == "q"
    assert (config.listen_address, config.max_waiting) == ("127.0.0.1:1", 3)
    request = "{url: 'https://random.example/{bytes}', reader: raw, headers: {X-Version: '1'}}"
    config = _config("http", (("request", request), ("source_class", "quantum"), ("device_id", "q")), {})
    assert "random.example" in repr(config.source)
