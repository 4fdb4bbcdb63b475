"""The channel to one gateway: deaf to all but statuses, and opened anew when its certificates change.

Idea: what arrives on this channel comes from outside, so everything gRPC would do on a server's word is
switched off or kept tiny here. Certificates are exchanged between calls and never within one. A chunk does
not notice, since its identity is the queue's and not the channel's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from qrng_grpc.backoff import RetryPolicy
from qrng_grpc.tls import TlsFiles, TlsWatch, client_credentials
from qrng_grpc.v1 import push_pb2

METHOD = "/qrng.v1.PushService/PushChunks"

_MAX_REPLY_BYTES = 64
_MAX_METADATA_BYTES = 2048
_KEEPALIVE_MS = 20_000

PushCalls = grpc.aio.StreamUnaryMultiCallable[bytes, int | None]


class PushLink:
    """A channel to the gateway at `target`, reconnecting at the pace of `policy`; plaintext without `tls`.

    Make it in a running event loop.
    """

    def __init__(self, target: str, policy: RetryPolicy, tls: TlsWatch | None = None) -> None:
        self._target = target
        self._options = _options(policy)
        self.tls = tls
        """What watches its certificates; None for plaintext."""
        self._open()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel in use. It stays the same until `renew`."""
        return self._channel

    @property
    def push_chunks(self) -> PushCalls:
        """Makes a push call. Its reply is the number of chunks disposed of, or None when it was no reply."""
        return self._push_chunks

    async def renew(self) -> None:
        """Open the channel anew if its certificates have changed. Only while no call runs: it would be cancelled."""
        if self.tls is not None and self.tls.material is not self._material:
            old = self._channel
            self._open()
            await old.close()

    async def close(self) -> None:
        """Close the channel. A call that still runs is cancelled."""
        await self._channel.close()

    def _open(self) -> None:
        self._material = None if self.tls is None else self.tls.material
        if self._material is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
        else:
            credentials = client_credentials(self._material)
            self._channel = grpc.aio.secure_channel(self._target, credentials, options=self._options)
        self._push_chunks: PushCalls = self._channel.stream_unary(
            METHOD, request_serializer=None, response_deserializer=disposed_count
        )


@asynccontextmanager
async def push_link(target: str, policy: RetryPolicy, tls: TlsWatch | None = None) -> AsyncIterator[PushLink]:
    """Hold a link open while the block runs."""
    link = PushLink(target, policy, tls)
    try:
        yield link
    finally:
        await link.close()


def push_watch(files: TlsFiles | None) -> TlsWatch | None:
    """Watch the files of a link; None for plaintext. Raises ConfigError when they are not usable."""
    return None if files is None else TlsWatch("push", files)


def disposed_count(reply: bytes | None) -> int | None:
    """Return the one number of a PushChunksResponse, or None when it is none."""
    try:
        return push_pb2.PushChunksResponse.FromString(reply or b"").disposed_count
    except DecodeError:
        return None


def _options(policy: RetryPolicy) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", _MAX_REPLY_BYTES),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # Nobody outside decides where calls go, how often they are tried and with what settings.
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", round(policy.initial_s * 1000)),
        ("grpc.max_reconnect_backoff_ms", round(policy.maximum_s * 1000)),
        # A connection that died silently is found out within a call.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    )
