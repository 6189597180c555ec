"""Tables with a row for each utterance of a fold: what the tables of emotions and of dimensions share."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from emodistill.errors import ModelError

EDITED = "; was the file edited?"  # ends the messages on cells that do not fit


class UtteranceRows:
    """The base of a frozen dataclass with columns: tuples and arrays with an entry for each utterance."""

    PER_ROW: ClassVar[tuple[str, ...]]  # the fields that have an entry for each utterance
    utterances: tuple[str, ...]
    folds: tuple[str, ...]
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    def by_fold(self) -> dict[str, Self]:
        """The rows of each fold by its name, in the order in which folds occur."""
        names = list(dict.fromkeys(self.folds))
        return {name: self.select([fold == name for fold in self.folds]) for name in names}

    def select(self, mask: Sequence[bool]) -> Self:
        """The rows where the mask (utterances,) is True."""
        return self.take([index for index, keep in enumerate(mask) if keep])

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Self:
        """The rows with these indices, in this order; an index may occur several times."""
        indices = np.asarray(rows, dtype=np.int64)

        def pick(column: Any) -> Any:
            if isinstance(column, np.ndarray):
                return column[indices]
            return tuple(column[index] for index in indices)

        return self._with({name: pick(getattr(self, name)) for name in self.PER_ROW})

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """One table with the rows of several tables, in order; what is no column is that of the first."""
        tables = list(parts)

        def joined(columns: list[Any]) -> Any:
            if isinstance(columns[0], np.ndarray):
                return np.concatenate(columns)
            return tuple(value for column in columns for value in column)

        return tables[0]._with(
            {name: joined([getattr(table, name) for table in tables]) for name in cls.PER_ROW}
        )

    def _with(self, columns: dict[str, Any]) -> Self:
        return replace(self, **columns)  # type: ignore[type-var]  # each subclass is a dataclass


def read_rows(path: Path, kind: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the names of the columns and the rows of a table of a run.

    Raises `ModelError` for a missing file, and for one that is not a table of this `kind`.
    """
    if not path.is_file():
        raise ModelError(f"no predictions '{path}': the run is not finished; run the same command again")
    try:
        # Spreadsheet programs write a byte order mark, which utf-8-sig skips.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ModelError(f"'{path}' is not {kind}: {error}") from error


def check_once(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Raise `ModelError` with the row where an utterance occurs twice in a fold."""
    first_row: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=2):
        first = first_row.setdefault((row["fold"], row["utterance"]), number)
        if first != number:
            raise ModelError(
                f"'{path}', row {number}: '{row['utterance']}' is already in row {first}{EDITED}"
            )
