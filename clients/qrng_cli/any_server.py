"""Bytes of servers that are no gateway of ours, or in ways that only the any-server client knows.

Idea: `qrng get` and `qrng stream` speak `qrng.v1`, whose replies say most. Where settings name another service or
another source, or ask for mixing, a fall-back, a stock or several servers, they are read with `RandomClient` instead.
No setting is passed over in silence, and no option either: what only a gateway understands is then refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from qrng_cli.connection import Server, client_environ
from qrng_client import SourceClass, Wanted
from qrng_client.draws import Draw
from qrng_client.random_client import RandomClient
from qrng_client.services import SERVICES
from qrng_client.settings import ClientSettings, client_settings

_OURS = SERVICES["qrng.v1"]
_GATEWAY_ONLY = {
    "max_age_s": "--max-age",
    "fresh": "--fresh",
    "processing": "--processing",
    "span_lanes": "--span-lanes",
    "provenance": "--provenance",
}
"""What may be demanded of bytes that no other server understands, and the options that do."""


def settings_for(server: Server, wanted: Wanted) -> ClientSettings:
    """Return a client's settings as options, environment and profile have them. Raises ConfigError."""
    environ = client_environ(server)
    least = wanted["least_class"]
    if least is not None:
        environ["QR_LEAST_CLASS"] = SourceClass(least).value
    return client_settings(environ)


def needs_any_server(settings: ClientSettings) -> str | None:
    """Return which setting asks for more than a gateway of ours is asked in the usual way; None when there is none."""
    given = settings.model_fields_set
    path = "grpc_method_path" if settings.grpc_mode == "unary" else "grpc_stream_method_path"
    asks = {
        "QR_ENTROPY_SOURCE_TYPE": "entropy_source_type" in given and settings.entropy_source_type != "quantum_grpc",
        f"QR_{path.upper()}": path in given and getattr(settings, path) != _OURS[path],
        "QR_GRPC_SERVER_ADDRESS": len(settings.addresses) > 1,
        "QR_LOCAL_MIXING": settings.local_mixing,
        "QR_FALLBACK_MODE": settings.fallback_mode != "error",
        "QR_PREFETCH_BYTES": settings.prefetch_bytes > 0,
    }
    return next((name for name, more in asks.items() if more), None)


def open_any(settings: ClientSettings, wanted: Wanted) -> RandomClient:
    """Make the client for `settings` that need it.

    Raises UsageError for what is wanted and no other server understands, and ConfigError.
    """
    refused = [option for name, option in _GATEWAY_ONLY.items() if wanted.get(name)]
    if refused:
        why = needs_any_server(settings)
        raise click.UsageError(f"{', '.join(refused)}: for a gateway asked in the usual way, and {why} says otherwise")
    return RandomClient(settings)


def draws(client: RandomClient, each: int, total: int | None) -> Iterator[Draw]:
    """Yield draws of `each` bytes, `total` in all or without end."""
    left = total
    while left is None or left > 0:
        draw = client.draw(each if left is None else min(each, left))
        left = None if left is None else left - len(draw)
        yield draw


def describe(draw: Draw) -> str:
    """Say in a line what bytes are."""
    stated = "unstated" if draw.source_class is None else draw.source_class.value
    facts = {"mixed": draw.mixed, "prefetched": draw.prefetched, "fallback": draw.from_fallback}
    told = (f"{name}={'yes' if fact else 'no'}" for name, fact in facts.items())
    return " ".join((f"class={stated} source={draw.source}", *told))
