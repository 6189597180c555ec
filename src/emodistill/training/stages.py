"""The kinds of models that a fold trains: how each is created, what it reads, and which settings decide it.

All of them are trained by the same loop, `fit`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from emodistill.audio.waveform import MIN_INPUT_SAMPLES, SAMPLE_RATE, content_hash
from emodistill.cached_files import LLDS, STATES
from emodistill.config import AudioConfig, AugmentConfig, OptimConfig, Recipe, StudentConfig, stable_seed
from emodistill.corpora import Utterance
from emodistill.corpora.base import audio_duration_s
from emodistill.errors import ConfigError, CorpusError, ModelError, field_messages
from emodistill.features.augment import augment_view
from emodistill.features.cache import ArrayCache, run_jobs, say_what_is_written
from emodistill.features.llds import cache_llds
from emodistill.features.preparation import PREPARATION, prepare_waveform
from emodistill.files import cache_folder
from emodistill.labels import LabelSet
from emodistill.models.backbones import load_backbone
from emodistill.models.base import Backbone
from emodistill.models.checkpoint import load_initial
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher, lld_statistics, make_planes
from emodistill.models.student import Student, Suffix
from emodistill.training.artifact_cache import to_dict
from emodistill.training.data import (
    InputSource,
    LldSource,
    StateSource,
    TokenSource,
    WaveformSource,
    size_of,
)
from emodistill.training.fit import device_of
from emodistill.training.voices import VoiceContexts, known_speakers

CLEAN_ONLY = -1  # the seed of a source that is read without augmentation alone


class Stage(ABC):
    """One model of a recipe: a teacher or the student."""

    def __init__(self, name: str, recipe: Recipe, labels: LabelSet) -> None:
        self.name, self.recipe, self.labels = name, recipe, labels
        self.num_classes, self.dimensions = len(labels), recipe.dimensions

    required_input = "audio"  # of an utterance

    @property
    @abstractmethod
    def optim(self) -> OptimConfig:
        """The settings of its training."""

    @property
    def init(self) -> str | None:
        """The checkpoint folder that it starts from."""
        return None

    @abstractmethod
    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        """Return a new model. All that it takes from data (statistics, words) comes from `train` alone.

        `initial` is the model whose weights it will receive, where there is one.
        """

    @abstractmethod
    def source(self, model: nn.Module, utterances: Sequence[Utterance], seed: int) -> InputSource:
        """The inputs of a model. With the seed `CLEAN_ONLY` they are read in the epoch `CLEAN` alone."""

    @abstractmethod
    def deciding_settings(self) -> dict[str, Any]:
        """The parts of the recipe that decide what the model becomes on given data, as plain data."""

    def used_settings(self, section: Any) -> dict[str, Any]:
        """The model's section as plain data, without settings of dimensions and votes that decide nothing."""
        settings = dict(to_dict(section))
        optim = dict(settings["optim"])
        unused = [] if self.dimensions else ["dimension_loss"]
        unused += ["targets", "vote_loss"] if optim["targets"] == "label" else []
        if settings.get("words_first", "") is None:
            del settings["words_first"]
        return {**settings, "optim": {name: optim[name] for name in optim if name not in unused}}

    def can_use(self, utterance: Utterance) -> bool:
        """Whether an utterance has the input that the model requires."""
        return utterance.path is not None

    def can_learn_from(self, utterance: Utterance) -> bool:
        """Whether the model can use an utterance and learns from what it has: a label, or votes."""
        has_label = any(getattr(utterance, name) is not None for name in ("emotion", *self.dimensions))
        return (has_label or self.optim.targets == "votes") and self.can_use(utterance)

    def trained_part(self, model: nn.Module) -> nn.Module:
        """The module that reads the inputs of `source`, and that `fit` trains."""
        return model

    def initialise(self, train: Sequence[Utterance]) -> tuple[nn.Module, tuple[str, ...]]:
        """Return a model with its initial weights, and the ids that these weights were trained on.

        Raises `ConfigError` where `init` names a model of another kind.
        """
        if self.init is None:
            return self.create(train), ()
        checkpoint = load_initial(self.init)
        model = self.create(train, checkpoint.model)
        if type(checkpoint.model) is not type(model):
            raise ConfigError(
                f"{self.name}.init: '{self.init}' holds a {type(checkpoint.model).__name__}, "
                f"expected a {type(model).__name__}"
            )
        own = model.state_dict()
        not_taken = {"mean", "std"}  # the normalisation is that of the new training split
        if checkpoint.labels != self.labels:
            not_taken |= {name for name in own if name.startswith("classifier.")}
        if checkpoint.dimensions != self.dimensions:
            not_taken |= {name for name in own if name.startswith("regressor.")}
        fitting = {
            name: value
            for name, value in checkpoint.model.state_dict().items()
            if name not in not_taken and name in own and own[name].shape == value.shape
        }
        model.load_state_dict(fitting, strict=False)
        return model, checkpoint.training_ids


class ProsodicStage(Stage):
    """The prosodic teacher. It reads cached LLDs."""

    @property
    def optim(self) -> OptimConfig:
        return self.recipe.prosodic.optim

    @property
    def init(self) -> str | None:
        return self.recipe.prosodic.init

    def deciding_settings(self) -> dict[str, Any]:
        return {"prosodic": self.used_settings(self.recipe.prosodic)}

    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        model = ProsodicTeacher(self.recipe.prosodic, self.num_classes, self.dimensions)
        model.set_normalisation(*lld_statistics(self._llds(train)))
        return model

    def source(self, model: nn.Module, utterances: Sequence[Utterance], seed: int) -> InputSource:
        assert isinstance(model, ProsodicTeacher)
        mean, std = model.mean.numpy(), model.std.numpy()
        inputs = [make_planes(llds, mean, std) for llds in self._llds(utterances)]
        return LldSource(inputs, [utterance.id for utterance in utterances], self.recipe.prosodic, seed)

    def _llds(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        cache = ArrayCache(cache_folder() / LLDS)
        keys = cache_llds(utterances, self.recipe.audio, self.recipe.runtime.workers, cache)
        return [cache.read(key) for key in keys]


class LinguisticStage(Stage):
    """The linguistic teacher. It reads transcripts."""

    required_input = "transcript"

    @property
    def optim(self) -> OptimConfig:
        return self.recipe.linguistic.optim

    @property
    def init(self) -> str | None:
        return self.recipe.linguistic.init

    def deciding_settings(self) -> dict[str, Any]:
        return {"linguistic": self.used_settings(self.recipe.linguistic)}

    def can_use(self, utterance: Utterance) -> bool:
        return bool(utterance.transcript)

    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        transcripts = [utterance.transcript for utterance in train if utterance.transcript]
        return LinguisticTeacher.create(
            self.recipe.linguistic, self.num_classes, transcripts, self.dimensions
        )

    def source(self, model: nn.Module, utterances: Sequence[Utterance], seed: int) -> InputSource:
        assert isinstance(model, LinguisticTeacher)
        return TokenSource([model.tokenize(utterance.transcript or "") for utterance in utterances])


class SpeechStage(Stage):
    """A student, or the acoustic teacher, which is a larger student.

    It reads waveforms, or the cached states of its frozen layers. `heads` gives the size of each projection
    head.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        labels: LabelSet,
        config: StudentConfig,
        augment: AugmentConfig,
        heads: Mapping[str, int],
    ) -> None:
        super().__init__(name, recipe, labels)
        self.config, self.augment, self.heads = config, augment, heads
        self.voice = recipe.voice if name == "student" else None

    @property
    def optim(self) -> OptimConfig:
        return self.config.optim

    @property
    def init(self) -> str | None:
        return self.config.init

    def deciding_settings(self) -> dict[str, Any]:
        run = self.recipe.acoustic.run if self.name == "acoustic" else None
        return {
            "config": self.used_settings(self.config),
            "augment": self.augment.key_settings(),
            "run": run,
            "heads": dict(self.heads),
        }

    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        if isinstance(initial, Student):
            # The shape comes from `initial`, and the settings of training from the recipe.
            own_settings = {
                name: getattr(self.config, name)
                for name in ("dropout", "warp", "band_mask", "frozen", "lora", "optim", "init")
            }
            # The weights come from `initial`, so no probe is fitted, and the norm must be of the same kind.
            shape = {"probe": None, "standardise": initial.has_fixed_norm}
            try:
                config = StudentConfig.model_validate(
                    {**initial.config.model_dump(), **own_settings, **shape}
                )
            except ValidationError as error:
                reasons = "; ".join(field_messages(error.errors()))
                raise ConfigError(f"{self.name}.init = '{self.config.init}': {reasons}") from error
            backbone: Backbone = deepcopy(initial.backbone)
        else:
            config = self.config
            backbone = load_backbone(config.backbone, config.layers, config.width)
        has_voices = self.voice is not None
        return Student(backbone, config, self.num_classes, self.heads, has_voices, self.dimensions)

    def source(
        self, model: nn.Module, utterances: Sequence[Utterance], seed: int
    ) -> WaveformSource | StateSource:
        assert isinstance(model, Student)
        if not model.config.frozen:
            return WaveformSource(utterances, self.recipe.audio, self.augment, seed, self.voice)
        num_views = max(1, self.augment.views) if seed != CLEAN_ONLY else 1
        device = device_of(self.recipe.runtime)
        source = cache_states(model, utterances, self.recipe.audio, self.augment, num_views, seed, device)
        return replace(source, voice=self.voice)

    def initialise(self, train: Sequence[Utterance]) -> tuple[nn.Module, tuple[str, ...]]:
        model, ids = super().initialise(train)
        assert isinstance(model, Student)
        if model.has_fixed_norm and self.config.init is None:
            source = self.source(model, train, 0)
            assert isinstance(
                source, StateSource
            )  # `StudentConfig` refuses a fixed norm without frozen layers
            pooled = fit_standardisation(model, source, device_of(self.recipe.runtime))
            if self.config.probe is not None:
                if self.voice is not None:
                    contexts = VoiceContexts(self.voice, known_speakers(train), self.recipe.seed)
                    known = contexts.with_known(pooled[: len(train)], self.voice.max_known)
                    pooled = torch.cat([pooled, pooled - known.repeat(len(pooled) // len(train), 1)])
                labelled = torch.tensor([utterance.emotion is not None for utterance in train])
                pooled = pooled[labelled.repeat(len(pooled) // len(train))]
                emotions = [utterance.emotion for utterance in train if utterance.emotion is not None]
                fit_probe(model, pooled, emotions, self.config.probe)
        return model, ids

    def trained_part(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Student)
        return Suffix(model) if model.config.frozen else model


def make_stage(name: str, recipe: Recipe, labels: LabelSet, heads: Mapping[str, int] | None = None) -> Stage:
    """The stage of a teacher, or of the student with the sizes of its projection heads."""
    if name == "prosodic":
        return ProsodicStage(name, recipe, labels)
    if name == "linguistic":
        return LinguisticStage(name, recipe, labels)
    if name == "acoustic":
        augment = recipe.acoustic.augment or recipe.augment
        return SpeechStage(name, recipe, labels, recipe.acoustic.student, augment, {})
    assert recipe.student is not None
    return SpeechStage(name, recipe, labels, recipe.student, recipe.augment, heads or {})


def check_models(recipe: Recipe, labels: LabelSet) -> None:
    """Build the student and the acoustic teacher once, so that what does not fit is found before training.

    Raises `ConfigError` or `ModelError` as the models do. The checks that need no torch come earlier, in
    `preflight`.
    """
    names = [] if recipe.student is None else ["student"]
    if "acoustic" in recipe.distillation.teachers and recipe.acoustic.run is None:
        names.append("acoustic")
    for name in names:
        stage = make_stage(name, recipe, labels)
        stage.create([], None if stage.init is None else load_initial(stage.init).model)


PROBE_SPREAD = 3.0  # standard deviation of a probe's logits over the training split


@torch.no_grad()
def fit_standardisation(student: Student, source: StateSource, device: torch.device | str = "cpu") -> Tensor:
    """Set the student's mean and standard deviation to those of its training split.

    They are taken over all views where all pooled layers are frozen. Otherwise training changes them anyway,
    and the clean view is enough. Returns the standardised statistics (views * utterances, dim), view by view.
    """
    views = range(len(source.keys[0]) if max(student.pool_layers) <= student.config.frozen else 1)
    student.to(device).eval()
    statistics_of_each = [
        student.pooled_statistics(source.at_view(index, view).float().to(device)).cpu()
        for view in views
        for index in range(len(source.ids))
    ]
    student.cpu()
    x = torch.stack(statistics_of_each)
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
    student.set_standardisation(mean, std)
    return (x - mean) / std


def fit_probe(student: Student, pooled: Tensor, emotions: Sequence[str], shrinkage: float) -> None:
    """Set the student's classifier to linear discriminant analysis of its standardised statistics.

    `pooled` (rows, dim) has all utterances several times, such as view by view, and `emotions` one entry for
    each utterance. The
    within-class covariance Σ is shrunk to (1 − s) Σ + s tr(Σ)/dim I (Ledoit & Wolf 2004). The logits are
    scaled to the standard deviation `PROBE_SPREAD`, because a probe is too confident on the data that it was
    fitted on. Raises `ConfigError` where an emotion is missing in training.
    """
    z = pooled.double().numpy()
    truth = list(emotions) * (len(z) // len(emotions))
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(z, truth)
    if len(probe.classes_) != student.classifier.out_features:
        raise ConfigError(
            f"student.probe needs every emotion in training: training has {list(probe.classes_)}, and the "
            f"corpus has {student.classifier.out_features} emotions; unset student.probe"
        )
    order = [list(probe.classes_).index(name) for name in LabelSet.from_emotions(emotions)]
    coef, intercept = probe.coef_, probe.intercept_
    if len(order) == 2:  # scikit-learn then returns one row, the difference of the two classes
        coef, intercept = (np.concatenate([-item / 2, item / 2]) for item in (coef, intercept))
    weight, bias = coef[order], intercept[order]
    scale = PROBE_SPREAD / (z @ weight.T + bias).std()
    student.set_probe(torch.from_numpy(weight * scale).float(), torch.from_numpy(bias * scale).float())


def cache_states(
    student: Student,
    utterances: Sequence[Utterance],
    audio: AudioConfig,
    views: AugmentConfig,
    num_views: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> StateSource:
    """The states after a student's frozen prefix, computed once an utterance and view, and kept on disk.

    Raises `CorpusError` for an utterance without audio, and `ModelError` where a state overflows half
    precision.
    """
    cache = ArrayCache(cache_folder() / STATES)
    # The key of the clean view lacks the settings of augmentation, which do not change that view.
    clean = f"{_prefix_hash(student)}|{PREPARATION}|{audio}"
    augment = views
    if views.fresh and views.speed:  # a cached view then differs by its speed alone
        augment = AugmentConfig(views=2, seed=views.seed, speed=views.speed, fresh=True)
    changes = " ".join(f"{name}={value!r}" for name, value in augment.key_settings().items())
    keys = []
    jobs: dict[str, tuple[Utterance, int, str]] = {}
    for utterance in utterances:
        if utterance.path is None:
            raise CorpusError(f"utterance '{utterance.id}' has no audio, which the student needs")
        recording = content_hash(utterance.path, utterance.start_s, utterance.end_s)
        settings = [clean, *(f"{clean}|{changes}|{view}|{utterance.id}" for view in range(1, num_views))]
        row = [f"{recording}-{stable_seed(item):016x}" for item in settings]
        keys.append(row)
        jobs |= {key: (utterance, view, key) for view, key in enumerate(row) if key not in cache}

    @torch.no_grad()
    def compute(job: tuple[Utterance, int, str]) -> None:
        utterance, view, key = job
        waveform = augment_view(prepare_waveform(utterance, audio), views, view, utterance.id)
        padded = np.pad(waveform, (0, max(0, MIN_INPUT_SAMPLES - len(waveform))))
        states, _ = student.prefix(torch.from_numpy(padded)[None].to(device), None)
        half = states[0].half().cpu().numpy()
        if not np.isfinite(half).all():
            raise ModelError(
                f"utterance '{utterance.id}': the states of the frozen layers overflow half precision; lower "
                "student.frozen"
            )
        cache.write(key, half)

    if jobs:
        student.eval()
    second = _states_of_a_second(student)
    if jobs:
        seconds = sum(item.duration_s or audio_duration_s(item) for item, *_ in jobs.values())
        with say_what_is_written(cache, list(jobs), "states", seconds * second.half().nbytes):
            student.to(device)
            run_jobs(compute, list(jobs.values()), "frozen layers", workers=1)
            student.cpu()
    sizes = [size_of(utterance) for utterance in utterances]
    return StateSource(
        keys, [utterance.id for utterance in utterances], sizes, views, seed, cache, float(len(second))
    )


@torch.no_grad()
def _states_of_a_second(student: Student) -> Tensor:
    """The states (frames, layers, width) of a second of silence, which has as many as any other second."""
    states: Tensor = student.prefix(torch.zeros(1, SAMPLE_RATE), None)[0][0]
    return states


def _prefix_hash(student: Student) -> str:
    """A hash of the frozen prefix by its weights, so that two backbones of one name never share a cache."""
    merge = "" if student.config.merge == 1 else f"|merge {student.config.merge}"
    digest = hashlib.sha256(f"{student.config.frozen}|{student.prefix_layers}{merge}".encode())
    trained = {id(value) for value in student.parameters() if value.requires_grad}
    for name, value in sorted(student.backbone.state_dict(keep_vars=True).items()):
        if id(value) not in trained:
            digest.update(name.encode())
            digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
