"""`predictions.csv`: a row for each utterance with its true emotion, predicted emotion and probabilities."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.evaluation.metrics import Scores, score
from emodistill.evaluation.rows import EDITED, UtteranceRows, check_once, read_rows
from emodistill.files import atomic_write
from emodistill.labels import LabelSet

COLUMNS = ("utterance", "fold", "speaker", "emotion", "predicted")  # before the columns p_<emotion>
SUM_TOLERANCE = 1e-5  # of a row's probabilities; rounding 13 of them to seven decimals stays below


@dataclass(frozen=True)
class Predictions(UtteranceRows):
    """Probabilities (utterances, emotions), with the id, fold, speaker and true emotion of each utterance."""

    PER_ROW: ClassVar = ("utterances", "folds", "speakers", "emotions", "probabilities")
    labels: LabelSet
    utterances: tuple[str, ...]
    folds: tuple[str, ...]
    speakers: tuple[str, ...]
    emotions: tuple[str, ...]  # the true ones
    probabilities: npt.NDArray[np.float64]

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """The true labels (utterances,)."""
        return np.array([self.labels.index(name) for name in self.emotions], dtype=np.int64)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable labels (utterances,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def scores(self) -> Scores:
        """All scores, pooled over these utterances."""
        return score(self.truth, self.predicted, self.labels)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write the table. Probabilities have seven decimals, so that equal models write equal bytes."""
    names = predictions.labels.names
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *(f"p_{name}" for name in names)])
        for row in range(len(predictions)):
            values = [f"{value:.7f}" for value in predictions.probabilities[row]]
            # Of the rounded values, so that a reader finds the same emotion where rounding makes a tie.
            best = int(np.argmax([float(value) for value in values]))
            writer.writerow(
                [
                    predictions.utterances[row], predictions.folds[row], predictions.speakers[row],
                    predictions.emotions[row], names[best], *values,
                ]
            )  # fmt: skip


def read_predictions(path: Path) -> Predictions:
    """Read a table that `write_predictions` wrote.

    Raises `ModelError` with the file and the row in these cases: a column is missing, an emotion is unknown,
    or an utterance occurs twice in a fold. Probabilities are not numbers from 0 to 1 that sum to 1. The
    predicted emotion is not the most probable one.
    """
    columns, rows = read_rows(path, "a predictions table")
    names = tuple(column[2:] for column in columns if column.startswith("p_"))
    missing = [name for name in COLUMNS if name not in columns]
    if missing or not names:
        raise ModelError(f"'{path}' is not a predictions table: it lacks {missing or 'p_<emotion>'}")
    try:
        labels = LabelSet(names)
    except ConfigError as error:
        raise ModelError(f"'{path}', column p_…: {error}") from error
    probabilities = np.zeros((len(rows), len(names)))
    for number, row in enumerate(rows, start=2):
        where = f"'{path}', row {number}"
        probabilities[number - 2] = _read_probabilities(row, names, where)
    check_once(rows, path)

    def column(name: str) -> tuple[str, ...]:
        return tuple(row[name] for row in rows)

    return Predictions(
        labels, column("utterance"), column("fold"), column("speaker"), column("emotion"), probabilities
    )


def _read_probabilities(row: Mapping[str, str | None], names: Sequence[str], where: str) -> list[float]:
    """The probabilities of a row, after checking that its cells agree with each other."""
    try:
        values = [float(row[f"p_{name}"] or "") for name in names]
    except ValueError as error:
        raise ModelError(f"{where}: a probability is not a number{EDITED}") from error
    if row["emotion"] not in names:
        raise ModelError(f"{where}: {one_of('emotion', row['emotion'], names)}{EDITED}")
    if not all(0 <= value <= 1 for value in values) or abs(sum(values) - 1) > SUM_TOLERANCE:
        raise ModelError(
            f"{where}: expected probabilities from 0 to 1 that sum to 1, got {values}, "
            f"sum {sum(values):.6f}{EDITED}"
        )
    best = names[int(np.argmax(values))]
    if row["predicted"] != best:
        raise ModelError(
            f"{where}: predicted is '{row['predicted']}', but the most probable emotion is '{best}'{EDITED}"
        )
    return values
