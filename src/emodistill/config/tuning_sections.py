"""The sections of a recipe about tuning: what `tune` searches, and how a recipe was chosen."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from emodistill.config.data_sections import Section
from emodistill.config.toml_values import toml_list, toml_value
from emodistill.errors import ConfigError

RANGE_KEYS = ("low", "high", "log", "step")


class TuneConfig(Section):
    """What `emodistill tune` searches. Training itself does not read this section."""

    # Number of trials, each of which trains all folds once.
    trials: int = Field(20, ge=1)
    # Stop a trial after a fold if its mean dev score is below the median of the earlier trials.
    prune: bool = False
    # The fields to search: {"student.optim.lr" = {low = 1e-4, high = 1e-2, log = true}}, or a list of values.
    space: dict[str, Any] = Field({})

    @field_validator("space", mode="before")
    @classmethod
    def _check_space(cls, space: Any) -> dict[str, Any]:
        if not isinstance(space, Mapping):
            raise ValueError(f"expected fields with ranges or lists of values, got {space!r}")
        flat = _flatten(space)
        for field, values in flat.items():
            _check_values(field, values)
        return flat


class TunedConfig(Section):
    """How `emodistill tune` chose this recipe. It stands in the scores of every run of the recipe."""

    # Number of different settings that were tried, pruned ones included.
    trials: int = Field(ge=1)
    # Those of them that were stopped early.
    pruned: int = Field(0, ge=0)
    # The mean dev score of the chosen one over the folds, as a share.
    dev_score: float
    # The score on dev.
    measure: Literal["ua", "weighted_f1", "ccc"] = "ua"
    # The fields that were searched, as in [tune].
    space: dict[str, Any] = Field({})
    # Whether dev speakers of one fold are test speakers of another.
    dev_is_test_elsewhere: bool = False

    @field_validator("space", mode="before")
    @classmethod
    def _read_space(cls, space: Any) -> Any:
        return _flatten(space) if isinstance(space, Mapping) else space

    @property
    def note(self) -> str:
        """The sentence that stands with the scores of a run."""
        name = {"ua": "UA", "weighted_f1": "weighted F1", "ccc": "CCC"}[self.measure]
        score = f"{self.dev_score:.3f}" if self.measure == "ccc" else f"{100 * self.dev_score:.2f} %"
        note = (
            f"The recipe was chosen on dev among {self.trials} trials of tune: its mean dev {name} was "
            f"{score}."
        )
        if self.dev_is_test_elsewhere:
            note += (
                " The dev speakers of a fold are test speakers of another fold, so test scores of the recipe "
                "are slightly optimistic."
            )
        return note


def read_space(options: list[str]) -> dict[str, Any]:
    """Return the space of `--space FIELD=LOW..HIGH[:log|:STEP]` and `--space FIELD=VALUE,VALUE`.

    Raises `ConfigError` for another form.
    """
    space: dict[str, Any] = {}
    for option in options:
        field, sign, text = option.partition("=")
        field, text = field.strip(), text.strip()
        if not sign or not field or not text:
            raise ConfigError(
                f"bad space '{option}', expected FIELD=LOW..HIGH, FIELD=LOW..HIGH:log or FIELD=VALUE,VALUE, "
                "such as student.optim.lr=1e-4..1e-2:log"
            )
        space[field] = _read_range(option, text) if ".." in text else toml_list(text)
        try:
            _check_values(field, space[field])
        except ValueError as error:
            raise ConfigError(f"bad space '{option}': {error}") from error
    return space


def _read_range(option: str, text: str) -> dict[str, Any]:
    bounds, _, kind = text.partition(":")
    low, high = (toml_value(part) for part in bounds.split("..", 1))
    values = {"low": low, "high": high}
    if kind == "log":
        values["log"] = True
    elif kind:
        values["step"] = toml_value(kind)
    if not all(_is_number(value) for value in values.values() if value is not True):
        raise ConfigError(
            f"bad space '{option}', expected numbers with .. between, then :log or :STEP if you like, "
            "such as student.dropout=0.1..0.6:0.1"
        )
    return values


def _flatten(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The space by whole names of fields; TOML reads a name without quotes as nested tables."""
    flat: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and not set(value) & set(RANGE_KEYS):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_values(field: str, values: Any) -> None:
    """Raise `ValueError` where the values of a field are no list and no range."""
    example = f'"{field}" = {{low = 1, high = 4}}, or a list of values'
    if isinstance(values, list | tuple):
        if not values:
            raise ValueError(f"{field}: the list is empty, expected {example}")
        return
    if not isinstance(values, Mapping):
        raise ValueError(f"{field} = {values!r}: expected {example}")
    unknown = sorted(set(values) - set(RANGE_KEYS))
    if unknown or not {"low", "high"} <= set(values):
        raise ValueError(f"{field}: a range has {', '.join(RANGE_KEYS)}, got {', '.join(values)}")
    low, high, step = values["low"], values["high"], values.get("step")
    if not (_is_number(low) and _is_number(high) and low < high):
        raise ValueError(f"{field}: low = {low!r} and high = {high!r}, expected numbers, low below high")
    if values.get("log") and (low <= 0 or step is not None):
        raise ValueError(f"{field}: log needs low above 0, and no step")
    if step is not None and not (_is_number(step) and 0 < step <= high - low):
        raise ValueError(f"{field}: step = {step!r}, expected a number above 0, at most high - low")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
