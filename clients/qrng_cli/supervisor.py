"""Two programs under one command: who starts first, who ends first, and what if one dies.

Idea: `supervise` is the whole story. Start order is reading order, and leaving the nested blocks is the
shutdown order: the collector flushes, then the gateway drains.
"""

from __future__ import annotations

import asyncio
import errno
import shlex
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qrng_cli.child import running
from qrng_cli.setup import Plan
from qrng_grpc.channel import Endpoint, channel_options, open_async_channel
from qrng_grpc.config import host_and_port
from qrng_grpc.errors import ConfigError, ServerUnreachableError, StateHeldError
from qrng_grpc.serving import stop_event_on_signals
from qrng_grpc.state import state_directory
from qrng_grpc.tls import client_credentials, read_material

START_LIMIT_S = 30.0
LAST_RUN_LIMIT_S = 30.0
_POLL_S = 0.1


async def supervise(plan: Plan) -> None:
    """Run gateway and collector until a signal, and end them in order.

    Raises ChildEndedError when one of them ends by itself; the other is then stopped.
    """
    stop = stop_event_on_signals()
    await _first_of(stop.wait(), _last_run_ended(plan.state_dirs))
    if stop.is_set():
        return
    _refuse_taken(plan)
    async with running(plan.gateway) as gateway:
        await _first_of(stop.wait(), gateway.ended(), _takes_pushes(plan))
        if stop.is_set():
            return
        async with running(plan.collector) as collector:
            click.echo(announcement(plan))
            await _first_of(stop.wait(), gateway.ended(), collector.ended())
            click.echo("ending: the collector flushes, then the gateway drains", err=True)


def announcement(plan: Plan) -> str:
    """Return what a person needs: addresses, and commands to paste. Never the key."""
    qrng = _as_typed(Path(sys.executable).with_name("qrng"))
    scheme, qrng_tls, curl_tls, grpcurl_tls = "http", "", "", "-plaintext"
    if plan.client_tls:  # whose authority signed the certificate its owner must know
        scheme, qrng_tls, curl_tls, grpcurl_tls = "https", " --ca-file CA.pem", " --cacert CA.pem", "-cacert CA.pem"
    lines = [
        f"The gateway serves gRPC at {plan.client_address} and REST at {scheme}://{plan.rest_address}, and takes pushes"
        f" at {plan.push_address}.",
        "Paste into another terminal:",
        "",
        f"  set -a; . {_sourced(plan.client_file)}; set +a",
        f"  {qrng} get{qrng_tls} 32",
        f"  {qrng} status{qrng_tls}",
        "",
        "or, where they are installed:",
        "",
        """  printf 'Authorization: Bearer %s' "$QR_GRPC_API_KEY" |"""
        f" curl{curl_tls} -H @- '{scheme}://{plan.rest_address}/api/random?bytes=32'",
        f"  grpcurl {grpcurl_tls}"
        """ -expand-headers -H 'api-key: ${QR_GRPC_API_KEY}' -d '{"bytes_needed": 32}'"""
        f" {plan.client_address} qrng.v1.EntropyService/GetEntropy",
        "",
        "Ctrl-C ends it.",
    ]
    if not plan.key_opens_gateway:
        lines.insert(
            1, f"The key in {plan.client_file} does not open it, since other QRNG_GATEWAY_API_KEYS are in force."
        )
    return "\n".join(lines)


async def _first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until one is done, cancel the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _takes_pushes(plan: Plan) -> None:
    """Wait until the gateway's push service is SERVING. Raises ServerUnreachableError after half a minute."""
    request = health_pb2.HealthCheckRequest(service="qrng.v1.PushService")
    try:
        async with _push_channel(plan) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # the published types leave Watch out
            async for reply in stub.Watch(request, timeout=START_LIMIT_S, wait_for_ready=True):
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
    except grpc.aio.AioRpcError:
        pass
    trusted = f"; is its certificate one of {plan.push_tls.ca_file}, for this address?" if plan.push_tls else ""
    raise ServerUnreachableError(f"the gateway took no pushes at {plan.push_address} in time{trusted}")


def _push_channel(plan: Plan) -> grpc.aio.Channel:
    endpoint = Endpoint(plan.push_address, allow_plaintext_beyond_loopback=plan.leaves_machine)
    if plan.push_tls is None:
        return open_async_channel(endpoint)
    credentials = client_credentials(read_material(plan.push_tls))
    return grpc.aio.secure_channel(plan.push_address, credentials, options=channel_options(endpoint))


async def _last_run_ended(state_dirs: tuple[Path, ...]) -> None:
    """Wait until nobody holds the state: the children of an `up` that was killed need a moment to drain.

    Raises StateHeldError when somebody still does after half a minute, StateError when they cannot be used.
    """
    waited_s = 0.0
    for directory in state_dirs:
        while True:
            try:
                with state_directory(directory):
                    break
            except StateHeldError:
                if waited_s >= LAST_RUN_LIMIT_S:
                    raise
            if waited_s == 0:
                click.echo("waiting for the last run to end", err=True)
            waited_s += _POLL_S
            await asyncio.sleep(_POLL_S)


def _refuse_taken(plan: Plan) -> None:
    """Refuse addresses that other programs listen at. Raises ConfigError that names each setting to change."""
    taken = [
        f"{name}: {address} is in use by another program; set another address"
        for name, address in plan.listen_addresses.items()
        if _is_taken(*host_and_port(address))
    ]
    if taken:
        raise ConfigError(taken)


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # every other fault is the gateway's to tell
    return False


def _as_typed(path: Path) -> str:
    """Return `path` as one would type it here."""
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))


def _sourced(path: Path) -> str:
    """Return `path` for the shell's `.`, which looks a name without a slash up in PATH."""
    typed = _as_typed(path)
    return typed if "/" in typed else f"./{typed}"
