"""The whole recipe: read from TOML with overrides, checked, and written into run folders."""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from emodistill.config.data_sections import AudioConfig, AugmentConfig, CorpusConfig, ProtocolConfig, Section
from emodistill.config.model_sections import (
    WORDS,
    AcousticConfig,
    DistillationConfig,
    LinguisticConfig,
    OptimConfig,
    ProsodicConfig,
    StudentConfig,
    VoiceConfig,
)
from emodistill.config.toml_values import toml_value
from emodistill.config.tuning_sections import TuneConfig, TunedConfig
from emodistill.errors import ConfigError, one_of
from emodistill.labels import DIMENSIONS
from emodistill.reading import parse_toml, read_bytes


def _number_as_text(value: Any) -> Any:
    """Return a whole number as text, because TOML reads `32` as a number, and other values as they are."""
    return str(value) if type(value) is int else value


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
    precision: Annotated[Literal["32", "bf16", "16"], BeforeValidator(_number_as_text)] = "32"
    # CPU threads of torch. None: torch decides.
    threads: int | None = Field(None, ge=1)
    # Processes that compute features.
    workers: int = Field(2, ge=1)
    # Processes that load data. 0: the training process loads it.
    loaders: int = Field(0, ge=0)
    # Also write logs for TensorBoard.
    tensorboard: bool = False
    # Also write logs for Weights & Biases or for MLflow, into the run folder. Their own variables choose a
    # server, such as WANDB_API_KEY, WANDB_MODE and MLFLOW_TRACKING_URI. It needs pip install
    # 'emodistill[wandb]' or 'emodistill[mlflow]'.
    logger: Literal["wandb", "mlflow"] | None = None


class Recipe(Section):
    """All settings of a run. With the data they decide its result."""

    # Name of the recipe, and of its run folders.
    name: str
    # Seed of weights, order of batches, dropout and choice of views.
    seed: int = 0
    # What the models predict: emotions, dimensions, or both.
    targets: tuple[Literal["emotion", "arousal", "valence", "dominance", "intensity"], ...] = ("emotion",)
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
    # What `tune` searches. None: it needs --space.
    tune: TuneConfig | None = None
    # How `tune` chose this recipe, written by it. None: it did not.
    tuned: TunedConfig | None = None

    @property
    def main_model(self) -> str:
        """The model whose predictions are in `predictions.csv`: the student, or the one teacher without
        it."""
        return "student" if self.student is not None else self.distillation.teachers[0]

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that the models predict, in the order of `DIMENSIONS`."""
        return tuple(name for name in DIMENSIONS if name in self.targets)

    @property
    def has_emotions(self) -> bool:
        """Whether the models predict emotions."""
        return "emotion" in self.targets

    @property
    def last_table(self) -> str:
        """The table that a fold writes last: its presence means that the fold is done."""
        return "predictions.csv" if self.has_emotions else "dimensions.csv"

    def measure(self, optim: OptimConfig) -> Literal["ua", "weighted_f1", "ccc"]:
        """The score on dev that chooses the best epoch of a training: CCC where there are no emotions."""
        return optim.measure if self.has_emotions else "ccc"

    @property
    def optims(self) -> dict[str, OptimConfig]:
        """The settings of each training of the recipe, by model; an acoustic teacher of a run has none."""
        found = {} if self.student is None else {"student": self.student.optim}
        if self.student is not None and self.student.words_first is not None:
            found[WORDS] = self.student.words_first.optim
        for name in self.distillation.teachers:
            if name != "acoustic":
                found[name] = getattr(self, name).optim
            elif self.acoustic.run is None:
                found[name] = self.acoustic.student.optim
        return found

    @property
    def learns_from_votes(self) -> bool:
        """Whether a model of the recipe learns from listeners' votes."""
        return self.has_emotions and any(optim.targets == "votes" for optim in self.optims.values())

    def deciding_settings(self) -> dict[str, Any]:
        """Return the settings that decide a result. Those of the machine do not, except for the precision."""
        runtime = {"precision": self.runtime.precision}
        return {**self.model_dump(mode="json"), "runtime": runtime, "tune": None}

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        self._check_targets()
        if self.student is None and len(self.distillation.teachers) != 1:
            raise ValueError(
                "student = 'none' trains one teacher alone: name it in distillation.teachers, which has "
                f"{list(self.distillation.teachers)}"
            )
        if self.student is None and self.protocol.refit == "classifier":
            raise ValueError("protocol.refit = 'classifier' needs a student: set it to true or false")
        if self.acoustic.student.words_first is not None:
            raise ValueError(
                "acoustic.student.words_first: no teacher teaches the acoustic teacher; leave it out, or set "
                "student.words_first"
            )
        self._check_voice()
        self._check_words()
        acoustic_views = self.acoustic.augment or self.augment
        first = None if self.student is None else self.student.words_first
        for name, student, views in (
            ("student", self.student, self.augment),
            ("student.words_first", first, self.augment),
            ("acoustic.student", self.acoustic.student, acoustic_views),
        ):
            if student is not None and student.frozen and views.views == 0:
                raise ValueError(
                    f"{name}.frozen caches the states of each view, so the number of views must be fixed: "
                    "set augment.views to 1 or more"
                )
        is_frozen = self.student is not None and bool(self.student.frozen or (first and first.frozen))
        if is_frozen and self.augment.fresh:
            raise ValueError(
                "student.frozen caches the states of each view, so nothing can be drawn again: set "
                "augment.fresh = false"
            )
        return self

    def _check_targets(self) -> None:
        """Raise `ValueError` where settings do not fit what the models predict."""
        if not self.targets:
            raise ValueError("targets is empty: expected emotion, dimensions such as arousal, or both")
        twice = [name for name in dict.fromkeys(self.targets) if self.targets.count(name) > 1]
        if twice:
            raise ValueError(f"targets lists {twice[0]} twice: name it once")
        optims = {name: getattr(self, name).optim for name in ("prosodic", "linguistic")}
        students = {"student": self.student, "acoustic.student": self.acoustic.student}
        optims |= {name: config.optim for name, config in students.items() if config is not None}
        for name, optim in optims.items():
            if optim.measure == "ccc" and not self.dimensions:
                raise ValueError(
                    f"{name}.optim.measure = 'ccc' scores dimensions, and targets has none: add some, such "
                    'as targets = ["emotion", "arousal"], or set it to ua or weighted_f1'
                )
            if optim.measure == "weighted_f1" and not self.has_emotions:
                raise ValueError(
                    f"{name}.optim.measure = 'weighted_f1' scores emotions, and targets has none: add "
                    "emotion to targets, or set it to ccc"
                )
            if optim.targets == "votes" and not self.has_emotions:
                raise ValueError(
                    f"{name}.optim.targets = 'votes' are votes for emotions, and targets has none: add "
                    "emotion to targets, or set it to label"
                )
        for name, config in students.items():
            if config is not None and config.probe is not None and not self.has_emotions:
                raise ValueError(
                    f"{name}.probe is fitted to emotions, and targets has none: unset it, or add emotion to "
                    "targets"
                )
        if self.distillation.certainty is not None and not self.has_emotions:
            raise ValueError(
                "distillation.certainty is that of emotions, and targets has none: unset it, or add emotion "
                "to targets"
            )
        if not self.dimensions:
            for name in ("delta", "dimensions"):
                weight = getattr(self.distillation, name)
                if weight != DistillationConfig.model_fields[name].default:
                    raise ValueError(
                        f"distillation.{name} = {weight:g} has no effect, because targets has no dimension: "
                        "leave it out, or add dimensions such as arousal to targets"
                    )

    def _check_words(self) -> None:
        """Raise `ValueError` where the word level, or further speech, lacks what it needs."""
        needs = {name: getattr(self.distillation, name) for name in ("words", "word_contrast")}
        for name in (name for name, weight in needs.items() if weight):
            if "linguistic" not in self.distillation.teachers:
                continue  # the term is off without its teacher, such as in a cell of an ablation
            if self.corpus.words is None:
                raise ValueError(
                    f"distillation.{name} needs the times of words: set corpus.words, or set "
                    f"distillation.{name} = 0"
                )
            first = None if self.student is None else self.student.words_first
            optim = self.optims["student" if first is None else WORDS] if self.student else OptimConfig()
            if optim.mixup:
                section = "student.optim" if first is None else "student.words_first.optim"
                raise ValueError(
                    f"distillation.{name} needs words in their place, which mixup does not keep: set "
                    f"{section}.mixup = 0 or distillation.{name} = 0"
                )
            if self.voice is not None and self.voice.crop_probability:
                raise ValueError(
                    f"distillation.{name} needs words in their place, which crops do not keep: set "
                    f"voice.crop_probability = 0 or distillation.{name} = 0"
                )
        if self.corpus.further_words is not None and self.corpus.further is None:
            raise ValueError(
                "corpus.further_words has the words of further speech, of which there is none: set "
                "corpus.further, or unset corpus.further_words"
            )

    def _check_voice(self) -> None:
        """Raise `ValueError` where [voice] does not fit the student."""
        if self.voice is None:
            return
        if self.student is None:
            raise ValueError("[voice] is for a student: set voice = 'none', or train a student")
        if self.student.words_first is not None:
            raise ValueError(
                "student.words_first trains without voices: set student.words_first = 'none', or voice = "
                "'none'"
            )
        if self.student.queries:
            raise ValueError(
                "student.queries reads frames, from which a voice cannot be subtracted: set "
                "student.queries = 0, or voice = 'none'"
            )
        if self.voice.move_probability and not self.student.frozen:
            raise ValueError("voice.move_probability needs frozen layers: set it to 0, or set student.frozen")
        if self.student.optim.batch_size % self.voice.utterances_per_speaker and not self.student.frozen:
            raise ValueError(
                f"student.optim.batch_size = {self.student.optim.batch_size} is not a multiple of "
                f"voice.utterances_per_speaker = {self.voice.utterances_per_speaker}: change one of them"
            )


MAX_RECIPE_BYTES = 2**20


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
        data = parse_toml(read_bytes(path, MAX_RECIPE_BYTES).decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is not UTF-8 ({error}); save it again as UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"'{path}' is not TOML, so it is no recipe: {error}") from error
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
        raise ConfigError("\n".join(f"{source}: {line}" for line in _explain(error.errors()))) from error


def recipe_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, with every field, for the run folder."""
    lines: list[str] = []
    _write_table(recipe.model_dump(mode="json"), "", lines)
    return "\n".join(lines).strip() + "\n"


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"bad override '{override}', expected key=value, such as student.optim.epochs=3")
    *parents, last = key.strip().split(".")
    table = data
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"bad override '{override}': '{parent}' is a value, not a section")
    table[last] = toml_value(text)


def _explain(errors: Sequence[Any]) -> list[str]:
    """Return pydantic's errors as messages, one a field: which field, what came, what was expected."""
    by_field: dict[tuple[str, ...], list[Any]] = {}
    for details in errors:
        by_field.setdefault(_field_path(details["loc"]), []).append(details)
    return [_explain_field(".".join(path), path, found) for path, found in by_field.items()]


def _explain_field(field: str, path: tuple[str, ...], errors: Sequence[Any]) -> str:
    """Return the message of one field. A field of several types has an error for each of them."""
    details = next((error for error in errors if error["type"] == "literal_error"), errors[0])
    value, inside = details.get("input"), details["loc"][len(path) :]
    # Of a field of several types, `inside` begins with the type, such as "literal['last','mix']".
    item = "".join(f".{part}" for part in inside if "[" not in str(part))
    match details["type"]:
        case "missing":
            return f"{field}{item}: missing"
        case "value_error":  # of a section's `_check`, whose text names the fields
            return ": ".join(filter(None, (field, str(details["ctx"]["error"]))))
        case "extra_forbidden":
            return f"'{field}': " + one_of("key", path[-1], _section_at(path[:-1]).model_fields)
        case "literal_error":
            if inside[-1:] == ("[key]",):
                item, value = "", inside[-2]
            choices = re.findall(r"'([^']*)'", details["ctx"]["expected"])
            other_types = {str(error["loc"][len(path)]) for error in errors} if len(errors) > 1 else set()
            if "bool" in other_types:
                choices += ["true", "false"]
            message = f"{field}{item}: " + one_of("value", value, choices)
            has_lists = any(name.startswith("tuple[") for name in other_types)
            return message + (", or a list of whole numbers in brackets" if has_lists else "")
        case "tuple_type":
            example = f", as in --set '{field}={json.dumps([value])}'" if isinstance(value, str) else ""
            return f"{field} = {value!r}: expected a list in brackets{example}"
    return f"{field}{item} = {value!r}: {details['msg']}"


def _field_path(location: Sequence[str | int]) -> tuple[str, ...]:
    """Return the part of an error's location that names a field, without the kinds and items of its value."""
    path: list[str] = []
    for part in location:
        section = _section_at(path)
        if section is None:
            break
        path.append(str(part))
    return tuple(path)


def _section_at(path: Sequence[str]) -> Any:
    """Return the section at a path of fields; None where there is a value, or nothing."""
    section: Any = Recipe
    for part in path:
        if section is None or part not in section.model_fields:
            return None
        annotation = section.model_fields[part].annotation
        options = (annotation, *getattr(annotation, "__args__", ()))  # of `Section | None`
        section = next(
            (item for item in options if isinstance(item, type) and issubclass(item, Section)), None
        )
    return section


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
