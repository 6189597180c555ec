"""A run folder as every later stage reads it, checked: `training.crossval` says what is in it."""

import csv
import hashlib
import json
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
from emodistill.evaluation.predictions import Predictions, read_predictions
from emodistill.files import atomic_write
from emodistill.inference.model_card import file_sha256
from emodistill.protocol.folds import Protocol, read_protocol

UTTERANCES = "utterances.csv"  # what is known of each utterance when the run began, its duration among it
SEAL = "tables.json"  # the hashes of a fold's tables; in the run's folder, that of `UTTERANCES`
EVALUATION = "evaluation.json"  # stands for the recipe where a model was scored and none was trained


@dataclass(frozen=True)
class Run:
    """What was trained and scored, or scored alone; every score lies under one protocol."""

    folder: Path
    trained: Recipe | None  # None: an evaluation of a model
    protocol: Protocol
    scores: dict[str, Any]

    @property
    def name(self) -> str:
        """How a table or page calls it: the recipe or model, and the folder."""
        return f"{self.scores['recipe']} ({self.folder.name or self.folder.resolve().name})"

    @property
    def recipe(self) -> Recipe:
        """The recipe; raises `ModelError` where there is none."""
        if self.trained is None:
            raise ModelError(f"'{self.folder}' holds an evaluation, not a training: it has no recipe.toml")
        return self.trained

    @property
    def models(self) -> tuple[str, ...]:
        """The student and the teachers that it heard, those with test predictions; the main model first."""
        return tuple(name for name, entry in self.scores["models"].items() if "test" in entry)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The folds of the protocol that have no scores yet."""
        return tuple(fold.name for fold in self.protocol.folds if fold.name not in self.scores["folds"])

    @property
    def main_model(self) -> str:
        """Whose table `predictions.csv` is: the student, or the teacher where one was trained alone."""
        return self.models[0]

    def final(self, fold: str | None = None, model: str = "student") -> Path:
        """The checkpoint folder of a fold's final model, the student or a teacher; by default of the first fold."""
        folds = self.scores["folds"]
        if fold is not None and fold not in folds:
            raise ConfigError(one_of("fold", fold, folds))
        refit = self.recipe.protocol.refit
        trained_again = refit is True or (refit == "classifier" and model == "student")
        return self.folder / f"fold-{fold or folds[0]}" / ("refit" if trained_again else "select") / model

    @cached_property
    def utterances(self) -> Mapping[str, Utterance] | None:
        """What is known of each utterance by id; None in a folder of an older version.

        Raises `CorpusError` where the file is damaged, `ModelError` where it was edited.
        """
        path = self.folder / UTTERANCES
        if not path.is_file():
            return None
        known = {item.id: item for item in read_manifest(path)}
        written = _kept(path)
        if written is not None and written != _facts_sha256(path):
            raise ModelError(
                f"'{path}' was changed after it was written, and not just where audio is; delete it and run the same "
                "command again to have it written anew: what is trained stays"
            )
        return known

    def table(self, model: str | None = None, split: str = "test") -> Predictions:
        """The predictions of a model, by default the main one, on a split over all folds that are done.

        Raises `ModelError` naming the file and the first difference where it does not hold what the run
        predicted: rows that are inconsistent, changed, missing, or of other utterances than the protocol's.
        """
        model = model or self.main_model
        path = self.folder / table_name(model, split, self.main_model)
        table = read_predictions(path)
        self._check_rows(table, path, split)
        self._check_unchanged(path)
        if model == self.main_model:
            self._check_whole(table, path, split)
        return table

    def _check_rows(self, table: Predictions, path: Path, split: str) -> None:
        """Every row is of an utterance that the protocol has there, with the speaker and emotion it has."""
        expected = {name: set(self.protocol.fold(name).split(split)) for name in self.scores["folds"]}
        rows = zip(table.utterances, table.folds, table.speakers, table.emotions, strict=True)
        for number, (utterance, fold, speaker, emotion) in enumerate(rows, start=2):
            where = f"'{path}', row {number}"
            if fold not in expected:
                raise ModelError(f"{where}: {one_of('fold', fold, expected)}; was the file edited?")
            if utterance not in expected[fold]:
                raise ModelError(
                    f"{where}: '{utterance}' is not in {split} of fold {fold} under protocol "
                    f"{self.protocol.hash}; was the file edited, or is it another run's?"
                )
            known = None if self.utterances is None else self.utterances.get(utterance)
            if known is not None and (known.speaker, known.emotion) != (speaker, emotion):
                raise ModelError(
                    f"{where}: '{utterance}' is {emotion}, by speaker '{speaker}', but {UTTERANCES} says "
                    f"{known.emotion}, by '{known.speaker}'; was one of them edited?"
                )

    def _check_unchanged(self, path: Path) -> None:
        written = self.scores.get("sha256", {}).get(path.name)
        if written is None or file_sha256(path) == written:
            return
        raise ModelError(
            f"'{path}' was changed after the run was scored: {self._first_change(path)}; run the same command "
            "again to have it written anew"
        )

    def _first_change(self, path: Path) -> str:
        """Where a run's table differs from those of its folds, that it was joined of."""
        parts = [self.folder / f"fold-{fold}" / path.name for fold in self.scores["folds"]]
        for part in parts:
            if not part.is_file():
                return f"'{part}', which it was made of, is gone, so where is not known"
            if sealed(part) is False:
                return f"so was '{part}', which it was made of"
        before = [line for part in parts for line in _lines(part)[1:]]
        now = _lines(path)[1:]
        for number, (line, was) in enumerate(zip_longest(now, before, fillvalue=""), start=2):
            if line != was:
                return f"row {number} is {_quoted(line)}, was {_quoted(was)}"
        return "no row, but the head line, line ends or encoding"

    def _classifier_inputs(self, utterance: Utterance) -> bool:
        """Whether the main model has anything to judge an utterance by."""
        return bool(utterance.transcript if self.main_model == "linguistic" else utterance.path)

    def _check_whole(self, table: Predictions, path: Path, split: str) -> None:
        there = set(zip(table.folds, table.utterances, strict=True))
        known = self.utterances
        missing = [
            (fold, name)
            for fold in self.scores["folds"]
            for name in self.protocol.fold(fold).split(split)
            if (fold, name) not in there
            and (known is None or name not in known or self._classifier_inputs(known[name]))
        ]
        if missing:
            fold, name = missing[0]
            raise ModelError(
                f"'{path}' lacks {len(missing)} of the protocol's {split} utterances, first '{name}' of "
                f"fold {fold}; was the file edited? Run the same command again to have it written anew"
            )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


def _quoted(line: str) -> str:
    return f"'{line}'" if line else "not there"


def write_checksums(folder: Path, tables: Mapping[str, str]) -> None:
    """Keep the hashes of a folder's tables by name."""
    with atomic_write(folder / SEAL) as partial:
        partial.write_text(json.dumps(dict(tables), indent=1) + "\n", encoding="utf-8")


def sealed(table: Path) -> bool | None:
    """Whether a table is what it was when it was written; None: an older version did not keep that."""
    kept = _kept(table)
    return None if kept is None else file_sha256(table) == kept


def _kept(table: Path) -> str | None:
    """The hash that a folder keeps of a table, "" where it keeps none of this one; None: it keeps none at all."""
    path = table.parent / SEAL
    if not path.is_file():
        return None
    try:
        return str(dict(json.loads(path.read_text(encoding="utf-8"))).get(table.name, ""))
    except (ValueError, TypeError) as error:
        raise ModelError(f"'{path}' is damaged: {error}") from error


def _facts_sha256(manifest: Path) -> str:
    """Of what a manifest says of its utterances, of their audio just whether there is any: a corpus may be moved."""
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        facts = [{**row, "path": bool(row.get("path"))} for row in csv.DictReader(file)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def table_name(model: str, split: str = "test", main: str = "student") -> str:
    """The file of a model's predictions on a split; `main` is the model that the run is about."""
    return f"predictions{'' if model == main else f'-{model}'}{'' if split == 'test' else f'-{split}'}.csv"


def read_run(folder: Path) -> Run:
    """Read a run folder; raises `ModelError` where it is not one, not finished, or damaged."""
    if not folder.is_dir():
        raise ModelError(
            f"no run folder '{folder}'; make one with: emodistill crossval RECIPE --out {folder}"
        )
    evaluated = (folder / EVALUATION).is_file()
    for name in () if evaluated else ("recipe.toml", "protocol.json"):
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' is not a run folder: it has no {name}")
    path = folder / "scores.json"
    if not path.is_file():
        raise ModelError(
            f"'{folder}' has no scores.json: the run is not finished; run the same command again"
        )
    try:
        scores = dict(json.loads(path.read_text(encoding="utf-8")))
        folds, models = list(scores["folds"]), dict(scores["models"])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"'{path}' is damaged ({type(error).__name__}: {error}); run the same command again to have it "
            "written anew"
        ) from error
    protocol = read_protocol(folder / "protocol.json")
    for fold in folds:
        if fold not in [item.name for item in protocol.folds]:
            raise ModelError(
                f"'{path}': {one_of('fold', fold, [item.name for item in protocol.folds])} of protocol.json"
            )
    if not folds or not any("test" in entry for entry in models.values()):
        raise ModelError(
            f"'{path}' holds no scores on test: the run is not finished; run the same command again"
        )
    return Run(folder, None if evaluated else load_recipe(folder / "recipe.toml"), protocol, scores)


def write_utterances(corpus: Corpus, folder: Path) -> None:
    """Keep what is known of each utterance in a run folder: scores are broken down by it later."""
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
