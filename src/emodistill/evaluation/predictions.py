"""`predictions.csv`: one row an utterance, with its truth, what was predicted, and every probability."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emodistill.errors import ConfigError, ModelError, one_of
from emodistill.evaluation.metrics import Scores, score
from emodistill.files import atomic_write
from emodistill.labels import LabelSet

KEYS = ("utterance", "fold", "speaker", "emotion", "predicted")  # the columns before the probabilities
SUM_TOLERANCE = 1e-5  # of a row's probabilities: more than rounding to seven decimals makes of 13 emotions
_EDITED = "; was the file edited?"


@dataclass(frozen=True)
class Predictions:
    """Probabilities (utterances, emotions) and what is known of each utterance."""

    labels: LabelSet
    utterances: tuple[str, ...]
    folds: tuple[str, ...]
    speakers: tuple[str, ...]
    emotions: tuple[str, ...]  # the truth
    probabilities: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """The true labels (utterances,)."""
        return np.array([self.labels.index(name) for name in self.emotions], dtype=np.int64)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most probable labels (utterances,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def scores(self) -> Scores:
        """All scores over these utterances, pooled."""
        return score(self.truth, self.predicted, self.labels)

    def by_fold(self) -> dict[str, "Predictions"]:
        """The predictions of each fold, in the order in which folds occur."""
        names = list(dict.fromkeys(self.folds))
        return {name: self.select([fold == name for fold in self.folds]) for name in names}

    def select(self, mask: Sequence[bool]) -> "Predictions":
        """Those where the mask (utterances,) is true."""
        return self.take([index for index, keep in enumerate(mask) if keep])

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> "Predictions":
        """These rows, in this order, as often as they are named."""

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[index] for index in rows)

        return Predictions(
            self.labels, pick(self.utterances), pick(self.folds), pick(self.speakers), pick(self.emotions),
            self.probabilities[np.asarray(rows, dtype=np.int64)],
        )  # fmt: skip


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write the table; probabilities with seven decimals, so that equal models write equal bytes."""
    names = predictions.labels.names
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*KEYS, *(f"p_{n}" for n in names)])
        for row in range(len(predictions)):
            values = [f"{value:.7f}" for value in predictions.probabilities[row]]
            best = int(np.argmax([float(value) for value in values]))  # as a reader finds it, ties and all
            writer.writerow(
                [
                    predictions.utterances[row], predictions.folds[row], predictions.speakers[row],
                    predictions.emotions[row], names[best], *values,
                ]
            )  # fmt: skip


def read_predictions(path: Path) -> Predictions:
    """Read the table; raises `ModelError` naming the file and row where it is not one of ours.

    That is: a column is missing, an emotion is unknown, an utterance comes twice in a fold, probabilities are
    no numbers from 0 to 1 that sum to 1, or another emotion than the predicted one is the most probable.
    """
    if not path.is_file():
        raise ModelError(f"no predictions '{path}': the run is not finished; run the same command again")
    try:
        with path.open(
            newline="", encoding="utf-8-sig"
        ) as file:  # a spreadsheet may have put a mark before it
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"'{path}' is not a predictions table: {error}") from error
    names = tuple(column[2:] for column in columns if column.startswith("p_"))
    missing = [name for name in KEYS if name not in columns]
    if missing or not names:
        raise ModelError(f"'{path}' is not a predictions table: it lacks {missing or 'p_<emotion>'}")
    try:
        labels = LabelSet(names)
    except ConfigError as error:
        raise ModelError(f"'{path}', column p_…: {error}") from error
    probabilities = np.zeros((len(rows), len(names)))
    first: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=2):
        where = f"'{path}', row {number}"
        probabilities[number - 2] = _checked(row, names, where)
        if first.setdefault((row["fold"], row["utterance"]), number) != number:
            before = first[row["fold"], row["utterance"]]
            raise ModelError(f"{where}: '{row['utterance']}' is in row {before} already{_EDITED}")

    def column(name: str) -> tuple[str, ...]:
        return tuple(row[name] for row in rows)

    return Predictions(
        labels, column("utterance"), column("fold"), column("speaker"), column("emotion"), probabilities
    )


def _checked(row: Mapping[str, str | None], names: Sequence[str], where: str) -> list[float]:
    """The probabilities of a row that is consistent in itself."""
    try:
        values = [float(row[f"p_{name}"] or "") for name in names]
    except ValueError as error:
        raise ModelError(f"{where}: a probability is not a number{_EDITED}") from error
    if row["emotion"] not in names:
        raise ModelError(f"{where}: {one_of('emotion', row['emotion'], names)}{_EDITED}")
    if not all(0 <= value <= 1 for value in values) or abs(sum(values) - 1) > SUM_TOLERANCE:
        raise ModelError(
            f"{where}: expected probabilities from 0 to 1 that sum to 1, got {values}, "
            f"sum {sum(values):.6f}{_EDITED}"
        )
    best = names[int(np.argmax(values))]
    if row["predicted"] != best:
        raise ModelError(
            f"{where}: predicted is '{row['predicted']}', but the most probable emotion is '{best}'{_EDITED}"
        )
    return values


def join(parts: Iterable[Predictions]) -> Predictions:
    """One table of several over the same label set."""
    tables = list(parts)
    first = tables[0]
    return Predictions(
        first.labels,
        tuple(name for table in tables for name in table.utterances),
        tuple(name for table in tables for name in table.folds),
        tuple(name for table in tables for name in table.speakers),
        tuple(name for table in tables for name in table.emotions),
        np.concatenate([table.probabilities for table in tables]),
    )
