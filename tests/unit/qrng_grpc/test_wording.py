"""Numbers in sentences, and why the system refused something."""

from __future__ import annotations

import errno
import socket

import pytest

from qrng_grpc.wording import came_instead, counted, reason_of


@pytest.mark.parametrize(("number", "words"), [(0, "0 bytes"), (1, "1 byte"), (2, "2 bytes"), (1024, "1,024 bytes")])
def test_one_is_singular(number: int, words: str) -> None:
    """Everything but one thing is told in the plural, large numbers in groups of three digits."""
    assert counted(number, "byte") == words


def test_what_came_instead() -> None:
    """Either number may be one."""
    assert came_instead(1, 32) == "1 byte where 32 were asked for"
    assert came_instead(2, 1) == "2 bytes where 1 was asked for"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "on /some/where"), "No space left on device"),
        (FileNotFoundError(errno.ENOENT, "x", "/some/where"), "No such file or directory"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("short write"), "short write"),
        (PermissionError(), "PermissionError"),
    ],
)
def test_the_system_gives_its_reason(error: OSError, words: str) -> None:
    """In its own words, without what it was about; what has none is told as it is."""
    assert reason_of(error) == words
