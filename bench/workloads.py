"""What is asked of the servers of a comparison, and which servers are compared."""

from __future__ import annotations

from dataclasses import dataclass

from comparison import CPU, P99, Asked

from qrng_grpc.v1 import entropy_pb2

GATEWAY, NATIVE, BARE, BARE_UVLOOP, BARE_TUNED, SYNC, CHAIN, CPP, AIOHTTP = (
    "gateway",
    "gateway, native engine",
    "bare grpc.aio",
    "bare grpc.aio on uvloop",
    "bare, tuned as the gateway",
    "bare grpc.server",
    "grpc.aio with interceptors",
    "C++ callback",
    "bare aiohttp",
)
PEERS = {
    BARE: ("bare_aio.py",),
    BARE_UVLOOP: ("bare_aio.py", "--uvloop"),
    BARE_TUNED: ("bare_aio.py", "--uvloop", "--tuned"),
    SYNC: ("bare_sync.py",),
    CHAIN: ("interceptors.py",),
    CPP: ("callback_server.cc",),
    AIOHTTP: ("plain_aiohttp.py",),
}
"""The file of each peer below peers/, and its arguments."""
METHODS = {"unary": "GetEntropy", "subscribe": "SubscribeEntropy", "stream": "StreamEntropy"}
KINDS = {"unary": "unary", "subscribe": "server stream", "stream": "bidi", "rest": "REST"}
KIB, MIB = 1 << 10, 1 << 20
ALIKE, NUMBERED = b"-", b"+"
"""What tells the generator of REST whether its requests have ids."""
MOST_BYTES = 192 * MIB
"""Of a run, so that a full pool suffices."""
MOST, MOST_LARGE, MOST_REST, MOST_P99 = 1.10, 1.25, 1.30, 1.50
"""What may be asked of the gateway, as a multiple of a bare server: CPU by gRPC, with 1 MiB, by REST; its p99."""
MOST_NATIVE = {16: 2.5, 1: 2.0}
"""What the native engine may cost as a multiple of the C++ server, with 32 bytes, by calls in flight."""


@dataclass(frozen=True)
class Workload:
    """Replies of `size` bytes, `in_flight` calls at a time.

    `load` is the share of what saturates the gateway that comes each second; None: as much as the server takes.
    `unlike` requests, of REST, each have an id of their own; otherwise all are alike to the letter.
    """

    kind: str
    size: int
    in_flight: int
    tls: bool = False
    load: float | None = None
    unlike: bool = False
    quick: bool = False

    @property
    def name(self) -> str:
        """Return what it is called in tables."""
        load = f"{self.in_flight} in flight" if self.load is None else f"at {self.load:.0%} of saturation"
        more = f"{', no two alike' if self.unlike else ''}{', TLS' if self.tls else ''}"
        return f"{KINDS[self.kind]} {written(self.size)}, {load}{more}"

    @property
    def servers(self) -> tuple[str, ...]:
        """Return who is compared, the gateway first."""
        if self.kind == "rest":
            return GATEWAY, AIOHTTP
        native = () if self.tls else (NATIVE,)
        slow = () if self.load else (SYNC, CHAIN)
        return (GATEWAY, *native, BARE, BARE_UVLOOP, BARE_TUNED, *slow, CPP)

    @property
    def asked(self) -> tuple[Asked, ...]:
        """Return which ratios are looked at, those with a target first."""
        quantity, most = (P99, MOST_P99) if self.load else (CPU, self.most)
        bare = tuple(each for each in (AIOHTTP, BARE_UVLOOP, BARE) if each in self.servers)
        judged = [Asked(GATEWAY, measure, most, quantity) for measure in bare]
        others = [Asked(GATEWAY, other, None, quantity) for other in self.servers[1:] if other not in (*bare, NATIVE)]
        if NATIVE not in self.servers:
            return (*judged, *others)
        held = self.kind == "unary" and self.size == 32 and not self.load
        native = MOST_NATIVE.get(self.in_flight) if held else None
        return (*judged, Asked(NATIVE, CPP, native, quantity), *others, Asked(NATIVE, GATEWAY, None, quantity))

    @property
    def most(self) -> float:
        """Return what the gateway may cost, as a multiple of a bare server."""
        if self.kind == "rest":
            return MOST_REST
        return MOST_LARGE if self.size >= MIB else MOST

    @property
    def method(self) -> str:
        """Return the method of gRPC, or the path of REST."""
        return f"GET {self.path}" if self.kind == "rest" else METHODS[self.kind]

    @property
    def path(self) -> str:
        """Return where requests go."""
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
        return NUMBERED if self.unlike else ALIKE

    def replies(self, wanted: float) -> int:
        """Return how many replies a run of about `wanted` has: all calls as many, no more bytes than a pool holds."""
        most = MOST_BYTES // self.size
        return max(1, int(min(wanted, most)) // self.in_flight) * self.in_flight


def written(size: int) -> str:
    """Write a number of bytes in the largest unit that it fills."""
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


ONE_CALL = Workload("unary", 32, 16, quick=True)
"""The call by which numbers of connections and sizes of pools are compared."""
SECTIONS = {
    "unary": (
        ONE_CALL,
        Workload("unary", 32, 1, quick=True),
        Workload("unary", 32, 64),
        Workload("unary", KIB, 1),
        Workload("unary", KIB, 16),
        Workload("unary", KIB, 64),
        Workload("unary", 64 * KIB, 1),
        Workload("unary", 64 * KIB, 16, quick=True),
        Workload("unary", 64 * KIB, 64),
    ),
    "streams": (
        Workload("subscribe", 64 * KIB, 1),
        Workload("subscribe", MIB, 1, quick=True),
        Workload("stream", KIB, 1),
        Workload("stream", KIB, 32, quick=True),
    ),
    "rest": (
        Workload("rest", 32, 16, quick=True),
        Workload("rest", 32, 16, unlike=True, quick=True),
        Workload("rest", 32, 1),
        Workload("rest", 64 * KIB, 16),
    ),
    "tls": (
        Workload("unary", 32, 16, tls=True),
        Workload("unary", 64 * KIB, 16, tls=True),
        Workload("subscribe", MIB, 1, tls=True),
        Workload("stream", KIB, 32, tls=True),
        Workload("rest", 32, 16, tls=True),
    ),
    "latency": (Workload("unary", 32, 64, load=0.5), Workload("rest", 32, 64, load=0.5)),
}
"""The workloads of each section."""
