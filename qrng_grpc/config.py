"""Settings: a frozen tree, read once, complete or refused.

Idea: a program's settings are one model. Values come, strongest first, from the command line, the
environment, a `.env` file, a YAML file and the model's defaults; names that nobody knows are
mistakes, and every mistake is reported in one go, by setting name and without its value. The name is
the one that was written: a variable's, or a key's of YAML (`Spelling`). A file that
sets a secret must be its reader's alone; one without secrets may be anybody's to read. The environment
is an argument, so that nothing ambient changes a test.

Checks that concern two settings are field validators of the later one (they see the earlier ones in
`info.data`), because validators of the whole model would only run once all fields are right.
"""

from __future__ import annotations

import difflib
import io
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_args

import yaml
from dotenv.parser import parse_stream
from pydantic import BaseModel, GetCoreSchemaHandler, PrivateAttr, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from qrng_grpc.errors import ConfigError
from qrng_grpc.files import UnusableFileError, refuse_shared, shown_path, why_unreadable

NESTING = "__"
PLACEHOLDER = re.compile(r"replace-with(-[a-z0-9]+)+")
"""What stands in a file that is shared where everybody must put a value of their own; never a value itself."""
_ONE_OF_A_FEW = frozenset(("literal_error", "enum", "bool_parsing", "bool_type"))
"""Errors of pydantic's for what has few values, each a word."""
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "tuple_type": "a list; in a variable it is one of JSON",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
}
"""What errors of pydantic's ask for, by their types, with what their contexts say of it."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """The names of settings as whoever set them wrote them, or would write them: variables, or keys of YAML.

    `written` says by the name of a variable how it was written in the strongest layer that has it, `keys` are the
    settings in the YAML file; what is in neither is spelt as a variable where there are `variables`. No two of
    them differ, since they are no part of what settings say.
    """

    prefix: str = field(default="", compare=False)
    written: Mapping[str, str] = field(default_factory=dict, compare=False)
    keys: Set[str] = field(default=frozenset(), compare=False)
    variables: bool = field(default=False, compare=False)

    def name(self, setting: str) -> str:
        """Return the name of a setting, given as the model has it: parts of a tree by dots."""
        parts = setting.split(".")
        for depth in range(len(parts), 0, -1):
            variable = self._variable(parts[:depth])
            if variable in self.written:
                return ".".join((self.written[variable], *parts[depth:]))
        if not self.variables or parts[0] in self.keys:
            return setting
        return ".".join((self._variable(parts[:1]), *parts[1:]))

    def mistake(self, mistake: str, model: type[BaseModel]) -> str:
        """Return a mistake in settings of a `model`, NAME: TEXT, with all names of settings as they are spelt."""
        setting, colon, text = mistake.partition(":")
        top = setting.partition(".")[0]
        if not colon or top not in model.model_fields:
            return mistake
        if setting == top:  # the parts of a tree speak of each other by names that settings beside it may have too
            text = _names_in_texts(model).sub(lambda found: self.name(found[0]), text)
        return f"{self.name(setting)}:{text}"

    def _variable(self, parts: Sequence[str]) -> str:
        return self.prefix + NESTING.join(parts).upper()


@cache
def _names_in_texts(model: type[BaseModel]) -> re.Pattern[str]:
    """Return what finds the settings of a `model` in a text: names of several words, others where a value follows.

    Before a colon stands a file, which may be called as a setting is.
    """
    names = [name if "_" in name else f"{name}(?==)" for name in sorted(model.model_fields, reverse=True)]
    return re.compile(rf"(?<![\w./-])(?:{'|'.join(names)})(?![\w/:-]|\.\w)")


class Settings(BaseSettings):
    """A settings tree. Subclasses add fields; `load` fills them."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_nested_delimiter=NESTING, validate_default=True
    )

    unheeded: ClassVar[frozenset[str]] = frozenset()
    """Settings that may be given, and are left out whatever they are: whoever uses the model needs none of them."""

    _spelling: Spelling = PrivateAttr(default_factory=Spelling)

    def spelt_by(self, spelling: Spelling) -> Self:
        """Keep how the names of settings were written, for mistakes that show later. Returns these settings."""
        self._spelling = spelling
        return self

    def spelt(self, mistake: str) -> str:
        """Return a mistake in these settings, NAME: TEXT, with names as they were written."""
        return self._spelling.mistake(mistake, type(self))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing ambient: `load` passes every layer in."""
        return (init_settings,)


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Stands in the annotation of a setting, beside a model: the value itself says which subclass of that it is of.

    `model_of` takes the value and raises ValueError when it does not say so.
    """

    model_of: Callable[[Any], type[BaseModel]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by the model that is chosen, in place of the one that is annotated."""
        return no_info_before_validator_function(self._validated, handler(source))

    def _validated(self, value: Any) -> BaseModel:
        return value if isinstance(value, BaseModel) else self.model_of(value).model_validate(value)


class _TwiceError(yaml.MarkedYAMLError):
    """A mapping has a name twice, of which YAML readers would silently take the last."""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML, with every name of a mapping there once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping. Raises _TwiceError."""
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else key
            if name in names:
                raise _TwiceError(problem_mark=key.start_mark)
            names.add(name)
        return node


class _FirstLoader(yaml.SafeLoader):
    """Safe YAML, in which the first of two equal names of a mapping counts."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping from its end."""
        node = super().compose_mapping_node(anchor)
        node.value.reverse()
        return node


_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)
"""What the loader raises, the later ones for values that are not what they are tagged as: a date, a truth."""


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of an environment, on a mapping of ours."""

    def __init__(self, model: type[Settings], prefix: str, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(model, case_sensitive=False, env_prefix=prefix)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Read JSON. What is none goes to validation as it is, which refuses it with its setting's name."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def load(
    model: type[S],
    *,
    prefix: str,
    environ: Mapping[str, str],
    overrides: Mapping[str, str] | None = None,
    env_files: Sequence[Path] = (),
    yaml_file: Path | None = None,
) -> S:
    """Read settings from all layers.

    `overrides` come from the command line; their names are those of the environment without
    `prefix`, in either case, nested with `__`. Of several `env_files` the later wins. Names that do
    not start with `prefix` are not ours and are left alone.

    Raises ConfigError with every mistake found; a file that sets a secret and that others can read or change
    is one.
    """
    mistakes: list[str] = []
    dotenv: dict[str, str] = {}
    for path in env_files:
        lines = read_env_file(path, mistakes)
        mistakes += _exposed(path, model, _values(model, prefix, lines), Spelling(prefix, variables=True))
        dotenv |= lines
    flags = {prefix + name: value for name, value in (overrides or {}).items()}
    # In upper case before they are merged, or a weaker layer could win by another spelling.
    merged = {name.upper(): value for layer in (dotenv, environ, flags) for name, value in layer.items()}
    ours = {name: value for name, value in merged.items() if name.startswith(prefix)}
    values = {} if yaml_file is None else read_yaml(yaml_file, mistakes)
    if yaml_file is not None:
        mistakes += _exposed(yaml_file, model, values, Spelling())
    written = {name: name for name in ours} | {(prefix + name).upper(): name for name in overrides or {}}
    spelling = Spelling(prefix, written, frozenset(values), variables=yaml_file is None)
    stronger = _values(model, prefix, ours)
    mistakes += _unknown_names(model, prefix, {name: written[name] for name in ours}, stronger)
    _overlay(values, stronger)
    values = {name: value for name, value in values.items() if name not in model.unheeded}
    unfilled = tuple(_placeholders(values))
    mistakes += [
        f"{spelling.name(name)}: still the placeholder of a file that is shared; give your own value"
        for name in unfilled
    ]
    try:
        settings = model(**values)
    except (ValidationError, ConfigError) as error:
        found = [mistake for mistake in mistakes_of(error, model) if mistake.split(":")[0] not in unfilled]
        raise ConfigError(mistakes + [spelling.mistake(mistake, model) for mistake in found]) from None
    except OSError as error:  # of a file that was only looked for: pydantic lets it pass, and its text has the value
        raise ConfigError([*mistakes, f"settings: a file that is named {why_unreadable(error)}"]) from None
    if mistakes:
        raise ConfigError(mistakes)
    return settings.spelt_by(spelling)


def host_and_port(address: str) -> tuple[str, int]:
    """Split `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError when `address` is neither."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("expected HOST:PORT with a port from 0 to 65535")
    if set("[]:") & set(host):
        return _bracketed(host), int(port)
    return host, int(port)


def _bracketed(host: str) -> str:
    try:
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        pass
    raise ValueError("an IPv6 host goes into brackets, and nothing else does, as in [::1]:50051")


def is_loopback(address: str) -> bool:
    """Say whether `HOST:PORT` never leaves this machine. A host name other than localhost counts as leaving."""
    host, _ = host_and_port(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_placeholder(text: str) -> bool:
    """Say whether `text`, or one of several values in it, waits for somebody to put their own in its place."""
    return any(map(PLACEHOLDER.fullmatch, text.split(",")))


def _placeholders(values: Any, name: str = "") -> Iterator[str]:
    """Yield the name of each setting in a tree of `values` that is a placeholder."""
    if isinstance(values, str) and is_placeholder(values):
        yield name
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(values, Mapping):
        inside = values.items()
    elif isinstance(values, list | tuple):
        inside = enumerate(values)
    for key, value in inside:
        yield from _placeholders(value, f"{name}.{key}" if name else str(key))


def read_env_file(path: Path, mistakes: list[str]) -> dict[str, str]:
    """Return the lines of a `.env` file, by name; what cannot be read, and each line that is none, joins `mistakes`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{shown_path(path)}: {why_unreadable(error)}")
        return {}
    values: dict[str, str] = {}
    for line in parse_stream(io.StringIO(text)):
        if line.key is not None and line.value is not None:
            values[line.key] = line.value
        elif line.error or line.key is not None:
            mistakes.append(f"{path}: line {line.original.line}: expected NAME=VALUE")
    return values


def _values(model: type[Settings], prefix: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what an environment sets, as the tree it stands for."""
    return _Environment(model, prefix, environ)()


def _exposed(path: Path, model: type[Settings], values: Mapping[str, Any], spelling: Spelling) -> list[str]:
    """Return a mistake when the file at `path`, which sets `values`, holds a secret and is not its reader's alone."""
    secrets = sorted(set(_secrets(model, values)))
    if secrets:
        try:
            refuse_shared(path)
        except ValueError as error:
            names = ", ".join(map(spelling.name, secrets))
            return [f"{path}: sets {names}, so it must be yours alone, but {error}"]
    return []


def _secrets(kind: Any, value: Any, name: str = "") -> Iterator[str]:
    """Yield the name of each secret that `value`, meant for a setting of type `kind`, sets."""
    if kind is SecretStr:
        if value and not (isinstance(value, str) and all(map(PLACEHOLDER.fullmatch, value.split(",")))):
            yield name
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(kind, item, name)
    elif isinstance(kind, Chosen):
        with suppress(ValueError):  # which is told when the value is validated
            yield from _secrets(kind.model_of(value), value, name)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for field, inside in kind.model_fields.items():
            if isinstance(value, Mapping) and field in value:
                yield from _secrets(inside.annotation, value[field], f"{name}.{field}" if name else field)
    else:
        for part in get_args(kind):
            yield from _secrets(part, value, name)


def read_yaml(path: Path, mistakes: list[str]) -> dict[str, Any]:
    """Return what stands in a settings file, by name; nothing, and one more of `mistakes`, when it is none."""
    try:
        content = _StrictLoader(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{shown_path(path)}: {why_unreadable(error)}")
        return {}
    except _NOT_YAML as error:
        where = getattr(error, "problem_mark", None)
        what = "a name is there twice" if isinstance(error, _TwiceError) else "not YAML"
        mistakes.append(f"{path}: {what}" + (f", line {where.line + 1}" if where else ""))
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        mistakes.append(f"{path}: expected a mapping of setting names to values")
        return {}
    return content


def yaml_readings(path: Path) -> list[dict[Any, Any]]:
    """Return what the author of a mapping may have meant: with the first of two equal names, and with the last.

    Nothing when the file holds none or cannot be read. For those who look for warnings in a file that is refused.
    """
    readings = []
    for loader in (_FirstLoader, yaml.SafeLoader):
        try:
            readings.append(loader(path.read_text(encoding="utf-8")).get_single_data())
        except (OSError, *_NOT_YAML):
            return []
    return [reading for reading in readings if isinstance(reading, dict)]


def _unknown_names(model: type[Settings], prefix: str, names: Mapping[str, str], read: Mapping[str, Any]) -> list[str]:
    """Return a mistake for each name that stands for nothing, given how it was written, and what was `read` of all.

    Names inside a tree are left to its own validation; a name below a setting that is no tree was not read at all.
    """
    mistakes = []
    for name, written in names.items():
        field, *inside = name[len(prefix) :].lower().split(NESTING)
        of_variables = written == name
        if field not in model.model_fields:
            hint = _hint(field, model, prefix if of_variables else None)
            mistakes.append(f"{written}: there is no such setting{hint}")
        elif inside and not isinstance(read.get(field), Mapping):
            top = prefix + field.upper() if of_variables else field
            mistakes.append(f"{written}: there is no such setting; {top} has nothing below it")
    return mistakes


def _hint(name: str, model: type[BaseModel], prefix: str | None) -> str:
    """Return a clause with the nearest setting there is, spelt as in the environment when there is a `prefix`."""
    close = difflib.get_close_matches(name.lower(), model.model_fields, n=1)
    if not close:
        return ""
    return f"; did you mean {close[0] if prefix is None else prefix + close[0].upper()}?"


def _overlay(values: dict[str, Any], stronger: Mapping[str, Any]) -> None:
    for key, value in stronger.items():
        below = values.get(key)
        if isinstance(below, dict) and isinstance(value, Mapping):
            _overlay(below, value)
        else:
            values[key] = value


def mistakes_of(error: ValidationError | ConfigError, model: type[BaseModel]) -> list[str]:
    """Return what is wrong with the values of a `model`, each mistake as one line, by name and without the value."""
    if isinstance(error, ConfigError):
        return list(error.mistakes)
    return [describe_mistake(e, model) for e in error.errors()]


def _few_words(error: Any) -> str:
    """Return the words that a setting may be, of an error in `_ONE_OF_A_FEW`."""
    return str(error.get("ctx", {}).get("expected", "true or false")).replace("'", "")


def describe_mistake(error: Any, model: type[BaseModel]) -> str:
    """Return an error of pydantic's as one line, by name and without the value; of a file, with its path."""
    name = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "missing":
        return f"{name}: required"
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such setting{_hint(name, model, None)}"
    if error["type"] in _ONE_OF_A_FEW:
        return f"{name}: expected {_few_words(error)}"
    if error["type"] in _EXPECTED:
        return f"{name}: expected {_EXPECTED[error['type']].format_map(error.get('ctx', {}))}"
    fault, where = error.get("ctx", {}).get("error"), ""
    if isinstance(fault, UnusableFileError):
        where = f"{fault.path}: "
    elif error["type"].startswith("path_not_"):  # pydantic's own: there is no such file, or it is a directory
        where = f"{shown_path(error['input'])}: "
    return f"{name}: {where}{str(error['msg']).removeprefix('Value error, ')}"
