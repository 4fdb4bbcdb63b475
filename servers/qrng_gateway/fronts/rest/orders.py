"""Orders: what is asked of an endpoint that hands out bytes.

Idea: each of them claims some bytes and writes down what is made of them, and the address says all about it. So an
address is read into an `Order`, which stands for every request that has the same one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from aiohttp import web

from qrng_gateway.dispenser import Demand
from qrng_gateway.fronts.rest.bounds import DEFAULT_MAX, MAX_COUNT, MAX_UUIDS
from qrng_gateway.fronts.rest.encodings import ENCODINGS
from qrng_gateway.fronts.rest.parameters import DEMANDS, Parameters
from qrng_grpc.errors import InvalidRequestError
from qrng_grpc.http_replies import JSON, TEXT
from qrng_grpc.values import FLOAT_BYTES, INT64_MAX, INT64_MIN, UUID_BYTES, Integers, floats, uuids


class Order(NamedTuple):
    """So many bytes of such a kind, and how the body is written.

    `write` returns None where the bytes were rejected, and others are to be drawn.
    """

    demand: Demand
    content_type: str
    write: Callable[[bytes], bytes | None]


class Form(NamedTuple):
    """How the addresses of an endpoint are read: the parameters it knows, and what it makes of them and the limit."""

    known: tuple[str, ...]
    read: Callable[[Parameters, int], Order]


def order_in(request: web.BaseRequest, form: Form, limit: int) -> Order:
    """Return the order in the address of `request`, for at most `limit` bytes. Raises InvalidRequestError."""
    order = form.read(Parameters(request.query.items(), form.known), limit)
    if order.demand.size > limit:
        raise InvalidRequestError(
            f"that takes {order.demand.size} bytes, and this gateway gives {limit} in one reply",
            field=order.demand.size_field,
        )
    return order


def _random(asked: Parameters, limit: int) -> Order:
    write, content_type = ENCODINGS[asked.choice("encoding", ENCODINGS, "hex")]
    return Order(asked.demand(asked.integer("bytes", 1, limit), "bytes"), content_type, write)


def _integers(asked: Parameters, _limit: int) -> Order:
    count = asked.integer("count", 1, MAX_COUNT)
    low = asked.integer("min", INT64_MIN, INT64_MAX, 0)
    high = asked.integer("max", INT64_MIN, INT64_MAX, DEFAULT_MAX)
    size = Integers(count, low, high).bytes_needed
    return Order(asked.demand(size, "count"), JSON, partial(_drawn, count, low, high))


def _drawn(count: int, low: int, high: int, data: bytes) -> bytes | None:
    # A draw that was rejected in part is thrown away whole: one claim, and its label, stand for all values.
    integers = Integers(count, low, high)
    integers.feed(data)
    return None if integers.bytes_needed else _json(integers.values)


def _floats(asked: Parameters, _limit: int) -> Order:
    demand = asked.demand(asked.integer("count", 1, MAX_COUNT) * FLOAT_BYTES, "count")
    return Order(demand, JSON, lambda data: _json(floats(data)))


def _uuids(asked: Parameters, _limit: int) -> Order:
    count = asked.integer("count", 1, MAX_UUIDS, 1)
    demand = asked.demand(count * UUID_BYTES, "count")
    if count == 1:
        return Order(demand, TEXT, lambda data: str(uuids(data)[0]).encode())
    return Order(demand, JSON, lambda data: _json([str(one) for one in uuids(data)]))


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


FORMS = {
    "/api/random": Form(("bytes", "encoding", *DEMANDS), _random),
    "/api/integers": Form(("count", "min", "max", *DEMANDS), _integers),
    "/api/floats": Form(("count", *DEMANDS), _floats),
    "/api/uuid": Form(("count", *DEMANDS), _uuids),
}
"""The endpoints that hand out bytes."""
