"""Defaults of options: `emodistill.toml` in the current folder, or `[tool.emodistill]` in pyproject.toml."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from typer.models import OptionInfo

from emodistill.errors import ConfigError, one_of
from emodistill.reading import parse_toml

VERBS = ("predict", "timeline", "listen", "enrol", "embed", "serve")  # whose options may have defaults
FILE, PYPROJECT = "emodistill.toml", "pyproject.toml"


@dataclass(frozen=True)
class Defaults:
    """The defaults of one verb, from one file.

    Attributes:
        source: the file, as messages call it.
        values: the name of a parameter -> its value.
    """

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class _Option:
    """An option of a verb: the name of its parameter, and the values that it can have."""

    parameter: str
    kind: type  # bool, int, float, str, Path, or a StrEnum
    repeatable: bool
    lowest: float | None
    highest: float | None
    choices: tuple[str, ...] = ()  # of a text, from its metavar; `N` stands for a whole number

    def check(self, value: Any, where: str) -> Any:
        """Return the value; for a repeatable option, a list. Raises `ConfigError` for a bad value."""
        if not self.repeatable:
            self._check_one(value, where)
            return value
        values = value if isinstance(value, list) else [value]
        for each in values:
            self._check_one(each, where)
        return values

    def _check_one(self, value: Any, where: str) -> None:
        if issubclass(self.kind, Enum):
            names = [str(member.value) for member in self.kind]
            if value not in names:
                raise ConfigError(f"{where} {value!r}, expected one of {names}")
            return
        kinds: dict[type, tuple[tuple[type, ...], str]] = {
            bool: ((bool,), "true or false"),
            int: ((int,), "a whole number"),
            float: ((int, float), "a number"),
        }
        accepted, expected = kinds.get(self.kind, ((str, int, float), "a text"))
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
            raise ConfigError(f"{where} {value!r}, expected {expected}")
        is_number = isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
        if self.choices and not (value in self.choices or (is_number and "N" in self.choices)):
            raise ConfigError(f"{where} {value!r}, expected {'|'.join(self.choices)}")
        number: Any = value
        lowest, highest = self.lowest, self.highest
        if (lowest is not None and number < lowest) or (highest is not None and number > highest):
            limits = [f"at least {lowest}"] if lowest is not None else []
            limits += [f"at most {highest}"] if highest is not None else []
            raise ConfigError(f"{where} {value!r}, expected {expected}, {' and '.join(limits)}")


def read_defaults(verb: str, verbs: Mapping[str, Callable[..., Any]]) -> Defaults | None:
    """Return the defaults of a verb that a file in the current folder states; None if there is no such file.

    `verbs` has the function of each of `VERBS`. A key at the top of the file holds for all verbs that have
    this option and can have its value. A key in a table such as `[predict]` holds for this verb.
    `emodistill.toml` comes before pyproject.toml, and only one of them is read. The file is in the current
    folder, so relative paths in it are relative to the file.

    Raises `ConfigError` for a file that is no TOML, an unknown key, or a value that the verb's option cannot
    have. A value at the top is an error only where no verb can have it.
    """
    own, project = Path(FILE), Path(PYPROJECT)
    if own.is_file():
        return _defaults(_parse(own), FILE, verb, verbs)
    if project.is_file() and b"emodistill" in project.read_bytes():
        table = _parse(project).get("tool", {}).get("emodistill")
        if table is not None:
            return _defaults(table, f"{PYPROJECT}, [tool.emodistill]", verb, verbs)
    return None


def _parse(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of TOML, or of UTF-8
        raise ConfigError(f"{path}: is no TOML: {error}") from error


def _defaults(
    table: Mapping[str, Any], source: str, verb: str, verbs: Mapping[str, Callable[..., Any]]
) -> Defaults:
    options = {name: _options_of(verbs[name]) for name in VERBS}
    known = sorted({key for of_verb in options.values() for key in of_verb})
    for key, value in table.items():
        if key not in VERBS and key not in known:
            raise ConfigError(f"{source}: {one_of('key', key, [*VERBS, *known])}")
        if (key in VERBS) != isinstance(value, dict):
            expected = f"a table, [{key}]" if key in VERBS else "a value"
            raise ConfigError(f"{source}: bad {key}, expected {expected}")
        for inner in value if key in VERBS else ():
            if inner not in options[key]:
                raise ConfigError(f"{source}: {one_of(f'key of [{key}]', inner, sorted(options[key]))}")
    values: dict[str, Any] = {}
    for key in table.keys() - set(VERBS):
        if (accepted := _accepted(key, table[key], f"{source}: bad {key}", verb, options)) is not None:
            values[options[verb][key].parameter] = accepted
    for key, value in table.get(verb, {}).items():
        option = options[verb][key]
        values[option.parameter] = option.check(value, f"{source}: bad {verb}.{key}")
    return Defaults(source, values)


def _accepted(
    key: str, value: Any, where: str, verb: str, options: Mapping[str, Mapping[str, _Option]]
) -> Any:
    """Return the value of a key at the top for a verb; None where this verb lacks the option or the value.

    Raises `ConfigError` for a value that the option of no verb can have.
    """
    accepted: dict[str, Any] = {}
    errors: dict[str, ConfigError] = {}
    for name, of_verb in options.items():
        if key in of_verb:
            try:
                accepted[name] = of_verb[key].check(value, where)
            except ConfigError as error:
                errors[name] = error
    if not accepted:
        raise errors.get(verb) or next(iter(errors.values()))
    return accepted.get(verb)


def _options_of(verb: Callable[..., Any]) -> dict[str, _Option]:
    """Return the options of a verb by their keys: long names without dashes, with `_` for `-`."""
    options = {}
    for parameter in inspect.signature(verb).parameters.values():
        annotation, *extras = get_args(parameter.annotation)
        info = next((extra for extra in extras if isinstance(extra, OptionInfo)), None)
        if info is None:  # an argument
            continue
        kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not NoneType]
        kind = annotation if get_origin(annotation) is list else kinds[0]
        repeatable = get_origin(kind) is list
        # Typer keeps the first name of an annotated option as its default.
        names = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
        long = max((name.split("/")[0] for name in names), key=len, default=parameter.name)
        options[long.lstrip("-").replace("-", "_")] = _Option(
            parameter.name,
            get_args(kind)[0] if repeatable else kind,
            repeatable,
            info.min,
            info.max,
            tuple(info.metavar.split("|")) if info.metavar and "|" in info.metavar else (),
        )
    return options
