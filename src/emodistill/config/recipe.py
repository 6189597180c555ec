"""The whole recipe: read from TOML with overrides, checked, and written into run folders."""

import json
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from emodistill.config.data_sections import AudioConfig, AugmentConfig, CorpusConfig, ProtocolConfig, Section
from emodistill.config.model_sections import (
    AcousticConfig,
    DistillationConfig,
    LinguisticConfig,
    ProsodicConfig,
    StudentConfig,
    VoiceConfig,
)
from emodistill.errors import ConfigError, one_of


class RuntimeConfig(Section):
    """Where and how training runs.

    Precision changes the result. So does the number of devices, slightly: each device draws its own dropout
    and normalises its own part of a batch.
    """

    # Accelerator of Lightning: auto, cpu, gpu, …
    accelerator: str = "auto"
    # Number of devices. The global batch size and the number of updates do not change.
    devices: int = Field(1, ge=1)
    # Strategy of Lightning. "auto" with several devices is ddp_spawn.
    strategy: str = "auto"
    # Precision of training, in bits.
    precision: Literal["32", "bf16", "16"] = "32"
    # CPU threads of torch. None: torch decides.
    threads: int | None = Field(None, ge=1)
    # Processes that compute features.
    workers: int = Field(2, ge=1)
    # Processes that load data. 0: the training process loads it.
    loaders: int = Field(0, ge=0)
    # Also write logs for TensorBoard.
    tensorboard: bool = False


class Recipe(Section):
    """All settings of a run. With the data they decide its result."""

    # Name of the recipe, and of its run folders.
    name: str
    # Seed of weights, order of batches, dropout and choice of views.
    seed: int = 0
    corpus: CorpusConfig = CorpusConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    audio: AudioConfig = AudioConfig()
    augment: AugmentConfig = AugmentConfig()
    prosodic: ProsodicConfig = ProsodicConfig()
    linguistic: LinguisticConfig = LinguisticConfig()
    acoustic: AcousticConfig = AcousticConfig()
    # None: one teacher is trained and scored alone.
    student: StudentConfig | None = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    # None: the student knows nothing about voices.
    voice: VoiceConfig | None = None
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def main_model(self) -> str:
        """The model whose predictions are in `predictions.csv`: the student, or the one teacher without
        it."""
        return "student" if self.student is not None else self.distillation.teachers[0]

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.student is None and len(self.distillation.teachers) != 1:
            raise ValueError(
                "student = 'none' trains one teacher alone: name it in distillation.teachers, which has "
                f"{list(self.distillation.teachers)}"
            )
        if self.student is None and self.protocol.refit == "classifier":
            raise ValueError("protocol.refit = 'classifier' needs a student: set it to true or false")
        self._check_voice()
        acoustic_views = self.acoustic.augment or self.augment
        for name, student, views in (
            ("student", self.student, self.augment),
            ("acoustic.student", self.acoustic.student, acoustic_views),
        ):
            if student is not None and student.frozen and views.views == 0:
                raise ValueError(
                    f"{name}.frozen caches the states of each view, so the number of views must be fixed: "
                    "set augment.views to 1 or more"
                )
        if self.student is not None and self.student.frozen and self.augment.fresh:
            raise ValueError(
                "student.frozen caches the states of each view, so nothing can be drawn again: set "
                "augment.fresh = false"
            )
        return self

    def _check_voice(self) -> None:
        """Raise `ValueError` where [voice] does not fit the student."""
        if self.voice is None:
            return
        if self.student is None:
            raise ValueError("[voice] is for a student: set voice = 'none', or train a student")
        if self.voice.move_probability and not self.student.frozen:
            raise ValueError("voice.move_probability needs frozen layers: set it to 0, or set student.frozen")
        if self.student.optim.batch_size % self.voice.utterances_per_speaker and not self.student.frozen:
            raise ValueError(
                f"student.optim.batch_size = {self.student.optim.batch_size} is not a multiple of "
                f"voice.utterances_per_speaker = {self.voice.utterances_per_speaker}: change one of them"
            )


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(str(files("emodistill"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or a TOML file by path, and apply overrides of the form `key.sub=value`.

    Values are TOML (`0.5`, `true`, `[1, 2]`, `"text"`). Anything else is text, and `none` is None. Raises
    `ConfigError` for an unknown recipe, an unknown key (the message names the nearest one) and a bad value.
    """
    shipped = shipped_recipes()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise ConfigError(one_of("recipe", name_or_path, shipped) + ", or the path of a TOML file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is not UTF-8 ({error}); save it again as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"'{path}' is not TOML: {error}") from error
    for override in overrides:
        _apply_override(data, override)
    return parse_recipe(data, str(path))


def parse_recipe(data: dict[str, Any], source: str = "recipe") -> Recipe:
    """Check the data of a recipe and return it; `source` is its name in errors.

    Raises `ConfigError` with one line for each error.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        lines = (f"{source}: {_explain(details)}" for details in error.errors())
        raise ConfigError("\n".join(lines)) from error


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, with every field, for the run folder."""
    lines: list[str] = []
    _write_table(recipe.model_dump(mode="json"), "", lines)
    return "\n".join(lines).strip() + "\n"


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"bad override '{override}', expected key=value, such as student.optim.epochs=3")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    table = data
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"bad override '{override}': '{parent}' is a value, not a section")
    table[last] = value


def _explain(details: Any) -> str:
    """Return pydantic's details of one error as a message: which field, what came, what was expected."""
    location = [str(part) for part in details["loc"]]
    field = ".".join(location)
    if details["type"] == "missing":
        return f"{field}: missing"
    if details["type"] == "value_error":  # of a section's `_check`, whose text names the fields
        return ": ".join(filter(None, (field, str(details["ctx"]["error"]))))
    if details["type"] != "extra_forbidden":
        return f"{field} = {details.get('input')!r}: {details['msg']}"
    section: Any = Recipe
    for part in location[:-1]:
        section = section.model_fields[part].annotation
        for option in getattr(section, "__args__", ()):  # of `Section | None`
            section = option if isinstance(option, type) and issubclass(option, Section) else section
    return f"'{field}': " + one_of("key", location[-1], section.model_fields)


def _write_table(table: dict[str, Any], name: str, lines: list[str]) -> None:
    """Append a table and the tables in it to lines of TOML."""
    if name:
        lines.append(f"\n[{name}]")
    nested = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key, value in table.items():
        if key not in nested:
            is_bare = re.fullmatch(r"[A-Za-z0-9_-]+", key)
            text = json.dumps("none" if value is None else value, ensure_ascii=False)
            lines.append(f"{key if is_bare else json.dumps(key, ensure_ascii=False)} = {text}")
    for key, value in nested.items():
        if value:
            _write_table(value, f"{name}.{key}" if name else key, lines)
