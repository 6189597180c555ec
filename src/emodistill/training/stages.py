"""What is trained in a fold: how each kind of model is made and what it reads. The loop is `fit`."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from emodistill.audio.waveform import SHORTEST_SAMPLES, content_hash
from emodistill.config import AudioConfig, AugmentConfig, OptimConfig, Recipe, StudentConfig, stable_seed
from emodistill.corpora import Utterance
from emodistill.errors import ConfigError, CorpusError, ModelError
from emodistill.features.augment import augment_view
from emodistill.features.cache import ArrayCache, cache_folder, run_jobs
from emodistill.features.llds import cache_llds
from emodistill.features.preparation import PREPARATION, prepare_waveform
from emodistill.labels import LabelSet
from emodistill.models.backbones import load_backbone
from emodistill.models.base import Backbone
from emodistill.models.checkpoint import load_initial
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.prosodic import ProsodicTeacher, planes, statistics
from emodistill.models.student import Standardise, Student, Suffix
from emodistill.training.artifact_cache import to_dict
from emodistill.training.data import LldSource, Source, StateSource, TokenSource, WaveformSource, size_of
from emodistill.training.fit import device_of


class Stage(ABC):
    """A kind of model in a recipe."""

    def __init__(self, name: str, recipe: Recipe, labels: LabelSet) -> None:
        self.name, self.recipe, self.labels = name, recipe, labels
        self.num_classes = len(labels)

    needs = "audio"  # of an utterance, for anything to be said of it

    @property
    @abstractmethod
    def optim(self) -> OptimConfig:
        """How it is trained."""

    @property
    def init(self) -> str | None:
        """A checkpoint folder to start from."""
        return None

    @abstractmethod
    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        """A new model; what it takes from data (statistics, words) comes from `train` alone.

        `initial` is the model whose weights it is about to be given, where there is one.
        """

    @abstractmethod
    def source(self, model: nn.Module, utterances: Sequence[Utterance], seed: int) -> Source:
        """The inputs of a model."""

    @abstractmethod
    def decided_by(self) -> dict[str, Any]:
        """The parts of the recipe, as plain data, that decide what it becomes on given data."""

    def uses(self, utterance: Utterance) -> bool:
        """Whether it can say anything of an utterance."""
        return utterance.path is not None

    def trained(self, model: nn.Module) -> nn.Module:
        """The module that `source` feeds and `fit` trains."""
        return model

    def start(self, train: Sequence[Utterance]) -> tuple[nn.Module, tuple[str, ...]]:
        """A new model, and the ids that its initial weights were trained on."""
        if self.init is None:
            return self.create(train), ()
        found = load_initial(self.init)
        model = self.create(train, found.model)
        if type(found.model) is not type(model):
            raise ConfigError(
                f"{self.name}.init: '{self.init}' is a {type(found.model).__name__}, "
                f"expected a {type(model).__name__}"
            )
        own = model.state_dict()
        kept_new = {"mean", "std"}  # the training split's own normalisation
        if found.labels != self.labels:
            kept_new |= {name for name in own if name.startswith("classifier.")}
        state = {name: value for name, value in found.model.state_dict().items() if name not in kept_new}
        fitting = {
            name: value for name, value in state.items() if name in own and own[name].shape == value.shape
        }
        model.load_state_dict(fitting, strict=False)
        return model, found.training_ids


class ProsodicStage(Stage):
    """The prosodic teacher over cached LLDs."""

    @property
    def optim(self) -> OptimConfig:
        return self.recipe.prosodic.optim

    @property
    def init(self) -> str | None:
        return self.recipe.prosodic.init

    def decided_by(self) -> dict[str, Any]:
        return {"prosodic": to_dict(self.recipe.prosodic)}

    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        model = ProsodicTeacher(self.recipe.prosodic, self.num_classes)
        model.set_normalisation(*statistics(self._llds(train)))
        return model

    def source(self, model: nn.Module, utterances: Sequence[Utterance], seed: int) -> Source:
        assert isinstance(model, ProsodicTeacher)
        mean, std = model.mean.numpy(), model.std.numpy()
        made = [planes(llds, mean, std) for llds in self._llds(utterances)]
        return LldSource(made, [utterance.id for utterance in utterances], self.recipe.prosodic, seed)

    def _llds(self, utterances: Sequence[Utterance]) -> list[np.ndarray]:
        cache = ArrayCache(cache_folder() / "llds")
        keys = cache_llds(utterances, self.recipe.audio, self.recipe.runtime.workers, cache)
        return [cache.read(key) for key in keys]


class LinguisticStage(Stage):
    """The linguistic teacher over transcripts."""

    needs = "transcript"

    @property
    def optim(self) -> OptimConfig:
        return self.recipe.linguistic.optim

    @property
    def init(self) -> str | None:
        return self.recipe.linguistic.init

    def decided_by(self) -> dict[str, Any]:
        return {"linguistic": to_dict(self.recipe.linguistic)}

    def uses(self, utterance: Utterance) -> bool:
        return bool(utterance.transcript)

    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        words = [utterance.transcript for utterance in train if utterance.transcript]
        return LinguisticTeacher.create(self.recipe.linguistic, self.num_classes, words)

    def source(self, model: nn.Module, utterances: Sequence[Utterance], seed: int) -> Source:
        assert isinstance(model, LinguisticTeacher)
        return TokenSource([model.tokenize(utterance.transcript or "") for utterance in utterances])


class SpeechStage(Stage):
    """A student, or the acoustic teacher, which is a larger student: waveforms or cached states."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        labels: LabelSet,
        config: StudentConfig,
        views: AugmentConfig,
        heads: Mapping[str, int],
    ) -> None:
        super().__init__(name, recipe, labels)
        self.config, self.views, self.heads = config, views, heads

    @property
    def optim(self) -> OptimConfig:
        return self.config.optim

    @property
    def init(self) -> str | None:
        return self.config.init

    def decided_by(self) -> dict[str, Any]:
        run = self.recipe.acoustic.run if self.name == "acoustic" else None
        return {
            "config": to_dict(self.config),
            "views": to_dict(self.views),
            "run": run,
            "heads": dict(self.heads),
        }

    def create(self, train: Sequence[Utterance], initial: nn.Module | None = None) -> nn.Module:
        if isinstance(initial, Student):  # its shape decides; how it is trained is the recipe's
            kept = {
                name: getattr(self.config, name)
                for name in ("dropout", "warp", "band_mask", "frozen", "optim", "init")
            }
            # A probe is how it once started itself; its norm is among the weights that it hands over.
            shape = {"probe": None, "standardise": isinstance(initial.norm, Standardise)}
            config = StudentConfig.model_validate({**initial.config.model_dump(), **kept, **shape})
            backbone: Backbone = deepcopy(initial.backbone)
            return Student(backbone, config, self.num_classes, self.heads)
        backbone = load_backbone(self.config.backbone, self.config.layers, self.config.width)
        return Student(backbone, self.config, self.num_classes, self.heads)

    def source(
        self, model: nn.Module, utterances: Sequence[Utterance], seed: int
    ) -> WaveformSource | StateSource:
        assert isinstance(model, Student)
        if not model.config.frozen:
            return WaveformSource(utterances, self.recipe.audio, self.views, seed)
        num_views = max(1, self.views.views) if seed != NO_VIEWS else 1
        device = device_of(self.recipe.runtime)
        return cached_states(model, utterances, self.recipe.audio, self.views, num_views, seed, device)

    def start(self, train: Sequence[Utterance]) -> tuple[nn.Module, tuple[str, ...]]:
        model, ids = super().start(train)
        assert isinstance(model, Student)
        if isinstance(model.norm, Standardise) and self.config.init is None:
            source = self.source(model, train, 0)
            if not isinstance(source, StateSource):
                raise ConfigError(
                    f"{self.name}.standardise = true takes its means from frozen layers: set frozen, or leave it out"
                )
            pooled = standardise(model, source, device_of(self.recipe.runtime))
            if self.config.probe is not None:
                fit_probe(model, pooled, [utterance.emotion or "" for utterance in train], self.config.probe)
        return model, ids

    def trained(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, Student)
        return Suffix(model) if model.config.frozen else model


PROBE_SPREAD = 3.0  # standard deviation of a probe's logits over the training split


@torch.no_grad()
def standardise(student: Student, source: StateSource, device: torch.device | str = "cpu") -> Tensor:
    """Take the student's normalisation from its training split.

    Over all views where everything that is pooled is frozen, over the clean one alone where it will move anyway.
    Returns the pooled statistics, standardised, (views * utterances, dim), view by view.
    """
    views = range(len(source.keys[0]) if max(student.pooled) <= student.config.frozen else 1)
    student.to(device).eval()
    keys = [(index, view) for view in views for index in range(len(source.ids))]
    rows = [student.statistics(source.at_view(index, view).float().to(device)).cpu() for index, view in keys]
    student.cpu()
    x = torch.stack(rows)
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
    student.set_statistics(mean, std)
    return (x - mean) / std


def fit_probe(student: Student, pooled: Tensor, emotions: Sequence[str], shrinkage: float) -> None:
    """Start a student from linear discriminant analysis of its standardised statistics, over all views.

    Within-class covariance Σ is shrunk to (1 − s) Σ + s tr(Σ)/dim I (Ledoit & Wolf 2004). The logits are
    scaled to a fixed spread, since a probe's own confidence on the data it was fitted on is too high.
    """
    z = pooled.double().numpy()
    truth = list(emotions) * (len(z) // len(emotions))
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(z, truth)
    if len(probe.classes_) != student.classifier.out_features:
        raise ConfigError(
            f"a probe needs every emotion in training; it has {list(probe.classes_)}, "
            f"the corpus has {student.classifier.out_features}: unset student.probe"
        )
    order = [list(probe.classes_).index(name) for name in LabelSet.of(emotions)]
    coef, intercept = probe.coef_, probe.intercept_
    if len(order) == 2:  # then scikit-learn gives the difference of the two alone
        coef, intercept = (np.concatenate([-item / 2, item / 2]) for item in (coef, intercept))
    weight, bias = coef[order], intercept[order]
    scale = PROBE_SPREAD / (z @ weight.T + bias).std()
    student.set_probe(torch.from_numpy(weight * scale).float(), torch.from_numpy(bias * scale).float())


NO_VIEWS = -1  # a seed for sources that are only ever read clean


def cached_states(
    student: Student,
    utterances: Sequence[Utterance],
    audio: AudioConfig,
    views: AugmentConfig,
    num_views: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> StateSource:
    """The states after a student's frozen prefix, computed once per utterance and view, and kept on disk."""
    cache = ArrayCache(cache_folder() / "states")
    clean = (
        f"{_prefix_hash(student)}|{PREPARATION}|{audio}"  # a clean view is the same under any augmentation
    )
    drawn = views
    if views.fresh and views.speed:  # without, there is no other view
        drawn = AugmentConfig(views=2, seed=views.seed, speed=views.speed, fresh=True)
    keys = []
    jobs: dict[str, tuple[Utterance, int, str]] = {}
    for utterance in utterances:
        if utterance.path is None:
            raise CorpusError(f"utterance '{utterance.id}' has no audio for the student to hear")
        recording = content_hash(utterance.path, utterance.start_s, utterance.end_s)
        made_by = [clean, *(f"{clean}|{drawn}|{view}|{utterance.id}" for view in range(1, num_views))]
        row = [f"{recording}-{stable_seed(item):016x}" for item in made_by]
        keys.append(row)
        jobs |= {key: (utterance, view, key) for view, key in enumerate(row) if key not in cache}

    @torch.no_grad()
    def compute(job: tuple[Utterance, int, str]) -> None:
        utterance, view, key = job
        waveform = augment_view(prepare_waveform(utterance, audio), views, view, utterance.id)
        padded = np.pad(waveform, (0, max(0, SHORTEST_SAMPLES - len(waveform))))
        states, _ = student.prefix(torch.from_numpy(padded)[None].to(device), None)
        half = states[0].half().cpu().numpy()
        if not np.isfinite(half).all():
            raise ModelError(
                f"'{utterance.id}': the frozen states overflow half precision; freeze fewer layers"
            )
        cache.write(key, half)

    if jobs:
        student.to(device).eval()
        run_jobs(compute, list(jobs.values()), "frozen layers", workers=1)
        student.cpu()
    sizes = [size_of(utterance) for utterance in utterances]
    return StateSource(keys, [utterance.id for utterance in utterances], sizes, views, seed, cache)


def _prefix_hash(student: Student) -> str:
    """The frozen prefix by its weights: two backbones of one name never share a cache."""
    digest = hashlib.sha256(f"{student.config.frozen}|{student.kept}".encode())
    trained = {id(value) for value in student.parameters() if value.requires_grad}
    for name, value in sorted(student.backbone.state_dict(keep_vars=True).items()):
        if id(value) not in trained:
            digest.update(name.encode())
            digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
