"""What the settings of a source have, whatever its kind.

Idea: a kind of source is a small model of settings that knows how to open what it describes. It says so much of its
source as must be known before anything is read: the class and the id of its bytes, how many to ask for at once. It also
says how fast its source is read where that differs from the pace of who reads it, and how much entropy its operator
assesses in its bytes, on which the health tests and the books of a mix rest. There is no setting that switches tests
off.

    SourceSettings     what all have
    StatedSettings     those whose class, custody and id only the operator can state
    NetworkSettings    those one connects to
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from qrng_grpc.chunk import MAX_CHUNK_BYTES, checked_id
from qrng_grpc.clock import SYSTEM_CLOCK, Clock
from qrng_grpc.files import refuse_shared, why_unreadable
from qrng_grpc.health_tests import START_UP_SAMPLES
from qrng_grpc.labels import Custody, SourceClass
from qrng_grpc.sources import EntropySource

START_UP_BYTES = 65_536
"""What a start-up test takes by default: every test of the stream decides once in so many bytes."""

Seconds = Annotated[float, Field(allow_inf_nan=False)]
FIXED = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)
"""How every model of settings is: frozen, without unknown names, and without values in its errors."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a program gives a source that it opens. More may be added; what is there stays."""

    timeout_s: float = 10.0
    """Seconds a read may take, after which who asked no longer waits."""
    state_dir: Path | None = None
    """A directory, held by this process, for what must survive a restart; None where there is none."""
    clock: Clock = SYSTEM_CLOCK


class SourceSettings(BaseModel, ABC):
    """What all kinds have. A kind of your own adds its settings, and says what is abstract here.

    Settings that hold a secret are of the type `pydantic.SecretStr`.
    """

    model_config = FIXED

    kind: str = Field(description="Which kind of source it is.")

    assessed_entropy: Seconds = Field(
        8, gt=0, le=8, description="Bits of entropy in a byte of the source, by your assessment; above 0, at most 8."
    )
    start_up_size: int = Field(
        START_UP_BYTES,
        ge=START_UP_SAMPLES,
        le=MAX_CHUNK_BYTES,
        description="Bytes a start-up test takes, which are used for nothing else; 1024 to 1048576.",
    )
    request_interval: Seconds = Field(
        0, ge=0, le=3600, description="Least seconds between two requests to the source, for providers that limit them."
    )
    fetch_chunk_size: int | None = Field(
        None, ge=1, le=MAX_CHUNK_BYTES, description="As the collector's fetch_chunk_size, for this source alone."
    )
    fetch_interval: Seconds | None = Field(
        None, gt=0, le=3600, description="As the collector's fetch_interval, for this source alone."
    )
    fetch_timeout: Seconds | None = Field(
        None, gt=0, le=3600, description="As the collector's fetch_timeout, for this source alone."
    )

    @property
    @abstractmethod
    def label_class(self) -> SourceClass:
        """The class its bytes are labelled with."""

    @property
    @abstractmethod
    def label_device_id(self) -> str:
        """The id its bytes are labelled with."""

    @property
    def origin(self) -> tuple[object, ...]:
        """What is read: two entries of one origin are one source under two names."""
        return (self.label_device_id,)

    @property
    def most_bytes(self) -> int:
        """The most bytes to ask it for at once."""
        return MAX_CHUNK_BYTES

    @abstractmethod
    def open(self, given: Surroundings) -> EntropySource:
        """Return the source. Nothing is connected yet. Raises ValueError for settings that cannot be used."""


class StatedSettings(SourceSettings):
    """Sources whose class, custody and id only the operator can state."""

    source_class: SourceClass = Field(description="The class its bytes are labelled with.")
    custody: Custody = Field(
        Custody.REMOTE, description="remote when a third party could see the bytes on their way, else local."
    )
    device_id: str = Field(description="Id of the source in replies.")

    @field_validator("device_id")
    @classmethod
    def _an_id(cls, text: str) -> str:
        return checked_id(text)

    @property
    def label_class(self) -> SourceClass:
        """As stated."""
        return self.source_class

    @property
    def label_device_id(self) -> str:
        """As stated."""
        return self.device_id


class NetworkSettings(StatedSettings):
    """Sources one connects to."""

    ca_file: Path | None = Field(
        None, description="PEM file of the authorities that may have signed the server's certificate."
    )
    allow_plaintext: bool = Field(False, description="Lets requests and bytes travel unencrypted beyond this machine.")
    api_key: SecretStr | None = Field(None, description="The key or token the source knows us by.")
    api_key_file: Path | None = Field(None, description="A file with that key alone, mode 0600, in place of api_key.")

    @field_validator("api_key_file")
    @classmethod
    def _one_key(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None:
            if info.data.get("api_key") is not None:
                raise ValueError("give api_key or api_key_file, not both")
            key_in(path)
        return path

    @model_validator(mode="after")
    def _opens(self) -> NetworkSettings:
        """Make the source once, to hear what it has against these settings."""
        self.open(Surroundings())
        return self

    @property
    def key(self) -> SecretStr | None:
        """The key, from where it is given. Raises ValueError when its file cannot be used."""
        return self.api_key if self.api_key_file is None else key_in(self.api_key_file)


def key_in(path: Path) -> SecretStr:
    """Return the key in `path`. Raises ValueError when others may read it, or there is none."""
    refuse_shared(path)
    try:
        text = path.read_text(encoding="ascii").strip()
    except UnicodeError:
        raise ValueError("holds no key in ASCII") from None
    except OSError as error:
        raise ValueError(why_unreadable(error)) from None
    if not text:
        raise ValueError("is empty")
    return SecretStr(text)
