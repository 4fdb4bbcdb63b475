"""Sentences that people read: numbers in them, one byte or two bytes, and why the system refused something."""

from __future__ import annotations

import os


def counted(number: int, noun: str) -> str:
    """Return a number of things, of which `noun` names one and takes an s for more: "1 byte", "1,024 bytes"."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def came_instead(size: int, wanted: int) -> str:
    """Say that `size` bytes came, and that another number was asked for."""
    return f"{counted(size, 'byte')} where {wanted:,} {'was' if wanted == 1 else 'were'} asked for"


def reason_of(error: OSError) -> str:
    """Return why the system refused something, in its words, or those of our own that stand in their place.

    Of an error with a number they name no file and no address. Not for an `ssl.SSLError`, whose number is another.
    """
    if error.errno is not None and error.errno > 0:  # the resolver's are below
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
