"""`qrng keygen`: fresh secrets."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from qrng_grpc.chunk import is_id
from qrng_grpc.errors import StateError
from qrng_grpc.wording import reason_of

_BYTES = 32


@click.command("keygen")
@click.option(
    "--kind",
    type=click.Choice(["api", "hmac", "ed25519", "spool"]),
    default="api",
    show_default=True,
    help="api: a key for one client. hmac: a signing key that collector and gateway share. ed25519: a signing key whose"
    " private part only the collector has. spool: the key of a collector's disk spool.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="ed25519: the private file to write.")
@click.option("--id", "key_id", help="ed25519: the key's id, a new one for each key.")
@click.option("--collector", "collector_id", help="ed25519: the id of the collector that signs with it.")
@click.option("--pool", "pool_ids", multiple=True, help="ed25519: a pool it is for; repeat it for more.")
@click.option(
    "--best-class",
    type=click.Choice(["quantum", "hardware", "operating_system", "simulated"]),
    help="ed25519: the best class of source it may claim.",
)
def command(
    kind: str,
    out: Path | None,
    key_id: str | None,
    collector_id: str | None,
    pool_ids: tuple[str, ...],
    best_class: str | None,
) -> None:
    """Make a fresh secret of 256 bits, from the operating system's generator.

    \b
      qrng keygen                  for the gateway's api_keys, and QR_GRPC_API_KEY at the client
      qrng keygen --kind hmac      for hmac_secret_key or a record's secret, the same at collector and gateway
      qrng keygen --kind spool     for the file that spool_key_file names

    Those are printed. Keep them in a file of mode 0600, for example an --env-file:

    \b
      (umask 077; echo "QRNG_GATEWAY_API_KEYS=$(qrng keygen)" >> gateway.env)

    Of an Ed25519 key the private part goes into a new file of mode 0600, which is the collector's
    signing_keys_file, and the public record is printed, to be pasted into the gateway's:

    \b
      qrng keygen --kind ed25519 --id lab-1-b --collector lab-1 --pool pool-1 --best-class quantum --out key-b.yaml

    To exchange a signing key without losing a chunk:

    \b
      1. Make a new key under a new id.
      2. Add its public record to the gateway's signing_keys_file, beside the old one. Wait until the log says
         signing_keys_reloaded, and `qrng status` lists the key.
      3. Put the private file in place of the collector's (mv). Its log says signing_with the new key.
      4. Wait until `qrng status` shows the old key unused for longer than the gateway's buffer_ttl: its bytes
         are served or expired by then. Remove its record from the gateway's file.

    A key that has leaked is not exchanged but revoked: set revoked: true in its record at the gateway, now.
    Its bytes are purged from the pool. docs/operations.md, "Keys", has the rest.
    """
    given = {"--out": out, "--id": key_id, "--collector": collector_id, "--pool": pool_ids, "--best-class": best_class}
    if kind != "ed25519":
        _refuse([name for name, value in given.items() if value], "has an effect with --kind ed25519 only")
        click.echo(secrets.token_urlsafe(_BYTES) if kind == "api" else secrets.token_hex(_BYTES))
        return
    _refuse([name for name, value in given.items() if not value], "required with --kind ed25519")
    for name in ("--id", "--collector", "--pool"):
        values = given[name] if name == "--pool" else (given[name],)
        if not all(is_id(str(value)) for value in values):  # type: ignore[union-attr]
            raise click.BadParameter("expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", param_hint=name)
    _make_ed25519(Path(str(out)), str(key_id), str(collector_id), pool_ids, str(best_class))


def _refuse(names: list[str], why: str) -> None:
    if names:
        raise click.UsageError(f"{', '.join(names)}: {why}")


def _make_ed25519(out: Path, key_id: str, collector_id: str, pool_ids: tuple[str, ...], best_class: str) -> None:
    """Write the private record to `out`, and print the public one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - servers' extra

    private_key = Ed25519PrivateKey.generate()
    pools = ", ".join(f'"{pool_id}"' for pool_id in pool_ids)

    def record(part: str, raw: bytes) -> str:
        lines = (
            f'  - id: "{key_id}"',
            "    algorithm: ed25519",
            f'    {part}: "{raw.hex()}"',
            f'    collector_id: "{collector_id}"',
            f"    pool_ids: [{pools}]",
            f"    best_class: {best_class}",
        )
        return "\n".join(lines) + "\n"

    _write_private(out, "keys:\n" + record("private_key", private_key.private_bytes_raw()))
    click.echo(f"The private key is in {out}, mode 0600. For the gateway's signing_keys_file, below keys:", err=True)
    click.echo(record("public_key", private_key.public_key().public_bytes_raw()), nl=False)


def _write_private(path: Path, text: str) -> None:
    """Write a new file of mode 0600. Raises StateError, also when there is one already."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
    except FileExistsError:
        raise StateError(f"{path} exists; a key is never overwritten") from None
    except OSError as error:
        raise StateError(f"{path} cannot be written ({reason_of(error)})") from None
