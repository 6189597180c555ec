"""Reads a run folder and checks it, for every later stage. `training.cross_validation` lists its files."""

import csv
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from emodistill.config import Recipe, load_recipe
from emodistill.corpora.base import Corpus, Utterance, audio_duration_s
from emodistill.corpora.manifest import read_manifest, write_manifest
from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.evaluation.dimension_predictions import DimensionPredictions, read_dimensions
from emodistill.evaluation.known import KNOWN_CSV, KnownPredictions, read_known
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.files import atomic_write
from emodistill.inference.model_card import file_sha256
from emodistill.protocol.folds import Protocol, read_protocol
from emodistill.reading import parse_json

UTTERANCES = "utterances.csv"  # the corpus's manifest with durations, written when the run began
CHECKSUMS = (
    "tables.json"  # in a fold's folder: of its prediction tables; in the run's folder: of `UTTERANCES`
)
EVALUATION = "evaluation.json"  # instead of recipe.toml in a folder that `evaluate` wrote
ALL_DATA = "all_data"  # the key in scores.json of a run that was trained on all data, without dev and test
ALL_FOLD = "all"  # its only fold
TRAIN_TABLE = "predictions-train.csv"  # in this fold's folder: predictions of some training utterances
LABEL_TOLERANCE = 1e-6  # between labels in two files; tables have seven decimals
_RUN_AGAIN = "run the same command again to have it written anew"


@dataclass(frozen=True)
class Run:
    """A training run with its scores, or an evaluation of an existing model. All scores have one protocol."""

    folder: Path
    training_recipe: Recipe | None  # None: the folder holds an evaluation
    protocol: Protocol
    scores: dict[str, Any]  # scores.json

    @property
    def name(self) -> str:
        """The recipe or model, and the folder, for titles."""
        return f"{self.scores['recipe']} ({self.folder.name or self.folder.resolve().name})"

    @property
    def recipe(self) -> Recipe:
        """The training recipe. Raises `ModelError` where the folder holds an evaluation."""
        if self.training_recipe is None:
            raise ModelError(f"'{self.folder}' holds an evaluation, not a training: it has no recipe.toml")
        return self.training_recipe

    @property
    def models(self) -> tuple[str, ...]:
        """The models with test predictions: the main model, then the teachers."""
        return tuple(name for name, entry in self.scores["models"].items() if "test" in entry)

    @property
    def main_model(self) -> str:
        """The model of `predictions.csv`: the student, or the teacher that was trained alone."""
        return self.models[0]

    def title_of(self, model: str) -> str:
        """The name of a model in scores. The only model of an evaluation is "model"."""
        return "model" if self.training_recipe is None else model

    @property
    def has_emotions(self) -> bool:
        """Whether the run predicts emotions. A run that does not has dimensions alone."""
        return self._has_table(table_name(self.main_model, main=self.main_model))

    @property
    def has_dimensions(self) -> bool:
        """Whether the run predicts dimensions."""
        return bool(self.dimension_models())

    def dimension_models(self, split: str = "test") -> tuple[str, ...]:
        """The models with predicted dimensions of a split: the main model first, if it has them."""
        return tuple(
            name
            for name in self.models
            if self._has_table(dimension_table_name(name, split, self.main_model))
        )

    def _has_table(self, name: str) -> bool:
        return name in self.scores["sha256"]

    @property
    def all_data(self) -> dict[str, Any] | None:
        """How a run was trained on all data, and the scores of its crossval; None: it has test scores."""
        return self.scores.get(ALL_DATA)

    @property
    def missing_folds(self) -> tuple[str, ...]:
        """The folds of the protocol that have no scores yet."""
        return tuple(fold.name for fold in self.protocol.folds if fold.name not in self.scores["folds"])

    def checkpoint_folder(self, fold: str | None = None, model: str = "student") -> Path:
        """The folder of a model's final checkpoint in a fold (default: the first).

        Raises `ConfigError` for an unknown fold.
        """
        folds = self.scores["folds"]
        if fold is not None and fold not in folds:
            raise ConfigError(one_of("fold", fold, folds))
        if self.all_data is not None:
            return self.folder / f"fold-{ALL_FOLD}" / "all" / model
        refit = self.recipe.protocol.refit
        has_refit = refit is True or (refit == "classifier" and model == "student")
        return self.folder / f"fold-{fold or folds[0]}" / ("refit" if has_refit else "select") / model

    @cached_property
    def utterances(self) -> Mapping[str, Utterance]:
        """The utterances of the corpus by id, from `utterances.csv`.

        Raises `CorpusError` where the file is damaged, `ModelError` where it is missing or was edited.
        """
        path = self.folder / UTTERANCES
        if not path.is_file():
            raise ModelError(f"'{path}' is missing; {_RUN_AGAIN}: trained models stay")
        utterances = {item.id: item for item in read_manifest(path, anywhere=True)}
        if _recorded_checksum(path) != _facts_sha256(path):
            raise ModelError(
                f"'{path}' was changed after it was written, and not only the paths of its audio; delete it "
                f"and {_RUN_AGAIN}: trained models stay"
            )
        return utterances

    def table(self, model: str | None = None, split: str = "test") -> Predictions:
        """The predictions of a model (default: the main one) on a split, over all folds that have scores.

        Raises `ModelError` with the file and the first difference where the table is not what the run
        predicted: its rows are inconsistent, changed or missing, or belong to another protocol.
        """
        model = model or self.main_model
        path = self.folder / table_name(model, split, self.main_model)
        table = read_predictions(path)
        self._check_rows(table, path, split)
        self._check_unchanged(path)
        if model == self.main_model:
            self._check_complete(table, path, split)
        return table

    def dimension_table(self, model: str | None = None, split: str = "test") -> DimensionPredictions:
        """The predicted dimensions of a model (default: the main one) on a split, over all folds with scores.

        Raises `ModelError` as `table` does, and where a label is not that of the utterance.
        """
        model = model or self.main_model
        path = self.folder / dimension_table_name(model, split, self.main_model)
        table = read_dimensions(path)
        self._check_rows(table, path, split)
        self._check_labels(table, path)
        self._check_unchanged(path)
        if model == self.main_model:
            self._check_complete(table, path, split)
        return table

    def known(self) -> KnownPredictions | None:
        """The main model's test predictions with known utterances; None where the run has none.

        Raises `ModelError` where the table is missing or was changed.
        """
        if KNOWN_CSV not in self.scores["sha256"]:
            return None
        path = self.folder / KNOWN_CSV
        if not path.is_file():
            raise ModelError(f"'{path}' is missing; {_RUN_AGAIN}")
        if file_sha256(path) != self.scores["sha256"][KNOWN_CSV]:
            raise ModelError(f"'{path}' was changed after the run was scored; {_RUN_AGAIN}")
        return read_known(path, self.table().labels)

    def _check_rows(self, table: Predictions | DimensionPredictions, path: Path, split: str) -> None:
        """Check that the protocol has every row's utterance in that split, with that speaker and emotion."""
        expected = {name: set(self.protocol.fold(name).split(split)) for name in self.scores["folds"]}
        emotions = table.emotions if isinstance(table, Predictions) else [None] * len(table)
        rows = zip(table.utterances, table.folds, table.speakers, emotions, strict=True)
        for number, (name, fold, speaker, emotion) in enumerate(rows, start=2):
            where = f"'{path}', row {number}"
            if fold not in expected:
                raise ModelError(f"{where}: {one_of('fold', fold, expected)}; was the file edited?")
            if name not in expected[fold]:
                raise ModelError(
                    f"{where}: '{name}' is not in {split} of fold {fold} under protocol "
                    f"{self.protocol.hash}; was the file edited, or copied from another run?"
                )
            utterance = self.utterances[name]
            if emotion is None and utterance.speaker != speaker:
                raise ModelError(
                    f"{where}: '{name}' has speaker '{speaker}', but {UTTERANCES} has '{utterance.speaker}'; "
                    "was one of them edited?"
                )
            if emotion is not None and (utterance.speaker, utterance.emotion) != (speaker, emotion):
                raise ModelError(
                    f"{where}: '{name}' has emotion '{emotion}' and speaker '{speaker}', but {UTTERANCES} "
                    f"has '{utterance.emotion}' and '{utterance.speaker}'; was one of them edited?"
                )

    def _check_labels(self, table: DimensionPredictions, path: Path) -> None:
        """Check that every row's labels are those of its utterance."""
        for number, name in enumerate(table.utterances, start=2):
            known = self.utterances[name].unit_dimensions()
            for dimension, label in zip(table.dimensions, table.truth[number - 2].tolist(), strict=True):
                expected = known.get(dimension, math.nan)
                is_same = math.isnan(label) and math.isnan(expected)
                if not is_same and not abs(label - expected) <= LABEL_TOLERANCE:
                    raise ModelError(
                        f"'{path}', row {number}: '{name}' has {dimension} {label:g}, but {UTTERANCES} has "
                        f"{expected:g} (from 0 to 1; nan: none); was one of them edited?"
                    )

    def _check_unchanged(self, path: Path) -> None:
        if file_sha256(path) != self.scores["sha256"].get(path.name):
            raise ModelError(
                f"'{path}' was changed after the run was scored: {self._first_change(path)}; {_RUN_AGAIN}"
            )

    def _first_change(self, path: Path) -> str:
        """Where a run's table first differs from the tables of its folds, which it was joined from."""
        parts = [self.folder / f"fold-{fold}" / path.name for fold in self.scores["folds"]]
        for part in parts:
            if not part.is_file():
                return f"the place is unknown, since '{part}', which it was joined from, is missing"
            if not is_unchanged(part):
                return f"'{part}', which it was joined from, was changed too"
        lines_before = [line for part in parts for line in _lines(part)[1:]]
        lines = _lines(path)[1:]
        for number, (line, before) in enumerate(zip_longest(lines, lines_before, fillvalue=""), start=2):
            if line != before:
                return f"row {number} is {_in_quotes(line)}, was {_in_quotes(before)}"
        return "no row, but the header, the line ends or the encoding"

    def _is_expected(self, utterance: Utterance, needs_emotion: bool) -> bool:
        """Whether an utterance has what the main model reads, and where it is needed an emotion."""
        has_input = utterance.transcript if self.main_model == "linguistic" else utterance.path
        return bool(has_input) and (utterance.emotion is not None or not needs_emotion)

    def _check_complete(self, table: Predictions | DimensionPredictions, path: Path, split: str) -> None:
        present = set(zip(table.folds, table.utterances, strict=True))
        missing = [
            (fold, name)
            for fold in self.scores["folds"]
            for name in self.protocol.fold(fold).split(split)
            if (fold, name) not in present
            and self._is_expected(self.utterances[name], isinstance(table, Predictions))
        ]
        if missing:
            fold, name = missing[0]
            raise ModelError(
                f"'{path}' lacks {len(missing)} of the protocol's {split} utterances, first '{name}' of "
                f"fold {fold}; was the file edited? If so, {_RUN_AGAIN}"
            )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


def _in_quotes(line: str) -> str:
    return f"'{line}'" if line else "missing"


# --- checksums -------------------------------------------------------------------------------------


def write_checksums(folder: Path, tables: Mapping[str, str]) -> None:
    """Write the SHA-256 of each table of a folder, by file name."""
    with atomic_write(folder / CHECKSUMS) as partial:
        partial.write_text(json.dumps(dict(tables), indent=1) + "\n", encoding="utf-8")


def is_unchanged(table: Path) -> bool:
    """Whether a fold's table still has the checksum that it was written with."""
    return file_sha256(table) == _recorded_checksum(table)


def _recorded_checksum(table: Path) -> str | None:
    """The checksum of a table in the file beside it, None where that file does not list the table."""
    path = table.parent / CHECKSUMS
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))).get(table.name)
    except (ValueError, TypeError) as error:
        raise ModelError(f"'{path}' is damaged: {error}") from error


def _facts_sha256(manifest: Path) -> str:
    """The checksum of a manifest. A path counts only as present or absent in it, since a corpus may move."""
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        facts = [{**row, "path": bool(row.get("path"))} for row in csv.DictReader(file)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# --- folders ---------------------------------------------------------------------------------------


def table_name(model: str, split: str = "test", main: str = "student") -> str:
    """The file name of a model's predictions on a split; `main` is the run's main model."""
    return f"predictions{'' if model == main else f'-{model}'}{'' if split == 'test' else f'-{split}'}.csv"


def dimension_table_name(model: str, split: str = "test", main: str = "student") -> str:
    """The file name of a model's predicted dimensions on a split; `main` is the run's main model."""
    return f"dimensions{'' if model == main else f'-{model}'}{'' if split == 'test' else f'-{split}'}.csv"


def _advice(folder: Path) -> str:
    """What to name in place of a folder that holds runs and is none; empty if it holds none."""
    if (folder / "ablation.json").is_file():
        return f"; it is a folder of ablate, which 'emodistill report {folder}' shows"
    found = min((path.parent for path in folder.glob("*/recipe.toml")), default=None)
    return "" if found is None else f"; it holds runs, such as '{found}'"


def read_run(folder: Path, needs_scores: bool = True) -> Run:
    """Read a run folder.

    Raises `ModelError` where it is no run folder, not finished, or damaged. Also where it was trained on all
    data, and so has no test scores, unless `needs_scores` is False.
    """
    if not folder.is_dir():
        raise ModelError(
            f"no run folder '{folder}'; make one with: emodistill crossval RECIPE --out {folder}"
        )
    is_evaluation = (folder / EVALUATION).is_file()
    for name in () if is_evaluation else ("recipe.toml", "protocol.json"):
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' is not a run folder: it has no {name}{_advice(folder)}")
    path = folder / "scores.json"
    if not path.is_file():
        raise ModelError(
            f"'{folder}' has no scores.json: the run is not finished; run the same command again"
        )
    try:
        scores = dict(parse_json(path.read_bytes()))
        folds, models = list(scores["folds"]), dict(scores["models"])
        scores["sha256"] = dict(scores["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"'{path}' is damaged ({type(error).__name__}: {error}); {_RUN_AGAIN}") from error
    protocol = read_protocol(folder / "protocol.json")
    known_folds = [fold.name for fold in protocol.folds]
    for fold in folds:
        if fold not in known_folds:
            raise ModelError(f"'{path}': {one_of('fold', fold, known_folds)} of protocol.json")
    if needs_scores and ALL_DATA in scores:
        raise ModelError(
            f"'{folder}' was trained on all data and has no scores of its own: no test speakers are left. "
            f"Give the crossval run that its scores come from: {scores[ALL_DATA]['crossval']}"
        )
    is_scored = any("test" in entry for entry in models.values())
    if not folds or not (is_scored or ALL_DATA in scores):
        raise ModelError(
            f"'{path}' holds no scores on test: the run is not finished; run the same command again"
        )
    recipe = None if is_evaluation else load_recipe(folder / "recipe.toml")
    return Run(folder, recipe, protocol, scores)


def write_utterances(corpus: Corpus, folder: Path) -> None:
    """Write the corpus's manifest, with durations, into a run folder: later stages score by its columns."""
    measured = tuple(
        replace(
            item,
            corpus=item.corpus or corpus.name,
            duration_s=audio_duration_s(item) if item.path else None,
        )
        for item in corpus
    )
    with atomic_write(folder / UTTERANCES) as partial:
        write_manifest(replace(corpus, utterances=measured), partial)
        write_checksums(folder, {UTTERANCES: _facts_sha256(partial)})
