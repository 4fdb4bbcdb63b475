"""Health over gRPC (grpc.health.v1), on both listeners, without a key.

Idea: a board with four names, each up or down, looked at with every check and refreshed once a second
for those who watch:

- `qrng.v1.EntropyService`, and the empty name for those who ask for none: a client may expect bytes;
- `qrng.v1.PushService`: chunks are taken;
- `liveness`: the process answers, which an empty pool does not change.

When the gateway ends, all but `liveness` go down first and stay down; watchers are told before their
stream ends. The servicer is our own and not that of grpcio-health-checking, whose lock a watcher that
stops reading can hold for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qrng_gateway.fronts.calls import Context, Streams, check_readable, telling_errors
from qrng_grpc.errors import ENDING, DrainingError

ENTROPY_SERVICE = "qrng.v1.EntropyService"
PUSH_SERVICE = "qrng.v1.PushService"
LIVENESS = "liveness"
OVERALL = ""
MAX_WATCHERS = 256

_Response = health_pb2.HealthCheckResponse
_STATUS: dict[bool | None, Any] = {
    True: _Response.SERVING,
    False: _Response.NOT_SERVING,
    None: _Response.SERVICE_UNKNOWN,
}


class HealthBoard:
    """Which services serve. `ready` says whether a client may expect bytes."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self._serving: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._draining = False
        self.refresh()

    @property
    def draining(self) -> bool:
        """Whether everything but liveness is down for good."""
        return self._draining

    def refresh(self) -> None:
        """Look again, and wake the watchers if anything changed."""
        entropy = self._ready() and not self._draining
        serving = {
            OVERALL: entropy,
            ENTROPY_SERVICE: entropy,
            PUSH_SERVICE: not self._draining,
            LIVENESS: True,
        }
        if serving != self._serving:
            self._serving = serving
            self._changed.set()
            self._changed = asyncio.Event()

    def drain(self) -> None:
        """Take everything but liveness down, for good."""
        self._draining = True
        self.refresh()

    def serving(self, service: str) -> bool | None:
        """Say whether `service` serves; None when there is no such service."""
        return self._serving.get(service)

    async def change(self) -> None:
        """Wait until somebody's state changes."""
        await self._changed.wait()


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The board, as grpc.health.v1 has it."""

    def __init__(self, board: HealthBoard, watchers: Streams) -> None:
        self._board = board
        self._watchers = watchers

    @telling_errors
    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Say whether one service serves; NOT_FOUND when there is no such service."""
        check_readable(request)
        self._board.refresh()
        if self._board.serving(request.service) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return self._response(request.service)

    @telling_errors
    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Say it now and whenever it changes, until the client leaves or the gateway ends."""
        check_readable(request)
        self._board.refresh()
        async with self._watchers.held(context):
            told = None
            while True:
                response = self._response(request.service)
                if response != told:
                    await context.write(response)
                    told = response
                elif self._board.draining:
                    raise DrainingError(ENDING)
                else:
                    await self._board.change()

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        return _Response(status=_STATUS[self._board.serving(service)])
