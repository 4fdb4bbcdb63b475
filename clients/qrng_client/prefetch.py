"""Bytes fetched before they are asked for, where settings wish it.

Idea: a `Stock` is bounded in bytes and in age, and gives each byte once. Whoever draws takes from it what is there, or
goes to the source when there is not enough; nobody waits for it. A `Keeper` is the thread that fills it. What comes out
of a stock is said to have been fetched before, since it was not measured after it was asked for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from qrng_client.draws import Piece, joined
from qrng_client.settings import ClientSettings
from qrng_grpc.backoff import Backoff, RetryPolicy
from qrng_grpc.errors import QrngError

STOCK_WAITS = RetryPolicy(initial_s=0.5, maximum_s=30)
"""The waits after a stock could not be filled."""
LOOK_S = 1.0
"""How often a full stock is looked through for bytes that have become too old."""


class Stock:
    """Bytes fetched before they are asked for: so many at most, none older than `max_age_s`, each given once."""

    def __init__(self, settings: ClientSettings, now_s: Callable[[], float] = time.monotonic) -> None:
        self.capacity = settings.prefetch_bytes
        self._max_age_s = settings.prefetch_max_age_s
        self._now_s = now_s
        self._pieces: deque[tuple[float, Piece]] = deque()
        self._lock = threading.Lock()
        self.level = 0
        """Bytes that are there, those too old among them."""

    @property
    def room(self) -> int:
        """How many bytes may be added."""
        self._drop_old()
        return self.capacity - self.level

    def add(self, piece: Piece) -> None:
        """Put `piece` behind what is there."""
        with self._lock:
            self._pieces.append((self._now_s(), piece))
            self.level += len(piece.data)

    def take(self, n: int) -> Piece | None:
        """Return the oldest `n` bytes; None when there are not so many."""
        self._drop_old()
        with self._lock:
            if self.level < n:
                return None
            taken = []
            missing = n
            while missing:
                added_s, piece = self._pieces.popleft()
                rest = piece.data[missing:]
                if rest:
                    self._pieces.appendleft((added_s, Piece(rest, piece.source_class)))
                    piece = Piece(piece.data[:missing], piece.source_class)
                taken.append(piece)
                missing -= len(piece.data)
            self.level -= n
            return joined(taken)

    def _drop_old(self) -> None:
        oldest_s = self._now_s() - self._max_age_s
        with self._lock:
            while self._pieces and self._pieces[0][0] < oldest_s:
                self.level -= len(self._pieces.popleft()[1].data)


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
        """Return `n` bytes of the stock; None when it has not so many."""
        piece = self.stock.take(n)
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
        """Fill no longer."""
        self._closed = True
        self._wake.set()

    def _keep(self) -> None:
        waits = Backoff(STOCK_WAITS)
        while not self._closed:
            self._wake.clear()
            if self.stock.room < self._size:
                self._wake.wait(LOOK_S)
                continue
            try:
                self.stock.add(self._fetch(self._size))
            except QrngError as error:
                self._rest(waits.failed(at_least_s=error.retry_after_s or 0.0))
            else:
                waits.succeeded()

    def _rest(self, wait_s: float) -> None:
        """Wait, whatever is taken meanwhile, unless it is over."""
        end_s = time.monotonic() + wait_s
        while not self._closed and (left_s := end_s - time.monotonic()) > 0:
            self._wake.wait(left_s)
            self._wake.clear()


def portion(capacity: int, most: int) -> int:
    """Return how many bytes are fetched at once into a stock of `capacity`: a quarter of it, and not above `most`."""
    return min(most, -(-capacity // 4))
