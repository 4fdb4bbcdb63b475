"""The key that signs, while keys come and go.

Idea: every chunk is signed when it is sent, by the newest key that is valid at that moment; so a new key may
be put in place beforehand, with a time from which it counts, and the old one may stay behind it. Whether a
signature is believed is the gateway's affair: when no key is valid any more the last one signs, the gateway
holds the chunks, and they wait here.
"""

from __future__ import annotations

from qrng_collector.config import CollectorConfig
from qrng_grpc.clock import Clock
from qrng_grpc.files import Watched
from qrng_grpc.keys import KeyRecord
from qrng_grpc.logs import get_log


class SigningKeys:
    """The keys of `config`, as their file has them. Raises ConfigError when that is not usable."""

    def __init__(self, config: CollectorConfig, clock: Clock) -> None:
        self._clock = clock
        self._file: Watched[tuple[KeyRecord, ...]] | None = None
        self._records = config.key_records
        if config.signing_keys_file is not None:
            self._file = Watched((config.signing_keys_file,), lambda: config.key_records, _complain)
            self._records = self._file.value
        self._told = ("", True)

    def current(self) -> KeyRecord:
        """Return the key to sign with now."""
        now_ns = self._clock.now_ns()
        record = newest(self._records, now_ns)
        self._tell(record.key_id, valid=record.valid_at(now_ns))
        return record

    def look(self) -> None:
        """Take a change of the file that has stood still since the last look, about a second ago."""
        if self._file is not None:
            self._take(changed=self._file.look())

    def reload(self) -> None:
        """Take what the file holds now, if it is usable."""
        if self._file is not None:
            self._take(changed=self._file.reload())

    def _take(self, *, changed: bool) -> None:
        if changed and self._file is not None:
            self._records = self._file.value
            get_log().info("signing_keys_reloaded", keys=len(self._records))

    def _tell(self, key_id: str, *, valid: bool) -> None:
        """Log which key signs, when that changes."""
        if (key_id, valid) != self._told:
            self._told = (key_id, valid)
            (get_log().info if valid else get_log().warning)("signing_with", key_id=key_id, valid=valid)


def newest(records: tuple[KeyRecord, ...], now_ns: int) -> KeyRecord:
    """Return the valid record that began last; of equals the last one. If none is valid, the one that ends last."""
    able = [record for record in records if record.can_sign and not record.revoked]
    valid = [record for record in able if record.valid_at(now_ns)]
    if valid:
        return max(reversed(valid), key=lambda record: record.not_before_ns or 0)
    return max(able, key=lambda record: record.not_after_ns or 0)


def _complain(mistakes: tuple[str, ...]) -> None:
    get_log().error("signing_keys_not_reloaded", mistakes=mistakes)
