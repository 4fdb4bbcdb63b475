"""Ctrl-C while a command is still being imported.

Idea: Python raises an exception for it, wherever it comes. Within an import that ends in a traceback, or in the mistake
that a package makes of it, and there is nothing to tidy up yet. So until a command is there Ctrl-C ends the process
by its signal, as it does with programs that know nothing of it. Where it is ignored, as in the background of a
shell, it stays so.
"""

from __future__ import annotations

import signal


def end_at_once() -> None:
    """Have Ctrl-C end the process, by its signal."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def are_exceptions() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, if `end_at_once` changed that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
