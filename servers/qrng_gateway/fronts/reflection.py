"""Server reflection on the client listener, without a key: grpcurl then needs no proto files.

Idea: the answers of grpcio-reflection, given on a stream that ends when the gateway does.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from qrng_gateway.fronts.calls import (
    REQUEST_PATIENCE_S,
    Context,
    Streams,
    Unread,
    check_readable,
    read_in_time,
    telling_errors,
)
from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_grpc.v1 import entropy_pb2

_FILES = (entropy_pb2, qr_entropy_pb2, quantum_rng_pb2, health_pb2)
SERVICES = (
    *(service.full_name for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()),
    reflection.SERVICE_NAME,
)
"""What the client listener serves."""
MAX_REFLECTIONS = 32
"""Reflection streams at once. They need no key, so they may not use up the streams of those who have one."""


class ReflectionServicer(reflection.aio.ReflectionServicer):
    """Lists and describes SERVICES."""

    def __init__(self, streams: Streams, unread: Unread) -> None:
        super().__init__(SERVICES)
        self._streams = streams
        self._unread = unread

    @telling_errors
    async def ServerReflectionInfo(  # type: ignore[override]  # it writes; the stub has a generator
        self, _requests: AsyncIterable[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> None:
        """Answer each question in order."""
        first = await self._unread.read(context)
        async with self._streams.held(context):
            answers: Any = super().ServerReflectionInfo(_readable(first, context), context)
            async for answer in answers:
                await context.write(answer)


async def _readable(request: Any, context: Context) -> AsyncIterator[Any]:
    while request is not grpc.aio.EOF:
        check_readable(request)
        yield request
        request = await read_in_time(context, REQUEST_PATIENCE_S)
