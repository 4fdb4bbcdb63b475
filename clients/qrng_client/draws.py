"""What a RandomClient gives: bytes, where they came from, and how often that was not where they should have.

Idea: nothing here knows of event loops or networks. A `Piece` is what one exchange brought, checked against what is
accepted; pieces become a `Draw`, mixed with this machine's randomness if that is wished; and the `Books` count. A
fall-back never passes unseen: its draws say so, and a `FallbackWarning` tells how often, at the first, second,
fourth, eighth time and so on.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qrng_client.settings import CLASS_OF, ClientSettings, ConfigValidationError, FallbackMode, SourceKind
from qrng_grpc.chunk import BlockLabel
from qrng_grpc.errors import QrngError, WeakerSourceError
from qrng_grpc.generic_codec import MalformedReplyError, Reply
from qrng_grpc.labels import Custody, Processing, SourceClass
from qrng_grpc.wire import CLASSES

MIX_INPUT_BYTES, MIX_OUTPUT_BYTES = 40, 32
"""Mixing turns so many bytes of a source, and as many of this machine, into so many (NIST SP 800-90C: n + 64 bits)."""

_LOG = logging.getLogger("qrng_client")
_LOG.addHandler(logging.NullHandler())  # Unless somebody wants the log, the warning is enough.
REMEMBERED_REPLIES = 1024
"""So many replies back one is known again."""
KNOWN_BY_BYTES = 8
"""By so many first bytes. By chance, one reply in 2**53 begins as one of the remembered does."""


class FallbackWarning(UserWarning):
    """Bytes came from the fall-back instead of the source that was asked for."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Random bytes, and what is known of them. `bytes(draw)` is its data; `repr` never shows it."""

    data: bytes = field(repr=False)
    source: SourceKind
    """The kind of source they came from: of a fall-back its own."""
    source_class: SourceClass | None
    """The class of the weakest of them; None where neither the server nor the settings state one."""
    from_fallback: bool = False
    """Whether they came from the fall-back, since the source failed."""
    mixed: bool = False
    """Whether they were mixed with this machine's randomness."""
    prefetched: bool = False
    """Whether they were fetched before they were asked for."""
    draws: int = 0
    """How many draws the client has given, this one included."""
    fallbacks: int = 0
    """How many of these came from the fall-back."""

    def __bytes__(self) -> bytes:
        return self.data

    def __len__(self) -> int:
        return len(self.data)


@dataclass(slots=True)  # Not frozen, since one is made for every exchange, and a frozen one takes thrice as long.
class Piece:
    """What a source brought."""

    data: bytes = field(repr=False)
    source_class: SourceClass | None


class Acceptance:
    """What a server's replies must be, beyond their size.

    A reply that begins as an earlier one did is that reply again, from a cache or a generator that is stuck, and would
    make two callers draw the same. Such accidents are what is found out. No check of bytes proves them random: who
    wants to foresee them sends different ones each time. Shorter replies than `KNOWN_BY_BYTES` are alike by chance, and
    those stated to be simulated may repeat, so neither are judged.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._stated = settings.grpc_source_class
        self._least = settings.least_class
        self._beginnings: OrderedDict[int, None] = OrderedDict()
        """Hashes of what replies began with, the oldest first. No byte of a reply is kept."""
        self._lock = threading.Lock()

    def accept(self, reply: Reply, size: int) -> Piece:
        """Return the first `size` bytes of `reply`. Raises MalformedReplyError and WeakerSourceError."""
        source_class = self._stated
        if reply.class_number is not None:
            source_class = CLASSES.from_proto(reply.class_number)
            if source_class is None:
                raise MalformedReplyError("the reply states no class of source that is known")
        if self._least is not None and (source_class is None or not source_class.at_least(self._least)):
            raise WeakerSourceError("the reply is of a weaker class than QR_LEAST_CLASS")
        data = reply.data
        if len(data) >= KNOWN_BY_BYTES and source_class is not SourceClass.SIMULATED:
            self._remember(hash(data[:KNOWN_BY_BYTES]))
        return Piece(data if len(data) == size else data[:size], source_class)

    def _remember(self, beginning: int) -> None:
        with self._lock:
            if beginning in self._beginnings:
                raise MalformedReplyError("the reply repeats one that came before")
            self._beginnings[beginning] = None
            if len(self._beginnings) > REMEMBERED_REPLIES:
                self._beginnings.popitem(last=False)


class Sizes:
    """How many bytes are asked for at once."""

    def __init__(self, settings: ClientSettings) -> None:
        self.least, self.most = settings.grpc_min_request_bytes, settings.grpc_max_request_bytes

    def parts(self, n: int) -> Iterator[tuple[int, int]]:
        """Yield, for `n` bytes in all, how many are needed of each request and how many it asks for."""
        for at in range(0, n, self.most):
            part = min(self.most, n - at)
            yield part, max(part, self.least)


def joined(pieces: Sequence[Piece]) -> Piece:
    """Return `pieces`, at least one, as one, of the weakest of their classes."""
    if len(pieces) == 1:
        return pieces[0]
    classes = [piece.source_class for piece in pieces]
    known = [source_class for source_class in classes if source_class is not None]
    weakest = max(known, key=lambda source_class: source_class.rank) if len(known) == len(classes) else None
    return Piece(b"".join(piece.data for piece in pieces), weakest)


def mix_input(n: int) -> int:
    """Return how many bytes of a source it takes to mix `n`."""
    return -(-n // MIX_OUTPUT_BYTES) * MIX_INPUT_BYTES


def check_mixing() -> None:
    """Raise ConfigValidationError when mixing cannot be done here."""
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigValidationError(["local_mixing: needs the package cryptography"])


def mixed(piece: Piece, n: int) -> Piece:
    """Return `n` bytes made of `piece`, `mix_input(n)` long, and as many of this machine's.

    Its class is the better of the two, as the collector has it: either alone would carry the result. What is SIMULATED
    or of no stated class stays so.
    """
    from qrng_grpc.sources.mixing import Leg, hkdf  # noqa: PLC0415  # cryptography is for those who mix

    def leg(device_id: str, source_class: SourceClass, data: bytes) -> Leg:
        return Leg(data, BlockLabel((device_id,), source_class, Processing.NONE, Custody.LOCAL), 8.0)

    stated = piece.source_class or SourceClass.OPERATING_SYSTEM
    local = os.urandom(len(piece.data))
    result = hkdf([leg("source", stated, piece.data), leg("os", SourceClass.OPERATING_SYSTEM, local)], n)
    return Piece(result.data, None if piece.source_class is None else result.label.source_class)


class Books:
    """What a client counts."""

    def __init__(self, settings: ClientSettings) -> None:
        self._kind = settings.entropy_source_type
        self._mixes = settings.local_mixing
        self._lock = threading.Lock()
        self.draws = 0
        self.drawn_bytes = 0
        self.fallbacks = 0
        self.failed_draws = 0

    def count(self, n: int) -> int:
        """Count a draw of `n` bytes of the source; return how many draws there were."""
        with self._lock:
            self.draws = draws = self.draws + 1
            self.drawn_bytes += n
        return draws

    def drew(self, piece: Piece, *, prefetched: bool = False) -> Draw:
        """Return what the source brought as a draw."""
        draws = self.count(len(piece.data))
        return Draw(piece.data, self._kind, piece.source_class, False, self._mixes, prefetched, draws, self.fallbacks)

    def fell_back(self, data: bytes, mode: FallbackMode, failure: QrngError, *, stacklevel: int) -> Draw:
        """Return what the fall-back brought as a draw, and warn of it, so many calls above."""
        kind: SourceKind = "system" if mode == "system" else "mock_uniform"
        draws = self.count(len(data))
        with self._lock:
            self.fallbacks = fallbacks = self.fallbacks + 1
        if fallbacks & (fallbacks - 1) == 0:
            text = f"{fallbacks} of {draws} draws came from the fall-back {kind} (QR_FALLBACK_MODE): {failure}"
            _LOG.warning(text)
            warnings.warn(text, FallbackWarning, stacklevel=stacklevel)
        return Draw(data, kind, CLASS_OF[kind], True, False, False, draws, fallbacks)

    def failed(self) -> None:
        """Count a draw that gave nothing."""
        with self._lock:
            self.failed_draws += 1

    def health(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "draws": self.draws,
            "drawn_bytes": self.drawn_bytes,
            "failed_draws": self.failed_draws,
            "fallbacks": self.fallbacks,
        }
