"""`qrng up`, driven as its user drives it: a real process, real ports, a real shell."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qrng_grpc.state import state_directory
from tests.programs import free_address

LISTENERS = ("QRNG_GATEWAY_LISTEN_ADDRESS", "QRNG_GATEWAY_PUSH_LISTEN_ADDRESS", "QRNG_GATEWAY_REST_LISTEN_ADDRESS")
PROFILE = Path(__file__).parents[2] / "deployments" / "urandom" / ".env"
PATIENT = {"QRNG_GATEWAY_MAX_WAIT": "30", "QR_GRPC_TIMEOUT_MS": "30000"}
"""A busy machine may take its time."""
BIN = Path(sys.executable).parent


@dataclass
class Place:
    """A directory to run `up` in, with ports nobody uses."""

    directory: Path
    environ: dict[str, str]

    @property
    def demo_file(self) -> Path:
        return self.directory / "var" / "demo.env"

    @property
    def client_file(self) -> Path:
        return self.directory / "var" / "client.env"

    @property
    def secrets(self) -> list[str]:
        lines = self.demo_file.read_text().splitlines()
        return [line.split("=", 1)[1] for line in lines if re.match(r"\w+_(API_KEYS?|SECRET_KEY)=", line)]

    async def sh(self, script: str) -> tuple[int | None, str]:
        shell = await asyncio.create_subprocess_exec(
            "sh", "-c", script, cwd=self.directory, env={**os.environ, **PATIENT}, stdout=PIPE, stderr=PIPE
        )
        out, _ = await shell.communicate()
        return shell.returncode, out.decode()

    def ports_are_free(self) -> bool:
        with ExitStack() as probes:
            for name in LISTENERS:
                host, _, port = self.environ[name].rpartition(":")
                probe = probes.enter_context(socket.socket())
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, int(port)))
                except OSError:
                    return False
        return True


@dataclass
class Up:
    """A running `up` and all it said."""

    process: Process
    said: list[str] = field(default_factory=list)

    async def until(self, text: str) -> None:
        """Read what it says until `text` is in a line."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.said.append(line)
            if text in line:
                return
        raise AssertionError(f"ended without saying {text!r}:\n{''.join(self.said)}")

    async def end(self) -> int:
        """Read the rest, wait for the end, and return the exit code."""
        assert self.process.stdout is not None
        self.said.append((await self.process.stdout.read()).decode())
        return await self.process.wait()

    @property
    def text(self) -> str:
        return "".join(self.said)

    def children(self) -> dict[str, int]:
        """The process ids of gateway and collector."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {_subcommand(int(pid)): int(pid) for pid in pids}


def _subcommand(pid: int) -> str:
    command_line = b""
    while not command_line:  # for a moment within exec it is empty
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
    arguments = command_line.decode().split("\0")
    return arguments[arguments.index("qrng_cli.main") + 1]


async def gone(pid: int) -> None:
    """Wait until the process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    addresses = {name: free_address() for name in LISTENERS}
    return Place(tmp_path, {**os.environ, **PATIENT, **addresses})


@asynccontextmanager
async def starting(place: Place, *arguments: str) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qrng_cli.main", "up", *arguments),
        cwd=place.directory,
        env=place.environ,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    up = Up(process)
    try:
        yield up
    finally:
        if process.returncode is None:
            process.kill()
        await up.end()


@asynccontextmanager
async def running(place: Place, *arguments: str) -> AsyncIterator[Up]:
    async with starting(place, "--profile-file", str(PROFILE), *arguments) as up:
        await up.until("Ctrl-C ends it.")
        yield up


async def test_first_run_and_second(place: Place) -> None:
    """The first start makes keys; pasting what it printed reads bytes; Ctrl-C ends both, exit 0; keys are kept."""
    async with running(place) as up:
        children = up.children()
        assert set(children) == {"gateway", "collector"}
        pasted = [line.strip() for line in up.said if line.startswith("  ")]
        source, get = pasted[:2]
        code, out = await place.sh(f"{source}\n{get} | tr -d '\\n' | wc -c")
        assert (code, out.strip()) == (0, "64")
        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0
    assert up.text.index('"program": "collector", "epoch"') < up.text.index('"event": "gateway_drains"')
    assert up.text.count('"event": "accounting"') == 2
    assert place.ports_are_free()
    assert stat.S_IMODE(place.demo_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.client_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.demo_file.parent.stat().st_mode) == 0o700

    first, written = place.secrets, place.demo_file.stat()
    async with running(place) as again:
        code, _ = await place.sh(f"{source}\n{get}")
        assert code == 0
        again.process.send_signal(signal.SIGTERM)
        assert await again.end() == 0
    assert place.secrets == first
    assert (written.st_ino, written.st_mtime_ns) == (place.demo_file.stat().st_ino, place.demo_file.stat().st_mtime_ns)
    assert len(set(first)) == 2
    for secret in first:
        assert secret not in up.text + again.text
        assert secret not in _state(place)


def _state(place: Place) -> str:
    """All that `up` left behind but the files with keys."""
    known = (place.demo_file, place.client_file)
    files = (path for path in place.demo_file.parent.rglob("*") if path.is_file() and path not in known)
    return "".join(path.read_text(errors="replace") for path in files)


async def test_printed_curl(place: Place) -> None:
    """The printed curl line reads bytes too, without the key on its command line."""
    async with running(place) as up:
        pasted = [line.strip() for line in up.said if line.startswith("  ")]
        curl = next(line for line in pasted if "curl" in line)
        code, out = await place.sh(f"{pasted[0]}\n{curl}")
        if code != 127:  # where curl is installed
            assert len(bytes.fromhex(out)) == 32
        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0


@pytest.mark.parametrize("victim", ["gateway", "collector"])
async def test_child_dies(place: Place, victim: str) -> None:
    """When one of the two dies, the other is stopped and `up` says so with exit code 1."""
    async with running(place) as up:
        children = up.children()
        os.kill(children[victim], signal.SIGKILL)
        assert await up.end() == 1
        for pid in children.values():
            await gone(pid)
    assert f"the {victim} ended by signal 9" in up.text
    assert "Traceback" not in up.text
    assert place.ports_are_free()


async def test_up_is_killed(place: Place) -> None:
    """A kill -9 of `up` leaves no orphan; a new one starts at once and waits for what is left of the old."""
    async with running(place) as up:
        children = up.children()
        up.process.kill()
        async with running(place) as again:
            for pid in children.values():
                await gone(pid)
            code, _ = await place.sh(f". var/demo.env; export QR_GRPC_SERVER_ADDRESS QR_GRPC_API_KEY; {BIN}/qrng get 8")
            assert code == 0
            again.process.send_signal(signal.SIGINT)
            assert await again.end() == 0
    assert place.ports_are_free()


async def test_only_one(place: Place) -> None:
    """A second `up` in the same place is refused while the first runs on."""
    async with running(place) as up:
        async with starting(place) as second:
            assert await second.end() == 1
        assert "another process" in second.text
        assert len(up.children()) == 2
        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0


@pytest.mark.parametrize("listener", LISTENERS)
async def test_port_in_use(place: Place, listener: str) -> None:
    """A port that another program uses is told with the setting to change, and nothing keeps running."""
    host, _, port = place.environ[listener].rpartition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        async with starting(place) as up:
            assert await up.end() == 2
    assert f"{listener}: {place.environ[listener]} is in use" in up.text


async def test_ports_in_use(place: Place) -> None:
    """Whoever has to choose other ports is told all that are taken, not one at each start."""
    with ExitStack() as held:
        for listener in LISTENERS:
            host, _, port = place.environ[listener].rpartition(":")
            taken = held.enter_context(socket.socket())
            taken.bind((host, int(port)))
            taken.listen()
        async with starting(place) as up:
            assert await up.end() == 2
    assert all(f"{listener}: {place.environ[listener]} is in use" in up.text for listener in LISTENERS)


async def test_open_demo_file(place: Place) -> None:
    """Keys that others could have read are not used."""
    place.demo_file.parent.mkdir(mode=0o700)
    place.demo_file.write_text("QR_GRPC_API_KEY=abc\n")
    place.demo_file.chmod(0o644)
    async with starting(place) as up:
        assert await up.end() == 1
    assert "chmod 600" in up.text


async def test_mistakes_before_anything_starts(place: Place) -> None:
    """A setting that cannot be is told with exit code 2, and no child is started for it."""
    async with starting(place, "--set", "QRNG_GATEWAY_BUFFER_SIZE=1", "--set", "QRNG_GATEWAY_BUFER=1") as up:
        assert await up.end() == 2
    assert "QRNG_GATEWAY_BUFFER_SIZE" in up.text
    assert "QRNG_GATEWAY_BUFER" in up.text
    assert "gateway_serves" not in up.text


async def test_unusable_state(place: Place) -> None:
    """State that waiting cannot mend is told at once, as what it is."""
    state = place.demo_file.parent / "gateway"
    state.mkdir(parents=True)
    place.demo_file.parent.chmod(0o700)
    state.chmod(0o770)
    async with starting(place) as up:
        assert await up.end() == 1
    assert "writable by others" in up.text
    assert "waiting" not in up.text


async def test_stopped_while_waiting(place: Place) -> None:
    """While somebody still holds the state, `up` waits, starts nothing, and can be told to end."""
    with state_directory(place.demo_file.parent / "collector"):
        async with starting(place) as up:
            await up.until("waiting for the last run to end")
            up.process.send_signal(signal.SIGTERM)
            assert await up.end() == 0
    assert "gateway_serves" not in up.text


async def test_stopped_while_starting(place: Place) -> None:
    """SIGTERM as soon as the gateway serves ends `up` well, whatever has started by then."""
    async with starting(place) as up:
        await up.until("gateway_serves")
        up.process.send_signal(signal.SIGTERM)
        assert await up.end() == 0
    assert place.ports_are_free()


async def test_tls(place: Place) -> None:
    """With TLS on every listener `up` starts as before, and the commands it prints say what TLS takes."""
    certs = "qrng certs"
    code, said = await place.sh(f"""
        PATH={BIN}:$PATH; set -e
        {certs} init --dir servers; {certs} server --dir servers
        {certs} init --dir collectors; {certs} client --dir collectors lab
    """)
    assert code == 0, said
    gateway, collector = "QRNG_GATEWAY_", "QRNG_COLLECTOR_"
    place.environ |= {
        **{f"{gateway}{push}TLS_CERT_FILE": "servers/server.pem" for push in ("", "PUSH_")},
        **{f"{gateway}{push}TLS_KEY_FILE": "servers/server.key" for push in ("", "PUSH_")},
        f"{gateway}PUSH_CLIENT_CA_FILE": "collectors/ca.pem",
        f"{collector}PUSH_CA_FILE": "servers/ca.pem",
        f"{collector}PUSH_CERT_FILE": "collectors/lab.pem",
        f"{collector}PUSH_KEY_FILE": "collectors/lab.key",
    }
    async with running(place) as up:
        pasted = [line.strip() for line in up.said if line.startswith("  ")]
        code, out = await place.sh("\n".join([*pasted[:2], "exit"]).replace("CA.pem", "servers/ca.pem"))
        assert code == 0
        assert len(bytes.fromhex(out)) == 32
        up.process.send_signal(signal.SIGINT)
        assert await up.end() == 0
    assert "https://" in up.text
    assert "-plaintext" not in up.text
