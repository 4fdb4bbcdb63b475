"""Keys and certificates: what names one client opens, everything else is refused with the same words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qrng_gateway.admission.access import ENDS_SOON_NS, Access, certified_uri, client_of_key, uris_of
from qrng_grpc.client_keys import (
    Client,
    ClientRecord,
    KeyDigest,
    Limits,
    bearer_key,
    changing_client_file,
    digest_of,
    presented_keys,
)
from qrng_grpc.errors import AuthenticationError, ConfigError
from qrng_grpc.testing.clock import ManualClock

KEYS = ("a-key-of-a-client-1", "a-key-of-a-client-2")
URI = "spiffe://qrng/client/sampler"
SHA = digest_of(KEYS[0]).hex()
ACCESS = Access(KEYS)
SAMPLER = Client("sampler", "the sampler", Limits(requests_per_s=5), weight=7)


def with_metadata(metadata: list[tuple[str, str | bytes]] | None, access: Access = ACCESS) -> Client:
    return access.identify(presented_keys(metadata, access.key_name)).client


def put(file: Path, *records: ClientRecord) -> None:
    with changing_client_file(file) as listed:
        listed[:] = records


def record(client: Client = SAMPLER, *keys: str, uri: str | None = None, revoked: bool = False) -> ClientRecord:
    return ClientRecord(client, tuple(KeyDigest(digest_of(key)) for key in keys), uri, revoked)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clients.yaml"
    put(path, record(SAMPLER, "key-of-sampler", uri=URI), record(Client("other"), "key-of-other"))
    return path


def refuses(access: Access, keys: list[str], uri: str | None = None) -> bool:
    with pytest.raises(AuthenticationError) as caught:
        access.identify(keys, uri)
    return caught.value.message == "a valid API key is required" and caught.value.__cause__ is None


@pytest.mark.parametrize(
    "metadata",
    [
        [("api-key", KEYS[1])],
        [("authorization", f"Bearer {KEYS[1]}")],
        [("authorization", f"bearer {KEYS[1]}")],
        [("user-agent", "x"), ("authorization", f"BEARER  {KEYS[1]} ")],
    ],
)
def test_one_right_key_opens(metadata: list[tuple[str, str | bytes]]) -> None:
    """A key is taken as `api-key` or as `authorization: Bearer`, and always names the same client."""
    assert with_metadata(metadata) is ACCESS.identify([KEYS[1]]).client


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        [("api-key", "")],
        [("api-key", "a-key-of-a-client-3")],
        [("api-key", KEYS[0] + " ")],
        [("api-key", KEYS[0]), ("api-key", KEYS[0])],
        [("api-key", KEYS[0]), ("authorization", f"Bearer {KEYS[0]}")],
        [("api-key", KEYS[0]), ("authorization", "Basic Zm9v")],
        [("authorization", KEYS[0])],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {KEYS[0]}")],
        [("authorization", f"Bearer{KEYS[0]}")],
        [("api-key", "\udcff" * 20)],
    ],
)
def test_anything_else_is_refused_in_the_same_words(metadata: list[tuple[str, str | bytes]] | None) -> None:
    """Missing, empty, wrong, doubled and malformed keys cannot be told apart by the answer."""
    assert refuses(ACCESS, presented_keys(metadata, ACCESS.key_name))


def test_a_key_may_travel_under_another_name() -> None:
    """With a name of its own for keys, that one and `authorization` are read, and `api-key` is not."""
    access = Access(KEYS, key_name="x-lab-key")
    assert with_metadata([("x-lab-key", KEYS[0])], access) is with_metadata(
        [("authorization", f"Bearer {KEYS[0]}")], access
    )
    assert refuses(access, presented_keys([("api-key", KEYS[0])], access.key_name))


def test_a_client_is_known_by_an_id_that_does_not_give_its_key_away() -> None:
    """Ids differ between keys, stay the same for one, and hold neither the key nor its digest."""
    first, second = ACCESS.identify([KEYS[0]]).client.client_id, ACCESS.identify([KEYS[1]]).client.client_id
    assert first != second
    assert first == Access(KEYS[:1]).identify([KEYS[0]]).client.client_id
    assert digest_of(KEYS[0]).hex()[:8] not in first
    assert KEYS[0] not in repr(vars(ACCESS))
    assert repr(digest_of(KEYS[0])) not in repr(vars(ACCESS))


def test_no_key_configured_opens_nothing() -> None:
    """Without keys nobody gets in, least of all with an empty key."""
    assert refuses(Access([]), [""])


def test_bearer_key_of_another_scheme_is_empty() -> None:
    """Only the scheme Bearer carries a key."""
    assert bearer_key("Bearer abc") == "abc"
    assert bearer_key("Digest abc") == ""


def test_keys_of_settings_and_file_stand_side_by_side(file: Path) -> None:
    """A key of the file names the client of its record, one of the settings a client of its own."""
    access = Access(KEYS, file=file)
    assert access.identify(["key-of-sampler"]).client == SAMPLER
    assert access.identify([KEYS[0]]).client.client_id.startswith("client-")
    assert [client.client_id for client in access.clients()][2:] == ["sampler", "other"]


def test_a_key_in_both_places_is_a_mistake(tmp_path: Path) -> None:
    """A client of the file with a key or an id of the settings is refused: revoking it there would be in vain."""
    file = tmp_path / "clients.yaml"
    twin = client_of_key(KEYS[1]).client.client_id
    put(file, record(SAMPLER, KEYS[0], revoked=True), record(Client(twin), "another"))
    with pytest.raises(ConfigError) as caught:
        Access(KEYS, file=file)
    assert [mistake.partition(": ")[2].split()[:2] for mistake in caught.value.mistakes] == [
        ["client", "sampler"],
        ["client", twin],
    ]
    assert not any(key in str(caught.value) for key in KEYS)


def test_a_certificate_names_its_client_by_uri(file: Path) -> None:
    """The URI of a record lets its client in without a key; any other URI, or none, lets nobody in."""
    access = Access(file=file)
    assert access.identify([], URI).client == SAMPLER
    assert refuses(access, [], URI + "x")
    assert refuses(access, [], None)
    assert refuses(access, [""], URI)


def test_key_and_certificate_must_mean_the_same_client(file: Path) -> None:
    """A certificate without a URI leaves it to the key; with one, both name the same client or nobody comes in."""
    access = Access(KEYS, file=file)
    assert access.identify(["key-of-sampler"], URI).client == SAMPLER
    assert access.identify(["key-of-sampler"], None).client == SAMPLER
    for key in ("key-of-other", KEYS[0], "unknown"):
        assert refuses(access, [key], URI)
    assert refuses(access, ["key-of-sampler"], "spiffe://qrng/client/unknown")


def test_a_revoked_record_opens_nothing(file: Path) -> None:
    """Neither the keys nor the URI of a revoked client let it in, and it is not among the clients."""
    put(file, record(SAMPLER, "key-of-sampler", uri=URI, revoked=True))
    access = Access(file=file)
    assert refuses(access, ["key-of-sampler"])
    assert refuses(access, [], URI)
    assert access.clients() == ()


def test_the_clock_ends_keys_and_clients(tmp_path: Path) -> None:
    """A key ends at its own time, all that names a client at the client's, to the nanosecond, without a reload."""
    clock, file = ManualClock(), tmp_path / "clients.yaml"
    key_end_ns, client_end_ns = clock.now_ns() + 10, clock.now_ns() + 20
    sampler = replace(SAMPLER, not_after_ns=client_end_ns)
    keys = (KeyDigest(digest_of("first"), key_end_ns), KeyDigest(digest_of("second")))
    put(file, ClientRecord(sampler, keys, URI))
    access = Access(file=file, clock=clock)
    clock.advance(9e-9)
    assert access.identify(["first"]).client is access.identify(["second"]).client
    clock.advance(1e-9)
    assert refuses(access, ["first"])
    assert access.identify(["second"], URI).client == sampler
    clock.advance(10e-9)
    assert refuses(access, ["second"])
    assert refuses(access, [], URI)


def test_an_end_within_a_week_is_a_warning(tmp_path: Path) -> None:
    """Who soon cannot come in by any way, or since this week cannot, is named; who rotated its key in time is not."""
    clock, file = ManualClock(), tmp_path / "clients.yaml"
    soon_ns, later_ns = clock.now_ns() + ENDS_SOON_NS, clock.now_ns() + 3 * ENDS_SOON_NS
    put(
        file,
        ClientRecord(Client("ending"), (KeyDigest(b"a" * 32, soon_ns),)),
        ClientRecord(Client("rotated"), (KeyDigest(b"b" * 32, soon_ns), KeyDigest(b"c" * 32, later_ns))),
        ClientRecord(Client("certified"), (KeyDigest(b"d" * 32, soon_ns),), URI),
        ClientRecord(Client("gone"), (KeyDigest(b"e" * 32, soon_ns),), revoked=True),
        ClientRecord(Client("leaving", not_after_ns=soon_ns), (KeyDigest(b"f" * 32),)),
    )
    access = Access(KEYS, file=file, clock=clock)
    assert list(access.warnings()) == [
        "the access of client ending ends in 7.0 days",
        "the access of client leaving ends in 7.0 days",
    ]
    clock.advance(8 * 86_400)
    assert next(access.warnings()) == "the access of client ending has ended"
    clock.advance(7 * 86_400)
    assert [warning.split()[4] for warning in access.warnings()] == ["rotated"]


def test_a_changed_file_counts_from_the_reload_on(file: Path) -> None:
    """What a reload finds takes effect at once: new clients, new limits, revocations; without a change nothing does."""
    access = Access(file=file)
    before = access.clients()
    assert not access.reload()
    assert access.clients() is before
    heavier = replace(SAMPLER, weight=9)
    put(file, record(heavier, "key-of-sampler"), record(Client("new"), "key-of-new"))
    with capture_logs() as logs:
        assert access.reload()
    assert logs == [{"event": "client_keys_reloaded", "clients": 2, "log_level": "info"}]
    assert access.identify(["key-of-sampler"]).client == heavier
    assert access.identify(["key-of-new"]).client.client_id == "new"
    assert refuses(access, ["key-of-other"])
    assert refuses(access, [], URI)


def test_a_stream_learns_what_became_of_its_client(tmp_path: Path) -> None:
    """Who came in is, later, what its record says by then: changed, or refused once revoked, gone or ended."""
    clock, file = ManualClock(), tmp_path / "clients.yaml"
    put(file, record(SAMPLER, "key-of-sampler"), record(Client("other"), "key-of-other"))
    access = Access(KEYS, file=file, clock=clock)
    sampler, other, fixed = (access.identify([key]) for key in ("key-of-sampler", "key-of-other", KEYS[0]))
    assert access.current(sampler) is sampler
    heavier = replace(SAMPLER, weight=9, not_after_ns=clock.now_ns() + 10**9)
    put(file, record(heavier, "key-of-sampler"), record(Client("other"), "key-of-other", revoked=True))
    access.reload()
    assert access.current(sampler).client.weight == 9
    assert access.current(fixed) == fixed
    clock.advance(1)
    for passed in (sampler, other):
        with pytest.raises(AuthenticationError):
            access.current(passed)


@pytest.mark.parametrize("end", ["rotated", "ended", "uri", "given away"])
def test_a_stream_ends_with_the_key_that_opened_it(tmp_path: Path, end: str) -> None:
    """What one key or certificate opened ends with it, though its client still comes in by another key."""
    clock, file = ManualClock(), tmp_path / "clients.yaml"
    other_key = KeyDigest(digest_of("other-key"))
    leaked = KeyDigest(digest_of("leaked-key"), clock.now_ns() + 10**9)
    put(file, ClientRecord(SAMPLER, (leaked, other_key), URI))
    access = Access(file=file, clock=clock)
    passes = [access.identify(["leaked-key"]), access.identify(["leaked-key"], URI)]
    if end == "rotated":
        put(file, ClientRecord(SAMPLER, (other_key,), URI))
    if end == "ended":
        clock.advance(1)
    if end == "uri":
        passes = [access.identify([], URI), access.identify(["leaked-key"], URI)]
        put(file, ClientRecord(SAMPLER, (leaked, other_key), URI + "-2"))
    if end == "given away":
        put(file, ClientRecord(SAMPLER, (other_key,), URI), ClientRecord(Client("other"), (leaked,)))
    access.reload()
    for passed in passes:
        with pytest.raises(AuthenticationError):
            access.current(passed)
    assert access.current(access.identify(["other-key"])).client == SAMPLER


def test_a_look_takes_a_change_that_stands_still(file: Path) -> None:
    """The first look after a change sees it, the second takes it."""
    access = Access(file=file)
    put(file, record(Client("new"), "key-of-new"))
    assert not access.look()
    assert refuses(access, ["key-of-new"])
    assert access.look()
    assert access.identify(["key-of-new"]).client.client_id == "new"


@pytest.mark.parametrize("fault", ["gone", "unreadable", "broken", "emptied", "writable", "mixed up"])
def test_an_unusable_file_leaves_the_old_keys_in_force(file: Path, fault: str) -> None:
    """A file that vanished, or turned into nonsense, changes nothing; it is logged once, and a warning until mended."""
    access, good = Access(KEYS, file=file), file.read_text()
    if fault in ("gone", "unreadable"):
        file.unlink()
    if fault == "unreadable":
        file.mkdir()
    if fault == "broken":
        file.write_text(good + "- id: [")
    if fault == "emptied":
        file.write_text("")
    if fault == "writable":
        file.chmod(0o666)
    if fault == "mixed up":
        put(file, record(SAMPLER, "key-of-sampler", KEYS[0], uri=URI), record(Client("other"), "key-of-other"))
    with capture_logs() as logs:
        for _ in range(4):
            assert not access.look()
    assert [log["event"] for log in logs] == ["client_keys_not_reloaded"]
    assert logs[0]["log_level"] == "error"
    assert access.identify(["key-of-sampler"]).client == SAMPLER
    assert access.mistakes
    assert "the file of client keys cannot be used" in next(access.warnings())
    if fault == "unreadable":
        file.rmdir()
    file.write_text(good)
    file.chmod(0o640)
    assert not access.reload()
    assert access.mistakes == ()
    assert list(access.warnings()) == []


@pytest.mark.parametrize("fault", ["wieght: 2", "unknown", "mixed up"])
def test_a_revocation_counts_whatever_else_is_wrong_in_the_file(file: Path, fault: str) -> None:
    """Who is revoked comes in no longer, the others and their limits stay; once it is mended all of it counts."""
    access, good = Access(KEYS, file=file), file.read_text()
    sampler, other = access.identify(["key-of-sampler"]), access.identify(["key-of-other"])
    put(
        file,
        record(SAMPLER, "key-of-sampler", uri=URI, revoked=True),
        record(Client("other", weight=9), "key-of-other"),
    )
    mended = file.read_text()
    wrong = {
        "wieght: 2": "  wieght: 2\n",
        "unknown": "more: 1\n",
        "mixed up": f"- id: x\n  keys: [{{sha256: {SHA}}}]\n",
    }
    file.write_text(mended + wrong[fault])
    with capture_logs() as logs:
        assert access.reload()
        assert not access.look()
    assert [log["event"] for log in logs] == ["client_keys_not_reloaded", "client_keys_withdrawn"]
    assert logs[1]["client_ids"] == ["sampler"]
    assert refuses(access, ["key-of-sampler"])
    assert refuses(access, [], URI)
    with pytest.raises(AuthenticationError):
        access.current(sampler)
    assert access.current(other).client.weight == 1
    file.write_text(mended)
    assert access.reload()
    assert access.current(other).client.weight == 9
    file.write_text(good)
    assert access.reload()
    assert access.current(sampler).client == SAMPLER


def test_an_unusable_file_refuses_to_start(tmp_path: Path) -> None:
    """Without the file there is nothing to fall back to."""
    with pytest.raises(ConfigError, match="cannot be read"):
        Access(KEYS, file=tmp_path / "missing.yaml")


def test_without_a_file_there_is_nothing_to_reload() -> None:
    """Keys of the settings never change."""
    assert not ACCESS.look()
    assert not ACCESS.reload()
    assert ACCESS.mistakes == ()


def test_only_the_uri_of_a_certificate_counts() -> None:
    """Common names, DNS names and addresses name nobody, and several URIs do not either."""
    names = (("DNS", "sampler"), ("URI", URI), ("IP Address", "192.0.2.7"))
    assert certified_uri(uris_of({"subject": ((("commonName", URI),),), "subjectAltName": names})) == URI
    assert certified_uri(uris_of({"subject": ((("commonName", URI),),)})) is None
    assert certified_uri(uris_of(None)) is None
    with pytest.raises(AuthenticationError):
        certified_uri([URI, URI])


def test_a_key_that_opened_before_is_looked_up_anew(tmp_path: Path) -> None:
    """What is remembered of a key that opened neither outlives its record nor keeps its old limits, and is bounded."""
    file = tmp_path / "clients.yaml"
    with changing_client_file(file) as records:
        records.append(ClientRecord(Client("one"), (KeyDigest(digest_of("a key of client one")),)))
    access = Access(file=file)
    for _ in range(3):
        assert access.identify(["a key of client one"]).client.weight == 1
    with changing_client_file(file) as records:
        records[:] = [replace(record, client=replace(record.client, weight=7)) for record in records]
    assert access.reload()
    assert access.identify(["a key of client one"]).client.weight == 7
    with changing_client_file(file) as records:
        records[:] = [replace(record, revoked=True) for record in records]
    assert access.reload()
    for guess in ("a key of client one", "another", "a third"):
        with pytest.raises(AuthenticationError):
            access.identify([guess])
    assert not access._tags  # a revoked key goes the way of those that never opened
