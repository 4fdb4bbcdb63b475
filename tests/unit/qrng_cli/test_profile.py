"""`qrng profile`, and `--profile` wherever settings are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from qrng_cli.group import cli

COLLECTOR = "QRNG_COLLECTOR_SOURCE=system\n"
TOKEN = "c29tZWJvZHkncyBrZXkgaW5kZWVk"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty directory with deployments/, and without settings in the environment."""
    for name in [name for name in os.environ if name.startswith(("QRNG_", "QR_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("deployments").mkdir()
    return tmp_path


def qrng(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env=env)


def profile(text: str, name: str = "lab", **beside: str) -> Path:
    """Write a profile, and files beside it."""
    folder = Path("deployments", name)
    folder.mkdir()
    (folder / ".env").write_text(text)
    for file, content in beside.items():
        (folder / file.replace("_", ".")).write_text(content)
    return folder


def mistakes(*names: str) -> list[str]:
    """Check profiles, which must be refused; return what was said."""
    result = qrng("profile", "check", *names)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return [line.removeprefix("  - ") for line in result.stderr.splitlines() if line.startswith("  - ")]


def mistake(text: str, **beside: str) -> str:
    """Return the one mistake of a profile."""
    profile(text, **beside)
    (told,) = mistakes("lab")
    return told


# ---- Those there are ---------------------------------------------------------------------------------------


def test_list() -> None:
    """Each profile is listed with its first sentence; folders that begin with _ and those without .env are none."""
    profile("# Profile: a laboratory\n# of ours. More of it.\nQR_GRPC_SERVICE=qrng\n")
    profile("QR_GRPC_SERVICE=qrng\n", "bare")
    profile("# Profile: to copy.\n", "_template")
    Path("deployments/empty").mkdir()
    result = qrng("profile", "list")
    assert result.exit_code == 0
    assert [line.rstrip() for line in result.output.splitlines()] == ["bare", "lab   a laboratory of ours"]


def test_list_of_none() -> None:
    """Without profiles the way to make one is told."""
    result = qrng("profile", "list")
    assert result.exit_code == 2
    assert "qrng profile new" in result.stderr


def test_show_hides_secrets() -> None:
    """What a profile sets is shown by program, secrets in values and in JSON as ***, placeholders as they are."""
    source = {"kind": "grpc", "address": "[::1]:1", "api_key": TOKEN, "api_key_file": "x.key"}
    profile(
        f"# Profile: ours.\nQRNG_GATEWAY_HMAC_SECRET_KEY={TOKEN}\nQRNG_COLLECTOR_SOURCES='{json.dumps([source])}'\n"
        f"QR_GRPC_API_KEY=replace-with-your-key\nQR_GRPC_SERVER_ADDRESS=[::1]:1\nTYPO_API_KEY={TOKEN}\n"
    )
    shown = qrng("profile", "show", "lab").output
    assert TOKEN not in shown
    assert "QRNG_GATEWAY_HMAC_SECRET_KEY=***" in shown
    assert '"api_key": "***", "api_key_file": "x.key"' in shown
    assert "QR_GRPC_API_KEY=replace-with-your-key" in shown
    assert [line for line in shown.splitlines() if line and line[0].isalpha()][1:] == [
        "gateway",
        "collector",
        "client",
        "nobody",
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"#QR_GRPC_API_KEY={TOKEN}\nQR_LOG_LEVEL=off\n",
        f"# Profile: ours\n# QR_GRPC_API_KEY = {TOKEN} . Old.\nQR_LOG_LEVEL=off\n",
        f"""QRNG_COLLECTOR_SOURCES='[{{"kind": "http", "api_key": "{TOKEN}"]'\n""",
        f"QRNG_GATEWAY_PASSWD={TOKEN}\n",
        f"QRNG_COLLECTOR_APPLIANCE_URL=https://{TOKEN}@192.0.2.7\n",
        f"QRNG_COLLECTOR_APPLIANCE_URL=https://192.0.2.7/?access_token={TOKEN}\n",
    ],
)
def test_nothing_shows_a_secret_in_an_odd_place(text: str) -> None:
    """A key in a line that is switched off is no part of the title; JSON that is none and URLs are masked too."""
    profile(text)
    for arguments in (("list",), ("show", "lab"), ("check", "lab")):
        assert TOKEN not in qrng("profile", *arguments).output


def test_show_of_a_broken_one() -> None:
    """A file with lines that set nothing is told, not shown in part."""
    profile(f"# Profile: ours.\nQR_GRPC_API_KEY {TOKEN}\n")
    result = qrng("profile", "show", "lab")
    assert result.exit_code == 2
    assert "line 2: expected NAME=VALUE" in result.stderr
    assert TOKEN not in result.output


@pytest.mark.parametrize("subcommand", ["show", "check"])
def test_of_none(subcommand: str) -> None:
    """Where there is no profile, and none is named, that is asked for."""
    result = qrng("profile", subcommand)
    assert result.exit_code == 2
    assert "name a profile" in result.stderr


def test_show_steers_no_terminal() -> None:
    """What could steer a terminal is not printed."""
    profile("# Profile: \x1b[31mred.\nQR_LOG_LEVEL=\x1b[2J\n")
    assert "\x1b" not in qrng("profile", "show", "lab").output + qrng("profile", "list").output


# ---- What is wrong with one ---------------------------------------------------------------------------------


def test_check_of_a_good_one() -> None:
    """What the programs would take is ok, and so are all there are."""
    profile(COLLECTOR)
    profile("QR_ENTROPY_SOURCE_TYPE=system\n", "other")
    assert qrng("profile", "check", "lab").stdout == "ok\n"
    assert qrng("profile", "check").stdout == "lab: ok\nother: ok\n"
    assert qrng("--profile", "lab", "profile", "check").stdout == "ok\n"


def test_all_mistakes_at_once() -> None:
    """Mistakes of all programs, names and files are told in one go, each by its name and none by its value."""
    profile(
        "QRNG_GATEWAY_BUFER_SIZE=1\nQRNG_GATEWAY_BUFFER_TTL=0\nQRNG_COLLECTOR_FETCH_INTERVAL=soon\n"
        f"QRNG_GATEWY_POOL_ID=x\nQR_GRPC_MODE=sideways\nQRNG_GATEWAY_API_KEYS={TOKEN}\nno setting\n",
        gateway_yaml="max_wait: 3600\n",
    )
    told = "\n".join(mistakes("lab"))
    for part in (
        "line 7: expected NAME=VALUE",
        "QRNG_GATEWAY_BUFER_SIZE: there is no such setting; did you mean QRNG_GATEWAY_BUFFER_SIZE?",
        "QRNG_GATEWAY_BUFFER_TTL: ",
        "QRNG_COLLECTOR_FETCH_INTERVAL: ",
        "QRNG_GATEWY_POOL_ID: there is no such setting; did you mean QRNG_GATEWAY_POOL_ID?",
        "QR_GRPC_MODE: ",
        "QRNG_GATEWAY_API_KEYS: a secret",
        "gateway.yaml: max_wait: ",
    ):
        assert part in told
    assert TOKEN not in told
    assert "sideways" not in told


def test_mistakes_of_several() -> None:
    """Of several profiles each mistake is told with the profile's name, and those without are ok."""
    profile(COLLECTOR)
    profile("QR_TOP_P=2\n", "other")
    result = qrng("profile", "check")
    assert result.exit_code == 2
    assert result.stdout == "lab: ok\n"
    assert "- other: QR_TOP_P: " in result.stderr


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("QR_GRPC_SERVER_ADRESS=x:1", "QR_GRPC_SERVER_ADDRESS"),
        ("QR_SAMPLE_CUONT=1", "QR_SAMPLE_COUNT"),
        ("QRNG_COLLECTOR_SUORCE=system", "QRNG_COLLECTOR_SOURCE"),
        ("QRNG_COLECTOR_SOURCE=system", "QRNG_COLLECTOR_SOURCE"),
        ("qr_grpc_sever_address=x:1", "QR_GRPC_SERVER_ADDRESS"),
    ],
)
def test_a_typo(line: str, near: str) -> None:
    """A name that nobody knows is refused with the nearest one, whatever part of it is wrong."""
    told = mistake(f"{line}\n")
    assert told.startswith(line.partition("=")[0].upper())
    assert told.endswith(f"did you mean {near}?")


def test_broken_json() -> None:
    """JSON that is none is the program's to refuse, under the name of its setting."""
    profile('QRNG_COLLECTOR_SOURCES=[{"kind": "mock"\n')
    assert all(told.startswith("QRNG_COLLECTOR_SOURCES") for told in mistakes("lab"))


def test_several_pools() -> None:
    """A collector with several pools needs no pool of its own."""
    pools = [{"pool_id": "east", "push_url": "127.0.0.1:1"}, {"pool_id": "west", "push_url": "127.0.0.1:2"}]
    profile(f"QRNG_COLLECTOR_POOLS='{json.dumps(pools)}'\nQRNG_COLLECTOR_SIGNING_KEYS_FILE=keys.yaml\n")
    assert qrng("profile", "check", "lab").stdout == "ok\n"


def test_a_foreign_name() -> None:
    """A name that is like none is refused with what names begin with."""
    assert "names begin with QRNG_GATEWAY_, QRNG_COLLECTOR_ or QR_" in mistake("HTTPS_PROXY=x\n")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"QRNG_GATEWAY_HMAC_SECRET_KEY={TOKEN}{TOKEN}\n", "QRNG_GATEWAY_HMAC_SECRET_KEY"),
        (f"QRNG_GATEWAY_API_KEYS=replace-with-your-key,{TOKEN}\n", "QRNG_GATEWAY_API_KEYS"),
        (f"QR_GRPC_API_KEY={TOKEN}\n", "QR_GRPC_API_KEY"),
        (f"#QR_GRPC_API_KEY={TOKEN}\n", "QR_GRPC_API_KEY"),
        (f"# export QR_GRPC_API_KEY={TOKEN}\n", "QR_GRPC_API_KEY"),
        (f"QR_GRPC_SERVER_ADDRESS=x:1\nQR_GRPC_TOKEN={TOKEN}\n", "QR_GRPC_TOKEN"),
        ("QRNG_COLLECTOR_DEVICE_ID=a\nQRNG_COLLECTOR_APPLIANCE_URL=https://me:secret@192.0.2.7\n", "APPLIANCE_URL"),
        (f"QRNG_COLLECTOR_APPLIANCE_URL=https://{TOKEN}@192.0.2.7\n", "APPLIANCE_URL"),
        (f"QRNG_COLLECTOR_APPLIANCE_URL=https://:{TOKEN}@192.0.2.7\n", "APPLIANCE_URL"),
        (f"QRNG_COLLECTOR_APPLIANCE_URL=https://192.0.2.7/?access_token={TOKEN}\n", "APPLIANCE_URL"),
        (f"QR_TOP_P=0.5 # QR_GRPC_API_KEY={TOKEN}\n", "QR_GRPC_API_KEY"),
        (f"# QR_GRPC_API_KEY = '{TOKEN}'  # mine\n", "QR_GRPC_API_KEY"),
        ("# QR_GRPC_API_KEY='of several words'\n", "QR_GRPC_API_KEY"),
        (f"""#QRNG_COLLECTOR_SOURCES='[{{"kind": "http",\n#  "api_key": "{TOKEN}"}}]'\n""", "SOURCES.0.api_key"),
        (f"""QRNG_COLLECTOR_SOURCES='[{{"kind": "http", "api_key": "{TOKEN}"]'\n""", "api_key"),
    ],
)
def test_a_secret_in_a_shared_file(text: str, name: str) -> None:
    """A secret is told by its setting, commented out or not, and never shown."""
    profile(text)
    told = mistakes("lab")
    assert any(f"{name}: a secret in a file that is shared" in one for one in told)
    assert not any(TOKEN in one or "me:secret" in one for one in told)


@pytest.mark.parametrize("place", ["api_key", "request"])
def test_a_secret_within_a_source(place: str) -> None:
    """A key in the JSON of a source is found, and one that is filled in from elsewhere is none."""
    source = {"kind": "http", "preset": "anu", "source_class": "quantum", "device_id": "anu"}
    if place == "request":
        del source["preset"]
        request = {"url": "https://192.0.2.7/{bytes}", "reader": "raw", "headers": {"Authorization": f"Bearer {TOKEN}"}}
        told_as, given = "QRNG_COLLECTOR_SOURCES.0.request.headers.Authorization", {"request": request}
    else:
        told_as, given = "QRNG_COLLECTOR_SOURCES.0.api_key", {"api_key": TOKEN}
    line = f"QRNG_COLLECTOR_BEST_CLASS=quantum\nQRNG_COLLECTOR_SOURCES='{json.dumps([source | given])}'\n"
    assert mistake(line).startswith(f"{told_as}: a secret in a file that is shared")
    Path("deployments/lab/.env").write_text(
        line.replace(TOKEN, "{key}").replace('"request":', '"api_key_file": "x.key", "request":')
        if place == "request"
        else line.replace(f'"{TOKEN}"', '"replace-with-your-key"')
    )
    assert qrng("profile", "check", "lab").exit_code == 0


@pytest.mark.parametrize("header", ["X-Auth", "Ocp-Apim-Subscription-Key", "X-Vault-Token", "Cookie"])
def test_a_secret_within_a_header(header: str) -> None:
    """However a server calls the header of its key, a key in it is found."""
    request = {"url": "https://192.0.2.7/{bytes}", "reader": "raw", "headers": {header: TOKEN, "Accept": "text/plain"}}
    source = {"kind": "http", "source_class": "quantum", "device_id": "d", "request": request}
    told = mistake(f"QRNG_COLLECTOR_BEST_CLASS=quantum\nQRNG_COLLECTOR_SOURCES='{json.dumps([source])}'\n")
    assert told.startswith(f"QRNG_COLLECTOR_SOURCES.0.request.headers.{header}: a secret")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("other.env", f"QR_GRPC_API_KEY={TOKEN}\n"),
        (".env.local", f"# QR_GRPC_API_KEY={TOKEN}\n"),
        ("README.md", f"```sh\nexport QR_GRPC_API_KEY={TOKEN}\n```\n"),
        ("client.json", f'{{"api_key": "{TOKEN}"}}'),
        ("GATEWAY.YAML", f"hmac_secret_key: {TOKEN}\n"),
        ("notes", f"Authorization: Bearer {TOKEN}\n"),
        ("old.yaml", f"#api_keys:\n#  - replace-with-your-key\n#  - {TOKEN}\n"),
        ("old.yaml", f"# api_keys: [replace-with-your-key, {TOKEN}]\n"),
        ("old.yaml", f"#   hmac_secret_key:   {TOKEN}   # until March\n"),
        ("twice.yaml", f"hmac_secret_key: {TOKEN}\nhmac_secret_key: replace-with-your-key\n"),
        ("broken.yaml", f"hmac_secret_key: {TOKEN}\n  x: [\n"),
    ],
)
def test_a_secret_in_any_file(file: str, text: str) -> None:
    """What is assigned to the name of a key and looks like one is found in every file of the folder, once."""
    (profile(COLLECTOR) / file).write_text(text)
    (told,) = mistakes("lab")
    assert told.startswith(f"deployments/lab/{file}: ")
    assert "a secret in a file that is shared" in told
    assert TOKEN not in told


@pytest.mark.parametrize(
    "text",
    [
        'echo "QR_GRPC_API_KEY=$key" > var/client.env\n',
        "export QR_GRPC_API_KEY=replace-with-your-own-key-2\n",
        "api_keys_file: var/clients-of-2026.yaml\n",
        "The token: see chapter 12. Authorization: by certificate.\n",
        "signing key: sha256=0123456789abcdef0123456789abcdef\n",
    ],
)
def test_what_only_speaks_of_secrets_is_none(text: str) -> None:
    """Instructions, names of files, prose and digests are no keys."""
    profile(COLLECTOR, README_md=text)
    assert qrng("profile", "check", "lab").stdout == "ok\n"


@pytest.mark.parametrize("name", ["server_key", "notes_md"])
def test_a_private_key_beside_it(name: str) -> None:
    """A private key in any file of the folder is told."""
    assert "holds a private key, and is shared" in mistake(COLLECTOR, **{name: f"# Key\n{PRIVATE_KEY}"})


@pytest.mark.parametrize("line", ["hmac_secret_key: {}", "# hmac_secret_key: {}", "api_keys: [{}]"])
def test_a_secret_in_yaml(line: str) -> None:
    """The YAML of a profile is shared too."""
    profile(COLLECTOR, gateway_yaml=f"pool_id: p\n{line.format(TOKEN + TOKEN)}\n")
    assert any("gateway.yaml" in one and "a secret in a file that is shared" in one for one in mistakes("lab"))


def test_what_every_request_begins_with_is_no_secret() -> None:
    """The location of a KMS, which names a project and opens nothing, may be shared."""
    profile(
        "QR_ENTROPY_SOURCE_TYPE=quantum_grpc\nQR_GRPC_SERVICE=google-kms\n"
        f"QR_GRPC_SERVER_ADDRESS=kms.example:443\nQR_GRPC_REQUEST_PREFIX=0a24{b'projects/lab-2026/locations/europe-1'.hex()}\n"
    )
    assert qrng("profile", "check", "lab").stdout == "ok\n"


def test_an_empty_key() -> None:
    """A key that is empty is told, since it lets nobody in."""
    assert mistake("QR_GRPC_API_KEY=\n").startswith("QR_GRPC_API_KEY: empty")


def test_a_private_file_may_hold_keys(here: Path) -> None:
    """A file that is its owner's alone, and no committed profile, may hold keys; one that others can read may not."""
    file = here / "own.env"
    file.write_text(f"QRNG_GATEWAY_HMAC_SECRET_KEY={TOKEN}{TOKEN}\n")
    file.chmod(0o600)
    assert qrng("profile", "check", "--profile-file", str(file)).stdout == "ok\n"
    file.chmod(0o644)
    assert qrng("profile", "check", "--profile-file", str(file)).exit_code == 2


def test_placeholders_and_missing_files_are_noted() -> None:
    """What a site must provide is noted on standard error, and is no mistake."""
    profile(
        "QRNG_COLLECTOR_SOURCE=http\nQRNG_COLLECTOR_APPLIANCE_URL=replace-with-its-url\n"
        "QRNG_COLLECTOR_APPLIANCE_FINGERPRINT=replace-with-its-fingerprint\nQRNG_COLLECTOR_SOURCE_CLASS=quantum\n"
        "QRNG_COLLECTOR_BEST_CLASS=quantum\nQRNG_COLLECTOR_SIGNING_KEYS_FILE=keys.yaml\n"
        "QRNG_COLLECTOR_SPOOL_DIR=spool\nQRNG_COLLECTOR_SPOOL_KEY_FILE=spool.key\n"
        "QRNG_GATEWAY_TLS_CERT_FILE=server.pem\nQRNG_GATEWAY_TLS_KEY_FILE=server.key\n"
        "QRNG_GATEWAY_SIGNING_KEYS_FILE=keys.yaml\nQRNG_GATEWAY_API_KEYS_FILE=clients.yaml\n"
        "QR_ENTROPY_SOURCE_TYPE=quantum_grpc\nQR_GRPC_CA_FILE=ca.pem\nQR_GRPC_API_KEY=replace-with-your-key\n"
    )
    result = qrng("profile", "check", "lab")
    assert result.stdout == "ok\n", result.stderr
    noted = result.stderr.splitlines()
    assert "QRNG_COLLECTOR_APPLIANCE_URL: a placeholder, for a value of your own" in noted
    assert "QR_GRPC_API_KEY: a placeholder, for a value of your own" in noted
    assert "QRNG_GATEWAY_TLS_CERT_FILE: server.pem is not here yet" in noted
    assert "QRNG_COLLECTOR_SIGNING_KEYS_FILE: keys.yaml is not here yet" in noted
    assert len(noted) == 10
    assert sorted(path.name for path in Path().iterdir()) == ["deployments"]


@pytest.mark.parametrize("key", ["0f" * 32, "0f" * 200])
def test_keys_in_place_of_files_are_not_shown(key: str) -> None:
    """A key where a file is to be named is noted as a file that is missing, without the key."""
    profile(f"QRNG_GATEWAY_API_KEYS_FILE={key}\n")
    result = qrng("profile", "check", "lab")
    assert result.stderr.splitlines()[-1] == "QRNG_GATEWAY_API_KEYS_FILE: something unlike a path is not here yet"
    assert key not in result.output


GATEWAY_TLS = "QRNG_GATEWAY_TLS_CERT_FILE=server.pem\nQRNG_GATEWAY_TLS_KEY_FILE=server.key\n"
PUSH_TLS = (
    "QRNG_GATEWAY_PUSH_TLS_CERT_FILE=server.pem\nQRNG_GATEWAY_PUSH_TLS_KEY_FILE=server.key\n"
    "QRNG_GATEWAY_PUSH_CLIENT_CA_FILE=ca.pem\n"
)
CLIENT = "QR_ENTROPY_SOURCE_TYPE=quantum_grpc\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{CLIENT}QR_GRPC_MODE=server_streaming\nQR_GRPC_STREAM_METHOD_PATH=\n", "QR_GRPC_STREAM_METHOD_PATH: empty"),
        (f"{CLIENT}QR_GRPC_MODE=bidi_streaming\nQR_GRPC_SERVICE=qrng\n", "QR_GRPC_STREAM_METHOD_PATH: empty"),
        (f"{CLIENT}QR_GRPC_SERVER_ADDRESS=10.0.0.115:50051\n", "QR_GRPC_SERVER_ADDRESS: "),
        (f"{CLIENT}QR_GRPC_CERT_FILE=client.pem\n", "QR_GRPC_KEY_FILE: "),
        ("QR_GRPC_SERVER_ADDRESS=localhost:1\n", "QR_ENTROPY_SOURCE_TYPE: is system"),
        (f"{CLIENT}QR_LEAST_CLASS=quantum\nQR_FALLBACK_MODE=system\n", "QR_LEAST_CLASS: QR_FALLBACK_MODE system"),
        ("QRNG_GATEWAY_LISTEN_ADDRESS=0.0.0.0:1\n", "QRNG_GATEWAY_ALLOW_PLAINTEXT_BEYOND_LOOPBACK: must be true"),
        ("QRNG_COLLECTOR_PUSH_URL=10.0.0.1:1\n", "QRNG_COLLECTOR_PUSH_URL: "),
        ("QRNG_GATEWAY_TLS_CERT_FILE=server.pem\n", "QRNG_GATEWAY_TLS_KEY_FILE: required"),
        (f"{PUSH_TLS}{COLLECTOR}", "QRNG_GATEWAY_PUSH_TLS_CERT_FILE: with it the collector must show"),
        ("QRNG_GATEWAY_POOL_ID=a\nQRNG_COLLECTOR_PUSH_CA_FILE=ca.pem\n", "QRNG_COLLECTOR_PUSH_CA_FILE: the gateway"),
        ("QRNG_GATEWAY_POOL_ID=a\nQRNG_COLLECTOR_POOL_ID=b\n", "QRNG_GATEWAY_POOL_ID: differs"),
        ("QRNG_GATEWAY_BEST_CLASS=simulated\nQRNG_COLLECTOR_SOURCE=mock\n", "QRNG_GATEWAY_BEST_CLASS: is weaker"),
        (
            f"QRNG_GATEWAY_BEST_CLASS=quantum\nQRNG_GATEWAY_LEAST_CLASS=quantum\n{COLLECTOR}",
            "QRNG_GATEWAY_LEAST_CLASS:",
        ),
        (f"{GATEWAY_TLS}{CLIENT}", "QRNG_GATEWAY_TLS_CERT_FILE: clients must use TLS"),
        (f"QRNG_GATEWAY_POOL_ID=a\n{CLIENT}QR_GRPC_TLS=true\n", "QR_GRPC_TLS: the client uses TLS"),
        (
            f"{GATEWAY_TLS}QRNG_GATEWAY_CLIENT_CA_FILE=ca.pem\n{CLIENT}QR_GRPC_TLS=true\n",
            "QRNG_GATEWAY_CLIENT_CA_FILE: with it clients must show",
        ),
        (f"QRNG_GATEWAY_API_KEY_HEADER=x-key\n{CLIENT}", "QR_GRPC_API_KEY_HEADER: differs"),
        (f"QRNG_GATEWAY_MAX_REQUEST_BYTES=1000\n{CLIENT}", "QR_GRPC_MAX_REQUEST_BYTES: is more than"),
    ],
)
def test_combinations_that_cannot_work(text: str, told: str) -> None:
    """What each program takes and could still not work is one mistake, by the setting to change."""
    assert mistake(text).startswith(told)


# ---- A new one ----------------------------------------------------------------------------------------------


def test_new_one_in_deployments() -> None:
    """A new profile is a copy of the template under its own name, and is right as it stands."""
    profile("# Profile: PROFILE. Ours.\n#QR_TOP_P=1.0\n", "_template", README_md="# PROFILE\n")
    result = qrng("profile", "new", "lab")
    assert result.exit_code == 0
    assert "qrng profile check lab" in result.output
    assert Path("deployments/lab/.env").read_text() == "# Profile: lab. Ours.\n#QR_TOP_P=1.0\n"
    assert Path("deployments/lab/README.md").read_text() == "# lab\n"
    assert qrng("profile", "check", "lab").stdout == "ok\n"


def test_new_one_elsewhere(here: Path) -> None:
    """Outside a checkout, without a template, a directory gets all settings, which are right as they stand."""
    Path("deployments").rmdir()
    result = qrng("profile", "new", str(here / "far" / "away"))
    assert result.exit_code == 0
    assert "#QR_GRPC_SERVER_ADDRESS=localhost:50051" in (here / "far" / "away" / ".env").read_text()
    assert qrng("profile", "check", "--profile-file", str(here / "far" / "away" / ".env")).stdout == "ok\n"


@pytest.mark.parametrize("name", ["lab", "./deployments/lab"])
def test_nothing_is_overwritten(name: str) -> None:
    """Where anything is already, nothing is written."""
    folder = profile(COLLECTOR)
    result = qrng("profile", "new", name)
    assert result.exit_code == 1
    assert "not empty" in result.stderr
    assert [path.read_text() for path in folder.iterdir()] == [COLLECTOR]


@pytest.mark.parametrize("name", ["_own", "no blanks", "-x", ""])
def test_no_name(name: str) -> None:
    """What is no name of a profile is refused, and nothing is made."""
    assert qrng("profile", "new", "--", name).exit_code == 2
    assert [*Path("deployments").iterdir()] == []


def test_no_deployments_here() -> None:
    """Outside a checkout a name alone is not enough."""
    Path("deployments").rmdir()
    result = qrng("profile", "new", "lab")
    assert result.exit_code == 2
    assert "./lab" in result.stderr


# ---- One that is used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_a_profile_counts(before: bool) -> None:
    """Named before the subcommand or behind it, a profile counts above YAML and below everything else."""
    profile("QRNG_GATEWAY_MAX_WAIT=long\n")
    Path("gateway.yaml").write_text(
        "hmac_key_id: k\ncollector_id: c\npool_id: p\nbest_class: quantum\nstate_dir: s\nrate_limit: 9\n"
    )
    check = ["config", "check", "gateway.yaml"]
    named = ["--profile", "lab", *check] if before else [*check, "--profile", "lab"]
    keys = {"QRNG_GATEWAY_HMAC_SECRET_KEY": "s" * 32, "QRNG_GATEWAY_API_KEYS": "k" * 16}
    refused = qrng(*named, env=keys)
    assert refused.exit_code == 2
    assert "QRNG_GATEWAY_MAX_WAIT" in refused.stderr
    assert qrng(*named, env=keys | {"QRNG_GATEWAY_MAX_WAIT": "1"}).exit_code == 0
    assert qrng(*named, "--set", "max_wait=1", env=keys).exit_code == 0
    Path("over.env").write_text("QRNG_GATEWAY_MAX_WAIT=1\n")
    assert qrng(*named, "--env-file", "over.env", env=keys).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--profile", "lab", "keygen", "--profile", "lab"),
        ("keygen", "--profile", "lab", "--profile-file", "deployments/lab/.env"),
    ],
)
def test_one_profile_at_a_time(arguments: tuple[str, ...]) -> None:
    """A profile is named once, and in one way."""
    profile(COLLECTOR)
    result = qrng(*arguments)
    assert result.exit_code == 2
    assert "name one profile, once" in result.stderr


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield every command there is, as the words that call it."""
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inside = command.get_command(context, name)
        assert inside is not None
        yield from commands(inside, *path, name)


@pytest.mark.parametrize("command", [*commands(cli)], ids=" ".join)
def test_a_profile_that_is_not_there(command: tuple[str, ...]) -> None:
    """Every command refuses a profile that does not exist, and tells the nearest one."""
    profile(COLLECTOR, "laboratory")
    for arguments in (["--profile", "labratory", *command], [*command, "--profile", "labratory"]):
        result = qrng(*arguments)
        assert result.exit_code == 2
        assert "deployments/labratory/.env does not exist; did you mean laboratory?" in result.stderr


@pytest.mark.parametrize("name", ["../lab", "_template", "/etc", ""])
def test_what_is_no_name_of_a_profile(name: str) -> None:
    """A name leads nowhere else than into deployments/, and not to the template."""
    profile(COLLECTOR, "_template")
    result = qrng("--profile", name, "keygen")
    assert result.exit_code == 2
    assert "a profile is named by" in result.stderr


def test_a_placeholder_starts_nothing() -> None:
    """Neither a server nor a client runs with a placeholder; the setting is named."""
    profile("QRNG_GATEWAY_HMAC_SECRET_KEY=replace-with-your-key\nQR_GRPC_API_KEY=replace-with-your-key\n")
    for command in (["gateway"], ["get", "1"]):
        result = qrng("--profile", "lab", *command)
        assert result.exit_code == 2
        assert "_KEY: still the placeholder" in result.stderr


def test_nothing_to_run_in_a_profile_for_clients() -> None:
    """`up` does not serve the operating system's randomness under the name of another source."""
    profile("QR_GRPC_SERVER_ADDRESS=localhost:1\n")
    result = qrng("--profile", "lab", "up")
    assert result.exit_code == 2
    assert "settings of clients alone" in result.stderr
    assert not Path("var").exists()


@pytest.mark.parametrize("command", ["up", "test"])
def test_nothing_to_run_in_an_empty_profile(command: str) -> None:
    """Nor does it, nor is it tested, under the name of a source that nobody has described yet."""
    profile("# Profile: lab. Ours.\n#QRNG_COLLECTOR_SOURCE=device\n")
    result = qrng("--profile", "lab", command)
    assert result.exit_code == 2
    assert "the profile lab sets nothing yet" in result.stderr
    assert not Path("var").exists()


def test_an_empty_profile_is_noted() -> None:
    """Whoever checks a profile before anything is switched on is told so; that is no mistake."""
    profile("#QRNG_COLLECTOR_SOURCE=device\n")
    result = qrng("profile", "check", "lab")
    assert (result.exit_code, result.stdout) == (0, "ok\n")
    assert result.stderr == "nothing is set yet: every line is switched off\n"


def test_keys_of_a_profile() -> None:
    """`qrng keys` changes the file that the profile's gateway reads."""
    profile("QRNG_GATEWAY_API_KEYS_FILE=clients.yaml\n")
    assert qrng("--profile", "lab", "keys", "create", "alice").exit_code == 0
    assert "alice" in qrng("keys", "list", "--profile", "lab").output
    assert Path("clients.yaml").is_file()


def test_an_open_file_with_a_key() -> None:
    """A client takes no key from a file that others can read."""
    file = Path("own.env")
    file.write_text(f"QR_GRPC_API_KEY={TOKEN}\n")
    file.chmod(0o644)
    result = qrng("get", "1", "--env-file", str(file))
    assert result.exit_code == 2
    assert "must be yours alone" in result.stderr


def test_bytes_without_a_server() -> None:
    """`get` and `stream` read what a profile names: here this machine's own randomness, and the label says so."""
    profile("QR_ENTROPY_SOURCE_TYPE=system\n")
    got = qrng("--profile", "lab", "get", "16", "--label")
    assert (got.exit_code, len(bytes.fromhex(got.stdout))) == (0, 16)
    assert got.stderr == "class=operating_system source=system mixed=no prefetched=no fallback=no\n"
    assert len(qrng("--profile", "lab", "stream", "--total", "100").stdout_bytes) == 100


def test_what_only_a_gateway_understands() -> None:
    """An option that a source cannot keep is refused, not passed over."""
    profile("QR_ENTROPY_SOURCE_TYPE=system\n")
    for command in ("get", "stream"):
        result = qrng(command, *(["1"] if command == "get" else []), "--profile", "lab", "--fresh")
        assert result.exit_code == 2
        assert "--fresh: for a gateway" in result.stderr
    weaker = qrng("get", "1", "--profile", "lab", "--least-class", "quantum")
    assert (weaker.exit_code, weaker.stdout) == (2, "")
    assert "QR_LEAST_CLASS" in weaker.stderr


def test_check_and_programs_name_settings_alike() -> None:
    """What `qrng profile check` says of a profile is, to the letter, what the program says that reads it."""
    lines = {
        "QR_GRPC_TIMEOUT_MS=soon": ("get", "1"),
        "QR_GRPC_KEY_FILE=client.key": ("get", "1"),
        "QR_GRPC_SERVER_ADDRESS=a:1": ("status",),
        "QRNG_GATEWAY_BUFFER_SIZE=1": ("gateway",),
        "QRNG_COLLECTOR_RETRY_POLICY__JITTER=7": ("collector",),
        "QRNG_COLLECTOR_SPOOL_SIZE=33554432": ("collector",),
    }
    for number, (line, command) in enumerate(lines.items()):
        profile(f"QR_ENTROPY_SOURCE_TYPE=quantum_grpc\n{line}\n", f"p{number}")
        told = next(one for one in mistakes(f"p{number}") if one.startswith(line.partition("=")[0]))
        said = qrng("--profile", f"p{number}", *command)
        assert said.exit_code == 2
        assert f"  - {told}" in said.stderr.splitlines(), said.stderr
