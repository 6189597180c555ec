"""Manifests: tables of utterances as CSV, TSV or Parquet, written and read."""

import csv
import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from emodistill.config.renaming import quoted
from emodistill.corpora.audio_folders import AudioFolders, check_name, remember_folders
from emodistill.corpora.base import Corpus, Utterance
from emodistill.corpora.given_labels import GivenLabels, read_labels
from emodistill.corpora.tables import SURPLUS, TABLE_SUFFIXES, Row, Table, read_table
from emodistill.errors import ConfigError, CorpusError, one_of
from emodistill.files import atomic_write
from emodistill.inference.parquet_table import load_pyarrow
from emodistill.labels import DIMENSIONS, EMOTIONS, LEFT_OUT, Scale, read_scale, scale_text

COLUMNS = tuple(item.name for item in fields(Utterance) if item.name != "words")
_NUMBERS = ("start_s", "end_s", "duration_s", "age", *DIMENSIONS)
_NUM_LISTED = 5  # bad rows that a message shows
# Words of columns in the tables of other people, from which a message suggests what to write.
_USUAL_NAMES = {
    "path": ("path", "file", "wav", "audio", "clip", "record"),
    "speaker": ("speaker", "spk", "actor", "subject", "participant", "talker", "who", "agent"),
    "emotion": ("emotion", "emo", "label", "feeling", "affect", "class", "category"),
}
USUAL_EMOTIONS = {
    "anger": "angry", "happiness": "happy", "joy": "happy", "sadness": "sad", "fear": "fearful",
    "disgust": "disgusted", "surprise": "surprised", "boredom": "bored", "calmness": "calm",
    "excitement": "excited", "frustration": "frustrated", "neutrality": "neutral",
}  # fmt: skip
# Usual spellings of the same thing, in small letters.
_SPELLINGS = {
    "gender": {"f": "female", "woman": "female", "m": "male", "man": "male"},
    "split": {
        "training": "train", "testing": "test", "val": "dev", "valid": "dev", "validation": "dev",
        "development": "dev", "eval": "test", "evaluation": "test",
    },
}  # fmt: skip


def check_suffix(path: Path) -> None:
    """Raise `ConfigError` where the suffix of a manifest to write is not in `TABLE_SUFFIXES`."""
    if path.suffix not in TABLE_SUFFIXES:
        raise ConfigError(
            f"cannot write '{path}': " + one_of("suffix of a manifest", path.suffix, TABLE_SUFFIXES)
        )


def write_manifest(corpus: Corpus, path: Path) -> None:
    """Write a corpus as CSV, TSV or Parquet, by suffix. Paths of audio below the manifest become relative.

    Other folders of audio are remembered, so that this user's manifests may name them. Raises `ConfigError`
    for another suffix.
    """
    path = Path(path)
    check_suffix(path)
    remember_folders([item.path.resolve() for item in corpus if item.path], path.parent.resolve())
    rows = [_row(utterance, path.parent.resolve()) for utterance in corpus]
    with atomic_write(path) as partial:
        if path.suffix == ".parquet":
            arrow = load_pyarrow()
            arrow.parquet.write_table(arrow.Table.from_pylist(rows), partial)
            return
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def check_manifest(path: Path) -> None:
    """Raise `CorpusError` where there is no manifest."""
    if not path.is_file():
        raise CorpusError(
            f"no manifest '{path}'; write one with: emodistill corpus prepare NAME DIR -o {path}"
        )


def read_manifest(
    path: Path,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    emotions: Mapping[str, str] | None = None,
    root: Path | None = None,
    *,
    keep_left_out: bool = False,
    scale: Scale | None = None,
    anywhere: bool = False,
) -> Corpus:
    """Read `utterances.csv`, or any CSV, TSV or Parquet file with named columns.

    A file without a column for ids gets them from its audio paths, see `Layout`. `read_labels` says how it
    states several emotions for an utterance; the most frequent one is its label, and a tie has none.

    Args:
        path: the manifest.
        columns: renames columns of the file: {our column: column of the file}.
        name: the corpus's name. Default: the manifest's stem.
        emotions: renames emotions of the file: {emotion of the file: our emotion, or "-" to leave it out}.
        root: the folder where relative audio paths start, if the file is there. Else they start at the
            folder of the manifest.
        keep_left_out: keep utterances of emotions that are left out, without an emotion.
        scale: lowest and highest possible value of the dimensions in rows that have no scale of their own.
        anywhere: the audio may be anywhere, since this package wrote the manifest. Default: it is in the
            folder of the manifest, below `root`, or in a folder of a manifest that this user wrote.

    Raises:
        CorpusError: a bad file or column, and a bad row: an emotion, votes, a number, a dimension outside its
            scale, a duplicate id, or a path that leaves the folders of `AudioFolders`. The message names
            the row; the header is row 1.
    """
    check_manifest(path := Path(path))
    _check_targets(emotions or {})
    return read_rows(
        read_table(path), columns, name, emotions, root, keep_left_out=keep_left_out, scale=scale,
        anywhere=anywhere,
    )  # fmt: skip


def _check_targets(emotions: Mapping[str, str]) -> None:
    """Raise `CorpusError` for a map of emotions to a name that is not ours."""
    for target in emotions.values():
        if target not in (*EMOTIONS, LEFT_OUT):
            raise CorpusError("emotions of the manifest: " + one_of("emotion", target, EMOTIONS) + ", or -")


def read_rows(
    table: Table,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    emotions: Mapping[str, str] | None = None,
    root: Path | None = None,
    *,
    keep_left_out: bool = False,
    scale: Scale | None = None,
    anywhere: bool = False,
) -> Corpus:
    """Read the utterances of a table. The arguments and the errors are those of `read_manifest`."""
    _check_targets(emotions or {})
    path = table.path
    layout = find_layout(table, columns or {})
    cells, problems = _cells_of_rows(table, layout)
    given = _given_labels(cells, problems, "emotion" in layout.names)
    found = {number: labels.names for number, labels in given.items()}
    names = _emotion_names(table, layout.names.get("emotion"), found, emotions or {})
    folder = path if path.is_dir() else path.parent
    allowed = None if anywhere else AudioFolders((folder, root, *table.folders))
    utterances: list[Utterance] = []
    rows: dict[str, int] = {}
    dropped, merged = Counter[str](), Counter[str]()
    for number, labels in given.items():
        row, theirs = cells[number], labels.emotion
        counts, ours = labels.renamed(names), labels.emotion_of(names)
        if ours == LEFT_OUT and not keep_left_out:
            dropped[f"emotion {theirs or 'with most votes'}"] += 1
            continue
        if theirs in EMOTIONS and ours not in (theirs, LEFT_OUT):
            merged[f"{theirs} -> {ours}"] += 1
        row |= {"emotion": None if ours == LEFT_OUT else ours, "corpus": row["corpus"] or name or path.stem}
        row |= {"votes": json.dumps(counts) if counts else None}
        try:
            row["path"] = _audio_path(row["path"], folder, root, table, allowed)
            utterance = _utterance(row, scale)
            if rows.setdefault(utterance.id, number) != number:
                first = rows[utterance.id]
                first_place = table.places.get(first, f"row {first}")
                raise CorpusError(f"duplicate id '{utterance.id}', first in {first_place}")
        except CorpusError as error:
            problems[number] = str(error)
        else:
            utterances.append(utterance)
    if problems:
        raise CorpusError(_bad_rows(table, problems))
    places = {key: table.places.get(number, number) for key, number in rows.items()}
    return Corpus(name or path.stem, tuple(utterances), dict(dropped), dict(merged), places)


def _cells_of_rows(table: Table, layout: "Layout") -> tuple[dict[int, dict[str, str | None]], dict[int, str]]:
    """Return the cells of each row by our columns, with ids, and the problems of rows with too many cells."""
    cells = {number: layout.cells(row) for number, row in table.rows if SURPLUS not in row}
    ids = layout.ids(cells)
    for number, row in cells.items():
        row["id"] = ids[number]
    problems = {
        number: f"more cells than columns, {row[SURPLUS]} too many; quote the cells that hold the delimiter"
        for number, row in table.rows
        if SURPLUS in row
    }
    return cells, problems


def _given_labels(
    cells: Mapping[int, Mapping[str, str | None]], problems: dict[int, str], has_emotions: bool
) -> dict[int, GivenLabels]:
    """Return what each row states of its emotion, and add the problems of rows with bad votes."""
    given: dict[int, GivenLabels] = {}
    for number, row in cells.items():
        try:
            given[number] = read_labels(row["emotion"], row["votes"], has_emotions)
        except CorpusError as error:
            problems[number] = str(error)
    return given


@dataclass(frozen=True)
class Layout:
    """The columns of a table that hold ours.

    A table without ids gets them from the audio paths: the name of the file without its suffix, else the
    path without its suffix, else that and the start of the segment. The first of these that differs in all
    rows is used. Of absolute paths, the folder that all of them share is left out.
    """

    names: Mapping[str, str]  # our column -> column of the file; only columns that the file has
    unused: tuple[str, ...]  # columns of the file that are not read

    def cells(self, row: Row) -> dict[str, str | None]:
        """Return the cells of a row by our columns; None where a cell is empty or the column is missing."""
        return {column: _cell(row.get(self.names.get(column, ""))) for column in COLUMNS}

    def ids(self, cells: Mapping[int, Mapping[str, str | None]]) -> dict[int, str | None]:
        """Return the id of each row, of its column or from its audio path; None where it is empty."""
        if "id" in self.names:
            return {number: row["id"] for number, row in cells.items()}
        paths = {number: PurePath((row["path"] or "").replace("\\", "/")) for number, row in cells.items()}
        stems = {number: path.stem for number, path in paths.items()}
        given = {number: path.with_suffix("") for number, path in paths.items() if path.stem}
        if given and all(path.is_absolute() for path in given.values()):
            shared = os.path.commonpath([path.parent for path in given.values()])  # differs between machines
            given = {number: path.relative_to(shared) for number, path in given.items()}
        whole = {number: path.as_posix() for number, path in given.items()}
        starts = {number: cells[number]["start_s"] for number in whole}
        parts = {
            number: f"{name}-{starts[number]}" if starts[number] else name for number, name in whole.items()
        }
        ids = next((ids for ids in (stems, whole) if len(set(ids.values())) == len(cells)), parts)
        return {number: ids.get(number) or None for number in cells}

    def __str__(self) -> str:
        """Return which column of the file holds which of ours, in the notation of `--columns`."""
        names = ",".join(f"{ours}={theirs}" for ours, theirs in self.names.items())
        derived = "" if "id" in self.names else "; ids are made of the paths"
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"columns: {names}{derived}{unused}"


def find_layout(table: Table, columns: Mapping[str, str]) -> Layout:
    """Return where the table has our columns: as `columns` says, else under our name in any case.

    Raises `CorpusError` for a column that we or the table do not have, and where the table lacks one that
    each row needs.
    """
    in_small_letters = {name.lower(): name for name in reversed(table.columns)}
    names: dict[str, str] = {}
    for column in columns:
        if column not in COLUMNS:
            given = columns[column]
            swapped = f"; did you mean {given}={column}? Our column comes first" if given in COLUMNS else ""
            raise CorpusError(one_of("manifest column", column, COLUMNS) + swapped)
    for column in COLUMNS:
        usual = table.usual.get(column)
        own = column if column in table.columns else in_small_letters.get(column)
        theirs = columns.get(column, own or (usual if usual in table.columns else None))
        if theirs is None:
            continue
        if theirs not in table.columns:
            raise CorpusError(f"--columns {column}={theirs}: " + one_of("column", theirs, table.columns))
        names[column] = theirs
    needed = ["speaker"] if "id" in names else ["path", "speaker"]
    if not names.keys() & {"votes", *DIMENSIONS}:  # a table of votes or dimensions needs no emotions
        needed.append("emotion")
    missing = [column for column in needed if column not in names]
    if missing:
        raise CorpusError(missing_columns(table, missing, columns))
    used = set(names.values())
    return Layout(names, tuple(name for name in table.columns if name and name not in used))


def missing_columns(table: Table, missing: Sequence[str], columns: Mapping[str, str]) -> str:
    """Return the message for columns that a table lacks, with the option to write."""
    suggested = dict(columns)
    for column in missing:
        words = _USUAL_NAMES[column]
        similar = [name for name in table.columns if any(word in name.lower() for word in words)]
        suggested[column] = similar[0] if similar else "…"
    option = ",".join(quoted(f"{ours}={theirs}") for ours, theirs in suggested.items())
    message = (
        f"'{table.path}' has no column '{missing[0]}' (it has {list(table.columns)}); name the columns "
        f"of {', '.join(missing)}: --columns {shlex.quote(option)} (in a recipe: corpus.columns)"
    )
    if "speaker" in missing:
        message += ". Without speakers, the same person could be in training and in test"
    return message


def _emotion_names(
    table: Table, column: str | None, found: Mapping[int, Sequence[str]], emotions: Mapping[str, str]
) -> dict[str, str]:
    """Return {emotion of the file: ours, or "-"} for the emotions in the rows of a table.

    `column` has the emotions. Our own names may have any case. Raises `CorpusError` for a name of `emotions`
    that no row has, and for an emotion that is neither ours nor in `emotions`.
    """
    first_row: dict[str, int] = {}
    for number, present in found.items():
        for emotion in present:
            first_row.setdefault(emotion, number)
    for emotion in emotions:
        if emotion not in first_row:
            raise CorpusError(f"'{table.path}': " + one_of("name in the map of emotions", emotion, first_row))
    names = {name: name.lower() for name in first_row if name.lower() in EMOTIONS} | dict(emotions)
    unknown = [name for name in first_row if name not in names]
    if unknown:
        guesses = {name: _guess(name) for name in unknown}
        pairs = ",".join(quoted(f"{name}={ours}") for name, ours in {**emotions, **guesses}.items())
        others = f", and in other rows {unknown[1:]}" if unknown[1:] else ""
        place = table.where(first_row[unknown[0]], column)
        raise CorpusError(
            f"{place}: {one_of('emotion', unknown[0], EMOTIONS)}{others}; "
            f"name ours for each, or - to leave it out: --map-emotions {shlex.quote(pairs)} (in a recipe: "
            "corpus.emotions)"
        )
    return names


def _guess(name: str) -> str:
    """Return the emotion that a name most likely means, or "…"."""
    small = name.lower()
    similar = get_close_matches(small, EMOTIONS, n=1, cutoff=0.8)
    return USUAL_EMOTIONS.get(small, similar[0] if similar else "…")


def _bad_rows(table: Table, problems: Mapping[int, str]) -> str:
    """Return the message for bad rows: the first ones, in the order of the table."""
    lines = [f"{table.where(number)}: {problem}" for number, problem in sorted(problems.items())]
    more = len(lines) - _NUM_LISTED
    return "\n".join([*lines[:_NUM_LISTED], *([f"and {more} more bad rows"] if more > 0 else [])])


def _row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    row = {column: getattr(utterance, column) for column in COLUMNS}
    row["scale"] = None if utterance.scale is None else scale_text(utterance.scale)
    if utterance.path is not None:
        resolved = utterance.path.resolve()
        row["path"] = str(resolved.relative_to(folder) if resolved.is_relative_to(folder) else resolved)
    return row


def _audio_path(
    text: str | None, folder: Path, root: Path | None, table: Table, allowed: AudioFolders | None
) -> str | None:
    """Return the path of a row, which starts at `folder`, or at `root` if the file is there.

    Raises `CorpusError` for a path that `allowed` refuses; None allows all, and so does audio that is not
    written yet.
    """
    if text is None or text in table.unwritten:
        return text
    check_name(text)
    path = folder / text
    if root is not None and ((root / text).is_file() or not path.is_file()):
        path = root / text
    return str(path if allowed is None else allowed.check(path, text))


def _utterance(cells: Mapping[str, str | None], scale: Scale | None) -> Utterance:
    """Return the utterance of cells by our columns.

    `scale` is that of a row which has dimensions, but no scale.
    """
    values: dict[str, Any] = dict(cells)
    for column in ("id", "speaker"):
        if values[column] is None:
            given = {name: cell for name, cell in cells.items() if cell is not None}
            raise CorpusError(f"an utterance needs an id and a speaker; the row has no {column}, got {given}")
    for column in _NUMBERS:
        if values[column] is not None:
            values[column] = _number(values[column], column)
    values["scale"] = _scale(values["scale"])
    if values["scale"] is None and any(values[name] is not None for name in DIMENSIONS):
        values["scale"] = scale
    for column, spellings in _SPELLINGS.items():
        text = values[column]
        if text is not None:
            small = text.lower()
            values[column] = spellings.get(small, small if small in spellings.values() else text)
    if values["path"] is not None:
        values["path"] = Path(values["path"])
    if values["transcript"] is not None and values["transcript_source"] is None:
        values["transcript_source"] = "gold"
    utterance = Utterance(**values)
    if utterance.scale is not None:
        utterance.unit_dimensions()  # raises where a value is outside its scale
    return utterance


def _cell(value: Any) -> str | None:
    """Return a cell as stripped text; None for an empty cell.

    pandas writes NaN for an empty cell, and then 7.0 for 7.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def _number(text: str, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        point = ", with a point in place of the comma" if "," in text else ""
        raise CorpusError(f"{column} is '{text}', expected a number such as 1.5{point}")
    return number


def _scale(text: str | None) -> Scale | None:
    try:
        return None if text is None else read_scale(text)
    except ConfigError as error:
        raise CorpusError(str(error)) from error
