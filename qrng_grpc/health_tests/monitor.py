"""The monitor of one source: all tests, from the assessed entropy and alpha.

Idea: a source must pass a start-up test before any of its blocks may be used, and each block is then tested as the next
piece of one stream. A block that fails ends that: the monitor is stopped until the source passes a start-up
test again. So a failure neither latches for ever nor switches the tests off, and whoever forgets the
start-up test gets an exception instead of untested bytes.

    monitor = Monitor(7.9)
    monitor.start_up(await source.read(65536))      # these bytes are for the test alone
    verdict = monitor.check(block)
    if not verdict.passed:
        ...                                         # discard the block; see quarantine.py

A block may consist of several replies of the source. Whoever joined them says where each begins, since a
cache on the way repeats replies and not blocks.

`start_up` begins a new stream. What is remembered of earlier replies stays, so that a cache on the way
cannot pass by repeating itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from qrng_grpc.health_tests.adaptive_proportion import AdaptiveProportion
from qrng_grpc.health_tests.bit_counts import BitCounts
from qrng_grpc.health_tests.cutoffs import (
    DEFAULT_ALPHA,
    MAX_ENTROPY,
    adaptive_proportion_cutoff,
    repetition_count_cutoff,
)
from qrng_grpc.health_tests.fingerprints import DEFAULT_CAPACITY, Fingerprints
from qrng_grpc.health_tests.period import Period, anchor_bytes
from qrng_grpc.health_tests.repetition_count import RepetitionCount
from qrng_grpc.health_tests.verdict import PASSED, Failure, HealthTest, Verdict, earliest

START_UP_SAMPLES = 1024
"""The least a start-up test takes, in consecutive bytes. 65536 let every test of the stream decide once."""


class StreamTests:
    """The tests whose verdict depends on the stream alone, not on how it is cut into blocks.

    `fair_bits` off leaves the counts per bit position out, for raw noise whose bits are not even meant to
    be fair. Raises ValueError unless 0 < H <= 8 (bits per byte) and 0 < alpha < 1.
    """

    def __init__(self, assessed_entropy: float = MAX_ENTROPY, alpha: float = DEFAULT_ALPHA, *, fair_bits: bool = True):
        self._tests = (
            RepetitionCount(repetition_count_cutoff(assessed_entropy, alpha)),
            AdaptiveProportion(adaptive_proportion_cutoff(assessed_entropy, alpha)),
            *((BitCounts(),) if fair_bits else ()),
            Period(anchor_bytes(assessed_entropy)),
        )
        self.samples = 0
        """Bytes tested so far."""

    def check(self, block: bytes) -> Failure | None:
        """Take the next bytes. Returns the alarm that came first; then the tests are spent."""
        self.samples += len(block)
        return earliest(*[test.check(block) for test in self._tests])


class Monitor:
    """Tests what one source delivers.

    `assessed_entropy` is in bits per byte, above 0 and at most 8; `alpha`, between 0 and 1, says how rare
    false alarms are, of repetition count per sample and of adaptive proportion per window; `fair_bits` off
    leaves out the counts per bit position; `remembered_replies` bounds the fingerprints. Raises ValueError
    for anything out of range.

    Of every test, `replies` are the places in its bytes at which a reply of the source begins.
    """

    def __init__(
        self,
        assessed_entropy: float,
        alpha: float = DEFAULT_ALPHA,
        *,
        fair_bits: bool = True,
        remembered_replies: int = DEFAULT_CAPACITY,
    ) -> None:
        self._assessed_entropy = assessed_entropy
        self._alpha = alpha
        self._fair_bits = fair_bits
        self._stream = self._new_stream()
        self._fingerprints = Fingerprints(anchor_bytes(assessed_entropy), remembered_replies)
        self._started = False

    @property
    def started(self) -> bool:
        """Whether the source passed its start-up test and has failed nothing since."""
        return self._started

    def start_up(self, samples: bytes, replies: Iterable[int] = (0,)) -> Verdict:
        """Begin a new stream with `samples`: 1024 consecutive bytes or more, used for nothing else.

        Raises ValueError for less.
        """
        _require_start_up_samples(samples)
        self.reset()
        verdict = self._examine(samples, replies)
        self._started = verdict.passed
        return verdict

    def on_demand(self, samples: bytes, replies: Iterable[int] = (0,)) -> Verdict:
        """Test `samples` apart from the stream: 1024 consecutive bytes or more, used for nothing else.

        A failure stops the monitor. Raises ValueError for less.
        """
        _require_start_up_samples(samples)
        failure = earliest(self._new_stream().check(samples), self._repeated(samples, replies, 0))
        self._started = self._started and failure is None
        return PASSED if failure is None else Verdict(failure)

    def check(self, block: bytes, replies: Iterable[int] = (0,)) -> Verdict:
        """Test the next block of the stream, of any length.

        A failure stops the monitor. Raises RuntimeError while it is stopped.
        """
        if not self._started:
            raise RuntimeError("the source has not passed a start-up test")
        verdict = self._examine(block, replies)
        self._started = verdict.passed
        return verdict

    def reset(self) -> None:
        """Stop, and forget the stream; the fingerprints of earlier replies stay."""
        self._started = False
        self._stream = self._new_stream()

    def _new_stream(self) -> StreamTests:
        return StreamTests(self._assessed_entropy, self._alpha, fair_bits=self._fair_bits)

    def _examine(self, block: bytes, replies: Iterable[int]) -> Verdict:
        begins_at = self._stream.samples
        failure = earliest(self._stream.check(block), self._repeated(block, replies, begins_at))
        return PASSED if failure is None else Verdict(failure)

    def _repeated(self, block: bytes, replies: Iterable[int], begins_at: int) -> Failure | None:
        """Remember each reply. Return the first that came before."""
        opening, capacity = self._fingerprints.opening, self._fingerprints.capacity
        first = None
        for at in replies:
            distance = self._fingerprints.distance(block[at : at + opening])
            if distance is not None and first is None:
                first = Failure(HealthTest.FINGERPRINT, distance, capacity, begins_at + at + opening - 1)
        return first


def _require_start_up_samples(samples: bytes) -> None:
    if len(samples) < START_UP_SAMPLES:
        raise ValueError(f"a start-up test takes at least {START_UP_SAMPLES} consecutive bytes")
