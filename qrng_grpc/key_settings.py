"""Signing keys in settings: what collector and gateway share.

Idea: there are two forms. The flat one, `hmac_secret_key` with what belongs to it, is one record with
HMAC-SHA256, fixed while the program runs. `signing_keys_file` holds any number, of either algorithm, and may be
changed at any time. Exactly one of the two is given, so that there is one place to look for a key, and
one to withdraw it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from qrng_grpc.chunk import checked_id
from qrng_grpc.config import Settings
from qrng_grpc.errors import ConfigError
from qrng_grpc.key_files import read_key_file
from qrng_grpc.keys import MIN_HMAC_KEY_BYTES, KeyRecord
from qrng_grpc.labels import SourceClass

V = TypeVar("V")


class KeySettings(Settings):
    """The signing keys of a program: a file, or one HMAC key."""

    signing_keys_file: Path | None = Field(
        None, description="File of signing keys, mode 0600, in place of hmac_secret_key and what belongs to it."
    )
    hmac_secret_key: SecretStr | None = Field(
        None,
        validate_default=True,
        description="Secret of the one signing key: at least 32 bytes of text. Required, unless there is a"
        " signing_keys_file.",
    )
    hmac_key_id: str | None = Field(None, validate_default=True, description="Id of that key. Required with it.")

    @field_validator("signing_keys_file")
    @classmethod
    def _usable_file(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                read_key_file(path)
            except ConfigError as error:
                raise ValueError("; ".join(error.mistakes)) from None
        return path

    @field_validator("hmac_secret_key")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < MIN_HMAC_KEY_BYTES:
            raise ValueError(f"needs at least {MIN_HMAC_KEY_BYTES} characters")
        return in_one_form(secret, info)

    @field_validator("hmac_key_id")
    @classmethod
    def _a_key_id(cls, key_id: str | None, info: ValidationInfo) -> str | None:
        if key_id is not None:
            checked_id(key_id)
        return in_one_form(key_id, info)

    def records_for(
        self, collector_id: str | None, pool_ids: Iterable[str], best_class: SourceClass | None
    ) -> tuple[KeyRecord, ...]:
        """Return the records of the file as it is now, or the flat one with these rights.

        Raises ConfigError when the file is not usable.
        """
        if self.signing_keys_file is not None:
            return read_key_file(self.signing_keys_file)
        if self.hmac_secret_key is None or self.hmac_key_id is None or collector_id is None or best_class is None:
            raise ConfigError(["hmac_secret_key: required, with what belongs to it"])
        secret = self.hmac_secret_key.get_secret_value().encode()
        return (KeyRecord(self.hmac_key_id, secret, collector_id, frozenset(pool_ids), best_class),)


def in_one_form(value: V | None, info: ValidationInfo) -> V | None:
    """Return a setting of the flat form, which is there or `signing_keys_file` is, and not both."""
    file = info.data.get("signing_keys_file", value)  # one that is at fault is reported already
    if value is None and "signing_keys_file" in info.data and file is None:
        raise ValueError("required")
    if value is not None and "signing_keys_file" in info.data and file is not None:
        raise ValueError("has no effect with signing_keys_file")
    return value
