"""The space that `tune` searches: one dimension for each field, checked against the recipe."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from emodistill.config import Recipe, TuneConfig, load_recipe
from emodistill.errors import ConfigError
from emodistill.training.grid import with_fields
from emodistill.training.preflight import with_absolute_paths

if TYPE_CHECKING:
    import optuna

# A trial with another value of these has other data or folds, so its dev score cannot be compared.
FIXED_SECTIONS = ("name", "seed", "corpus", "protocol", "runtime", "tune", "tuned")


@dataclass(frozen=True)
class Dimension:
    """One field of the space: a range, or a list of values."""

    field: str
    values: tuple[Any, ...] = ()  # the list; empty: a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False  # whether the range holds whole numbers alone

    def suggest(self, trial: "optuna.Trial") -> Any:
        """The value that the sampler proposes."""
        if self.values:
            names = [json.dumps(value) for value in self.values]
            return self.values[names.index(trial.suggest_categorical(self.field, names))]
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.field, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.field, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the space has a value. A range with steps holds its steps alone."""
        if self.values:
            return value in self.values
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
        ):
            return False
        return self.step is None or math.isclose((value - self.low) / self.step % 1, 0, abs_tol=1e-9)

    def as_parameter(self, value: Any) -> Any:
        """A value as Optuna keeps it."""
        return json.dumps(value) if self.values else value


SETTINGS = "tune.toml"  # in the folder of a search: its recipe and space


def searched_recipe(
    recipe: Recipe, space: Mapping[str, Any], trials: int | None = None, prune: bool | None = None
) -> tuple[Recipe, list[Dimension]]:
    """Return the recipe of a search, with the settings of the search in [tune], and the dimensions.

    The arguments are those of `tuning.tune`. Raises `ConfigError` as `make_space` does.
    """
    section = recipe.tune or TuneConfig()
    section = TuneConfig(
        trials=trials or section.trials,
        prune=section.prune if prune is None else prune,
        space={**section.space, **space},
    )
    recipe = with_absolute_paths(recipe).model_copy(update={"tune": section, "tuned": None})
    return recipe, make_space(recipe, section.space)


def refuse_other_search(recipe: Recipe, out: Path) -> None:
    """Raise `ConfigError` where a folder holds the search of another recipe, or of another space."""
    path = out / SETTINGS
    if not path.is_file():
        return
    one, two = (_search_settings(item) for item in (load_recipe(path), recipe))
    for key in one:
        if one[key] != two[key]:
            what = "the space or prune" if key == "tune" else f"the section or field {key}"
            raise ConfigError(
                f"'{out}' holds another search: {what} of the recipe differs from {path}; choose another "
                "folder with --out"
            )


def _search_settings(recipe: Recipe) -> dict[str, Any]:
    """Return all that decides a search but the number of trials."""
    assert recipe.tune is not None
    space = recipe.tune.model_dump(mode="json")
    return {**recipe.deciding_settings(), "tune": {**space, "trials": None}}


def make_space(recipe: Recipe, space: Mapping[str, Any]) -> list[Dimension]:
    """Check every field of a space and its values against the recipe, and return its dimensions.

    Raises `ConfigError` for an empty space, an unknown field (with the nearest name), a field that changes
    data or folds, and a value that the field cannot have.
    """
    if not space:
        raise ConfigError(
            "nothing to search: give --space FIELD=LOW..HIGH, such as student.optim.lr=1e-4..1e-2:log, or a "
            "section [tune.space] in the recipe"
        )
    dimensions = []
    for name, values in space.items():
        if name.split(".")[0] in FIXED_SECTIONS:
            raise ConfigError(
                f"bad space of '{name}': it would change the data, the folds or the seed, so dev scores of "
                "trials could not be compared"
            )
        if isinstance(values, Mapping):
            low, high, step = values["low"], values["high"], values.get("step")
            _check_value(recipe, name, low)
            _check_value(recipe, name, high)
            bounds = [low, high, *([] if step is None else [step])]
            whole = all(float(item).is_integer() for item in bounds) and not _takes(recipe, name, low + 0.5)
            log = bool(values.get("log"))
            dimensions.append(Dimension(name, (), low, high, log, step, whole))
        else:
            for value in values:
                _check_value(recipe, name, value)
            dimensions.append(Dimension(name, tuple(values)))
    return dimensions


def _check_value(recipe: Recipe, name: str, value: Any) -> None:
    """Raise `ConfigError` where a field is unknown or cannot have a value.

    A contradiction to another field is no error, because a trial may change that field too.
    """
    try:
        with_fields(recipe, {name: value}, f"--space {name}")
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError) or any(
            item["type"] != "value_error" for item in cause.errors()
        ):
            raise


def _takes(recipe: Recipe, name: str, value: Any) -> bool:
    try:
        _check_value(recipe, name, value)
    except ConfigError:
        return False
    return True


def value_of(recipe: Recipe, name: str) -> Any:
    """The recipe's own value of a field; None where it has none."""
    value: Any = recipe.model_dump(mode="json")
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
