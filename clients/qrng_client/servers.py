"""The servers that settings name, as what a client opens: checked, with mistakes told by setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypedDict, TypeVar

from pydantic import SecretStr

from qrng_client.settings import ClientSettings, ConfigValidationError, client_settings
from qrng_grpc.channel import Endpoint, stays_on_machine
from qrng_grpc.errors import ConfigError
from qrng_grpc.exchange import GrpcMethod

Client = TypeVar("Client")
Opened = TypeVar("Opened")

_SETTING_OF = {"CA file": "grpc_ca_file", "certificate file": "grpc_cert_file", "key file": "grpc_key_file"}
_BEYOND = (
    "grpc_server_address: {} is beyond this machine, and nothing is encrypted: set grpc_tls or grpc_ca_file, or allow"
    " it by grpc_allow_plaintext_beyond_loopback"
)


def open_callers(
    settings: ClientSettings, opener: Callable[[Endpoint, GrpcMethod, SecretStr | None], Opened]
) -> tuple[Opened, ...]:
    """Return what `opener` makes of each server, in the order of the settings; no connection is made.

    Raises ConfigValidationError for plaintext to another machine unless that is allowed, and for files that cannot be
    used.
    """
    endpoints = settings.endpoints
    _refuse_exposed(settings)
    try:
        return tuple(opener(endpoint, settings.method, settings.api_key) for endpoint in endpoints)
    except ValueError as error:
        mistake = str(error)
    raise ConfigValidationError([_by_setting(settings, mistake)])


class TlsChoice(TypedDict, total=False):
    """What a caller may say of TLS in place of the settings: as the arguments of `EntropyClient`."""

    tls: bool
    ca_file: Path | str | None
    cert_file: Path | str | None
    key_file: Path | str | None
    allow_plaintext_beyond_loopback: bool


def client_by_settings(make: Callable[..., Client], environ: Mapping[str, str], chosen: TlsChoice) -> Client:
    """Return the client of one server that `make` makes of the settings in `environ`; what is `chosen` counts more.

    None and False choose nothing. Raises ConfigError, also for several addresses, and TypeError for a choice that
    `make` does not know.
    """
    settings = client_settings(environ)
    address = settings.only_address
    by_settings = {
        "tls": settings.grpc_tls,
        "ca_file": settings.grpc_ca_file,
        "cert_file": settings.grpc_cert_file,
        "key_file": settings.grpc_key_file,
        "allow_plaintext_beyond_loopback": settings.grpc_allow_plaintext_beyond_loopback,
    }
    over = {name: value for name, value in chosen.items() if value or name not in by_settings}
    with nullcontext() if any(chosen.values()) else told_by_setting(settings):
        return make(
            address,
            api_key=settings.grpc_api_key.get_secret_value(),
            api_key_header=settings.grpc_api_key_header,
            timeout_s=settings.timeout_s,
            **(by_settings | over),
        )


@contextmanager
def told_by_setting(settings: ClientSettings) -> Iterator[None]:
    """Let mistakes of a channel that the block opens by `settings` be known by the settings they are about.

    Raises as `open_callers`.
    """
    _refuse_exposed(settings)
    try:
        yield
    except ConfigError as error:
        mistakes = [_by_setting(settings, mistake) for mistake in error.mistakes]
    else:
        return
    raise ConfigValidationError(mistakes)


def _refuse_exposed(settings: ClientSettings) -> None:
    """Refuse plaintext to another machine, unless that is allowed. Raises ConfigValidationError."""
    exposed = [
        settings.spelt(_BEYOND.format(endpoint.address))
        for endpoint in settings.endpoints
        if not (endpoint.encrypted or endpoint.allow_plaintext_beyond_loopback or stays_on_machine(endpoint.address))
    ]
    if exposed:
        raise ConfigValidationError(exposed)


def _by_setting(settings: ClientSettings, mistake: str) -> str:
    """Return a mistake of a channel as one of a setting."""
    setting = next((name for begins, name in _SETTING_OF.items() if mistake.startswith(begins)), "grpc_server_address")
    return settings.spelt(f"{setting}: {mistake}")
