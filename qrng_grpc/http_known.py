"""Requests that are known again: those that came before, but for what nobody heeds.

Idea: a client sends the same request again and again, and where two of them differ, it is in lines of the head that no
answer depends on, such as the ids of traces. So a server names the headers that it *heeds*. All others are taken from
a request before it is answered, so that an answer cannot depend on them; and what is left of its text without their
lines, its *gist*, is what it is known by. A request that is known need not be read again.

Why that is as strict as reading. What is known was read by aiohttp's parser, whole, and was one request without a body.
A text of the same gist is that one, with lines put in: each is a header on a line of its own, of plain text, after a
line and before one that does not continue it; its name is none that HTTP gives a meaning to; and there are no
more lines, or bytes, than a request may have. So the parser would take them, and say the same of the request.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from qrng_grpc.http_replies import Again

MAX_HEADERS: Final = 64
"""Lines of headers in a request."""
MAX_LINE: Final = 4096
"""Bytes of each, and of the first line: some 256 KiB in all."""
MAX_KNOWN: Final = 16_384
"""Requests that are known again: one of each client that there may be, and more. Each takes a kilobyte, and as
much besides as a trusted proxy wrote of whom it serves."""
LONGEST_KNOWN: Final = MAX_LINE
"""Bytes of the longest request that is: none of its lines can be too long."""

OF_HTTP: Final = frozenset(
    {
        hdrs.CONNECTION,
        hdrs.CONTENT_ENCODING,
        hdrs.CONTENT_LENGTH,
        hdrs.CONTENT_LOCATION,
        hdrs.CONTENT_RANGE,
        hdrs.CONTENT_TYPE,
        hdrs.ETAG,
        hdrs.EXPECT,
        hdrs.HOST,
        hdrs.MAX_FORWARDS,
        "Proxy-Connection",
        hdrs.SEC_WEBSOCKET_KEY1,
        hdrs.SERVER,
        hdrs.TRANSFER_ENCODING,
        hdrs.UPGRADE,
        hdrs.USER_AGENT,
    }
)
"""Headers that are always heeded: the parser goes by them, refuses them, or takes no second one."""

_LINE: Final = rb"\r\n(?<=[^\r\n]\r\n)(?!(?:%s):)[!#$%%&'*+.^_`|~0-9A-Za-z-]++:[\t -~]*+(?=\r\n[^\t ])"
"""A line, with the end of the one before it, of a header that is none of those given."""


class Heeds:
    """Which headers are heeded: those called `names`, and those of HTTP itself."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower() for name in (*names, *OF_HTTP))
        self._others = re.compile(_LINE % b"|".join(map(_in_any_case, sorted(self._names))))

    def of(self, message: RawRequestMessage) -> RawRequestMessage:
        """Return `message`, a request as the parser read it, without all other headers."""
        heeded = [(name, value) for name, value in message.headers.items() if name.lower() in self._names]
        return message._replace(headers=CIMultiDictProxy(CIMultiDict(heeded)), raw_headers=())

    def gist(self, text: bytes) -> bytes | None:
        """Return the request `text` without the lines of all other headers.

        None unless it is one head and no more, and short enough to be known.
        """
        if len(text) > LONGEST_KNOWN or text.find(b"\r\n\r\n") != len(text) - 4:
            return None
        if text.count(b"\r\n") > MAX_HEADERS + 2:  # the first line, and the empty one
            return None
        return self._others.sub(b"", text)


def _in_any_case(name: str) -> bytes:
    """Return a pattern for `name`. Classes of two letters take a quarter less time than a flag that ignores case."""
    pattern = "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else re.escape(letter) for letter in name)
    return pattern.encode("ascii")


class Known:
    """Requests that came before, and how they are answered again. The oldest is forgotten first.

    A request holds a key, so what is kept of its gist is a *tag*: a hash, under a secret that this process made up.
    """

    def __init__(self, heeds: Heeds) -> None:
        self._heeds = heeds
        self._keyed = hashlib.blake2s(key=secrets.token_bytes(32), digest_size=16)
        # Its oldest goes at once; of a plain dict the first would have to be sought, past all that have gone.
        self._requests: OrderedDict[bytes, Again] = OrderedDict()

    def tag(self, text: bytes) -> bytes | None:
        """Return what the request `text` is known by, None when it is none that can be."""
        gist = self._heeds.gist(text)
        if gist is None:
            return None
        keyed = self._keyed.copy()
        keyed.update(gist)
        return keyed.digest()

    def find(self, tag: bytes) -> Again | None:
        """Return how the request of this tag is answered again, None when it is not known."""
        return self._requests.get(tag)

    def keep(self, tag: bytes, again: Again) -> None:
        """Remember the request of this tag, which is whole and has no body."""
        self._requests[tag] = again
        if len(self._requests) > MAX_KNOWN:
            self._requests.popitem(last=False)
