"""Stock grpcio servers of every shape the client supports, made with the protobuf library's own messages.

A server here knows nothing of the generic codec: its messages are parsed and written by protobuf, its methods are
served by grpcio. It keeps a ledger of every byte it handed out, and of how many each request asked for.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_grpc.generic_codec import bytes_field
from qrng_grpc.v1 import entropy_pb2, labels_pb2

KEY = "a-key-that-nobody-may-see"
LOCATION = "projects/p/locations/europe-west3"


def _messages(**declared: tuple[tuple[str, int, str], ...]) -> list[Any]:
    """Return message classes of the protobuf library, declared here, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="shapes.proto", package="shapes", syntax="proto3")
    for message, declared_fields in declared.items():
        added = file.message_type.add(name=message)
        for name, number, kind in declared_fields:
            proto = descriptor_pb2.FieldDescriptorProto
            added.field.add(
                name=name, number=number, type=getattr(proto, f"TYPE_{kind.upper()}"), label=proto.LABEL_OPTIONAL
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shapes.{name}")) for name in declared]


KmsRequest, KmsReply, DrawRequest, DrawReply = _messages(
    KmsRequest=(("location", 1, "string"), ("length_bytes", 2, "int32")),
    KmsReply=(("data", 1, "bytes"), ("data_crc32c", 3, "bytes")),
    DrawRequest=(("how_many", 700, "uint64"), ("level", 4, "sint32")),
    DrawReply=(("spectrum", 1, "fixed32"), ("bias", 2, "double"), ("octets", 19, "bytes")),
)


@dataclass(frozen=True)
class Shape:
    """A service: the settings that say how it is spoken to, and how it answers."""

    settings: dict[str, str]
    request: Any
    count: str
    """Name of the request's field with the number of bytes."""
    reply: Callable[[Any, bytes], Any]
    """Makes a reply to a request out of bytes."""
    unary: str
    stream: str
    """Empty: it has none, and none is served."""
    least: int = 1
    most: int = 1 << 20


def _qrng_v1(request: Any, data: bytes) -> Any:
    return entropy_pb2.GetEntropyResponse(
        data=data,
        sequence_id=request.sequence_id,
        generation_timestamp_ns=1_700_000_000_000_000_000,
        device_id="quantis-0",
        source_class=labels_pb2.SOURCE_CLASS_HARDWARE,
        collector_id="lab",
    )


SHAPES = {
    "qrng.v1": Shape(
        {"QR_GRPC_SERVICE": "qrng.v1"},
        entropy_pb2.GetEntropyRequest,
        "bytes_needed",
        _qrng_v1,
        "/qrng.v1.EntropyService/GetEntropy",
        "/qrng.v1.EntropyService/StreamEntropy",
    ),
    "qr_entropy": Shape(
        {"QR_GRPC_SERVICE": "qr_entropy"},
        qr_entropy_pb2.EntropyRequest,
        "bytes_needed",
        lambda request, data: qr_entropy_pb2.EntropyResponse(
            data=data, sequence_id=request.sequence_id, generation_timestamp_ns=7, device_id="firefly-1"
        ),
        "/qr_entropy.EntropyService/GetEntropy",
        "/qr_entropy.EntropyService/StreamEntropy",
    ),
    "qrng": Shape(
        {"QR_GRPC_METHOD_PATH": "/qrng.QuantumRNG/GetRandomBytes", "QR_GRPC_STREAM_METHOD_PATH": ""},
        quantum_rng_pb2.RandomRequest,
        "num_bytes",
        lambda _request, data: quantum_rng_pb2.RandomResponse(
            data=data, timestamp=(1 << 64) - 1, device_id="firefly-1"
        ),
        "/qrng.QuantumRNG/GetRandomBytes",
        "",
        most=13_312,
    ),
    "KMS": Shape(
        {
            "QR_GRPC_SERVICE": "google-kms",
            "QR_GRPC_TLS": "false",
            "QR_GRPC_REQUEST_PREFIX": bytes_field(1, LOCATION.encode()).hex(),
        },
        KmsRequest,
        "length_bytes",
        lambda _request, data: KmsReply(data=data, data_crc32c=b"\x08\x01"),
        "/google.cloud.kms.v1.KeyManagementService/GenerateRandomBytes",
        "",
        least=8,
        most=1024,
    ),
    "unheard of": Shape(
        {
            "QR_GRPC_METHOD_PATH": "/acme.vault.v2.Vault/Draw",
            "QR_GRPC_STREAM_METHOD_PATH": "/acme.vault.v2.Vault/Pour",
            "QR_GRPC_COUNT_FIELD": "700",
            "QR_GRPC_DATA_FIELD": "19",
        },
        DrawRequest,
        "how_many",
        lambda _request, data: DrawReply(spectrum=3, bias=0.5, octets=data),
        "/acme.vault.v2.Vault/Draw",
        "/acme.vault.v2.Vault/Pour",
    ),
}


@dataclass
class StockServer:
    """A server of one shape, serving while its context is open. It wants the key in `api-key`."""

    shape: Shape
    credentials: grpc.ServerCredentials | None = None
    listen: str = "127.0.0.1:0"
    address: str = ""
    """Where it is, once entered."""
    asked: list[int] = field(default_factory=list)
    """How many bytes each request was for."""
    served: bytearray = field(default_factory=bytearray)
    requests: list[Any] = field(default_factory=list)

    answer: Callable[[Any, Any], Awaitable[Any]] | None = None
    """What answers instead, for a test."""

    async def __aenter__(self) -> StockServer:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._serve(self.shape.unary, grpc.unary_unary_rpc_method_handler, self._answer)
        if self.shape.stream:
            self._serve(self.shape.stream, grpc.stream_stream_rpc_method_handler, self._converse)
        if self.credentials is None:
            port = self._server.add_insecure_port(self.listen)
        else:
            port = self._server.add_secure_port(self.listen, self.credentials)
        await self._server.start()
        self.address = self.listen if self.listen.startswith("unix:") else f"{self.listen.rpartition(':')[0]}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    def _serve(self, path: str, handler: Any, method: Any) -> None:
        service, name = path[1:].split("/")
        # A reply that is ready is passed on as it is.
        handlers = {name: handler(method, self.shape.request.FromString, lambda reply: reply.SerializeToString())}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])

    async def _answer(self, request: Any, context: Any) -> Any:
        if self.answer is not None:
            return await self.answer(request, context)
        if ("api-key", KEY) not in (context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")
        count = getattr(request, self.shape.count)
        if not self.shape.least <= count <= self.shape.most:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "too few or too many")
        data = os.urandom(count)
        self.asked.append(count)
        self.requests.append(request)
        self.served += data
        return self.shape.reply(request, data)

    async def _converse(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self._answer(request, context)
