"""Bytes fetched before they are asked for, where settings wish it.

Idea: a `Stock` is bounded in bytes and in age, and gives each byte once. Whoever draws takes from it what is there, or
goes to the source when there is not enough; nobody waits for it. A `Keeper` is the thread that fills it. What comes out
of a stock is said to have been fetched before, since it was not measured after it was asked for.

`read_ahead` does the same without a thread, for sources of any kind: there whoever finds too little fetches it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from qrng_client.draws import Piece, joined
from qrng_client.read_ahead import Rest
from qrng_client.settings import ClientSettings
from qrng_grpc.backoff import Backoff, RetryPolicy
from qrng_grpc.errors import QrngError
from qrng_grpc.labels import SourceClass

STOCK_WAITS = RetryPolicy(initial_s=0.5, maximum_s=30)
"""The waits after a stock could not be filled."""
LOOK_S = 1.0
"""How often a full stock is looked through for bytes that have become too old."""


class Stock:
    """Bytes fetched before they are asked for: so many at most, none older than `max_age_s`, each given once.

    Their age counts from before the request that brought them. They are overwritten here as they leave.
    """

    def __init__(self, settings: ClientSettings, now_s: Callable[[], float] = time.monotonic) -> None:
        self.capacity = settings.prefetch_bytes
        self.now_s = now_s
        """The clock of ages."""
        self._max_age_s = settings.prefetch_max_age_s
        self._portions: deque[_Portion] = deque()
        self._lock = threading.Lock()
        self.level = 0
        """Bytes that are there, those too old among them."""

    @property
    def room(self) -> int:
        """How many bytes may be added."""
        with self._lock:
            self._drop_old()
            return self.capacity - self.level

    def add(self, piece: Piece, asked_s: float) -> None:
        """Put `piece`, which was asked for at `asked_s`, behind what is there."""
        with self._lock:
            self._portions.append(_Portion(asked_s, Rest(bytearray(piece.data)), piece.source_class))
            self.level += len(piece.data)

    def take(self, n: int) -> Piece | None:
        """Return the oldest `n` bytes; None when there are not so many."""
        with self._lock:
            self._drop_old()
            if self.level < n:
                return None
            taken = []
            missing = n
            while missing:
                oldest = self._portions[0]
                size = min(missing, len(oldest.rest))
                self.level -= size  # First: an interrupted draw loses bytes, and does not promise any.
                taken.append(Piece(oldest.rest.take(size), oldest.source_class))
                missing -= size
                if not oldest.rest:
                    self._portions.popleft()
        return joined(taken)

    def discard(self) -> None:
        """Overwrite and forget all."""
        with self._lock:
            while self._portions:
                self._drop_oldest()

    def start_anew(self) -> None:
        """Be empty in a forked child, where a lock may be held by a thread that is not there."""
        self._lock = threading.Lock()
        self.discard()

    def _drop_old(self) -> None:
        oldest_s = self.now_s() - self._max_age_s
        while self._portions and self._portions[0].asked_s < oldest_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        rest = self._portions.popleft().rest
        self.level -= len(rest)
        rest.wipe()


@dataclass(frozen=True, slots=True)
class _Portion:
    """What one request brought, as far as it is there."""

    asked_s: float
    rest: Rest
    source_class: SourceClass | None


class Keeper:
    """Fills a stock, in a thread of its own, from the first `take` on."""

    def __init__(self, stock: Stock, fetch: Callable[[int], Piece], most: int) -> None:
        self.stock = stock
        self._fetch = fetch
        self._size = portion(stock.capacity, most)
        self._starting = threading.Lock()
        self._started = False
        self._wake = threading.Event()
        self._closed = False

    def take(self, n: int) -> Piece | None:
        """Return `n` bytes of the stock; None when it has not so many, or is closed."""
        piece = None if self._closed else self.stock.take(n)
        self._wake.set()
        if not self._started:
            self._start()
        return piece

    def _start(self) -> None:
        with self._starting:
            if not self._started and not self._closed:
                self._started = True
                threading.Thread(target=self._keep, name="qrng-prefetch", daemon=True).start()

    def close(self) -> None:
        """Fill no longer, and have nothing."""
        self._closed = True
        self._wake.set()
        self.stock.discard()

    def _keep(self) -> None:
        waits = Backoff(STOCK_WAITS)
        while not self._closed:
            self._wake.clear()
            if self.stock.room < self._size:
                self._wake.wait(LOOK_S)
                continue
            asked_s = self.stock.now_s()
            try:
                self.stock.add(self._fetch(self._size), asked_s)
            except QrngError as error:
                self._pause(waits.failed(at_least_s=error.retry_after_s or 0.0))
            else:
                waits.succeeded()
        self.stock.discard()

    def _pause(self, wait_s: float) -> None:
        """Wait, whatever is taken meanwhile, unless it is over."""
        end_s = time.monotonic() + wait_s
        while not self._closed and (left_s := end_s - time.monotonic()) > 0:
            self._wake.wait(left_s)
            self._wake.clear()


def portion(capacity: int, most: int) -> int:
    """Return how many bytes are fetched at once into a stock of `capacity`: a quarter of it, and not above `most`."""
    return min(most, -(-capacity // 4))
