"""The settings of any gRPC server that hands out random bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from qrng_grpc.channel import Endpoint
from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.generic_codec import MessageShape
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.grpc import GrpcMethod, GrpcSource, Mode
from qrng_grpc.sources.kinds.settings import NetworkSettings, Surroundings


class GrpcSettings(NetworkSettings):
    """Any gRPC server that hands out random bytes."""

    kind: Literal["grpc"] = Field(description="A gRPC server, of whatever service.")
    address: str = Field(description="HOST:PORT, dns:///HOST:PORT or unix:PATH of the server.")
    method_path: str = Field("/qr_entropy.EntropyService/GetEntropy", description="/PACKAGE.SERVICE/METHOD to call.")
    mode: Mode = Field(
        "unary", description="unary, server_streaming or bidi_streaming; the latter two call a bidirectional method."
    )
    tls: bool = Field(False, description="Use TLS; a ca_file implies it.")
    api_key_header: str = Field("api-key", description="The metadata in which the key travels.")
    max_request_size: int = Field(MAX_CHUNK_BYTES, ge=1, le=16 << 20, description="The most bytes to ask for at once.")
    count_field: int = Field(1, description="Number of the request's field with the number of bytes.")
    data_field: int = Field(1, description="Number of the reply's field with the bytes.")
    request_prefix: str = Field(
        "", repr=False, description="Hexadecimal digits of fields that every request begins with."
    )
    request_echo_field: int | None = Field(None, description="Number of the request's field that a reply repeats.")
    reply_echo_field: int | None = Field(None, description="Number of the reply's field that repeats it.")

    @field_validator("request_prefix")
    @classmethod
    def _digits(cls, text: str) -> str:
        bytes.fromhex(text)
        return text

    @property
    def origin(self) -> tuple[object, ...]:
        """The server, and what it is asked: one server may have several devices behind it."""
        return (self.address, self.method_path, self.request_prefix)

    @property
    def most_bytes(self) -> int:
        """What the server gives at once."""
        return min(self.max_request_size, MAX_CHUNK_BYTES)

    def open(self, given: Surroundings) -> EntropySource:
        """Return the source."""
        return GrpcSource(
            Endpoint(
                self.address,
                tls=self.tls,
                ca_file=self.ca_file,
                allow_plaintext_beyond_loopback=self.allow_plaintext,
            ),
            GrpcMethod(self.method_path, self.mode, self._shape(), self.max_request_size, self.api_key_header),
            source_class=self.source_class,
            device_id=self.device_id,
            custody=self.custody,
            api_key=self.key,
            timeout_s=given.timeout_s,
        )

    def _shape(self) -> MessageShape:
        return MessageShape(
            self.count_field,
            self.data_field,
            bytes.fromhex(self.request_prefix),
            self.request_echo_field,
            self.reply_echo_field,
        )
