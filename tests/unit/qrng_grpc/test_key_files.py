"""Key records in files: read whole, or refused with every mistake and without a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qrng_grpc.errors import ConfigError
from qrng_grpc.key_files import read_key_file, withdrawn_by
from qrng_grpc.keys import Algorithm
from qrng_grpc.labels import SourceClass

SECRET = "a-secret-of-more-than-32-characters"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
HMAC = {
    "id": "key-h", "algorithm": "hmac-sha256", "secret": SECRET, "collector_id": "lab-1", "pool_ids": ["p1", "p2"],
    "best_class": "quantum",
}  # fmt: skip
ED25519 = {
    "id": "key-e", "algorithm": "ed25519", "public_key": PUBLIC, "collector_id": "lab-2", "pool_ids": ["p1"],
    "best_class": "hardware", "not_before": "2026-01-01T00:00:00Z", "not_after": "2027-01-01T01:00:00.000000001+01:00",
    "revoked": True,
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.touch(mode=0o600)
    return path


def mistakes_in(file: Path, text: str) -> tuple[str, ...]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_key_file(file)
    assert SECRET not in str(caught.value)
    return tuple(mistake.removeprefix(f"{file}: ") for mistake in caught.value.mistakes)


def mistake_with(file: Path, record: dict[str, Any], **changes: Any) -> str:
    merged = {name: value for name, value in (record | changes).items() if value is not None}
    (mistake,) = mistakes_in(file, json.dumps({"keys": [merged]}))
    return mistake


def test_records_of_both_algorithms(file: Path) -> None:
    """A file in JSON, which is YAML too, gives its records in order; times are exact to the nanosecond."""
    file.write_text(json.dumps({"keys": [HMAC, ED25519]}))
    first, second = read_key_file(file)
    assert (first.key_id, first.algorithm, first.secret) == ("key-h", Algorithm.HMAC_SHA256, SECRET.encode())
    assert (first.pool_ids, first.best_class, first.revoked) == ({"p1", "p2"}, SourceClass.QUANTUM, False)
    assert (first.not_before_ns, first.not_after_ns) == (None, None)
    assert (second.algorithm, second.public_key.hex(), second.can_sign) == (Algorithm.ED25519, PUBLIC, False)
    assert second.not_before_ns == 1_767_225_600_000_000_000
    assert second.not_after_ns == 1_798_761_600_000_000_001
    assert second.revoked


def test_times_may_stand_without_quotes(file: Path) -> None:
    """YAML reads a time by itself; with its zone it is taken, without one refused."""
    lines = [f"{name}: {json.dumps(value)}" for name, value in HMAC.items()]
    file.write_text("keys:\n  - " + "\n    ".join([*lines, "not_after: 2026-01-01T00:00:00Z"]))
    assert read_key_file(file)[0].not_after_ns == 1_767_225_600_000_000_000
    (mistake,) = mistakes_in(file, "keys:\n  - " + "\n    ".join([*lines, "not_after: 2026-01-01T00:00:00"]))
    assert mistake.startswith("keys[0].not_after: expected a time with its zone")


def test_a_key_in_place_of_the_file_is_not_shown() -> None:
    """Whoever gives the key where its file is to be named does not find it in what is told."""
    with pytest.raises(ConfigError) as refusal:
        read_key_file(Path("-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n"))
    assert refusal.value.mistakes == ("something unlike a path: cannot be read (No such file or directory)",)


@pytest.mark.parametrize(("changes", "mistake"), [
    ({"secret": "short-secret"}, "keys[0]: an HMAC key needs at least 32 bytes"),
    ({"secret": None}, "keys[0]: an HMAC key needs at least 32 bytes"),
    ({"secret": 12345678901234567890123456789012345}, "keys[0].secret: "),
    ({"public_key": PUBLIC}, "keys[0]: private_key, public_key: are for ed25519"),
    ({"algorithm": "ed25519"}, "keys[0]: secret: is for hmac-sha256"),
    ({"algorithm": "ed25519", "secret": None}, "keys[0]: an Ed25519 key needs its public part"),
    ({"algorithm": "ed25519", "secret": None, "public_key": "00" * 32}, "keys[0]: anyone could sign"),
    ({"algorithm": "ed25519", "secret": None, "public_key": "xyz"}, "keys[0].public_key: expected 64 hexadecimal"),
    ({"algorithm": "none"}, "keys[0].algorithm: expected hmac-sha256 or ed25519"),
    ({"algorithm": None}, "keys[0].algorithm: required"),
    ({"id": "../key"}, "keys[0].id: expected 1 to 64"),
    ({"collector_id": "a b"}, "keys[0].collector_id: expected 1 to 64"),
    ({"pool_ids": []}, "keys[0].pool_ids: "),
    ({"pool_ids": "p1"}, "keys[0].pool_ids: "),
    ({"pool_ids": ["p1", ""]}, "keys[0].pool_ids.1: expected 1 to 64"),
    ({"best_class": "best"}, "keys[0].best_class: "),
    ({"not_after": "tomorrow"}, "keys[0].not_after: expected a time"),
    ({"not_after": 1_800_000_000}, "keys[0].not_after: expected a time"),
    ({"not_after": "2026-13-01T00:00:00Z"}, "keys[0].not_after: "),
    ({"not_before": "2026-01-01T00:00:00Z", "not_after": "2026-01-01T00:00:00Z"}, "keys[0]: a key ends after"),
    ({"revoked": "yes"}, "keys[0].revoked: "),
    ({"revokd": True}, "keys[0].revokd: there is no such setting; did you mean revoked?"),
])  # fmt: skip
def test_records_at_fault(file: Path, changes: dict[str, Any], mistake: str) -> None:
    """Each mistake is one line that names record and field, and shows no value."""
    assert mistake_with(file, HMAC, **changes).startswith(mistake)


@pytest.mark.parametrize(("text", "mistake"), [
    ("", "expected keys: with a list"),
    ("keys: []", "expected keys: with a list"),
    ("keys: {}", "expected keys: with a list"),
    ("- id: key", "expected a mapping"),
    ("keys: [{", "not YAML"),
    ("keys: [1]", "keys[0]"),
])  # fmt: skip
def test_files_at_fault(file: Path, text: str, mistake: str) -> None:
    """What is no list of records, at least one, is refused: an empty file must not withdraw every key."""
    assert any(found.startswith(mistake) for found in mistakes_in(file, text))


def test_every_mistake_comes_at_once(file: Path) -> None:
    """Mistakes of all records, doubled ids and unknown names are told in one go."""
    records = [HMAC | {"secret": "short"}, ED25519 | {"public_key": "00", "id": ""}, HMAC, HMAC | {"revoked": True}]
    found = "\n".join(mistakes_in(file, json.dumps({"keys": records, "kees": []})))
    for part in ("keys[0]", "keys[1].public_key", "keys[1].id", "share the id key-h", "'kees'"):
        assert part in found


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o660, 0o777])
def test_a_file_others_can_read_or_change_is_refused(file: Path, mode: int) -> None:
    """Keys come from files of mode 0600 or 0400 only."""
    file.write_text(json.dumps({"keys": [HMAC]}))
    for good in (0o600, 0o400):
        file.chmod(good)
        assert len(read_key_file(file)) == 1
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key_file(file)


@pytest.fixture
def leaked(file: Path) -> Path:
    """A file whose records are in force, and whose first key is found to have leaked."""
    file.write_text(json.dumps({"keys": [HMAC, ED25519 | {"revoked": False}]}))
    return file


def left_by(file: Path, *entries: Any, **names: Any) -> list[tuple[str, bool]]:
    """The keys in force and whether each is revoked, when the file holds other `entries`."""
    records = read_key_file(file)
    file.write_text(json.dumps({"keys": entries} | names))
    return [(record.key_id, record.revoked) for record in withdrawn_by(file, records)]


@pytest.mark.parametrize("other", [
    {**ED25519, "revoked": False, "public_key": "00"},
    {**ED25519, "revoked": False, "best_clas": "quantum"},
    HMAC,
    {**HMAC, "secret": "short"},
    {},
    "not a record",
    None,
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("changes", [{}, {"secret": "short"}, {"reason": "leaked"}, {"revoked": "yes"}], ids=repr)
def test_a_revoked_key_is_revoked_whatever_else_is_wrong(leaked: Path, other: Any, changes: dict[str, Any]) -> None:
    """In its own record or another: who revokes in haste may err."""
    left = left_by(leaked, HMAC | {"revoked": True} | changes, other, unknown=1)
    assert dict(left)["key-h"]


@pytest.mark.parametrize("words", [("false", "true"), ("true", "false"), ("true", "true")])
def test_a_key_is_revoked_by_either_of_two_words(leaked: Path, words: tuple[str, str]) -> None:
    """Who adds a line in haste may not see that there is one already, and which of them counts is not for us to say."""
    records = read_key_file(leaked)
    lines = [f"{name}: {json.dumps(value)}" for name, value in HMAC.items()]
    lines += [f"revoked: {word}" for word in words]
    leaked.write_text("keys:\n  - " + "\n    ".join(lines) + f"\n  - {json.dumps(ED25519 | {'revoked': False})}\n")
    with pytest.raises(ConfigError, match="twice"):
        read_key_file(leaked)
    assert [record.revoked for record in withdrawn_by(leaked, records)] == [True, False]


def test_rights_are_lost_and_none_gained_by_a_file_at_fault(leaked: Path) -> None:
    """A readable record narrows the one in force; what is new counts for nothing."""
    records = read_key_file(leaked)
    narrower = HMAC | {"pool_ids": ["p2", "p3"], "best_class": "hardware", "not_after": "2030-01-01T00:00:00Z"}
    wider = ED25519 | {"revoked": False, "best_class": "quantum", "not_after": None, "not_before": None}
    leaked.write_text(json.dumps({"keys": [narrower, wider, HMAC | {"id": "new"}, {"id": "wrong"}]}))
    first, second = withdrawn_by(leaked, records)
    assert (first.pool_ids, first.best_class, first.not_after_ns) == ({"p2"}, SourceClass.HARDWARE, 1893456000 * 10**9)
    assert second == records[1]


def test_a_record_that_is_gone_is_withdrawn_if_all_ids_can_be_read(leaked: Path) -> None:
    """Where one cannot, it may be the record that is missed."""
    gone = HMAC | {"secret": "short", "id": "new"}
    assert left_by(leaked, gone, ED25519) == [("key-h", True), ("key-e", True)]


@pytest.mark.parametrize("entries", [[], [{"id": 7}, {}], ["key-h"], [ED25519 | {"id": []}]], ids=repr)
def test_nothing_is_withdrawn_by_what_cannot_be_read(leaked: Path, entries: list[Any]) -> None:
    """A list that is empty or has no ids does not withdraw every key."""
    assert left_by(leaked, *entries) == [("key-h", False), ("key-e", False)]


@pytest.mark.parametrize("text", ["", "keys: {}", "keys: [{", "- id: key-h\n  revoked: true", "\x00"])
def test_nothing_is_withdrawn_by_what_is_no_file_of_keys(leaked: Path, text: str) -> None:
    """Half a file, or another one."""
    records = read_key_file(leaked)
    leaked.write_text(text)
    assert withdrawn_by(leaked, records) == records


def test_who_could_change_the_file_can_withdraw_nothing(leaked: Path) -> None:
    """A file that others can write to may be theirs; one that they can only read takes away what it says."""
    records = read_key_file(leaked)
    leaked.write_text(json.dumps({"keys": [HMAC | {"revoked": True}, ED25519]}))
    for mode, revoked in ((0o666, False), (0o620, False), (0o644, True)):
        leaked.chmod(mode)
        assert withdrawn_by(leaked, records)[0].revoked is revoked
    leaked.unlink()
    assert withdrawn_by(leaked, records) == records


def test_a_file_that_is_not_there(file: Path) -> None:
    """It is a mistake like any other."""
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key_file(file)


def test_no_record_shows_its_secret(file: Path) -> None:
    """Neither records nor their refusal show what signs."""
    file.write_text(json.dumps({"keys": [HMAC]}))
    assert SECRET not in repr(read_key_file(file))
