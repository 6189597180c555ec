"""Predictions as rows: the table of formats that `predict` and the server write.

This module imports nothing heavy: the command line reads the table before it knows the command.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.markup import escape

from emodistill.console import results
from emodistill.inference.parquet_table import check_pyarrow, to_parquet
from emodistill.labels import DIMENSIONS

if TYPE_CHECKING:
    from emodistill.inference.prediction import Prediction
    from emodistill.inference.segmentation import Segment


# Columns of CSV after the probabilities, in predictions and in timelines.
OPTIONAL_COLUMNS = ("surety", "arousal", "valence", "dimensions_from", "channel")
LAST_COLUMNS = ("dominance", "intensity")  # the last ones of each row; only a head can predict these
# More columns of predictions of a list: what the list states.
LISTED_COLUMNS = ("id", "start_s", "end_s", "speaker")


@dataclass(frozen=True)
class Columns:
    """What a format with a header has columns for. CSV and Parquet write the header before the first row.

    Attributes:
        emotions: of the model.
        has_voices: rows may have `voice_utterances`.
        listed: the rows come from a list, so there are `LISTED_COLUMNS` before the last ones.
    """

    emotions: Sequence[str]
    has_voices: bool = False
    listed: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the columns in CSV and Parquet."""
        names = ["path", "emotion", "confidence", "abstained", "reason", "error"]
        names += ["voice_utterances"] if self.has_voices else []
        names += [*(f"p_{name}" for name in self.emotions), *OPTIONAL_COLUMNS]
        return [*names, *(LISTED_COLUMNS if self.listed else ()), *LAST_COLUMNS]

    def values(self, row: "Prediction") -> list[Any]:
        """The value of a row in each column; None where the row has no value."""
        values = [row.path, row.emotion, row.confidence, row.abstained, row.reason, row.error]
        values += [row.voice_utterances] if self.has_voices else []
        values += [*(row.probabilities.get(name) for name in self.emotions), *optional_values(row)]
        values += [getattr(row, name) for name in LISTED_COLUMNS] if self.listed else []
        return [*values, *last_values(row)]


class Writer(Protocol):
    """A function that writes predictions to a text stream."""

    def __call__(self, rows: Iterable["Prediction"], stream: TextIO, columns: Columns) -> None: ...


@dataclass(frozen=True)
class PredictionFormat:
    """A format for predictions.

    Attributes:
        name: the value of `--format`; with a dot before it, the suffix that chooses the format.
        write: the writer.
        media_type: the value of the HTTP headers Accept and Content-Type. None: the server does not offer it.
        holds_teachers: a row can hold the probabilities of the teachers (`--teachers`).
        binary: the writer writes bytes, to the `buffer` of the stream; a terminal cannot show them.
        check: raises `MissingExtraError` if the writer needs a package that is missing; None: it needs none.
        can_resume: a file of it can be continued, since each row is complete as soon as its line ends.
    """

    name: str
    write: Writer
    media_type: str | None = None
    holds_teachers: bool = False
    can_resume: bool = False
    binary: bool = False
    check: Callable[[], None] | None = None


def write_rows(rows: Iterable["Prediction"], format: str, stream: TextIO, columns: Columns) -> int:
    """Write predictions in a format of `PREDICTION_FORMATS`; returns how many of them have an error."""
    num_failed = 0

    def count_failures() -> Iterator["Prediction"]:
        nonlocal num_failed
        for row in rows:
            num_failed += row.error is not None
            yield row

    PREDICTION_FORMATS[format].write(count_failures(), stream, columns)
    return num_failed


def write_table(rows: Iterable["Prediction"], stream: TextIO, columns: Columns) -> None:
    """A table for reading. A column that no row has a value for is left out."""
    from rich.table import Table

    rows = list(rows)
    stated = [
        name for name in (*LISTED_COLUMNS, "channel") if any(getattr(row, name) is not None for row in rows)
    ]
    present = {name for row in rows for name in row.dimensions or ()}
    dimensions = [name for name in DIMENSIONS if name in present]
    answers = ["emotion", "confidence", "surety"] if columns.emotions else []
    table = Table(
        "file", *(name.removesuffix("_s") for name in stated), *answers, *dimensions,
        *(["utterances known"] if columns.has_voices else []), "note",
    )  # fmt: skip
    for row in rows:
        confidence = "" if row.confidence is None else f"{row.confidence:.2f}"
        note = escape(row.error or row.reason or "")
        known = [str(row.voice_utterances or "–")] if columns.has_voices else []
        place = row.dimensions or {}
        levels = [f"{place[name]:.2f}" if name in place else "" for name in dimensions]
        values = ["" if (value := getattr(row, name)) is None else escape(str(value)) for name in stated]
        values += [row.emotion or "–", confidence, row.surety or ""] if columns.emotions else []
        table.add_row(escape(row.path), *values, *levels, *known, note)
    results(stream).print(table)


def write_json(rows: Iterable["Prediction"], stream: TextIO, columns: Columns) -> None:
    """One array, written when all rows are known."""
    objects = [row.as_dict() for row in rows]
    stream.write(json.dumps(objects, ensure_ascii=False, indent=1) + "\n")


def write_jsonl(rows: Iterable["Prediction"], stream: TextIO, columns: Columns) -> None:
    """One object on each line, written as soon as it is known."""
    for row in rows:
        stream.write(json.dumps(row.as_dict(), ensure_ascii=False) + "\n")
        stream.flush()


def write_csv(rows: Iterable["Prediction"], stream: TextIO, columns: Columns) -> None:
    """A header, then one line for each row; what a row does not have is an empty field."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns.names)
    writer.writerows(map(columns.values, rows))


def write_parquet(rows: Iterable["Prediction"], stream: TextIO, columns: Columns) -> None:
    """The columns and rows of CSV in one Parquet file, written when all rows are known."""
    stream.buffer.write(to_parquet(columns.names, map(columns.values, rows)))


def write_audformat(rows: Iterable["Prediction"], stream: TextIO, columns: Columns) -> None:
    """The rows of CSV as a table of audformat, which `audformat.utils.read_csv` reads.

    The index is the column `file`. Rows of a list have `start` and `end` too, in seconds: 0 is the start of
    the recording, and an empty field is its end.
    """
    writer = csv.writer(stream, lineterminator="\n")
    index = ["file", "start", "end"] if columns.listed else ["file"]
    kept = [name for name in columns.names if name not in ("path", "start_s", "end_s")]
    writer.writerow([*index, *kept])
    for row in rows:
        cells = dict(zip(columns.names, columns.values(row), strict=True))
        part = [row.path, row.start_s or 0, row.end_s] if columns.listed else [row.path]
        writer.writerow([*part, *(cells[name] for name in kept)])


def optional_values(row: "Prediction | Segment") -> list[Any]:
    """The values of `OPTIONAL_COLUMNS` in a row; None where the row has no value."""
    place = row.dimensions or {}
    return [row.surety, place.get("arousal"), place.get("valence"), row.dimensions_from, row.channel]


def last_values(row: "Prediction | Segment") -> list[Any]:
    """The values of `LAST_COLUMNS` in a row; None where the row has no value."""
    return [(row.dimensions or {}).get(name) for name in LAST_COLUMNS]


PREDICTION_FORMATS: Mapping[str, PredictionFormat] = {
    format.name: format
    for format in (
        PredictionFormat("table", write_table),
        PredictionFormat("json", write_json, "application/json", holds_teachers=True),
        PredictionFormat("jsonl", write_jsonl, "application/x-ndjson", holds_teachers=True, can_resume=True),
        PredictionFormat("csv", write_csv, "text/csv"),
        PredictionFormat("audformat", write_audformat),
        PredictionFormat("parquet", write_parquet, binary=True, check=check_pyarrow),
    )
}
