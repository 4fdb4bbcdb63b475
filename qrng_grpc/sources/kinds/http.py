"""The settings of a provider over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from qrng_grpc.chunk import MAX_CHUNK_BYTES
from qrng_grpc.labels import SourceClass
from qrng_grpc.sources import EntropySource
from qrng_grpc.sources.http import HttpSource
from qrng_grpc.sources.kinds.settings import FIXED, NetworkSettings, Surroundings
from qrng_grpc.sources.presets import PRESETS, Provider
from qrng_grpc.sources.readers import reader_named


class RequestSettings(BaseModel):
    """How a provider is asked that no preset knows."""

    model_config = FIXED

    url: str = Field(description="URL with places to fill in: {base}, {bytes}, {units}, {challenge}.")
    reader: str = Field(
        description="How the answer is packed: raw, hex, base64, json:PATH:hex, json-array:PATH:uint8 or line:N:hex."
    )
    method: Literal["GET", "POST"] = Field("GET", description="GET or POST.")
    headers: dict[str, str] = Field({}, repr=False, description="Headers, with the same places and {key}.")
    body: str | None = Field(None, repr=False, description="The body, with the same places and {key}.")
    unit_bytes: int = Field(1, ge=1, le=MAX_CHUNK_BYTES, description="A request brings multiples of so many bytes.")
    max_units: int = Field(
        MAX_CHUNK_BYTES, ge=1, le=MAX_CHUNK_BYTES, description="The most such units one request may bring."
    )

    @field_validator("reader")
    @classmethod
    def _a_reader(cls, name: str) -> str:
        reader_named(name)
        return name

    @property
    def provider(self) -> Provider:
        """The provider. Raises ValueError for what cannot be asked."""
        return Provider(
            "this provider",
            self.url,
            self.reader,
            SourceClass.QUANTUM,
            method=self.method,
            headers=tuple(self.headers.items()),
            body=self.body,
            unit_bytes=self.unit_bytes,
            max_units=self.max_units,
        )


class HttpSettings(NetworkSettings):
    """A provider over HTTP."""

    kind: Literal["http"] = Field(description="A provider over HTTP.")
    preset: Literal["quantis", "anu", "lfd", "qrypt", "vault", "pollen"] = Field(
        "quantis", description="How it is asked: quantis, anu, lfd, qrypt, vault or pollen."
    )
    request: RequestSettings | None = Field(None, description="How it is asked, in place of a preset.")
    url: str | None = Field(None, description="Where it is, as in https://192.0.2.7, unless the preset knows.")
    fingerprint: str | None = Field(None, description="SHA-256 of the server's certificate, 64 hexadecimal digits.")
    client_cert_file: Path | None = Field(None, description="PEM file with the certificate to show, and its chain.")
    client_key_file: Path | None = Field(None, description="PEM file with its private key, mode 0600.")

    @field_validator("request")
    @classmethod
    def _one_way_to_ask(cls, request: RequestSettings | None, info: ValidationInfo) -> RequestSettings | None:
        if request is not None and info.data.get("preset", "quantis") != "quantis":
            raise ValueError("give a preset or a request, not both")
        return request

    @property
    def provider(self) -> Provider:
        """How it is asked."""
        return PRESETS[self.preset] if self.request is None else self.request.provider

    @property
    def origin(self) -> tuple[object, ...]:
        """The provider, and where it is."""
        return (self.provider.url, self.url)

    @property
    def most_bytes(self) -> int:
        """What the provider brings in one request."""
        return self.provider.max_request_bytes

    def open(self, given: Surroundings) -> EntropySource:
        """Return the source."""
        return HttpSource(
            self.url,
            source_class=self.source_class,
            device_id=self.device_id,
            custody=self.custody,
            provider=self.provider,
            key=self.key,
            ca_file=self.ca_file,
            fingerprint=self.fingerprint,
            client_cert_file=self.client_cert_file,
            client_key_file=self.client_key_file,
            timeout_s=given.timeout_s,
            allow_plaintext=self.allow_plaintext,
            clock=given.clock,
        )
