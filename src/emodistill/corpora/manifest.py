"""Manifests: the table of utterances as CSV, TSV or Parquet, read and written."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from emodistill.corpora.base import Corpus, Utterance
from emodistill.errors import CorpusError, MissingExtraError, one_of
from emodistill.labels import EMOTIONS


def table_rows(
    path: Path, name: str, columns: Iterable[str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a corpus's own CSV or TSV with their numbers (the header is row 1).

    UTF-8 with or without a BOM, else cp1252. Raises `CorpusError` where one of `columns` is missing or a
    quote is never closed.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    try:
        for column in columns:
            if column not in (reader.fieldnames or ()):
                raise CorpusError(f"{name}: '{path}' has no column '{column}' (it has {reader.fieldnames})")
        for number, row in enumerate(reader, start=2):
            yield number, {column: row.get(column) or "" for column in reader.fieldnames or ()}
    except csv.Error as error:
        raise CorpusError(f"{name}: {_bad_csv(path, number, error)}") from error


def _bad_csv(path: Path, rows_read: int, error: csv.Error) -> str:
    return f"'{path}', row {rows_read + 1}: not CSV ({error}); is a quote left open, or not doubled?"


COLUMNS = tuple(item.name for item in fields(Utterance))


_FLOATS = ("start_s", "end_s", "duration_s", "arousal", "valence", "dominance")


def write_manifest(corpus: Corpus, path: Path) -> None:
    """Write a corpus as CSV, TSV or Parquet (by suffix); audio below the manifest becomes relative."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_row(utterance, path.parent.resolve()) for utterance in corpus]
    if path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        parquet.write_table(arrow.Table.from_pylist(rows), path)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=_delimiter(path), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_manifest(
    path: Path,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    emotions: Mapping[str, str] | None = None,
) -> Corpus:
    """Read `utterances.csv` or any CSV, TSV or Parquet with named columns.

    Args:
        path: the manifest; relative audio paths are taken from its folder.
        columns: where a manifest names its columns otherwise: {our name: its name}.
        name: the corpus's name; the manifest's stem by default.
        emotions: where a manifest names its emotions otherwise: {its name: our name}.

    Raises:
        CorpusError: a missing or damaged file, a missing column, an unknown emotion, a bad number, a
            duplicate id; with the row's number (the header is row 1).
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
    source = {column: (columns or {}).get(column, column) for column in COLUMNS}
    for column in columns or {}:
        if column not in COLUMNS:
            raise CorpusError(one_of("manifest column", column, COLUMNS))
    for column in ("id", "speaker", "emotion"):
        if source[column] not in rows[0]:
            raise CorpusError(
                f"'{path}' has no column '{source[column]}' (it has {list(rows[0])}); "
                f'say which one is the {column}: columns = {{{column} = "…"}}'
            )
    default = name or path.stem
    made = [
        _utterance(row, source, emotions or {}, path, number, default)
        for number, row in enumerate(rows, start=2)
    ]
    first: dict[str, int] = {}
    for number, utterance in enumerate(made, start=2):
        if first.setdefault(utterance.id, number) != number:
            raise CorpusError(
                f"'{path}', row {number}: duplicate id '{utterance.id}', first in row {first[utterance.id]}"
            )
    return Corpus(default, tuple(made))


def _read_rows(path: Path) -> Iterable[dict[str, Any]]:
    if path.suffix == ".parquet":
        arrow, parquet = _pyarrow()
        try:
            yield from parquet.read_table(path).to_pylist()
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


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    return pyarrow, pyarrow.parquet


def _row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    row = {column: getattr(utterance, column) for column in COLUMNS}
    if utterance.path is not None:
        resolved = utterance.path.resolve()
        row["path"] = str(resolved.relative_to(folder) if resolved.is_relative_to(folder) else resolved)
    return row


def _utterance(
    row: Mapping[str, Any],
    source: Mapping[str, str],
    emotions: Mapping[str, str],
    path: Path,
    number: int,
    corpus: str,
) -> Utterance:
    values: dict[str, Any] = {}
    where = f"'{path}', row {number}"
    if None in row:  # how csv.DictReader keeps the cells that no column claims
        raise CorpusError(f"{where}: more cells than columns; quote the cells that hold the delimiter")
    for column in COLUMNS:
        cell = row.get(source[column])
        missing = cell is None or (isinstance(cell, float) and math.isnan(cell))  # pandas writes NaN
        values[column] = None if missing else str(cell).strip() or None
    if values["id"] is None or values["speaker"] is None:
        raise CorpusError(f"{where}: an utterance needs an id and a speaker, got {dict(row)}")
    values["emotion"] = emotions.get(values["emotion"], values["emotion"])
    if values["emotion"] is not None and values["emotion"] not in EMOTIONS:
        raise CorpusError(
            f"{where}: "
            + one_of("emotion", values["emotion"], EMOTIONS)
            + f'; or say which of these it is: corpus.emotions = {{{json.dumps(values["emotion"])} = "…"}}'
        )
    for column in _FLOATS:
        if values[column] is not None:
            try:
                number_read = float(values[column])
            except ValueError:
                number_read = math.nan
            if not math.isfinite(number_read):
                raise CorpusError(f"{where}: {column} is '{values[column]}', expected a number")
            values[column] = number_read
    if values["path"] is not None:
        values["path"] = path.parent / values["path"]
    if values["transcript"] is not None and values["transcript_source"] is None:
        values["transcript_source"] = "gold"
    values["corpus"] = values["corpus"] or corpus
    return Utterance(**values)
