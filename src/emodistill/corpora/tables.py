"""Tables of other people: CSV with any delimiter, TSV and Parquet, and the tables of other formats."""

import csv
import errno
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emodistill.console import with_progress
from emodistill.corpora.audio_folders import AudioFolders, check_name
from emodistill.corpora.base import Corpus
from emodistill.errors import AudioError, CorpusError
from emodistill.files import atomic_write
from emodistill.inference.parquet_reading import plain_text, read_parquet
from emodistill.inference.parquet_table import load_pyarrow
from emodistill.reading import decode_text, read_bytes

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
SURPLUS = None  # the key of the cells behind the last column
MAX_TEXT_BYTES = 2**28  # of a table of text
MAX_TABLE_BYTES = 2**30  # of the rows of Parquet or lhotse in memory
ROW_BYTES, CELL_BYTES = 256, 64  # that Python needs, about
_BATCH_ROWS = 8192
_WORKBOOKS = (".xls", ".xlsx", ".xlsm", ".ods", ".numbers")
_DELIMITERS = (",", ";", "\t", "|")
_NEWLINE = re.compile(r"\r\n|\r|\n")

Row = dict[str | None, Any]


@dataclass(frozen=True)
class Table:
    """The columns and rows of a file, or of a corpus of another program.

    Attributes:
        path: the file, or the folder of the corpus.
        columns: their names, without spaces around them.
        rows: number of the row, {column: cell}; empty rows are left out.
        usual: {our column: column that holds it in this format}, for those that the user does not declare.
        places: {number of a row: where the user finds it}, such as "'train/metadata.csv', row 3"; a row that
            is not in it is a row of `path`.
        cell_places: the same for single cells, {(number, column): where it is}.
        unwritten: {text of a path: function that writes audio there, which is no file of its own}. It raises
            `AudioError` where the audio cannot be decoded.
        folders: that may hold its audio too, such as those of downloads.
        name: of the corpus; None: that of the file or folder.
        notes: what the reader chose, for the user.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Row], ...]
    usual: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[int, str] = field(default_factory=dict)
    cell_places: Mapping[tuple[int, str], str] = field(default_factory=dict)
    unwritten: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    name: str | None = None
    notes: tuple[str, ...] = ()

    def where(self, number: int, column: str | None = None) -> str:
        """Return where a row, or one cell of it, is found, for messages."""
        place = self.places.get(number, f"'{self.path}', row {number}")
        return place if column is None else self.cell_places.get((number, column), place)


@dataclass(frozen=True)
class TableOptions:
    """What a user declares for the corpus of another program. A reader refuses what it has no use for.

    Attributes:
        columns: {our column: column of the corpus}.
        root: where relative paths of audio start; None: as the format does.
        audio_out: the folder for audio that is no file of its own; None: such audio is an error.
        subset: the configuration of a dataset.
        version: the version or revision of a database or a dataset.
        table: the names of tables that hold the labels; None: the reader chooses.
        cache: the folder for downloads; None: as the other program does.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    audio_out: Path | None = None
    subset: str | None = None
    version: str | None = None
    table: tuple[str, ...] | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class TableReader:
    """A format of other programs that is read as a table, with declared columns and emotions.

    Attributes:
        name: on the command line, such as "kaldi".
        read: returns the rows of a folder or file; it opens no audio.
        options: those of `TableOptions` that it uses, beside `columns`.
        own_names: names of files that the corpus has for itself, and that no manifest in it may have.
    """

    name: str
    read: Callable[[Path, TableOptions], Table]
    options: tuple[str, ...] = ()
    own_names: tuple[str, ...] = ()


def found_below(text: str, folders: Sequence[Path], root: Path | None, place: str) -> Path:
    """Return the absolute path of a recording that a manifest names at a `place`.

    A path that is not absolute starts at `root`, else at the first of `folders` that has the file. Without a
    root it may also start at the working folder, as in Kaldi, if that is below `folders`. If the file is
    missing, it is below the first of these. Raises `CorpusError` for a path that leaves `folders` and `root`.
    """
    starts = (*folders, Path.cwd()) if root is None else (root, *folders)
    try:
        check_name(text)
        found = next((start / text for start in starts if (start / text).is_file()), starts[0] / text)
        return AudioFolders((*folders, root)).check(found, text).absolute()
    except CorpusError as error:
        raise CorpusError(f"{place}: {error}") from error


def write_audio(corpus: Corpus, table: Table, report: Callable[[str], None]) -> None:
    """Write the audio of a corpus's utterances that is no file of its own, and replace earlier files.

    `report` gets a message for audio that cannot be decoded, which is then missing.
    """
    paths = dict.fromkeys(str(item.path) for item in corpus if str(item.path) in table.unwritten)
    for text in with_progress(paths, "write audio", len(paths)) if paths else ():
        target = Path(text)
        try:
            with atomic_write(target) as partial:
                table.unwritten[text](partial)
        except AudioError as error:
            target.unlink(missing_ok=True)  # An earlier file may be another part.
            report(f"not written: '{target}': {error}")


def read_table(path: Path) -> Table:
    """Read a CSV, TSV or Parquet file with named columns.

    The delimiter of text is found in its first line: a comma, a semicolon, a tab or "|". Text is UTF-8 or
    UTF-16, and has at most `MAX_TEXT_BYTES`. The number of a row is that of its first line in a text editor,
    where the header is line 1. Rows of Parquet are counted from 2, too. Raises `CorpusError` for a file that
    is damaged, takes too much memory or has no rows.
    """
    if path.suffix.lower() in _WORKBOOKS:
        raise CorpusError(f"'{path}' is a workbook, expected a table: save its sheet as CSV UTF-8")
    if path.suffix == ".parquet":
        arrow = load_pyarrow()
        try:
            rows = _parquet_rows(path)
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise CorpusError(f"'{path}' is not Parquet: {' '.join(str(error).split())}") from error
        table = Table(path, tuple(map(str, rows[0])) if rows else (), tuple(enumerate(rows, start=2)))
    else:
        text = read_text(path)
        columns, numbered = _text_rows(text, _find_delimiter(text, path.suffix), f"'{path}'")
        table = Table(path, columns, tuple(numbered))
    if not table.rows:
        raise CorpusError(f"'{path}' holds no rows")
    repeated = [name for name, count in Counter(table.columns).items() if name and count > 1]
    if repeated:
        raise CorpusError(f"'{path}' has two columns '{repeated[0]}': rename or remove one of them")
    return table


def _parquet_rows(path: Path) -> list[Row]:
    """Return the rows of a Parquet file. Raises `ValueError` for more text than `MAX_TABLE_BYTES`."""
    rows: list[Row] = []
    num_bytes = 0
    for batch in read_parquet(path, _BATCH_ROWS):
        part = plain_text(batch)
        num_bytes += part.nbytes + part.num_rows * (ROW_BYTES + CELL_BYTES * part.num_columns)
        if num_bytes > MAX_TABLE_BYTES:
            raise ValueError(f"its rows take over {MAX_TABLE_BYTES} bytes of memory: divide the table")
        rows += part.to_pylist()
    return rows


def table_rows(
    path: Path, name: str, columns: Iterable[str], delimiter: str | None = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a corpus's own CSV or TSV with their numbers (the header is row 1).

    The file is UTF-8 with or without a BOM, else cp1252. `name` is the corpus's name in messages. The
    delimiter None is found in the first line. Raises `CorpusError` where one of `columns` is missing or a
    quote is never closed.
    """
    data = _content(path)
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


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8 or UTF-16. Raises `CorpusError` for any other file."""
    try:
        return decode_text(_content(path))
    except UnicodeDecodeError as error:
        raise CorpusError(f"'{path}' is not UTF-8 ({error}); save it again as UTF-8") from error


def _content(path: Path) -> bytes:
    """Return the bytes of a file. Raises `CorpusError` for more than `MAX_TEXT_BYTES`."""
    try:
        return read_bytes(path, MAX_TEXT_BYTES)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        problem = f"'{path}' is no table of text: {error.strerror}"
        raise CorpusError(f"{problem}; divide a large one, or save it as Parquet") from error


def _find_delimiter(text: str, suffix: str) -> str:
    """Return the delimiter that divides the first line into most cells; the one of the suffix if equal."""
    usual = "\t" if suffix == ".tsv" else ","
    header = next((line for line in text.splitlines() if line.strip()), "")

    def num_cells(delimiter: str) -> tuple[int, bool]:
        try:
            return len(next(csv.reader([header], delimiter=delimiter), [])), delimiter == usual
        except csv.Error:  # a name of over 131,072 characters
            return 0, delimiter == usual

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
