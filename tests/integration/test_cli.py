"""The `qrng` command as a script sees it: standard output, standard error, exit code."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from qrng_grpc.certs import Authority
from qrng_grpc.chunk import Heartbeat, Identity, SourceState
from qrng_grpc.client_keys import Client, ClientRecord, KeyDigest, Limits, changing_client_file, digest_of
from qrng_grpc.labels import Condition, SourceClass
from qrng_grpc.testing.gateway import RunningGateway, running_gateway
from tests.integration.fronts import signed_heartbeat
from tests.waiting import until

QRNG = (sys.executable, "-m", "qrng_cli.main")
INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a command that ends by Ctrl-C: tests in the background inherit one that is ignored.

(A preexec_fn would do it in a fork of this process, whose other threads may hold locks of gRPC: it can hang.)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Shell:
    """Runs `qrng` with a gateway's address and key in the environment."""

    gateway: RunningGateway
    environ: dict[str, str]

    async def qrng(self, *arguments: str, **environ: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *QRNG,
            *arguments,
            env=self.environ | environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out, err.decode())


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    async with running_gateway(max_wait=0) as gateway:
        client = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
        yield Shell(gateway, {**os.environ, **client})


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def is_device(path: Path) -> bool:
    return path.is_char_device()


async def test_get_in_every_form(shell: Shell) -> None:
    """N bytes come as hexadecimal by default, as base64, or as they are."""
    data = os.urandom(96)
    await shell.gateway.push(data)
    as_hex = await shell.qrng("get", "32")
    as_base64 = await shell.qrng("get", "32", "--base64", "--label")
    raw = await shell.qrng("get", "32", "--raw")
    assert (as_hex.code, as_hex.out, as_hex.err) == (0, data[:32].hex().encode() + b"\n", "")
    assert as_base64.out == base64.b64encode(data[32:64]) + b"\n"
    assert as_base64.err.startswith("class=operating_system processing=none custody=local health=untested")
    assert raw.out == data[64:]


async def test_long_get(shell: Shell) -> None:
    """A transfer of many messages joins up seamlessly, in base64 too."""
    data = os.urandom(2_000_000)
    await shell.gateway.push(data)
    done = await shell.qrng("get", "2000000", "--base64")
    assert base64.b64decode(done.out) == data


async def test_get_to_a_file(shell: Shell, tmp_path: Path) -> None:
    """A file is written whole, for its owner alone; when bytes are missing there is none."""
    data = os.urandom(1 << 20)
    await shell.gateway.push(data)
    path = tmp_path / "random.bin"
    assert (await shell.qrng("get", "1M", "--raw", "-o", str(path))).code == 0
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await shell.gateway.push(os.urandom(1 << 20))
    missing = tmp_path / "missing.bin"
    assert (await shell.qrng("get", "2M", "--raw", "-o", str(missing))).code == 3
    assert names_in(tmp_path) == [path.name]


async def test_get_to_a_device(shell: Shell) -> None:
    """An output that is no regular file is written to, not replaced."""
    await shell.gateway.push(os.urandom(64))
    assert (await shell.qrng("get", "32", "--raw", "--output", "/dev/null")).code == 0
    assert is_device(Path("/dev/null"))
    to_stdout = await shell.qrng("get", "32", "--raw", "--output", "-")
    assert len(to_stdout.out) == 32


async def test_unwritable_output(shell: Shell, tmp_path: Path) -> None:
    """A file that cannot be written is told in one line, and costs no bytes."""
    await shell.gateway.push(os.urandom(32))
    done = await shell.qrng("get", "32", "-o", str(tmp_path / "missing" / "file"))
    assert done.code == 1
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert shell.gateway.gateway.pool.level == 32


async def test_closed_standard_error(shell: Shell) -> None:
    """No socket takes the number of a standard stream that is closed, and what is asked for is printed."""
    await shell.gateway.push(os.urandom(32))
    script = 'exec "$0" -m qrng_cli.main get 32 2>&- <&-'
    environ = shell.environ
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", script, sys.executable, env=environ, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert (process.returncode, len(out)) == (0, 65)


async def test_stream(shell: Shell) -> None:
    """A stream with a total writes exactly that."""
    data = os.urandom(5000)
    await shell.gateway.push(data)
    done = await shell.qrng("stream", "--total", "5000", "--bytes-per-message", "1K")
    assert (done.code, done.out, done.err) == (0, data, "")


async def test_reader_has_enough(shell: Shell) -> None:
    """A reader that goes away ends an endless stream quietly, with exit code 0."""
    data = os.urandom(5 << 20)
    await shell.gateway.push(data)
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *QRNG, "stream", env=shell.environ, stdout=write, stderr=asyncio.subprocess.PIPE
    )
    os.close(write)
    with os.fdopen(read, "rb") as reader:
        first = await asyncio.to_thread(reader.read, 1000)
    _, err = await process.communicate()
    assert first == data[:1000]
    assert (process.returncode, err) == (0, b"")


async def test_interrupted_stream(shell: Shell) -> None:
    """Ctrl-C ends a stream quietly, with exit code 130."""
    await shell.gateway.push(os.urandom(100))
    async with running_gateway(max_wait=60) as patient:
        await patient.push(os.urandom(100))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", INTERRUPTIBLE),
            *(*QRNG, "stream", "--bytes-per-message", "100", "--address", patient.client_address, "--timeout", "60"),
            env=shell.environ | {"QR_GRPC_API_KEY": patient.api_key},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        await process.stdout.readexactly(100)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize("arguments", [("get", "32", "--raw"), ("stream", "--total", "32")])
async def test_no_raw_bytes_to_a_terminal(shell: Shell, arguments: tuple[str, ...]) -> None:
    """Raw bytes do not go to a terminal unless forced, and none are claimed for it."""
    await shell.gateway.push(b"x" * 32)
    ours, terminal = pty.openpty()
    try:
        for force, code in (((), 2), (("--force",), 0)):
            process = await asyncio.create_subprocess_exec(
                *QRNG, *arguments, *force, env=shell.environ, stdout=terminal, stderr=asyncio.subprocess.PIPE
            )
            _, err = await process.communicate()
            assert process.returncode == code
            assert (b"terminal" in err) is (code == 2)
        assert os.read(ours, 100) == b"x" * 32
    finally:
        os.close(ours)
        os.close(terminal)


def test_ctrl_c_within_an_import() -> None:
    """It ends the command by its signal, without a traceback."""
    code = (
        "import os, signal, sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'rich.progress': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from qrng_cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", INTERRUPTIBLE, sys.executable, "-c", code, "get"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("arguments", [("keygen",), ("profile", "list"), ("--version",)])
def test_output_that_cannot_be_written(arguments: tuple[str, ...]) -> None:
    """A full disk behind standard output is a failure, told in a line."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*QRNG, *arguments], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].endswith("No space left on device")
    assert b"Exception" not in done.stderr


async def test_progress_on_a_terminal(shell: Shell, tmp_path: Path) -> None:
    """A person sees a bar on a long transfer; it goes to standard error."""
    await shell.gateway.push(os.urandom(2 << 20))
    ours, terminal = pty.openpty()
    shown = bytearray()
    asyncio.get_running_loop().add_reader(ours, lambda: shown.extend(os.read(ours, 65536)))  # its buffer is small
    try:
        process = await asyncio.create_subprocess_exec(
            *QRNG,
            "get",
            "2M",
            "--raw",
            env=shell.environ | {"TERM": "xterm"},
            stdout=asyncio.subprocess.PIPE,
            stderr=terminal,
        )
        out, _ = await process.communicate()
        assert len(out) == 2 << 20
        await until(lambda: b"MiB" in shown)
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(terminal)


async def test_status(shell: Shell) -> None:
    """The status is a table for people and JSON for programs."""
    await shell.gateway.push(os.urandom(64))
    table = await shell.qrng("status")
    parsed = json.loads((await shell.qrng("status", "--json")).out)
    assert shell.gateway.pool_id.encode() in table.out
    assert b"operating_system" in table.out
    assert parsed["pooled_bytes"] == 64
    assert parsed["lanes"][0]["source_class"] == "operating_system"
    assert parsed["accounting"]["stored_bytes"] == 64


async def test_status_tells_of_collectors_and_keys(shell: Shell) -> None:
    """What a collector's last heartbeat told is shown: queue, losses, and each source; and when a key was used."""
    gateway = shell.gateway
    await gateway.push(os.urandom(64))
    silent = (await shell.qrng("status", COLUMNS="200")).out.decode()
    assert re.search(r"queue +unknown: no heartbeat", silent)
    states = (
        SourceState("qrng-1", SourceClass.QUANTUM, Condition.QUARANTINED, 65_536),
        SourceState("os", SourceClass.OPERATING_SYSTEM, Condition.DELIVERING, 1_234_567),
    )
    identity = Identity(gateway.collector_id, gateway.pool_id, gateway.epoch, 9)
    told = Heartbeat(identity, time.time_ns(), states, queued=1024, overflow=2, expired=3, in_doubt=4)
    assert await gateway.push_signed([signed_heartbeat(gateway, told)]) == 1
    table = (await shell.qrng("status", COLUMNS="200")).out.decode()
    day = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    for line in (
        rf"collector +{gateway.collector_id}, heard \d+\.\d s ago",
        rf"queue +1,024 bytes at its last heartbeat, {day}",
        r"dropped +2 bytes by overflow, 3 expired, 4 in doubt, since it started",
        rf"source +qrng-1 of {gateway.collector_id}, quantum, quarantined, 65,536 bytes fetched",
        rf"source +os of {gateway.collector_id}, operating_system, delivering, 1,234,567 bytes fetched",
        rf"key +{gateway.key_record.key_id} of {gateway.collector_id}, .* last used {day}, ends never",
    ):
        assert re.search(line, table), table
    (collector,) = json.loads((await shell.qrng("status", "--json")).out)["collectors"]
    assert collector["heartbeat"]["queued_bytes"] == 1024
    assert collector["heartbeat"]["sources"][0]["condition"] == "quarantined"


async def test_where_bytes_came_from(shell: Shell) -> None:
    """With --provenance standard error has a line for each range of a chunk; standard output has the bytes alone."""
    gateway, data = shell.gateway, os.urandom(96)
    await gateway.push(data[:40])
    await gateway.push(data[40:])
    got = await shell.qrng("get", "64", "--raw", "--provenance", "--label")
    streamed = await shell.qrng("stream", "--total", "32", "--bytes-per-message", "16", "--provenance")
    place = f"collector={gateway.collector_id} epoch={gateway.epoch}"
    assert (got.out, streamed.out) == (data[:64], data[64:])
    first, second, label = got.err.splitlines()
    assert first == f"{place} sequence=1 offset=0 bytes=40"
    assert second == f"{place} sequence=2 offset=0 bytes=24"
    assert label.startswith("class=operating_system ")
    assert streamed.err.splitlines() == [f"{place} sequence=2 offset={offset} bytes=16" for offset in (24, 40)]


@pytest.mark.parametrize("command", [("get", "1"), ("stream", "--total", "1"), ("status",)])
async def test_who_shows_no_key_is_told(shell: Shell, command: tuple[str, ...]) -> None:
    """A server that is named may ask for no key. Where it does, who has none learns that, and not that his is wrong."""
    keyless = replace(shell, environ={name: v for name, v in shell.environ.items() if name != "QR_GRPC_API_KEY"})
    done, wrong = await keyless.qrng(*command), await shell.qrng(*command, QR_GRPC_API_KEY="wrong-key-of-a-client")
    assert (done.code, wrong.code) == (4, 4)
    assert "none was shown: set QR_GRPC_API_KEY" in done.err
    assert "none was shown" not in wrong.err


async def test_bytes_and_what_is_told_of_them_are_lines_of_their_own(shell: Shell) -> None:
    """Where both go to one terminal, the bytes end with their line before anything is told of them."""
    await shell.gateway.push(bytes(32))
    process = await asyncio.create_subprocess_exec(
        *(*QRNG, "get", "32", "--provenance", "--label"),
        env=shell.environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    shown, _ = await process.communicate()
    bytes_, place, label = shown.decode().splitlines()
    assert bytes_ == "00" * 32
    assert place.startswith("collector=")
    assert label.startswith("class=")


async def test_a_long_get_tells_where_all_of_it_came_from(shell: Shell) -> None:
    """More than one message of a gateway holds with provenance joins up seamlessly too."""
    data = os.urandom(200_000)
    await shell.gateway.push(data)
    done = await shell.qrng("get", "200000", "--base64", "--provenance")
    assert base64.b64decode(done.out) == data
    assert sum(int(line.rpartition("=")[2]) for line in done.err.splitlines()) == 200_000


async def test_what_is_demanded_is_asked_for(shell: Shell) -> None:
    """Fresh bytes, and those of a processing, are asked of the gateway: when there are none, exit codes 3 and 5."""
    async with running_gateway(max_fresh_wait=0) as gateway:
        environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
        await gateway.push(os.urandom(64))
        assert (await shell.qrng("get", "8", "--fresh", **environ)).code == 3
        assert (await shell.qrng("stream", "--total", "8", "--fresh", **environ)).code == 3
        assert (await shell.qrng("get", "8", "--processing", "sha256", **environ)).code == 5
        assert (await shell.qrng("get", "8", "--processing", "none", "--span-lanes", **environ)).code == 0


async def test_what_is_left_and_what_may_not_be(shell: Shell, tmp_path: Path) -> None:
    """Status says what is left for a key, --label once it is little; over a limit it is exit code 3, else refused 4."""
    file = tmp_path / "clients.yaml"
    allowed = frozenset(("qrng.v1.EntropyService/Get*",))
    client = Client("sampler", limits=Limits(bytes_per_day=1000), methods=allowed)
    with changing_client_file(file) as records:
        records.append(ClientRecord(client, (KeyDigest(digest_of("key-of-the-sampler")),)))
    async with running_gateway(max_wait=0, api_keys_file=file) as gateway:
        environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": "key-of-the-sampler"}
        await gateway.push(os.urandom(4096))
        got = await shell.qrng("get", "600", "--label", **environ)
        table = await shell.qrng("status", COLUMNS="200", **environ)
        parsed = json.loads((await shell.qrng("status", "--json", **environ)).out)
        over = await shell.qrng("get", "401", **environ)
        forbidden = await shell.qrng("stream", "--total", "8", **environ)
    assert re.search(r"^left: [\d,]+ requests at once, 400 bytes today$", got.err, re.MULTILINE)
    assert re.search(r"left +[\d,]+ requests at once, 400 bytes today", table.out.decode())
    assert parsed["allowance"]["bytes_today"] == 400
    assert (over.code, forbidden.code) == (3, 4)
    assert re.search(r"; try again in \d+(\.\d)? (s|minutes|hours)$", over.err.strip())


async def test_status_tells_where_bytes_went(shell: Shell) -> None:
    """Bytes set aside and used up are in the table, and how fast bytes come, go, and end."""
    settings = {"post_processing": "sha256", "entropy_per_byte": 8, "quality_reservoir_size": 1 << 20}
    async with running_gateway(max_wait=0, **settings) as gateway:
        environ = {"QR_GRPC_SERVER_ADDRESS": gateway.client_address, "QR_GRPC_API_KEY": gateway.api_key}
        await gateway.push(os.urandom(40_000))
        table = (await shell.qrng("status", COLUMNS="200", **environ)).out.decode()
        accounting = json.loads((await shell.qrng("status", "--json", **environ)).out)["accounting"]
    assert accounting["set_aside_bytes"] == 400
    assert accounting["conditioned_bytes"] == 39_600 - 39_600 // 40 * 32
    for line in (
        r"gone +400 bytes set aside for tests of quality",
        rf"gone +{accounting['conditioned_bytes']:,} bytes used up by conditioning",
        r"rate +[\d,]+ bytes/s in, 0 bytes/s out",
        rf"collector +{gateway.collector_id}, heard \d+\.\d s ago, its clock \d+\.\d{{3}} s (behind|ahead)",
        r"lane +operating_system, processing sha256: 31,680 bytes",
    ):
        assert re.search(line, table), table


async def test_a_certificate_instead_of_a_key(shell: Shell, tmp_path: Path) -> None:
    """With a certificate no key is needed."""
    uri, file = "spiffe://qrng/client/sampler", tmp_path / "clients.yaml"
    servers, clients = Authority.create("servers"), Authority.create("clients")
    for name, issued in (
        ("servers", servers.issued),
        ("clients", clients.issued),
        ("server", servers.server(["127.0.0.1"])),
        ("own", clients.client(uri)),
    ):
        issued.save(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    with changing_client_file(file) as records:
        records.append(ClientRecord(Client("sampler"), (), uri))
    async with running_gateway(
        tls_cert_file=tmp_path / "server.pem",
        tls_key_file=tmp_path / "server.key",
        client_ca_file=tmp_path / "clients.pem",
        api_keys_file=file,
    ) as gateway:
        await gateway.push(os.urandom(64))
        done = await shell.qrng(
            *("get", "8", "--ca-file", str(tmp_path / "servers.pem"), "--address", gateway.client_address),
            *("--cert-file", str(tmp_path / "own.pem"), "--key-file", str(tmp_path / "own.key")),
            QR_GRPC_API_KEY="",
        )
    assert (done.code, done.err) == (0, "")
    assert len(done.out) == 17


async def test_exit_codes(shell: Shell) -> None:
    """Scripts can tell failures apart; each is one line, without traceback or key."""
    ends = {
        "usage": (await shell.qrng("get", "nothing"), 2),
        "configuration": (await shell.qrng("get", "1", "--address", "gateway.example:1"), 2),
        "unreachable": (await shell.qrng("get", "1", "--address", "127.0.0.1:1"), 3),
        "short pool": (await shell.qrng("get", "1"), 3),
        "wrong key": (await shell.qrng("get", "1", QR_GRPC_API_KEY="wrong-key-of-a-client"), 4),
        "weaker source": (await shell.qrng("get", "1", "--least-class", "quantum"), 5),
    }
    assert {name: done.code for name, (done, _) in ends.items()} == {name: code for name, (_, code) in ends.items()}
    for done, code in ends.values():
        assert done.out == b""
        assert "Traceback" not in done.err
        assert "wrong-key-of-a-client" not in done.err
        assert shell.gateway.api_key not in done.err
        if code > 2:
            assert done.err.count("\n") == 1


async def test_options_choose_bytes(shell: Shell) -> None:
    """Age limit, time-out and address are taken from the command line."""
    await shell.gateway.push(os.urandom(8), capture_start_ns=shell.gateway.clock.now_ns())
    environ = {"QR_GRPC_SERVER_ADDRESS": "127.0.0.1:1"}
    options = ("--address", shell.gateway.client_address, "--max-age", "3000", "--timeout", "10")
    done = await shell.qrng("get", "8", *options, **environ)
    assert done.code == 0
