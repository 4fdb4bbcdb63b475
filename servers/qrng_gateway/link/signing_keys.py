"""The signing keys in force, while the file that holds them changes.

Idea: the file is read as a whole, and what it grants counts only if it is usable as a whole; until it is, the
last usable keys stay. What it takes away counts at once, wherever it can be made out: who revokes a key that
leaked must not fail because of a mistake in the next record. A key that is withdrawn takes its bytes with it:
whoever had it may have put them there.
"""

from __future__ import annotations

from qrng_gateway.config import GatewayConfig, best_of
from qrng_gateway.link.ingest import Ingest
from qrng_grpc.errors import ConfigError, StateError
from qrng_grpc.files import Watched
from qrng_grpc.key_files import withdrawn_by
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
        self._left: tuple[KeyRecord, ...] = ()
        """What the file, when it was last found unusable, left of the keys in force."""
        self._file: Watched[tuple[KeyRecord, ...]] | None = None
        if config.signing_keys_file is not None:
            self._file = Watched((config.signing_keys_file,), self._read, _complain)
            self._put_in_force(self._file.value)

    def look(self) -> None:
        """Take a change of the file that has stood still since the last look, about a second ago."""
        if self._file is not None:
            self._file.look()
            self._follow(self._file)

    def reload(self) -> None:
        """Take what the file holds now, if it is usable."""
        if self._file is not None:
            self._file.reload()
            self._follow(self._file)

    def _follow(self, file: Watched[tuple[KeyRecord, ...]]) -> None:
        """Put in force what the file holds, or what it leaves of the keys in force."""
        self._ingest.keys_stale = bool(file.mistakes)
        records, before = self._left if file.mistakes else file.value, self._ingest.keys.records
        if records == before:
            return
        purged = self._put_in_force(records)
        if file.mistakes:
            lost = sorted(now.key_id for now, was in zip(records, before, strict=True) if now != was)
            get_log().warning("signing_keys_withdrawn", key_ids=lost, purged_bytes=purged)
        else:
            get_log().info("signing_keys_reloaded", keys=len(records), purged_bytes=purged)

    def _put_in_force(self, records: tuple[KeyRecord, ...]) -> int:
        self._ingest.pool.best_class = best_of(records)
        return self._ingest.replace_keys(records)

    def _read(self) -> tuple[KeyRecord, ...]:
        """Return what the file holds now. Raises ConfigError when that cannot be put in force while we run."""
        try:
            return self._usable()
        except ConfigError:
            if self._config.signing_keys_file is not None:
                self._left = withdrawn_by(self._config.signing_keys_file, self._ingest.keys.records)
            raise

    def _usable(self) -> tuple[KeyRecord, ...]:
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
