"""What needs no key: health and reflection.

Idea: `qrng.v1.EntropyService`, and the empty name for those who ask for none, serve once the source has passed its
tests and while it delivers; `liveness` whenever the process answers. Who watches is told before the server ends.
Reflection gives the answers of grpcio-reflection, on a stream that ends when the server does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from qrng_grpc.compat import qr_entropy_pb2, quantum_rng_pb2
from qrng_grpc.errors import ENDING, DrainingError
from qrng_grpc.v1 import entropy_pb2
from qrng_source_server.calls import Context, Method, Requests, Room
from qrng_source_server.service import SERVICE

HEALTH = "grpc.health.v1.Health"
LIVENESS = "liveness"
OVERALL = ""
_FILES = (entropy_pb2, qr_entropy_pb2, quantum_rng_pb2, health_pb2)
SERVICES = (
    *(service.full_name for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()),
    reflection.SERVICE_NAME,
)
"""What the listener serves."""

_Response = health_pb2.HealthCheckResponse
_Request = health_pb2.HealthCheckRequest


class Board:
    """Whether bytes may be expected, as `ready` says, and whether the server ends."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self._serving = False
        self._changed = asyncio.Event()
        self.draining = False

    def refresh(self) -> None:
        """Look again, and wake who watches if anything changed."""
        serving = self._ready() and not self.draining
        if serving != self._serving or self.draining:
            self._serving = serving
            self._changed.set()
            self._changed = asyncio.Event()

    def drain(self) -> None:
        """Say that bytes are not to be expected any more, for good."""
        self.draining = True
        self.refresh()

    def serving(self, service: str) -> bool | None:
        """Say whether `service` serves; None when there is no such service."""
        if service == LIVENESS:
            return True
        return self._serving if service in (OVERALL, SERVICE) else None

    async def change(self) -> None:
        """Wait until there is something new."""
        await self._changed.wait()


class HealthService:
    """The board, as grpc.health.v1 has it."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def methods(self, checks: Room, watchers: Room) -> Mapping[str, Method[Any]]:
        """Return the methods; who checks is in `checks`, who watches in `watchers`."""
        return {
            "Check": Method(_Request.FromString, self.check, checks, needs_key=False),
            "Watch": Method(_Request.FromString, self.watch, watchers, needs_key=False, headers=()),
        }

    async def check(self, requests: Requests[_Request], context: Context) -> AsyncIterator[_Response]:
        """Say whether one service serves; NOT_FOUND when there is no such service."""
        request = await requests.first()
        self._board.refresh()
        if self._board.serving(request.service) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        yield self._told(request.service)

    async def watch(self, requests: Requests[_Request], _context: Context) -> AsyncIterator[_Response]:
        """Say it now and whenever it changes, until the client leaves or the server ends."""
        service = (await requests.first()).service
        self._board.refresh()
        last = None
        while True:
            told = self._told(service)
            if told != last:
                yield told
                last = told
            elif self._board.draining:
                raise DrainingError(ENDING)
            else:
                await self._board.change()

    def _told(self, service: str) -> _Response:
        serving = self._board.serving(service)
        if serving is None:
            return _Response(status=_Response.SERVICE_UNKNOWN)
        return _Response(status=_Response.SERVING if serving else _Response.NOT_SERVING)


class ReflectionService(reflection.aio.ReflectionServicer):
    """Lists and describes SERVICES."""

    def __init__(self) -> None:
        super().__init__(SERVICES)

    def methods(self, room: Room) -> Mapping[str, Method[Any]]:
        """Return the one method."""
        parse = reflection_pb2.ServerReflectionRequest.FromString
        return {"ServerReflectionInfo": Method(parse, self.answers, room, needs_key=False, headers=())}

    async def answers(
        self, requests: Requests[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer each question in order."""
        answers: Any = self.ServerReflectionInfo(requests.each(), context)
        async for answer in answers:
            yield answer
