"""What `qrng up` settles before it starts anything: keys, settings, addresses.

Idea: both programs' settings are read here exactly as the programs will read them, so that every mistake
is told before anything runs, and the addresses a person is shown are those in force.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dotenv import dotenv_values

from qrng_cli.child import Command
from qrng_cli.demo import CLIENT_KEY, demo_settings, keep_address, write_client_file
from qrng_collector import config as collector
from qrng_gateway import config as gateway
from qrng_grpc.config import host_and_port, load
from qrng_grpc.errors import ConfigError
from qrng_grpc.tls import TlsFiles

_MARGIN_S = 10.0
_PUSH_URL = collector.ENV_PREFIX + "PUSH_URL"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


@dataclass(frozen=True, slots=True)
class Plan:
    """Two commands to run, and what a person must know to use them."""

    gateway: Command
    collector: Command
    client_file: Path
    """What a client's shell sources."""
    listen_addresses: Mapping[str, str]
    """Where the gateway is to listen, by the setting's name in the environment."""
    client_address: str
    push_address: str
    rest_address: str
    state_dirs: tuple[Path, Path]
    key_opens_gateway: bool
    """Whether the key in the client's file is one of the gateway's."""
    leaves_machine: bool
    """Whether the owner allowed plaintext beyond loopback."""
    client_tls: bool = False
    """Whether clients must use TLS."""
    push_tls: TlsFiles | None = None
    """What the push listener takes; None for plaintext."""


def rehearse(profile: Path | None, settings: Mapping[str, str]) -> None:
    """Settle everything in a directory that goes away, so that a mistake leaves nothing behind. Raises as `prepare`."""
    with TemporaryDirectory() as scratch:
        prepare(Path(scratch), profile, settings)


def prepare(var: Path, profile: Path | None, settings: Mapping[str, str]) -> Plan:
    """Settle everything. `settings` are stronger than the environment, which is stronger than `profile`.

    Raises ConfigError with every mistake, and StateError when the demo file cannot be used.
    """
    demo_file, client_file = var / "demo.env", var / "client.env"
    demo = demo_settings(demo_file)
    environ = {**os.environ, **settings}
    env_files = (demo_file, profile) if profile is not None else (demo_file,)
    state_dirs = (var / "gateway", var / "collector")

    beside_demo = environ | (dotenv_values(profile) if profile is not None else {})
    _refuse_signing_keys(beside_demo)
    _check_both(environ, env_files, _unknown(settings))
    serve = _load(gateway.GatewayConfig, gateway.ENV_PREFIX, environ, env_files, {"state_dir": str(state_dirs[0])})
    addresses = {
        name: getattr(serve, name) for name in ("listen_address", "push_listen_address", "rest_listen_address")
    }
    client, push, rest = (_reachable(gateway.ENV_PREFIX + name.upper(), address) for name, address in addresses.items())

    wanted = {"state_dir": str(state_dirs[1])}
    if _PUSH_URL not in beside_demo:
        wanted["push_url"] = push
    collect = _load(collector.CollectorConfig, collector.ENV_PREFIX, environ, env_files, wanted)
    keep_address(demo_file, demo, client)
    write_client_file(client_file, demo, client)

    return Plan(
        gateway=_command("gateway", env_files, {"state_dir": str(state_dirs[0])}, environ, serve.drain_timeout),
        collector=_command("collector", env_files, wanted, environ, collect.flush_timeout),
        client_file=client_file,
        listen_addresses={gateway.ENV_PREFIX + name.upper(): address for name, address in addresses.items()},
        client_address=client,
        push_address=push,
        rest_address=rest,
        state_dirs=state_dirs,
        key_opens_gateway=demo[CLIENT_KEY] in [key.get_secret_value() for key in serve.api_keys],
        leaves_machine=serve.allow_plaintext_beyond_loopback,
        client_tls=serve.tls_files is not None,
        push_tls=_push_tls(serve, collect),
    )


def _unknown(settings: Mapping[str, str]) -> list[str]:
    """Return a mistake for each name that is neither program's, so that neither would look at it."""
    prefixes = (gateway.ENV_PREFIX, collector.ENV_PREFIX)
    return [
        f"{name}: there is no such setting; names begin with {' or '.join(prefixes)}"
        for name in settings
        if not name.upper().startswith(prefixes)
    ]


def _refuse_signing_keys(given: Mapping[str, str | None]) -> None:
    """Refuse signing keys of the site's own, which go ill with the one that is made here. Raises ConfigError."""
    files = [prefix + "SIGNING_KEYS_FILE" for prefix in (gateway.ENV_PREFIX, collector.ENV_PREFIX)]
    theirs = [name for name in files if any(name == one.upper() and file for one, file in given.items())]
    if theirs:
        run = "`qrng up` makes a signing key itself; for others run `qrng gateway` and `qrng collector`"
        raise ConfigError([f"{name}: {run}" for name in theirs])


def _check_both(environ: Mapping[str, str], env_files: Any, unknown: list[str]) -> None:
    """Refuse settings that either program cannot use. Raises ConfigError with `unknown` and the mistakes of both."""
    mistakes = list(unknown)
    for model, prefix, given in (
        (gateway.GatewayConfig, gateway.ENV_PREFIX, {"state_dir": "."}),
        (collector.CollectorConfig, collector.ENV_PREFIX, {"state_dir": ".", "push_url": "127.0.0.1:1"}),
    ):
        try:
            _load(model, prefix, environ, env_files, given)
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(tuple(dict.fromkeys(mistakes)))


def _push_tls(serve: gateway.GatewayConfig, collect: collector.CollectorConfig) -> TlsFiles | None:
    """Return the collector's files when the gateway's push listener asks for them. Raises ConfigError without them."""
    if serve.push_tls_files is None:
        return None
    if collect.push_tls_files is None or collect.push_cert_file is None:
        needed = ", ".join(collector.ENV_PREFIX + name for name in ("PUSH_CA_FILE", "PUSH_CERT_FILE", "PUSH_KEY_FILE"))
        mistake = f"push_tls_cert_file: with it the collector must show a certificate too; set {needed}"
        raise ConfigError([serve.spelt(mistake)])
    return collect.push_tls_files


def _load(model: type[Any], prefix: str, environ: Mapping[str, str], files: Any, overrides: Mapping[str, str]) -> Any:
    return load(model, prefix=prefix, environ=environ, env_files=files, overrides=overrides)


def _command(
    name: str, env_files: tuple[Path, ...], settings: Mapping[str, str], environ: Mapping[str, str], drain_s: float
) -> Command:
    files = [argument for file in env_files for argument in ("--env-file", str(file))]
    sets = [argument for item in settings.items() for argument in ("--set", "=".join(item))]
    return Command(name, [*files, *sets], environ, drain_s + _MARGIN_S)


def _reachable(name: str, address: str) -> str:
    """Return where clients here reach a listener at `address`. Raises ConfigError when nobody could be told."""
    if address.startswith("unix:"):
        raise ConfigError([f"{name}: `up` needs HOST:PORT; at a Unix socket `qrng gateway` listens"])
    host, port = host_and_port(address)
    if port == 0:
        raise ConfigError([f"{name}: `up` must know the port, so it cannot be 0"])
    bracketed = f"[{host}]" if ":" in host else host
    return f"{_WILDCARDS.get(host, bracketed)}:{port}"
