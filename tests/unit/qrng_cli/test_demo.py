"""The file with the demo's keys, and what `up` settles from it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from qrng_cli.demo import demo_settings, keep_address
from qrng_cli.output import whole_file
from qrng_cli.setup import prepare
from qrng_cli.supervisor import announcement
from qrng_grpc.errors import ConfigError, StateError


@pytest.fixture
def var(tmp_path: Path) -> Path:
    directory = tmp_path / "var"
    directory.mkdir(mode=0o700)
    return directory


def test_made_once(var: Path) -> None:
    """Keys are made at the first start, for the owner alone, and used again."""
    path = var / "demo.env"
    made = demo_settings(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert demo_settings(path) == made
    assert demo_settings(var / "other.env")["QR_GRPC_API_KEY"] != made["QR_GRPC_API_KEY"]
    assert [entry.name for entry in var.iterdir() if entry.name.startswith(".")] == []


def test_shell_reads_the_same(var: Path) -> None:
    """A shell that sources the file sees what we see."""
    path = var / "demo.env"
    made = demo_settings(path)
    script = 'set -a; . "$0"; set +a; env'
    done = subprocess.run(["sh", "-c", script, str(path)], capture_output=True, check=True, text=True, env={})
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {name: seen[name] for name in made} == made


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o660])
def test_others_could_read(var: Path, mode: int) -> None:
    """A file that others may read or write is refused."""
    path = var / "demo.env"
    demo_settings(path)
    path.chmod(mode)
    with pytest.raises(StateError, match="chmod 600"):
        demo_settings(path)


@pytest.mark.parametrize("damage", ["", "x", "\xff\xfe", "QR_GRPC_API_KEY=abc\n", "half", "pair", "empty"])
def test_damaged(var: Path, damage: str) -> None:
    """A file that is not what was written is refused, with the remedy and without its content."""
    path = var / "demo.env"
    key = demo_settings(path)["QR_GRPC_API_KEY"]
    text = path.read_text()
    damaged = {
        "half": text[: len(text) // 2],
        "pair": text.replace(f"QR_GRPC_API_KEY={key}", "QR_GRPC_API_KEY=another"),
        "empty": text.replace("QRNG_GATEWAY_CLOCK_TOLERANCE=0", "QRNG_GATEWAY_CLOCK_TOLERANCE="),
    }.get(damage, damage)
    path.write_bytes(damaged.encode("latin-1"))
    with pytest.raises(StateError, match="delete it") as caught:
        demo_settings(path)
    assert key not in str(caught.value)


def test_address_follows(var: Path) -> None:
    """When the gateway moves, the file says where to; the keys stay."""
    path = var / "demo.env"
    made = demo_settings(path)
    keep_address(path, made, "127.0.0.1:6000")
    assert demo_settings(path) == made | {"QR_GRPC_SERVER_ADDRESS": "127.0.0.1:6000"}


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    """A file whose writing fails stays as it was, and leaves no litter."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_plan(var: Path) -> None:
    """Client and collector are sent where the gateway listens; wildcards become loopback."""
    plan = prepare(
        var,
        None,
        {
            "QRNG_GATEWAY_LISTEN_ADDRESS": "0.0.0.0:6000",
            "QRNG_GATEWAY_PUSH_LISTEN_ADDRESS": "[::]:6001",
            "QRNG_GATEWAY_ALLOW_PLAINTEXT_BEYOND_LOOPBACK": "true",
        },
    )
    assert (plan.client_address, plan.push_address, plan.rest_address) == (
        "127.0.0.1:6000",
        "[::1]:6001",
        "127.0.0.1:8080",
    )
    demo = dotenv_values(var / "demo.env")
    assert demo["QR_GRPC_SERVER_ADDRESS"] == "127.0.0.1:6000"
    of_client = {"QR_GRPC_SERVER_ADDRESS": "127.0.0.1:6000", "QR_GRPC_API_KEY": demo["QR_GRPC_API_KEY"]}
    assert dotenv_values(var / "client.env") == of_client
    assert stat.S_IMODE((var / "client.env").stat().st_mode) == 0o600
    assert "push_url=[::1]:6001" in plan.collector.arguments
    assert plan.key_opens_gateway


def test_profile_is_stronger_than_demo(var: Path, tmp_path: Path) -> None:
    """What a profile says wins over what `up` made up, and a push address of its own is left alone."""
    profile = tmp_path / "profile.env"
    profile.touch(mode=0o600)
    profile.write_text("QRNG_COLLECTOR_PUSH_URL=127.0.0.1:7000\nQRNG_GATEWAY_API_KEYS=a-key-of-the-profile\n")
    plan = prepare(var, profile, {})
    assert not any(argument.startswith("push_url=") for argument in plan.collector.arguments)
    assert not plan.key_opens_gateway
    assert "does not open it" in announcement(plan)
    assert "a-key-of-the-profile" not in announcement(plan)


@pytest.mark.parametrize("where", ["profile", "set"])
def test_plan_has_one_signing_key(var: Path, tmp_path: Path, where: str) -> None:
    """Signing keys of one's own are refused in a word, not in all the ways in which they clash with the one made."""
    name = "QRNG_COLLECTOR_SIGNING_KEYS_FILE"
    profile = tmp_path / "profile.env"
    profile.write_text(f"{name.lower()}=keys.yaml\n" if where == "profile" else "")
    with pytest.raises(ConfigError) as refusal:
        prepare(var, profile, {name: "keys.yaml"} if where == "set" else {})
    (told,) = refusal.value.mistakes
    assert told.startswith(f"{name}: `qrng up` makes a signing key itself")


def test_plan_tells_mistakes(var: Path) -> None:
    """Settings that cannot be used are told before anything is started; a port nobody could be told is one."""
    with pytest.raises(ConfigError, match="QRNG_GATEWAY_BUFFER_SIZE"):
        prepare(var, None, {"QRNG_GATEWAY_BUFFER_SIZE": "1"})
    with pytest.raises(ConfigError, match="port"):
        prepare(var, None, {"QRNG_GATEWAY_LISTEN_ADDRESS": "127.0.0.1:0"})
    with pytest.raises(ConfigError, match="QRNG_GATEWAY_LISTEN_ADDRESS: `up` needs HOST:PORT"):
        prepare(var, None, {"QRNG_GATEWAY_ENGINE": "native", "QRNG_GATEWAY_LISTEN_ADDRESS": "unix:/tmp/qrng.sock"})
    with pytest.raises(ConfigError, match="QRNG_COLLECTOR_FETCH_CHUNK"):
        prepare(var, None, {"QRNG_COLLECTOR_FETCH_CHUNK": "1"})


def test_plan_tells_mistakes_of_both(var: Path) -> None:
    """Mistakes in the settings of gateway and collector are told at once."""
    with pytest.raises(ConfigError) as refusal:
        prepare(var, None, {"QRNG_GATEWAY_BUFER": "1", "QRNG_COLLECTOR_FETCH_INTERVAL": "soon"})
    assert len(refusal.value.mistakes) == 2


def test_link_stays(tmp_path: Path) -> None:
    """Where the path is a link, the file it leads to is written, and the link stays."""
    (tmp_path / "link").symlink_to("file")
    for data in (b"first", b"second"):
        with whole_file(tmp_path / "link") as file:
            file.write(data)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_bytes() == data


def test_nothing_secret_in_arguments(var: Path) -> None:
    """No key stands in a child's arguments, where others can see it, nor in what is printed."""
    plan = prepare(var, None, {})
    made = demo_settings(var / "demo.env")
    shown = " ".join([*plan.gateway.arguments, *plan.collector.arguments, announcement(plan)])
    for name in ("QR_GRPC_API_KEY", "QRNG_GATEWAY_HMAC_SECRET_KEY"):
        assert made[name] not in shown
