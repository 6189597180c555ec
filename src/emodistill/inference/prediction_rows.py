"""Predictions as rows: the table of formats that `predict` and the server write.

This module imports nothing heavy: the command line reads the table before it knows the command.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.markup import escape

from emodistill.console import results

if TYPE_CHECKING:
    from emodistill.inference.prediction import Prediction
    from emodistill.inference.segmentation import Segment


# Columns of CSV after the probabilities, in predictions and in timelines.
OPTIONAL_COLUMNS = ("surety", "arousal", "valence", "dimensions_from", "channel")


# More columns of predictions of a list: what the list states.
LISTED_COLUMNS = ("id", "start_s", "end_s", "speaker")


class Writer(Protocol):
    """A function that writes predictions to a text stream; `emotions` are those of the model.

    With `has_voices`, rows may have `voice_utterances`, and with `has_channels` a `channel`. A format with a
    header then has a column for it. With `listed`, the header ends with `LISTED_COLUMNS`.
    """

    def __call__(
        self,
        rows: Iterable["Prediction"],
        stream: TextIO,
        emotions: Sequence[str],
        has_voices: bool = False,
        has_channels: bool = False,
        listed: bool = False,
    ) -> None: ...


@dataclass(frozen=True)
class PredictionFormat:
    """A format for predictions.

    Attributes:
        name: the value of `--format`; with a dot before it, the suffix that chooses the format.
        write: the writer.
        media_type: the value of the HTTP headers Accept and Content-Type. None: the server does not offer it.
        holds_teachers: a row can hold the probabilities of the teachers (`--teachers`).
        can_resume: a file of it can be continued, since each row is complete as soon as its line ends.
    """

    name: str
    write: Writer
    media_type: str | None = None
    holds_teachers: bool = False
    can_resume: bool = False


def write_rows(
    rows: Iterable["Prediction"],
    format: str,
    stream: TextIO,
    emotions: Sequence[str],
    has_voices: bool = False,
    has_channels: bool = False,
    listed: bool = False,
) -> int:
    """Write predictions in a format of `PREDICTION_FORMATS`; returns how many of them have an error.

    The other arguments are those of `Writer`.
    """
    num_failed = 0

    def count_failures() -> Iterator["Prediction"]:
        nonlocal num_failed
        for row in rows:
            num_failed += row.error is not None
            yield row

    PREDICTION_FORMATS[format].write(count_failures(), stream, emotions, has_voices, has_channels, listed)
    return num_failed


def write_table(
    rows: Iterable["Prediction"],
    stream: TextIO,
    emotions: Sequence[str],
    has_voices: bool = False,
    has_channels: bool = False,
    listed: bool = False,
) -> None:
    """A table for reading."""
    from rich.table import Table

    rows = list(rows)
    columns = [name for name in LISTED_COLUMNS if any(getattr(row, name) is not None for row in rows)]
    table = Table(
        "file", *(name.removesuffix("_s") for name in columns), *(["channel"] if has_channels else []),
        "emotion", "confidence", "surety", "arousal", "valence",
        *(["utterances known"] if has_voices else []), "note",
    )  # fmt: skip
    for row in rows:
        confidence = "" if row.confidence is None else f"{row.confidence:.2f}"
        note = escape(row.error or row.reason or "")
        known = [str(row.voice_utterances or "–")] if has_voices else []
        channel = ["" if row.channel is None else str(row.channel)] if has_channels else []
        place = [f"{value:.2f}" for value in (row.dimensions or {}).values()] or ["", ""]
        stated = ["" if (value := getattr(row, name)) is None else escape(str(value)) for name in columns]
        table.add_row(
            escape(row.path), *stated, *channel, row.emotion or "–", confidence, row.surety or "", *place,
            *known, note,
        )  # fmt: skip
    results(stream).print(table)


def write_json(
    rows: Iterable["Prediction"],
    stream: TextIO,
    emotions: Sequence[str],
    has_voices: bool = False,
    has_channels: bool = False,
    listed: bool = False,
) -> None:
    """One array, written when all rows are known."""
    objects = [row.as_dict() for row in rows]
    stream.write(json.dumps(objects, ensure_ascii=False, indent=1) + "\n")


def write_jsonl(
    rows: Iterable["Prediction"],
    stream: TextIO,
    emotions: Sequence[str],
    has_voices: bool = False,
    has_channels: bool = False,
    listed: bool = False,
) -> None:
    """One object on each line, written as soon as it is known."""
    for row in rows:
        stream.write(json.dumps(row.as_dict(), ensure_ascii=False) + "\n")
        stream.flush()


def write_csv(
    rows: Iterable["Prediction"],
    stream: TextIO,
    emotions: Sequence[str],
    has_voices: bool = False,
    has_channels: bool = False,
    listed: bool = False,
) -> None:
    """A header, then one line for each row; what a row does not have is an empty field."""
    writer = csv.writer(stream, lineterminator="\n")
    header = ["path", "emotion", "confidence", "abstained", "reason", "error"]
    header += ["voice_utterances"] if has_voices else []
    columns = LISTED_COLUMNS if listed else ()
    writer.writerow([*header, *(f"p_{name}" for name in emotions), *OPTIONAL_COLUMNS, *columns])
    for row in rows:
        values = [row.emotion, row.confidence, row.abstained, row.reason, row.error]
        values += [row.voice_utterances] if has_voices else []
        fields = ["" if value is None else value for value in values]
        probabilities: dict[str, Any] = row.probabilities or {}
        by_emotion = [probabilities.get(name, "") for name in emotions]
        stated = ["" if (value := getattr(row, name)) is None else value for name in columns]
        writer.writerow([row.path, *fields, *by_emotion, *optional_fields(row), *stated])


def optional_fields(row: "Prediction | Segment") -> list[Any]:
    """The values of `OPTIONAL_COLUMNS` in a row of CSV; empty where the row has no value."""
    place = row.dimensions or {}
    values = [row.surety, place.get("arousal"), place.get("valence"), row.dimensions_from, row.channel]
    return ["" if value is None else value for value in values]


PREDICTION_FORMATS: Mapping[str, PredictionFormat] = {
    format.name: format
    for format in (
        PredictionFormat("table", write_table),
        PredictionFormat("json", write_json, "application/json", holds_teachers=True),
        PredictionFormat("jsonl", write_jsonl, "application/x-ndjson", holds_teachers=True, can_resume=True),
        PredictionFormat("csv", write_csv, "text/csv"),
    )
}
