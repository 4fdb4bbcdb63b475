"""qrng.v1.PushService over grpc.aio.

Idea: a call is read until the collector half-closes or a chunk must be held. Chunks disposed of before
a held one are worth telling, so such a call ends OK with their count; only a held first chunk, or a
mark that could not be written, ends it with a status. When the gateway drains, calls that wait for
their collector end at once, with the count they have. A call takes one of their places only with its first
message, and gives it back when nothing more comes for a minute.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping

import grpc.aio

from qrng_gateway.fronts.calls import Codec, Context, Streams, Unread, check_readable, telling_errors
from qrng_gateway.link.ingest import Ingest, PushCall
from qrng_grpc.errors import QrngError
from qrng_grpc.v1 import push_pb2, push_pb2_grpc
from qrng_grpc.wire import Signed, decode_push_request

PATIENCE_S = 60.0
"""How long a call may be quiet after its first message."""


class PushServicer(push_pb2_grpc.PushServiceServicer):
    """Hands chunks to `ingest`, in as many calls at a time as `calls` admits, besides those `unread`.

    Calls that wait for a message after their first are among the `quiet`, which ends them after PATIENCE_S.
    """

    codecs: Mapping[str, Codec] = {
        "PushChunks": Codec(decode_push_request, push_pb2.PushChunksResponse.SerializeToString)
    }

    def __init__(self, ingest: Ingest, calls: Streams, unread: Unread, quiet: Unread) -> None:
        self._ingest = ingest
        self._calls = calls
        self._unread = unread
        self._quiet = quiet

    @telling_errors
    async def PushChunks(  # type: ignore[override]  # its codec makes no messages of requests
        self, _requests: AsyncIterable[Signed], context: Context
    ) -> push_pb2.PushChunksResponse:
        """Take a call's chunks. Cancelled, it leaves what was disposed of to take effect."""
        call = self._ingest.open_call(context.peer())
        held = await self._read(call, context)
        if held is not None:
            self._ingest.hold(held.reason)
            if not call.count:
                raise held
        return push_pb2.PushChunksResponse(disposed_count=await call.settle())

    async def _read(self, call: PushCall, context: Context) -> QrngError | None:
        """Offer chunk after chunk. Returns why reading stopped early, None when the collector half-closed."""
        try:
            signed = await self._unread.read(context)
            with self._calls.taken(context):
                while signed is not grpc.aio.EOF:
                    check_readable(signed)
                    await call.offer(*signed)
                    signed = await self._quiet.read(context)
        except QrngError as held:
            return held
        return None
