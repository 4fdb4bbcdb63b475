"""Settings: layers, unknown names, mistakes all at once, and addresses."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator

from qrng_grpc.config import Settings, host_and_port, is_loopback, load
from qrng_grpc.errors import ConfigError
from qrng_grpc.hardening import LockMemory
from qrng_grpc.tls import read_chain, read_key

PREFIX = "QRNG_TEST_"


class Retry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    initial_s: float = Field(default=0.1, gt=0)
    maximum_s: float = Field(default=30.0, gt=0)


class Example(Settings):
    port: int = Field(default=1, ge=1, le=65_535)
    name: str = "default"
    urls: tuple[str, ...] = ()
    secret: SecretStr = Field(default=SecretStr("x" * 32), min_length=32)
    retry_policy: Retry = Retry()


class Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["open"] = "open"


class KeyedSource(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["keyed"]
    key: SecretStr | None = None


class Keyed(Settings):
    port: int = 1
    keys: tuple[SecretStr, ...] = ()
    sources: tuple[Annotated[Source | KeyedSource, Field(discriminator="kind")], ...] = ()


class Demanding(Settings):
    collector_id: str
    pool_id: str
    port: int = 1


def mistakes_of(
    model: type[Settings] = Example, environ: dict[str, str] | None = None, yaml_file: Path | None = None
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refusal:
        load(model, prefix=PREFIX, environ=environ or {}, yaml_file=yaml_file)
    return refusal.value.mistakes


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_precedence_of_five_layers(tmp_path: Path) -> None:
    """Command line over environment over `.env` over YAML over default."""
    layers: list[dict[str, Any]] = [
        {"yaml_file": written(tmp_path / "c.yaml", "port: 2\n")},
        {"env_files": [written(tmp_path / ".env", f"{PREFIX}PORT=3\n")]},
        {"environ": {f"{PREFIX}PORT": "4"}},
        {"overrides": {"port": "5"}},
    ]
    arguments: dict[str, Any] = {"environ": {}}
    assert load(Example, prefix=PREFIX, **arguments).port == 1
    for expected, layer in enumerate(layers, start=2):
        arguments |= layer
        assert load(Example, prefix=PREFIX, **arguments).port == expected


def test_later_env_file_wins(tmp_path: Path) -> None:
    """Of several `.env` files the later is the stronger."""
    files = [written(tmp_path / "a", f"{PREFIX}PORT=3\n{PREFIX}NAME=a"), written(tmp_path / "b", f"{PREFIX}PORT=4")]
    settings = load(Example, prefix=PREFIX, environ={}, env_files=files)
    assert (settings.port, settings.name) == (4, "a")


def test_case_of_names_does_not_change_precedence(tmp_path: Path) -> None:
    """A name in another case is the same setting, in the same layer."""
    settings = load(
        Example,
        prefix=PREFIX,
        env_files=[written(tmp_path / ".env", f"{PREFIX}PORT=3")],
        environ={f"{PREFIX.lower()}port": "4"},
        overrides={"PORT": "5"},
    )
    assert settings.port == 5


def test_nothing_ambient_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the process counts only when it is passed in."""
    monkeypatch.setenv(f"{PREFIX}PORT", "9")
    monkeypatch.setenv("PORT", "9")
    assert load(Example, prefix=PREFIX, environ={}).port == 1


def test_nested_names(tmp_path: Path) -> None:
    """`__` reaches into a tree and leaves what is beside it, across layers."""
    settings = load(
        Example,
        prefix=PREFIX,
        environ={f"{PREFIX}RETRY_POLICY__MAXIMUM_S": "60"},
        yaml_file=written(tmp_path / "c.yaml", "retry_policy: {initial_s: 2, maximum_s: 3}\n"),
    )
    assert settings.retry_policy == Retry(initial_s=2, maximum_s=60)


def test_lists_in_the_environment_are_json() -> None:
    """A list is written as JSON."""
    assert load(Example, prefix=PREFIX, environ={f"{PREFIX}URLS": '["a", "b"]'}).urls == ("a", "b")


def test_settings_are_frozen() -> None:
    """Settings do not change once read."""
    with pytest.raises(ValidationError, match="frozen"):
        load(Example, prefix=PREFIX, environ={}).port = 3  # type: ignore[misc]


def test_foreign_names_are_left_alone(tmp_path: Path) -> None:
    """Names without our prefix are nobody's mistake, in the environment and in `.env`."""
    file = written(tmp_path / ".env", "QRNG_OTHER_PORT=7\nPATH=x\n")
    assert load(Example, prefix=PREFIX, environ={"PORT": "7", "HOME": "/"}, env_files=[file]) == Example()


def test_unknown_name_gets_a_suggestion(tmp_path: Path) -> None:
    """A name with our prefix that nobody knows is refused, with the nearest one that exists."""
    assert mistakes_of(environ={f"{PREFIX}PROT": "1"}) == (
        "QRNG_TEST_PROT: there is no such setting; did you mean QRNG_TEST_PORT?",
    )
    assert mistakes_of(environ={f"{PREFIX}ZZZZZZ": "1"}) == ("QRNG_TEST_ZZZZZZ: there is no such setting",)
    assert mistakes_of(yaml_file=written(tmp_path / "c", "prot: 1")) == (
        "prot: there is no such setting; did you mean port?",
    )
    with pytest.raises(ConfigError) as refusal:
        load(Example, prefix=PREFIX, environ={}, overrides={"prot": "1", "Port__number": "1"})
    assert refusal.value.mistakes == (
        "prot: there is no such setting; did you mean port?",
        "Port__number: there is no such setting; port has nothing below it",
    )


def test_unknown_nested_names_are_refused(tmp_path: Path) -> None:
    """A name below a tree that is not in it, or below a setting that is no tree, is refused."""
    (mistake,) = mistakes_of(environ={f"{PREFIX}RETRY_POLICY__INITAL_S": "1"})
    assert "QRNG_TEST_RETRY_POLICY__INITAL_S: there is no such setting" in mistake
    (mistake,) = mistakes_of(environ={f"{PREFIX}PORT__NUMBER": "1"})
    assert "QRNG_TEST_PORT__NUMBER: there is no such setting" in mistake
    (mistake,) = mistakes_of(yaml_file=written(tmp_path / "c", "retry_policy: {inital_s: 1}"))
    assert "retry_policy.inital_s: there is no such setting" in mistake


def test_every_mistake_at_once(tmp_path: Path) -> None:
    """One refusal names all mistakes of all layers."""
    with pytest.raises(ConfigError) as refusal:
        load(
            Demanding,
            prefix=PREFIX,
            environ={f"{PREFIX}PORT": "many", f"{PREFIX}POOL": "x"},
            env_files=[tmp_path / "missing.env"],
            yaml_file=written(tmp_path / "c.yaml", "colector_id: x\n"),
        )
    told = "\n".join(refusal.value.mistakes)
    for part in ("missing.env: cannot be read", "QRNG_TEST_POOL:", "QRNG_TEST_PORT:", "colector_id:"):
        assert part in told
    assert "collector_id: required" in told
    assert "pool_id: required" in told
    assert len(refusal.value.mistakes) == 6


@pytest.mark.parametrize("line", [f"{PREFIX}PORT 5", f"{PREFIX}PORT: 5", f"{PREFIX}PORT", f'{PREFIX}PORT="5'])
def test_a_line_that_sets_nothing(tmp_path: Path, line: str) -> None:
    """A line of a `.env` file that is no assignment is a mistake, by its number and not by its text."""
    file = written(tmp_path / ".env", f"# settings\n{PREFIX}NAME=x\n{line}\n")
    with pytest.raises(ConfigError) as refusal:
        load(Example, prefix=PREFIX, environ={}, env_files=[file])
    assert refusal.value.mistakes == (f"{file}: line 3: expected NAME=VALUE",)


def test_bad_json_spoils_only_its_own_setting() -> None:
    """A list that is not JSON is one mistake, and settings beside it are read all the same."""
    environ = {f"{PREFIX}URLS": "[oops", f"{PREFIX}PORT": "0", f"{PREFIX}RETRY_POLICY": "{"}
    assert {mistake.split(":")[0] for mistake in mistakes_of(environ=environ)} == environ.keys()


def test_secrets_are_never_in_the_text(tmp_path: Path) -> None:
    """Neither the mistakes nor the settings themselves show what a setting holds."""
    environ = {f"{PREFIX}SECRET": "hunter2", f"{PREFIX}PORT": "hunter2", f"{PREFIX}URLS": "[hunter2"}
    yaml_file = written(tmp_path / "c.yaml", "retry_policy: hunter2\nname: [hunter2]\n")
    with pytest.raises(ConfigError) as refusal:
        load(Example, prefix=PREFIX, environ=environ, yaml_file=yaml_file)
    assert len(refusal.value.mistakes) == 5
    assert "hunter2" not in str(refusal.value) + repr(refusal.value)
    assert refusal.value.__cause__ is None
    good = load(Example, prefix=PREFIX, environ={f"{PREFIX}SECRET": "hunter2" * 8})
    assert "hunter2" not in repr(good) + str(good)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o644])
@pytest.mark.parametrize(
    ("name", "text", "secrets"),
    [
        ("c.yaml", "keys: [hunter2]\n", "keys"),
        ("c.yaml", "sources: [{kind: keyed, key: hunter2}]\n", "sources.key"),
        ("c.yaml", "sources: [{kind: keyed, key: hunter2}]\nkeys: [hunter2]\n", "keys, sources.key"),
        ("c.env", f'{PREFIX}KEYS=["hunter2"]\n', f"{PREFIX}KEYS"),
        ("c.env", f'{PREFIX.lower()}sources=[{{"kind": "keyed", "key": "hunter2"}}]\n', f"{PREFIX}SOURCES.key"),
    ],
)
def test_a_file_with_secrets_is_its_readers_alone(
    tmp_path: Path, mode: int, name: str, text: str, secrets: str
) -> None:
    """A file that sets a secret and that others can read or change is refused, with the remedy, unless it is 0600."""
    file = written(tmp_path / name, text)
    layer: dict[str, Any] = {"env_files": [file]} if name == "c.env" else {"yaml_file": file}
    file.chmod(mode)
    with pytest.raises(ConfigError) as refusal:
        load(Keyed, prefix=PREFIX, environ={}, **layer)
    (mistake,) = refusal.value.mistakes
    assert mistake.startswith(f"{file}: sets {secrets}, so ")
    assert mistake.endswith("chmod 600 it")
    assert "hunter2" not in mistake
    file.chmod(0o600)
    load(Keyed, prefix=PREFIX, environ={}, **layer)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "port: 2\nkeys: []\nsources: [{kind: open}, {kind: keyed}, {kind: keyed, key: }]\n"),
        ("c.env", f"{PREFIX}PORT=2\nQRNG_OTHER_KEYS=hunter2\n"),
    ],
)
def test_a_file_without_secrets_may_be_read_by_all(tmp_path: Path, name: str, text: str) -> None:
    """Committed profiles and samples hold no secret of ours, so nobody minds who reads them."""
    file = written(tmp_path / name, text)
    file.chmod(0o644)
    layer: dict[str, Any] = {"env_files": [file]} if name == "c.env" else {"yaml_file": file}
    assert load(Keyed, prefix=PREFIX, environ={}, **layer).port == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"port: [1\n", "not YAML, line"),
        (b"a: b: c\n", "not YAML, line 1"),
        (b"port: \x01\n", "not YAML"),
        (b"name: 2025-13-45\n", "not YAML"),
        (b"- port\n", "expected a mapping"),
        (b"just text\n", "expected a mapping"),
        (b"1: 2\n", "expected a mapping"),
        (b"name: !!bool hunter2\n", "not YAML"),
        (b"name: !!timestamp hunter2\n", "not YAML"),
        (b"port: !!python/object:os.system x\n", "not YAML"),
        (b"[" * 5000, "not YAML"),
        (b"port: 1\nname: a\nport: 2\n", "a name is there twice, line 3"),
        (b"retry_policy: {initial_s: 1, initial_s: 1}\n", "a name is there twice, line 1"),
        (b"[a]: 1\n", "not YAML"),
        (b"\xff\xfe\xfa", "cannot be read (not text in UTF-8)"),
    ],
)
def test_what_is_no_settings_file(tmp_path: Path, content: bytes, text: str) -> None:
    """A file that is no mapping of names is one mistake, by its path."""
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    (mistake,) = mistakes_of(yaml_file=path)
    assert mistake.startswith(f"{path}: ")
    assert text in mistake


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n"])
def test_empty_file_sets_nothing(tmp_path: Path, content: str) -> None:
    """A file without settings is all defaults."""
    assert load(Example, prefix=PREFIX, environ={}, yaml_file=written(tmp_path / "c", content)) == Example()


def test_merged_yaml_may_override(tmp_path: Path) -> None:
    """A name that comes in by a YAML merge and is stated as well is there once."""
    content = "retry_policy:\n  <<: {initial_s: 5, maximum_s: 6}\n  initial_s: 2\n"
    settings = load(Example, prefix=PREFIX, environ={}, yaml_file=written(tmp_path / "c", content))
    assert settings.retry_policy == Retry(initial_s=2, maximum_s=6)


def test_missing_file_is_a_mistake(tmp_path: Path) -> None:
    """A file that was named and is not there is refused."""
    (mistake,) = mistakes_of(yaml_file=tmp_path / "gone.yaml")
    assert mistake.endswith("gone.yaml: cannot be read (No such file or directory)")


def test_placeholders(tmp_path: Path) -> None:
    """A placeholder never starts a program, is one mistake under its setting's name, and may lie open."""
    shared = tmp_path / "shared.env"
    shared.write_text(f"{PREFIX}SECRET=replace-with-your-key\n{PREFIX}URLS='[\"replace-with-your-url\"]'\n")
    shared.chmod(0o644)
    with pytest.raises(ConfigError) as refusal:
        load(Example, prefix=PREFIX, environ={}, env_files=[shared])
    names = [mistake.partition(":")[0] for mistake in refusal.value.mistakes]
    assert sorted(names) == [f"{PREFIX}SECRET", f"{PREFIX}URLS.0"]
    own = {f"{PREFIX}SECRET": "s" * 32, f"{PREFIX}URLS": '["https://192.0.2.7"]'}
    assert load(Example, prefix=PREFIX, environ=own, env_files=[shared]).urls == ("https://192.0.2.7",)


@pytest.mark.parametrize("secret", ["replace-with-your-key,sssssss", "replace with your key", "replace-with-Yours"])
def test_no_placeholder_hides_a_secret(tmp_path: Path, secret: str) -> None:
    """What only begins like a placeholder is a secret like any other, and does not lie open."""
    shared = tmp_path / "shared.env"
    shared.write_text(f"{PREFIX}SECRET={secret}\n")
    shared.chmod(0o644)
    with pytest.raises(ConfigError, match="must be yours alone"):
        load(Example, prefix=PREFIX, environ={}, env_files=[shared])


@pytest.mark.parametrize(
    ("address", "split"),
    [
        ("localhost:50051", ("localhost", 50051)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("lab.example:1", ("lab.example", 1)),
    ],
)
def test_addresses(address: str, split: tuple[str, int]) -> None:
    """HOST:PORT and [IPV6]:PORT are split."""
    assert host_and_port(address) == split


@pytest.mark.parametrize(
    "address",
    ["", ":", "host", "host:", ":50051", "host:x", "host:-1", "host:65536", "::1:5", "[::1]", "[]:5", "[x]:5", "]:5"],
)
def test_no_addresses(address: str) -> None:
    """Everything else is refused."""
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        host_and_port(address)


@pytest.mark.parametrize(
    ("address", "stays"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example:1", False),
    ],
)
def test_loopback(address: str, stays: bool) -> None:
    """Only addresses that cannot leave the machine count as loopback."""
    assert is_loopback(address) is stays


class Listener(Settings):
    """A program that reads a certificate."""

    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    bundle: FilePath | None = None

    @field_validator("tls_cert_file")
    @classmethod
    def _a_certificate(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_chain(path, "server")
        return path

    @field_validator("tls_key_file")
    @classmethod
    def _a_key(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_key(path, None)
        return path


PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{}/missing.pem", "{}/missing.pem: cannot be read (No such file or directory)"),
        ("{}", "{}: cannot be read (Is a directory)"),
        ("{}/no.pem", "{}/no.pem: holds no certificate in PEM, or a broken one"),
        (PEM.replace("\n", "\\n"), "something unlike a path: cannot be read ("),
        (PEM, "something unlike a path: cannot be read ("),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, value: str, told: str) -> None:
    """Which file, and why not, by the name of the setting; what belongs into the file is not shown as its path."""
    (tmp_path / "no.pem").write_text(PEM)
    layers = {"tls_cert_file": value.format(tmp_path)}
    with pytest.raises(ConfigError) as refusal:
        load(Listener, prefix="", environ={}, overrides=layers)
    (mistake,) = refusal.value.mistakes
    assert mistake.startswith(f"tls_cert_file: {told.format(tmp_path)}")
    assert "MC4CAQAw" not in mistake


def test_files_that_others_could_read(tmp_path: Path) -> None:
    """The same where the file is there and may not be used, and where pydantic is who looks for it."""
    key = written(tmp_path / "open.key", PEM)
    key.chmod(0o644)
    with pytest.raises(ConfigError) as refusal:
        load(Listener, prefix="", environ={}, overrides={"tls_key_file": str(key), "bundle": str(tmp_path)})
    assert sorted(refusal.value.mistakes) == [
        f"bundle: {tmp_path}: Path does not point to a file",
        f"tls_key_file: {key}: can be read or changed by others; chmod 600 it",
    ]


def test_what_is_no_text_is_not_shown_as_a_path(tmp_path: Path) -> None:
    """Settings that slipped below one that names a file, of which some may be secret, are told by its name alone."""
    yaml_file = written(tmp_path / "c.yaml", "tls_key_file: {secret: hunter2}\nbundle: [hunter2]\n")
    mistakes = mistakes_of(Listener, yaml_file=yaml_file)
    assert [mistake.split(":")[0] for mistake in mistakes] == ["tls_key_file", "bundle"]
    assert "hunter2" not in "".join(mistakes)


def test_what_is_too_long_for_a_path_is_not_shown() -> None:
    """Nor is it where pydantic asks the system for such a file, which answers with an error of its own."""
    (mistake,) = mistakes_of(Listener, {f"{PREFIX}BUNDLE": "hunter2" * 60})
    assert "hunter2" not in mistake


def test_files_may_be_called_as_settings_are() -> None:
    """The name of a file stays as it is, though a setting has the same."""
    environ = {f"{PREFIX}TLS_CERT_FILE": "tls_key_file", f"{PREFIX}BUNDLE": "tls_cert_file"}
    assert sorted(mistakes_of(Listener, environ)) == [
        f"{PREFIX}BUNDLE: tls_cert_file: Path does not point to a file",
        f"{PREFIX}TLS_CERT_FILE: tls_key_file: cannot be read (No such file or directory)",
    ]


class Related(Settings):
    """Settings that speak of each other."""

    kind: str = "a"
    cert_file: str = ""
    key_file: str = ""
    retry_policy: Retry = Retry()

    @field_validator("key_file")
    @classmethod
    def _together(cls, key_file: str, info: ValidationInfo) -> str:
        if bool(key_file) != bool(info.data.get("cert_file")):
            raise ValueError("goes with cert_file, with kind=b; not x/cert_file or cert_file.pem")
        return key_file


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ({"environ": {"KEY_FILE": "x"}}, "{0}KEY_FILE: goes with {0}CERT_FILE, with {0}KIND=b; not "),
        ({"env_file": "KEY_FILE=x"}, "{0}KEY_FILE: goes with {0}CERT_FILE, with {0}KIND=b; not "),
        ({"yaml": "key_file: x"}, "key_file: goes with cert_file, with kind=b; not "),
        ({"yaml": "kind: b", "environ": {"KEY_FILE": "x"}}, "{0}KEY_FILE: goes with cert_file, with kind=b; not "),
        ({"environ": {"KEY_FILE": "x"}, "overrides": {"key_file": "y"}}, "key_file: goes with {0}CERT_FILE, with "),
        ({"environ": {"RETRY_POLICY__MAXIMUM_S": "-1"}}, "{0}RETRY_POLICY__MAXIMUM_S: expected"),
        ({"environ": {"RETRY_POLICY": '{"maximum_s": -1}'}}, "{0}RETRY_POLICY.maximum_s: expected"),
        (
            {"environ": {"RETRY_POLICY__INITIAL_S": "1"}, "yaml": "retry_policy: {maximum_s: -1}"},
            "retry_policy.maximum_s: expected",
        ),
    ],
    ids=str,
)
def test_names_are_those_that_were_written(tmp_path: Path, layers: dict[str, Any], told: str) -> None:
    """A variable where a variable set it, a key where YAML or the command line did, in the text of a mistake too."""
    yaml_file = written(tmp_path / "c.yaml", layers["yaml"]) if "yaml" in layers else None
    env_files = [written(tmp_path / "c.env", PREFIX + layers["env_file"])] if "env_file" in layers else []
    with pytest.raises(ConfigError) as refusal:
        load(
            Related,
            prefix=PREFIX,
            environ={PREFIX + name: value for name, value in layers.get("environ", {}).items()},
            overrides=layers.get("overrides"),
            env_files=env_files,
            yaml_file=yaml_file,
        )
    (mistake,) = refusal.value.mistakes
    assert mistake.startswith(told.format(PREFIX))
    assert "goes with" not in mistake or mistake.endswith("not x/cert_file or cert_file.pem")


class Shade(Enum):
    LIGHT = "light"
    DARK = "dark"


class Wordy(Settings):
    """Settings of which each is one of a few words."""

    engine: Literal["fast", "plain"] = "plain"
    memory: LockMemory = "try"
    shade: Shade | None = None
    loud: bool = False


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("engine", "fast or plain"),
        ("memory", "try, require or off"),
        ("shade", "light or dark"),
        ("loud", "true or false"),
    ],
)
@pytest.mark.parametrize("value", ["slow", "[7]"])
def test_a_wrong_word_is_answered_with_the_right_ones(tmp_path: Path, name: str, words: str, value: str) -> None:
    """A setting that takes a few words tells them, in a variable and in YAML, and nothing of the value."""
    assert mistakes_of(Wordy, {f"{PREFIX}{name.upper()}": value}) == (f"{PREFIX}{name.upper()}: expected {words}",)
    yaml_file = written(tmp_path / "c.yaml", f"{name}: {value}\n")
    assert mistakes_of(Wordy, yaml_file=yaml_file) == (f"{name}: expected {words}",)


class Numbered(Settings):
    """Settings that are numbers within bounds, and a list."""

    count: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0.25, lt=1)
    several: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "few", "a whole number"),
        ("count", "1.5", "a whole number"),
        ("count", "0", "1 or more"),
        ("count", "10", "9 or less"),
        ("share", "half", "a number"),
        ("share", "0.25", "more than 0.25"),
        ("share", "1", "less than 1.0"),
        ("several", "[{one: 1}]", "a list; in a variable it is one of JSON"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_expected(name: str, value: str, expected: str) -> None:
    """Numbers and lists are asked for in plain words, with their bounds."""
    variable = f"{PREFIX}{name.upper()}"
    assert mistakes_of(Numbered, {variable: value}) == (f"{variable}: expected {expected}",)


def test_memory_may_be_off_in_yaml_too(tmp_path: Path) -> None:
    """YAML reads off as false, which is no other word than the one that was written."""
    yaml_file = written(tmp_path / "c.yaml", "memory: off\n")
    assert load(Wordy, prefix=PREFIX, environ={}, yaml_file=yaml_file).memory == "off"
    assert mistakes_of(Wordy, yaml_file=written(yaml_file, "memory: on\n")) == ("memory: expected try, require or off",)


def test_mistakes_that_show_later_are_spelt_alike(tmp_path: Path) -> None:
    """Settings keep how their names were written; where nobody loaded them, they are named as in a program."""
    mistake = "cert_file: lies where key_file does"
    of_variables = load(Related, prefix=PREFIX, environ={})
    assert of_variables.spelt(mistake) == f"{PREFIX}CERT_FILE: lies where {PREFIX}KEY_FILE does"
    assert load(Related, prefix=PREFIX, environ={}, yaml_file=written(tmp_path / "c", "")).spelt(mistake) == mistake
    assert Related().spelt(mistake) == mistake
    assert load(Related, prefix=PREFIX, environ={}) == Related()
