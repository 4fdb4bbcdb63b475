"""Clients in files: read whole, or refused with every mistake; written whole, or left as they were."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qrng_grpc import client_keys
from qrng_grpc.client_keys import (
    Client,
    ClientRecord,
    KeyDigest,
    Limits,
    changing_client_file,
    digest_of,
    new_key,
    read_client_file,
    revoke_in_unusable_file,
    withdrawn_by,
)
from qrng_grpc.errors import ConfigError, StateError
from qrng_grpc.labels import SourceClass
from qrng_grpc.moments import moment_ns

SHA = "a" * 64
BARE = {"id": "sampler", "keys": [{"sha256": SHA}]}
FULL = {
    "id": "sampler",
    "label": "the sampler in room 3",
    "keys": [{"sha256": SHA.upper(), "not_after": "2027-01-01T00:00:00Z"}, {"sha256": "b" * 64}],
    "uri": "spiffe://qrng/client/sampler",
    "not_after": "2028-01-01T00:00:00Z",
    "revoked": True,
    "least_class": "quantum",
    "methods": ["qrng.v1.EntropyService/*", "GET /api/random"],
    "weight": 1000,
    "reserved_bytes": 4096,
    "limits": {"requests_per_s": 0.5, "bytes_per_s": 1, "bytes_per_day": 1 << 50, "streams": 4},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clients.yaml"


def read(file: Path, *entries: Any) -> tuple[ClientRecord, ...]:
    file.write_text(json.dumps({"clients": entries}))
    return read_client_file(file)


def mistakes_in(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_client_file(file)
    return [mistake.removeprefix(f"{file}: ") for mistake in caught.value.mistakes]


def test_a_record_says_all_there_is_to_say(file: Path) -> None:
    """Every field of a record arrives, times exact to the nanosecond."""
    (record,) = read(file, FULL)
    assert record == ClientRecord(
        Client(
            "sampler",
            "the sampler in room 3",
            Limits(0.5, 1, 1 << 50, 4),
            SourceClass.QUANTUM,
            frozenset({"qrng.v1.EntropyService/*", "GET /api/random"}),
            1000,
            4096,
            moment_ns("2028-01-01T00:00:00Z"),
        ),
        (KeyDigest(b"\xaa" * 32, moment_ns("2027-01-01T00:00:00Z")), KeyDigest(b"\xbb" * 32)),
        "spiffe://qrng/client/sampler",
        revoked=True,
    )


def test_what_is_not_said_is_left_to_the_gateway(file: Path) -> None:
    """A record needs an id and a way in; everything else has a default that limits nothing of its own."""
    assert read(file, BARE) == (ClientRecord(Client("sampler"), (KeyDigest(b"\xaa" * 32),)),)
    assert read(file, {"id": "probe", "uri": "urn:probe"})[0].keys == ()


def test_no_clients_must_be_said(file: Path) -> None:
    """An explicit empty list is nobody; an empty file is a mistake, for it might be half a file."""
    file.write_text("clients: []")
    assert read_client_file(file) == ()
    assert mistakes_in(file, "") == ["expected clients: with a list of at most 10000 records"]


@pytest.mark.parametrize(("changes", "mistake"), [
    ({"id": "../sampler"}, "clients[0].id: expected 1 to 64"),
    ({"id": None}, "clients[0].id: required"),
    ({"label": "a\u0000b"}, "clients[0].label: expected at most 200 printable"),
    ({"label": "x" * 201}, "clients[0].label: expected at most 200 printable"),
    ({"keys": None}, "clients[0]: expected keys, a uri, or both"),
    ({"keys": []}, "clients[0]: expected keys, a uri, or both"),
    ({"keys": [SHA]}, "clients[0].keys.0: "),
    ({"keys": [{"sha256": "a-key-in-plain-text"}]}, "clients[0].keys.0.sha256: expected 64 hexadecimal digits"),
    ({"keys": [{"sha256": 12}]}, "clients[0].keys.0.sha256: "),
    ({"keys": [{"sha256": SHA, "key": "x"}]}, "clients[0].keys.0.key: there is no such"),
    ({"keys": [{"sha256": SHA, "not_after": "soon"}]}, "clients[0].keys.0.not_after: expected a time"),
    ({"keys": [{"sha256": f"{n:064x}"} for n in range(17)]}, "clients[0].keys: "),
    ({"uri": "sampler"}, "clients[0].uri: expected a URI"),
    ({"uri": "urn:a b"}, "clients[0].uri: expected a URI"),
    ({"uri": "urn:" + "x" * 1021}, "clients[0].uri: expected a URI"),
    ({"not_after": 1_800_000_000}, "clients[0].not_after: expected a time"),
    ({"revoked": "no"}, "clients[0].revoked: "),
    ({"least_class": "best"}, "clients[0].least_class: "),
    ({"methods": []}, "clients[0].methods: "),
    ({"methods": ["GetEntropy"]}, "clients[0].methods.0: expected a method"),
    ({"methods": ["/qrng.v1.EntropyService/GetEntropy"]}, "clients[0].methods.0: expected a method"),
    ({"methods": ["GET /a*b"]}, "clients[0].methods.0: expected a method"),
    ({"weight": 0}, "clients[0].weight: "),
    ({"weight": 1001}, "clients[0].weight: "),
    ({"weight": True}, "clients[0].weight: "),
    ({"reserved_bytes": -1}, "clients[0].reserved_bytes: "),
    ({"limits": {"requests_per_s": 0}}, "clients[0].limits.requests_per_s: "),
    ({"limits": {"requests_per_s": "5"}}, "clients[0].limits.requests_per_s: "),
    ({"limits": {"bytes_per_s": 0}}, "clients[0].limits.bytes_per_s: "),
    ({"limits": {"bytes_per_day": 1.5}}, "clients[0].limits.bytes_per_day: "),
    ({"limits": {"streams": 0}}, "clients[0].limits.streams: "),
    ({"limits": {"bytes_per_hour": 1}}, "clients[0].limits.bytes_per_hour: there is no such"),
    ({"wieght": 1}, "clients[0].wieght: there is no such setting; did you mean weight?"),
])  # fmt: skip
def test_records_at_fault(file: Path, changes: dict[str, Any], mistake: str) -> None:
    """Each mistake is one line that names record and field, and shows no value."""
    merged = {name: value for name, value in (BARE | changes).items() if value is not None}
    (found,) = mistakes_in(file, json.dumps({"clients": [merged]}))
    assert found.startswith(mistake)
    assert "plain-text" not in found


@pytest.mark.parametrize(("text", "mistake"), [
    ("clients: {}", "expected clients: with a list"),
    ("clients: [{", "not YAML"),
    ("clients: [1]", "clients[0]"),
    ("clients: []\nclients: []", "a name is there twice"),
    ("- id: sampler", "expected a mapping"),
    ("clients: [{limits: {requests_per_s: .nan}, id: a, uri: 'urn:a'}]", "clients[0].limits.requests_per_s"),
])  # fmt: skip
def test_files_at_fault(file: Path, text: str, mistake: str) -> None:
    """What is no list of records is refused."""
    assert any(found.startswith(mistake) for found in mistakes_in(file, text))


def test_every_mistake_comes_at_once(file: Path) -> None:
    """Mistakes of all records, shared ids, keys and URIs, and unknown names are told in one go."""
    entries = [BARE | {"weight": 0}, BARE, FULL, FULL | {"id": "twin", "revoked": False}, {"id": "-"}]
    found = "\n".join(mistakes_in(file, json.dumps({"clients": entries, "klients": []})))
    for part in (
        "clients[0].weight", "clients[4].id", "two records share the id sampler", f"the key {SHA[:12]} is there twice",
        "two records share the uri spiffe://qrng/client/sampler", "'klients'",
    ):  # fmt: skip
        assert part in found


OTHER = {"id": "other", "keys": [{"sha256": "c" * 64}], "uri": "spiffe://qrng/client/other"}


def left_by(file: Path, *entries: Any, **names: Any) -> dict[str, ClientRecord]:
    """What is in force of BARE and OTHER when the file holds other `entries`."""
    records = read(file, BARE, OTHER)
    file.write_text(json.dumps({"clients": entries} | names))
    return {record.client.client_id: record for record in withdrawn_by(file, records)}


@pytest.mark.parametrize("other", [OTHER | {"wieght": 2}, OTHER | {"keys": []}, BARE, {}, "no record", None], ids=repr)
@pytest.mark.parametrize("changes", [{}, {"wieght": 2}, {"keys": None}, {"revoked": "yes"}], ids=repr)
def test_a_revoked_client_is_revoked_whatever_else_is_wrong(file: Path, other: Any, changes: dict[str, Any]) -> None:
    """In its own record or another: who revokes in haste may err."""
    left = left_by(file, BARE | {"revoked": True} | changes, other, unknown=1)
    assert left["sampler"].revoked


def test_ways_in_are_lost_and_none_gained_by_a_file_at_fault(file: Path) -> None:
    """Keys, URI and time that a readable record does not have are lost; what is new counts for nothing."""
    rotated = BARE | {"keys": [{"sha256": SHA, "not_after": "2027-01-01T00:00:00Z"}, {"sha256": "d" * 64}]}
    moved = OTHER | {"keys": [{"sha256": "e" * 64}], "uri": "spiffe://qrng/client/moved", "weight": 9}
    ending = moved | {"not_after": "2028-01-01T00:00:00Z"}
    left = left_by(file, rotated | {"limits": {"streams": 9}}, ending, BARE | {"id": "new"}, {"id": "wrong"})
    key = KeyDigest(bytes.fromhex(SHA), moment_ns("2027-01-01T00:00:00Z"))
    assert left == {
        "sampler": ClientRecord(Client("sampler"), (key,)),
        "other": ClientRecord(Client("other", not_after_ns=moment_ns("2028-01-01T00:00:00Z"))),
    }


def test_a_client_that_is_gone_is_revoked_if_all_others_can_be_made_out(file: Path) -> None:
    """As long as one id cannot be read, that record could be its own."""
    wrong = OTHER | {"wieght": 2}
    assert left_by(file, wrong)["sampler"].revoked
    assert not left_by(file, wrong, {"keys": []})["sampler"].revoked


@pytest.mark.parametrize("text", ["", "clients: []\nmore: 1\n", "clients: [", "clients: 1", "[]"])
def test_a_file_that_is_no_list_of_clients_takes_nothing(file: Path, text: str) -> None:
    """Half a file, or none, revokes nobody."""
    records = read(file, BARE)
    file.write_text(text)
    assert withdrawn_by(file, records) == records


def test_a_file_that_others_can_change_takes_nothing(file: Path) -> None:
    """Nor would anybody else shut clients out."""
    records = read(file, BARE)
    file.write_text(json.dumps({"clients": [BARE | {"revoked": True}]}))
    file.chmod(0o666)
    assert withdrawn_by(file, records) == records
    with pytest.raises(ConfigError):
        revoke_in_unusable_file("sampler", file)


def test_a_client_is_revoked_in_a_file_at_fault(file: Path) -> None:
    """Its records say so afterwards, all else is as it was."""
    wrong = OTHER | {"wieght": 2, "not_after": "2028-01-01T00:00:00Z"}
    file.write_text(json.dumps({"clients": [BARE, wrong, 7, BARE], "more": 1}))
    assert revoke_in_unusable_file("sampler", file)
    revoked = BARE | {"revoked": True}
    assert yaml.safe_load(file.read_text()) == {"clients": [revoked, wrong, 7, revoked], "more": 1}
    assert not revoke_in_unusable_file("unknown", file)
    file.write_text("clients: 5")
    assert not revoke_in_unusable_file("sampler", file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o777])
def test_a_file_others_can_change_is_refused(file: Path, mode: int) -> None:
    """Others may read the file, which holds no secret, but whoever could write it could let himself in."""
    read(file, BARE)
    for good in (0o600, 0o640, 0o444):
        file.chmod(good)
        assert len(read_client_file(file)) == 1
    file.chmod(mode)
    with pytest.raises(ConfigError, match="can be changed by others"):
        read_client_file(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    """It is a mistake like any other."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_client_file(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    """Its owner could change it. Written by root, a file stays its owner's, who could else not read it any more."""
    read(file, BARE)
    os.chown(file, 12_345, 12_345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        read_client_file(file)
    client_keys.replace_whole(file, b"clients: []", new_mode=0o600)
    assert (file.stat().st_uid, file.stat().st_gid) == (12_345, 12_345)


CLIENTS = st.builds(
    Client,
    client_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    label=st.text(st.characters(exclude_categories=("C", "Z")), max_size=50),
    limits=st.builds(
        Limits,
        requests_per_s=st.none() | st.floats(0.001, 1e6),
        bytes_per_s=st.none() | st.integers(1, 1 << 50),
        bytes_per_day=st.none() | st.integers(1, 1 << 50),
        streams=st.none() | st.integers(1, 1_000_000),
    ),
    least_class=st.none() | st.sampled_from(SourceClass),
    methods=st.none() | st.frozensets(st.sampled_from(["*", "GET *", "GET /api/random", "a.B/C", "a.*"]), min_size=1),
    weight=st.integers(1, 1000),
    reserved_bytes=st.integers(0, 1 << 50),
    not_after_ns=st.none() | st.integers(0, 10**18),
)
RECORDS = st.builds(
    ClientRecord,
    client=CLIENTS,
    keys=st.lists(
        st.builds(KeyDigest, st.binary(min_size=32, max_size=32), st.none() | st.integers(0, 10**18)),
        min_size=1,
        max_size=3,
        unique_by=lambda key: key.fingerprint,
    ).map(tuple),
    uri=st.none() | st.from_regex(r"[a-z][a-z0-9]{0,5}:[!-~]{1,30}", fullmatch=True),
    revoked=st.booleans(),
)


@given(record=RECORDS)
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, record: ClientRecord) -> None:
    """Any record survives being written, whatever its words look like to YAML."""
    file = tmp_path_factory.mktemp("clients") / "clients.yaml"
    with changing_client_file(file) as records:
        records.append(record)
    assert read_client_file(file) == (record,)


def test_a_new_file_is_made_for_owner_and_group(file: Path) -> None:
    """The first client makes the file, of mode 0640; a mode that was set later stays, and so does a link."""
    with changing_client_file(file) as records:
        records.append(ClientRecord(Client("a"), uri="urn:a"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o604)
    link = file.with_name("link.yaml")
    link.symlink_to(file.name)
    with changing_client_file(link) as records:
        records.append(ClientRecord(Client("b"), uri="urn:b"))
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    assert [record.client.client_id for record in read_client_file(file)] == ["a", "b"]


def test_a_change_is_whole_or_not_at_all(file: Path) -> None:
    """A block that raises, or leaves what could not be read, changes nothing, and nothing is left lying about."""
    read(file, BARE)
    before = file.read_bytes()
    with pytest.raises(ZeroDivisionError), changing_client_file(file) as records:
        records.clear()
        raise ZeroDivisionError
    with pytest.raises(ConfigError, match="share the id"), changing_client_file(file) as records:
        records.append(ClientRecord(Client("sampler"), uri="urn:a"))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_block_that_changes_nothing_writes_nothing(file: Path) -> None:
    """A file that was written by hand keeps its comments as long as nothing changes."""
    file.write_text("# by hand\nclients: []\n")
    with changing_client_file(file):
        pass
    assert file.read_text() == "# by hand\nclients: []\n"


def test_changes_take_turns(file: Path) -> None:
    """Of several that change a file at once none undoes another's work."""

    def add(number: int) -> None:
        with changing_client_file(file) as records:
            records.append(ClientRecord(Client(f"client-{number}"), uri=f"urn:{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert len(read_client_file(file)) == 24


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """It is an error that names the place."""
    with pytest.raises(StateError, match="cannot be used"), changing_client_file(tmp_path / "none" / "clients.yaml"):
        pass
    with pytest.raises(StateError, match="cannot be written"), changing_client_file(Path("/proc/clients.yaml")):
        pass


@pytest.mark.parametrize(("methods", "allowed"), [
    (None, True),
    ({"qrng.v1.EntropyService/GetEntropy"}, True),
    ({"qrng.v1.EntropyService/*"}, True),
    ({"qrng.v1.EntropyService/Get*"}, True),
    ({"qrng*"}, True),
    ({"*"}, True),
    ({"GET /api/random", "qrng.v1.*"}, True),
    ({"GET /api/random"}, False),
    ({"qrng.v1.EntropyService/GetEntropyX"}, False),
    ({"qrng.v1.EntropyService/Subscribe*"}, False),
    ({"GET *"}, False),
])  # fmt: skip
def test_methods_are_allowed_by_name_or_beginning(methods: set[str] | None, allowed: bool) -> None:
    """A method is allowed when it is named, or begins as a name that ends with a star; without names all are."""
    client = Client("sampler", methods=None if methods is None else frozenset(methods))
    assert client.allows("qrng.v1.EntropyService/GetEntropy") is allowed


def test_new_keys_are_long_and_fit_for_headers() -> None:
    """A key carries 256 bits in characters that metadata, headers and shells take as they are."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 43 and key.replace("-", "").replace("_", "").isalnum() for key in keys)


def test_digests_do_not_show() -> None:
    """A record's text has no digest in it, which a log line might carry away."""
    key = KeyDigest(digest_of("a-key"))
    assert repr(key.digest) not in repr(ClientRecord(Client("sampler"), (key,)))
    assert key.fingerprint == key.digest.hex()[:12]
