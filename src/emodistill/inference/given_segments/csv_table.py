"""CSV with a header: `start,end`, and optionally `speaker`, `path`, `channel` and `text`."""

import csv
import io
from collections.abc import Iterator

from emodistill.errors import ConfigError
from emodistill.inference.given_segments.base import GivenRow, SegmentsFormat, text_or_none

STARTS, ENDS = ("start_s", "start"), ("end_s", "end")


def recognises(text: str) -> bool:
    """Return whether a text may be CSV: it is no JSON. `rows` explains what its header lacks."""
    return not text.lstrip().startswith(("{", "["))


def rows(text: str, name: str) -> Iterator[GivenRow]:
    """Yield the rows of a table whose columns are parted by commas, semicolons or tabs."""
    head = text.splitlines()[0] if text else ""
    delimiter = next((mark for mark in ",;\t" if mark in head), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [column.strip().lower() for column in next(filter(None, reader), [])]
    except csv.Error as error:
        raise ConfigError(f"{name}, line 1: is no CSV ({error})") from error
    columns = {column: index for index, column in enumerate(header)}
    start = next((columns[column] for column in STARTS if column in columns), None)
    end = next((columns[column] for column in ENDS if column in columns), None)
    if start is None or end is None:
        raise ConfigError(
            f"{name} has none of the known formats: expected a CSV with the columns "
            "start,end[,speaker][,path][,channel][,text], RTTM, or JSON of whisperX or pyannote, got the "
            f"columns {header}"
        )
    try:
        for row in filter(None, reader):
            further = (_cell(row, columns.get(name)) for name in ("speaker", "path", "channel", "text"))
            yield GivenRow(
                f"line {reader.line_num}", _cell(row, start), _cell(row, end), *map(text_or_none, further)
            )
    except csv.Error as error:
        raise ConfigError(f"{name}, line {reader.line_num}: is no CSV ({error})") from error


def _cell(row: list[str], index: int | None) -> str | None:
    return row[index] if index is not None and index < len(row) else None


FORMAT = SegmentsFormat("CSV", recognises, rows)
