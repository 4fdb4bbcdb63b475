"""Subcommands that need no server, and how errors end."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from qrng_cli.group import SUBCOMMANDS, Subcommands, cli, exit_code
from qrng_cli.sizes import Size
from qrng_grpc.errors import (
    AuthenticationError,
    ConfigError,
    DrainingError,
    InvalidRequestError,
    LimitError,
    PoolShortError,
    QrngError,
    ServerUnreachableError,
    SourceError,
    UnsupportedError,
    WeakerSourceError,
)
from qrng_grpc.key_files import read_key_file

SECRET = "s" * 40
GATEWAY = """
listen_address: 127.0.0.1:6000
hmac_key_id: key-1
collector_id: collector-1
pool_id: pool-1
best_class: quantum
state_dir: state
"""
GATEWAY_ENV = {"QRNG_GATEWAY_HMAC_SECRET_KEY": SECRET, "QRNG_GATEWAY_API_KEYS": "k" * 20}


def qrng(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env=env)


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        (("--address", "127.0.0.1"), "--address: expected HOST:PORT"),
        (("--ca-file", "no.pem"), "--ca-file: "),
        (("--key-file", "no.key"), "--key-file: "),
    ],
)
def test_a_mistake_of_an_option(options: tuple[str, ...], mistake: str) -> None:
    """Who gave an option that a client cannot use is told its name, and not that of a variable never set."""
    for command in (("get", "1"), ("status",)):
        result = qrng(*command, *options, env={"QR_GRPC_SERVER_ADDRESS": "127.0.0.1:1"})
        assert result.exit_code == 2
        assert f"  - {mistake}" in result.stderr, result.stderr
    given = qrng("get", "1", env={"QR_GRPC_SERVER_ADDRESS": "127.0.0.1"})
    assert "  - QR_GRPC_SERVER_ADDRESS: expected HOST:PORT" in given.stderr


def test_help_teaches() -> None:
    """`qrng --help` names every subcommand, every exit code and the way to try it."""
    shown = qrng("--help").output
    assert all(name in shown for name in SUBCOMMANDS)
    assert "client.env" in shown
    assert all(f"\n    {code}  " in shown for code in (0, 1, 2, 3, 4, 5, 130))


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_helps(name: str) -> None:
    """Every subcommand has a help text of its own, with an example of its use."""
    result = qrng(name, "--help")
    assert result.exit_code == 0
    assert name == "config" or f"  qrng {name}" in result.output


def test_help_is_light() -> None:
    """`qrng --help` imports neither gRPC nor a server nor a client."""
    program = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from qrng_cli.group import cli\n"
        "CliRunner().invoke(cli, ['--help'], catch_exceptions=False)\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    modules = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert modules.isdisjoint({"grpc", "aiohttp", "rich", "qrng_gateway", "qrng_collector", "qrng_client"})


@pytest.mark.parametrize("blocked", ["click", "rich", "structlog"])
def test_missing_package(blocked: str) -> None:
    """Without a package that an extra installs, the message says what to install, in one line."""
    program = f"import sys; sys.modules[{blocked!r}] = None; from qrng_cli.main import main; main()"
    needing = ["gateway"] if blocked == "structlog" else ["get", "--help"]
    arguments = [sys.executable, "-c", program, *needing]
    done = subprocess.run(arguments, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert "install qrng-grpc[" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", ["gateway", "collector", "up", "test", "config check", "profile check"])
def test_help_without_servers(arguments: str) -> None:
    """What a server's subcommand takes can be read where the servers' packages are not installed."""
    packages = ("aiohttp", "structlog", "numpy", "cryptography", "grpc_health", "grpc_reflection")
    program = f"import sys; sys.modules.update(dict.fromkeys({packages!r})); from qrng_cli.main import main; main()"
    command = [sys.executable, "-c", program, *arguments.split(), "--help"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout.startswith(f"Usage: qrng {arguments}")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QrngError(""), 1),
        (SourceError(""), 1),
        (ConfigError([]), 2),
        (ServerUnreachableError(""), 3),
        (PoolShortError(""), 3),
        (DrainingError(""), 3),
        (LimitError(""), 3),
        (AuthenticationError(""), 4),
        (InvalidRequestError(""), 5),
        (UnsupportedError(""), 5),
        (WeakerSourceError(""), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error: QrngError, code: int) -> None:
    """Each kind of error has the exit code that --help promises."""
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (QrngError("it failed"), 1, "Error: it failed\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out.bin"), 1, "Error: out.bin: No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=str,
)
def test_ends_without_traceback(error: BaseException, code: int, text: str) -> None:
    """What ends a subcommand becomes one line at most, and an exit code."""

    @click.group(cls=_Eager)
    def group() -> None: ...

    @group.command("fail")
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stderr) == (code, text)


class _Eager(Subcommands):
    """Commands that are there already."""

    get_command = click.Group.get_command
    list_commands = click.Group.list_commands


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("32", 32), ("64K", 65536), ("64k", 65536), ("10M", 10 << 20), ("2G", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    """K, M and G are powers of 1024."""
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["0", "-1", "1.5K", "K", "", "1KB", "0x10", "1e3", "٣"])
def test_no_size(text: str) -> None:
    """What is no number of bytes is refused with exit code 2."""
    assert qrng("get", "--", text).exit_code == 2


def test_size_above_most() -> None:
    """A message size above the protocol's is refused with exit code 2."""
    assert qrng("stream", "--bytes-per-message", "2M").exit_code == 2


@pytest.mark.parametrize("option", ["--timeout", "--max-age"])
def test_no_time(option: str) -> None:
    """What is not a number of seconds is wrong usage."""
    for seconds in ("nan", "inf", "0", "-1", "soon"):
        assert qrng("get", "4", option, seconds).exit_code == 2


@pytest.mark.parametrize("arguments", ["get 4", "stream"])
def test_closed_standard_output(arguments: str) -> None:
    """Without anywhere to write, no bytes are fetched, and one line says so."""
    script = f'exec "$0" -m qrng_cli.main {arguments} >&-'
    done = subprocess.run(["sh", "-c", script, sys.executable], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("Error: standard output is closed\n")


def test_keygen() -> None:
    """Each key is fresh, and fit for what it is meant."""
    api = {qrng("keygen").output.strip() for _ in range(5)}
    hmac = {qrng("keygen", "--kind", "hmac").output.strip() for _ in range(5)}
    assert len(api) == len(hmac) == 5
    assert all(len(key) >= 43 for key in api)
    assert all(len(bytes.fromhex(key)) == 32 for key in hmac)
    assert len(bytes.fromhex(qrng("keygen", "--kind", "spool").output)) == 32


ED25519 = ("keygen", "--kind", "ed25519", "--id", "key-b", "--collector", "lab", "--pool", "p1", "--pool", "p2")


def test_keygen_makes_a_pair(tmp_path: Path) -> None:
    """The private file is the collector's as it is; what is printed is the gateway's record, without a private key."""
    private_file, public_file = tmp_path / "private.yaml", tmp_path / "public.yaml"
    made = qrng(*ED25519, "--best-class", "hardware", "--out", str(private_file))
    assert made.exit_code == 0
    public_file.touch(mode=0o600)
    public_file.write_text("keys:\n" + made.stdout)
    (signer,), (verifier,) = read_key_file(private_file), read_key_file(public_file)
    assert stat.S_IMODE(private_file.stat().st_mode) == 0o600
    assert signer.secret.hex() not in made.output
    assert (signer.can_sign, verifier.can_sign) == (True, False)
    assert verifier.verifies(b"chunk", signer.sign(b"chunk"))
    assert (verifier.key_id, verifier.collector_id, verifier.pool_ids) == ("key-b", "lab", {"p1", "p2"})
    again = qrng(*ED25519, "--best-class", "hardware", "--out", str(private_file))
    assert again.exit_code != 0
    assert read_key_file(private_file) == (signer,)


def test_keygen_refuses_what_would_make_no_key(tmp_path: Path) -> None:
    """A pair needs all that belongs to its record; the other kinds need none of it."""
    assert "--out, --best-class: required" in qrng(*ED25519).output
    bad = qrng(*ED25519, "--id", "../x", "--best-class", "hardware", "--out", str(tmp_path / "private.yaml"))
    assert (bad.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert qrng("keygen", "--kind", "hmac", "--id", "key").exit_code == 2


def test_config_check_ok(tmp_path: Path) -> None:
    """A configuration that would start is ok; whose it is, its names tell."""
    file = tmp_path / "gateway.yaml"
    file.write_text(GATEWAY)
    env_file = tmp_path / ".env"
    env_file.touch(mode=0o600)
    env_file.write_text("".join(f"{name}={value}\n" for name, value in GATEWAY_ENV.items()))
    assert qrng("config", "check", str(file), "--env-file", str(env_file)).output == "ok\n"


def test_config_check_exposed_keys(tmp_path: Path) -> None:
    """A file with keys that others can read would not do, and the way to mend that is told."""
    file = tmp_path / "gateway.yaml"
    file.write_text(GATEWAY)
    file.chmod(0o644)
    env_file = tmp_path / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in GATEWAY_ENV.items()))
    env_file.chmod(0o644)
    result = qrng("config", "check", str(file), "--env-file", str(env_file))
    assert result.exit_code == 2
    (mistake,) = result.stderr.splitlines()[1:]
    assert f"{env_file}: sets QRNG_GATEWAY_API_KEYS, QRNG_GATEWAY_HMAC_SECRET_KEY" in mistake
    assert "chmod 600" in mistake
    assert SECRET not in result.output


def test_config_check_layers(tmp_path: Path) -> None:
    """--set is stronger than the environment, which is stronger than the file."""
    file = tmp_path / "gateway.yaml"
    file.write_text(GATEWAY + "max_wait: 1\n")
    check = ("config", "check", str(file), "--program", "gateway")
    assert qrng(*check, env=GATEWAY_ENV).exit_code == 0
    broken = GATEWAY_ENV | {"QRNG_GATEWAY_MAX_WAIT": "long"}
    assert qrng(*check, env=broken).exit_code == 2
    assert qrng(*check, "--set", "max_wait=2", env=broken).exit_code == 0


def test_config_check_mistakes(tmp_path: Path) -> None:
    """Every mistake is told at once, with exit code 2, and no secret among them."""
    file = tmp_path / "gateway.yaml"
    file.write_text("pool_id: '!'\nbufer_size: 1\nlisten_address: nowhere\nhmac_secret_key: short-secret\n")
    result = qrng("config", "check", str(file), "--program", "gateway")
    assert result.exit_code == 2
    for name in ("pool_id", "bufer_size", "listen_address", "hmac_secret_key", "api_keys", "best_class", "state_dir"):
        assert name in result.stderr
    assert "short-secret" not in result.output


@pytest.mark.parametrize("content", ["", "pool_id: p\n"])
def test_config_check_cannot_tell(tmp_path: Path, content: str) -> None:
    """When the names do not tell whose settings they are, the user is asked."""
    file = tmp_path / "some.yaml"
    file.write_text(content)
    result = qrng("config", "check", str(file))
    assert result.exit_code == 2
    assert "--program" in result.stderr


def test_config_check_unreadable(tmp_path: Path) -> None:
    """What is missing or no YAML is told as that."""
    assert qrng("config", "check", str(tmp_path / "missing.yaml")).exit_code == 2
    file = tmp_path / "some.yaml"
    for content in ("a: [", "pool_id: 2025-13-45", "[" * 5000):
        file.write_text(content)
        result = qrng("config", "check", str(file))
        assert result.exit_code == 2
        assert "not YAML" in result.stderr
    file.write_text("[1, 2]")
    assert "expected a mapping" in qrng("config", "check", str(file)).stderr


@pytest.mark.parametrize("program", ["gateway", "collector"])
def test_programs_refuse(program: str) -> None:
    """A server that lacks its settings does not start, and lists what it lacks."""
    result = qrng(program)
    assert result.exit_code == 2
    for name in ("HMAC_SECRET_KEY", "COLLECTOR_ID", "BEST_CLASS", "STATE_DIR"):
        assert f"QRNG_{program.upper()}_{name}: required" in result.stderr


@pytest.mark.parametrize("assignment", ["max_wait", "=1"])
def test_no_assignment(assignment: str) -> None:
    """--set takes NAME=VALUE and nothing else."""
    assert qrng("gateway", "--set", assignment).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--profile", "no-such-profile"),
        ("--profile", "../urandom"),
        ("--profile", "urandom", "--profile-file", __file__),
        ("--profile-file", "no-such-file"),
    ],
)
def test_up_without_profile(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A profile that is not there is refused, and nothing is started in its stead."""
    result = qrng("up", "--var", str(tmp_path / "var"), *arguments)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["TYPO", "QRNG_GATEWAY_TYPO", "QRNG_COLLECTOR_TYPO"])
def test_up_with_a_typo(tmp_path: Path, name: str) -> None:
    """A setting nobody knows is refused, and leaves no directory behind."""
    result = qrng("up", "--var", str(tmp_path / "var"), "--set", f"{name}=1")
    assert result.exit_code == 2
    assert f"{name}: there is no such setting" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("get", "32"), ("status",), ("stream", "--total", "64")], ids=" ".join)
def test_what_a_newcomer_lacks_is_told_in_a_line(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key, or the file that `qrng up` makes, the next step is told rather than an error of the system."""
    monkeypatch.chdir(tmp_path)
    no_key = qrng(*command)
    assert no_key.exit_code == 4
    assert "add --env-file var/client.env" in no_key.stderr
    no_file = qrng(*command, "--env-file", "var/client.env")
    assert no_file.exit_code == 2
    assert no_file.stderr.splitlines()[1:] == [
        "  - var/client.env: not there; `qrng up` (make run), in another terminal, makes it"
    ]
