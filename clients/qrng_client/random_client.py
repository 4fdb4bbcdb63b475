"""Random bytes of any server, or of this machine, for threads.

    with RandomClient(client_settings(os.environ)) as client:
        key = client.read(32)

Idea: settings say where bytes come from, `read(n)` returns exactly n of them or raises. What a client holds open is its
*engine*: channels, counters, what was fetched before. Any number of threads share one. A fork leaves the engine to
the parent; the child gets a new one with its first draw, so that no byte and no connection is in two processes.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from qrng_client.access import ClientClosedError
from qrng_client.caller import Caller, open_caller
from qrng_client.diagnosis import MISTAKES
from qrng_client.draws import (
    Acceptance,
    Books,
    Draw,
    Piece,
    Sizes,
    check_mixing,
    joined,
    mix_input,
    mixed,
)
from qrng_client.forking import tell_of_forks
from qrng_client.health import health_of
from qrng_client.local import local_bytes
from qrng_client.prefetch import Keeper, Stock
from qrng_client.requests import MAX_GET_BYTES, checked_size
from qrng_client.route import Route
from qrng_client.servers import open_callers
from qrng_client.settings import CLASS_OF, ClientSettings, client_settings
from qrng_grpc.errors import QrngError, SourceError, WeakerSourceError

_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
_YES = ("1", "true", "t", "yes", "y", "on")


class RandomClient:
    """Random bytes from wherever `settings` say; by default from this machine, and no server is needed.

    Nothing is opened before the first draw. Raises ConfigValidationError for settings that cannot work.
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self._settings = settings or ClientSettings()
        self._settings.check_source_is_said()
        self._closed = False
        self._grpc_was_used = False
        self._making = threading.Lock()
        self._engine: _Engine | None = _Engine(self._settings)
        weakref.finalize(self, self._engine.close)
        tell_of_forks(self)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, *, env_files: Sequence[Path] = ()) -> Self:
        """Make a client from the settings in `environ`, by default that of this process, above those in `env_files`."""
        return cls(client_settings(os.environ if environ is None else environ, env_files=env_files))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.entropy_source_type!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open. Draws that still run, and later ones, raise ClientClosedError."""
        self._closed = True
        if self._engine is not None:
            self._engine.close()

    def read(self, n: int) -> bytes:
        """Return exactly `n` bytes, 1 to 1 GiB. As `draw`, without what is known of them."""
        return (self._engine or self._new_engine()).read(n)

    def draw(self, n: int) -> Draw:
        """Return exactly `n` bytes, 1 to 1 GiB, and what is known of them.

        More than `grpc_max_request_bytes` are asked for in several requests, one after the other; when one fails, what
        the others brought is lost. Raises InvalidRequestError, AuthenticationError, ForbiddenError, UnsupportedError,
        LimitError, PoolShortError, DrainingError, WeakerSourceError, ServerUnreachableError, BadReplyError or
        SourceError: with a fall-back only the first four, since those it would merely hide.
        """
        return (self._engine or self._new_engine()).draw(n)

    def health_check(self) -> dict[str, Any]:
        """Return how the source does, as far as draws have shown; nothing is asked for it. Holds no key."""
        return (self._engine or self._new_engine()).health()

    def before_fork(self) -> None:
        """Have no thread inside grpc; called by `qrng_client.forking`."""
        if self._engine is not None:
            self._engine.be_still()

    def in_child(self) -> None:
        """Leave the engine to the parent; called by `qrng_client.forking`."""
        self._making = threading.Lock()
        if self._engine is not None:
            self._grpc_was_used = self._grpc_was_used or self._engine.opened
            _ABANDONED.append(self._engine)
            self._engine.leave()
            self._engine = None if not self._closed else self._engine

    def _new_engine(self) -> _Engine:
        """Return the engine of a process that was forked. Raises QrngError where grpc was kept from surviving that."""
        with self._making:
            if self._closed:
                raise ClientClosedError("the client is closed")
            if self._grpc_was_used and os.environ.get(_FORK_SUPPORT, "1").lower() not in _YES:
                raise QrngError(f"grpc cannot be used after a fork: {_FORK_SUPPORT} forbids it")
            if self._engine is None:
                self._engine = _Engine(self._settings)
                weakref.finalize(self, self._engine.close)
            return self._engine


def open_client(environ: Mapping[str, str] | None = None, *, env_files: Sequence[Path] = ()) -> RandomClient:
    """Return a client with the settings in `environ`, by default that of this process, above those in `env_files`."""
    return RandomClient.from_environment(environ, env_files=env_files)


class _Engine:
    """What a client holds open, in one process."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._kind = settings.entropy_source_type
        self._mixes = settings.local_mixing
        self._books = Books(settings)
        self._route: Route | None = None
        self._callers: tuple[Caller, ...] = ()
        self._fallback: Callable[[int], bytes] | None = None
        self._closing = threading.Event()
        self._closed = False
        if self._mixes:
            check_mixing()
        if self._kind == "quantum_grpc":
            self._open_servers()
        else:
            self._local = local_bytes(self._kind, settings.mock_seed)
        self._keeper: Keeper | None = None
        if settings.prefetch_bytes:
            self._keeper = Keeper(Stock(settings), self._fetch, settings.grpc_max_request_bytes)
        self._pid = os.getpid()

    def _open_servers(self) -> None:
        settings = self._settings
        self._callers = open_callers(settings, open_caller)
        self._route = Route(settings)
        self._acceptance, self._sizes = Acceptance(settings), Sizes(settings)
        if settings.fallback_mode != "error":
            self._fallback = local_bytes(settings.fallback_mode, settings.mock_seed)

    @property
    def opened(self) -> bool:
        """Whether grpc was used."""
        return any(caller.opened for caller in self._callers)

    def read(self, n: int) -> bytes:
        try:
            piece, _ = self._taken(n)
        except QrngError as error:
            failure = error
        else:
            self._books.count(n)
            return piece.data
        return self._instead(n, failure).data

    def draw(self, n: int) -> Draw:
        try:
            piece, prefetched = self._taken(n)
        except QrngError as error:
            failure = error
        else:
            return self._books.drew(piece, prefetched=prefetched)
        return self._instead(n, failure)

    def _instead(self, n: int, failure: QrngError) -> Draw:
        """Return what the fall-back has. Raises `failure` where there is none, or it would hide a mistake."""
        if self._fallback is None or isinstance(failure, (*MISTAKES, ClientClosedError)):
            self._books.failed()
            raise failure
        return self._books.fell_back(self._fallback(n), self._settings.fallback_mode, failure, stacklevel=5)

    def health(self) -> dict[str, Any]:
        stock = self._keeper.stock if self._keeper else None
        return health_of(self._settings, self._route, self._books, stock, closed=self._closed)

    def be_still(self) -> None:
        for caller in self._callers:
            caller.be_still()

    def close(self) -> None:
        if os.getpid() != self._pid:
            return
        self._closed = True
        self._closing.set()
        if self._keeper is not None:
            self._keeper.close()
        for caller in self._callers:
            caller.close()

    def leave(self) -> None:
        """Be the parent's, in a child: what was fetched before is overwritten here."""
        if self._keeper is not None:
            self._keeper.stock.start_anew()

    def _taken(self, n: int) -> tuple[Piece, bool]:
        """Return `n` bytes of the source, mixed if that is wished, and whether they were fetched before."""
        checked_size(n, "n", MAX_GET_BYTES)
        if self._closed:
            raise ClientClosedError("the client is closed")
        if not self._mixes and self._keeper is None:
            return self._fetch(n), False
        needed = mix_input(n) if self._mixes else n
        piece = None if self._keeper is None else self._keeper.take(needed)
        prefetched = piece is not None
        piece = piece or self._fetch(needed)
        return (mixed(piece, n) if self._mixes else piece), prefetched

    def _fetch(self, n: int) -> Piece:
        if self._route is None:
            return Piece(self._local(n), CLASS_OF[self._kind])
        if self._sizes.least <= n <= self._sizes.most:
            return self._asked(n, n, self._route)
        return joined([self._asked(part, size, self._route) for part, size in self._sizes.parts(n)])

    def _asked(self, part: int, size: int, route: Route) -> Piece:
        """Return `part` bytes of a reply of `size`, after as many attempts as it takes and may take."""
        server, attempts = route.first(), None
        while True:
            start_s = time.perf_counter()
            try:
                reply = self._callers[server.number].ask(size, route.deadline.seconds())
                piece = self._acceptance.accept(reply, part)
            except (SourceError, WeakerSourceError) as error:
                failure = error
            else:
                route.answered(server, time.perf_counter() - start_s)
                return piece
            attempts = attempts or route.attempts()
            server, wait_s = attempts.failed(server, failure, time.perf_counter() - start_s)
            if self._closing.wait(wait_s):
                raise ClientClosedError("the client is closed")


_ABANDONED: list[_Engine] = []
"""Engines of a parent process. They are kept, since what they hold cannot be closed from here."""
