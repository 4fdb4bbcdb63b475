"""A simulated gRPC entropy server: any method path, any field numbers, no stub.

Idea: what a `grpc` source meets in the field, on loopback. One handler serves every path, unary and
bidirectional alike (on the wire a unary call is a stream of one message), writes its replies byte by
byte, so that they can be as wrong as one likes, and keeps a ledger of every byte it made up. Clients
reach it through a small relay, which can let bytes drip and cut connections.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qrng_grpc.error_details import PUSHBACK_KEY
from qrng_grpc.generic_codec import (
    FIXED32,
    FIXED64,
    LEN,
    VARINT,
    MalformedReplyError,
    MessageShape,
    bytes_field,
    encode_varint,
    fields,
    varint_field,
)
from qrng_grpc.sources.mock import SeededStream

GrpcMisbehaviour = Literal[
    "short",
    "long",
    "empty",
    "truncated",
    "extra_fields",
    "duplicate_fields",
    "wrong_wire_type",
    "group",
    "field_zero",
    "huge_length",
    "oversize",
    "wrong_echo",
    "twice",
    "no_reply",
    "reply_and_end",
    "late",
    "silent",
    "drip",
    "cut",
]
"""What `fail_next` can make of a request.

`short`, `long`: one byte less or more than asked for. `empty`: the empty message. `truncated`: the last
byte of the reply is missing. `extra_fields`: unknown fields of all types around the data, which is no
fault. `duplicate_fields`: other data first, then the right ones, which is none either. `wrong_wire_type`:
a number where the data belong. `group`: a group before the data. `field_zero`: a field of number 0.
`huge_length`: 2**62 bytes are announced. `oversize`: a message of more than anybody allows. `wrong_echo`:
the reply repeats another number. `twice`: the reply comes twice. `no_reply`: the call ends well and
without one. `reply_and_end`: a right reply, then the call ends. `late`: nothing until `answer_late`, then
the reply. `silent`: nothing, ever. `drip`: the reply comes a byte at a time until the next request.
`cut`: every connection is reset.
"""

MAX_BYTES = 16 << 20
WORDS = "words-of-the-peer"
"""Stands in every text and in the metadata of a refusal, so that a test can look for it elsewhere."""

_DRIP_S = 0.05
_UINT64 = 1 << 64


class GrpcEntropyServer:
    """A simulated server, serving while its context is open.

        async with GrpcEntropyServer(MessageShape(data_field=4)) as server:
            source = GrpcSource(
                Endpoint(server.address),
                GrpcMethod("/lab.Entropy/Draw", shape=MessageShape(data_field=4)),
                source_class=SourceClass.SIMULATED,
                device_id="bench",
            )
            server.fail_next("short")
            ...
            assert data in server.served

    Its bytes are the stream of `qrng_grpc.sources.mock` for `seed`. With an `api_key`, calls without it in
    the metadata `api_key_header` are refused. With `tls`, `ca_file` is what to trust.
    """

    def __init__(
        self,
        shape: MessageShape | None = None,
        *,
        seed: int = 0,
        api_key: str | None = None,
        api_key_header: str = "api-key",
        tls: bool = False,
    ) -> None:
        self.address = ""
        """`127.0.0.1:PORT`, once entered."""
        self.ca_file = Path()
        """The certificate in PEM, to be trusted as its own CA; it lives as long as the context."""
        self.requests: list[bytes] = []
        """Every request, as it came."""
        self.methods: list[str] = []
        """The path of every call."""
        self.calls_ended = 0
        """How many calls are over, for whatever reason."""
        self.pushback_ms: str | None = None
        """The trailer `grpc-retry-pushback-ms` of refusals; None leaves it out."""
        self.holding = asyncio.Event()
        """Set once a reply is held back, so that a test can wait for it."""
        self._shape = shape or MessageShape()
        self._stream = SeededStream(seed)
        self._ledger = bytearray()
        self._key = api_key
        self._key_header = api_key_header
        self._tls = tls
        self._orders: deque[GrpcMisbehaviour | grpc.StatusCode] = deque()
        self._late = asyncio.Event()
        self._relay = _Relay()
        self._stack = AsyncExitStack()

    @property
    def served(self) -> bytes:
        """Every random byte made up so far, in order, those of spoilt replies included: a copy."""
        return bytes(self._ledger)

    @property
    def connections(self) -> int:
        """How many connections were opened so far."""
        return self._relay.connections

    def fail_next(self, kind: GrpcMisbehaviour, times: int = 1) -> None:
        """Spoil the replies to the next `times` requests; orders queue up. Raises ValueError for an unknown kind."""
        if kind not in get_args(GrpcMisbehaviour):
            raise ValueError(f"unknown misbehaviour; there are {', '.join(get_args(GrpcMisbehaviour))}")
        self._orders.extend([kind] * times)

    def refuse_next(self, status: grpc.StatusCode, times: int = 1) -> None:
        """End the calls of the next `times` requests with `status`, texts and metadata."""
        self._orders.extend([status] * times)

    def fail_no_more(self) -> None:
        """Forget what `fail_next` and `refuse_next` ordered, as far as no request has come for it."""
        self._orders.clear()

    def answer_late(self) -> None:
        """Let go of all replies held back, now and later."""
        self._late.set()

    def cut(self) -> None:
        """Reset every connection."""
        self._relay.cut()

    async def __aenter__(self) -> GrpcEntropyServer:
        """Serve."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        server.add_generic_rpc_handlers((_EveryMethod(self._call),))
        port = self._bind(server)
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        self.address = f"127.0.0.1:{await self._relay.start(port)}"
        self._stack.push_async_callback(self._relay.close)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """End every call, close every connection, delete the certificate."""
        await self._stack.aclose()

    def _bind(self, server: grpc.aio.Server) -> int:
        if not self._tls:
            return server.add_insecure_port("127.0.0.1:0")
        directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="grpc-source-")))
        key, certificate = _certified()
        self.ca_file = directory / "certificate.pem"
        self.ca_file.write_bytes(certificate)
        return server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))

    async def _call(self, path: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.methods.append(path)
        try:
            if not self._admits(context):
                await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED)
            async for request in requests:
                self.requests.append(request)
                order = self._orders.popleft() if self._orders else None
                if isinstance(order, grpc.StatusCode):
                    await self._refuse(context, order)
                count, echo = await self._understood(request, context)
                async for reply in self._replies(order, count, echo):
                    yield reply
                if order in ("no_reply", "reply_and_end"):
                    return
        finally:
            self.calls_ended += 1

    async def _replies(self, order: Any, count: int, echo: int) -> AsyncIterator[bytes]:
        if order == "no_reply":
            return
        reply = _SPOILERS[order](self, count, echo) if order in _SPOILERS else self._reply(count, echo)
        if order in ("late", "silent"):
            self.holding.set()
            await (self._late if order == "late" else asyncio.Event()).wait()
        if order == "cut":
            self._relay.cut()
        self._relay.drip(order == "drip")
        yield reply
        if order == "twice":
            yield reply

    def _reply(self, count: int, echo: int) -> bytes:
        return self._data(count) + self._echo(echo)

    def _data(self, count: int) -> bytes:
        data = self._stream.take(count)
        self._ledger += data
        return bytes_field(self._shape.data_field, data)

    def _echo(self, echo: int) -> bytes:
        number = self._shape.reply_echo_field
        return b"" if number is None else varint_field(number, echo)

    def _unknown(self) -> bytes:
        """Return a field of each type, with a number that is not the shape's."""
        number = next(n for n in range(100, 103) if n not in (self._shape.data_field, self._shape.reply_echo_field))
        fixed = _key(number, FIXED64) + bytes(8) + _key(number, FIXED32) + bytes(4)
        return bytes_field(number, b"\xff" * 9) + varint_field(number, _UINT64 - 1) + fixed

    async def _understood(self, request: bytes, context: Any) -> tuple[int, int]:
        """Return count and echo of `request`, or end the call."""
        numbers: dict[int, int] = {}
        with suppress(MalformedReplyError):
            numbers = {number: value for number, wire_type, value, _ in fields(request) if wire_type == VARINT}
        count = numbers.get(self._shape.count_field, 0)
        if not 1 <= count <= MAX_BYTES:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT)
        return count, numbers.get(self._shape.request_echo_field or 0, 0)

    def _admits(self, context: Any) -> bool:
        keys = [value for name, value in context.invocation_metadata() or () if name == self._key_header]
        return self._key is None or keys == [self._key]

    async def _refuse(self, context: Any, status: grpc.StatusCode) -> None:
        """End the call, with words in every place there is. Does not return."""
        pushback = () if self.pushback_ms is None else ((PUSHBACK_KEY, self.pushback_ms),)
        await context.abort(status, WORDS, (("x-words", WORDS), *pushback))


_SPOILERS: dict[str, Callable[[GrpcEntropyServer, int, int], bytes]] = {
    "short": lambda server, count, echo: server._reply(count - 1, echo),
    "long": lambda server, count, echo: server._reply(count + 1, echo),
    "empty": lambda _server, _count, _echo: b"",
    "truncated": lambda server, count, echo: server._reply(count, echo)[:-1],
    "extra_fields": lambda server, count, echo: server._unknown() + server._reply(count, echo) + server._unknown(),
    "duplicate_fields": lambda server, count, echo: server._data(count + 1) + server._reply(count, echo),
    "wrong_wire_type": lambda server, count, echo: varint_field(server._shape.data_field, count) + server._echo(echo),
    "group": lambda server, count, echo: _key(100, 3) + _key(100, 4) + server._reply(count, echo),
    "field_zero": lambda server, count, echo: server._reply(count, echo) + bytes(2),
    "huge_length": lambda server, _count, _echo: _key(server._shape.data_field, LEN) + encode_varint(1 << 62),
    "oversize": lambda server, _count, _echo: bytes_field(server._shape.data_field, bytes(MAX_BYTES + (1 << 20))),
    "wrong_echo": lambda server, count, echo: server._reply(count, (echo + 1) % _UINT64),
}
"""What to send in the place of the right reply."""


class _EveryMethod(grpc.GenericRpcHandler):
    """Hands every call to one function, whatever its path."""

    def __init__(self, call: Callable[[str, AsyncIterator[bytes], Any], AsyncIterator[bytes]]) -> None:
        self._call = call

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of the path: a stream of messages, as they are on the wire."""
        path = handler_call_details.method

        async def serve(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for reply in self._call(path, requests, context):
                yield reply

        return grpc.stream_stream_rpc_method_handler(serve, None, None)


class _Relay:
    """Passes bytes to and fro, lets them drip, and resets connections."""

    def __init__(self) -> None:
        self.connections = 0
        self._port = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> int:
        """Relay to `port`; returns the port to connect to."""
        self._port = port
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def drip(self, dripping: bool) -> None:
        """Let what goes to clients drip, or flow again at once."""
        (self._flowing.clear if dripping else self._flowing.set)()

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Listen no longer, and end every connection."""
        if self._server is not None:
            self._server.close()
        self._flowing.set()
        self.cut()
        await asyncio.gather(*self._carrying)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        carrying = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(carrying)
        carrying.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        ends = {writer, far_writer}
        self._writers |= ends
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer, drips=True))
        self._writers -= ends

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drips: bool = False) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await (self._pour(data, writer) if drips else _write(data, writer))
        writer.close()

    async def _pour(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Write `data`, a byte at a time while dripping."""
        at = 0
        while at < len(data):
            end = len(data) if self._flowing.is_set() else at + 1
            await _write(data[at:end], writer)
            at = end
            with suppress(TimeoutError):
                await asyncio.wait_for(self._flowing.wait(), _DRIP_S)


async def _write(data: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(data)
    await writer.drain()


def _key(number: int, wire_type: int) -> bytes:
    return encode_varint(number << 3 | wire_type)


def _certified() -> tuple[bytes, bytes]:
    """Return a key and its self-signed certificate for this machine, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "simulated source")])
    now = datetime.datetime.now(datetime.UTC)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret, certificate.public_bytes(serialization.Encoding.PEM)
