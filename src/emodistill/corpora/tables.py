"""Tables of other people: CSV with any delimiter, TSV and Parquet, with the numbers of their rows."""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emodistill.errors import CorpusError
from emodistill.inference.parquet_table import load_pyarrow

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
SURPLUS = None  # the key of the cells behind the last column
_WORKBOOKS = (".xls", ".xlsx", ".xlsm", ".ods", ".numbers")
_DELIMITERS = (",", ";", "\t", "|")
_NEWLINE = re.compile(r"\r\n|\r|\n")

Row = dict[str | None, Any]


@dataclass(frozen=True)
class Table:
    """The columns and rows of a file. Names of columns have no spaces around them."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Row], ...]  # number of the row, {column: cell}; empty rows are left out


def read_table(path: Path) -> Table:
    """Read a CSV, TSV or Parquet file with named columns.

    The delimiter of text is found in its first line: a comma, a semicolon, a tab or "|". Text is UTF-8 or
    UTF-16. The number of a row is that of its first line in a text editor, where the header is line 1. Rows
    of Parquet are counted from 2, too. Raises `CorpusError` for a file that is damaged or has no rows.
    """
    if path.suffix.lower() in _WORKBOOKS:
        raise CorpusError(f"'{path}' is a workbook, expected a table: save its sheet as CSV UTF-8")
    if path.suffix == ".parquet":
        arrow = load_pyarrow()
        try:
            rows = arrow.parquet.read_table(path).to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"'{path}' is not Parquet: {' '.join(str(error).split())}") from error
        table = Table(path, tuple(rows[0]) if rows else (), tuple(enumerate(rows, start=2)))
    else:
        text = _decode(path)
        columns, numbered = _text_rows(text, _find_delimiter(text, path.suffix), f"'{path}'")
        table = Table(path, columns, tuple(numbered))
    if not table.rows:
        raise CorpusError(f"'{path}' holds no rows")
    repeated = [name for name in table.columns if name and table.columns.count(name) > 1]
    if repeated:
        raise CorpusError(f"'{path}' has two columns '{repeated[0]}': rename or remove one of them")
    return table


def table_rows(
    path: Path, name: str, columns: Iterable[str], delimiter: str | None = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a corpus's own CSV or TSV with their numbers (the header is row 1).

    The file is UTF-8 with or without a BOM, else cp1252. `name` is the corpus's name in messages. The
    delimiter None is found in the first line. Raises `CorpusError` where one of `columns` is missing or a
    quote is never closed.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if delimiter is None:
        delimiter = _find_delimiter(text, path.suffix)
    header, rows = _text_rows(text, delimiter, f"{name}: '{path}'")
    for column in columns:
        if column not in header:
            raise CorpusError(f"{name}: '{path}' has no column '{column}' (it has {list(header)})")
    for number, row in rows:
        yield number, {column: row.get(column) or "" for column in header}


def _decode(path: Path) -> str:
    data = path.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"'{path}' is not UTF-8 ({error}); save it again as UTF-8") from error


def _find_delimiter(text: str, suffix: str) -> str:
    """Return the delimiter that divides the first line into most cells; the one of the suffix if equal."""
    usual = "\t" if suffix == ".tsv" else ","
    header = next((line for line in text.splitlines() if line.strip()), "")

    def num_cells(delimiter: str) -> tuple[int, bool]:
        return len(next(csv.reader([header], delimiter=delimiter), [])), delimiter == usual

    return max(_DELIMITERS, key=num_cells)


def _text_rows(text: str, delimiter: str, where: str) -> tuple[tuple[str, ...], Iterator[tuple[int, Row]]]:
    """Return the header of a text, and an iterator of its rows with their numbers."""
    cells = _numbered_cells(text, delimiter, where)
    header = tuple(name.strip() for name in next(cells, (0, []))[1])

    def rows() -> Iterator[tuple[int, Row]]:
        for number, values in cells:
            row: Row = dict(zip(header, values, strict=False))
            if len(values) > len(header):
                row[SURPLUS] = values[len(header) :]
            yield number, row

    return header, rows()


def _numbered_cells(text: str, delimiter: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not empty, with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    last_line = 0
    try:
        for cells in reader:
            first_line = reader.line_num - sum(len(_NEWLINE.findall(cell)) for cell in cells)
            last_line = reader.line_num
            if any(cell.strip() for cell in cells):
                yield first_line, cells
    except csv.Error as error:
        raise CorpusError(
            f"{where}, row {last_line + 1}: not CSV ({error}); is a quote left open, or not doubled?"
        ) from error
