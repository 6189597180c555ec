"""Recipes: TOML files, validated into the frozen models below. An unknown key names the nearest known one."""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emodistill.errors import ConfigError, one_of

TEACHERS = ("prosodic", "linguistic", "acoustic")
Teacher = Literal["prosodic", "linguistic", "acoustic"]


class Section(BaseModel):
    """A part of a recipe: frozen, and closed to unknown keys.

    What a recipe leaves out of a section keeps the default that it has in this very place, and the text
    "none" stands for None, which TOML lacks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        made = {key: None if value == "none" else value for key, value in data.items()}
        for name, field in cls.model_fields.items():
            default, given = field.default, made.get(name)
            if isinstance(default, Section) and isinstance(given, dict):
                made[name] = {**default.model_dump(), **given}
        return made


class CorpusConfig(Section):
    """Which recordings. Either a known corpus and its folder, or a manifest."""

    name: str = "corpus"  # a reader's name (ravdess, iemocap, …) or what to call the manifest
    root: str | None = None  # the corpus's distribution folder
    pool: tuple[str, ...] = ()  # several readers' names: then `root` holds one folder of that name for each
    manifest: str | None = None  # utterances.csv / .tsv / .parquet
    columns: dict[str, str] = {}  # our column -> the manifest's column
    emotions: dict[
        str, str
    ] = {}  # what an emotion of the corpus counts as, e.g. {anger = "angry"}; before labels
    labels: str | None = None  # a label map, "a,b,c", or None for the corpus's own classes
    transcripts: str | None = None  # CSV id,transcript,source: words from a recogniser


class ProtocolConfig(Section):
    """How speakers are divided into train, dev and test."""

    kind: Literal[
        "leave-one-speaker-out", "leave-one-session-out", "leave-one-corpus-out", "k-fold", "fixed", "published"
    ] = "k-fold"  # fmt: skip
    folds: int = Field(5, ge=2)  # k-fold; leave-one-corpus-out: one in so many training speakers is dev
    fixed: str | None = None  # a list in emodistill.protocol.folds.FIXED_FOLDS
    dev: Literal["auto", "next-fold", "same-session"] = "auto"
    allow: tuple[Literal["speaker"], ...] = ()  # leaks that a published split has by design
    # After the epochs are fixed on dev: true trains everything again on train + dev; "classifier" keeps what was
    # trained and fits the student's classifier alone again on both.
    refit: bool | Literal["classifier"] = False


class AudioConfig(Section):
    """What is done to a recording before any model sees it."""

    trim_db: float | None = Field(35.0, gt=0)  # cut both ends this far below the loudest frame
    max_s: float = Field(20.0, gt=0)  # longer utterances are cut here in training


class AugmentConfig(Section):
    """Waveform augmentation. A view is one augmented copy; view 0 is always the clean recording."""

    views: int = Field(1, ge=0)  # how many views an utterance has; 0: a new one every epoch
    seed: int = 0  # of the views; apart from the recipe's, so that runs with other seeds share a cache
    speed: float = Field(0.0, ge=0, lt=0.5)  # resampling by 1 ± speed (pitch moves along)
    fresh: bool = False  # all but speed is drawn anew every epoch, and a frozen acoustic teacher is spared it
    gain_db: float = Field(0.0, ge=0)
    equalise_db: float = Field(0.0, ge=0)  # a smooth random frequency response, up to ± this
    noise_snr_db: tuple[float, float] | None = None  # coloured noise, uniform in this range
    noise_probability: float = Field(0.5, ge=0, le=1)
    reverb_probability: float = Field(0.0, ge=0, le=1)
    band_limit_probability: float = Field(0.0, ge=0, le=1)  # telephone band
    codec_probability: float = Field(0.0, ge=0, le=1)  # Opus, Vorbis or MP3 and back

    @model_validator(mode="after")
    def _check(self) -> "AugmentConfig":
        asked = (
            self.speed, self.gain_db, self.noise_snr_db, self.reverb_probability,
            self.band_limit_probability, self.codec_probability, self.equalise_db,
        )  # fmt: skip
        if self.fresh and not self.views:
            raise ValueError("fresh draws anew for the views there are: set augment.views to 1 or more")
        if self.fresh and not self.speed and self.views > 1:
            raise ValueError("with fresh, views differ in speed alone: set augment.speed, or views = 1")
        if self.views == 1 and (self.speed or (any(asked) and not self.fresh)):
            raise ValueError("views = 1 is the clean recording alone: raise augment.views, or set it to 0")
        return self


class OptimConfig(Section):
    """One training, with warm-up and cosine decay."""

    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: AdamW but for the matrices of linear layers
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1)  # over all devices
    lr: float = Field(1e-3, gt=0)
    backbone_lr: float | None = None  # pretrained layers; None: the same as `lr`
    weight_decay: float = Field(1e-2, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)  # share of all steps
    clip: float = Field(1.0, gt=0)  # gradient norm
    accumulate: int = Field(1, ge=1)  # batches in one step
    bucket: int = Field(1, ge=1)  # batches filled together by length: less padding, but batches less mixed
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: bool = True  # inverse frequency in the hard-label loss
    corpus_weights: float = Field(0.0, ge=0, le=1)  # of pooled corpora there: every utterance weighs its
    # corpus's size to the power of minus this, so at 1 all corpora weigh the same
    # Two stretches of each input in training, each of up to this share of its length, are set to zero.
    time_mask: float = Field(0.0, ge=0, lt=1)
    # Inputs of a batch, and their targets, are mixed in shares drawn from Beta(a, a) for this a; 0: they are not.
    mixup: float = Field(0.0, ge=0, le=100)
    ema: float = Field(0.0, ge=0, lt=1)  # decay of averaged weights, which are then the model; 0: off
    select: Literal["best", "last"] = "best"  # which epoch is kept, by `measure` on dev
    measure: Literal["ua", "weighted_f1"] = "ua"  # UA, or what papers on MELD report
    patience: int | None = Field(None, ge=1)  # stop after this many epochs without a better one

    @model_validator(mode="after")
    def _check(self) -> "OptimConfig":
        if self.patience is not None and self.select == "last":
            raise ValueError("patience waits for a better epoch: it needs select = 'best'")
        if 0 < self.mixup < 0.01:
            raise ValueError(f"mixup = {self.mixup:g} mixes next to nothing: expected 0, or 0.01 and more")
        return self


def _no_disturbance(optim: OptimConfig, why: str) -> None:
    """Refuse what is of speech alone in the training of a teacher that hears none."""
    if optim.time_mask or optim.mixup:
        raise ValueError(f"{why}: set optim.time_mask and optim.mixup to 0")


class ProsodicConfig(Section):
    """The prosodic teacher: a 2-D ResNet over LLD x time."""

    width: int = Field(64, ge=8)  # channels; the last block has 3/2 of it
    embedding_dim: int = Field(128, ge=2)
    dropout: float = Field(0.3, ge=0, lt=1)
    stretch: float = Field(0.2, ge=0, lt=1)  # in time, to between 1 - stretch and 1 / (1 - stretch)
    crop: float = Field(0.2, ge=0, lt=1)  # at most this share of the frames is cut off
    noise: float = Field(0.1, ge=0)  # standard deviation added to normalised LLDs, frame by frame
    offset: float = Field(0.3, ge=0)  # the same, constant over an utterance
    time_masks: int = Field(2, ge=0)  # masks of up to 15 % of the frames
    lld_masks: int = Field(3, ge=0, le=25)  # at most so many LLDs are masked
    init: str | None = None  # checkpoint folder to start from; its training ids are audited
    optim: OptimConfig = OptimConfig(
        epochs=24, batch_size=32, lr=3e-3, weight_decay=0.05, warmup=0.15, clip=5.0,
        label_smoothing=0.1, class_weights=False, select="last",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> "ProsodicConfig":
        _no_disturbance(self.optim, "LLDs are masked by prosodic.time_masks and lld_masks, and not mixed")
        return self


class LinguisticConfig(Section):
    """The linguistic teacher: a Hugging Face text encoder, pooling and a head."""

    encoder: str = "bert-base-uncased"  # hub id, folder, or "scratch": small, words of the training split
    embedding_dim: int = Field(128, ge=2)
    dropout: float = Field(0.1, ge=0, lt=1)
    max_tokens: int = Field(128, ge=4)
    frozen: int = Field(
        0, ge=0
    )  # this many of its layers, and the embeddings below, stay as they are; 0: train all
    init: str | None = None
    optim: OptimConfig = OptimConfig(epochs=4, batch_size=16, lr=1e-3, backbone_lr=2e-5)

    @model_validator(mode="after")
    def _check(self) -> "LinguisticConfig":
        _no_disturbance(self.optim, "words cannot be masked or mixed")
        return self


class StudentConfig(Section):
    """A speech backbone, attentive statistics pooling, two projection heads and a classifier."""

    backbone: str = "facebook/hubert-base-ls960"  # hub id, folder, or "compact"
    layers: int | None = Field(None, ge=1)  # use the first n layers; None: all
    pool: tuple[int, ...] | Literal["last", "mix"] = "last"  # layers that are pooled and concatenated (0: the
    # input of the first), the last one, or a learned weighted sum of all
    frozen: int = Field(0, ge=0)  # layers below this are not trained, and computed once; 0: train all
    width: int = Field(192, ge=8)  # compact alone
    embedding_dim: int = Field(256, ge=2)
    dropout: float = Field(0.2, ge=0, lt=1)
    # In training, where a log-mel spectrogram is computed: its frequencies times 1 ± this, and up to this share of its
    # bands, twice, set to zero.
    warp: float = Field(0.0, ge=0, lt=0.5)
    band_mask: float = Field(0.0, ge=0, lt=1)
    nonlinear: bool = False  # a GELU between embedding and classifier
    standardise: bool | None = None  # pooled statistics by fixed means and deviations, those of the training
    # split at the start, instead of by a layer norm; None: where layers are frozen
    pull: float = Field(1e-3, gt=0)  # of a classifier that is fitted again, towards what it was before
    probe: float | None = Field(None, ge=0, le=1)  # start from a linear probe (LDA) with this shrinkage
    init: str | None = None  # start from this model and keep its shape: "bundled", an exported model, or a
    # checkpoint folder; its training ids are audited
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, data: Any) -> Any:
        """Run folders of older versions name two fields at the defaults that they always had there."""
        if not isinstance(data, dict):
            return data
        retired: dict[str, tuple[Any, ...]] = {"context": (False,), "expand": (None, "none")}
        return {key: value for key, value in data.items() if value not in retired.get(key, ())}

    @model_validator(mode="after")
    def _check(self) -> "StudentConfig":
        if self.layers is not None and self.frozen > self.layers:
            raise ValueError(f"frozen = {self.frozen} is more than layers = {self.layers}")
        if self.probe is not None and not self.frozen:
            raise ValueError("probe needs frozen layers: their states are what the probe is fitted on")
        if self.probe is not None and self.nonlinear:
            raise ValueError("a probe is linear: set nonlinear = false, or leave the probe out")
        if self.probe is not None and self.init is not None:
            raise ValueError("probe and init both say where to start: give one")
        if self.optim.mixup and not self.frozen:
            raise ValueError(
                "mixup mixes states of frozen layers; of waveforms the louder one would win, whatever its share: "
                "set optim.mixup = 0"
            )
        if (self.warp or self.band_mask) and self.frozen:
            raise ValueError(
                "warp and band_mask disturb a spectrogram, which is never seen where layers are frozen: set frozen = 0"
            )
        if self.backbone == "compact" and self.frozen:
            raise ValueError("compact is trained from nothing: frozen must be 0")
        return self


class AcousticConfig(Section):
    """The acoustic teacher: a larger student, trained inside the fold or taken from a run."""

    run: str | None = None  # a run folder with the same protocol: its fold k teaches fold k
    student: StudentConfig = StudentConfig()
    augment: AugmentConfig | None = None  # None: the recipe's own


class DistillationConfig(Section):
    """L = gamma CE + sum_t w_t [alpha tau^2 KL + beta distance] (+ hidden, acoustic alone)."""

    teachers: tuple[Teacher, ...] = ("prosodic", "linguistic")
    alpha: float = Field(1.0, ge=0)  # logit level
    beta: float = Field(1.0, ge=0)  # embedding level
    gamma: float = Field(1.0, ge=0)  # hard label
    hidden: float = Field(0.0, ge=0)  # frame level, acoustic teacher alone
    temperature: float = Field(2.0, gt=0)
    weights: dict[Teacher, float] = {}  # w_t; 1 where not named
    distance: Literal["cosine", "mse", "l1"] = "cosine"
    targets: Literal["in-sample", "out-of-fold"] = "in-sample"  # of logits; embeddings, of which every
    # teacher has a space of its own, always come from the one teacher
    inner_folds: int = Field(4, ge=2)  # out-of-fold alone

    def weight(self, teacher: str) -> float:
        """w_t of a teacher."""
        return {str(name): value for name, value in self.weights.items()}.get(teacher, 1.0)


class RuntimeConfig(Section):
    """Where and how training runs.

    Precision changes what is learned. So does the number of devices, a little: each draws its own dropout
    and normalises its own share of a batch, and the best epoch is by the first one's weights.
    """

    accelerator: str = "auto"
    devices: int = Field(1, ge=1)
    strategy: str = "auto"  # Lightning's; "auto" over several devices is ddp_spawn
    precision: Literal["32", "bf16", "16"] = "32"
    threads: int | None = Field(None, ge=1)  # CPU threads of torch; None: as torch finds
    workers: int = Field(2, ge=1)  # processes for features
    loaders: int = Field(0, ge=0)  # data loading processes
    tensorboard: bool = False


class Recipe(Section):
    """Everything that decides a result."""

    name: str
    seed: int = 0
    corpus: CorpusConfig = CorpusConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    audio: AudioConfig = AudioConfig()
    augment: AugmentConfig = AugmentConfig()
    prosodic: ProsodicConfig = ProsodicConfig()
    linguistic: LinguisticConfig = LinguisticConfig()
    acoustic: AcousticConfig = AcousticConfig()
    student: StudentConfig | None = StudentConfig()  # "none": one teacher is trained and scored alone
    distillation: DistillationConfig = DistillationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def main_model(self) -> str:
        """The model that a run is about, whose table is `predictions.csv`: the student, or the one teacher."""
        return "student" if self.student is not None else self.distillation.teachers[0]

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.student is None and len(self.distillation.teachers) != 1:
            raise ValueError(
                "student = 'none' trains one teacher alone: name it in distillation.teachers, which has "
                f"{list(self.distillation.teachers)}"
            )
        if self.student is None and self.protocol.refit == "classifier":
            raise ValueError("protocol.refit = 'classifier' is of a student: set it to true or false")
        acoustic_views = self.acoustic.augment or self.augment
        for name, student, views in (
            ("student", self.student, self.augment),
            ("acoustic.student", self.acoustic.student, acoustic_views),
        ):
            if student is not None and student.frozen and views.views == 0:
                raise ValueError(
                    f"{name}.frozen keeps the states of each view: set augment.views to how many there are"
                )
        if self.student is not None and self.student.frozen and self.augment.fresh:
            raise ValueError(
                "student.frozen keeps the states of each view, and nothing is drawn anew: set augment.fresh = false"
            )
        return self


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(files("emodistill"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or a TOML file by path, then apply `key.sub=value` overrides.

    Values are TOML (`0.5`, `true`, `[1, 2]`, `"text"`); anything else is taken as text, `none` as None. Raises
    `ConfigError` for an unknown recipe or key (naming the nearest) and for a bad value.
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
        _override(data, override)
    return parse_recipe(data, str(path))


def parse_recipe(data: dict[str, Any], source: str = "recipe") -> Recipe:
    """Validate recipe data; `source` names it in errors."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_explain(item)}" for item in error.errors())) from error


def recipe_toml(recipe: Recipe) -> str:
    """A recipe as TOML, every field written out, for the run folder."""
    lines: list[str] = []
    _write_table(recipe.model_dump(mode="json"), "", lines)
    return "\n".join(lines).strip() + "\n"


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on the parts alone, not on the process or platform."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _override(data: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
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


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    if item["type"] == "missing":
        return f"{'.'.join(location)}: missing"
    if item["type"] == "value_error":  # of a whole section: its text says which values do not fit
        return ": ".join(filter(None, (".".join(location), str(item["ctx"]["error"]))))
    if item["type"] != "extra_forbidden":
        return f"{'.'.join(location)} = {item.get('input')!r}: {item['msg']}"
    section: Any = Recipe
    for part in location[:-1]:
        section = section.model_fields[part].annotation
        for option in getattr(section, "__args__", ()):
            section = option if isinstance(option, type) and issubclass(option, Section) else section
    return f"'{'.'.join(location)}': " + one_of("key", location[-1], section.model_fields)


def _write_table(table: dict[str, Any], name: str, lines: list[str]) -> None:
    if name:
        lines.append(f"\n[{name}]")
    nested = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key, value in table.items():
        if key not in nested:
            plain = re.fullmatch(r"[A-Za-z0-9_-]+", key)
            written = json.dumps("none" if value is None else value, ensure_ascii=False)
            lines.append(f"{key if plain else json.dumps(key, ensure_ascii=False)} = {written}")
    for key, value in nested.items():
        if value:
            _write_table(value, f"{name}.{key}" if name else key, lines)
