"""`qrng status`: how a gateway does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qrng_cli.connection import Server, in_words, open_client, printable, server_options
from qrng_client import Allowance, EntropyClient, GatewayStatus, UnsupportedError
from qrng_client.status import Accounting, Collector
from qrng_grpc.wording import counted

_LAST_S = 253_402_300_799
"""The end of the year 9999, seconds of Unix time."""


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@server_options
def command(as_json: bool, **server: Any) -> None:
    """Show how a gateway does: its pool, its collectors, where its bytes went. Of `qrng serve-source`: what it served.

    \b
      qrng status
      qrng status --json | jq .pooled_bytes
    """
    with open_client(Server(**server)) as client:  # type: ignore[typeddict-item]
        status, left = _asked(client), client.allowance
    if as_json:
        allowance = {"allowance": None if left is None else asdict(left)}
        click.echo(json.dumps(asdict(status) | allowance, indent=2, default=_plain))
    else:
        Console().print(table(status, left))


def _asked(client: EntropyClient) -> GatewayStatus:
    """Return what the server says. Raises UnsupportedError, in words of this command, for a server that is not ours."""
    try:
        return client.status()
    except UnsupportedError as error:
        said = error.message
    raise UnsupportedError(f"{said}: only gateways and `qrng serve-source` have a status")


def table(status: GatewayStatus, left: Allowance | None) -> Table:
    """Return what a person wants to know; `left` is what the gateway still grants whoever asks."""
    rows = Table(show_header=False, box=None)
    for name, value in _facts(status, left):
        rows.add_row(name, escape(printable(value)))
    return rows


def _facts(status: GatewayStatus, left: Allowance | None) -> list[tuple[str, str]]:
    allowed = [] if left is None else [("left", f"{in_words(left)}, for this key")]
    return [
        ("state", status.state),
        *(_pool_facts(status) if status.capacity_bytes else _direct_facts(status)),
        *allowed,
        ("up", f"{status.uptime_s:.0f} s, version {status.version}"),
        *(("warning", warning) for warning in status.warnings),
    ]


def _direct_facts(status: GatewayStatus) -> list[tuple[str, str]]:
    """Return what there is to know of a server without a pool."""
    return [
        ("pool", "none: this server reads its source when somebody asks"),
        ("served", f"{_bytes(status.accounting.served_bytes)} in {counted(status.served_claims, 'request')}"),
        ("waiting", counted(status.waiting_claims, "request")),
    ]


def _pool_facts(status: GatewayStatus) -> list[tuple[str, str]]:
    accounting = status.accounting
    return [
        (
            "pool",
            f"{status.pooled_bytes:,} of {_bytes(status.capacity_bytes)},"
            f" {100 * status.pooled_bytes / status.capacity_bytes:.0f} % full, id {status.pool_id}",
        ),
        *(
            (
                "lane",
                f"{_word(lane.source_class)}, processing {_word(lane.processing)}: {_bytes(lane.pooled_bytes)}, "
                f"oldest {lane.oldest_age_s:.1f} s",
            )
            for lane in status.lanes
        ),
        *(fact for collector in status.collectors for fact in _collector_facts(collector)),
        *(
            (
                "key",
                f"{key.key_id} of {key.collector_id}, {key.algorithm}, {key.state}, last used "
                f"{_date(key.last_used_ns, 'never since start')}, ends {_date(key.not_after_ns, 'never')}",
            )
            for key in status.keys
        ),
        ("stored", _bytes(accounting.stored_bytes)),
        ("served", f"{_bytes(accounting.served_bytes)} in {counted(status.served_claims, 'claim')}"),
        *(("gone", fate) for fate in _fates(accounting)),
        ("rate", _rates(status)),
        ("waiting", counted(status.waiting_claims, "claim")),
    ]


def _fates(accounting: Accounting) -> Iterator[str]:
    """Yield what became of bytes that were neither served nor are in the pool, and of how many."""
    fates = {
        "expired": accounting.expired_bytes,
        "destroyed to make room": accounting.overflow_bytes,
        "purged with a revoked key": accounting.purged_bytes,
        "set aside for tests of quality": accounting.set_aside_bytes,
        "used up by conditioning": accounting.conditioned_bytes,
        **{f"refused as {reason}": refused for reason, refused in accounting.refused_bytes.items()},
    }
    yield from (f"{_bytes(count)} {fate}" for fate, count in fates.items() if count)


def _rates(status: GatewayStatus) -> str:
    ends = "" if status.forecast_s is None else f"; empty in {status.forecast_s:,.0f} s if that goes on"
    return f"{_rate(status.inflow_bytes_per_s)} in, {_rate(status.outflow_bytes_per_s)} out{ends}"


def _rate(bytes_per_s: float) -> str:
    number = f"{bytes_per_s:,.0f}"  # which may be infinite: a gateway may say anything
    return f"{number} byte/s" if number == "1" else f"{number} bytes/s"


def _collector_facts(collector: Collector) -> Iterator[tuple[str, str]]:
    """Yield when it was heard, and what its last heartbeat told."""
    yield "collector", f"{collector.collector_id}, heard {collector.silent_s:.1f} s ago{_skew(collector.clock_skew_s)}"
    told = collector.heartbeat
    if told is None:
        yield "queue", "unknown: no heartbeat since the gateway's start"
        return
    yield "queue", f"{_bytes(told.queued_bytes)} at its last heartbeat, {_date(told.arrived_ns, 'never')}"
    yield (
        "dropped",
        f"{_bytes(told.overflow_bytes)} by overflow, {told.expired_bytes:,} expired, {told.in_doubt_bytes:,} in doubt,"
        " since it started",
    )
    for source in told.sources:
        yield (
            "source",
            f"{source.device_id} of {collector.collector_id}, {_word(source.source_class)}, {_word(source.condition)},"
            f" {_bytes(source.fetched_bytes)} fetched",
        )


def _bytes(number: int) -> str:
    return counted(number, "byte")


def _skew(skew_s: float | None) -> str:
    if skew_s is None:
        return ""
    return f", its clock {abs(skew_s):.3f} s {'behind' if skew_s >= 0 else 'ahead'}"


def _date(unix_ns: int | None, none: str) -> str:
    if unix_ns is None:
        return none
    # A gateway may say anything; beyond the calendar there is no date to show.
    seconds = min(unix_ns // 1_000_000_000, _LAST_S)
    return datetime.fromtimestamp(max(0, seconds), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _word(label: Enum | None) -> str:
    return "unknown" if label is None else str(label.value)


def _plain(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
