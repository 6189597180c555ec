"""One fold from end to end: teachers, targets, student, predictions. Each stage reads the one before.

    fold folder/
      select/     trained on train, scored on dev
      refit/      (protocol.refit) trained again on train + dev, for as many epochs as dev chose; or the student
                  alone, with a classifier that was fitted again on both
        prosodic/ linguistic/ acoustic/   checkpoint, fit.json, targets-*.safetensors
        student/                          checkpoint, fit.json
      predictions.csv  predictions-dev.csv  predictions-<teacher>.csv  predictions-<teacher>-dev.csv
      tables.json   their hashes

A stage whose files are complete is not run again, so a killed run goes on where it was. What runs of one grid
have in common, a teacher, its targets and its predictions, is taken from the artifact cache.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emodistill.config import TEACHERS, Recipe, stable_seed
from emodistill.console import say, warn
from emodistill.corpora import Corpus, Utterance
from emodistill.errors import ConfigError
from emodistill.evaluation.predictions import Predictions, write_predictions
from emodistill.evaluation.run import write_checksums
from emodistill.features.preparation import PREPARATION
from emodistill.inference.model_card import file_sha256
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import load_checkpoint, save_checkpoint
from emodistill.models.student import Student
from emodistill.protocol.audit import audit_teacher
from emodistill.protocol.folds import Fold
from emodistill.training.artifact_cache import ArtifactCache, key_of, to_dict
from emodistill.training.data import CLEAN, UtteranceDataset
from emodistill.training.fit import FitResult, device_of, fit, infer
from emodistill.training.refit import ClassifierInputs, fit_classifier, held_out_logits
from emodistill.training.stages import NO_VIEWS, LinguisticStage, ProsodicStage, SpeechStage, Stage
from emodistill.training.targets import TargetRows, TeacherTargets, align_to_ids, with_hidden

# Fields of `runtime` that change what is learned.
CHANGES_NUMBERS = ("accelerator", "devices", "strategy", "precision", "threads")

REFIT_VIEWS = 2  # of each utterance, besides the clean one, for a classifier that is fitted again


@dataclass(frozen=True)
class Phase:
    """One pass over a fold's stages."""

    name: str  # "select" or "refit"
    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]  # empty in refit
    stops: Mapping[str, int]  # stage -> epochs, where dev has fixed them
    folder: Path


class FoldRun:
    """A fold of a recipe on a corpus, in a folder of its own."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        labels: LabelSet,
        fold: Fold,
        folder: Path,
        artifacts: ArtifactCache | None = None,
    ) -> None:
        self.recipe, self.labels, self.fold, self.folder, self.artifacts = (
            recipe,
            labels,
            fold,
            folder,
            artifacts,
        )
        by_id = {utterance.id: utterance for utterance in corpus}
        self.train, self.dev, self.test = (
            tuple(by_id[name] for name in fold.split(split)) for split in ("train", "dev", "test")
        )
        self.teachers = tuple(name for name in recipe.distillation.teachers if self._has_input(name))
        main = self._student_stage({}) if recipe.student is not None else None
        main = main or self._teacher_stage(recipe.main_model)
        for name in ("train", "dev", "test"):
            if not any(main.uses(utterance) for utterance in getattr(self, name)):
                who = "a student needs" if recipe.student is not None else f"the {main.name} teacher needs"
                hint = "; to train a linguistic teacher alone: --set student=none" if recipe.student else ""
                raise ConfigError(
                    f"'{corpus.name}', fold {fold.name}: {name} has no {main.needs}, which {who}{hint}"
                )

    def run(self) -> None:
        """Train what is missing and write the predictions of the student and of every teacher."""
        if (self.folder / "predictions.csv").is_file():
            return
        given = self._given_teacher("select") if "acoustic" in self.teachers else None
        if given is not None and not (given / "model.json").is_file():
            raise ConfigError(
                f"acoustic.run = '{self.recipe.acoustic.run}': fold {self.fold.name} has no trained student in '{given}'; "
                "finish that run first, or set acoustic.run to another"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        select = Phase("select", self.train, self.dev, {}, self.folder / "select")
        models, stops = self._phase(select)
        self._predict(models, select, self.dev, "-dev")
        final = select
        if self.recipe.protocol.refit == "classifier":
            stage, student = models["student"]
            models["student"] = (stage, self._refit_classifier(stage, student))
        elif self.recipe.protocol.refit:
            final = Phase("refit", self.train + self.dev, (), stops, self.folder / "refit")
            models, _ = self._phase(final)
        self._predict(models, final, self.test, "")

    def _has_input(self, teacher: str) -> bool:
        if teacher != "linguistic" or any(utterance.transcript for utterance in self.train):
            return True
        warn("no transcripts in training: the linguistic teacher is left out")
        return False

    def _given_teacher(self, phase: str) -> Path | None:
        """The folder of the acoustic teacher of a phase, where it comes from another run."""
        run = self.recipe.acoustic.run
        return None if run is None else Path(run) / f"fold-{self.fold.name}" / phase / "student"

    def _phase(self, phase: Phase) -> tuple[dict[str, tuple[Stage, nn.Module]], dict[str, int]]:
        """Every model of a phase with its stage, and the epochs that each was trained for."""
        models: dict[str, tuple[Stage, nn.Module]] = {}
        stops: dict[str, int] = {}
        targets: dict[str, TeacherTargets] = {}
        heads: dict[str, int] = {}
        for name in self.teachers:
            stage = self._teacher_stage(name)
            model, stops[name] = self._train(stage, phase)
            models[name] = (stage, model)
            if self.recipe.student is None:
                continue
            targets[name] = self._targets(stage, model, phase, stops[name])
            weight = self.recipe.distillation.weight(name)
            if weight * self.recipe.distillation.beta:
                # A head that no loss trains would say nothing, and several processes would wait for its gradient.
                heads[name] = targets[name].embedding.shape[1]
            hidden = targets[name].hidden
            if hidden is not None and weight:
                heads[f"{name}_hidden"] = hidden.shape[1]
        if self.recipe.student is not None:
            student = self._student_stage(heads)
            model, stops["student"] = self._train(student, phase, targets)
            models["student"] = (student, model)
        return models, stops

    def _student_stage(self, heads: Mapping[str, int]) -> Stage:
        assert self.recipe.student is not None
        return SpeechStage(
            "student", self.recipe, self.labels, self.recipe.student, self.recipe.augment, heads
        )

    def _teacher_stage(self, name: str) -> Stage:
        if name == "prosodic":
            return ProsodicStage(name, self.recipe, self.labels)
        if name == "linguistic":
            return LinguisticStage(name, self.recipe, self.labels)
        acoustic = self.recipe.acoustic
        views = acoustic.augment or self.recipe.augment
        return SpeechStage(name, self.recipe, self.labels, acoustic.student, views, {})

    def _train(
        self, stage: Stage, phase: Phase, targets: Mapping[str, TeacherTargets] | None = None
    ) -> tuple[nn.Module, int]:
        """A stage's trained model, from disk where it is complete, and its number of epochs."""
        folder = phase.folder / stage.name
        given = self._given_teacher(phase.name) if stage.name == "acoustic" else None
        if given is not None:
            folder = given
            found = load_checkpoint(folder)
            if found.labels != self.labels:
                raise ConfigError(
                    f"'{folder}' knows {list(found.labels)}, this run {list(self.labels)}: it cannot teach here"
                )
            self._audit(found.training_ids, phase, stage.name)
            return found.model, 0
        key = self._key(stage, phase) if self.artifacts is not None and stage.name in TEACHERS else None
        complete = folder / "model.json"
        if not complete.is_file() and not self._taken(key, folder):
            self._train_new(stage, phase, folder, targets or {})
        if self.artifacts is not None and key is not None:
            kept = [
                path for path in folder.iterdir() if path.is_file() and not path.name.startswith("targets")
            ]
            self.artifacts.give(key, kept)
        found = load_checkpoint(folder)
        self._audit(found.training_ids, phase, stage.name)
        result = FitResult.read(folder / "fit.json")
        shown = "" if result.dev_ua is None else f", dev UA {100 * result.dev_ua:.2f}"
        say(f"fold {self.fold.name} · {phase.name} · {stage.name}: {result.epochs} epochs{shown}")
        return found.model, result.epochs

    def _train_new(
        self, stage: Stage, phase: Phase, folder: Path, targets: Mapping[str, TeacherTargets]
    ) -> None:
        seed = stable_seed(self.recipe.seed, self.fold.name, phase.name, stage.name)
        train = [utterance for utterance in phase.train if stage.uses(utterance)]
        dev = [utterance for utterance in phase.dev if stage.uses(utterance)]
        torch.manual_seed(seed)
        model, initial_ids = stage.start(train)
        self._audit(initial_ids, phase, f"initial {stage.name}")
        position = {utterance.id: row for row, utterance in enumerate(phase.train)}
        order = [position[utterance.id] for utterance in train]
        rows = {name: TargetRows(found, order, self.recipe.augment, seed) for name, found in targets.items()}
        fit(
            stage.trained(model),
            UtteranceDataset(
                stage.source(model, train, seed),
                self._labels(train),
                rows,
                self._possible(train),
                _corpus_weights(train, stage.optim.corpus_weights),
            ),
            UtteranceDataset(stage.source(model, dev, NO_VIEWS), self._labels(dev)) if dev else None,
            stage.optim,
            folder,
            self.recipe.runtime,
            seed=seed,
            num_classes=len(self.labels),
            distillation=self.recipe.distillation if targets else None,
            stop_after=phase.stops.get(stage.name),
        )
        ids = tuple(sorted({utterance.id for utterance in train} | set(initial_ids)))
        save_checkpoint(folder, model, self.labels, ids, [utterance.id for utterance in dev])
        (folder / "best.safetensors").unlink()

    def _key(self, stage: Stage, phase: Phase, **more: Any) -> str:
        """Of what a teacher becomes, or, with `more`, of something that it says."""
        return key_of(
            stage=stage.name,
            decides=stage.decided_by(),
            data=[
                to_dict(self.recipe.corpus),
                to_dict(self.recipe.audio),
                PREPARATION,
                list(self.labels.names),
            ],
            split=[[(u.id, u.emotion, u.transcript) for u in part] for part in (phase.train, phase.dev)],
            made=[self.recipe.seed, self.fold.name, phase.name, phase.stops.get(stage.name)],
            runtime=[getattr(self.recipe.runtime, name) for name in CHANGES_NUMBERS],
            more=more,
        )

    def _taken(self, key: str | None, folder: Path) -> bool:
        return self.artifacts is not None and key is not None and self.artifacts.take(key, folder)

    def _audit(self, training_ids: Sequence[str], phase: Phase, name: str) -> None:
        audit_teacher(training_ids, [u.id for u in (*phase.dev, *self.test)], name)

    def _labels(self, utterances: Sequence[Utterance]) -> list[int]:
        return [self.labels.index(utterance.emotion or "") for utterance in utterances]

    def _possible(self, train: Sequence[Utterance]) -> Tensor | None:
        """Which emotions each utterance's corpus has in training (utterances, emotions); None: all have all.

        An emotion that no corpus has there stays possible for all: it is to become improbable, not left to chance.
        """
        found: dict[str | None, set[int]] = defaultdict(set)
        for utterance, label in zip(train, self._labels(train), strict=True):
            found[utterance.corpus].add(label)
        nowhere = set(range(len(self.labels))).difference(*found.values())
        rows = torch.tensor(
            [[i in found[u.corpus] | nowhere for i in range(len(self.labels))] for u in train]
        )
        return None if rows.all() else rows

    def _infer(self, stage: Stage, model: nn.Module, utterances: Sequence[Utterance]) -> dict[str, Tensor]:
        dataset = UtteranceDataset(stage.source(model, utterances, NO_VIEWS), [0] * len(utterances))
        device = device_of(self.recipe.runtime)
        said = infer(stage.trained(model.to(device)), dataset, stage.optim.batch_size, device)
        model.cpu()
        return said

    # --- targets ---------------------------------------------------------------------------------

    def _targets(self, stage: Stage, model: nn.Module, phase: Phase, epochs: int) -> TeacherTargets:
        """What a teacher says of the training utterances, from disk where it is complete."""
        how, hidden = self.recipe.distillation.targets, False
        if stage.name == "acoustic":
            hidden = bool(self.recipe.distillation.hidden)
        path = phase.folder / stage.name / f"targets-{how}.safetensors"
        ids = [utterance.id for utterance in phase.train]
        decides = {"how": how, "folds": self.recipe.distillation.inner_folds, "epochs": epochs}
        views = to_dict(self.recipe.augment) if hidden else None
        key = self._key(stage, phase, **decides, hidden=views) if self.artifacts is not None else None
        if not path.is_file() and not self._taken(key, path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            known = [utterance for utterance in phase.train if stage.uses(utterance)]
            if how == "in-sample":
                said = self._infer(stage, model, known)
            elif stage.name == "acoustic" and self.recipe.acoustic.run is not None:
                raise ConfigError("out-of-fold targets need a teacher trained here: unset acoustic.run")
            else:
                said = self._infer(stage, model, known)
                said["logits"] = self._out_of_fold(stage, known, phase, epochs)
            made = align_to_ids(ids, [utterance.id for utterance in known], said)
            if hidden:
                assert isinstance(stage, SpeechStage)
                made = with_hidden(made, stage, model, phase.train)
            made.write(path, stage.name, how)
        if self.artifacts is not None and key is not None:
            self.artifacts.give(key, [path])
        return TeacherTargets.read(path, ids)

    def _out_of_fold(self, stage: Stage, known: Sequence[Utterance], phase: Phase, epochs: int) -> Tensor:
        """Logits of each utterance by a teacher that has not heard its speaker."""
        speakers = sorted({utterance.speaker for utterance in known})
        inner_folds = min(self.recipe.distillation.inner_folds, len(speakers))
        if inner_folds < 2:
            raise ConfigError("out-of-fold targets need at least two training speakers")
        parts: dict[str, Tensor] = {}
        for inner in range(inner_folds):
            held = set(speakers[inner::inner_folds])
            rest = tuple(utterance for utterance in known if utterance.speaker not in held)
            folder = phase.folder / stage.name / f"inner-{inner + 1}"
            part = Phase(phase.name, rest, (), {stage.name: epochs}, folder)
            model, _ = self._train(stage, part)
            judged = [utterance for utterance in known if utterance.speaker in held]
            logits = self._infer(stage, model, judged)["logits"]
            parts |= {utterance.id: logits[row] for row, utterance in enumerate(judged)}
        return torch.stack([parts[utterance.id] for utterance in known])

    # --- the classifier alone, again -------------------------------------------------------------

    def _refit_classifier(self, stage: Stage, student: nn.Module) -> nn.Module:
        """The student with its classifier fitted again on train and dev, from disk where it is there.

        What dev is then said to be comes from classifiers that have not heard the speaker, so that it can be scored.
        """
        assert isinstance(student, Student)
        folder = self.folder / "refit" / "student"
        if not (folder / "model.json").is_file():
            known = [utterance for utterance in self.train + self.dev if stage.uses(utterance)]
            num_train = sum(stage.uses(utterance) for utterance in self.train)
            rows = self._classifier_inputs(stage, student, known)
            pull = student.config.pull
            dev = torch.arange(num_train, len(known))  # view 0 comes first
            speakers = [utterance.speaker for utterance in known] * (len(rows.labels) // len(known))
            held = [utterance.speaker for utterance in known[num_train:]]
            said = held_out_logits(student.classifier, rows, speakers, held, dev, pull)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._write(known[num_train:], said, folder.parent / "predictions-dev.csv")
            student.classifier = fit_classifier(student.classifier, rows, pull)
            before = load_checkpoint(
                self.folder / "select" / "student"
            ).training_ids  # and what it began from
            ids = tuple(sorted({*before, *(utterance.id for utterance in known)}))
            save_checkpoint(folder, student, self.labels, ids)
        shutil.copyfile(folder.parent / "predictions-dev.csv", self.folder / "predictions-dev.csv")
        say(f"fold {self.fold.name} · refit · student: classifier")
        return load_checkpoint(folder).model

    def _classifier_inputs(
        self, stage: Stage, student: nn.Module, known: Sequence[Utterance]
    ) -> ClassifierInputs:
        """What the classifier is given of each utterance: clean, then as in `REFIT_VIEWS` epochs."""
        seed = stable_seed(self.recipe.seed, self.fold.name, "refit", stage.name)
        source = stage.source(student, known, seed)
        labels = self._labels(known)
        dataset, device = UtteranceDataset(source, labels), device_of(self.recipe.runtime)
        model = stage.trained(student.to(device))
        epochs = [CLEAN, *range(REFIT_VIEWS)]
        inputs = [
            infer(model, dataset, stage.optim.batch_size, device, epoch)["classifier_input"]
            for epoch in epochs
        ]
        student.cpu()
        possible, weights = (self._possible(known), _corpus_weights(known, stage.optim.corpus_weights))
        return ClassifierInputs(
            torch.cat(inputs),
            torch.tensor(labels).repeat(len(epochs)),
            None if possible is None else possible.repeat(len(epochs), 1),
            None if weights is None else weights.repeat(len(epochs)),
        )

    # --- predictions -----------------------------------------------------------------------------

    def _predict(
        self,
        models: Mapping[str, tuple[Stage, nn.Module]],
        phase: Phase,
        split: Sequence[Utterance],
        suffix: str,
    ) -> None:
        """Write what each model of a phase says of a split; the main model's last, which marks the fold done."""
        for name, (stage, model) in models.items():
            known = [utterance for utterance in split if stage.uses(utterance)]
            shared = self.artifacts is not None and name in TEACHERS and name != self.recipe.main_model
            key = self._key(stage, phase, of=[utterance.id for utterance in known]) if shared else None
            if not known or self._taken(key, self.folder):
                continue
            prefix = "predictions" if name == self.recipe.main_model else f"predictions-{name}"
            path = self.folder / f"{prefix}{suffix}.csv"
            self._write(known, self._infer(stage, model, known)["logits"], path)
            if self.artifacts is not None and key is not None:
                self.artifacts.give(key, [path])

    def _write(self, known: Sequence[Utterance], logits: Tensor, path: Path) -> None:
        made = Predictions(
            self.labels,
            tuple(utterance.id for utterance in known),
            (self.fold.name,) * len(known),
            tuple(utterance.speaker for utterance in known),
            tuple(utterance.emotion or "" for utterance in known),
            logits.double().softmax(dim=1).numpy(),
        )
        if path != self.folder / "predictions.csv":
            write_predictions(made, path)
            return
        # It marks the fold done, so what all of its tables are is kept before.
        last = path.with_suffix(".last")
        write_predictions(made, last)
        tables = {table.name: file_sha256(table) for table in sorted(self.folder.glob("predictions*.csv"))}
        write_checksums(self.folder, {**tables, path.name: file_sha256(last)})
        last.replace(path)


def _corpus_weights(train: Sequence[Utterance], power: float) -> Tensor | None:
    """The weight of each utterance in the loss on labels, 1 on average; None: all weigh the same."""
    if not power:
        return None
    sizes = Counter(utterance.corpus for utterance in train)
    weights = torch.tensor([sizes[utterance.corpus] ** -power for utterance in train])
    return weights / weights.mean()
