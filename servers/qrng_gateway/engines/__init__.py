"""Engines: what speaks HTTP/2 with the clients of the gateway.

Idea: an engine is a `grpc.aio.Server`. Servicers are registered at it, it binds, starts and stops, and nothing else in
the gateway knows which one it is: `grpcio`, which carries everything, or `native`, which does the work of most calls
outside Python's lock and is meant to stand behind a TLS proxy. docs/operations.md, "Engines", lists what differs.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import grpc.aio

from qrng_grpc.serving import ConnectionAge, new_server

EngineName = Literal["grpcio", "native"]
NATIVE_PACKAGE = "pygrpc_native"


def native_is_installed() -> bool:
    """Say whether the package is there that the engine `native` stands on."""
    return importlib.util.find_spec(NATIVE_PACKAGE) is not None


def new_engine(
    name: EngineName,
    *,
    max_message_bytes: int,
    max_streams: int,
    max_calls: int,
    max_connections: int,
    age: ConnectionAge | None,
) -> grpc.aio.Server:
    """Make an engine with the bounds of `qrng_grpc.serving.new_server`.

    `native` keeps those of calls, messages and metadata; it knows no bound of connections and no age, and none is to
    be given it. Raises ImportError when its package is missing.
    """
    server = new_server(
        max_message_bytes=max_message_bytes,
        max_streams=max_streams,
        max_calls=max_calls,
        max_connections=max_connections,
        age=age,
    )
    if name == "grpcio":
        return server
    from qrng_gateway.engines.native import NativeServer  # noqa: PLC0415 - its package is an extra

    return NativeServer(server, max_message_bytes=max_message_bytes, max_streams=max_streams, max_calls=max_calls)
