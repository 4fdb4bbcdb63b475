"""Mixing: one stream of bytes out of several sources, and what may be said of it.

Idea: mixing must never make bytes look better than they are. Each *leg* comes with its bytes, their
label and the entropy assessed for each byte. Before anything is put out, the books are checked: a leg
*carries* the output if it is independent of the others and alone brings the entropy that the output
claims. The label then says only what a carrying leg can vouch for, and without one there is no output.

    concat   the legs' bytes one after the other, unchanged. It claims what the legs bring, no more.
    xor      byte by byte. It claims `xor_bits_per_byte`; a leg assessed at less does not carry it.
    hkdf     32 bytes at a time, each from fresh input: a leg carries if it brings 256 + 64 bits for
             every 32 bytes (NIST SP 800-90C: n + 64 bits in for n bits of full entropy out).

Class: `concat` has that of its weakest leg, `xor` and `hkdf` that of the strongest leg which carries;
anything with SIMULATED in it is SIMULATED. Processing of `xor` and `hkdf` is MIXED. Verdict: PASSED if
every leg passed. Custody: `concat` is REMOTE if any leg is. `xor` and `hkdf` are LOCAL if a LOCAL leg
carries: whoever knows every other leg then still knows nothing of the output. Class and custody may
rest on different legs: a remote quantum service mixed with the local operating system is QUANTUM and
LOCAL, and unknown to that service by the strength of the operating system's randomness. The device ids
in the label and MIXED tell so.

Independent is a leg that shares no device with another and whose bytes are not another's: xor of a
source with itself is zero. Healthy is whatever is here: a block that failed its tests was discarded, so
its leg is *missing*. That stops the output or weakens its label, as set, and is never hidden.

HKDF is RFC 5869 with SHA-512, salt "qrng.mix.hkdf.sha512", info "qrng.mix.block" and one extract per 32
bytes, from each leg's share behind its length (4 bytes, big-endian). SHA-512, because the key between
extract and expand is then 512 bits wide, so that both steps see n + 64 bits. No counter is mixed in:
should all legs repeat themselves, so does the output, and tests behind the mix see it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qrng_grpc.chunk import MAX_DEVICE_IDS, BlockLabel
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from qrng_grpc.errors import SourceError
from qrng_grpc.labels import Custody, HealthVerdict, Processing, SourceClass, strictest_class, weakest_class
from qrng_grpc.sources import EntropySource
from qrng_grpc.wording import came_instead

MixingStrategy = Literal["none", "concat", "xor", "hkdf"]
"""`none`: every source stands alone, and nothing of this module is needed."""

HKDF_BLOCK_BYTES = 32
HKDF_BLOCK_BITS_IN = 8 * HKDF_BLOCK_BYTES + 64
"""What a leg must bring for one block: n + 64 bits for n bits out."""
XOR_BITS_PER_BYTE = 7.0
"""What `xor` claims a byte, unless told otherwise."""
LEG_TIMEOUT_S = 5.0
LONGEST_LEG_TIMEOUT_S = 86_400.0
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0

_HKDF_SALT = b"qrng.mix.hkdf.sha512"
_HKDF_INFO = b"qrng.mix.block"
_REPETITION_BYTES = 16
"""Two legs that agree in so many first bytes are one source: by chance that happens once in 2**128."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What one source brought to a mix.

    `bits_per_byte` is its assessed entropy, above 0 and at most 8; ValueError beyond.
    """

    data: bytes = field(repr=False)
    label: BlockLabel
    bits_per_byte: float

    def __post_init__(self) -> None:
        """Refuse an assessment that cannot be."""
        _check_assessment(self.bits_per_byte)

    @property
    def bits(self) -> float:
        """The entropy it brings."""
        return len(self.data) * self.bits_per_byte


@dataclass(frozen=True, slots=True)
class Mixed:
    """What came out, and the books of it."""

    data: bytes = field(repr=False)
    label: BlockLabel
    claimed_bits: float
    """The entropy the output claims, never more than the carrying leg, or with concat all legs, brought."""
    consumed_bits: float
    """The entropy of all legs' bytes, which are gone now."""
    used_up_bytes: int
    """Bytes of the legs beyond those of the output: used up by conditioning."""


def concat(legs: Sequence[Leg]) -> Mixed:
    """Return the legs' bytes in order. Raises ValueError without legs."""
    data = b"".join(leg.data for leg in legs)
    labels = [leg.label for leg in legs]
    processings = {label.processing for label in labels}
    label = BlockLabel(
        _device_ids(labels),
        weakest_class(label.source_class for label in labels),
        Processing.MIXED if Processing.MIXED in processings else Processing.NONE,
        _remote_if_any(labels),
        _passed_if_all(labels),
    )
    return Mixed(data, label, claimed_bits=_bits(legs), consumed_bits=_bits(legs), used_up_bytes=0)


def xor(legs: Sequence[Leg], bits_per_byte: float = XOR_BITS_PER_BYTE) -> Mixed:
    """Return the legs' bytes, all equally many, combined by exclusive or.

    The output claims `bits_per_byte`. One leg alone comes out as it is, and is not called MIXED. Raises
    SourceError when no leg carries, and ValueError for unequal lengths or without legs.
    """
    size = len(legs[0].data) if legs else 0
    if not size or any(len(leg.data) != size for leg in legs):
        raise ValueError("xor takes legs of one length")
    carrying = [leg for leg in _independent(legs) if leg.bits_per_byte >= bits_per_byte]
    processing = Processing.MIXED if len(legs) > 1 else legs[0].label.processing
    label = _vouched_label([leg.label for leg in legs], [leg.label for leg in carrying], processing)
    combined = 0
    for leg in legs:
        combined ^= int.from_bytes(leg.data, "big")
    used_up = (len(legs) - 1) * size
    return Mixed(combined.to_bytes(size, "big"), label, size * bits_per_byte, _bits(legs), used_up)


def hkdf(legs: Sequence[Leg], size: int) -> Mixed:
    """Return `size` bytes of full entropy, each 32 of them from input of their own.

    Every leg's bytes are dealt out evenly to the blocks; `hkdf_input_bytes` says how many a leg needs. The
    last block is paid for in full even if it is cut. Raises SourceError when no leg carries, and
    ValueError for a size below 1 or without legs.
    """
    if size < 1 or not legs:
        raise ValueError("hkdf makes at least one byte of at least one leg")
    blocks = _blocks(size)
    carrying = [leg for leg in _independent(legs) if _bits_of_smallest_share(leg, blocks) >= HKDF_BLOCK_BITS_IN]
    label = _vouched_label([leg.label for leg in legs], [leg.label for leg in carrying], Processing.MIXED)
    data = b"".join(_hkdf_block(_keying_material(legs, block, blocks)) for block in range(blocks))[:size]
    used_up = sum(len(leg.data) for leg in legs) - size
    return Mixed(data, label, 8.0 * size, _bits(legs), used_up)


def hkdf_input_bytes(size: int, bits_per_byte: float) -> int:
    """Return how many bytes a leg needs to carry `size` bytes of `hkdf`. Raises ValueError for no such assessment."""
    _check_assessment(bits_per_byte)
    share = math.ceil(HKDF_BLOCK_BITS_IN / bits_per_byte)
    # The division may have been rounded down to a whole number.
    share += share * bits_per_byte < HKDF_BLOCK_BITS_IN
    return _blocks(size) * share


def _blocks(size: int) -> int:
    return -(-size // HKDF_BLOCK_BYTES)


def _bits_of_smallest_share(leg: Leg, blocks: int) -> float:
    return len(leg.data) // blocks * leg.bits_per_byte


def _keying_material(legs: Sequence[Leg], block: int, blocks: int) -> bytes:
    """Return the shares of one block, each behind its length, so that no two sets of shares look alike."""
    parts = []
    for leg in legs:
        start, end = (len(leg.data) * edge // blocks for edge in (block, block + 1))
        parts += [(end - start).to_bytes(4, "big"), leg.data[start:end]]
    return b"".join(parts)


def _hkdf_block(keying_material: bytes) -> bytes:
    return HKDF(hashes.SHA512(), HKDF_BLOCK_BYTES, _HKDF_SALT, _HKDF_INFO).derive(keying_material)


def _independent(legs: Sequence[Leg]) -> list[Leg]:
    """Return the legs that share neither a device nor their bytes with another."""
    devices = Counter(device_id for leg in legs for device_id in leg.label.device_ids)
    beginnings = Counter(leg.data[:_REPETITION_BYTES] for leg in legs)
    return [
        leg
        for leg in legs
        if all(devices[device_id] == 1 for device_id in leg.label.device_ids)
        and (len(leg.data) < _REPETITION_BYTES or beginnings[leg.data[:_REPETITION_BYTES]] == 1)
    ]


def _vouched_label(labels: Sequence[BlockLabel], carrying: Sequence[BlockLabel], processing: Processing) -> BlockLabel:
    """Return the label that the carrying legs vouch for. Raises SourceError when there are none."""
    if not carrying:
        raise SourceError("no source alone brings the entropy that the mix would claim")
    classes = [label.source_class for label in labels]
    simulated = SourceClass.SIMULATED in classes
    # Everybody can compute a simulated leg, so it keeps nothing from anybody, unless all are of its kind.
    keepers = [label for label in carrying if label.source_class is not SourceClass.SIMULATED] or carrying
    local = any(label.custody is Custody.LOCAL for label in keepers)
    return BlockLabel(
        _device_ids(labels),
        SourceClass.SIMULATED if simulated else strictest_class(label.source_class for label in carrying),
        processing,
        Custody.LOCAL if local else Custody.REMOTE,
        _passed_if_all(labels),
    )


def _device_ids(labels: Iterable[BlockLabel]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(device_id for label in labels for device_id in label.device_ids))


def _remote_if_any(labels: Iterable[BlockLabel]) -> Custody:
    return Custody.REMOTE if any(label.custody is Custody.REMOTE for label in labels) else Custody.LOCAL


def _passed_if_all(labels: Iterable[BlockLabel]) -> HealthVerdict:
    passed = all(label.health_verdict is HealthVerdict.PASSED for label in labels)
    return HealthVerdict.PASSED if passed else HealthVerdict.UNTESTED


def _bits(legs: Iterable[Leg]) -> float:
    return sum(leg.bits for leg in legs)


def _check_assessment(bits_per_byte: float) -> None:
    if not 0 < bits_per_byte <= 8:
        raise ValueError("assessed entropy is above 0 and at most 8 bits a byte")


class LabelledSource(Protocol):
    """A source whose bytes may be labelled differently from read to read."""

    @property
    def label(self) -> BlockLabel:
        """The label of the latest read; before the first, what is to be expected."""
        ...

    async def read_labelled(self, size: int) -> tuple[bytes, BlockLabel]:
        """Return exactly `size` bytes, at least 1, never returned before, and what they are. Raises SourceError."""
        ...

    async def close(self) -> None:
        """Let go of everything; closing twice does no harm."""
        ...


class ConstantLabel:
    """A source with a constant label, as one that tells the label with every read."""

    def __init__(self, source: EntropySource) -> None:
        self._source = source

    @property
    def label(self) -> BlockLabel:
        """The label of all its bytes."""
        return self._source.label

    async def read_labelled(self, size: int) -> tuple[bytes, BlockLabel]:
        """Read, and add the label. Raises SourceError."""
        return await self._source.read(size), self._source.label

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()


@dataclass(frozen=True, slots=True)
class LegSource:
    """A source of a mix: its assessed entropy (above 0, at most 8 bits a byte) and its patience.

    Raises ValueError for numbers out of their range.
    """

    source: LabelledSource
    bits_per_byte: float
    timeout_s: float = LEG_TIMEOUT_S

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        _check_assessment(self.bits_per_byte)
        if not 0 < self.timeout_s <= LONGEST_LEG_TIMEOUT_S:
            raise ValueError("a leg gets more than 0 seconds and at most a day")


@dataclass(slots=True)
class MixCounters:
    """Bytes a mix took from its sources and what became of them. Exact while no read runs."""

    taken_bytes: int = 0
    delivered_bytes: int = 0
    used_up_bytes: int = 0

    @property
    def discarded_bytes(self) -> int:
        """Bytes of reads that failed or were cancelled before they could be mixed."""
        return self.taken_bytes - self.delivered_bytes - self.used_up_bytes


class MixedSource:
    """Several sources as one, read in parallel. `label` is that of the latest read.

    `on_missing_leg="stop"`: a read that misses a leg raises SourceError. `"degrade"`: the others go on, and
    their label, device ids included, says so; `missing` names the devices. A leg that failed rests for as
    long as its source said, at least 1 second, then 2, up to 60, and is not waited for meanwhile.

    Needs at least two legs, which share no device and name at most 8, and for `xor` one that carries.
    Raises ValueError otherwise. The sources belong to the mix: `close` closes them.
    """

    def __init__(
        self,
        strategy: MixingStrategy,
        legs: Sequence[LegSource],
        *,
        on_missing_leg: Literal["stop", "degrade"] = "stop",
        xor_bits_per_byte: float = XOR_BITS_PER_BYTE,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if strategy == "none" or len(legs) < 2:
            raise ValueError("a mix needs a strategy and at least two sources")
        _check_assessment(xor_bits_per_byte)
        self._strategy = strategy
        self._stops = on_missing_leg == "stop"
        self._xor_bits_per_byte = xor_bits_per_byte
        self.counters = MixCounters()
        self._feeders = [_Feeder(leg, self.counters, clock) for leg in legs]
        self._label = _expected_label(strategy, legs, xor_bits_per_byte)
        self._closed = False

    @property
    def label(self) -> BlockLabel:
        """What the bytes of the latest read are; before the first, what they are if every leg answers."""
        return self._label

    @property
    def missing(self) -> dict[str, str]:
        """The devices of the legs that did not answer when last asked, and why, in words of ours."""
        return {
            device_id: feeder.fault
            for feeder in self._feeders
            if feeder.fault is not None
            for device_id in feeder.label.device_ids
        }

    async def read(self, size: int) -> bytes:
        """Return `size` mixed bytes; `label` then says what they are. Raises SourceError."""
        data, _ = await self.read_labelled(size)
        return data

    async def read_labelled(self, size: int) -> tuple[bytes, BlockLabel]:
        """Return `size` mixed bytes, at least 1, and what they are.

        Raises SourceError when a leg that is needed is missing or no leg carries the output. Each leg gets
        its own time, so no read lasts longer than the most patient leg; `concat`, which asks again for what
        is missing, no longer than all of them. Cancelled, it cancels its legs' reads and discards what they
        had brought.
        """
        if self._closed:
            raise SourceError("the source is closed")
        mixed = await self._mixed(size)
        self.counters.delivered_bytes += size
        self.counters.used_up_bytes += mixed.used_up_bytes
        self._label = mixed.label
        return mixed.data, mixed.label

    async def close(self) -> None:
        """Close every source, even if closing one fails."""
        self._closed = True
        async with AsyncExitStack() as stack:
            for feeder in self._feeders:
                stack.push_async_callback(feeder.close)

    async def _mixed(self, size: int) -> Mixed:
        if self._strategy == "concat":
            return concat(await self._in_shares(size))
        if self._strategy == "xor":
            return xor(await self._from_all(lambda _: size), self._xor_bits_per_byte)
        legs = await self._from_all(lambda feeder: hkdf_input_bytes(size, feeder.bits_per_byte))
        # A mebibyte takes a good part of a second, in which others want to run.
        return await asyncio.to_thread(hkdf, legs, size)

    async def _from_all(self, needed: Callable[[_Feeder], int]) -> list[Leg]:
        return await self._ask([(feeder, needed(feeder)) for feeder in self._ready()])

    async def _in_shares(self, size: int) -> list[Leg]:
        """Return legs that hold `size` bytes together; what one leaves out the others are asked for."""
        legs: list[Leg] = []
        while missing := size - sum(len(leg.data) for leg in legs):
            ready = self._ready()
            legs += await self._ask(list(zip(ready, _shares(missing, len(ready)), strict=False)))
        return legs

    def _ready(self) -> list[_Feeder]:
        """Return the legs to ask. Raises SourceError when the resting ones forbid to ask any."""
        resting = [feeder for feeder in self._feeders if feeder.rest_s > 0]
        ready = [feeder for feeder in self._feeders if feeder not in resting]
        self._check_missing(resting, ready)
        return ready

    async def _ask(self, shares: Sequence[tuple[_Feeder, int]]) -> list[Leg]:
        """Read from all at once; return what came. Raises SourceError when what is missing forbids to go on."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(feeder.take(share)) for feeder, share in shares]
        answers = [(feeder, task.result()) for (feeder, _), task in zip(shares, tasks, strict=True)]
        legs = [leg for _, leg in answers if leg is not None]
        self._check_missing([feeder for feeder, leg in answers if leg is None], legs)
        return legs

    def _check_missing(self, missing: Sequence[_Feeder], present: Sequence[object]) -> None:
        if missing and (self._stops or not present):
            waits = [feeder.rest_s for feeder in missing]
            names = ", ".join(_device_ids(feeder.label for feeder in missing))
            raise SourceError(
                f"sources of the mix are missing: {names}", retry_after_s=max(waits) if self._stops else min(waits)
            )


class _Feeder:
    """One leg of a mix: asks its source, and leaves it alone for a while after a failure."""

    def __init__(self, leg: LegSource, counters: MixCounters, clock: Clock) -> None:
        self.bits_per_byte = leg.bits_per_byte
        self.fault: str | None = None
        """Why the source did not answer when last asked; None when it did."""
        self._failures = 0
        self._source = leg.source
        self._timeout_s = leg.timeout_s
        self._counters = counters
        self._clock = clock
        self._rests_until_ns = clock.monotonic_ns()

    @property
    def label(self) -> BlockLabel:
        return self._source.label

    @property
    def rest_s(self) -> float:
        """Seconds until the source may be asked again."""
        return max(0.0, (self._rests_until_ns - self._clock.monotonic_ns()) / NS_PER_S)

    async def take(self, size: int) -> Leg | None:
        """Return `size` bytes of the source as a leg, or None when it did not bring exactly these in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                data, label = await self._source.read_labelled(size)
        except TimeoutError:
            self._failed("the source did not answer in time")
        except SourceError as error:
            self._failed(error.message, error.retry_after_s or 0.0)
        else:
            self._counters.taken_bytes += len(data)
            if len(data) == size:
                self._failures, self.fault = 0, None
                return Leg(data, label, self.bits_per_byte)
            self._failed(f"the source delivered {came_instead(len(data), size)}")
        return None

    def _failed(self, fault: str, wait_s: float = 0.0) -> None:
        grown_s = min(LONGEST_REST_S, FIRST_REST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self.fault = fault
        self._rests_until_ns = self._clock.monotonic_ns() + round(max(grown_s, wait_s) * NS_PER_S)

    async def close(self) -> None:
        await self._source.close()


def _shares(size: int, count: int) -> list[int]:
    """Deal out `size` bytes evenly, at least one to each who gets any."""
    full, rest = divmod(size, count)
    return [full + (number < rest) for number in range(count) if full or number < rest]


def _expected_label(strategy: MixingStrategy, legs: Sequence[LegSource], xor_bits_per_byte: float) -> BlockLabel:
    """Return the label if every leg answers. Raises ValueError for legs that do not go together."""
    labels = [leg.source.label for leg in legs]
    device_ids = [device_id for label in labels for device_id in label.device_ids]
    if len(set(device_ids)) < len(device_ids):
        raise ValueError("the sources of a mix must not share a device")
    if len(device_ids) > MAX_DEVICE_IDS:
        raise ValueError(f"a mix names at most {MAX_DEVICE_IDS} devices")
    if strategy == "concat":
        return concat([Leg(b"", leg.source.label, leg.bits_per_byte) for leg in legs]).label
    carrying = [leg.source.label for leg in legs if strategy == "hkdf" or leg.bits_per_byte >= xor_bits_per_byte]
    if not carrying:
        raise ValueError("xor needs a source that is assessed at xor_bits_per_byte or more")
    return _vouched_label(labels, carrying, Processing.MIXED)
