"""`predictions.csv`: one row an utterance, with its truth, what was predicted, and every probability."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emodistill.errors import ModelError
from emodistill.evaluation.metrics import Scores, score
from emodistill.labels import LabelSet


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
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["utterance", "fold", "speaker", "emotion", "predicted", *(f"p_{n}" for n in names)])
        for row in range(len(predictions)):
            values = [f"{value:.7f}" for value in predictions.probabilities[row]]
            best = int(np.argmax([float(value) for value in values]))  # as a reader finds it, ties and all
            writer.writerow(
                [
                    predictions.utterances[row], predictions.folds[row], predictions.speakers[row],
                    predictions.emotions[row], names[best], *values,
                ]
            )  # fmt: skip
    partial.replace(path)


def read_predictions(path: Path) -> Predictions:
    """Read the table; raises `ModelError` naming the file and row where it is not one of ours."""
    if not path.is_file():
        raise ModelError(f"no predictions '{path}': the run is not finished; run the same command again")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = tuple(column[2:] for column in reader.fieldnames or () if column.startswith("p_"))
        missing = {"utterance", "fold", "speaker", "emotion", "predicted"} - set(reader.fieldnames or ())
        if missing or not names:
            raise ModelError(
                f"'{path}' is not a predictions table: it lacks {sorted(missing) or 'p_<emotion>'}"
            )
        rows = list(reader)
    probabilities = np.zeros((len(rows), len(names)))
    for number, row in enumerate(rows):
        try:
            probabilities[number] = [float(row[f"p_{name}"]) for name in names]
        except (TypeError, ValueError) as error:
            raise ModelError(f"'{path}', row {number + 2}: a probability is not a number") from error
        if row["predicted"] != names[int(probabilities[number].argmax())]:
            raise ModelError(
                f"'{path}', row {number + 2}: predicted is '{row['predicted']}', but the most probable "
                f"emotion is '{names[int(probabilities[number].argmax())]}'; was the file edited?"
            )

    def column(name: str) -> tuple[str, ...]:
        return tuple(row[name] for row in rows)

    return Predictions(
        LabelSet(names),
        column("utterance"),
        column("fold"),
        column("speaker"),
        column("emotion"),
        probabilities,
    )


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
