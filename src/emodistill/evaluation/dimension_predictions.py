"""`dimensions.csv`: a row for each utterance with the label and the prediction of each dimension (0 to 1)."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from emodistill.errors import ModelError, one_of
from emodistill.evaluation.rows import EDITED, UtteranceRows, check_once, read_rows
from emodistill.files import atomic_write
from emodistill.labels import DIMENSIONS

COLUMNS = ("utterance", "fold", "speaker")  # before the columns <dimension> and predicted_<dimension>
PREFIX = "predicted_"


@dataclass(frozen=True)
class DimensionPredictions(UtteranceRows):
    """Predicted dimensions (utterances, dimensions), with the id, fold, speaker and labels of each utterance.

    Attributes:
        dimensions: the names, in the order of `labels.DIMENSIONS`.
        truth: the labels (utterances, dimensions), from 0 to 1; NaN where an utterance has no label.
        predicted: the predictions (utterances, dimensions), from 0 to 1.
    """

    PER_ROW: ClassVar = ("utterances", "folds", "speakers", "truth", "predicted")
    dimensions: tuple[str, ...]
    utterances: tuple[str, ...]
    folds: tuple[str, ...]
    speakers: tuple[str, ...]
    truth: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = (len(self.utterances), len(self.dimensions))
        assert self.truth.shape == shape, f"truth {self.truth.shape}, expected {shape}"
        assert self.predicted.shape == shape, f"predicted {self.predicted.shape}, expected {shape}"
        assert len(self.folds) == len(self.speakers) == len(self.utterances), "a column is too short"

    def num_speakers(self, dimension: str) -> int:
        """The number of speakers with a label of a dimension."""
        known = ~np.isnan(self.truth[:, self.dimensions.index(dimension)])
        return len({name for name, keep in zip(self.speakers, known, strict=True) if keep})


def write_dimensions(predictions: DimensionPredictions, path: Path) -> None:
    """Write the table. Numbers have seven decimals, so that equal models write equal bytes.

    The cell of a label that an utterance lacks is empty.
    """
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        header = [column for name in predictions.dimensions for column in (name, PREFIX + name)]
        writer.writerow([*COLUMNS, *header])
        for row in range(len(predictions)):
            values: list[str] = []
            for true, predicted in zip(predictions.truth[row], predictions.predicted[row], strict=True):
                values += ["" if np.isnan(true) else f"{true:.7f}", f"{predicted:.7f}"]
            writer.writerow(
                [predictions.utterances[row], predictions.folds[row], predictions.speakers[row], *values]
            )


def read_dimensions(path: Path) -> DimensionPredictions:
    """Read a table that `write_dimensions` wrote.

    Raises `ModelError` with the file in these cases: a column is missing, or a dimension is unknown. It names
    the row as well where a value is not a number from 0 to 1, or where an utterance occurs twice in a fold.
    """
    columns, rows = read_rows(path, "a table of dimensions")
    names = _dimensions(columns, path)
    truth, predicted = np.zeros((2, len(rows), len(names)))
    for number, row in enumerate(rows, start=2):
        where = f"'{path}', row {number}"
        if any(row[column] is None for column in columns):
            raise ModelError(f"{where}: the row has fewer cells than the header{EDITED}")
        for index, name in enumerate(names):
            truth[number - 2, index] = _value(row, name, where, empty=True)
            predicted[number - 2, index] = _value(row, PREFIX + name, where)
    check_once(rows, path)

    def column(name: str) -> tuple[str, ...]:
        return tuple(row[name] for row in rows)

    return DimensionPredictions(
        names, column("utterance"), column("fold"), column("speaker"), truth, predicted
    )


def _dimensions(columns: Sequence[str], path: Path) -> tuple[str, ...]:
    """The dimensions of a table with these columns, in the order of `DIMENSIONS`."""
    names = [column.removeprefix(PREFIX) for column in columns if column.startswith(PREFIX)]
    for name in names:
        if name not in DIMENSIONS:
            raise ModelError(f"'{path}', column {PREFIX}{name}: {one_of('dimension', name, DIMENSIONS)}")
    expected = [*COLUMNS, *(column for name in names for column in (name, PREFIX + name))]
    # A table with the label of a dimension but without its prediction lacks a column too.
    expected += [PREFIX + name for name in DIMENSIONS if name in columns and name not in names]
    missing = [column for column in expected if column not in columns]
    if missing or not names:
        lacks = ", ".join(missing) or f"{PREFIX}<dimension>"
        raise ModelError(f"'{path}' is not a table of dimensions: it lacks the column {lacks}")
    return tuple(name for name in DIMENSIONS if name in names)


def _value(row: Mapping[str, str], column: str, where: str, empty: bool = False) -> float:
    """The number of a cell, from 0 to 1; NaN for an empty cell where `empty` allows one."""
    text = row[column].strip()
    if empty and not text:
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:  # also refuses "nan"
        expected = "a number from 0 to 1" + (" or an empty cell" if empty else "")
        raise ModelError(f"{where}, column {column}: expected {expected}, got '{text}'{EDITED}")
    return value
