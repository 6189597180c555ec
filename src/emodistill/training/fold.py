"""One fold from end to end: teachers, targets, student, predictions.

    fold folder/
      select/     trained on train, scored on dev
      refit/      protocol.refit = true: trained again on train and dev, for the epochs that dev chose;
                  protocol.refit = "classifier": the student alone, its classifier fitted again on both
        prosodic/ linguistic/ acoustic/   checkpoint, fit.json, cost.json, targets-*.safetensors
        words/                            student.words_first: what the student starts from
        student/                          checkpoint, fit.json, cost.json
      predictions.csv  predictions-dev.csv  predictions-<teacher>.csv  predictions-<teacher>-dev.csv
      dimensions.csv  dimensions-dev.csv  …   models with dimensions: labels and predictions, without a voice
      known.csv     a student with voices: test predictions with known utterances of the speaker
      known-predictions.csv  known-predictions-dev.csv  their probabilities, with ten known
      tables.json   the checksums of these tables

Each stage reads the files of the one before. A stage whose files are complete is not run again, so a run that
was killed continues where it stopped. Runs of one grid share teachers, their targets and their predictions
through the artifact cache.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emodistill.config import TEACHERS, WORDS, Recipe, stable_seed
from emodistill.console import say
from emodistill.corpora import Corpus, Utterance
from emodistill.evaluation.known import KNOWN_PREDICTIONS, KNOWN_PREDICTIONS_DEV
from emodistill.features.preparation import PREPARATION
from emodistill.files import copy_file
from emodistill.labels import LabelSet
from emodistill.models.checkpoint import load_checkpoint, save_checkpoint
from emodistill.models.linguistic import LinguisticTeacher
from emodistill.models.lora import adapters
from emodistill.models.student import Student
from emodistill.protocol.audit import audit_teacher, ids_of
from emodistill.protocol.folds import Fold
from emodistill.training.artifact_cache import ArtifactCache, cache_key, to_dict
from emodistill.training.cost import measured
from emodistill.training.data import UtteranceDataset
from emodistill.training.fit import FitResult, TrainingData, device_of, fit, infer
from emodistill.training.fold_tables import FoldTables
from emodistill.training.labels import dimension_labels, label_indices, label_weights, training_targets
from emodistill.training.refit import collect_classifier_inputs, fit_output_layers, held_out_outputs
from emodistill.training.stages import CLEAN_ONLY, SpeechStage, Stage, make_stage
from emodistill.training.target_checks import usable_voted
from emodistill.training.targets import (
    TeacherTargets,
    align_to_ids,
    heads_for,
    target_source,
    usable_further,
    with_hidden_states,
    with_words,
)
from emodistill.training.voices import known_speakers, report_unknown_speakers
from emodistill.training.words_first import learned_from, recipe_after_words, words_recipe

DEV = "-dev"  # ends the names of tables of dev
NUM_TRAIN_PREDICTIONS = 256  # at most, of a model that is trained on all data
# Fields of `runtime` that may change a trained model.
RUNTIME_FIELDS = ("accelerator", "devices", "strategy", "precision", "threads")


@dataclass(frozen=True)
class Phase:
    """One pass over a fold's stages."""

    name: str  # "select" or "refit"
    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]  # empty in refit
    epochs: Mapping[str, int]  # stage -> number of epochs, where dev has chosen it already
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
        further: Sequence[Utterance] = (),
        voted: Sequence[Utterance] = (),
    ) -> None:
        """Prepare a fold; `further` is transcribed speech without labels, see `usable_further`.

        `voted` are utterances with votes and no label, see `usable_voted`.
        """
        self.labels = labels if recipe.has_emotions else LabelSet(())
        self.recipe, self.fold = recipe, fold
        self.folder, self.artifacts = folder, artifacts
        self.tables = FoldTables(folder, self.labels, fold.name, recipe.dimensions)
        by_id = {utterance.id: utterance for utterance in corpus}
        self.train, self.dev, self.test = (
            tuple(by_id[utterance_id] for utterance_id in fold.split(split))
            for split in ("train", "dev", "test")
        )
        held_out = (*self.dev, *self.test)
        self.train += usable_voted(voted, self.train, held_out, recipe.protocol.kind)
        self.further = usable_further(further, held_out)
        if num_left_out := len(further) - len(self.further):
            say(
                f"fold {fold.name}: left out {num_left_out} further utterances, of dev or test speakers or "
                "with their words"
            )
        self.teachers = recipe.distillation.teachers

    def run(self) -> None:
        """Train all that is missing, and write the predictions of the student and of every teacher."""
        if self.tables.are_complete:
            return
        models, epochs = self._select()
        final = self._select_phase
        if self.recipe.protocol.refit is True:
            final = Phase("refit", self.train + self.dev, (), epochs, self.folder / "refit")
            models, _ = self._run_phase(final)
        if self._has_known:
            self._write_known(*models["student"], self.test, KNOWN_PREDICTIONS, with_table=True)
        self._write_predictions(models, final, self.test, "")

    def run_on_dev(self) -> None:
        """Train all that dev chooses, and write the predictions of dev alone.

        No model predicts test. `run` continues from here.
        """
        if not self.tables.are_complete_on_dev:
            self._select()
            self.tables.finish_on_dev()

    def run_on_all(self, epochs: Mapping[str, int]) -> None:
        """Train every model on the training split for these epochs, where no dev and no test is left."""
        if not self.tables.are_complete_on_dev:
            models, _ = self._run_phase(Phase("all", self.train, (), epochs, self.folder / "all"))
            stage, model = models[self.recipe.main_model]
            usable = [item for item in self.train[: len(self.fold.train)] if stage.can_use(item)]
            sample = usable[:: -(-len(usable) // NUM_TRAIN_PREDICTIONS)]
            self.tables.write(sample, self._infer(stage, model, sample), "-train")
            self.tables.finish_on_dev()

    @property
    def _has_known(self) -> bool:
        """Whether tables with known utterances are written: they have emotions alone, no dimensions."""
        return self.recipe.voice is not None and bool(len(self.labels))

    @property
    def _select_phase(self) -> Phase:
        return Phase("select", self.train, self.dev, {}, self.folder / "select")

    def _select(self) -> tuple[dict[str, tuple[Stage, nn.Module]], dict[str, int]]:
        """Every model after dev has chosen it, and its number of epochs. Writes the predictions of dev."""
        self.folder.mkdir(parents=True, exist_ok=True)
        models, epochs = self._run_phase(self._select_phase)
        self._write_predictions(models, self._select_phase, self.dev, DEV)
        if self.recipe.protocol.refit == "classifier":
            stage, student = models["student"]
            models["student"] = (stage, self._refit_classifier(stage, student))
        elif self._has_known:
            self._write_known(*models["student"], self.dev, KNOWN_PREDICTIONS_DEV, with_table=False)
        return models, epochs

    def _acoustic_folder(self, phase: str) -> Path | None:
        """The folder of the acoustic teacher of a phase, where it comes from another run."""
        run = self.recipe.acoustic.run
        return None if run is None else Path(run) / f"fold-{self.fold.name}" / phase / "student"

    # --- stages ----------------------------------------------------------------------------------

    def _run_phase(self, phase: Phase) -> tuple[dict[str, tuple[Stage, nn.Module]], dict[str, int]]:
        """Every trained model of a phase with its stage, and the number of epochs of each."""
        models: dict[str, tuple[Stage, nn.Module]] = {}
        epochs: dict[str, int] = {}
        targets: dict[str, TeacherTargets] = {}
        for name in self.teachers:
            stage = make_stage(name, self.recipe, self.labels)
            model, epochs[name] = self._train(stage, phase)
            models[name] = (stage, model)
            if self.recipe.student is None:
                continue
            targets[name] = self._targets(stage, model, phase, epochs[name])
        if self.recipe.student is not None:
            recipe = self.recipe
            if (first := words_recipe(recipe)) is not None:
                stage = make_stage(WORDS, first, self.labels, heads_for(first, targets))
                _, epochs[WORDS] = self._train(stage, phase, targets)
                recipe = recipe_after_words(recipe, str(phase.folder / WORDS))
            student = make_stage("student", recipe, self.labels, heads_for(recipe, targets))
            model, epochs["student"] = self._train(student, phase, targets)
            models["student"] = (student, model)
        return models, epochs

    def _train(
        self, stage: Stage, phase: Phase, targets: Mapping[str, TeacherTargets] | None = None
    ) -> tuple[nn.Module, int]:
        """A stage's trained model and its number of epochs, from disk where the checkpoint is complete."""
        folder = phase.folder / stage.name
        ready = self._acoustic_folder(phase.name) if stage.name == "acoustic" else None
        if ready is not None:
            checkpoint = load_checkpoint(ready)
            self._audit(checkpoint.training_ids, phase, stage.name)
            return checkpoint.model, 0
        content = learned_from(stage, phase.train, self.further)
        key = self._cache_key(stage, phase, **content) if stage.name in (*TEACHERS, WORDS) else None
        if not (folder / "model.json").is_file() and not self._fetch(key, folder):
            self._train_new(stage, phase, folder, targets or {})
        (folder / "best.safetensors").unlink(missing_ok=True)  # of a run that was killed after the checkpoint
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith("targets")]
        self._store(key, files)
        checkpoint = load_checkpoint(folder)
        self._audit(checkpoint.training_ids, phase, stage.name)
        result = FitResult.read(folder / "fit.json")
        dev = "" if result.dev_ua is None else f", dev UA {100 * result.dev_ua:.2f} %"
        dev += "" if result.dev_ccc is None else f", dev CCC {result.dev_ccc:.3f}"
        epochs = f"{result.epochs} epoch{'s' * (result.epochs != 1)}"
        say(f"fold {self.fold.name}, phase {phase.name}: trained {stage.name}, {epochs}{dev}")
        return checkpoint.model, result.epochs

    def _train_new(
        self, stage: Stage, phase: Phase, folder: Path, targets: Mapping[str, TeacherTargets]
    ) -> None:
        seed = stable_seed(self.recipe.seed, self.fold.name, phase.name, stage.name)
        labelled = [utterance for utterance in phase.train if stage.can_learn_from(utterance)]
        dev = [utterance for utterance in phase.dev if stage.can_use(utterance)]
        torch.manual_seed(seed)
        model, initial_ids = stage.initialise(labelled)
        self._audit(initial_ids, phase, f"initial {stage.name}")
        voice = stage.voice if isinstance(stage, SpeechStage) else None
        if voice is not None:
            report_unknown_speakers(labelled)
        own = {str(name): targets[name] for name in stage.recipe.distillation.teachers if name in targets}
        train = [*labelled, *(self.further if "linguistic" in own else ())]
        emotions = {item.id: item.emotion for item in (*phase.train, *self.further)}
        given = (train, emotions, self.labels, stage.recipe, seed, voice)
        target_sources = {name: target_source(item, *given) for name, item in own.items()}
        train_data = UtteranceDataset(
            stage.source(model, train, seed),
            label_indices(train, self.labels),
            target_sources,
            speakers=known_speakers(train),
            **training_targets(train, self.labels, stage.optim, self.recipe.dimensions),
        )
        dev_data = None
        if dev:
            dev_data = UtteranceDataset(
                stage.source(model, dev, CLEAN_ONLY),
                label_indices(dev, self.labels),
                weights=label_weights(dev, 0.0) if len(self.labels) else None,
                speakers=known_speakers(dev),
                dimensions=dimension_labels(dev, self.recipe.dimensions),
            )
        with adapters(model, seed):
            fit(
                stage.trained_part(model),
                TrainingData(train_data, dev_data, len(self.labels), voice),
                stage.optim,
                folder,
                self.recipe.runtime,
                seed=seed,
                distillation=stage.recipe.distillation if stage.name in ("student", WORDS) else None,
                stop_after=phase.epochs.get(stage.name),
            )
        training_ids = tuple(sorted({utterance.id for utterance in train} | set(initial_ids)))
        save_checkpoint(folder, model, self.labels, training_ids, [utterance.id for utterance in dev])

    def _audit(self, training_ids: Sequence[str], phase: Phase, name: str) -> None:
        held_out = (*phase.dev, *self.test)
        names = {known for item in held_out for known in ids_of(item, self.recipe.corpus.name)}
        audit_teacher(training_ids, names, name)

    def _infer(self, stage: Stage, model: nn.Module, utterances: Sequence[Utterance]) -> dict[str, Tensor]:
        dataset = UtteranceDataset(stage.source(model, utterances, CLEAN_ONLY), [0] * len(utterances))
        device = device_of(self.recipe.runtime)
        outputs = infer(stage.trained_part(model.to(device)), dataset, stage.optim.batch_size, device)
        model.cpu()
        return outputs

    # --- the artifact cache ----------------------------------------------------------------------

    def _cache_key(self, stage: Stage, phase: Phase, **output: Any) -> str | None:
        """The key of a teacher's checkpoint, or with `output` of one of its outputs. None: no cache."""
        if self.artifacts is None:
            return None
        recipe = self.recipe
        # No teacher learns from these. They are in the key of its targets.
        corpus = {**to_dict(recipe.corpus), "words": None, "further": None, "further_words": None}
        del corpus["scale"]  # only dimensions have one, and theirs are brought to it
        if recipe.dimensions:
            splits = [(u.id, u.unit_dimensions()) for u in (*phase.train, *phase.dev)]
            output["dimensions"] = [recipe.targets, splits]
        votes = {}
        if stage.optim.targets == "votes":
            votes["votes"] = [utterance.votes for utterance in phase.train]
        return cache_key(
            stage=stage.name,
            settings=stage.deciding_settings(),
            data=[corpus, to_dict(recipe.audio), PREPARATION, list(self.labels.names)],
            split=[[(u.id, u.emotion, u.transcript) for u in part] for part in (phase.train, phase.dev)],
            **votes,
            training=[recipe.seed, self.fold.name, phase.name, phase.epochs.get(stage.name)],
            runtime=[getattr(recipe.runtime, name) for name in RUNTIME_FIELDS],
            output=output,
        )

    def _fetch(self, key: str | None, folder: Path) -> bool:
        return self.artifacts is not None and key is not None and self.artifacts.fetch(key, folder)

    def _store(self, key: str | None, files: Iterable[Path]) -> None:
        if self.artifacts is not None and key is not None:
            self.artifacts.store(key, files)

    # --- targets ---------------------------------------------------------------------------------

    def _targets(self, stage: Stage, model: nn.Module, phase: Phase, epochs: int) -> TeacherTargets:
        """A teacher's outputs for the utterances that the student learns from.

        They come from disk where the file is complete. On further speech, the linguistic teacher alone has
        outputs.
        """
        settings, method = self.recipe.distillation, self.recipe.distillation.targets
        needs_hidden = stage.name == "acoustic" and bool(settings.hidden)
        needs_words = stage.name == "linguistic" and bool(settings.words or settings.word_contrast)
        further = self.further if "linguistic" in self.teachers else ()
        path = phase.folder / stage.name / f"targets-{method}.safetensors"
        learners = (*phase.train, *further)
        ids = [utterance.id for utterance in learners]
        key = self._cache_key(
            stage,
            phase,
            method=method,
            folds=settings.inner_folds,
            epochs=epochs,
            hidden=self.recipe.augment.key_settings() if needs_hidden else None,
            further=[(item.id, item.transcript, str(item.path)) for item in further],
            words=[list(map(astuple, item.words)) for item in learners] if needs_words else None,
        )
        if not path.is_file() and not self._fetch(key, path.parent):
            with measured(path):
                own = [utterance for utterance in phase.train if stage.can_use(utterance)]
                usable = [*own, *(further if stage.name == "linguistic" else ())]
                outputs = self._infer(stage, model, usable)
                if method != "in-sample":
                    for name, values in self._out_of_fold_outputs(stage, own, phase, epochs).items():
                        outputs[name][: len(own)] = values
                targets = align_to_ids(ids, [utterance.id for utterance in usable], outputs)
                if needs_words:
                    assert isinstance(model, LinguisticTeacher)
                    targets = with_words(targets, model, usable, self.recipe.audio)
                if needs_hidden:
                    assert isinstance(stage, SpeechStage)
                    targets = with_hidden_states(targets, stage, model, phase.train)
            targets.write(path, stage.name, method)  # after its cost, because it says that both are there
        self._store(key, path.parent.glob(f"{path.stem}.*"))
        return TeacherTargets.read(path, ids)

    def _out_of_fold_outputs(
        self, stage: Stage, utterances: Sequence[Utterance], phase: Phase, epochs: int
    ) -> dict[str, Tensor]:
        """Logits and dimensions of utterances, each by a teacher trained without the utterance's speaker."""
        speakers = sorted({utterance.speaker for utterance in utterances})
        inner_folds = min(self.recipe.distillation.inner_folds, len(speakers))
        names = ("logits", "dimensions") if self.recipe.dimensions else ("logits",)
        row_of = {utterance.id: row for row, utterance in enumerate(utterances)}
        collected: dict[str, dict[int, Tensor]] = {name: {} for name in names}
        for inner in range(inner_folds):
            held_out = set(speakers[inner::inner_folds])
            rest = tuple(utterance for utterance in utterances if utterance.speaker not in held_out)
            folder = phase.folder / stage.name / f"inner-{inner + 1}"
            model, _ = self._train(stage, Phase(phase.name, rest, (), {stage.name: epochs}, folder))
            part = [utterance for utterance in utterances if utterance.speaker in held_out]
            outputs = self._infer(stage, model, part)
            for name in names:
                collected[name] |= {row_of[item.id]: outputs[name][row] for row, item in enumerate(part)}
        return {name: torch.stack([rows[row] for row in sorted(rows)]) for name, rows in collected.items()}

    # --- the classifier, fitted again ------------------------------------------------------------

    def _refit_classifier(self, stage: Stage, student: nn.Module) -> nn.Module:
        """The student with classifier and regressor fitted again on train and dev, or from disk.

        The predictions of dev are those of layers that were fitted without the speaker, so dev can be scored.
        """
        assert isinstance(student, Student)
        folder = self.folder / "refit" / "student"
        names = [f"predictions{DEV}"] if len(self.labels) else []
        names += [f"dimensions{DEV}"] if self.recipe.dimensions else []
        names += [KNOWN_PREDICTIONS_DEV.removesuffix(".csv")] if self._has_known else []
        tables = [folder.parent / f"{name}.csv" for name in names]
        if not all(path.is_file() for path in (folder / "model.json", *tables)):
            usable = [utterance for utterance in self.train + self.dev if stage.can_learn_from(utterance)]
            num_train = sum(stage.can_learn_from(utterance) for utterance in self.train)
            seed = stable_seed(self.recipe.seed, self.fold.name, "refit", stage.name)
            with measured(folder):
                inputs = collect_classifier_inputs(stage, student, usable, seed, num_train)
                dev_rows = torch.arange(num_train, len(usable))  # the clean view comes first
                if self._has_known:
                    assert inputs.first_known is not None
                    outputs = held_out_outputs(student, inputs, inputs.first_known + dev_rows)
                    known = folder.parent / KNOWN_PREDICTIONS_DEV
                    self.tables.write_emotions(usable[num_train:], outputs["logits"], known)
                outputs = held_out_outputs(student, inputs, dev_rows)
                self.tables.write(usable[num_train:], outputs, DEV, folder.parent)
                fit_output_layers(student, inputs)
            # Those of the student before include the ids of the model that it started from.
            seen_before = load_checkpoint(self.folder / "select" / "student").training_ids
            training_ids = tuple(sorted({*seen_before, *(utterance.id for utterance in usable)}))
            save_checkpoint(folder, student, self.labels, training_ids)
        for table in tables:
            copy_file(table, self.folder / table.name)
        layers = ["classifier"] * bool(len(self.labels)) + ["regressor"] * bool(self.recipe.dimensions)
        fitted = " and ".join(layers)
        say(f"fold {self.fold.name}, phase refit: fitted the student's {fitted} on train and dev")
        return load_checkpoint(folder).model

    # --- predictions -----------------------------------------------------------------------------

    def _write_predictions(
        self,
        models: Mapping[str, tuple[Stage, nn.Module]],
        phase: Phase,
        split: Sequence[Utterance],
        suffix: str,
    ) -> None:
        """Write the predictions of each model of a phase for a split. The main model's table comes last."""
        for name, (stage, model) in models.items():
            usable = [utterance for utterance in split if stage.can_use(utterance)]
            is_shared = name in TEACHERS and name != self.recipe.main_model
            key = self._cache_key(stage, phase, of=[item.id for item in usable]) if is_shared else None
            if not usable or self._fetch(key, self.folder):
                continue
            own_suffix = suffix if name == self.recipe.main_model else f"-{name}{suffix}"
            self._store(key, self.tables.write(usable, self._infer(stage, model, usable), own_suffix))

    def _write_known(
        self, stage: Stage, student: nn.Module, split: Sequence[Utterance], name: str, with_table: bool
    ) -> None:
        """Write probabilities with known utterances of the speaker; `with_table`: known.csv too."""
        usable = [item for item in split if stage.can_use(item) and item.emotion is not None]
        if not usable:
            return
        outputs = self._infer(stage, student, usable)
        self.tables.write_known(student, outputs, usable, self.recipe, name, with_table)
