"""`qrng keys`: a key is shown once and kept nowhere; the file is always one a gateway takes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qrng_cli.group import cli
from qrng_grpc.client_keys import ClientRecord, Limits, digest_of, read_client_file
from qrng_grpc.clock import NS_PER_S, SYSTEM_CLOCK
from qrng_grpc.labels import SourceClass
from qrng_grpc.moments import moment_ns

HOUR_NS = 3600 * NS_PER_S


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clients.yaml"


def keys(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *arguments, "--file", str(file)])


def made(file: Path, *arguments: str) -> str:
    """The key that a command prints, the only thing on standard output."""
    result = keys(file, *arguments)
    assert result.exit_code == 0, result.output
    (key,) = result.stdout.split()
    return key


def only(file: Path) -> ClientRecord:
    (record,) = read_client_file(file)
    return record


def listed(file: Path) -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = json.loads(keys(file, "list", "--json").stdout)
    return facts


def test_a_new_key_is_printed_once_and_kept_nowhere(file: Path) -> None:
    """A key has 256 bits; the file has its SHA-256 and is not readable by all; no listing shows the key."""
    key = made(file, "create", "sampler")
    assert len(key) >= 43
    assert only(file).keys[0].digest == digest_of(key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    shown = file.read_text() + keys(file, "list").output + keys(file, "list", "--json").output
    assert key not in shown
    assert made(file, "create", "other") != key


def test_every_option_ends_up_in_the_record(file: Path) -> None:
    """What is said about a client stands in the file, and in both listings."""
    made(
        file, "create", "sampler", "--label", "sampler [room 3]", "--expires", "2100-01-01T00:00:00Z", "--key-expires",
        "90d", "--uri", "spiffe://qrng/client/sampler", "--requests-per-second", "2.5", "--bytes-per-second", "1M",
        "--bytes-per-day", "2G", "--streams", "3", "--least-class", "quantum", "--method", "qrng.v1.*", "--method",
        "GET /api/random", "--weight", "5", "--reserve", "64K",
    )  # fmt: skip
    record, client = only(file), only(file).client
    assert (client.client_id, client.label, record.uri) == (
        "sampler",
        "sampler [room 3]",
        "spiffe://qrng/client/sampler",
    )
    assert client.limits == Limits(2.5, 1 << 20, 2 << 30, 3)
    assert (client.least_class, client.weight, client.reserved_bytes) == (SourceClass.QUANTUM, 5, 65_536)
    assert client.methods == {"qrng.v1.*", "GET /api/random"}
    assert client.not_after_ns == moment_ns("2100-01-01T00:00:00Z")
    left_ns = (record.keys[0].not_after_ns or 0) - SYSTEM_CLOCK.now_ns()
    assert 89 * 24 * HOUR_NS < left_ns <= 90 * 24 * HOUR_NS
    (facts,) = listed(file)
    assert (facts["state"], facts["limits"]["streams"], facts["methods"]) == (
        "valid",
        3,
        ["GET /api/random", "qrng.v1.*"],
    )
    table = CliRunner().invoke(cli, ["keys", "list", "--file", str(file)], env={"COLUMNS": "300"}).output
    for word in ("sampler [room 3]", "bytes_per_s 1,048,576", "65,536 bytes kept", "qrng.v1.*", "2100-01-01T00:00:00Z"):
        assert word in table


def test_a_bare_client_is_listed_with_what_it_falls_back_to(file: Path) -> None:
    """Without limits of its own a client has the gateway's, and it may call everything."""
    made(file, "create", "sampler")
    output = CliRunner().invoke(cli, ["keys", "list", "--file", str(file)], env={"COLUMNS": "300"}).output
    for word in ("the gateway's", "never", "everything", only(file).keys[0].fingerprint):
        assert word in output


def test_rotation_lets_the_old_key_end_later(file: Path) -> None:
    """The client stays; its new key counts at once, the old ones end after the overlap, or sooner if they were to."""
    first = made(file, "create", "sampler", "--weight", "7", "--key-expires", "2h")
    second = made(file, "rotate", "sampler")
    third = made(file, "rotate", "sampler", "--overlap", "3h", "--key-expires", "90d")
    record, now_ns = only(file), SYSTEM_CLOCK.now_ns()
    assert [key.digest for key in record.keys] == [digest_of(key) for key in (first, second, third)]
    hours = [((key.not_after_ns or 0) - now_ns) / HOUR_NS for key in record.keys]
    assert [round(left) for left in hours] == [2, 3, 90 * 24]
    assert record.client.weight == 7


def test_rotation_is_a_day_long_by_default(file: Path) -> None:
    """Unless told otherwise an old key opens for 24 hours more."""
    made(file, "create", "sampler")
    made(file, "rotate", "sampler")
    left_ns = (only(file).keys[0].not_after_ns or 0) - SYSTEM_CLOCK.now_ns()
    assert 23 * HOUR_NS < left_ns <= 24 * HOUR_NS


def test_a_leaked_key_ends_at_once(file: Path) -> None:
    """Without an overlap the old keys are off the file."""
    made(file, "create", "sampler")
    new = made(file, "rotate", "sampler", "--overlap", "0s")
    assert [key.digest for key in only(file).keys] == [digest_of(new)]


def test_a_revoked_client_keeps_its_record(file: Path) -> None:
    """Revoking is said in the file, more than once does no harm, and nothing renews it."""
    made(file, "create", "sampler")
    for _ in range(2):
        assert keys(file, "revoke", "sampler").exit_code == 0
    assert only(file).revoked
    assert listed(file)[0]["state"] == "revoked"
    assert "is revoked" in keys(file, "rotate", "sampler").output
    assert "already" in keys(file, "create", "sampler").output


def test_a_client_is_revoked_beside_a_mistake(file: Path) -> None:
    """A mistake in the next record is told, and does not keep anybody from revoking; the mistake stays to be mended."""
    made(file, "create", "sampler")
    file.write_text(f"{file.read_text()}- {{id: other, wieght: 2, keys: [{{sha256: '{'b' * 64}'}}]}}\n")
    result = keys(file, "revoke", "sampler")
    assert result.exit_code == 0
    assert "client sampler is revoked" in result.output
    assert "wieght" in result.output
    file.write_text(file.read_text().replace("wieght", "weight"))
    assert [record.revoked for record in read_client_file(file)] == [True, False]


@pytest.mark.parametrize("fault", ["no YAML", "writable", "no such client"])
def test_who_cannot_be_revoked_by_the_command_can_by_hand(file: Path, fault: str) -> None:
    """Where the command can do nothing it says so, what is wrong, and what to write."""
    made(file, "create", "sampler")
    wrong = file.read_text().replace("sampler", "other") if fault == "no such client" else file.read_text()
    file.write_text(wrong + ("- [" if fault == "no YAML" else "- id: wrong\n"))
    if fault == "writable":
        file.chmod(0o666)
    before = file.read_text()
    result = keys(file, "revoke", "sampler")
    assert result.exit_code != 0
    assert "nothing is revoked" in result.output
    assert "`revoked: true`" in result.output
    assert file.read_text() == before


def test_a_certificate_may_be_all_there_is(file: Path) -> None:
    """With --no-key nothing is printed on standard output, and the record has a URI only."""
    result = keys(file, "create", "probe", "--uri", "spiffe://qrng/client/probe", "--no-key")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (only(file).keys, only(file).uri) == ((), "spiffe://qrng/client/probe")
    assert listed(file)[0]["state"] == "valid"


def test_what_ended_is_told_apart(file: Path) -> None:
    """A client whose time is over, or whose every key is, is shown as expired; the former gets no new key."""
    file.write_text(
        "clients:\n"
        f"  - {{id: over, not_after: 2020-01-01T00:00:00Z, keys: [{{sha256: '{'a' * 64}'}}]}}\n"
        f"  - {{id: keyless, keys: [{{sha256: '{'b' * 64}', not_after: 2020-01-01T00:00:00Z}}]}}\n"
    )
    assert [facts["state"] for facts in listed(file)] == ["expired", "expired"]
    assert "no longer served" in keys(file, "rotate", "over").output
    made(file, "rotate", "keyless")
    assert [facts["state"] for facts in listed(file)] == ["expired", "valid"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["create", "../x"], 2, "ID"),
        (["create", "x", "--uri", "no uri"], 2, "clients[1].uri: expected a URI"),
        (["create", "x", "--method", "GET api"], 2, "clients[1].methods.0: expected a method"),
        (["create", "x", "--label", "a\nb"], 2, "clients[1].label: "),
        (["create", "x", "--no-key"], 2, "--no-key goes with --uri"),
        (["create", "x", "--expires", "2020-01-01T00:00:00Z"], 2, "lies in the past"),
        (["create", "x", "--expires", "tomorrow"], 2, "expected a time with its zone"),
        (["create", "x", "--requests-per-second", "nan"], 2, "clients[1].limits.requests_per_s"),
        (["create", "sampler"], 1, "there is a client sampler already"),
        (["rotate", "sampler", "--overlap", "-1h"], 2, "expected a number and s, m, h or d"),
        (["rotate", "nobody"], 1, "has no client nobody"),
        (["revoke", "nobody"], 1, "has no client nobody"),
    ],
)
def test_what_cannot_be_changes_nothing(file: Path, arguments: list[str], code: int, told: str) -> None:
    """A mistake is told, with the exit code of its kind, and the file stays as it was."""
    made(file, "create", "sampler")
    before = file.read_text()
    result = keys(file, *arguments)
    assert result.exit_code == code
    assert told in result.output
    assert file.read_text() == before


def test_a_file_at_fault_is_not_touched(file: Path) -> None:
    """What does not read as clients is never written over, and a file that is not there is not made by a mistake."""
    assert keys(file, "list").exit_code == 2
    assert keys(file, "revoke", "sampler").exit_code == 1
    assert not file.exists()
    file.write_text("clients: [{id: sampler}]\n")
    assert keys(file, "create", "other").exit_code == 2
    assert file.read_text() == "clients: [{id: sampler}]\n"


def test_the_file_may_come_from_the_environment(file: Path) -> None:
    """Without --file the gateway's own setting names it; without either nothing is done."""
    environ = {"QRNG_GATEWAY_API_KEYS_FILE": str(file)}
    assert CliRunner().invoke(cli, ["keys", "create", "sampler"], env=environ).exit_code == 0
    assert only(file).client.client_id == "sampler"
    assert CliRunner().invoke(cli, ["keys", "create", "sampler"]).exit_code == 2


@pytest.mark.parametrize("columns", ["80", "300"])
def test_a_listing_in_a_pipe_keeps_ids_whole(file: Path, columns: str) -> None:
    """What grep and cut read has each id in one piece, and each client in one line."""
    client_id = "a-client-of-" + "x" * 52
    keys(file, "create", client_id, "--label", "sampler in room 3")
    output = CliRunner().invoke(cli, ["keys", "list", "--file", str(file)], env={"COLUMNS": columns}).output
    (line,) = [line for line in output.splitlines() if client_id in line]
    assert "sampler in room 3" in line
    assert "valid" in line
