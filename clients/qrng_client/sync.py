"""The client for threads.

Idea: the same calls over grpc's blocking channel; no event loop hides inside. One client may be used
by many threads at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import grpc

from qrng_client.access import API_KEY_HEADER, Access
from qrng_client.allowance import Allowance, read_allowance
from qrng_client.entropy import BadReplyError, Entropy, join, read_reply
from qrng_client.failures import error_of_call
from qrng_client.requests import MAX_REQUEST_BYTES, Patience, RequestBook, Subscription, Wanted, Wish
from qrng_client.servers import TlsChoice, client_by_settings
from qrng_client.settings import endpoint_of
from qrng_client.status import GatewayStatus, read_status
from qrng_grpc.channel import Endpoint, open_channel
from qrng_grpc.errors import QrngError, ServerUnreachableError
from qrng_grpc.v1 import entropy_pb2, entropy_pb2_grpc

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class EntropyClient:
    """Random bytes from a gateway.

        with EntropyClient("localhost:50051", api_key=key) as client:
            entropy = client.get(32)

    `timeout_s` bounds each call, by default 5 s, and 60 s where it asks for `fresh` bytes; a stream waits for each
    message twice as long, so that the server can say first why there is none. Reads above `max_request_bytes` are
    split; set it to the server's maximum when that is lower than 1 MiB. `ca_file` holds the authorities to trust,
    `cert_file` and `key_file` the certificate to show where the server asks for one; all are PEM and imply `tls`.
    A `channel` passed in is used instead of `address` and left open. `api_key_header` names the metadata in which the
    key travels, in lower case. A client is of one process: a forked child makes its own, and calls of this one raise.

    Raises ConfigError for an address, a file or a key that cannot be used, and for plaintext to
    another machine unless `allow_plaintext_beyond_loopback`; InvalidRequestError for a `timeout_s` that is not
    0.001 to 3600, or a maximum out of range.
    """

    def __init__(
        self,
        address: str = "localhost:50051",
        *,
        api_key: str | None = None,
        api_key_header: str = API_KEY_HEADER,
        timeout_s: float | None = None,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        tls: bool = False,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
        allow_plaintext_beyond_loopback: bool = False,
        channel: grpc.Channel | None = None,
    ) -> None:
        self._access = Access(api_key, api_key_header)
        self._requests = RequestBook(max_request_bytes)
        self._patience = Patience(timeout_s)
        self._allowance: Allowance | None = None
        self._address = address if channel is None else "a given channel"
        self._owned: grpc.Channel | None = None
        self._endpoint: Endpoint | None = None
        if channel is None:
            self._endpoint = endpoint_of(address, tls, ca_file, cert_file, key_file, allow_plaintext_beyond_loopback)
            channel = self._owned = open_channel(self._endpoint)
        self._stub = entropy_pb2_grpc.EntropyServiceStub(channel)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **chosen: Unpack[TlsChoice]) -> Self:
        """Make a client from the settings `QR_GRPC_...` that say where a server is and how to get in.

        What is `chosen`, but for None and False, counts more than settings. Raises ConfigError, also for several
        addresses: a gateway is one server.
        """
        return client_by_settings(cls, environ, chosen)

    @property
    def allowance(self) -> Allowance | None:
        """What was left for this client when a call of it last ended. None before, or when the server does not tell."""
        return self._allowance

    def __repr__(self) -> str:
        return f"EntropyClient({self._address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel if this client opened it. Later calls raise ClientClosedError.

        Calls that still run on a channel of this client end with QrngError.
        """
        self._access.close()
        if self._owned is not None:
            self._owned.close()

    def get(self, n: int, **wanted: Unpack[Wanted]) -> Entropy:
        """Return exactly `n` bytes (1 to 1 GiB), such as are `wanted`: see `Wanted` for what may be demanded.

        More than `max_request_bytes` are read in several calls, one after the other, and carry the weakest
        of their labels. When one of them fails, the bytes already claimed are lost.

        Raises InvalidRequestError, AuthenticationError, ForbiddenError, LimitError, PoolShortError,
        WeakerSourceError, DrainingError, ServerUnreachableError or BadReplyError. Their `retry_after_s` says when to
        come back, where the gateway knows: for a LimitError the first moment at which the same call may succeed.
        """
        wish = Wish.of(wanted, "get")
        requests = self._requests.gets(n, wish)
        return join([self._get(request, wish) for request in requests])

    def stream(
        self,
        bytes_per_message: int,
        total: int | None = None,
        **wanted: Unpack[Wanted],
    ) -> Generator[Entropy, None, None]:
        """Iterate over messages of `bytes_per_message` bytes: `total` bytes in all, or without end; each as `wanted`.

        The gateway claims bytes as they are read. Closing the iterator ends the call; what the transport
        had buffered by then is lost. Raises as `get`; bytes received before stay good.
        """
        return self._messages(self._requests.subscription(bytes_per_message, total, Wish.of(wanted, "stream")))

    def status(self) -> GatewayStatus:
        """Return what the gateway says of its pool, collectors and bytes. Raises as `get`."""
        request, timeout_s = entropy_pb2.GetStatusRequest(), self._patience.seconds()
        return read_status(self._answer(self._stub.GetStatus, request, timeout_s))

    def _get(self, request: entropy_pb2.GetEntropyRequest, wish: Wish) -> Entropy:
        reply = self._answer(self._stub.GetEntropy, request, self._patience.seconds(fresh=wish.fresh))
        return read_reply(reply, size=request.bytes_needed, sequence_id=request.sequence_id, wish=wish)

    def _answer(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Reply], request: Request, timeout_s: float
    ) -> Reply:
        try:
            reply, call = method.with_call(request, timeout=timeout_s, metadata=self._access.metadata)
        except grpc.RpcError as error:
            raise self._error(error) from None
        self._note(call.trailing_metadata())
        return reply

    def _messages(self, subscription: Subscription) -> Generator[Entropy, None, None]:
        request, wish = subscription.request, subscription.wish
        call = self._stub.SubscribeEntropy(request, metadata=self._access.metadata)
        with _SilenceWatch(call.cancel, 2 * self._patience.seconds(fresh=wish.fresh)) as watch:
            for size in subscription.sizes():
                with watch.waiting():
                    reply = self._next(call, watch)
                yield read_reply(reply, size=size, sequence_id=request.sequence_id, wish=wish)
            with watch.waiting():
                self._hear_the_end(call)

    def _next(
        self, call: Iterator[entropy_pb2.SubscribeEntropyResponse], watch: _SilenceWatch
    ) -> entropy_pb2.SubscribeEntropyResponse:
        try:
            return next(call)
        except StopIteration:
            raise BadReplyError("the server ended the stream before it was complete") from None
        except grpc.RpcError as error:
            if watch.expired:
                raise ServerUnreachableError("the server sent nothing in time") from None
            raise self._error(error) from None

    def _hear_the_end(self, call: Any) -> None:
        """Learn what is left. All bytes have come, so however the call ends is well."""
        try:
            if next(call, None) is None:
                self._note(call.trailing_metadata())
        except grpc.RpcError:
            pass

    def _error(self, error: grpc.RpcError) -> QrngError:
        call: Any = error  # which is what grpc's calls for threads raise
        self._note(call.trailing_metadata())
        return error_of_call(call.code(), call.trailing_metadata(), self._endpoint, call.details())

    def _note(self, trailers: Iterable[tuple[str, str | bytes]] | None) -> None:
        self._allowance = read_allowance(trailers) or self._allowance


class _SilenceWatch:
    """Cancels a call that keeps its reader waiting for longer than `limit_s`; and in any case at the end.

    A blocking read cannot be given a time of its own, so one thread per stream looks at the time, eight
    times within the limit: a silence is ended after one to 1.125 times the limit.
    """

    def __init__(self, cancel: Callable[[], object], limit_s: float) -> None:
        self._cancel = cancel
        self._limit_s = limit_s
        self._waiting_since: float | None = None
        self._ended = threading.Event()
        self.expired = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._look, name="qrng-silence-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent inside."""
        self._waiting_since = time.monotonic()
        yield
        self._waiting_since = None

    def _look(self) -> None:
        while not self._ended.wait(self._limit_s / 8):
            since = self._waiting_since
            if since is not None and time.monotonic() - since >= self._limit_s:
                self.expired = True
                self._cancel()
                return
