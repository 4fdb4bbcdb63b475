"""Random bytes of any server, or of this machine, for asyncio.

    async with AsyncRandomClient(client_settings(os.environ)) as client:
        key = await client.read(32)

Idea: the same settings, checks, retries and labels as the client for threads; the exchanges are those of the
collector's gRPC source. A client belongs to the event loop of its first draw. A loop does not outlive a fork, and
neither does a client: make a new one in the child.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from qrng_client.access import ClientClosedError
from qrng_client.diagnosis import MISTAKES
from qrng_client.draws import Acceptance, Books, Draw, Piece, Sizes, check_mixing, joined, mix_input, mixed
from qrng_client.health import health_of
from qrng_client.prefetch import LOOK_S, STOCK_WAITS, Stock, portion
from qrng_client.requests import MAX_GET_BYTES, checked_size
from qrng_client.route import Route
from qrng_client.servers import open_callers
from qrng_client.settings import CLASS_OF, ClientSettings, SourceKind, client_settings
from qrng_grpc.backoff import Backoff
from qrng_grpc.errors import QrngError, SourceError, WeakerSourceError
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.grpc import GrpcCaller
from qrng_grpc.sources.jitter import JitterSource
from qrng_grpc.sources.mock import MockSource
from qrng_grpc.sources.system import SystemSource


class AsyncRandomClient:
    """Random bytes from wherever `settings` say; by default from this machine, and no server is needed.

    Nothing is opened before the first draw. Raises ConfigValidationError for settings that cannot work.
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self._settings = settings = settings or ClientSettings()
        settings.check_source_is_said()
        self._kind = settings.entropy_source_type
        self._books = Books(settings)
        self._route: Route | None = None
        self._callers: tuple[GrpcCaller, ...] = ()
        self._fallback: EntropySource | None = None
        self._sources: list[EntropySource] = []
        """Those of this machine that are read."""
        self._closing = asyncio.Event()
        self._pid = os.getpid()
        if settings.local_mixing:
            check_mixing()
        if self._kind == "quantum_grpc":
            self._open_servers()
        else:
            self._local = _local_source(self._kind, settings.mock_seed)
            self._sources.append(self._local)
        self._stock = Stock(settings) if settings.prefetch_bytes else None
        self._wake = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None

    def _open_servers(self) -> None:
        settings = self._settings
        self._callers = open_callers(settings, lambda endpoint, method, key: GrpcCaller(endpoint, method, api_key=key))
        self._route = Route(settings)
        self._acceptance, self._sizes = Acceptance(settings), Sizes(settings)
        if settings.fallback_mode != "error":
            self._fallback = _local_source(settings.fallback_mode, settings.mock_seed)
            self._sources.append(self._fallback)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, *, env_files: Sequence[Path] = ()) -> Self:
        """Make a client from the settings in `environ`, by default that of this process, above those in `env_files`."""
        return cls(client_settings(os.environ if environ is None else environ, env_files=env_files))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kind!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what is open. Draws that still run, and later ones, raise ClientClosedError."""
        self._closing.set()
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        if self._stock is not None:
            self._stock.discard()
        for caller in self._callers:
            await caller.close()
        for source in self._sources:
            await source.close()

    async def read(self, n: int) -> bytes:
        """Return exactly `n` bytes, 1 to 1 GiB. As `draw`, without what is known of them."""
        return (await self.draw(n)).data

    async def draw(self, n: int) -> Draw:
        """Return exactly `n` bytes, 1 to 1 GiB, and what is known of them.

        As `RandomClient.draw`. Cancelled, it drops its call, and the bytes with it.
        """
        checked_size(n, "n", MAX_GET_BYTES)
        self._check_open()
        try:
            return await self._drawn(n)
        except QrngError as error:
            failure = error
        self._check_open()
        if self._fallback is None or isinstance(failure, MISTAKES):
            self._books.failed()
            raise failure
        data = await self._fallback.read(n)
        return self._books.fell_back(data, self._settings.fallback_mode, failure, stacklevel=3)

    def health_check(self) -> dict[str, Any]:
        """Return how the source does, as far as draws have shown; nothing is asked for it. Holds no key."""
        return health_of(self._settings, self._route, self._books, self._stock, closed=self._closing.is_set())

    async def _drawn(self, n: int) -> Draw:
        needed = mix_input(n) if self._settings.local_mixing else n
        piece = self._stocked(needed, self._stock) if self._stock is not None else None
        prefetched = piece is not None
        piece = piece or await self._fetch(needed)
        if self._settings.local_mixing:
            piece = mixed(piece, n)
        return self._books.drew(piece, prefetched=prefetched)

    async def _fetch(self, n: int) -> Piece:
        if self._route is None:
            return Piece(await self._local.read(n), CLASS_OF[self._kind])
        return joined([await self._asked(part, size, self._route) for part, size in self._sizes.parts(n)])

    async def _asked(self, part: int, size: int, route: Route) -> Piece:
        """Return `part` bytes of a reply of `size`, after as many attempts as it takes and may take."""
        server, attempts = route.first(), None
        while True:
            start_s = time.perf_counter()
            try:
                reply = await self._callers[server.number].ask(size, timeout_s=route.deadline.seconds())
                piece = self._acceptance.accept(reply, part)
            except (SourceError, WeakerSourceError) as error:
                failure = error
            else:
                route.answered(server, time.perf_counter() - start_s)
                return piece
            self._check_open()
            attempts = attempts or route.attempts()
            server, wait_s = attempts.failed(server, failure, time.perf_counter() - start_s)
            await self._wait(wait_s)

    async def _wait(self, wait_s: float) -> None:
        """Wait, unless the client is closed meanwhile: then raise ClientClosedError."""
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await self._closing.wait()
            except TimeoutError:
                return
        self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ClientClosedError("the client is closed")
        if os.getpid() != self._pid:
            raise QrngError("this client belongs to the parent process; make a new one after a fork")

    def _stocked(self, n: int, stock: Stock) -> Piece | None:
        """Take `n` bytes from the stock, if it has them, and have it filled."""
        if self._filling is None:
            self._filling = asyncio.create_task(self._fill(stock))
        self._wake.set()
        return stock.take(n)

    async def _fill(self, stock: Stock) -> None:
        """Fetch whenever there is room, until the client is closed."""
        waits = Backoff(STOCK_WAITS)
        size = portion(stock.capacity, self._settings.grpc_max_request_bytes)
        while True:
            self._wake.clear()
            if stock.room < size:
                await _at_most(LOOK_S, self._wake.wait)
                continue
            asked_s = stock.now_s()
            try:
                stock.add(await self._fetch(size), asked_s)
            except QrngError as error:
                await asyncio.sleep(waits.failed(at_least_s=error.retry_after_s or 0.0))
            else:
                waits.succeeded()


async def _at_most(seconds: float, waiting: Callable[[], Awaitable[object]]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await waiting()
    except TimeoutError:
        pass


def _local_source(kind: SourceKind, seed: int) -> EntropySource:
    if kind == "timing_noise":
        return JitterSource()
    return MockSource(seed) if kind == "mock_uniform" else SystemSource()
