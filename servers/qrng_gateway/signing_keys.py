"""The signing keys in force, while the file that holds them changes.

Idea: the file is read as a whole, and is usable as a whole or not at all; until it is, the last usable keys
stay. A key that is withdrawn takes its bytes with it: whoever had it may have put them there.
"""

from __future__ import annotations

from qrng_gateway.config import GatewayConfig, best_of
from qrng_gateway.ingest import Ingest
from qrng_grpc.errors import ConfigError, StateError
from qrng_grpc.files import Watched
from qrng_grpc.keys import KeyRecord
from qrng_grpc.logs import get_log


class SigningKeys:
    """Keeps the keys of `ingest` as the file of `config` has them; without a file they never change.

    Raises ConfigError when the file is not usable.
    """

    def __init__(self, config: GatewayConfig, ingest: Ingest) -> None:
        self._config = config
        self._ingest = ingest
        self._served = config.served_class
        self._file: Watched[tuple[KeyRecord, ...]] | None = None
        if config.signing_keys_file is not None:
            self._file = Watched((config.signing_keys_file,), self._read, _complain)
            self._put_in_force(self._file.value)

    def look(self) -> None:
        """Take a change of the file that has stood still since the last look, about a second ago."""
        if self._file is not None:
            self._note(self._file, changed=self._file.look())

    def reload(self) -> None:
        """Take what the file holds now, if it is usable."""
        if self._file is not None:
            self._note(self._file, changed=self._file.reload())

    def _note(self, file: Watched[tuple[KeyRecord, ...]], *, changed: bool) -> None:
        self._ingest.keys_stale = bool(file.mistakes)
        if changed:
            purged = self._put_in_force(file.value)
            get_log().info("signing_keys_reloaded", keys=len(file.value), purged_bytes=purged)

    def _put_in_force(self, records: tuple[KeyRecord, ...]) -> int:
        self._ingest.pool.best_class = best_of(records)
        return self._ingest.replace_keys(records)

    def _read(self) -> tuple[KeyRecord, ...]:
        """Return what the file holds now. Raises ConfigError when that cannot be put in force while we run."""
        records = self._config.key_records
        if self._config.least_class is None and best_of(records) is not self._served:
            raise ConfigError(["the best class of the keys is another: set least_class, and restart"])
        try:
            self._ingest.prepare(records)
        except StateError as error:
            raise ConfigError([error.message]) from None
        return records


def _complain(mistakes: tuple[str, ...]) -> None:
    get_log().error("signing_keys_not_reloaded", mistakes=mistakes)
