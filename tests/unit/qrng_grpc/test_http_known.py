"""What a request is known by: never more than its parser would take, and never less than its answer depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from aiohttp import hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_grpc.http_known import LONGEST_KNOWN, MAX_HEADERS, MAX_KNOWN, MAX_LINE, OF_HTTP, Heeds, Known
from qrng_grpc.http_replies import Again

NAMES = ("Authorization", "Api-Key", "X-Forwarded-For")
HEEDS = Heeds(NAMES)
AGAIN = Again(lambda _peer: None)
REQUEST = b"GET /a?b=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\n\r\n"
TRACED = REQUEST.replace(b"\r\nAuth", b"\r\nX-Request-Id: 17\r\nAuth")
VALUES = (b"", b"x", b"close", b"keep-alive", b"chunked", b"5", b"0", b"gzip", b"websocket", b"100-continue")


class Knowing:
    """Knows a request, and finds it or not."""

    def __init__(self, kept: bytes) -> None:
        self._known = Known(HEEDS)
        tag = self._known.tag(kept)
        assert tag is not None
        self._known.keep(tag, AGAIN)

    def find(self, text: bytes) -> Again | None:
        tag = self._known.tag(text)
        return None if tag is None else self._known.find(tag)


class Loop(NamedTuple):
    """The loop that the parser is given, where none need run."""

    loop: asyncio.AbstractEventLoop


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    made = asyncio.new_event_loop()
    yield Loop(made)
    made.close()


def read(text: bytes, loop: Loop) -> RawRequestMessage | None:
    """Return the request `text` as the parser of a connection reads it, None unless it is one without a body."""
    parser = HttpRequestParser(
        BaseProtocol(loop.loop),  # which bodies pause
        loop.loop,
        1 << 16,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        auto_decompress=False,
    )
    try:
        messages, upgraded, rest = parser.feed_data(text)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or upgraded or rest or messages[0][1] is not EMPTY_PAYLOAD:
        return None
    message: RawRequestMessage = messages[0][0]
    return message if text.find(b"\r\n\r\n") == len(text) - 4 else None


def meaning(message: RawRequestMessage) -> tuple[object, ...]:
    """Return all that an answer may depend on."""
    heeded = HEEDS.of(message)
    return (
        heeded.method,
        heeded.path,
        heeded.url,
        heeded.version,
        heeded.should_close,
        heeded.compression,
        heeded.upgrade,
        heeded.chunked,
        tuple(heeded.headers.items()),
    )


names = st.sampled_from(
    [name.encode() for name in (*NAMES, *sorted(OF_HTTP))]
    + [b"X-Request-Id", b"traceparent", b"Accept", b"X", b"Hosts", b"Api-Key-2", b"X-Host", b"GET /b HTTP/1.1"]
).flatmap(lambda name: st.sampled_from([name, name.lower(), name.upper()]))
values = st.sampled_from(VALUES) | st.text(st.characters(max_codepoint=0x17F), max_size=8).map(str.encode)
lines = st.tuples(names, st.sampled_from([b": ", b":", b":\t"]), values).map(b"".join)
damage = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"\0", b"\x7f", b"\xff", b"x", b"(", b"\r\n ", b"\r\n\t", b"\r\n\r\n"]
)
heads = st.tuples(
    st.sampled_from([b"GET /a", b"GET /a?b=1", b"HEAD http://x/a", b"POST /"]).map(b"%s HTTP/1.1".__mod__),
    st.lists(lines, max_size=4),
    st.sampled_from([b"", b"\r\n"]),
).map(lambda head: head[2] + b"\r\n".join([head[0], b"Host: x", *head[1]]) + b"\r\n\r\n")


@st.composite
def beside(draw: st.DrawFn, text: bytes) -> bytes:
    """Draw `text` with lines and damage put in."""
    for _ in range(draw(st.integers(1, 3))):
        put_in = draw(st.lists(lines.map(b"\r\n".__add__) | damage, min_size=1, max_size=3).map(b"".join))
        ends = [place for place in range(len(text)) if text.startswith(b"\r\n", place)]
        place = draw(st.sampled_from(ends) | st.integers(0, len(text)))
        text = text[:place] + put_in + text[place:]
    return text


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_what_is_known_would_be_read_and_mean_the_same(loop: Loop, data: st.DataObject) -> None:
    """Whatever is found for a text was kept for one that the parser took, and takes this one for."""
    came = data.draw(heads)
    before = read(came, loop)
    comes = data.draw(beside(came))
    if before is None or HEEDS.gist(comes) != HEEDS.gist(came) or HEEDS.gist(came) is None:
        return
    now = read(comes, loop)
    assert now is not None, comes
    assert meaning(now) == meaning(before)


@settings(max_examples=500, deadline=None)
@given(heads)
def test_a_gist_means_what_its_request_does(loop: Loop, text: bytes) -> None:
    """The parser takes what is left of a text that it took, and answers are shown the same headers."""
    message = read(text, loop)
    if message is None:
        return
    gist = HEEDS.gist(text)
    assert gist is not None
    left = read(gist, loop)
    assert left is not None
    assert meaning(left) == meaning(message)
    assert HEEDS.of(message).raw_headers == ()


@pytest.mark.parametrize("name", sorted(value for value in vars(hdrs).values() if type(value) is hdrs.istr))
def test_no_other_header_means_anything_to_the_parser(loop: Loop, name: str) -> None:
    """Of every name that aiohttp knows it takes one line, or several, of any value, and they change nothing."""
    if name in OF_HTTP:
        return
    plain = read(REQUEST, loop)
    assert plain is not None
    for value in VALUES:
        for line in (b"\r\n%s: %s" % (name.encode(), value), b"\r\n%s: %s" % (name.lower().encode(), value)):
            message = read(REQUEST[:-4] + 2 * line + REQUEST[-4:], loop)
            assert message is not None
            names = meaning(message)
            assert names[:-1] == meaning(plain)[:-1]


@pytest.mark.parametrize("name", [*NAMES, *sorted(OF_HTTP)])
def test_a_header_that_is_heeded_is_never_left_out(name: str) -> None:
    """Whatever its letters, value and place, and however often it is there, it tells one request from another."""
    known = Knowing(REQUEST)
    for spelt in (name, name.lower(), name.upper()):
        for value in VALUES:
            line = b"\r\n%s: %s" % (spelt.encode(), value)
            for place in (REQUEST.index(b"\r\n"), REQUEST.index(b"\r\nAuth"), len(REQUEST) - 4):
                for put_in in (line, line + line, b"\r\nX-Id: 1" + line, line + b"\r\nX-Id: 1"):
                    assert known.find(REQUEST[:place] + put_in + REQUEST[place:]) is None


@pytest.mark.parametrize(
    "name", [b"X-Request-Id", b"traceparent", b"B3", b"X", b"Hosts", b"Accept", b"!#$%&'*+-.^_`|~"]
)
@pytest.mark.parametrize("value", [b": 0123", b":", b':  a, b;c="d" \t', b": Host: x"])
def test_a_header_that_nobody_heeds_makes_no_difference(name: bytes, value: bytes) -> None:
    """There or not, before or behind the others, once or twice, the request is the same."""
    known = Knowing(REQUEST)
    line = b"\r\n" + name + value
    for place in (REQUEST.index(b"\r\n"), REQUEST.index(b"\r\nAuth"), len(REQUEST) - 4):
        for put_in in (line, line + line, b"\r\nAccept: */*" + line):
            assert known.find(REQUEST[:place] + put_in + REQUEST[place:]) is AGAIN


@pytest.mark.parametrize(
    "text",
    [
        REQUEST[:-2],
        b"\r\nX-Id: 1" + REQUEST,
        b"X-Id: 1\r\n" + REQUEST,
        REQUEST + b"X-Id: 1\r\n\r\n",
        REQUEST + b"\r\nX-Id: 1\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id: 1\r\n folded\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id: 1\r\n\tX: folded\r\n\r\n",
        REQUEST[:-4] + b"\r\n X-Id: 1\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id : 1\r\n\r\n",
        REQUEST[:-4] + b"\r\n: 1\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id\r\n\r\n",
        REQUEST[:-4] + b"\r\nX(Id): 1\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id: 1\nY: 2\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id: 1\rY: 2\r\n\r\n",
        REQUEST[:-4] + b"\nX-Id: 1\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id: \0\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id: \x7f\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-Id: \xc3\xa4\r\n\r\n",
        REQUEST[:-4] + b"\r\nX-\xc3\xa4: 1\r\n\r\n",
    ],
)
def test_what_is_not_plainly_a_header_is_read(text: bytes) -> None:
    """A line that is out of place, continued, torn or of other than plain text makes another request."""
    known = Knowing(REQUEST)
    assert known.find(TRACED) is AGAIN
    assert known.find(text) is None


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        (b"\r\n" + REQUEST, b"\r\nX-Id: 1\r\n" + REQUEST),
        (REQUEST[:-4] + b"\r\n more\r\n\r\n", REQUEST[:-4] + b"\r\nX-Id: 1\r\n more\r\n\r\n"),
        (REQUEST[:-4] + b"\r\n\tmore\r\n\r\n", REQUEST[:-4] + b"\r\nX-Id: 1\r\n\tmore\r\n\r\n"),
    ],
    ids=["before the first line", "before the rest of a line", "before the rest of a line, after a tab"],
)
def test_a_header_stands_between_two_lines(kept: bytes, text: bytes) -> None:
    """Even if the parser took requests that begin with an empty line, or lines that go on in the next one."""
    known = Knowing(kept)
    assert known.find(kept[:-4] + b"\r\nX-Id: 1" + kept[-4:]) is AGAIN
    assert known.find(text) is None


def test_a_request_has_no_more_headers_for_being_known(loop: Loop) -> None:
    """As many as the parser takes are known again, in lines and in bytes; one more is left to it to refuse."""
    known = Knowing(REQUEST)
    for lines, found in ((MAX_HEADERS - 2, True), (MAX_HEADERS - 1, False)):
        text = REQUEST[:-4] + b"\r\nX: 1" * lines + REQUEST[-4:]
        assert (known.find(text) is AGAIN, read(text, loop) is not None) == (found, found)
    room = LONGEST_KNOWN - len(REQUEST) - len(b"\r\nX: ")
    for size, found in ((room, True), (room + 1, False)):
        assert (known.find(REQUEST[:-4] + b"\r\nX: " + size * b"x" + REQUEST[-4:]) is AGAIN) == found


def test_so_many_requests_are_known() -> None:
    """The oldest is forgotten first, one that came before takes no place of another, and nothing sent is kept."""
    known = Known(HEEDS)
    tags = [known.tag(REQUEST.replace(b"key", b"%d" % number)) or b"" for number in range(MAX_KNOWN + 1)]
    for tag in tags:
        known.keep(tag, AGAIN)
    for _ in range(MAX_KNOWN):
        known.keep(tags[-1], AGAIN)
    assert known.find(tags[0]) is None
    assert known.find(tags[1]) is known.find(tags[-1]) is AGAIN
    assert {len(tag) for tag in known._requests} == {16}


def test_tags_are_of_this_process() -> None:
    """Nobody else can tell what a request is known by, and so neither steer nor recognise it."""
    assert Known(HEEDS).tag(REQUEST) != Known(HEEDS).tag(REQUEST)
