"""The folder that `evaluate` writes, see `evaluation_run`: its settings, tables and scores."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from emodistill.corpora import Corpus
from emodistill.evaluation.dimension_predictions import DimensionPredictions, write_dimensions
from emodistill.evaluation.dimension_scores import summarise_dimensions
from emodistill.evaluation.known import KNOWN_CSV, KNOWN_PREDICTIONS, Count, KnownPredictions, write_known
from emodistill.evaluation.known_scores import score_known, write_known_tables
from emodistill.evaluation.predictions import Predictions, write_predictions
from emodistill.evaluation.run import (
    EVALUATION,
    dimension_table_name,
    read_run,
    table_name,
    write_checksums,
    write_utterances,
)
from emodistill.files import atomic_write, copy_file
from emodistill.inference.model_card import file_sha256
from emodistill.labels import LabelSet
from emodistill.protocol.folds import Fold, Protocol
from emodistill.training.evaluated_models import Floats

FOLD = "all"
SeenRule = Literal["refuse", "leave-out", "allow"]


@dataclass(frozen=True)
class Evaluation:
    """The settings of an evaluation, kept as `evaluation.json`."""

    model: str
    kind: str
    sha256: str | None  # of the model's weights, where they are one file
    corpus: str
    mapping: dict[str, str | None]  # the model's name -> emotion; None: the name is left out
    emotions: tuple[str, ...]  # that are scored
    seen: SeenRule
    known: tuple[Count, ...] | None = None  # numbers of known utterances; None: plain scores alone
    dimensions: tuple[str, ...] = ()  # that are scored
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> number of utterances

    def to_dict(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        return {
            "model": self.model,
            "kind": self.kind,
            "sha256": self.sha256,
            "corpus": self.corpus,
            "mapping": dict(self.mapping),
            "emotions": list(self.emotions),
            "heard": self.seen,
            "known": None if self.known is None else list(self.known),
            "left_out": dict(self.left_out),
            "dimensions": list(self.dimensions),
        }


class KnownTables(NamedTuple):
    """The predictions with known utterances."""

    table: KnownPredictions
    probabilities: Floats | None  # (utterances, emotions), see `KnownResult`


def write_folder(
    evaluation: Evaluation,
    corpus: Corpus,
    scored: LabelSet,
    probabilities: Floats,
    dimensions: Floats,
    allowed_leaks: tuple[str, ...],
    out: Path,
    known: KnownTables | None,
) -> None:
    """Write the folder of an evaluation.

    `corpus` are the utterances with a prediction, `probabilities` (utterances, emotions) those of the scored
    emotions, and `dimensions` (utterances, dimensions) those of `evaluation.dimensions`.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").unlink(missing_ok=True)  # written last: a folder that has it is complete
    (out / KNOWN_PREDICTIONS).unlink(missing_ok=True)  # of an earlier evaluation
    ids = tuple(item.id for item in corpus)
    protocol = Protocol(corpus.name, "all utterances are test", (Fold(FOLD, (), (), ids),), allowed_leaks)
    protocol.write(out / "protocol.json")
    write_utterances(corpus, out)
    table = Predictions(
        scored, ids, (FOLD,) * len(ids), tuple(item.speaker for item in corpus),
        tuple(item.emotion or "" for item in corpus), probabilities,
    )  # fmt: skip
    checksums, summary = _write_tables(evaluation, corpus, table, dimensions, out)
    _write_json(out / EVALUATION, evaluation.to_dict())
    reasons = ", ".join(f"{count} × {reason}" for reason, count in evaluation.left_out.items())
    scores: dict[str, Any] = {
        "recipe": f"{evaluation.model} on {corpus.name}",
        "seed": None,
        "protocol": protocol.stamp,
        "folds": [FOLD],
        "environment": {"left out": reasons} if reasons else {},
        "models": {"student": {"test": summary}},
        "sha256": checksums,
    }
    if known is not None:
        write_known(known.table, out / KNOWN_CSV)
        scores["sha256"][KNOWN_CSV] = file_sha256(out / KNOWN_CSV)
        write_known_tables(score_known(known.table, protocol.stamp), out)
        if known.probabilities is not None:
            write_predictions(replace(table, probabilities=known.probabilities), out / KNOWN_PREDICTIONS)
            scores["sha256"][KNOWN_PREDICTIONS] = file_sha256(out / KNOWN_PREDICTIONS)
    _write_json(out / "scores.json", scores)
    run = read_run(out)  # raises where the folder is not what later commands expect, as do its tables
    if len(scored):
        run.table()
    if evaluation.dimensions:
        run.dimension_table()


def _write_tables(
    evaluation: Evaluation, corpus: Corpus, table: Predictions, dimensions: Floats, out: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write the tables of emotions and dimensions, and return their checksums and their scores."""
    from emodistill.training.cross_validation import summarise_scores  # it loads torch

    fold = out / f"fold-{FOLD}"
    fold.mkdir(exist_ok=True)
    summary: dict[str, Any] = {}
    names = []
    if len(table.labels):
        names.append(table_name("student"))
        write_predictions(table, out / names[-1])
        summary |= summarise_scores(table)
    if evaluation.dimensions:
        names.append(dimension_table_name("student"))
        labels = [item.unit_dimensions() for item in corpus]
        truth = [[own.get(name, np.nan) for name in evaluation.dimensions] for own in labels]
        predicted = DimensionPredictions(
            evaluation.dimensions, table.utterances, table.folds, table.speakers, np.array(truth), dimensions
        )
        write_dimensions(predicted, out / names[-1])
        summary["dimensions"] = summarise_dimensions(predicted)
    for name in names:
        copy_file(out / name, fold / name)
    checksums = {name: file_sha256(fold / name) for name in names}
    write_checksums(fold, checksums)
    return checksums, summary


def _write_json(path: Path, data: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
