"""Parameters, read strictly: from the query, and from the small JSON body of a POST.

Idea: what a client demands of its bytes must not be lost in a spelling mistake. So a name that an endpoint does not
know, one that is there twice, and a value in any but its plainest form are refused, and the refusal names the
parameter by the name that the endpoint has for it, never by what the client wrote.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from aiohttp import hdrs, web

from qrng_gateway.dispenser import Demand
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.labels import BEST_FIRST, SourceClass
from qrng_grpc.values import INT64_MAX

MAX_BODY_BYTES = 1024
BODY_S = 5.0
"""How long a body may take to arrive."""
KEY = "api_key"
"""The parameter that carries a key; it is no business of an endpoint."""
DEMANDS = ("least_class", "max_age_ms", "fresh")
"""What a client may demand of its bytes, at every endpoint that hands some out."""

_INTEGER = re.compile(r"(?:0|-?[1-9][0-9]{0,18})", re.ASCII)
_FLAGS = {"true": True, "false": False}
_CLASSES = {source_class.value: source_class for source_class in BEST_FIRST}


class Parameters:
    """The parameters `given` to an endpoint that knows those called `known`.

    Raises InvalidRequestError when there is another one among them, or one twice.
    """

    def __init__(self, given: Iterable[tuple[str, str]], known: tuple[str, ...]) -> None:
        self._values: dict[str, str] = {}
        for name, value in given:
            if name == KEY:
                continue
            if name not in known:
                raise InvalidRequestError(f"there is a parameter beyond {', '.join(known)}")
            if name in self._values:
                raise InvalidRequestError("given more than once", field=name)
            self._values[name] = value

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer from `low` to `high`; `default` without one, unless that is None.

        It is written as JSON does, without sign for 0, plus, leading zeros or a point. Raises InvalidRequestError.
        """
        text = self._values.get(name)
        if text is None and default is not None:
            return default
        if text is None:
            raise InvalidRequestError("required", field=name)
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise InvalidRequestError(f"expected an integer from {low} to {high}", field=name)
        return int(text)

    def choice(self, name: str, choices: Collection[str], default: str = "") -> str:
        """Return one of `choices`, `default` without any. Raises InvalidRequestError."""
        text = self._values.get(name, default)
        if text not in choices:
            raise InvalidRequestError(f"expected one of {', '.join(choices)}", field=name)
        return text

    def source_class(self, name: str) -> SourceClass | None:
        """Return a class of source, None without one. Raises InvalidRequestError."""
        return _CLASSES[self.choice(name, _CLASSES)] if name in self._values else None

    def demand(self, size: int, size_field: str) -> Demand:
        """Return the demand for `size` bytes, which `size_field` asks for. Raises InvalidRequestError."""
        return Demand(
            size,
            size_field,
            least_class=self.source_class("least_class"),
            max_age_ms=self.integer("max_age_ms", 0, INT64_MAX, 0),
            fresh=_FLAGS[self.choice("fresh", _FLAGS, "false")],
        )


async def in_query_or_body(request: web.BaseRequest, **known: type) -> Parameters:
    """Return the parameters in the address and in the body, which is JSON: an object that has values of `known` types.

    Raises InvalidRequestError as `Parameters`, and for another body; HTTPException for one that is too long, too
    late, or of another type.
    """
    body = await _body(request)
    given = [*request.query.items(), *(_members(body, known) if body else ())]
    return Parameters(given, tuple(known))


async def _body(request: web.BaseRequest) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError:
        raise InvalidRequestError("the body is not valid HTTP") from None
    if body and (request.content_type != "application/json" or hdrs.CONTENT_ENCODING in request.headers):
        raise web.HTTPUnsupportedMediaType
    return body


def _members(body: bytes, known: dict[str, type]) -> list[tuple[str, str]]:
    try:
        pairs = json.loads(body.decode("utf-8"), object_pairs_hook=_Members, parse_float=_number)
    except (ValueError, RecursionError):
        raise InvalidRequestError("the body is not JSON") from None
    if not isinstance(pairs, _Members):
        raise InvalidRequestError("the body is not a JSON object")
    for name, value in pairs:
        if name in known and type(value) is not known[name]:
            raise InvalidRequestError("of another type", field=name)
    return [(name, str(value)) for name, value in pairs]


def _number(text: str) -> int | float:
    """Return what stands in JSON as a number with a point or an exponent: 1.0 is an integer there."""
    number = float(text)
    return int(number) if number.is_integer() else number


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, those that are there twice too."""
