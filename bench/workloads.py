"""What is asked of the servers of a comparison, and which servers are compared."""

from __future__ import annotations

from dataclasses import dataclass

from qrng_grpc.v1 import entropy_pb2

GATEWAY, BARE, BARE_UVLOOP, SYNC, CHAIN, CPP, AIOHTTP = (
    "gateway",
    "bare grpc.aio",
    "bare grpc.aio on uvloop",
    "bare grpc.server",
    "grpc.aio with interceptors",
    "C++ callback",
    "bare aiohttp",
)
PEERS = {
    BARE: ("bare_aio.py",),
    BARE_UVLOOP: ("bare_aio.py", "--uvloop"),
    SYNC: ("bare_sync.py",),
    CHAIN: ("interceptors.py",),
    CPP: ("callback_server.cc",),
    AIOHTTP: ("plain_aiohttp.py",),
}
"""The file of each peer below peers/, and its arguments."""
GRPC = (GATEWAY, BARE, BARE_UVLOOP, SYNC, CHAIN, CPP)
REST = (GATEWAY, AIOHTTP)
METHODS = {"unary": "GetEntropy", "subscribe": "SubscribeEntropy", "stream": "StreamEntropy"}
KIB, MIB = 1 << 10, 1 << 20
MOST_BYTES = 192 * MIB
"""Of a run, so that a full pool suffices."""


@dataclass(frozen=True)
class Workload:
    """Replies of `size` bytes, `in_flight` calls at a time.

    `target` is what the gateway may cost, as a multiple of the bare server. `load` is the share of what saturates the
    gateway     that comes each second; None: as much as it takes.
    """

    kind: str
    size: int
    in_flight: int
    target: float
    tls: bool = False
    load: float | None = None
    quick: bool = False

    @property
    def name(self) -> str:
        """Return what it is called in tables."""
        kind = {"unary": "unary", "subscribe": "server stream", "stream": "bidi", "rest": "REST"}[self.kind]
        load = f"{self.in_flight} in flight" if self.load is None else f"at {self.load:.0%} of saturation"
        return f"{kind} {_written(self.size)}, {load}{', TLS' if self.tls else ''}"

    @property
    def servers(self) -> tuple[str, ...]:
        """Return who is compared, the gateway first and then its measure."""
        return REST if self.kind == "rest" else GRPC

    @property
    def method(self) -> str:
        """Return the method of gRPC, or the path of REST."""
        if self.kind == "rest":
            return f"/api/random?bytes={self.size}"
        return f"/qrng.v1.EntropyService/{METHODS[self.kind]}"

    @property
    def least_size(self) -> int:
        """Return how long a reply is at least: REST answers in hex."""
        return self.size * 2 if self.kind == "rest" else self.size

    def request(self, replies: int) -> bytes:
        """Return the request of a run of so many replies."""
        if self.kind == "unary":
            return entropy_pb2.GetEntropyRequest(bytes_needed=self.size).SerializeToString()
        if self.kind == "stream":
            return entropy_pb2.StreamEntropyRequest(bytes_needed=self.size).SerializeToString()
        if self.kind == "subscribe":
            total = replies // self.in_flight * self.size
            subscription = entropy_pb2.SubscribeEntropyRequest(bytes_per_message=self.size, total_bytes=total)
            return subscription.SerializeToString()
        return b"-"

    def replies(self, wanted: float) -> int:
        """Return how many replies a run of about `wanted` has: all calls as many, no more bytes than a pool holds."""
        most = MOST_BYTES // self.size
        return max(1, int(min(wanted, most)) // self.in_flight) * self.in_flight


def _written(size: int) -> str:
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


WORKLOADS = (
    Workload("unary", 32, 16, 1.10, quick=True),
    Workload("unary", 32, 1, 1.10, quick=True),
    Workload("unary", 32, 64, 1.10),
    Workload("unary", KIB, 1, 1.10),
    Workload("unary", KIB, 16, 1.10),
    Workload("unary", KIB, 64, 1.10),
    Workload("unary", 64 * KIB, 1, 1.10),
    Workload("unary", 64 * KIB, 16, 1.10, quick=True),
    Workload("unary", 64 * KIB, 64, 1.10),
    Workload("subscribe", 64 * KIB, 1, 1.10),
    Workload("subscribe", MIB, 1, 1.25, quick=True),
    Workload("stream", KIB, 1, 1.10),
    Workload("stream", KIB, 32, 1.10, quick=True),
    Workload("rest", 32, 16, 1.30, quick=True),
    Workload("unary", 32, 16, 1.10, tls=True),
    Workload("unary", 64 * KIB, 16, 1.10, tls=True),
    Workload("subscribe", MIB, 1, 1.25, tls=True),
    Workload("unary", 32, 64, 1.10, load=0.5),
)
