"""The programs of a comparison: built where they are C++, started on a core of their own, and their time told.

Idea: every server is a process that writes its address and ends with its standard input, so that none outlives the
bench. Servers share one core and the generator has another; only one server works at a time. What a server costs is the
processor time of all its threads, as the kernel counts it for the process, in nanoseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"
PROTOS = ("chunk", "labels", "entropy")
GRPC = ("grpc++", "protobuf")
LIBRARIES = {"rest_generator.cc": ("openssl",)}
"""What a C++ file is linked with, as pkg-config calls it, where that is not gRPC."""
API_KEY = "of-this-benchmark-and-of-nothing-else"


class MissingError(Exception):
    """Something that a program needs is not on this machine; the text says what."""


@dataclass(frozen=True)
class Cores:
    """Where servers run, and where the generator does."""

    server: int
    generator: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Take the first two cores that this process may use. Raises MissingError when there is but one."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise MissingError("a second core, so that generator and server do not share one")
        return cls(cores[0], cores[1])


@dataclass(frozen=True)
class Tls:
    """What a server shows, and what its clients trust."""

    cert: Path
    key: Path
    authorities: Path


@dataclass
class Server:
    """A server process, where it listens, and how many bytes it may still hand out (None: any number)."""

    process: subprocess.Popen[str]
    address: str
    rest_address: str = ""
    tls: Tls | None = None

    def cpu_s(self) -> float:
        """Return the processor time of all its threads so far."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # CPUCLOCK_SCHED of a process, as in Linux's headers

    def resident_bytes(self) -> int:
        """Return how much memory it has."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def prepare(self, size: int) -> None:
        """Make sure that `size` bytes can be handed out, and take them for handed out. Peers make theirs up."""

    def stock(self, size: int) -> None:
        """Have `size` bytes ready, so that as many can be prepared later without any work of the server's."""


@dataclass(frozen=True)
class Outcome:
    """What the generator saw of a run. Times are in microseconds."""

    replies: int
    seconds: float
    generator_cpu_s: float
    p50_us: float
    p99_us: float
    p99_9_us: float
    longest_us: float
    errors: int
    short_replies: int
    first_error: str = ""
    """What the first error said, where it said anything."""

    @property
    def whole(self) -> bool:
        """Tell whether every reply came, as long as it should be."""
        return not self.errors and not self.short_replies


@dataclass
class Generator:
    """A generator that is connected to a server. Its runs come over standard input."""

    process: subprocess.Popen[str] = field(repr=False)

    def run(self, replies: int, in_flight: int, rate: float, least_size: int, request: bytes) -> Outcome:
        """Make `replies` replies come. Raises RuntimeError when one was missing, short or refused."""
        outcome = self.attempt(replies, in_flight, rate, least_size, request)
        if not outcome.whole or outcome.replies != replies:
            raise RuntimeError(f"not every reply came whole: {outcome}")
        return outcome

    def attempt(self, replies: int, in_flight: int, rate: float, least_size: int, request: bytes) -> Outcome:
        """Ask for `replies` replies, and say what came of it. Raises RuntimeError when the generator ends."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{replies} {in_flight} {rate} {least_size} {request.hex()}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the generator ended; could it not connect?")
        seen: dict[str, Any] = json.loads(line)
        return Outcome(**{name: value for name, value in seen.items() if name in Outcome.__dataclass_fields__})


@contextmanager
def process(command: list[str | Path], core: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run `command` on `core` while the block runs; it ends when its standard input does."""
    with subprocess.Popen(
        ["taskset", "--cpu-list", str(core), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as started:
        assert started.stdin is not None
        try:
            yield started
        finally:
            started.stdin.close()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()


@contextmanager
def peer(called: tuple[str, ...], cores: Cores, tls: Tls | None = None) -> Iterator[Server]:
    """Run a peer: a file of peers/, and its arguments. Raises MissingError when it cannot be built or started."""
    name, *arguments = called
    source = HERE / "peers" / name
    command: list[str | Path] = [built(source)] if source.suffix == ".cc" else [sys.executable, source]
    credentials = [] if tls is None else [tls.cert, tls.key]
    with process([*command, *arguments, *credentials], cores.server, stderr=subprocess.DEVNULL) as started:
        assert started.stdout is not None
        address = started.stdout.readline().strip()
        if not address:
            raise MissingError(f"{name}, which did not start")
        yield Server(started, address, address, tls)


@contextmanager
def generating(server: Server, kind: str, path: str, cores: Cores) -> Iterator[Generator]:
    """Run a generator for calls of the method at `path`, or, with the kind rest, for requests of it."""
    authorities = [] if server.tls is None else [server.tls.authorities]
    command: list[str | Path]
    if kind == "rest":
        command = [built(HERE / "rest_generator.cc"), server.rest_address, path, API_KEY, *authorities]
    else:
        command = [built(HERE / "generator.cc"), server.address, kind, path, API_KEY, *authorities]
    with process(command, cores.generator) as started:
        yield Generator(started)


def built(source: Path) -> Path:
    """Return the program made of a C++ file; it is made anew when the file changed. Raises MissingError."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = BUILD / f"{source.stem}-{digest}"
    if program.exists():
        return program
    needs_stubs = source.parent.name == "peers"
    for tool in ("g++", "pkg-config", *(("protoc", "grpc_cpp_plugin") if needs_stubs else ())):
        if shutil.which(tool) is None:
            raise MissingError(f"{tool}, to build {source.name}")
    print(f"building {source.name}", file=sys.stderr)
    BUILD.mkdir(parents=True, exist_ok=True)
    flags = _output(["pkg-config", "--cflags", "--libs", *LIBRARIES.get(source.name, GRPC)], source)
    stubs = _stubs(source) if needs_stubs else []
    unfinished = program.with_suffix(".new")
    _output(
        ["g++", "-std=c++17", "-O2", f"-I{BUILD}", "-o", unfinished, source, *stubs, *flags.split(), "-pthread"], source
    )
    return unfinished.rename(program)


def _stubs(source: Path) -> list[Path]:
    protos = [ROOT / "protos" / "qrng_grpc" / "v1" / f"{name}.proto" for name in PROTOS]
    plugin = shutil.which("grpc_cpp_plugin")
    outputs = [f"--cpp_out={BUILD}", f"--grpc_out={BUILD}", f"--plugin=protoc-gen-grpc={plugin}"]
    _output(["protoc", f"-I{ROOT / 'protos'}", *outputs, *protos], source)
    return sorted((BUILD / "qrng_grpc" / "v1").glob("*.cc"))


def _output(command: list[Any], source: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"{command[0]} cannot build {source.name}: {done.stderr.strip()[-500:]}")
    return done.stdout
