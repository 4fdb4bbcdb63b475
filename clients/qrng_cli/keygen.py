"""`qrng keygen`: fresh secrets."""

from __future__ import annotations

import secrets

import click


@click.command("keygen")
@click.option(
    "--kind",
    type=click.Choice(["api", "hmac"]),
    default="api",
    show_default=True,
    help="api: a key for one client. hmac: the signing key of one collector.",
)
def command(kind: str) -> None:
    """Print a fresh secret of 256 bits, from the operating system's generator.

    \b
      qrng keygen                  for the gateway's api_keys, and QR_GRPC_API_KEY at the client
      qrng keygen --kind hmac      for hmac_secret_key, the same at collector and gateway

    Keep it in a file of mode 0600, for example an --env-file:

    \b
      (umask 077; echo "QRNG_GATEWAY_API_KEYS=$(qrng keygen)" >> gateway.env)
    """
    click.echo(secrets.token_hex(32) if kind == "hmac" else secrets.token_urlsafe(32))
