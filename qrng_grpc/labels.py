"""What bytes are: class of source, processing, custody, verdict of the health tests.

Idea: labels only ever get weaker. Combining bytes takes the weakest class, MIXED if any was mixed,
REMOTE if any was remote, UNTESTED if any was untested, so that no reply is better labelled than its
worst byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class _Label(Enum):
    __hash__ = object.__hash__  # each member is one object, and what Enum has for it is a function in Python


class SourceClass(_Label):
    """The kind of process that produced bytes. Compared by `at_least`, never by value."""

    QUANTUM = "quantum"
    HARDWARE = "hardware"
    OPERATING_SYSTEM = "operating_system"
    SIMULATED = "simulated"

    def at_least(self, least: SourceClass) -> bool:
        """Say whether this class is `least` or better."""
        return _RANK[self] <= _RANK[least]

    @property
    def rank(self) -> int:
        """Place in the table, 0 the best."""
        return _RANK[self]


BEST_FIRST = (SourceClass.QUANTUM, SourceClass.HARDWARE, SourceClass.OPERATING_SYSTEM, SourceClass.SIMULATED)
_RANK = {source_class: rank for rank, source_class in enumerate(BEST_FIRST)}


class Processing(_Label):
    """What happened to bytes since a source delivered them.

    The first two are what collectors do, the others what a gateway does to either.
    """

    NONE = "none"
    MIXED = "mixed"
    SHA256 = "sha256"
    XOR_OS = "xor_os"
    MIXED_SHA256 = "mixed_sha256"
    MIXED_XOR_OS = "mixed_xor_os"

    @property
    def mixed(self) -> bool:
        """Whether bytes of several sources were combined."""
        return self in _MIXED


_MIXED = frozenset((Processing.MIXED, Processing.MIXED_SHA256, Processing.MIXED_XOR_OS))


class Custody(_Label):
    """Whether a third party could have seen the bytes before the collector did."""

    LOCAL = "local"
    REMOTE = "remote"


class HealthVerdict(_Label):
    """What output monitoring says of bytes."""

    UNTESTED = "untested"
    PASSED = "passed"


class Condition(_Label):
    """How a source does."""

    DELIVERING = "delivering"
    FAILING = "failing"
    QUARANTINED = "quarantined"


def weakest_class(classes: Iterable[SourceClass]) -> SourceClass:
    """Return the weakest of `classes`. Raises ValueError when there is none."""
    return max(classes, key=_RANK.__getitem__)


def weakest_processing(processings: Iterable[Processing]) -> Processing:
    """Return the first of `processings` that is mixed, or else the first. Raises ValueError when there is none."""
    several = tuple(processings)
    if not several:
        raise ValueError("nothing was processed")
    return next((one for one in several if one.mixed), several[0])


def strictest_class(classes: Iterable[SourceClass]) -> SourceClass:
    """Return the best of `classes`. Raises ValueError when there is none."""
    return min(classes, key=_RANK.__getitem__)
