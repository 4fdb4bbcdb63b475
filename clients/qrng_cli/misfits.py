"""Settings that each program takes by itself, and with which they would still not understand each other.

Idea: a misfit shows only at run time, as chunks that wait for ever or clients that nobody lets in. Where a profile sets
both ends, it can be told beforehand, by the names of both settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from qrng_cli.profiles import CLIENT, COLLECTOR, GATEWAY
from qrng_grpc.labels import BEST_FIRST

if TYPE_CHECKING:
    from qrng_client.settings import ClientSettings
    from qrng_collector.config import CollectorConfig
    from qrng_gateway.config import GatewayConfig

Given = Mapping[str, frozenset[str]]
"""Which settings were given for each program, by names in lower case."""


def misfits(read: Mapping[str, Any], given: Given) -> Iterator[str]:
    """Yield a mistake for each misfit of what was `read` for the programs, by what their names begin with."""
    gateway, collector, client = (read.get(prefix) for prefix in (GATEWAY, COLLECTOR, CLIENT))
    if client is not None:
        yield from _of_client(client, given[CLIENT])
    if gateway is not None and collector is not None:
        yield from _of_keys(gateway, collector, given)
        yield from _of_classes(gateway, collector)
        yield from _of_pushes(gateway, collector)
    if gateway is not None and client is not None:
        yield from _of_calls(gateway, client)


def _of_client(client: ClientSettings, given: frozenset[str]) -> Iterator[str]:
    server = sorted(name for name in given if name in ("grpc_server_address", "grpc_service", "grpc_method_path"))
    if server and client.entropy_source_type != "quantum_grpc":
        yield (
            f"{CLIENT}ENTROPY_SOURCE_TYPE: is {client.entropy_source_type}, so the server that"
            f" {CLIENT}{server[0].upper()} is about would never be asked; say quantum_grpc"
        )


def _of_keys(gateway: GatewayConfig, collector: CollectorConfig, given: Given) -> Iterator[str]:
    """Compare what both ends must have alike."""
    for name in ("hmac_key_id", "collector_id", "pool_id"):
        if name in given[GATEWAY] and name in given[COLLECTOR] and getattr(gateway, name) != getattr(collector, name):
            yield f"{GATEWAY}{name.upper()}: differs from {COLLECTOR}{name.upper()}, so no chunk would be taken"
    if gateway.best_class is not None and not gateway.best_class.at_least(collector.best_class):
        yield f"{GATEWAY}BEST_CLASS: is weaker than {COLLECTOR}BEST_CLASS, so chunks of that class would not be taken"


def _of_classes(gateway: GatewayConfig, collector: CollectorConfig) -> Iterator[str]:
    classes = [source.label_class for source in collector.sources] or [collector.source_class]
    best = min(classes, key=BEST_FIRST.index)
    if gateway.least_class is not None and not best.at_least(gateway.least_class):
        yield f"{GATEWAY}LEAST_CLASS: is better than any source of the collector, so nothing would ever be served"


def _of_pushes(gateway: GatewayConfig, collector: CollectorConfig) -> Iterator[str]:
    for target in collector.targets:
        files = target.push_tls_files
        if gateway.push_tls_files is not None and (files is None or files.cert_file is None):
            yield f"{GATEWAY}PUSH_TLS_CERT_FILE: with it the collector must show a certificate; set {_PUSH_FILES}"
        if gateway.push_tls_files is None and files is not None:
            yield f"{COLLECTOR}PUSH_CA_FILE: the gateway takes pushes in plaintext, without {GATEWAY}PUSH_TLS_CERT_FILE"


_PUSH_FILES = ", ".join(f"{COLLECTOR}PUSH_{name}_FILE" for name in ("CA", "CERT", "KEY"))


def _of_calls(gateway: GatewayConfig, client: ClientSettings) -> Iterator[str]:
    if client.entropy_source_type != "quantum_grpc":
        return
    encrypted = any(endpoint.encrypted for endpoint in client.endpoints)
    if encrypted != (gateway.tls_files is not None):
        yield (
            f"{CLIENT}GRPC_TLS: the client uses TLS and the gateway, without {GATEWAY}TLS_CERT_FILE, does not"
            if encrypted
            else f"{GATEWAY}TLS_CERT_FILE: clients must use TLS then; set {CLIENT}GRPC_CA_FILE or {CLIENT}GRPC_TLS"
        )
    if gateway.client_ca_file is not None and encrypted and client.grpc_cert_file is None:
        yield f"{GATEWAY}CLIENT_CA_FILE: with it clients must show a certificate; set {CLIENT}GRPC_CERT_FILE"
    if client.grpc_api_key_header not in (gateway.api_key_header, "authorization"):
        yield f"{CLIENT}GRPC_API_KEY_HEADER: differs from {GATEWAY}API_KEY_HEADER, so no key would be seen"
    if client.grpc_max_request_bytes > gateway.max_request_bytes:
        yield f"{CLIENT}GRPC_MAX_REQUEST_BYTES: is more than {GATEWAY}MAX_REQUEST_BYTES, and would be refused"
