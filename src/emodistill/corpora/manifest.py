"""Manifests: tables of utterances as CSV, TSV or Parquet, written and read."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from emodistill.corpora.base import Corpus, Utterance
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.files import atomic_write
from emodistill.inference.parquet_table import load_pyarrow
from emodistill.labels import EMOTIONS

SUFFIXES = (".csv", ".tsv", ".parquet")  # of a manifest that is written
COLUMNS = tuple(item.name for item in fields(Utterance))
_REQUIRED = ("id", "speaker", "emotion")
_NUMBERS = ("start_s", "end_s", "duration_s", "arousal", "valence", "dominance")
_FIRST_ROW = 2  # the header is row 1


def table_rows(
    path: Path, name: str, columns: Iterable[str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a corpus's own CSV or TSV with their numbers (the header is row 1).

    The file is UTF-8 with or without a BOM, else cp1252. `name` is the corpus's name in messages. Raises
    `CorpusError` where one of `columns` is missing or a quote is never closed.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = _FIRST_ROW - 1
    try:
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise CorpusError(f"{name}: '{path}' has no column '{column}' (it has {reader.fieldnames})")
        for number, row in enumerate(reader, start=_FIRST_ROW):
            yield number, {column: row.get(column) or "" for column in reader.fieldnames or ()}
    except csv.Error as error:
        raise CorpusError(f"{name}: {_bad_csv(path, number, error)}") from error


def check_suffix(path: Path) -> None:
    """Raise `ConfigError` where the suffix of a manifest to write is not in `SUFFIXES`."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot write '{path}': " + one_of("suffix of a manifest", path.suffix, SUFFIXES))


def write_manifest(corpus: Corpus, path: Path) -> None:
    """Write a corpus as CSV, TSV or Parquet, by suffix. Paths of audio below the manifest become relative.

    Raises `ConfigError` for another suffix.
    """
    path = Path(path)
    check_suffix(path)
    rows = [_row(utterance, path.parent.resolve()) for utterance in corpus]
    with atomic_write(path) as partial:
        if path.suffix == ".parquet":
            arrow = load_pyarrow()
            arrow.parquet.write_table(arrow.Table.from_pylist(rows), partial)
            return
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter=_delimiter(path), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_manifest(
    path: Path,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    emotions: Mapping[str, str] | None = None,
) -> Corpus:
    """Read `utterances.csv`, or any CSV, TSV or Parquet file with named columns.

    Args:
        path: the manifest; relative audio paths start at its folder.
        columns: renames columns of the file: {our column: column of the file}.
        name: the corpus's name. Default: the manifest's stem.
        emotions: renames emotions of the file: {emotion of the file: our emotion}.

    Raises:
        CorpusError: a missing or damaged file, a missing column, an unknown emotion, a bad number, or a
            duplicate id. The message names the row; the header is row 1.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(
            f"no manifest '{path}'; write one with: emodistill corpus prepare NAME DIR -o {path}"
        )
    for emotion in (emotions or {}).values():
        if emotion not in EMOTIONS:
            raise CorpusError("emotions of the manifest: " + one_of("emotion", emotion, EMOTIONS))
    rows = list(_read_rows(path))
    if not rows:
        raise CorpusError(f"'{path}' holds no rows")
    names = _column_names(path, rows[0], columns or {})
    corpus = name or path.stem
    utterances = [
        _utterance(row, names, emotions or {}, path, number, corpus)
        for number, row in enumerate(rows, start=_FIRST_ROW)
    ]
    first_row: dict[str, int] = {}
    for number, utterance in enumerate(utterances, start=_FIRST_ROW):
        if first_row.setdefault(utterance.id, number) != number:
            raise CorpusError(
                f"'{path}', row {number}: duplicate id '{utterance.id}', "
                f"first in row {first_row[utterance.id]}"
            )
    return Corpus(corpus, tuple(utterances))


def _column_names(path: Path, row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the file's name of each of our columns, after checking that it has the required ones."""
    for column in columns:
        if column not in COLUMNS:
            raise CorpusError(one_of("manifest column", column, COLUMNS))
    names = {column: columns.get(column, column) for column in COLUMNS}
    for column in _REQUIRED:
        if names[column] not in row:
            raise CorpusError(
                f"'{path}' has no column '{names[column]}' (it has {list(row)}); "
                f'name the column for the {column}: columns = {{{column} = "…"}}'
            )
    return names


def _bad_csv(path: Path, rows_read: int, error: csv.Error) -> str:
    return f"'{path}', row {rows_read + 1}: not CSV ({error}); is a quote left open, or not doubled?"


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        arrow = load_pyarrow()
        try:
            yield from arrow.parquet.read_table(path).to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise CorpusError(f"'{path}' is not Parquet: {' '.join(str(error).split())}") from error
        return
    rows_read = 1  # the header
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file, delimiter=_delimiter(path), strict=True):
                rows_read += 1
                yield row
    except csv.Error as error:
        raise CorpusError(_bad_csv(path, rows_read, error)) from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"'{path}' is not UTF-8 ({error}); save it again as UTF-8") from error


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    row = {column: getattr(utterance, column) for column in COLUMNS}
    if utterance.path is not None:
        resolved = utterance.path.resolve()
        row["path"] = str(resolved.relative_to(folder) if resolved.is_relative_to(folder) else resolved)
    return row


def _utterance(
    row: Mapping[str, Any],
    names: Mapping[str, str],
    emotions: Mapping[str, str],
    path: Path,
    number: int,
    corpus: str,
) -> Utterance:
    """Return the utterance of a row. `names` and `emotions` are as in `_column_names` and `read_manifest`."""
    where = f"'{path}', row {number}"
    if None in row:  # csv.DictReader puts the cells behind the last column there
        raise CorpusError(f"{where}: more cells than columns; quote the cells that hold the delimiter")
    values: dict[str, Any] = {column: _cell(row.get(names[column])) for column in COLUMNS}
    if values["id"] is None or values["speaker"] is None:
        raise CorpusError(f"{where}: an utterance needs an id and a speaker, got {dict(row)}")
    values["emotion"] = emotions.get(values["emotion"], values["emotion"])
    if values["emotion"] is not None and values["emotion"] not in EMOTIONS:
        raise CorpusError(
            f"{where}: "
            + one_of("emotion", values["emotion"], EMOTIONS)
            + f'; or rename it to one of these: corpus.emotions = {{{json.dumps(values["emotion"])} = "…"}}'
        )
    for column in _NUMBERS:
        if values[column] is not None:
            values[column] = _number(values[column], column, where)
    if values["path"] is not None:
        values["path"] = path.parent / values["path"]
    if values["transcript"] is not None and values["transcript_source"] is None:
        values["transcript_source"] = "gold"
    values["corpus"] = values["corpus"] or corpus
    return Utterance(**values)


def _cell(value: Any) -> str | None:
    """Return a cell as stripped text; None for an empty cell, and for NaN, which pandas writes."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


def _number(text: str, column: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CorpusError(f"{where}: {column} is '{text}', expected a number")
    return number
