"""Which of a collector's keys signs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from structlog.testing import capture_logs

from qrng_collector.config import CollectorConfig
from qrng_collector.signing import SigningKeys, newest
from qrng_grpc.keys import KeyRecord
from qrng_grpc.labels import SourceClass
from qrng_grpc.testing.clock import ManualClock

OLD = KeyRecord("old", b"s" * 32, "lab", frozenset({"pool"}), SourceClass.OPERATING_SYSTEM)


def test_the_newest_valid_key_signs() -> None:
    """The valid one that began last, of equals the last in the file; not one that has yet to begin, or was revoked."""
    new = replace(OLD, key_id="new", not_before_ns=10)
    revoked = replace(OLD, key_id="revoked", not_before_ns=15, revoked=True)
    records = (new, OLD, revoked)
    assert newest(records, 9) is OLD
    assert newest(records, 10) is new
    assert newest((OLD, replace(OLD, key_id="second")), 0).key_id == "second"


def test_when_none_is_valid_the_last_one_signs() -> None:
    """The gateway then holds the chunks, which wait here: bytes are not thrown away for want of a key."""
    first = replace(OLD, key_id="first", not_after_ns=5)
    last = replace(OLD, key_id="last", not_after_ns=6)
    assert newest((last, first), 7) is last


def put(file: Path, *key_ids: str, **changes: str) -> None:
    record = {"algorithm": "hmac-sha256", "secret": "s" * 32, "collector_id": "lab", "pool_ids": ["pool"]}
    rights = {"best_class": "operating_system"} | changes
    file.write_text(json.dumps({"keys": [record | rights | {"id": key_id} for key_id in key_ids]}))


def test_a_changed_file_is_taken_and_an_unusable_one_is_not(tmp_path: Path) -> None:
    """A change counts once it has stood still from one look to the next; a file at fault leaves the keys in force."""
    file = tmp_path / "keys.yaml"
    file.touch(mode=0o600)
    put(file, "old")
    config = CollectorConfig(
        signing_keys_file=file, collector_id="lab", pool_id="pool", best_class="operating_system",
        push_url="127.0.0.1:1", state_dir=tmp_path,
    )  # fmt: skip
    keys = SigningKeys(config, ManualClock())
    assert keys.current().key_id == "old"
    put(file, "old", "new")
    keys.look()
    assert keys.current().key_id == "old"
    keys.look()
    assert keys.current().key_id == "new"
    put(file, "newer", collector_id="other")
    with capture_logs() as logs:
        keys.reload()
        assert keys.current().key_id == "new"
    assert [log["event"] for log in logs] == ["signing_keys_not_reloaded"]
