"""`qrng status`: how a gateway does."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qrng_cli.connection import Server, open_client, printable, server_options
from qrng_client import GatewayStatus


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@server_options
def command(as_json: bool, **server: Any) -> None:
    """Show how a gateway does: its pool, its collectors, where its bytes went.

    \b
      qrng status
      qrng status --json | jq .pooled_bytes
    """
    with open_client(Server(**server)) as client:  # type: ignore[typeddict-item]
        status = client.status()
    if as_json:
        click.echo(json.dumps(asdict(status), indent=2, default=_plain))
    else:
        Console().print(table(status))


def table(status: GatewayStatus) -> Table:
    """Return what a person wants to know."""
    rows = Table(show_header=False, box=None)
    for name, value in _facts(status):
        rows.add_row(name, escape(printable(value)))
    return rows


def _facts(status: GatewayStatus) -> list[tuple[str, str]]:
    accounting = status.accounting
    return [
        ("state", status.state),
        (
            "pool",
            f"{status.pooled_bytes:,} of {status.capacity_bytes:,} bytes ({status.watermark}), id {status.pool_id}",
        ),
        *(
            (
                "lane",
                f"{_word(lane.source_class)}, processing {_word(lane.processing)}: {lane.pooled_bytes:,} bytes, "
                f"oldest {lane.oldest_age_s:.1f} s",
            )
            for lane in status.lanes
        ),
        *(
            ("collector", f"{collector.collector_id}, heard {collector.silent_s:.1f} s ago")
            for collector in status.collectors
        ),
        ("stored", f"{accounting.stored_bytes:,} bytes"),
        ("served", f"{accounting.served_bytes:,} bytes in {status.served_claims:,} claims"),
        ("waiting", f"{status.waiting_claims:,} claims"),
        ("up", f"{status.uptime_s:.0f} s, version {status.version}"),
        *(("warning", warning) for warning in status.warnings),
    ]


def _word(label: Enum | None) -> str:
    return "unknown" if label is None else str(label.value)


def _plain(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
