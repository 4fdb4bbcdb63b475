"""Forks: what is done before one, in the child and in the parent.

Idea: grpc survives a fork only if no thread is inside it at that moment; otherwise the child aborts sooner or later.
So a fork of Python's waits, for a bounded time, until no exchange of ours runs, lets none begin, and has calls that
are kept open dropped. The parent then goes on; the child leaves what was opened to the parent and begins anew.
Sub-processes that are started with `subprocess` are no forks in this sense.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Protocol

LONGEST_WAIT_S = 5.0
"""For so long a fork waits for exchanges that run."""
_LOOK_S = 0.001


class Forked(Protocol):
    """Something that a fork concerns."""

    def before_fork(self) -> None:
        """Have no thread inside grpc. No exchange runs or begins."""
        ...

    def in_child(self) -> None:
        """Forget what is the parent's. Nothing else runs in this process yet."""
        ...


class Gate:
    """Lets exchanges through; shut, it waits for those that run and holds back all others.

    Every exchange passes it, so passing takes no lock: appending to a list, and looking at a flag, are each one step
    for all threads.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Be open, with nothing inside: in a child, where other threads are gone and locks may be held for ever."""
        self._inside: list[None] = []
        self._is_shut = False
        self._opened = threading.Event()

    def __enter__(self) -> None:
        self._inside.append(None)
        while self._is_shut:
            # Whoever shuts it sees us or we see the flag, since we came in first and looked then.
            self._inside.pop()
            self._opened.wait()
            self._inside.append(None)

    def __exit__(self, *_: object) -> None:
        self._inside.pop()

    def shut(self) -> None:
        """Hold back exchanges; return when none runs, or after `LONGEST_WAIT_S`."""
        self._opened.clear()
        self._is_shut = True
        end_s = time.monotonic() + LONGEST_WAIT_S
        while self._inside and time.monotonic() < end_s:
            time.sleep(_LOOK_S)

    def open(self) -> None:
        """Let exchanges begin again."""
        self._is_shut = False
        self._opened.set()


GATE = Gate()
"""Every exchange of this process passes it."""

_FORKED: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_of_forks(forked: Forked) -> None:
    """Have `forked` told of each fork, for as long as it lives."""
    _FORKED.add(forked)


def _before() -> None:
    GATE.shut()
    for forked in list(_FORKED):
        forked.before_fork()


def _in_child() -> None:
    GATE.reset()
    for forked in list(_FORKED):
        forked.in_child()


os.register_at_fork(before=_before, after_in_parent=GATE.open, after_in_child=_in_child)
