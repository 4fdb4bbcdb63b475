"""The description of the API for programs: OpenAPI 3.1, as data.

Idea: it says what this gateway serves, with its own limit, its own name for the header of a key, and without what is
switched off. Bounds and names come from where they are enforced; tests hold the rest against the routes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qrng_gateway.fronts.rest.bounds import DEFAULT_MAX, MAX_COUNT, MAX_UUIDS
from qrng_gateway.fronts.rest.encodings import ENCODINGS
from qrng_gateway.fronts.rest.labels import ALLOWANCES, LABEL_HEADERS
from qrng_gateway.fronts.rest.parameters import KEY
from qrng_gateway.observation.metrics import CONTENT_TYPE
from qrng_gateway.quality.monte_carlo import DEFAULT_ITERATIONS, MAX_ITERATIONS
from qrng_grpc import __version__
from qrng_grpc.labels import BEST_FIRST
from qrng_grpc.values import INT64_MAX, INT64_MIN

Json = dict[str, Any]

_ABOUT = """\
Randomness, each byte of it given to one caller, once. What the bytes are stands in `X-QRNG-` headers; no reply may \
be kept.

A parameter that an endpoint does not know, one that is there twice, and an integer in any but its plainest form are \
refused with 400. Every error has the same body, whose `reason` is for programs. 429 and 503 carry `Retry-After`."""

_CLASSES = {"type": "string", "enum": [source_class.value for source_class in BEST_FIRST]}
_JSON = "application/json"
_NUMBER_OR_NULL = {"type": ["number", "null"]}
_ANY_OBJECT = {"type": "object"}

_ERRORS = {
    "Invalid": (400, "A parameter is missing, unknown, there twice or out of range. Mend the request."),
    "NoKey": (401, "No key, several, or a wrong one; which of these is not told."),
    "Forbidden": (403, "The client of this key may not call this. Ask the operator."),
    "TooSlow": (408, "The body did not arrive in time."),
    "TooLarge": (413, "The body is too large."),
    "WrongType": (415, "The body is not JSON, or is compressed."),
    "TooMany": (429, "Over a rate, the quota of the day or a bound. Repeat after `Retry-After`."),
    "Fault": (500, "A fault of the gateway. Its log has the rest."),
    "SwitchedOff": (501, "This gateway sets no bytes aside for tests."),
    "Short": (
        503,
        "POOL_SHORT: not enough bytes in time, repeat after `Retry-After`. WEAKER_SOURCE: there are only sources weaker"
        " than was asked for. DRAINING: the gateway ends, connect anew.",
    ),
}
"""The errors of operations, by name: the status, and what to do then."""
_REASONS = (
    "INVALID_ARGUMENT",
    "INVALID_KEY",
    "POOL_SHORT",
    "WEAKER_SOURCE",
    "DRAINING",
    "UNSUPPORTED",
    "LIMIT_EXCEEDED",
    "INTERNAL",
    "FORBIDDEN",
    "NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "TIMEOUT",
    "TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
)
_WITH_KEY = ("Invalid", "NoKey", "Forbidden", "TooMany", "Fault")


def described(*, limit: int, key_header: str, key_in_query: bool, has_metrics: bool) -> Json:
    """Return the OpenAPI document of a gateway that gives at most `limit` bytes in one reply."""
    ways = _security_schemes(key_header, key_in_query)
    return {
        "openapi": "3.1.0",
        "info": {"title": "qrng gateway", "version": __version__, "description": _ABOUT},
        "security": [{way: []} for way in ways],
        "paths": {**_of_bytes(limit), **_of_state(), **_for_everybody(has_metrics)},
        "components": {
            "securitySchemes": ways,
            "schemas": {"Error": _error_schema()},
            "responses": {name: _error(status, meaning) for name, (status, meaning) in _ERRORS.items()},
            "headers": _headers(),
        },
    }


def _security_schemes(key_header: str, key_in_query: bool) -> Json:
    ways: Json = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": key_header},
    }
    return ways | {"query": {"type": "apiKey", "in": "query", "name": KEY}} if key_in_query else ways


def _of_bytes(limit: int) -> Json:
    return {
        "/api/random": {
            "get": _handing_out(
                "random",
                "Random bytes",
                "As text unless another encoding is asked for.",
                [
                    _integer("bytes", "How many.", 1, limit),
                    _parameter(
                        "encoding",
                        "How they are written: `hex` and `hexadecimal` in lower case, `base64` and `b64` with padding,"
                        " `binary` and `raw` as they are.",
                        {"type": "string", "enum": list(ENCODINGS), "default": "hex"},
                    ),
                ],
                {"text/plain": {"schema": {"type": "string"}}, "application/octet-stream": {}},
            )
        },
        "/api/integers": {
            "get": _handing_out(
                "integers",
                "Random integers",
                "Each as likely as any other. Programs whose numbers are doubles lose digits beyond 2^53. A range of"
                " one value takes no bytes, so its reply has no label.",
                [
                    _integer("count", "How many.", 1, MAX_COUNT),
                    _integer("min", "The least, inclusive.", INT64_MIN, INT64_MAX, 0),
                    _integer("max", "The greatest, inclusive; not below `min`.", INT64_MIN, INT64_MAX, DEFAULT_MAX),
                ],
                _json_of(_array({"type": "integer", "minimum": INT64_MIN, "maximum": INT64_MAX}, MAX_COUNT)),
            )
        },
        "/api/floats": {
            "get": _handing_out(
                "floats",
                "Random floats",
                "In [0, 1), with 53 random bits each.",
                [_integer("count", "How many.", 1, MAX_COUNT)],
                _json_of(_array({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, MAX_COUNT)),
            )
        },
        "/api/uuid": {
            "get": _handing_out(
                "uuid",
                "Random UUIDs",
                "Version 4: one as text, several as a JSON array.",
                [_integer("count", "How many.", 1, MAX_UUIDS, 1)],
                {
                    "text/plain": {"schema": {"type": "string", "format": "uuid"}},
                    **_json_of(_array({"type": "string", "format": "uuid"}, MAX_UUIDS)),
                },
            )
        },
    }


def _of_state() -> Json:
    return {
        "/api/status": {
            "get": _operation(
                "status",
                "How the gateway does",
                "The pool, its collectors and keys, and where every byte went.",
                {"200": _reply("The state.", _json_of(_status_schema()), _allowances())},
                _WITH_KEY[1:],
            )
        },
        "/api/test/monte-carlo": {"get": _monte_carlo(), "post": _monte_carlo_with_body()},
    }


def _monte_carlo() -> Json:
    return _operation(
        "monteCarlo",
        "Pi by Monte Carlo",
        "On bytes that were set aside for tests and are destroyed afterwards; it never takes any from the pool. When"
        " fewer are there, it makes do with them: see `iterations_used`.",
        {"200": _reply("The estimate.", _json_of(_monte_carlo_schema()), _allowances())},
        (*_WITH_KEY, "SwitchedOff", "Short"),
        [
            _parameter("iterations", "At most so many.", _iterations()),
            _parameter("source_class", "Only bytes of this class. Default: the best there are.", _CLASSES),
        ],
    )


def _monte_carlo_with_body() -> Json:
    operation = _monte_carlo()
    operation["operationId"] = "monteCarloByPost"
    operation["description"] += " Parameters stand in the address or in the body, each once."
    operation["responses"] |= _refusals(("TooSlow", "TooLarge", "WrongType"))
    members = {"iterations": _iterations(), "source_class": _CLASSES}
    body = {"type": "object", "properties": members, "additionalProperties": False}
    return operation | {"requestBody": {"required": False, "content": _json_of(body)}}


def _for_everybody(has_metrics: bool) -> Json:
    paths = {
        "/health": _open(
            "health",
            "Whether a client may expect bytes",
            {
                "200": _reply("It may.", _json_of(_health_schema("serving"))),
                "503": _reply("It may not.", _json_of(_health_schema("not serving"))),
            },
        ),
        "/health/live": _open(
            "live",
            "Whether the process answers",
            {"200": _reply("It does; an empty pool does not matter.", _json_of(_health_schema("alive")))},
        ),
        "/metrics": _open("metrics", "Metrics for Prometheus", {"200": _reply("The metrics.", {CONTENT_TYPE: {}})}),
        "/openapi.json": _open("openapi", "This description", {"200": _reply("OpenAPI 3.1.", _json_of(_ANY_OBJECT))}),
        "/docs": _open("docs", "This description for people", {"200": _reply("A page.", {"text/html": {}})}),
    }
    if not has_metrics:
        del paths["/metrics"]
    return paths


def _handing_out(name: str, summary: str, description: str, parameters: list[Json], content: Json) -> Json:
    """Return an operation whose reply is made of bytes from the pool."""
    labels = {header: {"$ref": f"#/components/headers/{header}"} for header in LABEL_HEADERS}
    return _operation(
        name,
        summary,
        description,
        {"200": _reply("What was asked for, made of bytes that nobody else has.", content, labels | _allowances())},
        (*_WITH_KEY, "Short"),
        [*parameters, *_demands()],
    )


def _demands() -> list[Json]:
    return [
        _parameter(
            "least_class",
            "The weakest class of source that is accepted; that of the gateway and of the client's record bind too.",
            _CLASSES,
        ),
        _integer(
            "max_age_ms",
            "The greatest age of any byte in milliseconds, from its capture start; 0 accepts all that there are.",
            0,
            INT64_MAX,
            0,
        ),
        _parameter(
            "fresh",
            "Only bytes whose capture started after the request arrived, plus the tolerance for clocks. It waits for"
            " them.",
            {"type": "boolean", "default": False},
        ),
    ]


def _operation(
    name: str,
    summary: str,
    description: str,
    replies: Json,
    refusals: Iterable[str],
    parameters: Iterable[Json] = (),
) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "description": description,
        "parameters": list(parameters),
        "responses": replies | _refusals(refusals),
    }


def _open(name: str, summary: str, replies: Json) -> Json:
    """Return a path that needs no key."""
    return {
        "get": {"operationId": name, "summary": summary, "security": [], "responses": replies | _refusals(["Fault"])}
    }


def _refusals(names: Iterable[str]) -> Json:
    return {str(_ERRORS[name][0]): {"$ref": f"#/components/responses/{name}"} for name in names}


def _reply(description: str, content: Json, headers: Json | None = None) -> Json:
    reply = {"description": description, "content": content}
    return reply if headers is None else reply | {"headers": headers}


def _error(status: int, meaning: str) -> Json:
    headers: Json = {}
    if status == 401:
        headers["WWW-Authenticate"] = {"$ref": "#/components/headers/WWW-Authenticate"}
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    return _reply(meaning, _json_of({"$ref": "#/components/schemas/Error"}), headers)


def _headers() -> Json:
    told = {
        name: {"description": header.description, "schema": header.schema} for name, header in LABEL_HEADERS.items()
    }
    counts = {
        "X-QRNG-Requests-Left": "How many requests the client may send at once now.",
        "X-QRNG-Bytes-Left-Today": "What is left of the client's quota of the day; absent without one.",
        "Retry-After": "After how many seconds a repetition may help.",
    }
    schema = {"type": "integer", "minimum": 0}
    return {
        **told,
        **{name: {"description": meaning, "schema": schema} for name, meaning in counts.items()},
        "WWW-Authenticate": {"description": "Bearer.", "schema": {"const": "Bearer"}},
    }


def _allowances() -> Json:
    return {header: {"$ref": f"#/components/headers/{header}"} for header in ALLOWANCES.values()}


def _parameter(name: str, description: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "description": description, "required": required, "schema": schema}


def _integer(name: str, description: str, low: int, high: int, default: int | None = None) -> Json:
    schema: Json = {"type": "integer", "minimum": low, "maximum": high}
    if default is None:
        return _parameter(name, description, schema, required=True)
    return _parameter(name, description, schema | {"default": default})


def _iterations() -> Json:
    return {"type": "integer", "minimum": 1, "maximum": MAX_ITERATIONS, "default": DEFAULT_ITERATIONS}


def _json_of(schema: Json) -> Json:
    return {_JSON: {"schema": schema}}


def _array(items: Json, most: int) -> Json:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def _object(**members: Json) -> Json:
    """Return the schema of an object that has all of `members`, and perhaps others."""
    return {"type": "object", "properties": members, "required": list(members)}


def _error_schema() -> Json:
    error = _object(
        reason={"enum": list(_REASONS), "description": "Which error, for programs."},
        message={"type": "string", "description": "The same for people; it repeats nothing of the request."},
    )
    error["properties"] |= {
        "field": {"type": "string", "description": "The parameter at fault."},
        "retry_after_seconds": {"type": "integer", "minimum": 0, "description": "As in `Retry-After`."},
    }
    return _object(error=error | {"additionalProperties": False}) | {"additionalProperties": False}


def _health_schema(status: str) -> Json:
    return _object(status={"const": status})


def _status_schema() -> Json:
    count = {"type": "integer", "minimum": 0}
    amount = {"type": "number", "minimum": 0}
    return _object(
        status={"enum": ["healthy", "degraded", "unhealthy"]},
        buffer_fill_percent={"type": "number", "minimum": 0, "maximum": 100},
        buffer_bytes_available=count,
        last_data_received={"type": ["string", "null"], "format": "date-time"},
        data_freshness_seconds=_NUMBER_OR_NULL,
        uptime_seconds=amount,
        total_requests_served=count,
        total_bytes_served=count,
        requests_per_second=amount,
        warnings={"type": "array", "items": {"type": "string"}},
        pool_id={"type": "string"},
        version={"type": "string"},
        capacity_bytes=count,
        watermark={"enum": ["low", "medium", "high", "critical"]},
        waiting_claims=count,
        inflow_bytes_per_second=amount,
        outflow_bytes_per_second=amount,
        forecast_seconds_left=_NUMBER_OR_NULL,
        reserved_bytes=count,
        lanes={"type": "array", "items": _ANY_OBJECT},
        collectors={"type": "array", "items": _ANY_OBJECT},
        keys={"type": "array", "items": _ANY_OBJECT},
        accounting=_ANY_OBJECT,
    )


def _monte_carlo_schema() -> Json:
    estimate = _object(
        estimated_pi={"type": "number", "minimum": 0, "maximum": 4},
        error={"type": "number", "minimum": 0},
        convergence_rate=_NUMBER_OR_NULL,
    )
    interval = _object(level={"type": "number"}, low={"type": "number"}, high={"type": "number"})
    chi_square = _object(
        of={"type": "string"},
        statistic={"type": "number"},
        degrees_of_freedom={"type": "integer"},
        p_value={"type": "number", "minimum": 0, "maximum": 1},
    )
    point = _object(iterations={"type": "integer"}, estimated_pi={"type": "number"}, error={"type": "number"})
    point_in_plane = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    points = {"type": "array", "items": point_in_plane}
    return _object(
        iterations_requested={"type": "integer", "minimum": 1},
        iterations_used={"type": "integer", "minimum": 1},
        bytes_per_iteration={"type": "integer"},
        **estimate["properties"],
        confidence_interval=interval,
        chi_square={"anyOf": [chi_square, {"type": "null"}]},
        convergence={"type": "array", "items": point},
        source_class=_CLASSES,
        processing={"type": "string"},
        device_ids={"type": "array", "items": {"type": "string"}},
        capture_start_ns={"type": "integer"},
        capture_end_ns={"type": "integer"},
        quantum_vs_pseudo=_object(sample=estimate, pseudo=estimate),
        scatter_plot_data=_object(inside=points, outside=points),
    )
