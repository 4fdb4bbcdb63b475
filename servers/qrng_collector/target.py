"""Where chunks go: a pool, the gateway that has it, and how the two ends know each other.

Idea: one pool may be named by settings of the collector itself, several by a list of them; what the TLS
files must be is the same in both and stands here once.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from qrng_grpc.chunk import checked_id
from qrng_grpc.config import host_and_port
from qrng_grpc.tls import TlsFiles, read_authorities, read_chain, read_key

MAX_POOLS = 16

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]+")


class PushTls(BaseModel):
    """The files of TLS for pushes; none of them for plaintext."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    push_ca_file: Path | None = Field(
        None,
        description="PEM file with the authorities that may have signed the gateway's certificate. Pushes go over TLS"
        " with it, and in plaintext without.",
    )
    push_cert_file: Path | None = Field(
        None, description="PEM file with the certificate this collector shows, and its chain. Only with push_ca_file."
    )
    push_key_file: Path | None = Field(
        None,
        validate_default=True,
        description="PEM file with its private key, mode 0600. Required with push_cert_file.",
    )

    @property
    def push_tls_files(self) -> TlsFiles | None:
        """What a push shows and asks for; None for plaintext."""
        if self.push_ca_file is None:
            return None
        return TlsFiles("client", self.push_cert_file, self.push_key_file, self.push_ca_file)

    @field_validator("push_ca_file")
    @classmethod
    def _some_authorities(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_authorities(path)
        return path

    @field_validator("push_cert_file")
    @classmethod
    def _a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            if info.data.get("push_ca_file", "") is None:
                raise ValueError("has no effect without push_ca_file")
            read_chain(path, "client")
        return path

    @field_validator("push_key_file")
    @classmethod
    def _its_key(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        cert_file = info.data.get("push_cert_file")
        if path is None and cert_file is not None:
            raise ValueError("required with push_cert_file")
        if path is not None:
            if "push_cert_file" in info.data and cert_file is None:
                raise ValueError("has no effect without push_cert_file")
            read_key(path, None if cert_file is None else read_chain(cert_file, "client"))
        return path


class PoolTarget(PushTls):
    """One pool, at one gateway."""

    pool_id: str = Field(description="Id of the pool.")
    push_url: str = Field(description="HOST:PORT of its gateway's listener for collectors.")

    @field_validator("pool_id")
    @classmethod
    def _an_id(cls, text: str) -> str:
        return checked_id(text)

    @field_validator("push_url")
    @classmethod
    def _an_address(cls, address: str) -> str:
        return gateway_address(address)

    def with_files_of(self, other: PushTls) -> PoolTarget:
        """Return this target, with the files of `other` if it has none of its own."""
        if self.push_ca_file is not None:
            return self
        return self.model_copy(update={name: getattr(other, name) for name in PushTls.model_fields})


def gateway_address(address: str) -> str:
    """Return `address`. Raises ValueError when it is not HOST:PORT of something to connect to."""
    _, port = host_and_port(address)
    if port == 0 or not _ADDRESS.fullmatch(address):
        raise ValueError("expected HOST:PORT with a port from 1 to 65535")
    return address
